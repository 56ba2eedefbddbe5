"""Whether a call's arguments are what the tool's JSON Schema says.

A schema is of draft 2020-12, unless its $schema names an older one, as many MCP servers' do.

Schemas come from tools' authors and arguments from models: neither may hold up the daemon.

Rule 1: a check ends: keywords are counted, patterns have a time, nothing is fetched.
Rule 2: a schema that can't be checked is said to be so when the tool is found, not at each call.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import jsonschema
import regex  # type: ignore[import-untyped]  # it ships none
from jsonschema import validators
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from aios_sdk.errors import InvalidParams
from aios_sdk.types import shorten

SCHEMA_BYTES: Final = 256 * 1024
MAX_KEYWORDS: Final = 100_000  # looked at in one check: about a second
PATTERN_S: Final = 0.05
PATTERN_CHARS: Final = 1024
PATTERN_REPEATS: Final = 200_000  # of counts within counts: what a pattern unfolds to
ERRORS_LOOKED_AT: Final = 32
WORDS_CHARS: Final = 300

_spent = threading.local()
_COUNT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")


class BadSchema(Exception):  # noqa: N818 - says what it is of
    """A schema that no arguments can be checked against; str() says why."""


class _TooMuch(Exception):  # noqa: N818 - ends a check
    """A check that would take too long."""


class Checker:
    """One tool's schema, ready to check.  Making one and check() are CPU work for a worker."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        text = _dumped(schema)
        if len(text) > SCHEMA_BYTES:
            raise BadSchema(f"a schema of {len(text)} bytes, limit is {SCHEMA_BYTES}")
        plain = json.loads(text)
        if plain.get("type", "object") != "object":
            raise BadSchema(f"arguments are an object, the schema says {shorten(plain['type'])}")
        self.takes_long = any(f'"{word}"' in text for word in ("pattern", "$ref", "$dynamicRef"))
        try:
            with _budget():
                for pattern in _patterns(plain):
                    _compiled(pattern)
                draft = _draft(plain)
                draft.check_schema(plain)
        except jsonschema.SchemaError as error:
            raise BadSchema(f"{_path('schema', error)}: {error.message[:WORDS_CHARS]}") from None
        except (_TooMuch, RecursionError):
            raise BadSchema("the schema is nested too deeply") from None
        self._validator = _counting(draft)(plain, registry=Registry())

    def check(self, arguments: Mapping[str, Any], max_bytes: int) -> None:
        """InvalidParams with the path and what is wrong there, if anything is."""
        try:
            n_bytes = len(_dumped(arguments))
        except BadSchema as error:
            raise InvalidParams(f"arguments: {error}", field="arguments") from None
        if n_bytes > max_bytes:
            raise InvalidParams(
                f"arguments of {n_bytes} bytes, limit is {max_bytes}", field="arguments"
            )
        try:
            with _budget():
                errors = list(islice(self._validator.iter_errors(arguments), ERRORS_LOOKED_AT))
        except (_TooMuch, RecursionError):
            words = "they can't be checked against the tool's schema in reasonable time"
            raise InvalidParams(f"arguments: {words}", field="arguments") from None
        except (Unresolvable, ArithmeticError, ValueError, TypeError) as error:
            # A $ref that leads nowhere, a number past what can be reckoned with.
            words = f"they can't be checked against the tool's schema: {type(error).__name__}"
            raise InvalidParams(f"arguments: {words}", field="arguments") from None
        if errors:
            worst = jsonschema.exceptions.best_match(errors)
            path = _path("arguments", worst)
            raise InvalidParams(f"{path}: {_words(worst)}", field=path[:256])


class _budget:  # noqa: N801 - used as a statement
    """Keywords that may be looked at within the block, on this thread."""

    def __enter__(self) -> None:
        _spent.n_keywords = 0

    def __exit__(self, *_: object) -> None:
        _spent.n_keywords = 0


Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


def _counted(check: Keyword) -> Keyword:
    def counted(
        validator: Any, value: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError] | None:
        _spent.n_keywords += 1
        if _spent.n_keywords > MAX_KEYWORDS:
            raise _TooMuch
        return check(validator, value, instance, schema)

    return counted


def _pattern(_: Any, value: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(value, instance):
        yield ValidationError(f"{shorten(instance)} does not match {shorten(value)}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, _: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, of in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, of, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key, item in instance.items():
        if key in known or any(_matches(pattern, key) for pattern in patterns):
            continue
        if value is False:
            names = ", ".join(map(str, islice(known, 20))) or "nothing"
            yield ValidationError(f"unknown key {shorten(key)}; it takes {names}")
        else:
            yield from validator.descend(item, value, path=key)


def _unique_items(_: Any, value: bool, instance: Any, __: Any) -> Iterator[ValidationError]:
    """jsonschema's own compares each with each."""
    if value and isinstance(instance, list):
        seen = {json.dumps(_same(item), sort_keys=True) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError(f"its {len(instance)} items must differ from each other")


def _same(value: Any) -> Any:
    """Numbers that JSON Schema takes for equal, made equal: 1 and 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_same(item) for item in value]
    if isinstance(value, dict):
        return {key: _same(item) for key, item in value.items()}
    return value


@functools.cache
def _counting(draft: Any) -> Any:
    """A draft's validator, with keywords counted and ours for those that could take long."""
    own: dict[str, Any] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    checks = {**draft.VALIDATORS, **own}
    counted = {name: _counted(check) for name, check in checks.items()}
    return validators.extend(draft, counted)  # type: ignore[no-untyped-call]  # the stub lacks types


_DRAFTS: Final[Mapping[str, Any]] = {
    "http://json-schema.org/draft-04/schema": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
}


def _draft(schema: dict[str, Any]) -> Any:
    """The validator of the draft that the schema names.  BadSchema if nobody knows it."""
    named = schema.get("$schema")
    if named is None:
        return jsonschema.Draft202012Validator
    if not isinstance(named, str) or named.rstrip("#") not in _DRAFTS:
        raise BadSchema(f"$schema is {shorten(named)}, which is no draft of JSON Schema known here")
    return _DRAFTS[named.rstrip("#")]


def _compiled(pattern: str) -> Any:
    if len(pattern) > PATTERN_CHARS:
        raise BadSchema(f"a pattern of {len(pattern)} characters, limit is {PATTERN_CHARS}")
    n_repeats = 1
    for low, high in _COUNT.findall(pattern):
        n_repeats *= max(1, *(int(n[:9]) for n in (low, high) if n))
    if n_repeats > PATTERN_REPEATS:
        raise BadSchema(f"the pattern {shorten(pattern)} unfolds to too much")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise BadSchema(f"the pattern {shorten(pattern)}: {shorten(str(error))}") from None


def _matches(pattern: str, text: str) -> bool:
    try:
        found = _compiled(pattern).search(text, timeout=PATTERN_S, concurrent=True)
    except (TimeoutError, BadSchema):
        raise _TooMuch from None
    _spent.n_keywords += len(text) // 1000
    return found is not None


def _patterns(schema: Any) -> Iterator[str]:
    """All of its patterns, wherever they are; one in an example is looked at too, and no harm."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield value
            if key == "patternProperties" and isinstance(value, dict):
                yield from value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _patterns(item)


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=dict)
    except (TypeError, ValueError, RecursionError):
        raise BadSchema("it holds what JSON can't say, or is nested too deeply") from None


def _path(root: str, error: ValidationError | jsonschema.SchemaError) -> str:
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    return root + "".join(part if len(part) < 80 else part[:80] + "…" for part in parts)


def _words(error: ValidationError) -> str:
    """What is wrong, in words of ours where jsonschema would repeat the whole value."""
    value, got = error.validator_value, shorten(error.instance)
    match error.validator:
        case "type":
            return f"is {got}, it must be of type {shorten(_list(value), 200)}"
        case "enum":
            return f"is {got}, not one of {shorten(_list(value), 200)}"
        case "const":
            return f"is {got}, it must be {shorten(value)}"
    return error.message[:WORDS_CHARS]


def _list(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(v if isinstance(v, str) else json.dumps(v) for v in values[:20])
