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
            form = _form(show, is_text=is_text)
        except TemplateError:
            form = None
        if form is not None:
            return form
    return None


def _form(show: Show, *, is_text: bool) -> CallForm | None:
    base = show([_QUESTION], _TOOLS, True)
    if not all(name in base for name in _NAMES):
        return None  # it doesn't show tools
    plain = _turn(show, base, {"content": _WORDS})
    one = _turn(show, base, _calling(1, is_text=is_text))
    if plain is None or one is None:
        return None
    end_of_turn = plain.partition(_WORDS)[2]
    opening, is_named, rest = one.partition(_NAMES[0])
    middle, is_called, after = rest.partition(to_json(_ARGUMENTS[0]))
    if not (is_named and is_called and after.endswith(end_of_turn)):
        return None
    if not opening.strip() or _IDS[0] in opening + middle:
        return None
    closing = after.removesuffix(end_of_turn)
    if not _shows_answers(show, is_text=is_text):
        return None
    return CallForm(
        opening,
        middle,
        _joint(show, base, opening + _NAMES[0] + middle, middle, is_text=is_text),
        closing.replace(_IDS[0], ID),
        is_text,
    )


def _joint(show: Show, base: str, start: str, middle: str, *, is_text: bool) -> str | None:
    """What stands between two calls; None if there can be but one."""
    try:
        two = _turn(show, base, _calling(2, is_text=is_text))
    except TemplateError:
        return None
    first, second = map(to_json, _ARGUMENTS)
    if two is None or not two.startswith(start + first):
        return None
    joint, is_there, _ = two[len(start + first) :].partition(_NAMES[1] + middle + second)
    if not is_there or not joint.strip() or _IDS[1] in joint:
        return None
    return joint.replace(_IDS[0], ID)


def _shows_answers(show: Show, *, is_text: bool) -> bool:
    calling = {"role": "assistant", **_calling(1, is_text=is_text)}
    answer = {"role": "tool", "name": _NAMES[0], "tool_call_id": _IDS[0], "content": _WORDS}
    return _WORDS in show([_QUESTION, calling, answer], _TOOLS, True)


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


def _turn(show: Show, base: str, said: dict[str, object]) -> str | None:
    """What the assistant says and the end of its turn, as the template writes it."""
    whole = show([_QUESTION, {"role": "assistant", **said}], _TOOLS, False)
    return whole[len(base) :] if whole.startswith(base) else None
