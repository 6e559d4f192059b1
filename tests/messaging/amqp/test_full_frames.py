import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.amqp.connection import Connection
from messaging.amqp.events import Ended, LinkAttached, LinkDetached, Opened, Received
from messaging.amqp.full_frames import with_all_fields
from messaging.amqp.sasl import AMQP_HEADER, ClientSasl, ServerSasl
from messaging.amqp.values import Described, UInt, ULong, decode_value, encode_value, value_end

FIELDS = {0x10: 10, 0x11: 8, 0x12: 14, 0x13: 11, 0x14: 11, 0x15: 6, 0x16: 3, 0x17: 1, 0x18: 1}


def frame(code: int, fields: list[object], payload: bytes = b"", kind: int = 0) -> bytes:
    body = encode_value(Described(ULong(code), fields)) + payload
    return (len(body) + 8).to_bytes(4, "big") + bytes((2, kind, 0, 5)) + body


def parts(data: bytes) -> tuple[object, bytes]:
    """Return performative and payload of the one frame that these bytes are."""
    assert int.from_bytes(data[:4], "big") == len(data)
    assert data[4:8] == bytes((2, 0, 0, 5))
    end = value_end(data, 8)
    return decode_value(data[8:end]), data[end:]


@pytest.mark.parametrize("code", FIELDS, ids=hex)
@given(
    numbers=st.lists(st.integers(0, 2**32 - 1) | st.none(), max_size=20),
    payload=st.binary(max_size=300),
    text=st.text(max_size=400),
)
def test_what_is_missing_at_the_end_is_null_and_all_else_as_it_was(
    code: int, numbers: list[int | None], payload: bytes, text: str
) -> None:
    fields = [text, *(None if number is None else UInt(number) for number in numbers)][: FIELDS[code]]

    performative, behind = parts(with_all_fields(frame(code, fields, payload), 0))

    assert performative == Described(ULong(code), fields + [None] * (FIELDS[code] - len(fields)))
    assert behind == payload


@pytest.mark.parametrize("code", [0x17, 0x18], ids=["end", "close"])
def test_the_error_of_an_end_has_all_its_fields(code: int) -> None:
    error = Described(ULong(0x1D), ["amqp:internal-error", "why"])

    performative, _ = parts(with_all_fields(frame(code, [error]), 0))

    assert performative == Described(
        ULong(code), [Described(ULong(0x1D), ["amqp:internal-error", "why", None])]
    )


@pytest.mark.parametrize(
    "data",
    [
        AMQP_HEADER,
        b"\x00\x00\x00\x08\x02\x00\x00\x00",
        frame(0x44, [UInt(0)], kind=1),
        AMQP_HEADER + frame(0x44, [UInt(0)], kind=1) + AMQP_HEADER,
    ],
    ids=["header", "heart-beat", "SASL", "SASL between headers"],
)
def test_what_has_no_performative_of_amqp_passes_as_it_is(data: bytes) -> None:
    assert with_all_fields(data, 0) == data


def test_no_frame_becomes_longer_than_the_peer_takes() -> None:
    short, long = frame(0x14, [UInt(0)]), frame(0x14, [UInt(0)], b"m" * 100)

    written = with_all_fields(short + long, len(long))

    assert written == with_all_fields(short, 0) + long


def test_two_connections_understand_each_other_with_all_fields() -> None:
    client = Connection(container_id="c", sasl=ClientSasl())
    server = Connection(container_id="s", sasl=ServerSasl(), all_fields=True)
    seen: list[object] = []

    def exchange() -> None:
        while (to_server := client.data_to_send()) or (to_client := server.data_to_send()):
            for event in server.receive_data(to_server) if to_server else ():
                if isinstance(event, Opened):
                    server.open()
                elif isinstance(event, LinkAttached):
                    event.link.accept() if event.link.address == "yes" else event.link.refuse(
                        "amqp:link:redirect", "there", {"hostname": "h"}
                    )
                elif type(event).__name__ == "SaslDone":
                    server.sasl_outcome(True)
                elif type(event).__name__ == "CreditGranted":
                    event.link.send(b"\x00\x53\x75\xa0\x01m", b"1", settled=True)
            if not to_server:
                seen.extend(client.receive_data(to_client))

    client.open()
    receiver = client.attach_receiver("r", "yes")
    receiver.grant(1)
    client.attach_receiver("n", "no")
    exchange()
    server.close("amqp:connection:forced", "bye")
    exchange()

    assert [type(event) for event in seen if isinstance(event, Opened | Received)] == [Opened, Received]
    (detached,) = [event for event in seen if isinstance(event, LinkDetached)]
    assert detached.condition == "amqp:link:redirect"
    (end,) = [event for event in seen if isinstance(event, Ended)]
    assert (end.condition, end.description) == ("amqp:connection:forced", "bye")
