"""The converter behind schema.to_grammar: a checked schema -> rules.

A schema becomes its forms: the ways its value can look, one for each type, enum or branch, with
references and unions resolved away.  A form is a rule of the grammar that begins with a character,
so the grammar has no left recursion, and llama.cpp, which follows all readings of a text at once,
has few to follow: _check_readings bounds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from aiosd.engine.schema.document import MAX_REFERENCES_IN_A_ROW, Document
from aiosd.engine.schema.errors import Limits, Problem, Schema, SchemaError, pointer, refuse
from aiosd.engine.schema.facts import listed_values, number, types_of
from aiosd.engine.schema.forms import Form, Value, ambiguous, endless
from aiosd.engine.schema.pattern import pattern_rule
from aiosd.engine.schema.survey import ANNOTATIONS
from aiosd.engine.schema.text import (
    BUILTIN,
    FORMATS,
    PatternError,
    integer_between,
    json_literal,
    key_outside,
    repeated,
)

ANY_DEPTH = 6

_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
}
_SCALARS = ("string", "number", "boolean", "null")


class Converter:
    def __init__(self, schema: object, places: dict[int, str], limits: Limits) -> None:
        self._schema = schema
        self._places = places
        self._limits = limits
        self._document = Document(schema, places, limits)
        self._problems: list[Problem] = []
        self._rules: dict[str, str] = dict(BUILTIN)
        self._forms: dict[tuple[int, str], Form] = {}
        self._expanded: dict[int, dict[str, Form]] = {}
        self._todo: list[tuple[Form, Schema]] = []
        self._n_repeats = 0
        self._unions: dict[tuple[str, ...], str] = {}
        self._values: list[Value] = []

    def grammar(self) -> str:
        root = self._value(self._schema, "")
        for form, schema in self._todo:  # grows while it is walked
            self._rules[form.name] = (
                self._object(form, schema) if form.kind == "object" else self._array(form, schema)
            )
        if not self._problems:
            self._problems.extend(endless(self._values))
            too_many = ambiguous(self._values, self._limits.readings)
            self._problems.extend([too_many] if too_many else [])
        if self._problems:
            raise SchemaError(self._problems[: self._limits.problems])
        self._rules["root"] = self._name(root)
        text = "\n".join(f"{name} ::= {rule}" for name, rule in self._rules.items())
        if len(text.encode()) > self._limits.grammar_bytes:
            raise refuse(
                "",
                "",
                f"needs a grammar of {len(text)} bytes, limit is {self._limits.grammar_bytes}",
            )
        return text + "\n"

    # ------------------------------------------------------------ schemas to forms

    def _value(self, schema: object, path: str) -> Value:
        value = Value(self._expand(schema, path, ()), path)
        n_forms, limit = len(value.forms), self._limits.branches
        if n_forms > limit:
            self._refuse("anyOf", path, f"comes down to {n_forms} branches, limit is {limit}")
        self._values.append(value)
        return value

    def _expand(self, schema: object, path: str, trail: tuple[int, ...]) -> dict[str, Form]:
        """The forms of a schema; trail: the schemas this is inside of without having read a
        character, to find references that lead back."""
        if schema is True or schema == {}:
            return _by_name(self._any_forms(ANY_DEPTH, path))
        if not isinstance(schema, dict):
            self._refuse("false", path, "nothing can stand here")
            return {}
        path = self._places.get(id(schema), path)
        if id(schema) in trail:
            self._refuse("$ref", path, "refers to itself with nothing in between")
            return {}
        if len(trail) > MAX_REFERENCES_IN_A_ROW:
            self._refuse("$ref", path, f"more than {MAX_REFERENCES_IN_A_ROW} references in a row")
            return {}
        if id(schema) not in self._expanded:
            self._expanded[id(schema)] = self._expand_new(schema, path, (*trail, id(schema)))
        return self._expanded[id(schema)]

    def _expand_new(self, schema: Schema, path: str, trail: tuple[int, ...]) -> dict[str, Form]:
        for keyword in ("$ref", "anyOf", "oneOf", "allOf"):
            if keyword in schema:
                if not self._stands_alone(schema, keyword, path):
                    return {}
                try:
                    return self._expand_union(schema, keyword, path, trail)
                except SchemaError as error:
                    self._problems.extend(error.problems)
                    return {}
        return _by_name(self._plain_forms(schema, path))

    def _expand_union(
        self, schema: Schema, keyword: str, path: str, trail: tuple[int, ...]
    ) -> dict[str, Form]:
        """$ref, or the branches of anyOf, oneOf, allOf, together.  Raises SchemaError."""
        if keyword == "$ref":
            return self._expand(self._document.target(schema, path), path, trail)
        branches = schema[keyword]
        assert isinstance(branches, list)  # the meta-schema says so
        limit = self._limits.branches
        if len(branches) > limit:
            raise refuse(keyword, path, f"has {len(branches)} branches, limit is {limit}")
        if keyword == "allOf" and len(branches) > 1:
            raise refuse(keyword, path, "is enforced for one branch only; merge them")
        if keyword == "oneOf" and not self._document.are_disjoint(branches):
            raise refuse(
                keyword,
                path,
                "has branches that one value could satisfy together; use anyOf, or give each "
                "another type, const, or required property with another const",
            )
        forms: dict[str, Form] = {}
        for index, branch in enumerate(branches):
            forms |= self._expand(branch, pointer(path, keyword, index), trail)
        return forms

    def _stands_alone(self, schema: Schema, keyword: str, path: str) -> bool:
        beside = [
            name
            for name in schema
            if name != keyword and name not in ANNOTATIONS | {"$schema", "$id"}
        ]
        for name in beside:
            self._refuse(name, path, f"is not enforced beside {keyword}; put it inside")
        return not beside

    def _plain_forms(self, schema: Schema, path: str) -> Iterator[Form]:
        if "const" in schema or "enum" in schema:
            yield from self._listed(schema, path)
            return
        types = types_of(schema)
        if types is None:
            types = [kind for kind, words in _KEYWORDS.items() if words & schema.keys()]
        if not types:
            yield from self._any_forms(ANY_DEPTH, path)
        for kind in types:
            key = (id(schema), kind)
            if key not in self._forms:
                self._forms[key] = self._plain_form(schema, kind, path)
            yield self._forms[key]

    def _plain_form(self, schema: Schema, kind: str, path: str) -> Form:
        has = schema.keys()
        if kind == "object" and not _KEYWORDS["object"] & has:
            return self._any_form("object", ANY_DEPTH, path)
        if kind in ("object", "array"):
            form = Form(f"{kind}-{len(self._forms)}", kind, path)
            self._todo.append((form, schema))
            return form
        if kind == "string" and _KEYWORDS["string"] & has:
            return self._own_rule(kind, path, self._string(schema, path))
        if kind in ("number", "integer") and (words := _KEYWORDS["number"] & has):
            if kind == "integer":
                return self._own_rule(kind, path, self._integer(schema, path))
            for word in sorted(words):
                self._refuse(word, path, "is enforced for type integer only")
        return Form(kind, kind, path)

    def _own_rule(self, kind: str, path: str, rule: str) -> Form:
        name = f"{kind}-{len(self._forms)}"
        self._rules[name] = rule
        return Form(name, kind, path)

    def _listed(self, schema: Schema, path: str) -> Iterator[Form]:
        """const and enum: the values that the type allows, written as compact JSON."""
        for word in sorted(set().union(*_KEYWORDS.values()) & schema.keys()):
            self._refuse(word, path, "is not enforced beside const or enum; list what is meant")
        values = listed_values(schema)
        n_values = len(values)
        if n_values > self._limits.values:
            self._refuse("enum", path, f"has {n_values} values, limit is {self._limits.values}")
        elif not values:
            self._refuse("enum" if "enum" in schema else "const", path, "leaves no value")
        else:
            key = (id(schema), "listed")
            if key not in self._forms:
                texts = dict.fromkeys(json_literal(value) for value in values)
                self._forms[key] = self._own_rule("listed", path, " | ".join(texts))
            yield self._forms[key]

    # ------------------------------------------------------------ rules of scalars

    def _string(self, schema: Schema, path: str) -> str:
        words = _KEYWORDS["string"] & schema.keys()
        if "pattern" in words or "format" in words:
            word = "pattern" if "pattern" in words else "format"
            for other in sorted(words - {word}):
                self._refuse(other, path, f"is not enforced beside {word}")
            text = str(schema[word])
            if word == "format":
                if text not in FORMATS:
                    known = ", ".join(FORMATS)
                    self._refuse(word, path, f"{text[:100]!r} is not enforced, only {known}")
                return FORMATS.get(text, '""')
            try:
                return pattern_rule(text)
            except PatternError as error:
                self._refuse(word, path, f"the expression {error}")
                return '""'
        least, most = self._counts(schema, "minLength", "maxLength", path)
        return rf'"\"" {repeated("char", least, most)} "\""'

    def _integer(self, schema: Schema, path: str) -> str:
        lows = [number(schema[word]) for word in ("minimum",) if word in schema]
        highs = [number(schema[word]) for word in ("maximum",) if word in schema]
        if "exclusiveMinimum" in schema:
            lows.append(math.floor(number(schema["exclusiveMinimum"])) + 1)
        if "exclusiveMaximum" in schema:
            highs.append(math.ceil(number(schema["exclusiveMaximum"])) - 1)
        try:
            return integer_between(max(lows, default=None), min(highs, default=None))
        except ValueError as error:
            word = next(word for word in schema if word in _KEYWORDS["number"])
            self._refuse(word, path, str(error))
            return '""'

    def _counts(
        self, schema: Schema, least_word: str, most_word: str, path: str
    ) -> tuple[int, int | None]:
        least = int(number(schema.get(least_word, 0)))
        most = int(number(schema[most_word])) if most_word in schema else None
        for word, count in ((least_word, least), (most_word, most)):
            if count is not None and count > self._limits.repeats:
                self._refuse(word, path, f"is {count}, limit is {self._limits.repeats}")
                return 0, None
        if most is not None and most < least:
            self._refuse(most_word, path, f"is {most}, less than {least_word}, {least}")
            return 0, None
        self._n_repeats += least if most is None else most
        if self._n_repeats > self._limits.total_repeats:
            self._refuse(
                most_word, path, f"all counts sum up to more than {self._limits.total_repeats}"
            )
        return least, most

    # ------------------------------------------------------------ rules of arrays and objects

    def _array(self, form: Form, schema: Schema) -> str:
        least, most = self._counts(schema, "minItems", "maxItems", form.path)
        if "prefixItems" in schema:
            return self._tuple(form, schema, least, most)
        items = schema.get("items", True)
        if items is False or most == 0:
            if least:
                self._refuse("minItems", form.path, "asks for items where none can be")
            return '"[" space "]"'
        value = self._value(items, pointer(form.path, "items"))
        form.parts.append(value)
        if least:
            form.needs.append(value)
        name = self._name(value)
        more = f"{form.name}-more"
        self._rules[more] = f'"," space {name}'
        rest = repeated(more, max(least - 1, 0), None if most is None else most - 1)
        inside = f"{name} {rest} space"
        return f'"[" space {inside if least else f"({inside})?"} "]"'

    def _tuple(self, form: Form, schema: Schema, least: int, most: int | None) -> str:
        """prefixItems: exactly these items.  (Fewer would validate as well.)"""
        prefix = schema["prefixItems"]
        assert isinstance(prefix, list)  # the meta-schema says so
        if not isinstance(schema.get("items", True), bool):
            self._refuse("items", form.path, "is not enforced beside prefixItems")
        if least > len(prefix):
            self._refuse("minItems", form.path, f"is {least}, more than {len(prefix)} prefixItems")
        names = []
        for index, item in enumerate(prefix[:most]):
            value = self._value(item, pointer(form.path, "prefixItems", index))
            form.parts.append(value)
            form.needs.append(value)
            names.append(self._name(value))
        inside = ' "," space '.join(names)
        return f'"[" space {inside} space "]"'

    def _object(self, form: Form, schema: Schema) -> str:
        """Properties in their order; rest-n is what may follow once n have been passed."""
        entries = list(self._entries(form, schema))
        more = self._more_properties(form, schema)
        for index in range(1, len(entries) + 1):
            if index < len(entries):
                name, is_required = entries[index]
                text = f'"," space {name}' if is_required else f'("," space {name})?'
                self._rules[f"{form.name}-rest-{index}"] = f"{text} {form.name}-rest-{index + 1}"
            else:
                self._rules[f"{form.name}-rest-{index}"] = f"{more}*" if more else '""'
        starts: list[str] = []
        is_empty_allowed = True
        for index, (name, is_required) in enumerate(entries):
            starts.append(f"{name} {form.name}-rest-{index + 1}")
            if is_required:
                is_empty_allowed = False
                break
        if more and is_empty_allowed:
            starts.append(f"{form.name}-extra {more}*")
        if not starts:
            return '"{" space "}"'
        inside = f"({' | '.join(starts)}) space"
        return f'"{{" space {f"({inside})?" if is_empty_allowed else inside} "}}"'

    def _entries(self, form: Form, schema: Schema) -> Iterator[tuple[str, bool]]:
        """For each property that may occur: the rule of its key and value, and if it must."""
        declared = schema.get("properties", {})
        required = schema.get("required", [])
        assert isinstance(declared, dict)  # the meta-schema says so
        assert isinstance(required, list)  # likewise
        others = schema.get("additionalProperties", True)
        names = dict.fromkeys([*declared, *required])
        n_known = 0
        for name in names:
            is_required = name in required
            property_schema = declared.get(name, others)
            if property_schema is False:
                if is_required:
                    self._refuse("required", form.path, f"{name[:100]!r} is not allowed to occur")
                continue
            value = self._value(property_schema, pointer(form.path, "properties", name))
            form.parts.append(value)
            if is_required:
                form.needs.append(value)
                if n_known == 0:
                    form.first_key = name
                    form.first_values = self._document.value_set(property_schema)
            rule = f"{form.name}-{n_known}"
            self._rules[rule] = f'{json_literal(name)} ":" space {self._name(value)}'
            n_known += 1
            yield rule, is_required

    def _more_properties(self, form: Form, schema: Schema) -> str:
        """The rule of a comma and an undeclared property; "" if there are none."""
        others = schema.get("additionalProperties", False)
        if others is False:
            return ""
        value = self._value(others, pointer(form.path, "additionalProperties"))
        form.parts.append(value)
        key = "string"
        declared = schema.get("properties", {})
        required = schema.get("required", [])
        if declared or required:
            assert isinstance(declared, dict)  # the meta-schema says so
            assert isinstance(required, list)  # likewise
            n_chars, limit = sum(map(len, [*declared, *required])), self._limits.beside_chars
            if n_chars > limit:
                self._refuse(
                    "additionalProperties",
                    form.path,
                    f"beside declared names of {n_chars} characters together, limit is {limit}",
                )
                return ""
            key = f"{form.name}-key"
            self._rules |= key_outside([*declared, *required], key)
            key = rf'"\"" {key}-0 "\""'
        self._rules[f"{form.name}-extra"] = f'{key} ":" space {self._name(value)}'
        self._rules[f"{form.name}-more"] = f'"," space {form.name}-extra'
        return f"{form.name}-more"

    # ------------------------------------------------------------ values of any kind

    def _any_forms(self, depth: int, path: str) -> Iterator[Form]:
        for kind in _SCALARS:
            yield Form(kind, kind, path)
        if depth:
            yield self._any_form("object", depth, path)
            yield self._any_form("array", depth, path)

    def _any_form(self, kind: str, depth: int, path: str) -> Form:
        form = Form(f"any-{kind}-{depth}", kind, path)
        if form.name not in self._rules:
            inner = self._name(Value(_by_name(self._any_forms(depth - 1, path)), path))
            item = inner if kind == "array" else f'string ":" space {inner}'
            inside = f'({item} ("," space {item})* space)?'
            left, right = "[]" if kind == "array" else "{}"
            self._rules[form.name] = f'"{left}" space {inside} "{right}"'
        return form

    def _name(self, value: Value) -> str:
        """The rule of a value: its only form's, or one that offers them all."""
        names = tuple(sorted(value.forms)) or ("null",)  # no form: a problem has been noted
        if len(names) == 1:
            return names[0]
        if names not in self._unions:
            self._unions[names] = f"union-{len(self._unions)}"
            self._rules[self._unions[names]] = " | ".join(names)
        return self._unions[names]

    def _refuse(self, keyword: str, path: str, reason: str) -> None:
        self._problems.append(Problem(keyword, path, reason))


def _by_name(forms: Iterable[Form]) -> dict[str, Form]:
    return {form.name: form for form in forms}
