"""A connection fed with bytes in every cut, in every state, and with bytes that no honest peer sends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt.connection import ClientConnection, ServerConnection, State
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    encode_puback_many,
    encode_publish,
)
from tests.messaging.mqtt import strategies

ACCEPTED = ConnAck(ReturnCode.ACCEPTED)
REFUSED = ConnAck(ReturnCode.NOT_AUTHORIZED)
CONNECT = Connect("d")
PUBLISH = Publish("a/b", b"hot", 1, 7)

ONE_OF_EACH: list[Packet] = [
    CONNECT,
    ACCEPTED,
    PUBLISH,
    PubAck(1),
    PubRec(1),
    PubRel(1),
    PubComp(1),
    Subscribe(1, (("a", 1),)),
    SubAck(1, (1,)),
    Unsubscribe(1, ("a",)),
    UnsubAck(1),
    PingReq(),
    PingResp(),
    Disconnect(),
]


def connected_server(**limits: int) -> ServerConnection:
    server = ServerConnection(**limits)
    server.receive_data(CONNECT.encode())
    server.send(ACCEPTED)
    assert server.authenticated() == []
    return server


def connected_client() -> ClientConnection:
    client = ClientConnection()
    client.send(CONNECT)
    client.receive_data(ACCEPTED.encode())
    return client


def server_in(state: State) -> ServerConnection:
    server = ServerConnection()
    if state is not State.FRESH:
        server.receive_data(CONNECT.encode())
    if state is State.CLOSED:
        server.send(REFUSED)
    if state in (State.CONNECTED, State.LEFT):
        server.send(ACCEPTED)
        server.authenticated()
    if state is State.LEFT:
        server.receive_data(Disconnect().encode())
    assert server.state is state
    return server


def client_in(state: State) -> ClientConnection:
    client = ClientConnection()
    if state is not State.FRESH:
        client.send(CONNECT)
    if state is State.CLOSED:
        client.receive_data(REFUSED.encode())
    if state in (State.CONNECTED, State.LEFT):
        client.receive_data(ACCEPTED.encode())
    if state is State.LEFT:
        client.send(Disconnect())
    assert client.state is state
    return client


def by_packet(packet: Packet) -> str:
    return type(packet).__name__


def outcome(
    connection: ServerConnection | ClientConnection, pieces: Iterable[bytes]
) -> tuple[list[Packet], str | None]:
    """Feed pieces until the peer's first mistake; return the packets and what the mistake was."""
    packets: list[Packet] = []
    for piece in pieces:
        try:
            packets += connection.receive_data(piece)
        except RemoteProtocolError as exc:
            return packets, str(exc)
        if connection.offence is not None:
            return packets, str(connection.offence)
    return packets, None


def in_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def in_halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 2], data[len(data) // 2 :]]


# How packets are cut


FROM_CLIENT: list[Packet] = [
    PUBLISH,
    PubAck(1),
    Subscribe(2, (("a/#", 1),)),
    Publish("a", bytes(20_000), 1, 8),
    PingReq(),
    Publish("a", bytes(200)),
]
CUTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda data: [data],
    "byte by byte": in_bytes,
    "two halves": in_halves,
    "sevens": lambda data: [data[i : i + 7] for i in range(0, len(data), 7)],
    "with empty reads": lambda data: [b"", *(piece for half in in_halves(data) for piece in (half, b""))],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_packets_arrive_alike_however_the_stream_is_cut(cut: Callable[[bytes], list[bytes]]) -> None:
    stream = b"".join(packet.encode() for packet in FROM_CLIENT)

    assert outcome(connected_server(), cut(stream)) == (FROM_CLIENT, None)


def ready_for(packet: Packet) -> ServerConnection | ClientConnection:
    """A connection in the state where this packet may arrive."""
    if isinstance(packet, Connect):
        return ServerConnection()
    if isinstance(packet, ConnAck):
        return client_in(State.CONNECTING)
    return connected_client() if isinstance(packet, SubAck | UnsubAck | PingResp) else connected_server()


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("packet", ONE_OF_EACH, ids=by_packet)
def test_every_packet_arrives_however_it_is_cut(packet: Packet, cut: Callable[[bytes], list[bytes]]) -> None:
    assert outcome(ready_for(packet), cut(packet.encode())) == ([packet], None)


@pytest.mark.parametrize(
    "packet", [p for p in ONE_OF_EACH if not isinstance(p, Connect | Disconnect)], ids=by_packet
)
def test_the_start_of_the_next_packet_waits_for_its_rest(packet: Packet) -> None:
    connection = ready_for(packet)
    following = PUBLISH.encode()

    first = connection.receive_data(packet.encode() + following[:-1])
    second = connection.receive_data(following[-1:] + following[:1])
    third = connection.receive_data(following[1:])

    assert (first, second, third) == ([packet], [PUBLISH], [PUBLISH])


@given(st.lists(strategies.from_client, max_size=8), st.lists(st.integers(0, 2000), max_size=6))
def test_any_packets_of_a_client_arrive_under_any_cut(sent: list[Packet], cuts: list[int]) -> None:
    stream = b"".join(packet.encode() for packet in sent)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]

    pieces = [stream[a:b] for a, b in pairwise(edges)]

    assert outcome(connected_server(), pieces) == (sent, None)


@given(st.lists(strategies.from_server, max_size=8))
def test_any_packets_of_a_server_arrive_byte_by_byte(sent: list[Packet]) -> None:
    stream = b"".join(packet.encode() for packet in sent)

    assert outcome(connected_client(), in_bytes(stream)) == (sent, None)


def test_a_read_of_64_kib_gives_every_publish_in_order() -> None:
    stream = b"".join(encode_publish(b"t" * 60, n.to_bytes(2) * 128, n, 1) for n in range(1, 1001))
    reads = [stream[i : i + 65_536] for i in range(0, len(stream), 65_536)]

    packets, offence = outcome(connected_server(), reads)

    assert offence is None
    assert [(p.packet_id, p.payload[:2]) for p in packets if isinstance(p, Publish)] == [
        (n, n.to_bytes(2)) for n in range(1, 1001)
    ]


# What is legal when

BOTH = {Publish, PubAck, PubRec, PubRel, PubComp}
CLIENT = BOTH | {Subscribe, Unsubscribe, PingReq, Disconnect}
SERVER = BOTH | {SubAck, UnsubAck, PingResp}


@pytest.mark.parametrize("packet", ONE_OF_EACH, ids=by_packet)
@pytest.mark.parametrize(
    ("state", "legal"),
    [(State.FRESH, {Connect}), (State.CONNECTED, CLIENT), (State.LEFT, set())],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_a_server_takes_only_what_is_legal_now(state: State, legal: set[type], packet: Packet) -> None:
    server = server_in(state)

    if type(packet) in legal:
        assert server.receive_data(packet.encode()) == [packet]
    else:
        with pytest.raises(RemoteProtocolError, match=f"{by_packet(packet)} is not legal {state.value}"):
            server.receive_data(packet.encode())


@pytest.mark.parametrize("packet", ONE_OF_EACH, ids=by_packet)
@pytest.mark.parametrize(
    ("state", "legal"),
    [
        (State.FRESH, set()),
        (State.CONNECTING, {ConnAck}),
        (State.CONNECTED, SERVER),
        (State.LEFT, SERVER),
        (State.CLOSED, set()),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_a_client_takes_only_what_is_legal_now(state: State, legal: set[type], packet: Packet) -> None:
    client = client_in(state)

    if type(packet) in legal:
        assert client.receive_data(packet.encode()) == [packet]
    else:
        with pytest.raises(RemoteProtocolError, match=f"{by_packet(packet)} is not legal {state.value}"):
            client.receive_data(packet.encode())


@pytest.mark.parametrize("packet", ONE_OF_EACH, ids=by_packet)
@pytest.mark.parametrize(
    ("state", "legal"),
    [
        (State.FRESH, set()),
        (State.CONNECTING, {ConnAck}),
        (State.CONNECTED, SERVER),
        (State.LEFT, SERVER),
        (State.CLOSED, set()),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_a_server_sends_only_what_is_legal_now(state: State, legal: set[type], packet: Packet) -> None:
    server = server_in(state)

    if type(packet) in legal:
        assert server.send(packet) == packet.encode()
    else:
        with pytest.raises(LocalProtocolError, match=f"{by_packet(packet)} may not be sent {state.value}"):
            server.send(packet)


@pytest.mark.parametrize("packet", ONE_OF_EACH, ids=by_packet)
@pytest.mark.parametrize(
    ("state", "legal"),
    [
        (State.FRESH, {Connect}),
        (State.CONNECTING, CLIENT),
        (State.CONNECTED, CLIENT),
        (State.LEFT, set()),
        (State.CLOSED, set()),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
def test_a_client_sends_only_what_is_legal_now(state: State, legal: set[type], packet: Packet) -> None:
    client = client_in(state)

    if type(packet) in legal:
        assert client.send(packet) == packet.encode()
    else:
        with pytest.raises(LocalProtocolError, match=f"{by_packet(packet)} may not be sent {state.value}"):
            client.send(packet)


def test_a_packet_that_cannot_be_encoded_does_not_move_the_state() -> None:
    client = ClientConnection()

    with pytest.raises(LocalProtocolError):
        client.send(Connect("", clean_session=False))

    assert client.state is State.FRESH


FIRST_BYTES = {
    "type 0": (b"\x00", "type 0 is reserved"),
    "type 15": (b"\xf0", "type 15 is reserved"),
    "publish at QoS 3": (b"\x36", "Publish with flags 0b0110"),
    "publish at QoS 0 with DUP": (b"\x38", "Publish with flags 0b1000"),
    "puback with a flag": (b"\x41", "PubAck with flags 0b0001"),
    "pubrel without its flag": (b"\x60", "PubRel with flags 0b0000"),
    "subscribe without its flag": (b"\x80", "Subscribe with flags 0b0000"),
    "unsubscribe without its flag": (b"\xa0", "Unsubscribe with flags 0b0000"),
    "disconnect with a flag": (b"\xe8", "Disconnect with flags 0b1000"),
    "an HTTP client": (b"G", "PubAck with flags 0b0111"),
    "a TLS client": (b"\x16", "Connect with flags 0b0110"),
}


@pytest.mark.parametrize("server", [ServerConnection, connected_server], ids=["fresh", "connected"])
@pytest.mark.parametrize(("first", "reason"), FIRST_BYTES.values(), ids=FIRST_BYTES)
def test_a_wrong_first_byte_is_refused_before_another_one_arrives(
    server: Callable[[], ServerConnection], first: bytes, reason: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        server().receive_data(first)


# Mistakes of the peer


def test_packets_in_front_of_a_mistake_are_given_out_first() -> None:
    server = connected_server()

    packets = server.receive_data(PUBLISH.encode() + PingReq().encode() + b"\x00\x00" + PUBLISH.encode())

    assert packets == [PUBLISH, PingReq()]
    assert str(server.offence) == "packet type 0 is reserved"
    with pytest.raises(RemoteProtocolError, match="type 0"):
        server.receive_data(b"")


def test_nothing_is_taken_after_a_mistake() -> None:
    server = connected_server()
    with pytest.raises(RemoteProtocolError, match="type 0"):
        server.receive_data(b"\x00")

    with pytest.raises(RemoteProtocolError, match="type 0"):
        server.receive_data(PUBLISH.encode())


def test_answers_to_packets_in_front_of_a_mistake_can_still_be_sent() -> None:
    server = connected_server()
    server.receive_data(Subscribe(3, (("a", 1),)).encode() + b"\x00")

    assert server.send(SubAck(3, (1,))) == b"\x90\x03\x00\x03\x01"


def test_a_client_that_subscribes_and_leaves_at_once_can_still_be_answered() -> None:
    server = connected_server()

    packets = server.receive_data(Subscribe(3, (("a", 1),)).encode() + Disconnect().encode())

    assert packets == [Subscribe(3, (("a", 1),)), Disconnect()]
    assert server.send(SubAck(3, (1,))) == b"\x90\x03\x00\x03\x01"


def test_a_publish_and_a_disconnect_in_one_read_both_count() -> None:
    server = connected_server()

    assert server.receive_data(PUBLISH.encode() + Disconnect().encode()) == [PUBLISH, Disconnect()]
    assert server.state is State.LEFT


def test_the_answer_of_a_wrong_protocol_level_comes_with_the_error() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ServerConnection().receive_data(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01d")

    assert caught.value.answer == ConnAck(ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION).encode()


# Before authentication


def test_what_follows_connect_is_given_out_by_authenticated() -> None:
    server = ServerConnection()
    subscribe = Subscribe(1, (("a", 1),))

    at_once = server.receive_data(CONNECT.encode() + subscribe.encode() + PUBLISH.encode()[:4])
    waiting = server.receive_data(PUBLISH.encode()[4:]) + server.receive_data(PingReq().encode()[:1])
    server.send(ACCEPTED)
    released = server.authenticated()
    later = server.receive_data(PingReq().encode()[1:])

    assert (at_once, waiting, released, later) == ([CONNECT], [], [subscribe, PUBLISH], [PingReq()])


def test_a_second_connect_behind_the_first_is_a_mistake_once_it_is_read() -> None:
    server = ServerConnection()
    assert server.receive_data(CONNECT.encode() * 2) == [CONNECT]
    server.send(ACCEPTED)

    with pytest.raises(RemoteProtocolError, match="Connect is not legal connected"):
        server.authenticated()


def test_nothing_behind_a_refused_connect_is_processed() -> None:
    server = ServerConnection()
    server.receive_data(CONNECT.encode() + PUBLISH.encode())
    server.send(REFUSED)

    assert outcome(server, [PUBLISH.encode()] * 1000) == ([], None)
    with pytest.raises(LocalProtocolError, match="accepting CONNACK"):
        server.authenticated()


@pytest.mark.parametrize("state", [State.FRESH, State.CONNECTING])
def test_authenticated_before_the_connack_is_our_own_mistake(state: State) -> None:
    with pytest.raises(LocalProtocolError, match="accepting CONNACK"):
        server_in(state).authenticated()


def test_a_connect_longer_than_the_unauthenticated_limit_is_refused_from_its_header() -> None:
    server = ServerConnection(max_unauthenticated_bytes=4096)

    with pytest.raises(RemoteProtocolError, match="packet of 4097 bytes announced; the limit is 4096"):
        server.receive_data(b"\x10\xfe\x1f")


def test_a_connect_of_exactly_the_unauthenticated_limit_is_taken() -> None:
    packet = Connect("d", user_name="u" * 4078)
    assert len(packet.encode()) == 4096

    assert ServerConnection(max_unauthenticated_bytes=4096).receive_data(packet.encode()) == [packet]


@pytest.mark.parametrize("piece_bytes", [1, 100, 5000])
def test_a_flood_behind_connect_is_cut_off_at_the_limit(piece_bytes: int) -> None:
    server = ServerConnection(max_unauthenticated_bytes=4096)
    server.receive_data(CONNECT.encode())
    room = 4096 - len(CONNECT.encode())
    flood = bytes(room + 1)

    pieces = [flood[i : i + piece_bytes] for i in range(0, len(flood), piece_bytes)]
    packets, offence = outcome(server, pieces)

    assert packets == []
    assert offence == "more than 4096 bytes before authentication"
    assert outcome(server_in(State.CONNECTING), [bytes(room)]) == ([], None)


def test_a_flood_in_one_read_with_its_connect_does_not_hide_the_connect() -> None:
    server = ServerConnection(max_unauthenticated_bytes=4096)

    packets = server.receive_data(CONNECT.encode() + PUBLISH.encode() * 1000)

    assert packets == [CONNECT]
    assert str(server.offence) == "more than 4096 bytes before authentication"
    server.send(ACCEPTED)
    with pytest.raises(RemoteProtocolError, match="before authentication"):
        server.authenticated()


def test_the_unauthenticated_limit_is_gone_after_authentication() -> None:
    server = connected_server(max_unauthenticated_bytes=100)
    large = Publish("a", bytes(200_000), 1, 1)

    assert outcome(server, [large.encode()] * 3) == ([large] * 3, None)


# Bounded memory


HUGE = {
    "256 MB": b"\x32\xff\xff\xff\x7f",
    "one byte over": b"\x32\xfd\xff\x0f",
    "SUBSCRIBE": b"\x82\x80\x80\x80\x01",
}


@pytest.mark.parametrize("cut", [lambda data: [data], in_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("header", HUGE.values(), ids=HUGE)
def test_an_oversize_packet_is_refused_from_its_header(
    header: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    packets, offence = outcome(connected_server(), cut(header))

    assert packets == []
    assert offence is not None
    assert offence.endswith("bytes announced; the limit is 262144")


def test_a_packet_of_exactly_the_limit_is_taken() -> None:
    packet = Publish("a", bytes(262_144 - 4 - 5), 1, 1)
    assert len(packet.encode()) == 262_144

    assert outcome(connected_server(), in_halves(packet.encode())) == ([packet], None)


def test_a_fifth_length_byte_is_refused() -> None:
    packets, offence = outcome(connected_server(), in_bytes(b"\x32\x80\x80\x80\x80\x01"))

    assert (packets, offence) == ([], "remaining length has more than four bytes")


def test_a_large_packet_in_small_pieces_costs_its_own_size_and_no_more() -> None:
    server = connected_server()
    data = Publish("a", bytes(262_000), 1, 1).encode()
    pieces = [data[i : i + 50] for i in range(0, len(data), 50)]

    tracemalloc.start()
    try:
        for piece in pieces[:-1]:
            assert server.receive_data(piece) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 3 * len(data)
    assert len(server.receive_data(pieces[-1])) == 1


# Bytes that no honest peer sends


def same_in_every_cut(make: Callable[[], ServerConnection | ClientConnection], data: bytes) -> None:
    """Whatever the bytes mean, they mean it in every cut, and only RemoteProtocolError comes out."""
    whole = outcome(make(), [data])

    assert outcome(make(), in_bytes(data)) == whole
    assert outcome(make(), in_halves(data)) == whole


@given(st.binary(max_size=200))
@example(b"\x10\x00")
@example(b"\x30\x00\x30\x01\x00")
def test_random_bytes_end_in_a_remote_protocol_error_or_in_packets(data: bytes) -> None:
    same_in_every_cut(ServerConnection, data)
    same_in_every_cut(connected_server, data)
    same_in_every_cut(connected_client, data)


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert"]), st.integers(0, 5000), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, mutations: list[tuple[str, int, int]]) -> bytes:
    mutated = bytearray(data)
    for how, where, value in mutations:
        at = where % (len(mutated) + 1)
        mutated[at : at + (how != "insert")] = b"" if how == "cut" else bytes((value,))
    return bytes(mutated)


@given(strategies.connects, MUTATIONS)
def test_a_damaged_connect_is_refused_or_still_a_connect(
    packet: Connect, mutations: list[tuple[str, int, int]]
) -> None:
    same_in_every_cut(ServerConnection, mutate(packet.encode(), mutations))


@given(st.lists(strategies.from_client, min_size=1, max_size=4), MUTATIONS)
def test_damage_does_not_touch_the_packets_in_front_of_it(
    intact: list[Packet], mutations: list[tuple[str, int, int]]
) -> None:
    front = b"".join(packet.encode() for packet in intact)
    damaged = mutate(front, mutations)

    packets, _ = outcome(connected_server(), [front + damaged])

    assert packets[: len(intact)] == intact
    same_in_every_cut(connected_server, damaged)


@given(st.lists(strategies.from_server, min_size=1, max_size=4), MUTATIONS)
def test_a_damaged_stream_of_a_server_is_refused_or_read(
    sent: list[Packet], mutations: list[tuple[str, int, int]]
) -> None:
    same_in_every_cut(connected_client, mutate(b"".join(packet.encode() for packet in sent), mutations))


@given(st.sampled_from(ONE_OF_EACH), st.binary(max_size=30))
def test_a_sound_header_with_a_random_body_is_refused_or_read(packet: Packet, body: bytes) -> None:
    data = strategies.raw(packet.encode()[0], body)

    same_in_every_cut(ServerConnection, data)
    same_in_every_cut(connected_server, data)
    same_in_every_cut(connected_client, data)


# Both ends together


def test_a_client_and_a_server_carry_a_whole_conversation() -> None:
    client, server = ClientConnection(), ServerConnection()

    assert server.receive_data(client.send(CONNECT)) == [CONNECT]
    assert client.receive_data(server.send(ACCEPTED)) == [ACCEPTED]
    assert server.authenticated() == []
    assert server.receive_data(client.send(Subscribe(1, (("a/#", 1),)))) == [Subscribe(1, (("a/#", 1),))]
    assert client.receive_data(server.send(SubAck(1, (1,)))) == [SubAck(1, (1,))]
    assert server.receive_data(client.send(PUBLISH)) == [PUBLISH]
    assert client.receive_data(encode_puback_many([7, 8])) == [PubAck(7), PubAck(8)]
    assert client.receive_data(encode_publish(b"a/c", b"x", 1, 1)) == [Publish("a/c", b"x", 1, 1)]
    assert server.receive_data(client.send(Disconnect())) == [Disconnect()]
    assert (client.state, server.state) == (State.LEFT, State.LEFT)
