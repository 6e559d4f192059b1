"""Packets that carry messages: PUBLISH and its acknowledgements at QoS 1 and 2; the hot path of the hub.

Source: OASIS MQTT 3.1.1 sections 3.3 to 3.7.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.mqtt import wire

# First byte → QoS, DUP, RETAIN. QoS 3 [MQTT-3.3.1-4] and DUP on QoS 0 [MQTT-3.3.1-2] do not exist.
PUBLISH_FLAGS = {
    0x30 | dup << 3 | qos << 1 | retain: (qos, dup, retain)
    for qos in (0, 1, 2)
    for dup in (False, True)
    for retain in (False, True)
    if qos or not dup
}


# A named tuple, because it is built in 0.14 µs where a frozen dataclass takes 0.68: there is one per message.
class Publish(NamedTuple):
    """An application message, section 3.3. `packet_id` is 0 at QoS 0, which has none [MQTT-2.3.1-5]."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    dup: bool = False
    retain: bool = False

    def encode(self) -> bytes:
        wire.check_local_qos(self.qos)
        wire.check_local_topic(self.topic)
        if bool(self.qos) != bool(self.packet_id):
            raise LocalProtocolError(f"PUBLISH at QoS {self.qos} with packet id {self.packet_id}")
        if self.dup and not self.qos:
            raise LocalProtocolError("PUBLISH at QoS 0 with DUP [MQTT-3.3.1-2]")

        body = wire.encode_text(self.topic, "topic")
        if self.qos:
            body += wire.encode_packet_id(self.packet_id)
        return wire.encode_packet(0x30 | self.dup << 3 | self.qos << 1 | self.retain, body + self.payload)

    @classmethod
    def decode(cls, first: int, data: bytes, start: int, stop: int) -> Publish:
        # The hottest function of the hub: one check of the end covers all fields, because reading past `stop`
        # only yields numbers that fail it.
        qos, dup, retain = PUBLISH_FLAGS[first]
        packet_id = 0
        try:
            payload_start = topic_end = start + 2 + (data[start] << 8 | data[start + 1])
            if qos:
                payload_start += 2
                packet_id = data[topic_end] << 8 | data[topic_end + 1]
        except IndexError:
            payload_start = stop + 1
        if payload_start > stop:
            raise RemoteProtocolError("PUBLISH ends inside its topic or packet id")
        if qos and not packet_id:
            raise RemoteProtocolError("packet id is 0")
        try:
            topic = data[start + 2 : topic_end].decode()
        except UnicodeDecodeError as exc:
            raise RemoteProtocolError(f"topic is not UTF-8 at byte {exc.start}") from exc
        if not topic or "+" in topic or "#" in topic or "\0" in topic:
            wire.check_remote_topic(topic)
        # Not through `cls(…)`: the constructor that NamedTuple generates doubles the cost.
        return tuple.__new__(cls, (topic, data[payload_start:stop], qos, packet_id, dup, retain))

    def __repr__(self) -> str:
        return (
            f"Publish(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, "
            f"packet_id={self.packet_id}, dup={self.dup}, retain={self.retain})"
        )


class PubAck(wire.OnlyPacketId, frozen=True):
    """QoS 1: the message is the receiver's now, section 3.4."""

    FIRST_BYTE = 0x40


class PubRec(wire.OnlyPacketId, frozen=True):
    """QoS 2, first answer to PUBLISH, section 3.5."""

    FIRST_BYTE = 0x50


class PubRel(wire.OnlyPacketId, frozen=True):
    """QoS 2, answer to PUBREC; flags 0010 [MQTT-3.6.1-1], section 3.6."""

    FIRST_BYTE = 0x62


class PubComp(wire.OnlyPacketId, frozen=True):
    """QoS 2, last answer, section 3.7."""

    FIRST_BYTE = 0x70


# Type and length of an answer; with the packet id it is one integer, the most significant byte first.
PUBACK = 0x4002_0000
PUBREC = 0x5002_0000
PUBCOMP = 0x7002_0000

_PUBLISH_HEAD = struct.Struct(">BBBH").pack  # first byte, remaining length in two bytes, length of the topic
_UINT16 = struct.Struct(">H").pack


def encode_publish(topic: bytes, payload: bytes, packet_id: int, qos: int, dup: bool = False) -> bytes:
    """Return a PUBLISH without RETAIN, at half the cost of `Publish.encode`: nothing is checked.

    Args:
        topic: A valid topic name, encoded already.
        packet_id: 1 to 65535; ignored at QoS 0.
        dup: Sent before; False at QoS 0.

    Raises:
        struct.error: A number that does not fit its field.
    """
    first = 0x30 | dup << 3 | qos << 1
    length = 2 + len(topic) + len(payload)
    if qos:
        length += 2
    if 127 < length < 16_384:
        head = _PUBLISH_HEAD(first, length & 127 | 128, length >> 7, len(topic))
    else:
        head = bytes((first,)) + wire.encode_length(length) + _UINT16(len(topic))
    if qos:
        return b"".join((head, topic, _UINT16(packet_id), payload))
    return b"".join((head, topic, payload))


class Publishes(NamedTuple):
    """PUBLISHes to one topic at QoS 1, without DUP and RETAIN, that followed one another in one read.

    As a server is given them when it asks for runs. All that is said once for a topic is said once for them.
    """

    topic: str
    payloads: list[bytes]
    packet_ids: list[int]

    def singly(self) -> Iterator[Publish]:
        """Return them one by one."""
        topic = self.topic
        return (
            Publish(topic, payload, 1, packet_id)
            for payload, packet_id in zip(self.payloads, self.packet_ids, strict=True)
        )

    def encode(self) -> bytes:
        return b"".join(packet.encode() for packet in self.singly())

    def __repr__(self) -> str:
        return f"Publishes(topic={self.topic!r}, packet_ids={self.packet_ids}, payloads=<left out>)"


RUN_FIRST_BYTE = 0x32  # PUBLISH at QoS 1
_MOST_AT_ONCE = 128  # packets

_RunPieces = tuple[list[bytes], list[int], int]


def read_publish_run(data: bytes, pos: int, stop: int, body: int, most_bytes: int) -> _RunPieces:
    """Return payloads and packet ids of what repeats a sound PUBLISH at QoS 1, and the position behind it.

    Most of what a busy client sends is that: the same topic again. So it is compared with the first packet
    instead of being decoded, and where the lengths are equal too, thirty-two packets at a time (0.1 µs each,
    0.4 with lengths that vary, 1.4 decoded). Whatever is odd about a packet is left to `Publish.decode`.

    Args:
        data: The whole read.
        pos: Where the first packet, which was decoded, begins.
        stop: Where it ends; the run is looked for from there on.
        body: Where the packet's variable header begins, its topic in front.
        most_bytes: The longest packet that a client may send.
    """
    payloads: list[bytes] = []
    packet_ids: list[int] = []
    topic_bytes = 2 + (data[body] << 8 | data[body + 1])
    topic = data[body : body + topic_bytes]
    end = len(data)
    while stop < end and data[stop] == RUN_FIRST_BYTE:
        size = stop - pos
        count = min(_MOST_AT_ONCE, (end - stop) // size)
        head = data[pos : body + topic_bytes]
        # A look at the first and the last spares the others where lengths vary.
        if count > 1 and data.startswith(head, stop) and data.startswith(head, stop + (count - 1) * size):
            row = struct.Struct(f">{len(head)}sH{size - len(head) - 2}s")
            heads, ids, bodies = zip(
                *row.iter_unpack(memoryview(data)[stop : stop + count * size]), strict=True
            )
            if heads.count(head) == count and 0 not in ids:
                payloads += bodies
                packet_ids += ids
                pos, body, stop = pos + count * size, body + count * size, stop + count * size
                continue
        for _ in range(_MOST_AT_ONCE):
            at = stop
            start = at + 2
            if start >= end or data[at] != RUN_FIRST_BYTE:
                break
            length = data[at + 1]
            if length > 127:
                high = data[start]
                if high > 127:
                    break
                length += (high << 7) - 128
                start += 1
            id_at = start + topic_bytes
            after = start + length
            if (
                after > end
                or id_at + 2 > after
                or after - at > most_bytes
                or not data.startswith(topic, start)
            ):
                break
            packet_id = data[id_at] << 8 | data[id_at + 1]
            if not packet_id:
                break
            payloads.append(data[id_at + 2 : after])
            packet_ids.append(packet_id)
            pos, body, stop = at, start, after
        else:
            continue
        break
    return payloads, packet_ids, stop


def encode_publishes(topic: bytes, payloads: Sequence[bytes], packet_ids: Sequence[int]) -> list[bytes]:
    """Return what `encode_publish` does of each at QoS 1, at half its cost; a fifth for equal lengths."""
    sizes = set(map(len, payloads))
    first, topic_field = bytes((RUN_FIRST_BYTE,)), _UINT16(len(topic)) + topic
    heads = {
        size: b"".join((first, wire.encode_length(len(topic_field) + 2 + size), topic_field))
        for size in sizes
    }
    if len(sizes) == 1:
        [(size, head)] = heads.items()
        return list(map(struct.Struct(f">{len(head)}sH{size}s").pack, repeat(head), packet_ids, payloads))
    return [
        b"".join((heads[len(payload)], _UINT16(packet_id), payload))
        for payload, packet_id in zip(payloads, packet_ids, strict=True)
    ]


class PubAcks(NamedTuple):
    """PUBACKs that followed one another in one read, as a server is given them when it asks for runs."""

    packet_ids: tuple[int, ...]

    def encode(self) -> bytes:
        return encode_puback_many(self.packet_ids)


MOST_REMEMBERED_READS = 256
LONGEST_REMEMBERED_READ = 1024  # bytes
_remembered_reads: dict[bytes, PubAcks] = {}
_PUBACK_RUN = re.compile(rb"(?:\x40\x02..)+", re.DOTALL)


def read_puback_run(data: bytes, pos: int) -> tuple[PubAcks, int]:
    """Return the PUBACKs in a row from `pos` on, where a sound one begins, and the position behind them."""
    found = _PUBACK_RUN.match(data, pos)
    if found is None:
        return PubAcks(()), pos
    end = found.end()
    packet_ids = struct.unpack_from(f">{(end - pos) // 2}H", data, pos)[1::2]
    if 0 in packet_ids:  # no PUBACK is that
        packet_ids = packet_ids[: packet_ids.index(0)]
        end = pos + 4 * len(packet_ids)
    return PubAcks(packet_ids), end


def read_pubacks(data: bytes) -> PubAcks | None:
    """Return a read that is PUBACKs and nothing else, None for any other.

    Subscribers of one topic acknowledge the same packet ids, so what one has said is remembered for others.
    """
    acks = _remembered_reads.get(data)
    if acks is None:
        acks, end = read_puback_run(data, 0)
        if not acks.packet_ids or end < len(data):
            return None
        if end <= LONGEST_REMEMBERED_READ:
            if len(_remembered_reads) >= MOST_REMEMBERED_READS:
                _remembered_reads.clear()
            _remembered_reads[data] = acks
    return acks


def encode_answers(words: Sequence[int]) -> bytes:
    """Return PUBACKs, PUBRECs and PUBCOMPs in their order, as one piece.

    Args:
        words: Each one of `PUBACK`, `PUBREC`, `PUBCOMP` with a packet id of 1 to 65535 added.
    """
    acks = array("I", words)
    if sys.byteorder == "little":
        acks.byteswap()
    return acks.tobytes()


def encode_puback_many(packet_ids: Iterable[int]) -> bytes:
    """Return the PUBACKs for these packet ids, in their order, as one piece.

    Raises:
        LocalProtocolError: A packet id is not in 1 to 65535.
    """
    ids = list(packet_ids)
    if ids and not (min(ids) >= 1 and max(ids) <= 65_535):
        raise LocalProtocolError(f"packet ids reach from {min(ids)} to {max(ids)}; 1 to 65535 are allowed")

    return encode_answers([PUBACK | packet_id for packet_id in ids])
