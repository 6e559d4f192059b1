"""One MQTT client of the hub: what its connection has sent, is owed and has been sent.

Plain state and bytes; the head decides, the transport writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from msgspec import field

from actors.heads.intake import Batch, Unanswered, take_done
from actors.ports.connections import Transport
from actors.store.messages import Delivered
from messaging.broker.access import own_name
from messaging.broker.limits import FIRST_PACKET_ID
from messaging.identity import Identity
from messaging.message import LARGEST_MESSAGE_BYTES, Message, encode_header, source_path, stamp_sender
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    PUBACK,
    PUBREC,
    Packet,
    Publish,
    Publishes,
    SubAck,
    UnsubAck,
    Will,
    encode_answers,
    encode_publish,
    encode_publishes,
)
from messaging.topics import Incoming, Telemetry, Unknown, parse_topic

if TYPE_CHECKING:
    from messaging.broker.session import Session

# Clients choose topics (message ids in the property bag), so what is remembered is bounded.
REMEMBERED_TOPICS: Final = 256
LONGEST_REMEMBERED_BYTES: Final = 2048
MOST_PACKET_IDS: Final = FIRST_PACKET_ID - 1  # the others are those of the broker
MOST_BULK_BYTES: Final = 64 * 1024
MOST_REMEMBERED: Final = 32  # publishes that a reconnect may send again; the SDKs have at most 20 under way
_DUP: Final = 0x08

# Why a socket is not read, besides want of credit (intake.py).
UNREAD: Final = "unread"  # the client does not read what it is sent
SESSION: Final = "session"  # too many of its subscriptions are not on disk yet


# What a connection has published last, by packet id: a digest of topic and payload, and its batch.
Published = dict[int, tuple[int, Unanswered]]


# A message sent to the client and not acknowledged: endpoint, position, frame, when it was sent (monotonic).
# A plain tuple: one is made for every message.
InFlight = tuple[str, int, bytes, float]
_endpoint_of: Final = itemgetter(0)
_position_of: Final = itemgetter(1)


class Packets(Batch):
    """What one read of the connection brought. What is to be answered is as for `encode_answers`."""

    requests: list[tuple[Incoming, bytes]] = field(default_factory=list)  # what is no message, with payload
    topics: list[Publish] = field(default_factory=list)  # for the broker
    waits: bool = False  # until the broker has something on disk


# What a message on some topic is stored with: its header, and how long its body may be. Text: why it is not.
_Header = tuple[bytes, int] | str


class MqttClient:
    """State of one connection, from CONNECT to its end."""

    def __init__(
        self, number: int, transport: Transport, now_s: float, max_packet_bytes: int = 262_144
    ) -> None:
        self.number = number
        self.transport = transport
        self.codec = ServerConnection(max_packet_bytes, takes_runs=True)
        self.opened_at_s = now_s
        self.seen_at_s = now_s
        self.keep_alive_s = 0.0  # 0 until CONNECT was accepted
        self.ends_s: float | None = None  # when what it proved itself with expires, since 1970-01-01 UTC
        self.identity: Identity | None = None
        self.client_id = ""
        self.clean_session = True
        self.will: Will | None = None
        self.epoch = 0
        self.next_index = 0
        self.closed = False
        self.holds: set[str] = set()  # why its socket is not read
        self.write_paused_at_s = 0.0
        self.unsaid: list[Delivered] = []  # at QoS 0, written and not yet taken by the socket
        self.subscriptions: dict[str, int] = {}  # filter → granted QoS
        self.features: tuple[str, ...] | None = None  # what the services were told that it wants
        self.subscription_answers: list[SubAck | UnsubAck] = []  # not yet sent, nor waiting for `saving`
        self.subscription_changes: list[tuple[str, int | None]] = []  # the same for the broker
        self.session: Session | None = None  # at the broker; None: there is none
        self.user_topics: set[str] = set()  # to which it may publish, as far as is known
        self.accepts_topic: Callable[[str], bool] | None = None  # whether one is the broker's
        self.saving = False  # the session is on its way to the disk
        self.unanswered: deque[Unanswered] = deque()
        self.unanswered_bytes = 0
        self.earlier: Published = {}  # by the connection before, of this session
        self._recent: deque[tuple[int, int, Unanswered]] = deque(maxlen=MOST_REMEMBERED)
        self._bulk: tuple[Sequence[Packet], Unanswered] | None = None  # the last packets, after _recent
        self.in_flight: dict[int, InFlight] = {}
        self.acknowledged_at_s = now_s  # when the client last acknowledged something (monotonic)
        self.redeliveries = 0  # since then
        self._last_packet_id = 0
        self.model_id = ""
        self._edge_device_id = ""
        self._headers: dict[tuple[str, bool, bool], _Header] = {}

    @property
    def is_connected(self) -> bool:
        """Whether CONNECT was accepted and the connection is open."""
        return self.epoch != 0 and not self.closed

    def accept(self, epoch: int, edge_device_id: str, model_id: str) -> None:
        """The client is who it says it is."""
        self.epoch = epoch
        self._edge_device_id = edge_device_id
        self.model_id = model_id

    def hold(self, reason: str) -> None:
        """Stop reading the socket, for this reason too."""
        if not self.holds and not self.closed:
            self.transport.pause_reading()
        self.holds.add(reason)

    def release(self, reason: str, now_s: float) -> None:
        """Read the socket again, when this was the last reason not to."""
        if reason in self.holds:
            self.holds.discard(reason)
            if not self.holds and not self.closed:
                self.seen_at_s = now_s
                self.transport.resume_reading()

    # from the client

    def add_publish(self, packet: Publish, batch: Packets) -> str:
        """Put one PUBLISH into the batch; returns "" or why it is not passed on, though acknowledged.

        Raises:
            RemoteProtocolError: the connection has to be closed.
            AuthError: likewise, for it may not publish there.
        """
        key = (packet.topic, packet.dup, packet.retain)
        header = self._headers.get(key)
        if header is None:
            if self.accepts_topic is not None and self.accepts_topic(packet.topic):
                self.add_to_topic(packet, batch)
                return ""
            incoming = self._parse(packet.topic)
            if not isinstance(incoming, Telemetry | Unknown):
                if packet.qos == 1:
                    batch.answers.append(PUBACK | packet.packet_id)
                batch.requests.append((incoming, packet.payload))
                return ""
            marks = {"mqtt-dup": packet.dup, "mqtt-retain": packet.retain}
            header = self._header_of(incoming, {name: "true" for name, on in marks.items() if on})
            if len(packet.topic) <= LONGEST_REMEMBERED_BYTES:
                if len(self._headers) >= REMEMBERED_TOPICS:
                    self._headers.clear()
                self._headers[key] = header
        if packet.qos == 1:  # a PUBACK answers nothing else; QoS 2 ends the connection
            batch.answers.append(PUBACK | packet.packet_id)
        if isinstance(header, str):
            return header
        if packet.dup and self._is_stored(packet):
            return ""
        encoded, room_bytes = header
        payload = packet.payload
        if len(payload) > room_bytes:
            over_bytes = len(payload) - room_bytes
            return f"a message is {over_bytes} bytes over the limit of {LARGEST_MESSAGE_BYTES}"
        batch.add(encoded, payload)
        return ""

    def spread(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """Return packets with each of a run by itself, unless `add_publishes` can take all of it at once."""
        for packet in packets:
            if type(packet) is Publishes and not self._is_plain(packet):
                yield from packet.singly()
            else:
                yield packet

    def _is_plain(self, run: Publishes) -> bool:
        """Say whether nothing about these messages is to be asked or refused."""
        header = self._headers.get((run.topic, False, False))
        if header is None or isinstance(header, str) or run.topic in self.user_topics:
            return False
        return max(map(len, run.payloads)) <= header[1]

    def add_publishes(self, run: Publishes, batch: Packets) -> None:
        """Do for all of a run from `spread` what `add_publish` does for each."""
        header = self._headers[run.topic, False, False]
        batch.answers += map(PUBACK.__or__, run.packet_ids)
        batch.add_all(header[0], run.payloads)  # type: ignore[arg-type]  # it is not a text

    def add_to_topic(self, packet: Publish, batch: Packets) -> None:
        """Put a PUBLISH into the batch that the broker takes."""
        batch.topics.append(packet)
        if packet.qos:
            batch.answers.append((PUBACK if packet.qos == 1 else PUBREC) | packet.packet_id)

    def _is_stored(self, packet: Publish) -> bool:
        """Tell whether the connection before has brought this publish to the disk already.

        Clients renew their tokens by DISCONNECT and CONNECT, and send again what was not acknowledged by
        then, often because the PUBACK was on its way. Packet id, topic and payload have to be the same.
        """
        digest, unanswered = self.earlier.pop(packet.packet_id, (0, None)) if packet.qos == 1 else (0, None)
        return unanswered is not None and unanswered.done and digest == _digest(packet)

    def remember(self, packets: Sequence[Packet], unanswered: Unanswered) -> None:
        """Keep what the next connection may send again of these packets, which are in this batch."""
        first, found = len(packets), 0
        while first and found < MOST_REMEMBERED:
            first -= 1
            packet = packets[first]
            found += len(packet.packet_ids) if type(packet) is Publishes else 1
        if found >= MOST_REMEMBERED and unanswered.size_bytes <= MOST_BULK_BYTES:
            # Of a busy client this is all that counts, until its next read: digests would take 5 % of a core.
            self._bulk = (packets[first:], unanswered)
            return
        self._take_bulk()
        self._remember_digests(packets[first:], unanswered)

    def published(self) -> Published:
        """Return what `earlier` is for the next connection of this session."""
        self._take_bulk()
        return {packet_id: (digest, unanswered) for packet_id, digest, unanswered in self._recent}

    def _take_bulk(self) -> None:
        if self._bulk is not None:
            self._remember_digests(*self._bulk)
            self._bulk = None

    def _remember_digests(self, packets: Sequence[Packet], unanswered: Unanswered) -> None:
        singles = (one for packet in packets for one in _singly(packet))
        for packet in singles:
            if isinstance(packet, Publish) and packet.qos == 1:
                self._recent.append((packet.packet_id, _digest(packet), unanswered))

    def add_will(self, will: Will, batch: Packets) -> str:
        """Put the will of a client that went without DISCONNECT into a batch, as `add_publish` does."""
        incoming = self._parse(will.topic)
        if not isinstance(incoming, Telemetry | Unknown):
            return f"{type(incoming).__name__} cannot be a will"
        header = self._header_of(incoming, {"MessageType": "Will"})
        self._headers = {(will.topic, False, False): header}  # nothing else will come from this client
        return self.add_publish(Publish(will.topic, will.message), batch)

    def _parse(self, topic: str) -> Incoming:
        assert self.identity is not None
        name = topic if self.session is None else own_name(topic, self.identity)
        return parse_topic(name, self.identity)

    def _header_of(self, incoming: Telemetry | Unknown, marks: dict[str, str]) -> _Header:
        """Return the header of messages on a topic, with these properties added."""
        if isinstance(incoming, Unknown):
            return incoming.reason
        properties = {**incoming.properties, **marks}
        # What the hub adds does not count: a client could not know how much it may send.
        sent = Message("", properties, incoming.system_properties, b"")
        stamped = stamp_sender(
            incoming.system_properties, incoming.identity, self._edge_device_id, self.model_id
        )
        header = encode_header(source_path(stamped), properties, stamped)
        return header, LARGEST_MESSAGE_BYTES - sent.size_bytes

    def acknowledge(self) -> None:
        """Send the answers that may be sent now, in the order of what they answer."""
        words = take_done(self)
        if words:
            self.transport.write(encode_answers(words))

    # to the client

    def take_acknowledged(self, packet_ids: Sequence[int], ranges: dict[str, list[tuple[int, int]]]) -> None:
        """Forget what these PUBACKs answer, and add its positions to the ranges of its endpoint."""
        known = [sent for sent in map(self.in_flight.pop, packet_ids, repeat(None)) if sent is not None]
        if not known:
            return
        endpoint_id, first, _, _ = known[0]
        positions = list(map(_position_of, known))
        if positions == list(range(first, first + len(known))) and len(set(map(_endpoint_of, known))) == 1:
            add_range(ranges, endpoint_id, first, positions[-1])
            return
        for endpoint_id, position, _, _ in known:
            add_position(ranges, endpoint_id, position)

    def frame_run(
        self,
        endpoint_id: str,
        first_position: int,
        topics: Sequence[bytes | None],
        entries: Sequence[tuple[int, bytes]],
        now_s: float,
        frames: list[bytes],
    ) -> bool:
        """Add a QoS 1 PUBLISH for each entry and remember it; False when no packet id is free."""
        if not entries:
            return True
        packet_ids = self._free_packet_ids(len(entries))
        if not packet_ids:
            return False
        run: list[bytes]
        if len(topics) == 1:
            run = encode_publishes(topics[0], [body for _, body in entries], packet_ids)  # type: ignore[arg-type]
        else:
            run = [
                encode_publish(topics[index], body, packet_id, 1)  # type: ignore[arg-type]
                for (index, body), packet_id in zip(entries, packet_ids, strict=True)
            ]
        self.in_flight.update(
            zip(packet_ids, zip(repeat(endpoint_id), count(first_position), run, repeat(now_s)), strict=False)
        )
        frames += run
        return True

    def _free_packet_ids(self, wanted: int) -> Sequence[int]:
        """Return as many packet ids as are wanted, in turn; none when so many are not free."""
        in_flight = self.in_flight
        packet_id = self._last_packet_id
        found: Sequence[int] = range(packet_id + 1, packet_id + wanted + 1)
        if packet_id + wanted > MOST_PACKET_IDS or not in_flight.keys().isdisjoint(found):
            if len(in_flight) + wanted > MOST_PACKET_IDS:
                return ()
            everything = chain(range(packet_id + 1, MOST_PACKET_IDS + 1), range(1, packet_id + 1))
            found = list(islice((number for number in everything if number not in in_flight), wanted))
        self._last_packet_id = found[-1]
        return found

    def frames_again(self, now_s: float) -> list[bytes]:
        """Return everything in flight once more, marked as duplicate, in its order."""
        frames = []
        for packet_id, (endpoint_id, position, frame, _) in self.in_flight.items():
            self.in_flight[packet_id] = (endpoint_id, position, frame, now_s)
            frames.append(bytes((frame[0] | _DUP,)) + frame[1:])
        return frames

    def in_flight_of(self, endpoint_id: str) -> set[int]:
        """Return the positions of an endpoint that were sent and not acknowledged."""
        return {sent[1] for sent in self.in_flight.values() if sent[0] == endpoint_id}

    def positions_of(self, endpoint_id: str) -> set[int]:
        """Return the positions of an endpoint of which the store has not heard that they were delivered."""
        unsaid = (one.ranges for one in self.unsaid if one.endpoint_id == endpoint_id)
        written = (range(first, last + 1) for ranges in unsaid for first, last in ranges)
        return self.in_flight_of(endpoint_id).union(*written)

    def forget_in_flight(self, endpoint_id: str) -> None:
        """The endpoint was detached: an acknowledgement that still comes means nothing any more."""
        for packet_id in [k for k, sent in self.in_flight.items() if sent[0] == endpoint_id]:
            del self.in_flight[packet_id]


def _singly(packet: Packet) -> Iterable[Packet]:
    return packet.singly() if isinstance(packet, Publishes) else (packet,)


def _digest(packet: Publish) -> int:
    return hash((packet.topic, packet.payload))


def add_position(ranges: dict[str, list[tuple[int, int]]], endpoint_id: str, position: int) -> None:
    """Add one position to the ranges of its endpoint."""
    add_range(ranges, endpoint_id, position, position)


def add_range(ranges: dict[str, list[tuple[int, int]]], endpoint_id: str, first: int, last: int) -> None:
    """Add positions to the ranges of their endpoint; those that follow the last one make it longer."""
    known = ranges.get(endpoint_id)
    if known is None:
        ranges[endpoint_id] = [(first, last)]
    elif known[-1][1] + 1 == first:
        known[-1] = (known[-1][0], last)
    else:
        known.append((first, last))
