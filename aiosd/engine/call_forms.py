"""How a chat template writes calls of tools, found out by showing it some.

Rule: a template is asked with fixed words and looked at from outside; whatever it makes of them
that isn't plainly a form of calls is None, and then nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiosd.engine.calls import ID, CallForm, to_json
from aiosd.engine.template import TemplateError

Show = Callable[[Sequence[object], Sequence[object], bool], str]
"""(messages, tools, whether to open a turn) -> the text."""

_NAMES = ("probe_first", "probe_second")
_IDS = ("aB3dE6gH9", "zY8xW5vU2")
_ARGUMENTS: tuple[dict[str, object], ...] = ({"probe_key": "eins"}, {"probe_key": "zwei"})
_WORDS = "7261534890172635"
_QUESTION = {"role": "user", "content": "probe question"}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "a probe",
            "parameters": {
                "type": "object",
                "properties": {"probe_key": {"type": "string", "description": "a word"}},
                "required": ["probe_key"],
            },
        },
    }
    for name in _NAMES
]


def recognised(show: Show) -> CallForm | None:
    """The template's form of calls; None if it knows no tools, or writes them in another manner."""
    for is_text in (False, True):
        try:
            return _form(show, is_text=is_text)
        except TemplateError:
            continue  # there are templates that take arguments as JSON text alone
    return None


def _form(show: Show, *, is_text: bool) -> CallForm | None:
    opened = show([_QUESTION], _TOOLS, True)
    if not all(name in opened for name in _NAMES):
        return None  # it doesn't show tools
    whole = _answered_by(show, {"content": _WORDS})
    calling = _answered_by(show, _calling(1, is_text=is_text))
    # Where a turn is opened with more than its name (as for reasoning), that isn't in what is said.
    base = _shared_start(opened, whole, calling)
    if not base.startswith(show([_QUESTION], _TOOLS, False)):
        return None
    before, _, end_of_turn = whole[len(base) :].partition(_WORDS)
    opening, is_named, rest = calling[len(base) :].partition(_NAMES[0])
    middle, is_called, after = rest.partition(to_json(_ARGUMENTS[0]))
    if not (is_named and is_called and after.endswith(end_of_turn)):
        return None
    start = base + opening + _NAMES[0] + middle
    opening = opening.removeprefix(before)  # before any words: an empty room for reasoning
    if not opening.strip() or _IDS[0] in opening + middle:
        return None
    closing = after.removesuffix(end_of_turn).replace(_IDS[0], ID)
    joint = _joint(show, start, middle, is_text=is_text)
    return CallForm(opening, middle, joint, closing, is_text)


def _joint(show: Show, start: str, middle: str, *, is_text: bool) -> str | None:
    """What stands between two calls; None if there can be but one."""
    try:
        two = _answered_by(show, _calling(2, is_text=is_text))
    except TemplateError:
        return None
    first, second = map(to_json, _ARGUMENTS)
    if not two.startswith(start + first):
        return None
    joint, is_there, _ = two[len(start + first) :].partition(_NAMES[1] + middle + second)
    if not is_there or not joint.strip() or _IDS[1] in joint:
        return None
    return joint.replace(_IDS[0], ID)


def _calling(n_calls: int, *, is_text: bool) -> dict[str, object]:
    calls = [
        {
            "id": id_,
            "type": "function",
            "function": {"name": name, "arguments": to_json(what) if is_text else what},
        }
        for id_, name, what in zip(_IDS, _NAMES, _ARGUMENTS, strict=True)
    ]
    return {"content": "", "tool_calls": calls[:n_calls]}


def _answered_by(show: Show, said: dict[str, object]) -> str:
    """The question and what the assistant says, as the template writes it."""
    return show([_QUESTION, {"role": "assistant", **said}], _TOOLS, False)


def _shared_start(*texts: str) -> str:
    n_shared = 0
    for chars in zip(*texts, strict=False):
        if len(set(chars)) > 1:
            break
        n_shared += 1
    return texts[0][:n_shared]
