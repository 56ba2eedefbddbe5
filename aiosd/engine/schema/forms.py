"""Forms and values: the converter's view of a schema, and two checks made on the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from aiosd.engine.schema.errors import Problem


@dataclass(slots=True)
class Form:
    """One way a value can look, which is one rule of the grammar.

    needs  the values it can't do without        parts  all the values it may hold
    first_key, first_values  the property it always begins with, and all values that can have
    """

    name: str
    kind: str  # object, array, or another, which holds nothing
    path: str
    needs: list[Value] = field(default_factory=list)
    parts: list[Value] = field(default_factory=list)
    first_key: str | None = None
    first_values: frozenset[object] | None = None


@dataclass(slots=True)
class Value:
    """What may stand at one place: any of these forms."""

    forms: dict[str, Form]
    path: str


def endless(values: Sequence[Value]) -> Iterator[Problem]:
    """Forms that can never come to an end, as each holds another one of its kind."""
    forms = {form.name: form for value in values for form in value.forms.values()}
    without_end = set(forms)
    is_changed = True
    while is_changed:
        ending = {
            name
            for name in without_end
            if all(not need.forms.keys() <= without_end for need in forms[name].needs)
        }
        without_end -= ending
        is_changed = bool(ending)
    for name, form in forms.items():
        if name in without_end:
            yield Problem("$ref", form.path, "requires itself, so no value is ever complete")


def ambiguous(values: Sequence[Value], limit: int) -> Problem | None:
    """Are there too many readings of one text?

    llama.cpp follows all of them at once.  Branches that begin alike multiply over nesting; in a
    recursive schema without bound.
    """
    readings = {id(value): 1 for value in values}
    is_changed = True
    while is_changed:
        is_changed = False
        for value in reversed(values):
            inner = [readings[id(part)] for form in value.forms.values() for part in form.parts]
            n_readings = _n_alike(value) * max(inner, default=1)
            if n_readings > limit:
                return Problem(
                    "anyOf",
                    value.path,
                    f"has branches that begin alike, nested to more than {limit} readings; "
                    "let each begin with a required property that has another const",
                )
            if n_readings > readings[id(value)]:
                readings[id(value)] = n_readings
                is_changed = True
    return None


def _n_alike(value: Value) -> int:
    """How many of the forms a reader may have to keep in mind behind the first bracket."""
    objects = [form for form in value.forms.values() if form.kind == "object"]
    arrays = [form for form in value.forms.values() if form.kind == "array"]
    n_objects = 1 if all(_begin_apart(a, b) for a, b in combinations(objects, 2)) else len(objects)
    return max(n_objects, len(arrays), 1)


def _begin_apart(left: Form, right: Form) -> bool:
    if left.first_key is None or right.first_key is None:
        return False
    if left.first_key != right.first_key:
        return True
    if left.first_values is None or right.first_values is None:
        return False
    return left.first_values.isdisjoint(right.first_values)
