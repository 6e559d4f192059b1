"""Conditions on envelopes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.envelope import Secret
from messaging.errors import RouteError
from messaging.routing.envelopes import FIELDS, compile_envelope_condition

ENVELOPE = {
    "process": "hub",
    "id": "00000000000000ab",
    "kind": "Publish",
    "to": "hub/router",
    "from": "hub/mqtt",
    "correlation": None,
    "lane": "data",
    "size": 1234,
    "waited_ms": 0.5,
}
MESSAGE = {
    "client": "d/m",
    "count": 5,
    "open": True,
    "numbers": (1, 2),
    "content": b'{"temperature": 21.5, "unit": "C"}',
    "text": b"plain",
    "headers": (msgpack.packb(["/messages/", {"level": "high", "n": 200}]),),
    "key": Secret(b"s3cret"),
    "inner": {"a": {"b": "c"}},
}


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "kind = 'Publish'",
        "$kind = 'Publish'",
        "KIND = 'Publish'",
        "from = 'hub/mqtt'",
        "$from = 'hub/mqtt'",
        "from = 'x' OR from = 'hub/mqtt' AND FROM <> ''",
        "size > 1000 and waited_ms <= 0.5",
        "size + 1 = 1235",
        "correlation = null",
        "starts_with(to, 'hub/')",
        "$body.client = 'd/m'",
        "$body.count = 5 AND $body.open = true",
        "$body.numbers[1] = 2",
        "$body.inner.a.b = 'c'",
        "$body.content.temperature > 21",
        "$body.text = 'plain'",
        "$body.headers[0][1].level = 'high'",
        "not is_defined($body.nope)",
        "not is_defined($body.key)",
        "lane = 'data'\nAND from\n= 'hub/mqtt'",
        "kind = 'from' OR kind = 'Publish'",
    ],
)
def test_a_condition_that_holds_matches(condition: str) -> None:
    assert compile_envelope_condition(condition)(ENVELOPE, MESSAGE)


@pytest.mark.parametrize(
    "condition",
    [
        "kind = 'publish'",
        "size > 2000",
        "size = '1234'",
        "$body.nope > 1",
        "$body.nope = null",
        "$body.nope.further = 1",
        "$body.numbers[7] > 0",
        "$body.key = 's3cret'",
        "$body.inner = 'c'",
        "size",
        "null",
    ],
)
def test_a_condition_that_does_not_hold_or_is_undefined_does_not_match(condition: str) -> None:
    assert not compile_envelope_condition(condition)(ENVELOPE, MESSAGE)


@pytest.mark.parametrize(
    ("condition", "line", "column", "problem"),
    [
        ("knd = 'x'", 1, 1, "an envelope has no field 'knd' (did you mean 'kind'?)"),
        ("from = 1 AND fro = 2", 1, 14, "an envelope has no field 'fro' (did you mean 'from'?)"),
        (
            "from = 1 AND\nfrom = 2 AND knd = 3",
            2,
            14,
            "an envelope has no field 'knd' (did you mean 'kind'?)",
        ),
        ("$body = 1", 1, 1, "an envelope has no field '$body'"),
        ("kind = ", 1, 8, "Syntax error. (found its end, expected a property, a value or a function)"),
        ("kind = 'x' 'y'", 1, 12, """(found "'y'", expected an operator)"""),
        ("kind = 'x", 1, 8, """unterminated string (found "'x", a string ends"""),
        ("size >> 3", 1, 7, "Syntax error."),
        ("1 = 'a'", 1, 3, "Invalid operands to binary operator '='"),
        ("__import__('os')", 1, 1, "Invalid built-in function '__import__'"),
        ("kind = 'x' INTO $upstream", 1, 26, "Syntax error."),
        ("$body.a..b = 1", 1, 1, "Invalid arguments to built-in function"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_position(
    condition: str, line: int, column: int, problem: str
) -> None:
    with pytest.raises(RouteError) as refused:
        compile_envelope_condition(condition)

    assert (refused.value.line, refused.value.column) == (line, column)
    assert problem in str(refused.value)


WORDS = st.sampled_from(
    [
        *FIELDS,
        "$body.client",
        "$body.nope",
        "'x'",
        "5",
        "=",
        "<",
        "AND",
        "OR",
        "NOT",
        "(",
        ")",
        "+",
        "null",
        "\n",
    ]
)


@given(st.lists(WORDS, max_size=12).map(" ".join))
def test_whatever_is_written_is_a_condition_or_refused(text: str) -> None:
    try:
        matches, refused = compile_envelope_condition(text), None
    except RouteError as exc:
        matches, refused = None, exc

    if refused is not None:
        assert 1 <= refused.line <= len(text.split("\n"))
        assert refused.column >= 1
    elif matches is not None:
        assert matches(ENVELOPE, MESSAGE) in (True, False)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner).map(tuple), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "client"]), VALUES))
def test_no_message_makes_a_condition_fail(message: dict[str, Any]) -> None:
    matches = compile_envelope_condition("$body.client.x[0] = 1 OR $body.a > 'b' OR length($body.b) > 2")

    assert matches(ENVELOPE, message) in (True, False)


@given(st.text(max_size=20))
def test_equality_with_a_text_is_python_s(text: str) -> None:
    matches = compile_envelope_condition("$body.client = 'Publish' OR kind = 'Publish'")

    assert matches(ENVELOPE | {"kind": text}, {"client": text}) == (text == "Publish")
