"""Functions as tools: schemas from hints, descriptions from docstrings, values from JSON."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import pytest

from aios_sdk.toolbox import BadTool, Outcome, arguments_of, outcome_of, report, spec_of, tool
from aios_sdk.toolbox import reporting_to as tell


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.0


class Options(TypedDict):
    a: int
    b: NotRequired[str]


@pytest.mark.parametrize(
    ("hint", "schema", "value", "converted"),
    [
        (str, {"type": "string"}, "x", "x"),
        (int, {"type": "integer"}, 2.0, 2),
        (float, {"type": "number"}, 2, 2.0),
        (bool, {"type": "boolean"}, True, True),
        (Any, {}, [1], [1]),
        (None | int, {"anyOf": [{"type": "null"}, {"type": "integer"}]}, None, None),
        (Literal["a", 2], {"enum": ["a", 2]}, 2, 2),
        (Color, {"enum": ["red", "blue"]}, "red", Color.RED),
        (list[int], {"type": "array", "items": {"type": "integer"}}, [1.0], [1]),
        (list, {"type": "array"}, [1], [1]),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}, ["a"], ["a"]),
        (
            set[int],
            {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            [1, 2],
            {1, 2},
        ),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
            [1, "a"],
            (1, "a"),
        ),
        (
            tuple[int, ...],
            {"type": "array", "items": {"type": "integer"}},
            [1, 2, 3],
            (1, 2, 3),
        ),
        (
            dict[str, Color],
            {"type": "object", "additionalProperties": {"enum": ["red", "blue"]}},
            {"k": "blue"},
            {"k": Color.BLUE},
        ),
        (
            Point,
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "number"}},
                "required": ["x"],
                "additionalProperties": False,
            },
            {"x": 1},
            Point(1, 0.0),
        ),
        (
            Options,
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            {"a": 1, "b": "x"},
            {"a": 1, "b": "x"},
        ),
        (
            list[Point | str] | None,
            None,
            ["a", {"x": 1}],
            ["a", Point(1)],
        ),
        (
            Annotated[int, "how many", {"minimum": 1}],
            {"type": "integer", "description": "how many", "minimum": 1},
            3,
            3,
        ),
    ],
)
def test_a_hint_is_a_schema_and_values_become_what_it_says(
    hint: Any, schema: dict[str, Any] | None, value: Any, converted: Any
) -> None:
    def function(v):  # type: ignore[no-untyped-def]  # its hint is set below
        """Take a value."""

    function.__annotations__ = {"v": hint}
    parameters = spec_of(function).parameters
    if schema is not None:
        assert parameters["properties"]["v"] == schema
    jsonschema.Draft202012Validator.check_schema(parameters)
    jsonschema.validate({"v": value}, parameters)
    found = arguments_of(function, {"v": value})["v"]
    assert found == converted
    assert type(found) is type(converted)


def test_a_docstring_describes_the_tool_and_its_parameters() -> None:
    @tool(name="find-it", irreversible=True, ordered=False, max_parallel=3, timeout_s=5)
    def find(what: str, *, where: Literal["here", "there"] = "here", n: int = 1) -> None:
        """Find a thing.

        It may take a while.

        Args:
            what: the thing,
                by its name
            where (str): a place

        Returns:
            nothing of use
        """

    spec = spec_of(find)
    assert (spec.name, spec.description) == ("find-it", "Find a thing.\n\nIt may take a while.")
    assert (spec.irreversible, spec.ordered, spec.max_parallel, spec.timeout_s) == (
        True, False, 3, 5,
    )  # fmt: skip
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "what": {"type": "string", "description": "the thing, by its name"},
            "where": {"enum": ["here", "there"], "description": "a place", "default": "here"},
            "n": {"type": "integer", "default": 1},
        },
        "required": ["what"],
        "additionalProperties": False,
    }


def no_hint(a) -> None:  # type: ignore[no-untyped-def]  # that is what is tried
    """Do."""


def strange(a: Callable[[], None]) -> None:
    """Do."""


def keyed(a: dict[int, str]) -> None:
    """Do."""


def many(*a: int) -> None:
    """Do."""


def undescribed(a: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_hint, "no_hint: parameter a has no type hint"),
        (strange, "strange: parameter a is a .*, which has no JSON Schema here"),
        (keyed, "the keys of a JSON object are strings"),
        (many, r"many: \*a: int can't be given by name|many: \*a: 'int' can't be given by name"),
        (undescribed, "undescribed needs a docstring"),
        (lambda: None, "'<lambda>' is no name for a tool"),
    ],
)
def test_what_cant_be_a_tool_is_refused_when_it_is_made(
    function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(BadTool, match=words):
        tool(function)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ("text", Outcome("text")),
        (None, Outcome("done")),
        (3, Outcome("3", {"result": 3})),
        ({"a": "é"}, Outcome('{"a": "é"}', {"a": "é"})),
        ([1], Outcome("[1]", {"result": [1]})),
        (Point(1), Outcome('{"x": 1, "y": 0.0}', {"x": 1, "y": 0.0})),
        (Outcome("own", is_error=True), Outcome("own", is_error=True)),
    ],
)
def test_what_a_tool_returns_is_text_and_data(value: object, outcome: Outcome) -> None:
    assert outcome_of(value) == outcome


def test_report_tells_who_listens_and_nobody_else() -> None:
    told: list[tuple[float, float | None, str | None]] = []
    report(1)
    tell(lambda *said: told.append(said))
    report(2, 3, "now")
    tell(None)
    report(4)
    assert told == [(2, 3, "now")]
