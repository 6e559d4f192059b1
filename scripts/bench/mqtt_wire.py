"""The few MQTT 3.1.1 bytes that a load generator needs, built and read many packets at a time.

Written apart from `messaging/mqtt` on purpose: a generator that shared the hub's codec would share its
mistakes, and it has to cost far less per message than any broker. Packets of one run differ only in fixed
places, so sending is `pack_into` a ready buffer, and receiving is strided slices over a run of packets of
equal size; whatever is not such a run goes through the ordinary packet by packet reader.

Clauses named below are those of the OASIS standard MQTT 3.1.1.
"""

import struct

CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90
PUBLISH_QOS1 = 0x32
DISCONNECT = b"\xe0\x00"

STAMP = struct.Struct(">QQQ")  # sequence, publisher id, send time in ns: the first bytes of each payload
JSON_HEAD, JSON_TAIL = b'{"level":7,"stamp":"', b'","rest":"'  # of a JSON body, around its stamp
PACKET_IDS = 65535  # 2.3.1: 1 … 65535

Row = tuple[int, int, int, int]  # packet id, sequence, publisher id, send time in ns


class BadPacket(Exception):
    """The broker sent what the standard forbids, or what this generator cannot have asked for."""


def string(text: str) -> bytes:
    """Encode a string with its length (1.5.3)."""
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(first_byte: int, body: bytes) -> bytes:
    """Put the fixed header in front of a body (2.2)."""
    length, header = len(body), bytearray([first_byte])
    while True:
        length, low = divmod(length, 128)
        header.append(low | (0x80 if length else 0))
        if not length:
            return bytes(header) + body


def connect(client_id: str, username: str | None, password: str | None, *, clean_session: bool) -> bytes:
    """Encode CONNECT (3.1) with a keep-alive of ten minutes, longer than any run."""
    flags = (0x02 if clean_session else 0) | (0x80 if username else 0) | (0x40 if password else 0)
    body = string("MQTT") + bytes([4, flags]) + struct.pack(">H", 600) + string(client_id)
    return packet(0x10, body + b"".join(string(text) for text in (username, password) if text))


def subscribe(packet_id: int, filters: list[str], qos: int = 1) -> bytes:
    """Encode SUBSCRIBE (3.8) asking for one QoS on every filter."""
    asked = b"".join(string(text) + bytes([qos]) for text in filters)
    return packet(0x82, struct.pack(">H", packet_id) + asked)


def pubacks(first_packet_id: int, count: int) -> bytes:
    """Encode the acknowledgements (3.4) of `count` packet ids in a row, without wrapping round."""
    return b"".join(
        b"\x40\x02" + n.to_bytes(2, "big") for n in range(first_packet_id, first_packet_id + count)
    )


def frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the body of the packet at `at` starts and ends, or None while it is incomplete (2.2.3).

    Raises:
        BadPacket: the remaining length is longer than four bytes.
    """
    length = shift = 0
    for position in range(at + 1, min(at + 5, len(data))):
        byte = data[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            end = position + 1 + length
            return (position + 1, end) if end <= len(data) else None
        shift += 7
    if len(data) >= at + 5:
        raise BadPacket(f"remaining length of {data[at + 1 : at + 5].hex()} is longer than four bytes")
    return None


class PublishBuffer:
    """`window` PUBLISH packets of QoS 1 side by side, of which only packet id and stamp change."""

    def __init__(self, topic: str, payload_bytes: int, publisher: int, window: int) -> None:
        payload = self._payload(payload_bytes)
        one = packet(PUBLISH_QOS1, string(topic) + b"\x00\x00" + payload)
        self.packet_bytes = len(one)
        self._packet_id_at = len(one) - len(payload) - 2
        self._publisher = publisher
        self._buffer = bytearray(one * window)
        self._view = memoryview(self._buffer)
        self._pack_into = struct.Struct(">HQQQ").pack_into

    def _payload(self, size: int) -> bytes:
        if size < STAMP.size:
            raise ValueError(f"payload_bytes is {size}; the stamp alone needs {STAMP.size}")
        return bytes(size)

    def fill(self, packet_ids: range, first_sequence: int, now_ns: int, step_ns: int = 0) -> memoryview:
        """Return the bytes of one message per packet id, each `step_ns` later; valid until the next call."""
        buffer, pack_into, publisher, size = self._buffer, self._pack_into, self._publisher, self.packet_bytes
        at, sequence = self._packet_id_at, first_sequence
        for packet_id in packet_ids:
            pack_into(buffer, at, packet_id, sequence, publisher, now_ns)
            at += size
            sequence += 1
            now_ns += step_ns
        return self._view[: len(packet_ids) * size]


class JsonPublishBuffer(PublishBuffer):
    """The same with a JSON body, which has the stamp in hexadecimal."""

    def _payload(self, size: int) -> bytes:
        least = len(JSON_HEAD) + 2 * STAMP.size + len(JSON_TAIL) + 2
        if size < least:
            raise ValueError(f"payload_bytes is {size}; a JSON body with its stamp needs {least}")
        return JSON_HEAD + b"0" * 2 * STAMP.size + JSON_TAIL + b"x" * (size - least) + b'"}'

    def fill(self, packet_ids: range, first_sequence: int, now_ns: int, step_ns: int = 0) -> memoryview:
        """Return the bytes of one message per packet id, each `step_ns` later; valid until the next call."""
        buffer, size, sequence = self._buffer, self.packet_bytes, first_sequence
        at = self._packet_id_at
        for packet_id in packet_ids:
            stamp_at = at + 2 + len(JSON_HEAD)
            buffer[at : at + 2] = packet_id.to_bytes(2, "big")
            stamp = STAMP.pack(sequence, self._publisher, now_ns).hex().encode()
            buffer[stamp_at : stamp_at + len(stamp)] = stamp
            at += size
            sequence += 1
            now_ns += step_ns
        return self._view[: len(packet_ids) * size]


def stamp_of(data: bytes, at: int, size: int) -> tuple[int, int, int]:
    """Return the stamp of the payload at `at`, raw or in a JSON body.

    Raises:
        BadPacket: there is none.
    """
    if data.startswith(JSON_HEAD, at):
        at += len(JSON_HEAD)
        try:
            return STAMP.unpack(bytes.fromhex(data[at : at + 2 * STAMP.size].decode()))
        except (ValueError, struct.error) as error:
            raise BadPacket("a JSON body without a stamp") from error
    if size < STAMP.size:
        raise BadPacket(f"a PUBLISH with {size} bytes of payload, less than its stamp")
    return STAMP.unpack_from(data, at)


class PublishReader:
    """Takes the bytes a subscriber received, gives the stamps in them and the acknowledgements to send."""

    def __init__(self) -> None:
        self._rest = b""
        self._stamps: dict[tuple[int, int], struct.Struct] = {}

    def receive(self, data: bytes) -> tuple[list[Row], bytes]:
        """Return a row per PUBLISH and the bytes that acknowledge those of QoS 1.

        Raises:
            BadPacket: a packet that no broker may send here, or a payload without a stamp.
        """
        if self._rest:
            data = self._rest + data
        place = frame(data, 0)
        if place is None:
            self._rest = data
            return [], b""
        body_at, size = place
        count = len(data) // size
        if data[0] == PUBLISH_QOS1 and self._is_run(data, body_at + 2, size, count):
            rows, acks = self._read_run(data, body_at, size, count)
            self._rest = data[count * size :]
            return rows, acks
        return self._read_each(data)

    @staticmethod
    def _is_run(data: bytes, header_bytes: int, size: int, count: int) -> bool:
        """Say whether `count` packets of equal flags, remaining length and topic length follow each other.

        Each packet's remaining length says where the next one starts, so equal headers at equal distances are
        proof, not a guess.
        """
        end = count * size
        return count == 1 or all(
            data[at:end:size].count(data[at : at + 1]) == count for at in range(header_bytes)
        )

    def _read_run(self, data: bytes, body_at: int, size: int, count: int) -> tuple[list[Row], bytes]:
        packet_id_at = body_at + 2 + int.from_bytes(data[body_at : body_at + 2], "big")
        stamp = self._stamps.get((size, packet_id_at))
        if stamp is None:
            tail = size - packet_id_at - 2 - STAMP.size
            if tail < 0:
                raise BadPacket(f"a payload shorter than its stamp of {STAMP.size} bytes")
            stamp = self._stamps[size, packet_id_at] = struct.Struct(f">{packet_id_at}xHQQQ{tail}x")
        end = count * size
        acks = bytearray(b"\x40\x02\x00\x00" * count)
        acks[2::4] = data[packet_id_at:end:size]
        acks[3::4] = data[packet_id_at + 1 : end : size]
        if data[packet_id_at + 2] == JSON_HEAD[0]:
            return [
                (int.from_bytes(data[at : at + 2], "big"), *stamp_of(data, at + 2, size))
                for at in range(packet_id_at, end, size)
            ], bytes(acks)
        return list(stamp.iter_unpack(memoryview(data)[:end])), bytes(acks)

    def _read_each(self, data: bytes) -> tuple[list[Row], bytes]:
        rows: list[Row] = []
        acks = bytearray()
        at = 0
        while at < len(data) and (place := frame(data, at)):
            body_at, end = place
            if data[at] & 0xF0 == PUBLISH:
                qos = data[at] >> 1 & 3
                stamp_at = body_at + 2 + int.from_bytes(data[body_at : body_at + 2], "big")
                packet_id = 0
                if qos:
                    packet_id = int.from_bytes(data[stamp_at : stamp_at + 2], "big")
                    acks += b"\x40\x02" + data[stamp_at : stamp_at + 2]
                    stamp_at += 2
                if qos > 1:
                    raise BadPacket(f"a PUBLISH of QoS {qos}")
                rows.append((packet_id, *stamp_of(data, stamp_at, end - stamp_at)))
            else:
                raise BadPacket(f"a packet of type {data[at] >> 4} sent to a subscriber")
            at = end
        self._rest = data[at:]
        return rows, bytes(acks)
