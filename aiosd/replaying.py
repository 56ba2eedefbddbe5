"""`aiosd --replay FILE`: a saved journal through the kernel again, every invariant checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aiosd import __version__, journal
from aiosd.kernel import events as ev
from aiosd.kernel.replay import replay_on


class ReplayError(Exception):
    """The journal can't be read, or what it says went wrong once more."""


def told(path: Path) -> Iterator[str]:
    """A line for each event and each action, then one on the whole.  Raises ReplayError."""
    try:
        with path.open("rb") as file:
            saved = journal.load(file)
    except OSError as error:
        raise ReplayError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ReplayError(f"{path}: {error}") from error
    yield f"journal of aiosd {saved.version}: {len(saved.entries)} events"
    began_ns = saved.entries[0][0] if saved.entries else 0
    steps = replay_on(saved.kernel, saved.entries)
    for (now_ns, event), expected in zip(saved.entries, saved.digests, strict=True):
        at_s = (now_ns - began_ns) / 1e9
        yield f"{at_s:+12.6f}  {event}"
        actions = _next(steps, at_s, event)
        for action in actions:
            yield f"{'':12}  -> {action}"
        if journal.digest(actions) != expected:
            raise ReplayError(
                f"at {at_s:+.6f} s the kernel did something else than when it happened; "
                f"the journal is of aiosd {saved.version}, this is {__version__}"
            )
    yield f"{len(saved.entries)} events replayed to the same actions; every invariant held"


def _next(
    steps: Iterator[tuple[int, ev.Event, list[ev.Action]]], at_s: float, event: ev.Event
) -> list[ev.Action]:
    try:
        return next(steps)[2]
    except Exception as error:  # whatever the kernel raises is what the journal was saved for
        raise ReplayError(
            f"at {at_s:+.6f} s {type(event).__name__} led to {type(error).__name__}: {error}"
        ) from error
