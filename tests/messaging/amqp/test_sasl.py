"""SASL of both ends: mechanisms, outcomes, cuts, and what no honest peer sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.amqp.connection import Connection
from messaging.amqp.events import Ended, Event, Opened, SaslDone
from messaging.amqp.sasl import AMQP_HEADER, MAX_SASL_BYTES, SASL_HEADER, ClientSasl, ServerSasl
from messaging.amqp.values import Described, Symbol, ULong, encode_value
from messaging.envelope import Secret
from tests.messaging.amqp.pairs import Pair

FRAMING, DENIED = "amqp:connection:framing-error", "amqp:unauthorized-access"
PLAIN = ClientSasl("PLAIN", "d@sas.hub", Secret(b"token"))


def sasl_frame(code: int, *fields: object) -> bytes:
    body = encode_value(Described(ULong(code), list(fields)))
    return (len(body) + 8).to_bytes(4, "big") + b"\x02\x01\x00\x00" + body


def initial(mechanism: str, response: bytes | None = None) -> bytes:
    return sasl_frame(0x41, Symbol(mechanism), response)


def server() -> Connection:
    return Connection(container_id="s", sasl=ServerSasl())


# A server


@pytest.mark.parametrize(
    ("sasl", "told"),
    [
        (ClientSasl(), SaslDone("ANONYMOUS", "", None)),
        (ClientSasl("MSSBCBS"), SaslDone("MSSBCBS", "", None)),
        (PLAIN, SaslDone("PLAIN", "d@sas.hub", Secret(b"token"))),
    ],
    ids=["ANONYMOUS", "MSSBCBS", "PLAIN"],
)
@pytest.mark.parametrize("piece_bytes", [0, 1, 5])
def test_each_mechanism_opens_the_way(sasl: ClientSasl, told: SaslDone, piece_bytes: int) -> None:
    pair = Pair(sasl, piece_bytes=piece_bytes)
    pair.client.open()
    pair.exchange()
    assert pair.at_server == [told]

    assert pair.server.sasl_outcome(True) == []
    pair.exchange()

    assert pair.at_server == [told, Opened("client", "hub", {})]


def test_a_client_may_skip_sasl() -> None:
    pair = Pair(None)
    pair.client.open()
    pair.exchange()

    assert pair.at_server == [Opened("client", "hub", {})]


def test_the_mechanisms_of_the_sheet_are_offered_in_its_order() -> None:
    hub = server()

    hub.receive_data(SASL_HEADER)

    assert hub.data_to_send() == SASL_HEADER + bytes.fromhex(
        "0000002a02010000" + "005340c01d01" + "e01a03a3" + "09" + b"ANONYMOUS".hex()
        + "07" + b"MSSBCBS".hex() + "05" + b"PLAIN".hex()
    )  # fmt: skip


def test_the_c_sdk_skips_the_initial_response_of_mssbcbs() -> None:
    hub = server()
    # azure-uamqp-c: header, then sasl-init with the mechanism alone.
    hub.receive_data(SASL_HEADER)
    hub.data_to_send()

    events = hub.receive_data(bytes.fromhex("0000001702010000005341c00a01a3074d535342434253"))
    assert events == [SaslDone("MSSBCBS", "", None)]
    hub.sasl_outcome(True)

    assert hub.data_to_send() == bytes.fromhex("0000001002010000005344c003015000")


def test_plain_without_a_response_is_asked_for_it() -> None:
    hub = server()
    hub.receive_data(SASL_HEADER + initial("PLAIN"))
    assert b"\x00\x53\x42" in hub.data_to_send()  # challenge

    events = hub.receive_data(sasl_frame(0x43, b"\x00user\x00password"))

    assert events == [SaslDone("PLAIN", "user", Secret(b"password"))]


def test_what_the_client_says_behind_sasl_waits_for_the_outcome() -> None:
    hub = server()
    client = Connection(container_id="c")
    client.open()

    events = hub.receive_data(SASL_HEADER + initial("ANONYMOUS") + client.data_to_send())
    assert [type(event) for event in events] == [SaslDone]

    assert hub.sasl_outcome(True) == [Opened("c", "", {})]
    hub.open()
    sent = hub.data_to_send()
    assert sent.index(b"\x00\x53\x44") < sent.index(AMQP_HEADER) < sent.index(b"\x00\x53\x10")


def test_a_refused_client_hears_it() -> None:
    pair = Pair(PLAIN)
    pair.exchange()

    [ended] = pair.server.sasl_outcome(False)
    assert ended == Ended(DENIED, "SASL: user or password is wrong", True)
    pair.exchange()

    [ended] = pair.at_client
    assert isinstance(ended, Ended)
    assert ended.condition == DENIED
    assert "PLAIN" in ended.description
    assert pair.server.receive_data(AMQP_HEADER) == []


@pytest.mark.parametrize(
    ("sent", "condition"),
    [
        pytest.param(initial("EXTERNAL"), DENIED, id="EXTERNAL"),
        pytest.param(sasl_frame(0x41), DENIED, id="no mechanism"),
        pytest.param(initial("PLAIN", b"user"), DENIED, id="PLAIN without NULs"),
        pytest.param(initial("PLAIN", b"\0\xff\0p"), DENIED, id="no UTF-8"),
        pytest.param(sasl_frame(0x41, Symbol("PLAIN"), "text"), DENIED, id="a string"),
        pytest.param(sasl_frame(0x43, b""), FRAMING, id="a response first"),
        pytest.param(b"\x00\x00\x00\x08\x02\x01\x00\x00", FRAMING, id="empty"),
        pytest.param(b"\x00\x00\x00\x07\x02\x01\x00\x00", FRAMING, id="7 bytes"),
        pytest.param(b"\x00\x01\x00\x01\x02\x01\x00\x00", FRAMING, id="too long"),
        pytest.param(b"\x00\x00\x00\x0a\x02\x00\x00\x00\x40", FRAMING, id="AMQP frame"),
        pytest.param(b"\x00\x00\x00\x09\x02\x01\x00\x00\x40", FRAMING, id="null"),
        pytest.param(AMQP_HEADER, FRAMING, id="no frame"),
    ],
)
@pytest.mark.parametrize("by_byte", [False, True], ids=["whole", "byte by byte"])
def test_what_is_no_sasl_ends_the_connection(sent: bytes, condition: str, by_byte: bool) -> None:
    hub = server()
    data = SASL_HEADER + sent

    pieces = [bytes((byte,)) for byte in data] if by_byte else [data]
    events = [event for piece in pieces for event in hub.receive_data(piece)]

    assert [(event.condition, event.offence) for event in events if isinstance(event, Ended)] == [
        (condition, True)
    ]
    assert len(events) == 1
    assert hub.data_to_send().startswith(SASL_HEADER)
    assert hub.data_to_send() == b""


def test_a_client_that_does_not_wait_is_bounded() -> None:
    hub = server()
    hub.receive_data(SASL_HEADER + initial("ANONYMOUS"))

    events: list[Event] = []
    for _ in range(MAX_SASL_BYTES // 1_000 + 2):
        events += hub.receive_data(bytes(1_000))

    assert [type(event) for event in events] == [Ended]
    assert hub.sasl_outcome(True) == []


def test_an_outcome_that_nobody_waits_for_does_nothing() -> None:
    hub = server()

    assert hub.sasl_outcome(True) == []
    assert hub.data_to_send() == b""


def test_close_before_the_end_of_sasl_ends_the_connection() -> None:
    hub = server()
    hub.receive_data(SASL_HEADER)

    hub.close("amqp:connection:forced", "shutting down")

    assert hub.ended
    assert hub.data_to_send().startswith(SASL_HEADER)
    assert hub.receive_data(initial("ANONYMOUS")) == []


# A client


def answer_client(*said: bytes) -> list[Event]:
    """Return what a client with PLAIN makes of a server that says this."""
    client = Connection(container_id="c", sasl=PLAIN)
    client.open()
    client.data_to_send()
    return [event for data in said for event in client.receive_data(data)]


@pytest.mark.parametrize(
    ("said", "condition"),
    [
        pytest.param([AMQP_HEADER], FRAMING, id="a server without SASL"),
        pytest.param([SASL_HEADER, sasl_frame(0x40, Symbol("ANONYMOUS"))], DENIED, id="not PLAIN"),
        pytest.param([SASL_HEADER, sasl_frame(0x40)], DENIED, id="no mechanisms"),
        pytest.param([SASL_HEADER, sasl_frame(0x44, ULong(0))], FRAMING, id="outcome first"),
        pytest.param(
            [SASL_HEADER, sasl_frame(0x40, Symbol("PLAIN")), sasl_frame(0x42, b"?")],
            FRAMING,
            id="a challenge",
        ),
        pytest.param(
            [SASL_HEADER, sasl_frame(0x40, Symbol("PLAIN")), sasl_frame(0x44, ULong(1))],
            DENIED,
            id="refused",
        ),
        pytest.param(
            [SASL_HEADER, sasl_frame(0x40, Symbol("PLAIN")), sasl_frame(0x44)],
            DENIED,
            id="no code",
        ),
    ],
)
def test_a_client_says_why_it_cannot_go_on(said: list[bytes], condition: str) -> None:
    events = answer_client(*said)

    assert [(event.condition, event.offence) for event in events if isinstance(event, Ended)] == [
        (condition, True)
    ]


def test_a_server_may_name_one_mechanism_without_an_array() -> None:
    client = Connection(container_id="c", sasl=ClientSasl("PLAIN", "u", Secret(b"p")))
    assert client.data_to_send() == SASL_HEADER
    client.receive_data(SASL_HEADER + sasl_frame(0x40, Symbol("PLAIN")))

    assert b"\xa0\x04\x00u\x00p" in client.data_to_send()
    client.open()
    assert client.data_to_send() == b""
    client.receive_data(sasl_frame(0x44, ULong(0)))
    assert client.data_to_send().startswith(AMQP_HEADER)


# Random


@given(st.lists(st.binary(max_size=40), max_size=6), st.sampled_from([b"", SASL_HEADER, SASL_HEADER[:5]]))
def test_random_bytes_never_raise(pieces: list[bytes], start: bytes) -> None:
    for one in (server(), Connection(container_id="c", sasl=ClientSasl())):
        for piece in (start, *pieces):
            if piece:
                one.receive_data(piece)
                one.data_to_send()
