"""A trace as a picture: one self-contained SVG, a row per slot, a colour per agent.  Pure.

Rule 1: nothing in it points outside of it, runs, or needs a font that may be missing.
Rule 2: what is thinner than a hair is drawn with its neighbour of the same kind, so that the size
depends on the width of the picture, not on the length of the trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from aiosctl import drawing, units
from aiosctl.render import one_line

WIDTH, LEFT, RIGHT = 1200.0, 64.0, 52.0
ROW, ROW_GAP, LOAD_ROW = 34.0, 8.0, 26.0
HAIR = 0.5  # no gap narrower than this is shown
BARS = ("prefill", "reread", "decode", "wait")
MARKS = {"park": "▼", "resume": "▲", "move": "◆"}

Agent = tuple[int, str]


@dataclass(slots=True)
class _Bar:
    """Something that a slot did for a time, in microseconds from the picture's left edge."""

    kind: str
    slot: int
    began_us: float
    ended_us: float
    agent: Agent
    job: str
    n_prompt: int
    n_output: int
    n_spans: int = 1


class _Scale:
    """From microseconds since the beginning to a place across the picture."""

    def __init__(self, range_us: float) -> None:
        self.range_us = range_us
        self._per_us = (WIDTH - LEFT - RIGHT) / range_us

    def x(self, at_us: float) -> float:
        return LEFT + min(max(at_us, 0.0), self.range_us) * self._per_us

    def width(self, took_us: float) -> float:
        return took_us * self._per_us


def svg(trace: dict[str, Any]) -> str:
    """The picture of a result of sys.trace."""
    events, other = trace["traceEvents"], trace["otherData"]
    began_us = other["began_us"]
    scale = _Scale(max(1.0, other["ended_us"] - began_us))
    bars = [_bar(event, began_us) for event in events if event["ph"] == "X"]
    bars = [bar for bar in bars if bar.ended_us >= 0]
    agents = sorted({bar.agent for bar in bars}, key=lambda agent: (agent[1], agent[0]))
    parts, top = _head(scale, agents, bars, other)
    loads = [
        (event["ts"] - began_us, event["args"]["lanes"]) for event in events if event["ph"] == "C"
    ]
    n_slots = other["n_slots"]
    bottom = top + LOAD_ROW + ROW_GAP + n_slots * (ROW + ROW_GAP)
    parts += _axis(scale, top, bottom)
    parts += _load(scale, loads, top)
    colours = {agent: drawing.colour(index) for index, agent in enumerate(agents)}
    for slot in range(n_slots):
        at = top + LOAD_ROW + ROW_GAP + slot * (ROW + ROW_GAP)
        parts += _row(scale, slot, [bar for bar in bars if bar.slot == slot], at, colours)
    height = bottom + 30
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" '
        f'width="{WIDTH:.0f}" height="{height:.0f}">\n'
        f"<style>{drawing.STYLE}</style>\n{drawing.PATTERNS}\n"
        f'<rect class="bg" width="{WIDTH:.0f}" height="{height:.0f}"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _bar(event: dict[str, Any], began_us: int) -> _Bar:
    args = event["args"]
    at_us = event["ts"] - began_us
    return _Bar(
        kind=event["cat"],
        slot=event["tid"] - 1,  # viewers want threads to begin at 1
        began_us=at_us,
        ended_us=at_us + event["dur"],
        agent=(args["uid"], args["agent"]),
        job=args.get("job", ""),
        n_prompt=args.get("prompt_tokens", 0),
        n_output=args.get("output_tokens", 0),
    )


# ---------------------------------------------------------------- above the rows


def _head(
    scale: _Scale, agents: Sequence[Agent], bars: Sequence[_Bar], other: dict[str, Any]
) -> tuple[list[str], float]:
    """Title and legends; where the rows begin."""
    on_lane = [bar for bar in bars if bar.kind in BARS]
    tokens = f"{sum(b.n_prompt for b in on_lane)} tokens read, "
    tokens += f"{sum(b.n_output for b in on_lane)} written"
    n_parks = sum(bar.kind == "park" for bar in bars)
    about = f"{units.seconds(scale.range_us / 1e6)} on {other['n_slots']} slots: {tokens}, "
    about += f"parks: {n_parks}"
    if other.get("n_dropped"):
        about += f"; the oldest {other['n_dropped']} spans were too many to show"
    parts = [
        f"<title>aiosd, {escape(about)}</title>",
        drawing.text(LEFT, 24, "aiosd", "title"),
        drawing.text(LEFT + 52, 24, about, "dim"),
    ]
    x, y = LEFT, 46.0
    for index, agent in enumerate(agents):
        mine = [bar for bar in on_lane if bar.agent == agent]
        label = _label(agent, agents)
        figures = f"{sum(bar.n_output for bar in mine)}"
        width = 30 + 7.0 * (len(label) + len(figures))
        if x + width > WIDTH - RIGHT and x > LEFT:
            x, y = LEFT, y + 18
        parts.append(drawing.rect((x, y - 9, 11, 11), f'rx="2" fill="{drawing.colour(index)}"/>'))
        parts.append(
            f'<text x="{x + 16:.1f}" y="{y:.1f}">{escape(label)} '
            f'<tspan class="dim small">{figures}</tspan></text>'
        )
        x += width
    if not agents:
        parts.append(drawing.text(x, y, "nothing of yours ran in this time", "dim"))
    y += 20
    return parts + _kinds(y), y + 14


def _label(agent: Agent, agents: Sequence[Agent]) -> str:
    """The name, with the uid where two users have agents of one name."""
    is_alone = sum(other[1] == agent[1] for other in agents) == 1
    return one_line(agent[1] if is_alone else f"{agent[1]} ({agent[0]})")


_KINDS = (
    ("decode", "writes"),
    ("prefill", "reads (prefill)"),
    ("reread", "reads again"),
    ("wait", "waits on its lane"),
    ("stay", "stays, others run"),
)


def _kinds(y: float) -> list[str]:
    """What fills and marks mean."""
    parts: list[str] = []
    x, colour = LEFT, "#5f7f95"
    for kind, words in _KINDS:
        parts += drawing.filled(kind, (x, y - 9, 20, 11), colour, "")
        parts.append(drawing.text(x + 26, y, words, "small dim"))
        x += 46 + 6.4 * len(words)
    for kind, mark in MARKS.items():
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" style="fill:{colour}">{mark}</text>')
        parts.append(drawing.text(x + 14, y, kind, "small dim"))
        x += 36 + 6.4 * len(kind)
    return parts


def _axis(scale: _Scale, top: float, bottom: float) -> list[str]:
    step_us = _tick_us(scale.range_us)
    parts = []
    at_us = 0.0
    while at_us <= scale.range_us:
        x = scale.x(at_us)
        parts.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
        words = f"{at_us / 1000:g} ms" if step_us < 1e6 else f"{at_us / 1e6:g} s"
        parts.append(drawing.text(x, bottom + 16, words if at_us else "0", "small dim mid"))
        at_us += step_us
    return parts


def _tick_us(range_us: float) -> float:
    """A round time of which 6 to 15 fit in."""
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if range_us / (step * factor) <= 15:
                return step * factor
        step *= 10


def _load(scale: _Scale, loads: Sequence[tuple[float, float]], top: float) -> list[str]:
    parts = [drawing.text(LEFT - 8, top + 17, "lanes", "end dim small")]
    most = max((lanes for _, lanes in loads), default=0.0)
    if not most:
        return parts
    full = max(1.0, float(-(-most // 1)))
    shown = [(max(at, 0.0), lanes) for at, lanes in loads if at <= scale.range_us]
    base = top + LOAD_ROW
    steps = [f"M{scale.x(shown[0][0]):.1f} {base:.1f}"] if shown else []
    for at_us, lanes in shown:
        steps.append(f"H{scale.x(at_us):.1f}V{base - LOAD_ROW * lanes / full:.1f}")
    words = f"lanes in use, everybody's: at most {most:g} on average over a piece of time"
    parts.append(
        f'<path class="load" d="{"".join(steps)}V{base:.1f}Z"><title>{words}</title></path>'
    )
    parts.append(drawing.text(WIDTH - RIGHT + 6, top + 10, f"{full:g}", "small dim"))
    return parts


# ---------------------------------------------------------------- the rows


def _row(
    scale: _Scale, slot: int, bars: Sequence[_Bar], y: float, colours: dict[Agent, str]
) -> list[str]:
    parts = [
        drawing.rect((LEFT, y, WIDTH - LEFT - RIGHT, ROW), 'class="row"/>'),
        drawing.text(LEFT - 8, y + ROW / 2 + 4, f"slot {slot}", "end"),
    ]
    stays = [bar for bar in bars if bar.kind == "stay"]
    for bar in stays:
        parts += _drawn(scale, bar, y, colours[bar.agent])
    on_lane = _merged(scale, [bar for bar in bars if bar.kind in BARS])
    for bar in on_lane:
        parts += _drawn(scale, bar, y, colours[bar.agent])
    for stay in stays:
        parts += _named(scale, stay, on_lane, y)
    for bar in _merged(scale, [bar for bar in bars if bar.kind in MARKS]):
        parts.append(_mark(scale, bar, y, colours[bar.agent]))
    busy_us = sum(bar.ended_us - max(0.0, bar.began_us) for bar in on_lane if bar.kind != "wait")
    share = f"{min(1.0, busy_us / scale.range_us):.0%}"
    return [*parts, drawing.text(WIDTH - RIGHT + 6, y + ROW / 2 + 4, share, "small dim")]


def _named(scale: _Scale, stay: _Bar, on_lane: Iterable[_Bar], y: float) -> list[str]:
    """The agent's name, once in a stay, in the first bar that it fits into."""
    for bar in on_lane:
        is_within = stay.began_us <= bar.began_us and bar.ended_us <= stay.ended_us
        x = scale.x(bar.began_us)
        width = scale.x(bar.ended_us) - x
        if is_within and bar.kind == "decode" and width > 12 + 6.6 * len(bar.agent[1]):
            return [drawing.text(x + 6, y + ROW / 2 + 4, bar.agent[1], "on")]
    return []


def _merged(scale: _Scale, bars: Iterable[_Bar]) -> list[_Bar]:
    """Bars of one kind and job that touch are one."""
    merged: list[_Bar] = []
    for bar in bars:
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.kind, last.agent, last.job) == (bar.kind, bar.agent, bar.job)
            and scale.width(bar.began_us - last.ended_us) < HAIR
        ):
            last.ended_us = bar.ended_us
            last.n_prompt, last.n_output = (
                last.n_prompt + bar.n_prompt,
                last.n_output + bar.n_output,
            )
            last.n_spans += bar.n_spans
        else:
            merged.append(bar)
    return merged


def _drawn(scale: _Scale, bar: _Bar, y: float, colour: str) -> list[str]:
    x = scale.x(bar.began_us)
    width = max(HAIR, scale.x(bar.ended_us) - x)
    return drawing.filled(bar.kind, (x, y, width, ROW), colour, _tip(bar))


def _mark(scale: _Scale, bar: _Bar, y: float, colour: str) -> str:
    """A pointer on the row's edge: out below for a park, in from above for what comes back."""
    x = scale.x(bar.began_us)
    match bar.kind:
        case "park":
            shape = f"M{x - 4:.1f} {y + ROW - 4:.1f}h8l-4 7z"
        case "resume":
            shape = f"M{x - 4:.1f} {y + 4:.1f}h8l-4 -7z"
        case _:
            shape = f"M{x:.1f} {y + ROW / 2 - 4:.1f}l4 4l-4 4l-4 -4z"
    width = scale.x(bar.ended_us) - x
    took = drawing.rect(
        (x, y, max(HAIR, width), ROW), f'class="s" fill="{colour}" fill-opacity=".5"/>'
    )
    tip = f"<title>{escape(_tip(bar))}</title>"
    return f'<g>{tip}{took}<path class="mark" d="{shape}" fill="{colour}"/></g>'


def _tip(bar: _Bar) -> str:
    took = units.milliseconds((bar.ended_us - bar.began_us) / 1000)
    at = units.milliseconds(max(0.0, bar.began_us) / 1000)
    words = [f"{bar.agent[1]}: {bar.kind}, {took} from {at}"]
    if bar.job:
        words.append(bar.job)
    if bar.n_prompt:
        words.append(f"{bar.n_prompt} tokens read")
    if bar.n_output:
        words.append(f"{bar.n_output} tokens written")
    return one_line(", ".join(words))
