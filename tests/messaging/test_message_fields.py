"""Messages by the names of their fields."""

from __future__ import annotations

import pytest

from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.kinds import message
from messaging.message_fields import field_names, make_message


@message
class FieldsOfAll:
    """One field of each sort."""

    name: str
    count: int
    key: Secret
    parts: tuple[tuple[str, int], ...]
    content: bytes = b""


@message
class FieldsOfNone:
    """Nothing to say."""


def test_the_names_of_fields_are_told_in_order() -> None:
    assert field_names("FieldsOfAll") == ("name", "count", "key", "parts", "content")
    assert field_names("FieldsOfNone") == field_names("NobodyKnowsThisKind") == ()


def test_a_message_is_made_from_its_fields_by_name() -> None:
    fields = {"name": "n", "count": 2, "key": Secret(b"k"), "parts": (("a", 1),)}

    assert make_message("FieldsOfAll", fields) == FieldsOfAll("n", 2, Secret(b"k"), (("a", 1),))
    assert make_message("FieldsOfNone", {}) == FieldsOfNone()


GOOD = {"name": "n", "count": 2, "key": Secret(b"k"), "parts": ()}


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        ("FieldsOfAl", GOOD, "there is no kind of message 'FieldsOfAl'; did you mean 'FieldsOfAll'?"),
        ("FieldsOfAll", GOOD | {"nam": 1}, "FieldsOfAll has no field 'nam'; did you mean 'name'?"),
        ("FieldsOfAll", GOOD | {"xyz": 1}, "FieldsOfAll has no field 'xyz'; there are name, count, "
         "key, parts, content"),
        ("FieldsOfNone", {"a": 1}, "FieldsOfNone has no field 'a'; it has none"),
        ("FieldsOfAll", {"name": "n"}, "FieldsOfAll: Object missing required field `count`"),
        ("FieldsOfAll", GOOD | {"count": "2"}, "FieldsOfAll: Expected `int`, got `str` - at `$.count`"),
        ("FieldsOfAll", GOOD | {"key": "k"}, "FieldsOfAll: Expected `Secret`, got `str` - at `$.key`"),
        ("FieldsOfAll", GOOD | {"parts": (("a",),)}, "FieldsOfAll: Expected `array` of length 2, got 1 - at "
         "`$.parts[0]`"),
        ("FieldsOfAll", GOOD | {"content": "c"}, "FieldsOfAll: Expected `bytes`, got `str` - at `$.content`"),
    ],
    ids=["kind", "near", "far", "has none", "missing", "type", "secret", "inner", "bytes"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(kind: str, fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_message(kind, fields)

    assert str(refused.value) == problem
