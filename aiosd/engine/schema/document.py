"""A schema document: where references lead, and which branches no value can satisfy together."""

from __future__ import annotations

from functools import reduce
from itertools import combinations

from aiosd.engine.schema.errors import Limits, Schema, refuse
from aiosd.engine.schema.facts import (
    is_listed,
    keys_of,
    kinds_of,
    listed_values,
    names_required,
    property_of,
)

MAX_REFERENCES_IN_A_ROW = 64


class Document:
    """Answers are kept, so that schemas which share parts cost each part once."""

    def __init__(self, schema: object, places: dict[int, str], limits: Limits) -> None:
        self._schema = schema
        self._places = places
        self._limits = limits
        self._terminals: dict[int, dict[int, Schema] | None] = {}
        self._apart: dict[tuple[int, int], bool] = {}
        self._listed: dict[int, frozenset[object]] = {}

    def target(self, schema: Schema, path: str) -> Schema | bool:
        """The subschema of this document that $ref means; SchemaError if it is none."""
        reference = str(schema["$ref"])
        shown = repr(reference[:100])
        if reference != "#" and not reference.startswith("#/"):
            raise refuse("$ref", path, f"{shown}: only references within (#/…) are followed")
        target: object = self._schema
        for name in reference.split("/")[1:]:
            key = name.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict):
                target = target.get(key)
            elif isinstance(target, list) and key in map(str, range(len(target))):
                target = target[int(key)]
            else:
                target = None
        if isinstance(target, bool) or (isinstance(target, dict) and id(target) in self._places):
            return target
        raise refuse("$ref", path, f"{shown} leads to no subschema")

    def are_disjoint(self, branches: list[object]) -> bool:
        """Is it certain that no value satisfies two of the branches?"""
        groups: list[dict[int, Schema]] = []
        for branch in branches:
            group = self._terminals_of(branch, 0)
            if group is None:
                return False
            groups.append(group)
        if sum(map(len, groups)) > self._limits.branches:
            return False
        return all(
            self._exclude_each_other(a, b)
            for left, right in combinations(groups, 2)
            for a in left.values()
            for b in right.values()
        )

    def value_set(self, schema: object) -> frozenset[object] | None:
        """All values of a schema that lists them; None if it doesn't."""
        terminals = self._terminals_of(schema, 0)
        if terminals is None or not all(map(is_listed, terminals.values())):
            return None
        empty: frozenset[object] = frozenset()
        return reduce(frozenset.union, map(self._keys, terminals.values()), empty)

    def _terminals_of(self, schema: object, depth: int) -> dict[int, Schema] | None:
        """The schemas without unions and references that it comes down to; None if unclear."""
        if not isinstance(schema, dict) or depth > MAX_REFERENCES_IN_A_ROW:
            return None
        if id(schema) not in self._terminals:
            self._terminals[id(schema)] = None  # while it is being found: it refers to itself
            self._terminals[id(schema)] = self._find_terminals(schema, depth)
        return self._terminals[id(schema)]

    def _find_terminals(self, schema: Schema, depth: int) -> dict[int, Schema] | None:
        if "$ref" in schema:
            return self._terminals_of(self.target(schema, ""), depth + 1)
        for keyword in ("anyOf", "oneOf", "allOf"):
            branches = schema.get(keyword)
            if not isinstance(branches, list):
                continue
            found: dict[int, Schema] = {}
            for branch in branches:
                group = self._terminals_of(branch, depth + 1)
                if group is None or (keyword == "allOf" and len(branches) > 1):
                    return None
                found |= group
            return found
        return {id(schema): schema}

    def _exclude_each_other(self, left: Schema, right: Schema) -> bool:
        key = (id(left), id(right))
        if key not in self._apart:
            self._apart[key] = self._find_apart(left, right)
        return self._apart[key]

    def _find_apart(self, left: Schema, right: Schema) -> bool:
        if is_listed(left) and is_listed(right):
            return self._keys(left).isdisjoint(self._keys(right))
        shared = kinds_of(left) & kinds_of(right)
        if shared != {"object"} or is_listed(left) or is_listed(right):
            return not shared
        for name in names_required(left) & names_required(right):
            mine = self.value_set(property_of(left, name))
            others = self.value_set(property_of(right, name))
            if mine is not None and others is not None and mine.isdisjoint(others):
                return True
        return False

    def _keys(self, schema: Schema) -> frozenset[object]:
        if id(schema) not in self._listed:
            self._listed[id(schema)] = keys_of(listed_values(schema))
        return self._listed[id(schema)]
