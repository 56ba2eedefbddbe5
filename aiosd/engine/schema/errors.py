"""What a schema may be, and what is said when it isn't: limits, problems, the error."""

from __future__ import annotations

from dataclasses import dataclass

from aiosd.engine.gbnf import MAX_GBNF_BYTES

Schema = dict[str, object]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a schema and of what it becomes."""

    schema_bytes: int = 64 * 1024
    depth: int = 32  # of nested objects and arrays in the schema
    subschemas: int = 500
    values: int = 256  # of one enum
    branches: int = 64  # of one anyOf or oneOf
    repeats: int = 2000  # of minLength, maxItems and so on: llama.cpp refuses more
    total_repeats: int = 16_000  # each becomes a rule of llama.cpp's
    readings: int = 16  # branches that can't be told apart, multiplied over nesting
    beside_chars: int = 4000  # of declared names, where undeclared ones may stand beside them
    grammar_bytes: int = MAX_GBNF_BYTES
    problems: int = 50  # reported at once


@dataclass(frozen=True, slots=True)
class Problem:
    """A keyword that is refused, the JSON pointer of its schema ("" is the root), and why."""

    keyword: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.keyword or 'schema'} at {self.path or 'the root'}: {self.reason}"


class SchemaError(ValueError):
    """The schema is none, is too large, or says what a grammar can't enforce."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("; ".join(map(str, self.problems)))


def pointer(path: str, *names: str | int) -> str:
    """The path with these names appended, escaped as RFC 6901 says."""
    return path + "".join(f"/{str(name).replace('~', '~0').replace('/', '~1')}" for name in names)


def refuse(keyword: str, path: str, reason: str) -> SchemaError:
    return SchemaError([Problem(keyword, path, reason)])
