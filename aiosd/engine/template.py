"""An untrusted Jinja program, run in jinja2's sandbox with a budget.

Rule 1: whatever goes wrong, when compiling or when running, is a TemplateError with words.
Rule 2: every loop round, call and macro costs a step; everything printed or joined costs its
characters; values that grow (+ ~ * ** %) are measured before they are made.

Environment as in transformers and llama.cpp: trim_blocks, lstrip_blocks, loop controls, tojson
without HTML escapes, raise_exception, strftime_now, the generation tag.  Left out because they can
make huge strings from small numbers: the padding and format methods and filters.
Not measured: list filters over what a template already holds; these are bounded by it.
"""

from __future__ import annotations

import json
import threading
from datetime import datetime
from typing import Any

import jinja2
import jinja2.filters
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_ERROR_CHARS = 500
MAX_INDENT = 16
MAX_INT_BITS = 4096

_GROWING_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}
)
_GROWING_FILTERS = ("center", "format", "wordwrap", "xmlattr", "urlize", "pprint")


class TemplateError(Exception):
    """The template can't be compiled, or refuses or fails on these messages; str() says why."""


class Budget:
    """What one rendering may still spend."""

    __slots__ = ("chars", "limit_chars", "limit_steps", "steps")

    def __init__(self, limit_steps: int, limit_chars: int) -> None:
        self.limit_steps = self.steps = limit_steps
        self.limit_chars = limit_chars
        # Printed into a macro's or set block's buffer, and printed again from there.
        self.chars = 8 * limit_chars

    def step(self, n_chars: int = 0) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TemplateError(f"the chat template ran over {self.limit_steps} steps")
        self.print(n_chars)

    def print(self, n_chars: int) -> None:
        self.chars -= n_chars
        if self.chars < 0:
            raise self.too_long()

    def hold(self, n_items: int) -> None:
        """A value of this length is about to be made."""
        self.print(n_items)
        if n_items > self.limit_chars:
            raise self.too_long()

    def too_long(self) -> TemplateError:
        return TemplateError(f"the chat template made more text than {self.limit_chars} characters")


class CompiledTemplate:
    """Compiled once; one rendering at a time."""

    def __init__(self, source: str) -> None:
        self._lock = threading.Lock()
        self._now = datetime.min
        self._environment = _Environment()
        self._environment.globals["raise_exception"] = _raise_exception
        self._environment.globals["strftime_now"] = self._strftime_now
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"chat template, line {error.lineno}: {_short(error.message)}"
            ) from error
        except Exception as error:  # an untrusted program: too deep, too large, absurd constants
            raise TemplateError(f"chat template: {_words(error)}") from error

    def render(self, budget: Budget, now: datetime, **variables: object) -> str:
        """The text.  tools and documents are defined as none, as templates ask for them."""
        with self._lock:
            self._now = now
            self._environment.budget = budget
            try:
                return self._render(budget, variables)
            except TemplateError:
                raise
            except Exception as error:  # an untrusted program: it can raise anything
                raise TemplateError(f"the chat template failed: {_words(error)}") from error

    def _strftime_now(self, text: str) -> str:
        return self._now.strftime(text)

    def _render(self, budget: Budget, variables: dict[str, object]) -> str:
        pieces: list[str] = []
        n_chars = 0
        for piece in self._template.generate({"tools": None, "documents": None} | variables):
            n_chars += len(piece)
            if n_chars > budget.limit_chars:
                raise budget.too_long()
            pieces.append(piece)
        return "".join(pieces)


def _raise_exception(message: object) -> None:
    raise TemplateError(f"the chat template refuses these messages: {_short(message)}")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {_short(error)}"


def _short(words: object) -> str:
    text = str(words)
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + "…"


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= int(indent) <= MAX_INDENT:
        raise TemplateError(f"tojson(indent={indent}) in the chat template, limit is {MAX_INDENT}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _GenerationTag(Extension):
    """{% generation %}…{% endgeneration %} marks training data; here it is its content."""

    tags = {"generation"}  # noqa: RUF012  # declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Measured(NodeTransformer):
    """Makes loops and macros count their rounds, and ~ measure what it joins.

    EnvironmentAttribute, not a name: a template can't shadow it.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # jinja2's name
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802  # likewise
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802  # likewise
        return self._counted(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # likewise
        self.generic_visit(node)
        return self._call("join_measured", node.nodes, node.lineno)

    def _counted(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        n_chars = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        count = nodes.ExprStmt(self._call("step", [nodes.Const(n_chars)], node.lineno))
        node.body.insert(0, count.set_lineno(node.lineno))
        return node

    @staticmethod
    def _call(name: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
        call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
        call.set_lineno(lineno)
        return call


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with what costs something going through the budget of the rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
            finalize=self._print,
            cache_size=0,
        )
        self.budget = Budget(1_000_000, 1_000_000)  # for constants folded when compiling
        self.filters["tojson"] = _to_json
        for name in _GROWING_FILTERS:
            del self.filters[name]
        self.filters["replace"] = self._replace
        self.filters["indent"] = self._indent

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Measured().visit(tree)
        tree.set_environment(self)
        return tree

    def step(self, n_chars: int) -> None:
        self.budget.step(n_chars)

    def join_measured(self, *values: object) -> str:
        texts = [str(value) for value in values]
        self.budget.hold(sum(map(len, texts)))
        return "".join(texts)

    def _print(self, value: object) -> object:
        text = value if isinstance(value, str) else str(value)
        self.budget.print(len(text))
        return value

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if obj in (self.step, self.join_measured):
            return obj(*args)
        self.budget.step()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and getattr(obj, "__name__", "") == "replace":
            return self._replace(owner, *args, **kwargs)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> None:
        """No bounded stand-in for str.format: is_safe_attribute refuses it."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GROWING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.budget.step()
        if operator == "+" and isinstance(left, (str, list, tuple)):
            self.budget.hold(len(left) + _length(right))
        elif operator == "*":
            self._check_product(left, right)
        elif operator == "**":
            self._check_power(left, right)
        elif operator == "%" and isinstance(left, (str, bytes)):
            raise TemplateError("the chat template formats with %, which is not allowed")
        return super().call_binop(context, operator, left, right)

    def _check_product(self, left: object, right: object) -> None:
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
                self.budget.hold(len(value) * max(times, 0))
        if isinstance(left, int) and isinstance(right, int):
            self._check_int(left.bit_length() + right.bit_length())

    def _check_power(self, base: object, exponent: object) -> None:
        if isinstance(base, int) and isinstance(exponent, int):
            self._check_int(base.bit_length() * max(exponent, 0))

    @staticmethod
    def _check_int(n_bits: int) -> None:
        if n_bits > MAX_INT_BITS:
            raise TemplateError(
                f"the chat template computes a number of {n_bits} bits, limit is {MAX_INT_BITS}"
            )

    def _replace(self, text: object, old: object, new: object, count: int | None = None) -> str:
        where, what, by = str(text), str(old), str(new)
        times = where.count(what)
        if count is not None and count >= 0:
            times = min(times, count)
        self.budget.hold(len(where) + times * max(len(by) - len(what), 0))
        return where.replace(what, by, -1 if count is None else count)

    def _indent(
        self, text: str, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        n_wide = len(width) if isinstance(width, str) else int(width)
        if n_wide > MAX_INDENT:
            raise TemplateError(f"indent({n_wide}) in the chat template, limit is {MAX_INDENT}")
        return jinja2.filters.do_indent(str(text), width, first, blank)


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0
