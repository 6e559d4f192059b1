"""Messages behave as frozen dataclasses do, though they share their methods."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from messaging.envelope import Secret
from messaging.kinds import kind_of, message


@message
class Asked:
    """With a default, and a field that is not shown."""

    name: str
    body: bytes = field(default=b"", repr=False)
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


@dataclass(frozen=True, slots=True)
class Plain:
    """What messages are to be like."""

    name: str
    body: bytes = field(default=b"", repr=False)
    key: Secret = Secret(b"")  # noqa: RUF009


def test_messages_are_equal_by_kind_and_values() -> None:
    assert Asked("a", b"1") == Asked("a", b"1")
    assert Asked("a", b"1") != Asked("a", b"2")
    assert Asked("a") != AlsoAsked("a")
    assert Asked("a") != ("a", b"", Secret(b""))
    assert Nothing() == Nothing()
    assert len({Asked("a"), Asked("a"), Asked("b"), Nothing(), Nothing()}) == 3


def test_a_message_is_shown_without_what_shall_not_be_shown() -> None:
    shown = repr(Asked("a", b"hidden", Secret(b"hidden")))

    assert shown == repr(Plain("a", b"hidden", Secret(b"hidden"))).replace("Plain", "Asked")
    assert "hidden" not in shown
    assert repr(Nothing()) == "Nothing()"


def test_a_message_cannot_be_changed() -> None:
    asked: Any = Asked("a")

    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'name'"):
        asked.name = "b"
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'name'"):
        del asked.name
    with pytest.raises(FrozenInstanceError):
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


def test_what_dataclasses_offer_works_with_messages() -> None:
    asked = Asked("a", b"1")

    assert is_dataclass(asked)
    assert [one.name for one in fields(asked)] == ["name", "body", "key"]
    assert replace(asked, name="b") == Asked("b", b"1")
    match asked:
        case Asked(name, body):
            assert (name, body) == ("a", b"1")
    assert kind_of(Asked).values(asked) == ("a", b"1", Secret(b""))


@pytest.mark.parametrize("arguments", [(), ("a", b"", Secret(b""), 4)], ids=["too few", "too many"])
def test_a_message_with_wrong_arguments_is_refused(arguments: tuple[Any, ...]) -> None:
    make: Any = Asked

    with pytest.raises(TypeError):
        make(*arguments)


def test_a_default_that_is_made_anew_is_refused_when_the_message_is_defined() -> None:
    with pytest.raises(TypeError, match="message Listed: a default is a value"):

        @message
        class Listed:
            """Its default could be changed."""

            names: list[str] = field(default_factory=list)
