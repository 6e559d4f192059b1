"""Explanations of conditions: true to the condition, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging.errors import RouteError
from messaging.message import Message
from messaging.routing.compile import View, compile_condition
from messaging.routing.explain import Part, _text, explain
from messaging.routing.grammar import parse_condition
from tests.messaging.routing.reference import Tree, render
from tests.messaging.routing.test_against_reference import bodies, conditions, properties, system_properties
from tests.messaging.routing.test_condition import M1, M2


def part_of(text: str, message: Message = M1) -> Part:
    part = explain(parse_condition(text), message).part
    assert part is not None
    return part


@settings(max_examples=400)
@given(conditions, properties, system_properties, bodies, st.booleans())
def test_an_explanation_agrees_with_the_condition_and_its_text_means_the_same(
    tree: Tree, application: dict[str, str], system: dict[str, str], body: bytes, all_brackets: bool
) -> None:
    expression = parse_condition(render(tree, all_brackets))
    message = Message("/messages/", application, system, body)
    assert expression is not None
    try:
        verdict = compile_condition(expression).evaluate(View(message))
    except RouteError:
        return

    found = explain(expression, message)
    again = parse_condition(_text(expression))

    assert found.passes is (verdict is True)
    assert again is not None
    assert compile_condition(again).evaluate(View(message)) is verdict
    assert _text(again) == _text(expression)


@pytest.mark.parametrize(
    "text",
    [
        "NOT (level = 'warn' AND true)",
        "(level = 'warn' OR true) AND true",
        "level = 'warn' OR true AND true",
        "2 * (3 + 4) - 5 = 9",
        "2 - (3 - 4) = 3",
        "2 - 3 - 4 = -5",
        "(absent ?? 'x') = 'x'",
        "{$shade} = 'sys' AND lower($body.state) || '!' = 'run!'",
        "- (1 + 2) < - 1",
        "1 = 1 = (2 = 2)",
    ],
)
def test_brackets_stand_where_they_are_needed(text: str) -> None:
    assert part_of(text).text == text


def test_neighbours_of_one_operator_stand_side_by_side() -> None:
    part = part_of("level = 'warn' AND absent = 'x' AND true AND temp = '21.5'")

    assert [(inner.text, inner.value) for inner in part.parts] == [
        ("level = 'warn'", "true"),
        ("absent = 'x'", "undefined"),
        ("temp = '21.5'", "true"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$body.rpm", "1450"),
        ("$body.load", "0.75"),
        ("$body.state", '"RUN"'),
        ("$body.gone", "null"),
        ("5 / 0", "Infinity"),
        ("- 5 / 0", "-Infinity"),
        ("1e20", "1e+20"),
        ("0 / 0", "undefined"),
        ("concat(level, '" + "x" * 500 + "')", '"warn' + "x" * 116 + '…"'),
    ],
)
def test_values_are_shown_as_a_condition_writes_them(text: str, value: str) -> None:
    assert part_of(text).value == value


@pytest.mark.parametrize(
    ("text", "message", "note"),
    [
        ("$body.rpm > 5", M2, "the content type is '', not exactly 'application/json'"),
        ("$body.at = 'x'", M1, "an object, an array or a date has no value"),
        ("$body.axes = 3", M1, "an object, an array or a date has no value"),
        ("$body.no = 3", M1, "the body has nothing there"),
        ("$none = 'x'", M1, "the message has no system property 'none'"),
        ("{$level} = 'x'", M1, "the message has no system property 'level'"),
    ],
)
def test_what_is_undefined_has_its_reason(text: str, message: Message, note: str) -> None:
    assert part_of(text, message).parts[0].note == note


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("1 + " * 7_000 + "1 = 7001", id="long"),
        pytest.param("1 + 1 - " * 3_500 + "1 = 1", id="long, of two operators"),
        pytest.param("NOT " * 32 + "true", id="NOT"),
        pytest.param(
            "$body.a ?? $body.a OR $body.a AND $body.a = $body.a < $body.a + $body.a * as_number(" * 32
            + "$body.rpm"
            + ")" * 32,
            id="deepest",
        ),
    ],
)
def test_long_and_deep_conditions_are_explained_too(text: str) -> None:
    found = explain(parse_condition(text), M1)

    assert found.part is not None
    assert len(found.part.text) <= 120
