"""The sandbox a chat template runs in: what it offers, and that nothing in it runs away."""

from __future__ import annotations

import pytest

from aiosd.engine.chat import ChatTemplate, Message, TemplateError


def shown(source: str) -> str:
    return ChatTemplate(source).render([Message("user", "hé <b>")], True).text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hé <b>"}]'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=2) }}", '{\n  "b": 1,\n  "a": 2\n}'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hé <b>"),
        ("{% if tools %}t{% endif %}{% if documents is none %}d{% endif %}", "d"),
        ("{{ tools_of_another_kind }}.", "."),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) ~ f('a') }}", "[1][a]"),
        ("{{ 'a-b'.replace('-', '+') | replace('b', 'c', 1) }}", "a+c"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ 'ab'.split('b')[0] ~ 2 ** 10 ~ 7 % 4 ~ ('x' * 3) ~ ([1] + [2]) }}", "a10243xxx[1, 2]"),
        ("{% set step = 1 %}{% for m in messages %}{{ step }}{% endfor %}", "1"),
    ],
)
def test_templates_get_what_they_are_used_to(source: str, text: str) -> None:
    assert shown(source) == text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for", "chat template, line 1: unexpected 'end of template'"),
        ("a\n{{ 'x' | no_such_filter }}", "chat template, line 2: No filter named"),
        ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "RecursionError"),
        ("{{ x.y.z }}", "'x' is undefined"),
        ("{{ messages[0].content.nothing() }}", "has no attribute 'nothing'"),
        ("{{ messages[0] + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% include 'x' %}", "no loader"),
        ("{{ raise_exception('x' * 9000) }}", "refuses these messages: x{500}…$"),
    ],
)
def test_what_goes_wrong_is_a_template_error(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        shown(source)


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}"
ENDS = "{% endfor %}{% endfor %}"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        (LOOPS + ENDS, "ran over 2000000 steps"),
        (LOOPS + "{% set x = i + j %}" + ENDS, "ran over 2000000 steps"),
        (LOOPS + "{{ i }}" + ENDS, "more text than"),
        (LOOPS + "{% set x %}" + "z" * 5000 + "{% endset %}" + ENDS, "more text than"),
        ("{% set s = 'x' * 30000 %}{% for a in s %}{% for b in s %}" + ENDS, "ran over"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}", "RecursionError"),
        ("{{ 'a' * 999999999 }}", "more text than"),
        ("{{ 999999999 * [1] }}", "more text than"),
        ("{{ 2 ** 9999999 }}", "number of 19999998 bits, limit is 4096"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{{ '%999999999d' % 3 }}", "formats with %"),
        ("{{ '{:999999999}'.format(3) }}", "SecurityError"),
        ("{{ 'x'.center(999999999) }}", "SecurityError"),
        ("{{ 'x' | center(999999999) }}", "No filter named 'center'"),
        ("{{ 'x' | indent(999999999, true) }}", "limit is 16"),
        ("{{ [1] | tojson(indent=999999999) }}", "limit is 16"),
        ("{{ 'aaaaaa'.replace('a', 'b' * 60000) }}", "more text than"),
        ("{{ 'aaaaaa' | replace('a', 'b' * 60000) }}", "more text than"),
        (
            "{% set n = namespace(x='aa') %}"
            "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "more text than",
        ),
        (
            "{% set n = namespace(x='aa') %}"
            "{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "more text than",
        ),
    ],
)
def test_nothing_runs_away(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        shown(source)
