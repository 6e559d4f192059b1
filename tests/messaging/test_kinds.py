"""Messages are frozen structs, each of a kind."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import msgspec
import pytest

from messaging.envelope import Secret
from messaging.kinds import kind_of, message
from messaging.message_fields import fields_of


@message
class Asked:
    """With defaults."""

    name: str
    body: bytes = b""
    key: Secret = Secret(b"")  # it cannot be changed


@message
class AlsoAsked:
    """Has the same fields."""

    name: str
    body: bytes = b""
    key: Secret = Secret(b"")


@message
class Nothing:
    """Has none."""


def test_messages_are_equal_by_kind_and_values() -> None:
    assert Asked("a", b"1") == Asked("a", b"1")
    assert Asked("a", b"1") != Asked("a", b"2")
    assert Asked("a") != AlsoAsked("a")
    assert Asked("a") != ("a", b"", Secret(b""))
    assert Nothing() == Nothing()
    assert len({Asked("a"), Asked("a"), Asked("b"), Nothing(), Nothing()}) == 3


def test_a_message_is_shown_with_its_fields_and_without_secrets() -> None:
    shown = repr(Asked("a", b"1", Secret(b"hidden")))

    assert shown.startswith("Asked(name='a', body=b'1', key=")
    assert "hidden" not in shown
    assert repr(Nothing()) == "Nothing()"


def test_a_message_cannot_be_changed() -> None:
    asked: Any = Asked("a")

    with pytest.raises(AttributeError, match="immutable type: 'Asked'"):
        asked.name = "b"
    with pytest.raises(AttributeError, match="immutable type: 'Asked'"):
        del asked.name
    with pytest.raises(AttributeError):
        asked.other = 1
    assert not hasattr(asked, "__dict__")


@pytest.mark.parametrize("made", [Asked("a", b"1", Secret(b"2")), Nothing()], ids=["fields", "none"])
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))],
    ids=["copy", "deep copy", "pickle"],
)
def test_a_copy_of_a_message_is_equal(made: Any, copied: Any) -> None:
    assert copied(made) == made


def test_what_msgspec_offers_works_with_messages() -> None:
    asked: Any = Asked("a", b"1")

    assert fields_of(asked) == {"name": "a", "body": b"1", "key": Secret(b"")}
    assert msgspec.structs.replace(asked, name="b") == Asked("b", b"1")
    match asked:
        case Asked(name, body):
            assert (name, body) == ("a", b"1")
    assert kind_of(Asked).fields == ("name", "body", "key")
    assert kind_of(Asked).values(asked) == ("a", b"1", Secret(b""))


@pytest.mark.parametrize("arguments", [(), ("a", b"", Secret(b""), 4)], ids=["too few", "too many"])
def test_a_message_with_wrong_arguments_is_refused(arguments: tuple[Any, ...]) -> None:
    make: Any = Asked

    with pytest.raises(TypeError):
        make(*arguments)


def test_a_field_of_dataclasses_is_refused_when_the_message_is_defined() -> None:
    with pytest.raises(TypeError, match="message Listed: the default of names has to be a value"):

        @message
        class Listed:
            """Its default would be the field itself."""

            names: tuple[str, ...] = dataclasses.field(default=())
