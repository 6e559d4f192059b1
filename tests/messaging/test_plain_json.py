"""Values of messages as JSON and back."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.plain_json import from_json, to_json, unpacked

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()
)
KEYS = st.one_of(
    st.text(), st.sampled_from(["$text", "$bytes", "$map", "$other"]), st.integers(0, 9), st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.lists(inner, max_size=3).map(lambda members: msgpack.packb(members)),
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equality in which nan is itself, and 1, 1.0 and True are not."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(VALUES)
def test_what_a_message_carries_comes_back_as_it_was(value: Any) -> None:
    text = json.dumps(to_json(value), allow_nan=False)

    assert same(from_json(json.loads(text)), value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"text", {"$text": "text"}),
        (b"\xff\x00", {"$bytes": "/wA="}),
        (msgpack.packb(["a", {"b": 200}]), {"$msgpack": ["a", {"b": 200}]}),
        (b"\x91\xcb\x7f\xf0\0\0\0\0\0\1", {"$bytes": "kct/8AAAAAAAAQ=="}),
        (Secret(b"key"), {"$secret": "***"}),
        (float("inf"), {"$float": "inf"}),
        ({1: "a"}, {"$map": [[1, "a"]]}),
        ({"$text": "a"}, {"$map": [["$text", "a"]]}),
        ({"$text": "a", "b": 1}, {"$text": "a", "b": 1}),
        ((1, [2]), [1, [2]]),
    ],
    ids=[
        "text",
        "bytes",
        "msgpack",
        "a nan of its own",
        "secret",
        "infinite",
        "map",
        "looks special",
        "only looks so",
        "arrays",
    ],
)
def test_what_json_has_no_form_for_is_written_with_a_name(value: Any, written: Any) -> None:
    assert to_json(value) == written


def test_a_secret_is_read_as_one() -> None:
    assert from_json({"key": {"$secret": "s3"}}) == {"key": Secret(b"s3")}


@pytest.mark.parametrize(
    "written",
    [
        {"$text": 1},
        {"$bytes": "%"},
        {"$float": "1"},
        {"$map": [[1]]},
        {"$map": [[{}, 1]]},
        {"$nope": 1},
        {"$bytes": 1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_how_it_is_written(written: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"makes no sense: .* (is|are) "):
        from_json(written)


def test_what_no_message_can_carry_is_an_error() -> None:
    with pytest.raises(TypeError, match="cannot carry a object"):
        to_json(object())


@given(st.binary(max_size=40))
def test_bytes_are_taken_for_msgpack_only_when_they_come_out_again(value: bytes) -> None:
    found = unpacked(value)

    assert found is None or msgpack.packb(found) == value
