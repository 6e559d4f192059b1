"""One MQTT connection without I/O: bytes in, packets out; packets in, bytes out; and their legal order.

Give every read to `receive_data` and handle the packets it returns, in order. `send` checks a packet against
the table below and returns its bytes. The hot path may bypass `send` while the state is CONNECTED, with
`encode_publish` and `encode_puback_many`.

**The peer's mistake** is a RemoteProtocolError, after which the connection is of no more use: send its
`answer` and close. Whole packets in front of the mistake are not lost: `receive_data` returns them and keeps
the error in `offence`, which is to be read after handling them. Every later call raises it.

Source: OASIS MQTT 3.1.1 sections 3 and 4.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt import wire
from messaging.mqtt.packets import (
    FIRST_BYTES,
    RUN_FIRST_BYTE,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    Publishes,
    PubRec,
    PubRel,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    read_puback_run,
    read_pubacks,
    read_publish_run,
)


class State(Enum):
    """How far a connection is."""

    FRESH = "before CONNECT"
    CONNECTING = "between CONNECT and CONNACK"
    CONNECTED = "connected"
    LEFT = "after DISCONNECT"
    CLOSED = "after a refusing CONNACK"


class Legal(NamedTuple):
    """What either side may send in one state."""

    client: frozenset[type[Packet]]
    server: frozenset[type[Packet]]


_NOTHING: frozenset[type[Packet]] = frozenset()
_BOTH_WAYS: frozenset[type[Packet]] = frozenset({Publish, PubAck, PubRec, PubRel, PubComp})
_CLIENT: frozenset[type[Packet]] = _BOTH_WAYS | {Subscribe, Unsubscribe, PingReq, Disconnect}
_SERVER: frozenset[type[Packet]] = _BOTH_WAYS | {SubAck, UnsubAck, PingResp}

LEGAL = {
    State.FRESH: Legal(client=frozenset({Connect}), server=_NOTHING),  # [MQTT-3.1.0-1]
    State.CONNECTING: Legal(client=_CLIENT, server=frozenset({ConnAck})),  # [MQTT-3.2.0-1], section 3.1.4
    State.CONNECTED: Legal(client=_CLIENT, server=_SERVER),  # no second CONNECT [MQTT-3.1.0-2]
    # [MQTT-3.14.4-2]; what the client asked for just before it left is still being answered.
    State.LEFT: Legal(client=_NOTHING, server=_SERVER),
    State.CLOSED: Legal(client=_NOTHING, server=_NOTHING),  # [MQTT-3.2.2-5]
}

_Decode = Callable[[int, bytes, int, int], Packet]


def _decoders(legal: frozenset[type[Packet]]) -> dict[int, _Decode]:
    """Return first byte → decoder: one look-up tells type, flags and legality."""
    return {first: kind.decode for first, kind in FIRST_BYTES.items() if kind in legal}


_BY_CLIENT = {state: legal.client for state, legal in LEGAL.items()}
_BY_SERVER = {state: legal.server for state, legal in LEGAL.items()}
_FROM_CLIENT = {state: _decoders(legal) for state, legal in _BY_CLIENT.items()}
_FROM_SERVER = {state: _decoders(legal) for state, legal in _BY_SERVER.items()}

_UNTIL_AUTHENTICATED = sys.maxsize


class _Connection:
    """What both ends share. Not thread-safe."""

    def __init__(
        self,
        max_packet_bytes: int,
        receivable: dict[State, dict[int, _Decode]],
        sendable: dict[State, frozenset[type[Packet]]],
    ) -> None:
        self.state = State.FRESH
        self.offence: RemoteProtocolError | None = None
        self._takes_runs = False
        self._max_packet_bytes = max_packet_bytes
        self._receivable = receivable
        self._sendable = sendable
        # The start of a packet whose rest has not arrived, and how many bytes make looking at it worth while
        # (0: nothing waits). So a packet that arrives byte by byte is copied once, not once per byte.
        self._partial = bytearray()
        self._wanted_bytes = 0

    def receive_data(self, data: bytes) -> list[Packet]:
        """Return the packets that these bytes complete; an incomplete one is kept for the next call.

        Raises:
            RemoteProtocolError: The peer broke the protocol, and no packet is in front of that; see above.
        """
        if self.offence is not None:
            raise self.offence
        if self._wanted_bytes:
            partial = self._partial
            if len(partial) + len(data) < self._wanted_bytes:
                partial += data
                return []
            data = b"".join((partial, data))
            partial.clear()
            self._wanted_bytes = 0
        return self._parse(data)

    def _parse(self, data: bytes) -> list[Packet]:
        packets: list[Packet] = []
        takes_runs = self._takes_runs and self.state is State.CONNECTED
        decoders = self._receivable[self.state]
        max_packet_bytes = self._max_packet_bytes
        pos = 0
        end = len(data)
        try:
            while pos < end:
                first = data[pos]
                if first == 0x40 and takes_runs:
                    acks, pos = read_puback_run(data, pos)
                    if acks.packet_ids:
                        packets.append(acks)
                        continue
                decode = decoders.get(first)
                if decode is None:
                    raise RemoteProtocolError(_illegal(first, self.state))
                # Lengths of one and two bytes, nearly all, are read here: half the price of the call.
                start = pos + 2
                if start < end and (low := data[pos + 1]) < 128:
                    length = low
                elif start < end and (high := data[start]) < 128:
                    length = low - 128 + (high << 7)
                    start += 1
                else:
                    length, start = wire.read_length(data, pos + 1)
                stop = start + length
                if stop - pos > max_packet_bytes:
                    raise RemoteProtocolError(
                        f"packet of {stop - pos} bytes announced; the limit is {max_packet_bytes}"
                    )
                if not start or stop > end:
                    self._wanted_bytes = stop - pos if start else end - pos + 1
                    break
                packet = decode(first, data, start, stop)
                if first == RUN_FIRST_BYTE and takes_runs and stop < end and data[stop] == first:
                    assert isinstance(packet, Publish)
                    payloads, packet_ids, stop = read_publish_run(data, pos, stop, start, max_packet_bytes)
                    if payloads:
                        payloads.insert(0, packet.payload)
                        packet_ids.insert(0, packet.packet_id)
                        packet = Publishes(packet.topic, payloads, packet_ids)
                packets.append(packet)
                pos = stop
                if not 0x20 < first < 0xE0:  # CONNECT, CONNACK, DISCONNECT
                    self._advance(packet)
                    if self._wanted_bytes:
                        break
                    takes_runs = self._takes_runs and self.state is State.CONNECTED
                    decoders = self._receivable[self.state]
        except RemoteProtocolError as exc:
            self.offence = exc
            if not packets:
                raise
        else:
            self._partial += data[pos:]
        return packets

    def send(self, packet: Packet) -> bytes:
        """Return the bytes of this packet.

        Raises:
            LocalProtocolError: The packet is not legal now, or has a value that the standard forbids.
        """
        if type(packet) not in self._sendable[self.state]:
            raise LocalProtocolError(f"{type(packet).__name__} may not be sent {self.state.value}")
        data = packet.encode()
        self._advance(packet)
        return data

    def _advance(self, packet: Packet) -> None:
        """Move to the state that follows a legal packet, sent or received."""
        if isinstance(packet, Connect):
            self.state = State.CONNECTING
        elif isinstance(packet, ConnAck):
            accepted = packet.return_code is ReturnCode.ACCEPTED
            self.state = State.CONNECTED if accepted else State.CLOSED
        elif isinstance(packet, Disconnect):
            self.state = State.LEFT


class ServerConnection(_Connection):
    """The server's end.

    What a client sends behind its CONNECT is kept unread until `authenticated` is called; so no packet of a
    peer that is not known yet is ever seen, and after a refusing CONNACK none is processed [MQTT-3.1.4-5].

    Args:
        max_packet_bytes: The longest packet a client may send, header included. A longer one is refused from
            its header alone.
        max_unauthenticated_bytes: How much a client may send, CONNECT included, before `authenticated`.
        takes_runs: Whether PUBACKs are returned as `PubAcks`, those that follow one another as one; and
            PUBLISHes to one topic that follow one another as `Publishes`.
    """

    def __init__(
        self,
        max_packet_bytes: int = 262_144,
        max_unauthenticated_bytes: int = 4096,
        *,
        takes_runs: bool = False,
    ) -> None:
        super().__init__(min(max_packet_bytes, max_unauthenticated_bytes), _FROM_CLIENT, _BY_SERVER)
        self._takes_runs = takes_runs
        self._max_authenticated_packet_bytes = max_packet_bytes
        self._max_unauthenticated_bytes = max_unauthenticated_bytes
        self._unauthenticated_bytes = 0
        self._authenticated = False

    def receive_data(self, data: bytes) -> list[Packet]:
        if self._authenticated:
            if data[:1] == b"\x40" and self._takes_runs and not self._wanted_bytes and self.offence is None:
                # What nearly all reads of a subscriber bring.
                acks = read_pubacks(data) if self.state is State.CONNECTED else None
                if acks is not None:
                    return [acks]
            return super().receive_data(data)
        if self.state is State.CLOSED:
            return []  # [MQTT-3.1.4-5]: the peer could not know yet

        packets = super().receive_data(data)
        self._unauthenticated_bytes += len(data)
        if self._unauthenticated_bytes > self._max_unauthenticated_bytes and self.offence is None:
            self._partial.clear()
            self.offence = RemoteProtocolError(
                f"more than {self._max_unauthenticated_bytes} bytes before authentication"
            )
            if not packets:
                raise self.offence
        return packets

    def authenticated(self) -> list[Packet]:
        """Lift the limit on unauthenticated bytes, and return the packets that waited behind CONNECT.

        Call it once, when the accepting CONNACK has gone through `send`.

        Raises:
            RemoteProtocolError: As in `receive_data`.
            LocalProtocolError: No accepting CONNACK has been sent.
        """
        if self.state is not State.CONNECTED:
            raise LocalProtocolError(f"authenticated() {self.state.value}; an accepting CONNACK comes first")
        if self.offence is not None:
            raise self.offence

        self._authenticated = True
        self._max_packet_bytes = self._max_authenticated_packet_bytes
        self._wanted_bytes = 0
        held = bytes(self._partial)
        self._partial.clear()
        return self._parse(held)

    def _advance(self, packet: Packet) -> None:
        super()._advance(packet)
        if isinstance(packet, Connect):
            self._wanted_bytes = _UNTIL_AUTHENTICATED


class ClientConnection(_Connection):
    """The client's end: for the IoT Hub stand-in, benches and tests.

    Args:
        max_packet_bytes: The longest packet the server may send. Wider than what a hub accepts, because a hub
            may deliver a message under a longer topic than it came with.
    """

    def __init__(self, max_packet_bytes: int = 524_288) -> None:
        super().__init__(max_packet_bytes, _FROM_SERVER, _BY_CLIENT)


def _illegal(first: int, state: State) -> str:
    """Say what is wrong with a packet that starts with this byte."""
    names = {known >> 4: kind.__name__ for known, kind in FIRST_BYTES.items()}
    name = names.get(first >> 4)
    if name is None:
        return f"packet type {first >> 4} is reserved"
    if first not in FIRST_BYTES:
        return f"{name} with flags {first & 15:#06b} [MQTT-2.2.2-2]"
    return f"{name} is not legal {state.value}"
