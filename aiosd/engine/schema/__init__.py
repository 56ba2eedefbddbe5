"""JSON Schema -> GBNF: what the grammar lets through validates, or the schema is refused.

Rule 1: a keyword is either enforced, or without effect on what validates, or refused by name.
Rule 2: everything is bounded before anything walks it: bytes, depth, subschemas, repetitions, the
grammar's size, and how many readings of one text the grammar can have to follow at once.
Rule 3: pure; nothing is fetched; no regular expression of the schema is ever run.

Own converter, since llama-cpp-python's lets through what JSON or the schema forbids (control
characters, 007, half surrogates, properties twice with another type) and ignores keywords.
"""

from __future__ import annotations

from aiosd.engine.schema.converter import Converter
from aiosd.engine.schema.errors import Limits, Problem, SchemaError
from aiosd.engine.schema.survey import check_is_schema, check_size, survey

__all__ = ["Limits", "Problem", "SchemaError", "to_grammar"]


def to_grammar(schema: object, *, limits: Limits | None = None) -> str:
    """The GBNF, with the start rule root.  Raises SchemaError with every problem found.

    Of what validates the grammar may write less: properties in the schema's order, none beyond
    the declared ones unless additionalProperties is there, integers of up to 15 digits, values of
    any kind nested up to 6 deep, no white space but single spaces.  Milliseconds for usual
    schemas, well under a second for the largest.
    """
    limits = limits or Limits()
    check_size(schema, limits)
    check_is_schema(schema)
    places, problems = survey(schema, limits)
    if problems:
        raise SchemaError(problems[: limits.problems])
    return Converter(schema, places, limits).grammar()
