"""Templates end, whatever they do, and leave the process unharmed."""

from __future__ import annotations

import pytest

from rhizome.clock import ManualClock, SystemClock
from rhizome.render import template as module
from rhizome.render.outcomes import CannotRender, Why
from rhizome.render.template import Budget, ChatTemplate, TemplateBroken

MESSAGES = [{"role": "user", "content": "Hi"}]


def _render(source: str, limit_s: float = 5.0) -> str:
    clock = SystemClock()
    return ChatTemplate(source, clock).render(MESSAGES, {}, Budget(clock, limit_s))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('no') }}", Why.TEMPLATE_FAILED),
        ("{{ 1 / 0 }}", Why.TEMPLATE_FAILED),
        ("{{ messages.a.b }}", Why.TEMPLATE_FAILED),
        ("{{ messages[0].content + 1 }}", Why.TEMPLATE_FAILED),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", Why.TEMPLATE_FAILED),
        ("{{ ''.__class__.__mro__ }}", Why.TEMPLATE_FAILED),
        ("{{ messages.append(1) }}", Why.TEMPLATE_FAILED),
        ("{{ 'x' * 10 ** 9 }}", Why.TEMPLATE_FAILED),
        ("{{ 10 ** 10 ** 10 }}", Why.TEMPLATE_FAILED),
        ("{{ strftime_now(1) }}", Why.TEMPLATE_FAILED),
        ("{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", Why.OUTPUT_TOO_LONG),
    ],
)
def test_a_wrong_template_cannot_render(source: str, why: Why) -> None:
    with pytest.raises(CannotRender) as caught:
        _render(source)
    assert caught.value.why is why


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) * 2 }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(99) }}",
        "{% for i in [0] recursive %}{{ loop([0] * 9) }}{{ loop([0] * 9) }}{% endfor %}",
    ],
)
def test_a_template_without_an_end_is_ended(source: str) -> None:
    with pytest.raises(CannotRender) as caught:
        _render(source, limit_s=0.2)
    assert caught.value.why in (Why.TEMPLATE_TOO_LONG, Why.TEMPLATE_FAILED)


def test_rounds_are_bounded_even_when_no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS_MAX", 10_000)
    clock = ManualClock()
    template = ChatTemplate("{% for i in range(99) %}" * 3 + "{% endfor %}" * 3, clock)
    with pytest.raises(CannotRender) as caught:
        template.render(MESSAGES, {}, Budget(clock, 1e9))
    assert caught.value.why is Why.TEMPLATE_TOO_LONG


@pytest.mark.parametrize("source", ["{% for %}", "{{ x | nofilter }}", "{% endif %}", "{{ '"])
def test_a_template_that_does_not_compile_says_so(source: str) -> None:
    with pytest.raises(TemplateBroken):
        ChatTemplate(source, SystemClock())


def test_counting_rounds_changes_no_output() -> None:
    source = (
        "{% macro m(x) %}<{{ x }}>{{ caller() if caller }}{% endmacro %}"
        "{% for a in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}"
        "{% for b in [] %}{% else %}none{% endfor %}{{ m(a) }}{% call m(a) %}c{% endcall %}"
        "{% endfor %}{{ rhizome_tick is defined }}"
    )
    assert _render(source) == ("1/3Falsenone<1><1>c2/3Falsenone<2><2>c3/3Truenone<3><3>cTrue")


@pytest.mark.parametrize(
    ("content", "expected"),
    [("so far", "[so far"), ("so far  ", "[so far  "), ([{"type": "text", "text": "x"}], "[x")],
)
def test_a_continued_message_stays_open(content: object, expected: str) -> None:
    clock = SystemClock()
    source = (
        "{% for m in messages %}[{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}]{% endfor %}"
    )
    messages = [{"role": "assistant", "content": content}]
    text = ChatTemplate(source, clock).render(
        messages, {}, Budget(clock, 1.0), continue_final_message=True
    )
    assert text == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "string"),
        ("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}", "openai"),
        (
            "{% set rest = messages[1:] %}{% set all = rest %}"
            "{% for m in all | list %}{% for p in m.content | list %}{% endfor %}{% endfor %}",
            "openai",
        ),
        (
            "{% macro f(c) %}{% for p in c %}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ f(c=m.content) }}{% endfor %}",
            "openai",
        ),
        (
            "{% macro f(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ f('x') }}",
            "string",
        ),
        ("{% for p in content %}{% endfor %}", "openai"),
        ("{% for m in other %}{% for p in m.content %}{% endfor %}{% endfor %}", "string"),
        ("{% for k, v in messages %}{% for p in content %}{% endfor %}{% endfor %}", "string"),
        ("{% set a = messages %}{% set messages = a %}{{ a }}", "string"),
    ],
)
def test_the_content_format_is_read_from_the_loops(source: str, expected: str) -> None:
    assert ChatTemplate(source, SystemClock()).content_format == expected
