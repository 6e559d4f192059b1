"""Frames that no honest peer sends, in any cut: nothing raises, nothing is kept, the process lives on.

The engine is C, so what is shown here is also that no bytes crash it: a crash would end the test run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging.amqp.codec import BATCH_FORMAT
from messaging.amqp.connection import Connection
from messaging.amqp.events import Event, LinkAttached, Opened, Received, SaslDone
from messaging.amqp.link import Delivery, Link
from messaging.amqp.sasl import AMQP_HEADER, ServerSasl
from messaging.amqp.values import Described, Symbol, UByte, UInt, ULong
from messaging.errors import LocalProtocolError
from tests.messaging.amqp.pairs import Pair
from tests.messaging.amqp.test_connection import (
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    END,
    FLOW,
    OPEN,
    TRANSFER,
    begin,
    frame,
)

ACCEPTED, RECEIVED, MODIFIED = (Described(ULong(code), []) for code in (0x24, 0x23, 0x27))
ERROR = Described(ULong(0x1D), [Symbol("e"), "d"])
REJECTED = Described(ULong(0x25), [ERROR])
TRANSACTIONAL = Described(ULong(0x34), [b"x", ACCEPTED])
OUTCOMES: tuple[Callable[[Delivery], None], ...] = (
    Delivery.accept,
    Delivery.accept,
    Delivery.release,
    Delivery.modify,
    Delivery.settle,
    lambda delivery: delivery.reject("e", "d"),
)
WINDOWS = (0, 1, 5_000, 2**32 - 1)


class Peer:
    """Makes frames at random: mostly such as belong together, some that do not, some that are broken."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._delivery = 0

    def stream(self, *, of_client: bool) -> bytes:
        """Return header, Open, Begin, two links, and what comes then."""
        started = begin(answers=None if of_client else 0, window=100)
        attaches = [
            frame(ATTACH, f"s{n}", UInt(n), bool(n), UByte(2), UByte(n), self._source(), self._target(), None,
                  None, UInt(0))
            for n in (0, 1)
        ]  # fmt: skip
        frames = [frame(OPEN, "c", "h", UInt(self.random.choice([512, 65_536]))), started, *attaches]
        frames += [self.frame() for _ in range(self.random.randrange(40))]
        for _ in range(self.random.choice([0, 0, 1, 3])):
            at = self.random.randrange(len(frames))
            frames[at] = self._broken(frames[at])
        return AMQP_HEADER + b"".join(frames)

    def frame(self) -> bytes:
        pick = self.random.choice
        fits = self.random.random() < 0.97
        channel = 0 if fits else pick([1, 2, self.random.randrange(2**16)])
        handle = UInt(pick([0, 0, 1]) if fits else pick([2, 9, self.random.randrange(2**32)]))
        code = pick([ATTACH, FLOW, FLOW, *[TRANSFER] * 5, *[DISPOSITION] * 3, DETACH])
        if not fits:
            code = pick([OPEN, BEGIN, END, CLOSE, code])
        if code == BEGIN:
            return begin(channel, answers=pick([None, 0, 7]), window=pick(WINDOWS))
        fields = getattr(self, f"_fields_{code:x}")(handle)
        payload = b""
        if code == TRANSFER:
            payload = pick([b"", b"\x00\x53\x75\xa0\x01x", self.random.randbytes(50), bytes(3_000)])
        return frame(code, *fields, payload=payload, channel=channel)

    def _source(self) -> object:
        fields = ["/a", UInt(0), None, UInt(0), False, {Symbol("p"): 1}, None, {Symbol("f"): ERROR}]
        return self.random.choice([None, *[Described(ULong(0x28), fields[:n]) for n in range(9)]])

    def _target(self) -> object:
        return self.random.choice([None, Described(ULong(0x29), ["/b"]), Described(ULong(0x30), [])])

    def _fields_10(self, handle: UInt) -> list[object]:
        return [
            self.random.choice(["c", None]),
            "h",
            UInt(512),
            None,
            UInt(self.random.choice([0, 10, 6_000])),
        ]

    def _fields_12(self, handle: UInt) -> list[object]:
        modes = UByte(self.random.choice([0, 1, 2, 9])), UByte(self.random.choice([0, 1, 7]))
        name = self.random.choice(["l", "m", "n", None])
        limits = UInt(self.random.choice([0, 5])), ULong(self.random.choice([0, 100, 2**40]))
        properties = self.random.choice([None, {Symbol("p"): "v"}, {1: 2}])
        role = self.random.random() < 0.5
        return [name, UInt(self.random.choice([0, 1, 2])), role, *modes, self._source(), self._target(),
                None, None, *limits, None, None, properties]  # fmt: skip

    def _fields_13(self, handle: UInt) -> list[object]:
        pick = self.random.choice
        session = UInt(pick([0, 1])), UInt(pick(WINDOWS)), UInt(0), UInt(100)
        link = pick([None, handle]), pick([None, UInt(0), UInt(2**32 - 1)]), UInt(pick([0, 1, 10, 2**31]))
        return [*session, *link, None, self.random.random() < 0.3, self.random.random() < 0.3]

    def _fields_14(self, handle: UInt) -> list[object]:
        pick = self.random.choice
        number = UInt(self._delivery)
        self._delivery += 1
        tag = pick([b"t", b"%d" % number, None])
        more, aborted = self.random.random() < 0.15, self.random.random() < 0.1
        message_format = UInt(pick([0, BATCH_FORMAT]))
        state = pick([None, None, ACCEPTED])
        return [
            handle,
            number,
            tag,
            message_format,
            pick([None, True, False]),
            more,
            None,
            state,
            False,
            aborted,
        ]

    def _fields_15(self, handle: UInt) -> list[object]:
        pick = self.random.choice
        first = UInt(max(0, self._delivery - self.random.randrange(5)))
        state = pick([None, ACCEPTED, RECEIVED, REJECTED, MODIFIED, TRANSACTIONAL, "no state"])
        role, settled = self.random.random() < 0.5, self.random.random() < 0.5
        return [role, first, pick([None, None, first, UInt(first + 3), UInt(2**31)]), settled, state]

    def _fields_16(self, handle: UInt) -> list[object]:
        return [handle, self.random.random() < 0.7, self.random.choice([None, ERROR])]

    def _fields_17(self, handle: UInt) -> list[object]:
        return [self.random.choice([None, ERROR])]

    _fields_18 = _fields_17

    def _broken(self, one: bytes) -> bytes:
        data = bytearray(one)
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(len(data))
            kind = self.random.randrange(4)
            if kind == 0:
                data[at] = self.random.randrange(256)
            elif kind == 1:
                data[at] ^= 1 << self.random.randrange(8)
            elif kind == 2:
                data[at:at] = self.random.randbytes(self.random.randrange(1, 5))
            elif len(data) > 8:
                del data[at : at + self.random.randrange(1, 5)]
        if self.random.random() < 0.8 and len(data) >= 8:
            data[:4] = len(data).to_bytes(4, "big")
        return bytes(data)


class Owner:
    """Does with a connection what heads do, and what they should not."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self._connection = connection
        self._random = random.Random(seed)
        self._links: list[Link] = []
        self._deliveries: list[Delivery] = []
        self._sent = 0

    def handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, SaslDone):
                self.handle(self._connection.sasl_outcome(self._random.random() < 0.9))
            elif isinstance(event, Opened):
                self._connection.open()
            elif isinstance(event, LinkAttached):
                self._answer(event.link)
            elif isinstance(event, Received):
                assert isinstance(event.delivery.tag, bytes)
                self._deliveries.append(event.delivery)
        for link in self._links:
            self._use(link)
        while self._deliveries and self._random.random() < 0.7:
            delivery = self._deliveries.pop(self._random.randrange(len(self._deliveries)))
            self._random.choice(OUTCOMES)(delivery)

    def _answer(self, link: Link) -> None:
        chance = self._random.random()
        if chance < 0.1:
            link.refuse("amqp:not-allowed", "no")
        elif chance < 0.15:
            link.detach("e", "d")
        elif chance < 0.9:
            link.accept()
        self._links.append(link)
        if not link.is_sender:
            link.grant(self._random.choice([1, 10, 100]))

    def _use(self, link: Link) -> None:
        chance = self._random.random()
        if chance < 0.02:
            link.detach("e", "d")
        elif chance < 0.1:
            link.accept()
        elif link.is_sender and link.credit:
            self._sent += 1
            body, tag = bytes(self._random.choice([0, 9, 3_000])), b"%d" % self._sent
            kind = self._random.choice([0, BATCH_FORMAT])
            try:
                sent = link.send(body, tag, settled=self._random.random() < 0.3, message_format=kind)
            except LocalProtocolError:
                return  # longer than the peer takes
            self._deliveries.append(sent)
            if chance < 0.3:
                link.drained()
        elif not link.is_sender and chance < 0.3:
            link.grant(1)

    def leave(self) -> None:
        """Ask everything once more when all may have ended."""
        for link in self._links:
            link.detach()
            link.grant(1)
            link.accept()
        for delivery in self._deliveries:
            delivery.accept()


def converse(seed: int, *, of_client: bool) -> Connection:
    """Let a connection meet a peer of this seed, and return it at the end."""
    rng = random.Random(seed)
    connection = Connection(container_id="c", sasl=ServerSasl() if of_client else None)
    owner = Owner(connection, seed)
    if not of_client:
        connection.open()
        for name in ("s0", "s1", "l"):
            connection.attach_sender(name, "/x")
            connection.attach_receiver(name, "/x").grant(10)
    stream = Peer(seed).stream(of_client=of_client)
    now_s = 1.0
    pos = 0
    while pos < len(stream):
        size = rng.choice([1, 7, 100, 10_000])
        owner.handle(connection.receive_data(stream[pos : pos + size]))
        pos += size
        if rng.random() < 0.6:
            connection.data_to_send()
        if rng.random() < 0.1:
            now_s += rng.choice([1, 100])
            owner.handle(connection.tick(now_s)[0])
        if rng.random() < 0.005:
            connection.close("e", "d")
    if rng.random() < 0.5:
        owner.handle(connection.receive_data(b""))
    connection.data_to_send()
    owner.leave()
    return connection


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=300)
def test_no_peer_makes_a_connection_raise(seed: int, of_client: bool) -> None:
    converse(seed, of_client=of_client)


@given(st.lists(st.binary(max_size=60), max_size=8), st.sampled_from(["client", "server"]), st.booleans())
def test_random_bytes_never_raise(pieces: list[bytes], role: str, framed: bool) -> None:
    connection = Connection(container_id="c", sasl=ServerSasl() if role == "server" else None)
    connection.receive_data(AMQP_HEADER)

    for piece in pieces:
        data = (len(piece) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x00" + piece if framed else piece
        if data:
            connection.receive_data(data)
        connection.data_to_send()


@given(st.integers(0, 2**32), st.data())
def test_the_cut_changes_nothing(seed: int, data: st.DataObject) -> None:
    stream = Peer(seed).stream(of_client=True)
    whole, cut = (Connection(container_id="s", sasl=ServerSasl()) for _ in range(2))
    at = data.draw(st.integers(1, len(stream) - 1))

    in_one = whole.receive_data(stream)
    in_two = cut.receive_data(stream[:at])
    in_two += cut.receive_data(stream[at:])

    assert whole.ended == cut.ended
    assert [type(event) for event in in_one if not isinstance(event, LinkAttached)] == [
        type(event) for event in in_two if not isinstance(event, LinkAttached)
    ]


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def begin_and_end(pair: Pair, number: int) -> None:
    """A connection comes and goes, with messages that are not settled."""
    own = Pair().opened()
    ours, _ = own.client_sends()
    for tag in range(5):
        ours.send(bytes(2_000), b"%d" % tag, settled=False)
    own.exchange()


def attach_and_detach(pair: Pair, number: int) -> None:
    """A link of a lasting connection comes and goes, with a message that is not settled."""
    ours, theirs = pair.client_sends()
    ours.send(b"m", b"1", settled=False)
    pair.exchange()
    (ours if number % 2 else theirs).detach("e", "d")
    pair.exchange()


def begin_and_end_a_session(pair: Pair, number: int) -> None:
    pair.server.receive_data(frame(BEGIN, None, UInt(0), UInt(100), UInt(100), channel=1))
    pair.server.receive_data(frame(ATTACH, "l", UInt(0), False, channel=1))
    pair.server.receive_data(frame(END, channel=1))
    pair.server.data_to_send()


def send_and_settle(pair: Pair, number: int) -> None:
    """Messages of a lasting link, some settled by their sender, some in batches."""
    attached = [event.link for event in pair.at_client if isinstance(event, LinkAttached)]
    ours = attached[0] if attached else pair.client_sends(credit=1_000_000)[0]
    pair.at_client[:] = [LinkAttached(ours)]
    for tag in range(10):
        kind = 0 if tag % 3 else BATCH_FORMAT
        ours.send(bytes(500), b"%d" % tag, settled=tag == 0, message_format=kind)
    for delivery in pair.received_by_server():
        delivery.accept()
    pair.exchange()


def meet_random_peer(pair: Pair, number: int) -> None:
    converse(number, of_client=number % 2 == 0)


@pytest.mark.parametrize(
    ("one_round", "rounds"),
    [
        (meet_random_peer, 1_500),
        (begin_and_end, 2_000),
        (attach_and_detach, 3_000),
        (begin_and_end_a_session, 3_000),
        (send_and_settle, 2_000),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_memory_does_not_grow(one_round: Callable[[Pair, int], None], rounds: int) -> None:
    pair = Pair().opened()
    for number in range(rounds):
        one_round(pair, number)
    before_kb = resident_kb()

    for number in range(rounds, 2 * rounds):
        one_round(pair, number)
        if one_round is not send_and_settle:
            pair.at_client.clear()
        pair.at_server.clear()

    # The smallest thing that could be kept per round, a delivery, has more than 0.4 kB.
    assert resident_kb() - before_kb < rounds * 0.4
