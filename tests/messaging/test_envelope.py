"""Envelopes: what goes in comes out, nothing else gets in, secrets stay secret."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging import envelope as envelopes
from messaging.bus import make_envelope
from messaging.dead_letters import DeadLetter
from messaging.envelope import Envelope, Secret, decode, encode, lane_of
from messaging.errors import EnvelopeError
from messaging.kinds import data_message, kind_named, kind_of, message


@message
class Crate:
    """Anything at all."""

    content: object


@data_message
class Freight:
    """Something heavy."""

    content: bytes


def wrap(content: object) -> Envelope:
    return make_envelope(Crate(content), "hub/store", "hub/router", 7, 3, 5, 1.5, 2.5)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(Secret, st.binary()),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_every_value_comes_back_as_it_was_sent(content: object) -> None:
    assert decode(encode(wrap(content))) == wrap(content)


def test_a_list_arrives_as_a_tuple_because_messages_are_frozen() -> None:
    assert decode(encode(wrap([1, [2]]))).body == ((1, (2,)),)


def test_an_unknown_kind_still_decodes_so_that_it_can_be_named() -> None:
    frame = encode(wrap(1)._replace(kind="FromTheFuture"))

    assert decode(frame).kind == "FromTheFuture"
    assert kind_named("FromTheFuture") is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x9b",
        b"x" * 100,
        msgpack.packb([2, 0, 1, "K", "to", "", 0, 0, 0.0, 0.0, []]),
        msgpack.packb([1, 0, 1, "K", "to", "", 0, 0, 0.0, 0.0]),
        msgpack.packb([1, 0, 1, "K", "to", "", 0, 0, 0.0, 0.0, {}]),
        msgpack.packb([1, 0, 1, 5, "to", "", 0, 0, 0.0, 0.0, []]),
        msgpack.packb([1, 0, 1, "K", None, "", 0, 0, 0.0, 0.0, []]),
        msgpack.packb([1, 0, 1, "K", "to", 3, 0, 0, 0.0, 0.0, []]),
        msgpack.packb([1, 0, 1, "K", "to", "", 0, 0, 0.0, None, []]),
        msgpack.packb([1, 0, 1, "K", "to", "", 0, 0, 0.0, 0.0, [msgpack.ExtType(99, b"")]]),
        encode(wrap(1)) + b"\x00",
        encode(wrap("x" * 100))[:-1],
    ],
    ids=[
        "empty", "one byte", "text", "other version", "ten fields", "body a map", "kind a number",
        "no address", "sender a number", "no deadline", "unknown extension",
        "trailing byte", "cut short",
    ],
)  # fmt: skip
def test_what_is_not_an_envelope_is_an_envelope_error(frame: bytes) -> None:
    with pytest.raises(EnvelopeError):
        decode(frame)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_envelope_errors(frame: bytes) -> None:
    try:
        decode(b"\x9b\x01" + frame)
    except EnvelopeError:
        pass


@given(st.data(), plain)
def test_flipped_bytes_raise_nothing_but_envelope_errors(data: st.DataObject, content: object) -> None:
    frame = bytearray(encode(wrap(content)))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))

    try:
        decode(bytes(frame))
    except EnvelopeError:
        pass


def test_a_message_over_the_size_limit_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelopes, "MAX_ENVELOPE_BYTES", 1000)

    with pytest.raises(EnvelopeError, match="Crate to hub/store has 1"):
        encode(wrap(b"x" * 1000))


def test_an_object_that_msgpack_cannot_carry_is_named() -> None:
    with pytest.raises(EnvelopeError, match=r"Crate to hub/store cannot be encoded.*set"):
        encode(wrap({1, 2}))


def test_a_secret_travels_but_never_shows() -> None:
    envelope = decode(encode(wrap({"key": Secret(b"hunter2")})))
    letter = DeadLetter(envelope, "refused", "", 0.0)

    assert envelope.body[0]["key"].reveal() == b"hunter2"
    assert "hunter2" not in repr(envelope)
    assert "hunter2" not in str(letter.summary())


def test_the_lane_is_read_without_decoding() -> None:
    data = make_envelope(Freight(b""), "a", "b", 1, 0, 0, 0.0, 0.0)

    assert (lane_of(encode(data)), lane_of(encode(wrap(1))), lane_of(b""), lane_of(b"junk")) == (1, 0, 0, 0)


def test_a_class_that_is_no_message_is_named() -> None:
    with pytest.raises(TypeError, match="int is not a message"):
        kind_of(int)
