"""Tools: Python functions that agents and models may call, and their JSON Schemas.

    from aios_sdk.toolbox import tool

    @tool(max_parallel=4, ordered=False)
    def add(a: float, b: float) -> float:
        \"\"\"Add two numbers.\"\"\"
        return a + b

A file of such functions in the daemon's tools directory is all it takes; the daemon runs each call
in a confined process of its own.  The same functions serve an agent that runs them itself.

Rule 1: the schema is made from type hints, the description from the docstring; what can't be said
as a JSON Schema is a BadTool when the tool is made, not an error at its first call.
Rule 2: nothing here needs the daemon, a model or a library.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Final, TypeVar, overload

from aios_sdk.hints import BadTool, converted, schema_of, type_hints

__all__ = [
    "BadTool",
    "Outcome",
    "Spec",
    "arguments_of",
    "is_tool",
    "outcome_of",
    "report",
    "reporting_to",
    "spec_of",
    "tool",
]

F = TypeVar("F", bound=Callable[..., Any])

NAME_PATTERN: Final = r"[A-Za-z0-9_-]{1,64}"
_MARK: Final = "__aios_tool__"
_reporter: ContextVar[Callable[[float, float | None, str | None], None] | None] = ContextVar(
    "reporter", default=None
)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a function is as a tool.

    parameters    JSON Schema of its arguments, an object
    irreversible  what it does can't be undone: a person may have to be asked first
    ordered       of a list of calls, those of ordered tools run one after another
    max_parallel  calls at once; more wait in line
    timeout_s     a call takes no longer
    read, write   paths it has to reach, besides what every program needs
    network       whether it has to reach the network
    """

    name: str
    description: str
    parameters: dict[str, Any]
    irreversible: bool = False
    ordered: bool = True
    max_parallel: int = 1
    timeout_s: float = 60.0
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    network: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call brought: text for the model, and the same as data where there is any.

    A tool may return one for more say in it; is_error: it could not do what it was asked.
    """

    content: str
    structured: dict[str, Any] | None = None
    is_error: bool = False


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    irreversible: bool = False,
    ordered: bool = True,
    max_parallel: int = 1,
    timeout_s: float = 60.0,
    read: tuple[str, ...] = (),
    write: tuple[str, ...] = (),
    network: bool = False,
) -> Callable[[F], F]: ...
def tool(function: Any = None, /, **marks: Any) -> Any:
    """Mark a function as a tool; the marks are Spec's.  The function itself stays as it is."""

    def mark(marked: Any) -> Any:
        setattr(marked, _MARK, marks)
        spec_of(marked)  # BadTool here, where its author sees it
        return marked

    return mark if function is None else mark(function)


def is_tool(thing: object) -> bool:
    """Whether it is a function that tool() has marked."""
    return callable(thing) and hasattr(thing, _MARK)


def spec_of(function: Callable[..., Any]) -> Spec:
    """The function as a tool, marked or not.  BadTool says what of it can't be one."""
    marks = dict(getattr(function, _MARK, {}))
    name = marks.pop("name", None) or getattr(function, "__name__", "")
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadTool(f"{name!r} is no name for a tool, it must match {NAME_PATTERN}")
    documented, of_params = _doc(function)
    description = marks.pop("description", None) or documented
    if not description:
        raise BadTool(f"{name} needs a docstring: models choose tools by their descriptions")
    spec = Spec(name, description, _parameters(name, function, of_params), **marks)
    if not (spec.max_parallel >= 1 and spec.timeout_s > 0):
        raise BadTool(f"{name}: max_parallel and timeout_s must be more than 0")
    return spec


def arguments_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON arguments, valid by the schema, as the function's hints want them."""
    hints = type_hints(function)
    return {name: converted(value, hints[name]) for name, value in arguments.items()}


def outcome_of(value: object) -> Outcome:
    """What a function returned, as text and as data.  TypeError if JSON can't say it."""
    if isinstance(value, Outcome):
        return value
    if value is None:
        return Outcome("done")
    if isinstance(value, str):
        return Outcome(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    content = json.dumps(value, ensure_ascii=False)
    data = json.loads(content)
    return Outcome(content, data if isinstance(data, dict) else {"result": data})


def report(progress: float, total: float | None = None, message: str | None = None) -> None:
    """Tell who waits for this call how far it is.  Without anyone to tell, nothing happens."""
    reporter = _reporter.get()
    if reporter is not None:
        reporter(progress, total, message)


def reporting_to(reporter: Callable[[float, float | None, str | None], None] | None) -> None:
    """Where report() leads from here on; for who runs tools."""
    _reporter.set(reporter)


def _parameters(
    name: str, function: Callable[..., Any], described: Mapping[str, str]
) -> dict[str, Any]:
    hints = type_hints(function)
    properties: dict[str, Any] = {}
    required = []
    for p in inspect.signature(function).parameters.values():
        if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            raise BadTool(f"{name}: {p} can't be given by name, as a model gives arguments")
        if p.name not in hints:
            raise BadTool(f"{name}: parameter {p.name} has no type hint")
        schema = schema_of(hints[p.name], f"{name}: parameter {p.name}")
        if p.name in described:
            schema.setdefault("description", described[p.name])
        if p.default is p.empty:
            required.append(p.name)
        elif isinstance(p.default, (str, int, float, bool)):
            schema["default"] = p.default
        properties[p.name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_ARGS = re.compile(r"^(?:Args|Arguments|Parameters):\s*$")
_SECTION = re.compile(r"^(?:Returns|Raises|Yields|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"^\s+\*{0,2}([A-Za-z_]\w*)\s*(?:\([^)]{0,100}\))?:\s*(.*)$")


def _doc(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The docstring without its Args section, and what that says of each parameter."""
    said: list[str] = []
    described: dict[str, str] = {}
    place, last = "text", ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if _ARGS.match(line):
            place = "args"
        elif _SECTION.match(line):
            place = "other"
        elif place == "text" or (place == "other" and line and not line[0].isspace()):
            place = "text"
            said.append(line)
        elif place == "args" and (entry := _ENTRY.match(line)):
            last = entry[1]
            described[last] = entry[2].strip()
        elif place == "args" and last and line.strip():
            described[last] += " " + line.strip()
    return "\n".join(said).strip(), described
