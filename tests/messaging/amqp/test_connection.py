"""Two connections that talk to each other: opening, links, messages, outcomes, credit, ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from messaging.amqp import connection as connection_module
from messaging.amqp import engine
from messaging.amqp.codec import BATCH_FORMAT
from messaging.amqp.connection import Connection
from messaging.amqp.events import (
    CreditGranted,
    Ended,
    LinkAttached,
    LinkDetached,
    Opened,
    Outcome,
    Received,
    Settled,
)
from messaging.amqp.link import Delivery, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import AMQP_HEADER, ServerSasl
from messaging.amqp.values import Described, Symbol, UByte, UInt, ULong, encode_value
from messaging.errors import LocalProtocolError
from tests.messaging.amqp.pairs import Pair

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
CUTS = pytest.mark.parametrize("piece_bytes", [0, 1, 7, 1000], ids=lambda n: f"pieces of {n or 'all'}")


def raw_frame(body: bytes, channel: int = 0) -> bytes:
    return (len(body) + 8).to_bytes(4, "big") + b"\x02\x00" + channel.to_bytes(2, "big") + body


def frame(code: int, *fields: object, payload: bytes = b"", channel: int = 0) -> bytes:
    return raw_frame(encode_value(Described(ULong(code), list(fields))) + payload, channel)


def begin(channel: int = 0, *, answers: int | None = None, window: int = 5_000) -> bytes:
    fields = encode_value([None, UInt(0), UInt(window), UInt(window)])
    if answers is not None:  # a ushort in place of null, a type that the codec only reads
        items = b"\x60" + answers.to_bytes(2, "big") + fields[10:]
        fields = b"\xd0" + (len(items) + 4).to_bytes(4, "big") + fields[5:9] + items
    return raw_frame(b"\x00\x53\x11" + fields, channel)


def attach(name: str, handle: int, *, receives: bool = False, properties: object = None) -> bytes:
    source, target = (Described(ULong(code), ["/events"]) for code in (0x28, 0x29))
    modes = (UByte(2), UByte(0))
    rest = (None, None, UInt(0), None, None, None, properties)
    return frame(ATTACH, name, UInt(handle), receives, *modes, source, target, *rest)


def transfer(number: int, payload: bytes = b"m", *, handle: int = 0, more: bool = False) -> bytes:
    tag = b"%d" % number
    return frame(TRANSFER, UInt(handle), UInt(number), tag, UInt(0), False, more, payload=payload)


def server_with_link(credit: int = 10) -> Connection:
    """Return a server that has heard header, Open, Begin and Attach, and has answered."""
    server = Connection(container_id="server", sasl=ServerSasl())
    data = AMQP_HEADER + frame(OPEN, "client") + begin() + attach("l", 0)
    for event in server.receive_data(data):
        if isinstance(event, Opened):
            server.open()
        elif isinstance(event, LinkAttached):
            event.link.accept()
            event.link.grant(credit)
    server.data_to_send()
    return server


# Opening


@CUTS
def test_both_ends_learn_who_the_other_is(piece_bytes: int) -> None:
    pair = Pair(piece_bytes=piece_bytes).opened()

    assert pair.at_server == [Opened("client", "hub", {})]
    assert pair.at_client == [Opened("server", "", {})]


def test_open_announces_frame_size_and_idle_timeout_and_carries_properties() -> None:
    client = Connection(container_id="c", idle_timeout_s=240, properties={"product": "p"})
    server = Connection(container_id="s", sasl=ServerSasl())
    client.open()
    sent = client.data_to_send()

    events = server.receive_data(sent)

    assert events == [Opened("c", "", {"product": "p"})]
    assert b"\x70" + (65_536).to_bytes(4, "big") in sent
    assert b"\x70" + (240_000).to_bytes(4, "big") in sent


@pytest.mark.parametrize(
    ("idle_timeout_ms", "refused"), [(1, True), (4_999, True), (5_000, False), (0, False), (240_000, False)]
)
def test_a_client_that_wants_too_many_heart_beats_is_refused(idle_timeout_ms: int, refused: bool) -> None:
    server = Connection(container_id="s", sasl=ServerSasl())

    events = server.receive_data(AMQP_HEADER + frame(OPEN, "c", "h", None, None, UInt(idle_timeout_ms)))

    if refused:
        [ended] = events
        assert isinstance(ended, Ended)
        assert (ended.condition, ended.offence) == ("amqp:not-allowed", True)
        assert b"amqp:not-allowed" in server.data_to_send()
        assert server.ended
    else:
        assert events == [Opened("c", "h", {})]


LONG = {Symbol("p"): "x" * 9_000}


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([begin()], id="Begin before Open"),
        pytest.param([frame(OPEN, "c"), frame(OPEN, "c")], id="a second Open"),
        pytest.param([frame(OPEN, "c"), attach("l", 0)], id="Attach before Begin"),
        pytest.param([frame(OPEN, "c"), begin(), transfer(0)], id="a transfer without a link"),
        pytest.param([frame(OPEN, "c"), b"\x00\x00\x00\x07\x02\x00\x00\x00"], id="a frame of 7 bytes"),
        pytest.param([frame(OPEN, "c"), b"\x00\x02\x00\x00\x02\x00\x00\x00"], id="a frame too long"),
        pytest.param([frame(OPEN, "c"), frame(0x20, "c")], id="an unknown performative"),
        pytest.param([frame(OPEN, "c"), begin(), attach("l", 0, properties={1: 2})], id="wrong properties"),
        pytest.param([frame(OPEN, "c"), begin(), attach("l", 0, properties=LONG)], id="a long Attach"),
        pytest.param(
            [frame(OPEN, "c"), begin(), attach("l", 0, receives=True), transfer(0)],
            id="a transfer where we send",
        ),
        pytest.param([frame(OPEN, "c"), begin(), attach("l", 0), attach("m", 0)], id="a handle given twice"),
        pytest.param([frame(OPEN, "c"), begin(), begin()], id="a channel given twice"),
        pytest.param([frame(OPEN, "c"), begin(), begin(1, answers=0)], id="a Begin that answers none"),
        pytest.param(
            [frame(OPEN, "c"), begin(), frame(ATTACH, "l", ULong(0), True)], id="a handle that is a ulong"
        ),
        pytest.param(
            [frame(OPEN, "c"), begin(), frame(ATTACH, "l", UInt(0), "yes")], id="a role that is a string"
        ),
        pytest.param([frame(OPEN, "c"), begin(), frame(ATTACH, None, UInt(0), True)], id="no name"),
        pytest.param([frame(OPEN, "c"), begin(), frame(ATTACH)], id="an empty Attach"),
        pytest.param(
            [
                frame(OPEN, "c"),
                raw_frame(b"\x00\x53\x41\xc0\x01\x00")[:5]
                + b"\x01"
                + raw_frame(b"\x00\x53\x41\xc0\x01\x00")[6:],
            ],
            id="a SASL frame",
        ),
        pytest.param(
            [frame(OPEN, "c"), raw_frame(b"\x00\x53\x14\xc0\xff\x00")], id="a list longer than its frame"
        ),
        pytest.param([frame(OPEN, "c"), raw_frame(b"\x00\x53\x14\xc1\x01\x00")], id="a map for a list"),
        pytest.param([frame(OPEN, "c"), raw_frame(b"\x40")], id="a null for a performative"),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection_with_an_error(frames: list[bytes]) -> None:
    server = Connection(container_id="s", sasl=ServerSasl())

    events = [event for data in (AMQP_HEADER, *frames) for event in server.receive_data(data)]

    assert isinstance(events[-1], Ended)
    assert events[-1].offence
    assert b"\x00\x53\x18" in server.data_to_send()  # Close
    assert server.receive_data(b"more") == []
    assert server.data_to_send() == b""


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01", b"AMQP\x01\x01\x00\x00", b"AMQP\x00\x00\x09\x01"],
    ids=["HTTP", "TLS", "another protocol id", "AMQP 0-9"],
)
def test_another_protocol_is_answered_with_our_header(start: bytes) -> None:
    server = Connection(container_id="s", sasl=ServerSasl())

    events = [event for byte in start for event in server.receive_data(bytes((byte,)))]

    assert [(event.condition, event.offence) for event in events if isinstance(event, Ended)] == [
        ("amqp:connection:framing-error", True)
    ]
    assert server.data_to_send() == b"AMQP\x03\x01\x00\x00"


# Links


@CUTS
def test_an_attach_of_the_client_is_accepted_with_what_it_says(piece_bytes: int) -> None:
    pair = Pair(piece_bytes=piece_bytes).opened()
    ours = pair.client.attach_sender(
        "up",
        "/devices/d/messages/events",
        properties={"com.microsoft:client-version": "v", "n": 5},
        snd_settle_mode=SndSettleMode.UNSETTLED,
    )

    theirs = pair.seen_by_server(LinkAttached)[0].link
    theirs.accept(max_message_bytes=5_000, properties={"answer": "yes"})

    assert pair.seen_by_client(LinkAttached) == [LinkAttached(ours)]
    assert (theirs.name, theirs.address, theirs.is_sender) == ("up", "/devices/d/messages/events", False)
    assert theirs.properties == {"com.microsoft:client-version": "v", "n": 5}
    assert theirs.snd_settle_mode is SndSettleMode.UNSETTLED
    assert (ours.address, ours.is_sender, ours.is_open) == ("/devices/d/messages/events", True, True)
    assert ours.properties == {"answer": "yes"}
    assert ours.max_message_bytes == 5_000


def test_a_receiver_says_modes_source_and_filter() -> None:
    pair = Pair().opened()
    ours = pair.client.attach_receiver(
        "down",
        "/p/0",
        source_filter={"apache.org:selector-filter:string": Described(Symbol("s:f"), "x > 5"), "n": 1},
        rcv_settle_mode=RcvSettleMode.SECOND,
    )

    theirs = pair.seen_by_server(LinkAttached)[0].link
    theirs.accept(snd_settle_mode=SndSettleMode.UNSETTLED)
    pair.exchange()

    assert (theirs.address, theirs.source, theirs.is_sender) == ("/p/0", "/p/0", True)
    assert theirs.source_filter == {"apache.org:selector-filter:string": "x > 5", "n": 1}
    assert theirs.rcv_settle_mode is RcvSettleMode.SECOND
    assert ours.rcv_settle_mode is RcvSettleMode.SECOND
    assert ours.snd_settle_mode is SndSettleMode.UNSETTLED


def test_a_sender_that_asks_for_the_second_mode_gets_the_first() -> None:
    ours, theirs = Pair().opened().client_sends(rcv_settle_mode=RcvSettleMode.SECOND)

    assert theirs.rcv_settle_mode is RcvSettleMode.FIRST
    assert ours.rcv_settle_mode is RcvSettleMode.FIRST


@pytest.mark.parametrize("direction", ["sender", "receiver"])
def test_a_refused_link_brings_its_error_and_nothing_else_ends(direction: str) -> None:
    pair = Pair().opened()
    attach_one = pair.client.attach_sender if direction == "sender" else pair.client.attach_receiver
    ours = attach_one("l", "/unknown")

    pair.seen_by_server(LinkAttached)[0].link.refuse("amqp:not-found", "no such node: ä")

    pair.exchange()
    assert pair.at_client[-1] == LinkDetached(ours, "amqp:not-found", "no such node: ä")
    assert not any(isinstance(event, LinkAttached) for event in pair.at_client)
    assert not ours.is_open
    assert pair.seen_by_server(LinkDetached) == []
    assert pair.client_sends()[0].credit == 100


def test_a_link_is_attached_again_under_its_old_name() -> None:
    pair = Pair().opened()
    ours, _ = pair.client_sends(name="same")
    ours.detach()
    pair.exchange()

    again, theirs = pair.client_sends(name="same")
    again.send(b"m", b"1", settled=True)

    assert [delivery.link for delivery in pair.received_by_server()] == [theirs]


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_detach_reaches_the_other_end_with_its_error(who: str) -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends()
    pair.at_client.clear()

    if who == "server":
        theirs.detach("amqp:link:detach-forced", "evicted")
        seen = pair.seen_by_client(LinkDetached)
        assert seen == [LinkDetached(ours, "amqp:link:detach-forced", "evicted")]
    else:
        ours.detach()
        assert pair.seen_by_server(LinkDetached) == [LinkDetached(theirs, "", "")]
    assert not ours.is_open
    assert not theirs.is_open
    assert [link.credit for link in (ours, theirs)] == [0, 0]


@CUTS
def test_a_detach_behind_the_end_of_its_session_is_passed_over(piece_bytes: int) -> None:
    server = server_with_link()
    data = frame(END) + frame(DETACH, UInt(0), True) + frame(DETACH, UInt(1), True) + frame(CLOSE)
    size = piece_bytes or len(data)

    events = [
        event for at in range(0, len(data), size) for event in server.receive_data(data[at : at + size])
    ]

    assert [type(event) for event in events] == [LinkDetached, Ended]
    assert events[-1] == Ended("", "", False)


def test_the_end_of_a_session_ends_its_links_alone() -> None:
    server = server_with_link()
    server.receive_data(begin(1))
    server.receive_data(frame(ATTACH, "other", UInt(0), False, channel=1))

    events = server.receive_data(frame(END, Described(ULong(0x1D), [Symbol("e"), "d"]), channel=0))

    assert [(e.link.name, e.condition, e.description) for e in events if isinstance(e, LinkDetached)] == [
        ("l", "e", "d")
    ]
    assert not server.ended
    assert b"\x00\x53\x17" in server.data_to_send()  # End


def test_a_client_takes_no_links_that_the_server_opens() -> None:
    client = Connection(container_id="c")
    client.open()
    client.attach_sender("up", "/x")
    sent = client.data_to_send()
    assert sent.startswith(AMQP_HEADER)
    answer = begin(answers=0) + attach("theirs", 0, receives=True)

    events = client.receive_data(AMQP_HEADER + frame(OPEN, "s") + answer)

    assert [type(event) for event in events] == [Opened]
    assert b"amqp:not-allowed" in client.data_to_send()


# Messages


@pytest.mark.parametrize("size", [0, 1, 1_000, 70_000, 300_000])
@pytest.mark.parametrize("piece_bytes", [0, 97, 20_000])
def test_a_message_arrives_whole_and_its_outcome_comes_back(size: int, piece_bytes: int) -> None:
    pair = Pair(piece_bytes=piece_bytes).opened()
    ours, theirs = pair.client_sends()
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)

    sent = ours.send(body, b"tag-1", settled=False)
    [delivery] = pair.received_by_server()
    assert (delivery.data, delivery.tag, delivery.link) == (body, b"tag-1", theirs)
    assert (delivery.message_format, delivery.settled) == (0, False)
    delivery.accept()

    assert pair.seen_by_client(Settled) == [Settled(sent, Outcome.ACCEPTED, "", "")]
    assert (ours.unsettled, theirs.unsettled) == (0, 0)


@pytest.mark.parametrize(
    ("decide", "outcome", "condition"),
    [
        (lambda d: d.accept(), Outcome.ACCEPTED, ""),
        (lambda d: d.reject("amqp:link:message-size-exceeded", "long"), Outcome.REJECTED,
         "amqp:link:message-size-exceeded"),
        (lambda d: d.release(), Outcome.RELEASED, ""),
        (lambda d: d.modify(), Outcome.MODIFIED, ""),
        (lambda d: d.settle(), Outcome.NONE, ""),
    ],
    ids=["accepted", "rejected", "released", "modified", "none"],
)  # fmt: skip
@pytest.mark.parametrize("sender", ["client", "server"])
def test_each_outcome_is_told_once(
    sender: str, decide: Callable[[Delivery], None], outcome: Outcome, condition: str
) -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends() if sender == "client" else pair.server_sends()
    sending = ours if sender == "client" else theirs
    sent = [sending.send(b"m", b"%d" % number, settled=False) for number in range(3)]

    deliveries = pair.received_by_server() if sender == "client" else pair.received_by_client()
    for delivery in deliveries:
        decide(delivery)
    seen = pair.seen_by_client(Settled) if sender == "client" else pair.seen_by_server(Settled)

    assert {event.delivery for event in seen} == set(sent)
    assert {(event.outcome, event.condition) for event in seen} == {(outcome, condition)}
    assert sending.unsettled == 0


def test_a_settled_message_needs_no_outcome() -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends()

    ours.send(b"m", b"1", settled=True)
    [delivery] = pair.received_by_server()
    delivery.accept()

    assert delivery.settled
    assert pair.seen_by_client(Settled) == []
    assert (ours.unsettled, theirs.unsettled) == (0, 0)


def test_in_the_second_mode_the_sender_settles_after_the_receiver() -> None:
    pair = Pair().opened()
    ours, theirs = pair.server_sends(rcv_settle_mode=RcvSettleMode.SECOND)
    sent = theirs.send(b"c2d", b"lock", settled=False)
    [delivery] = pair.received_by_client()

    delivery.accept()
    assert pair.seen_by_server(Settled) == [Settled(sent, Outcome.ACCEPTED, "", "")]
    assert pair.seen_by_client(Settled) == []
    assert (ours.unsettled, theirs.unsettled) == (1, 1)
    sent.settle()

    assert pair.seen_by_client(Settled) == [Settled(delivery, Outcome.ACCEPTED, "", "")]
    assert (ours.unsettled, theirs.unsettled) == (0, 0)
    assert pair.seen_by_server(Settled) == []


def test_in_the_second_mode_a_receiver_that_settles_at_once_is_heard_once() -> None:
    server = Connection(container_id="s", sasl=ServerSasl())
    source = Described(ULong(0x28), ["/devicebound"])
    asks = frame(ATTACH, "l", UInt(0), True, UByte(2), UByte(1), source, Described(ULong(0x29), [None]))
    [_, attached] = server.receive_data(AMQP_HEADER + frame(OPEN, "c") + begin() + asks)
    assert isinstance(attached, LinkAttached)
    server.open()
    attached.link.accept()
    server.data_to_send()
    server.receive_data(frame(FLOW, UInt(0), UInt(99), UInt(0), UInt(99), UInt(0), UInt(0), UInt(5)))
    sent = attached.link.send(b"m", b"1", settled=False)
    server.data_to_send()

    accepted = Described(ULong(0x24), [])
    events = server.receive_data(frame(DISPOSITION, True, UInt(0), None, True, accepted) * 2)

    assert events == [Settled(sent, Outcome.ACCEPTED, "", "")]


@CUTS
def test_a_batch_is_told_from_other_messages(piece_bytes: int) -> None:
    pair = Pair(piece_bytes=piece_bytes).opened()
    ours, _ = pair.client_sends()
    bodies = [b"small", BATCH_FORMAT.to_bytes(4, "big") * 20_000, b"plain"]

    ours.send(bodies[0], b"0", settled=False, message_format=BATCH_FORMAT)
    ours.send(bodies[1], b"1", settled=False, message_format=BATCH_FORMAT)
    ours.send(bodies[2], b"2", settled=False)
    ours.send(bodies[1], b"3", settled=True)
    ours.send(bodies[0], b"4", settled=False, message_format=BATCH_FORMAT)
    received = pair.received_by_server()

    assert [delivery.data for delivery in received] == [*bodies, bodies[1], bodies[0]]
    assert [delivery.message_format for delivery in received] == [
        BATCH_FORMAT,
        BATCH_FORMAT,
        0,
        0,
        BATCH_FORMAT,
    ]
    assert [delivery.tag for delivery in received] == [b"0", b"1", b"2", b"", b"4"]
    assert not pair.client._sent_tags
    assert not pair.server._batch_tags


@CUTS
def test_batches_on_two_links_with_equal_tags_are_both_told_from_other_messages(piece_bytes: int) -> None:
    pair = Pair(piece_bytes=piece_bytes).opened()
    (first, _), (second, _) = pair.client_sends(name="first"), pair.client_sends(name="second")
    long = b"x" * 100_000

    first.send(long, b"1", settled=False, message_format=BATCH_FORMAT)
    second.send(long, b"1", settled=False, message_format=BATCH_FORMAT)
    first.send(b"plain", b"2", settled=False)
    second.send(b"batch", b"2", settled=False, message_format=BATCH_FORMAT)
    received = pair.received_by_server()

    told = {(each.link.name, each.tag): (each.message_format, each.data) for each in received}
    assert told == {
        ("first", b"1"): (BATCH_FORMAT, long),
        ("second", b"1"): (BATCH_FORMAT, long),
        ("first", b"2"): (0, b"plain"),
        ("second", b"2"): (BATCH_FORMAT, b"batch"),
    }
    assert not pair.client._sent_tags
    assert not pair.server._batch_tags


def test_a_batch_that_could_not_leave_is_forgotten_with_its_link() -> None:
    server = Connection(container_id="s", sasl=ServerSasl())
    asks = AMQP_HEADER + frame(OPEN, "c") + begin(window=0) + attach("l", 0, receives=True)
    [_, attached] = server.receive_data(asks)
    assert isinstance(attached, LinkAttached)
    server.open()
    attached.link.accept()
    server.data_to_send()
    server.receive_data(frame(FLOW, UInt(0), UInt(0), UInt(0), UInt(99), UInt(0), UInt(0), UInt(5)))
    attached.link.send(b"m", b"1", settled=False, message_format=BATCH_FORMAT)
    assert server.data_to_send() == b""  # the session has no window
    assert server._sent_tags

    [detached] = server.receive_data(frame(DETACH, UInt(0), True))

    assert isinstance(detached, LinkDetached)
    assert not server._sent_tags


def test_a_tag_that_ends_like_the_batch_format_makes_no_batch() -> None:
    pair = Pair().opened()
    ours, _ = pair.client_sends()
    tag = b"1" + BATCH_FORMAT.to_bytes(4, "big")

    ours.send(b"m", tag, settled=False)
    ours.send(b"b", b"2", settled=False, message_format=BATCH_FORMAT)
    received = pair.received_by_server()

    assert [(d.tag, d.message_format) for d in received] == [(tag, 0), (b"2", BATCH_FORMAT)]


@pytest.mark.parametrize("tag", [b"", bytes(33)], ids=["none", "too long"])
def test_a_tag_that_the_standard_forbids_is_refused(tag: bytes) -> None:
    ours, _ = Pair().opened().client_sends()

    with pytest.raises(LocalProtocolError, match="delivery tag"):
        ours.send(b"m", tag, settled=True)


def test_an_unknown_message_format_is_refused() -> None:
    ours, _ = Pair().opened().client_sends()

    with pytest.raises(LocalProtocolError, match="message-format 0x1"):
        ours.send(b"m", b"1", settled=True, message_format=1)


# Credit and limits


def test_nothing_is_sent_without_credit_and_more_is_told() -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends(credit=2)
    assert pair.seen_by_client(CreditGranted) == [CreditGranted(ours)]
    for number in range(2):
        ours.send(b"m", b"%d" % number, settled=True)

    with pytest.raises(LocalProtocolError, match="no credit"):
        ours.send(b"m", b"2", settled=True)
    assert len(pair.received_by_server()) == 2
    assert pair.seen_by_client(CreditGranted) == []
    theirs.grant(1)

    assert pair.seen_by_client(CreditGranted) == [CreditGranted(ours)]
    assert ours.credit == 1


def test_credit_granted_together_with_the_attach_is_there_once_accepted() -> None:
    pair = Pair().opened()

    _, theirs = pair.server_sends(credit=7)

    assert theirs.credit == 7
    assert CreditGranted(theirs) in pair.at_server or theirs.is_open


def test_a_receiver_that_drains_gets_its_credit_back() -> None:
    server = Connection(container_id="s", sasl=ServerSasl())
    [_, attached] = server.receive_data(
        AMQP_HEADER + frame(OPEN, "c") + begin() + attach("l", 0, receives=True)
    )
    assert isinstance(attached, LinkAttached)
    server.open()
    attached.link.accept()
    server.data_to_send()
    window = (UInt(0), UInt(99), UInt(0), UInt(99))

    events = server.receive_data(frame(FLOW, *window, UInt(0), UInt(0), UInt(5), None, True))
    assert events == [CreditGranted(attached.link)]
    assert (attached.link.credit, attached.link.drain) == (5, True)
    attached.link.drained()

    assert b"\x00\x53\x13" in server.data_to_send()  # Flow
    assert attached.link.credit == 0


def test_messages_without_credit_end_the_link_alone() -> None:
    server = server_with_link(credit=2)

    events = server.receive_data(b"".join(transfer(number) for number in range(5)))

    assert [type(event) for event in events] == [Received, Received, LinkDetached]
    assert isinstance(events[-1], LinkDetached)
    assert events[-1].condition == "amqp:link:transfer-limit-exceeded"
    assert b"amqp:link:transfer-limit-exceeded" in server.data_to_send()
    assert not server.ended
    assert server.receive_data(begin(1)) == []


@pytest.mark.parametrize("frames", [1, 40], ids=["in one frame", "in many"])
def test_a_message_longer_than_announced_ends_the_link_alone(frames: int) -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends(max_message_bytes=10_000)
    ours.max_message_bytes = 0  # a sender that does not care
    other, _ = pair.client_sends(name="other")

    ours.send(bytes(10_001 * frames), b"1", settled=False)
    [detached] = pair.seen_by_server(LinkDetached)

    assert (detached.link, detached.condition) == (theirs, "amqp:link:message-size-exceeded")
    assert [e.condition for e in pair.seen_by_client(LinkDetached)] == ["amqp:link:message-size-exceeded"]
    other.send(b"m", b"1", settled=False)
    assert len(pair.received_by_server()) == 1
    assert pair.server._partial_bytes == 0


def test_a_longer_message_than_the_peer_takes_is_not_sent() -> None:
    ours, _ = Pair().opened().client_sends(max_message_bytes=100)

    with pytest.raises(LocalProtocolError, match="101 bytes; the peer takes 100"):
        ours.send(bytes(101), b"1", settled=False)


def test_messages_that_are_never_whole_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_PARTIAL_BYTES", 100_000)
    server = server_with_link()
    events = server.receive_data(transfer(0, bytes(60_000), more=True))
    assert events == []

    server.receive_data(attach("m", 1))
    events = server.receive_data(transfer(1, bytes(60_000), handle=1, more=True))

    assert isinstance(events[-1], Ended)
    assert events[-1].condition == "amqp:resource-limit-exceeded"


def test_an_aborted_message_is_not_there() -> None:
    server = server_with_link()
    server.receive_data(transfer(0, bytes(1_000), more=True))
    aborted = frame(TRANSFER, UInt(0), UInt(0), b"0", UInt(0), False, False, None, None, False, True)

    events = server.receive_data(aborted + transfer(1, b"next"))

    assert [event.delivery.data for event in events if isinstance(event, Received)] == [b"next"]
    assert server._partial_bytes == 0


def test_too_many_links_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_LINKS", 5)
    server = server_with_link()

    events = [event for number in range(1, 9) for event in server.receive_data(attach(f"l{number}", number))]

    assert isinstance(events[-1], Ended)
    assert events[-1].condition == "amqp:resource-limit-exceeded"


def test_too_many_sessions_end_the_connection() -> None:
    server = server_with_link()
    assert server.receive_data(begin(engine.MAX_SESSIONS - 1)) == []

    [ended] = server.receive_data(begin(engine.MAX_SESSIONS))

    assert isinstance(ended, Ended)
    assert ended.condition == "amqp:connection:framing-error"


# Ends


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_close_is_answered_and_tells_its_error(who: str) -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends()
    closing = pair.client if who == "client" else pair.server
    closing.close("amqp:connection:forced", "shutting down")

    pair.exchange()

    told = Ended("amqp:connection:forced", "shutting down", False)
    at_closing, at_other = Ended("", "", False), told
    expected = (at_closing, at_other) if who == "client" else (at_other, at_closing)
    assert (pair.at_client[-1], pair.at_server[-1]) == expected
    assert pair.client.ended
    assert pair.server.ended
    assert not ours.is_open
    assert not theirs.is_open


def test_what_links_and_deliveries_are_asked_after_the_end_does_nothing() -> None:
    pair = Pair().opened()
    ours, theirs = pair.client_sends()
    sent = ours.send(b"m", b"1", settled=False)
    [delivery] = pair.received_by_server()
    asked = pair.client.attach_sender("late", "/x")
    late = pair.seen_by_server(LinkAttached)[0].link
    pair.client.close()
    pair.exchange()

    for link in (ours, theirs, asked, late):
        link.accept()
        link.refuse("x", "y")
        link.grant(5)
        link.drained()
        link.detach()
        assert (link.credit, link.drain, link.unsettled) == (0, False, 0)
    for one in (sent, delivery):
        one.accept()
        one.reject("x")
        one.release()
        one.modify()
        one.settle()
    pair.client.open()
    pair.client.close()
    with pytest.raises(LocalProtocolError, match="not open"):
        ours.send(b"m", b"2", settled=True)
    with pytest.raises(LocalProtocolError, match="has ended"):
        pair.client.attach_sender("more", "/x")
    assert pair.client.data_to_send() == b""


def test_a_transport_that_closes_ends_the_connection() -> None:
    server = server_with_link()

    events = server.receive_data(b"")

    assert events == [Ended("", "the peer closed the transport", False)]
    assert server.receive_data(b"x") == []
    assert server.tick(5.0) == ([], None)


def test_messages_in_front_of_a_mistake_are_not_lost() -> None:
    server = server_with_link()

    events = server.receive_data(transfer(0) + transfer(1) + frame(0x20))

    assert [type(event) for event in events] == [Received, Received, Ended]


# Time


def test_a_silent_peer_is_ended_after_twice_the_announced_time() -> None:
    server = server_with_link()
    events, due_s = server.tick(1_000.0)
    assert (events, due_s) == ([], 1_000.0 + connection_module.HEART_BEAT_S)

    assert server.tick(1_479.0)[0] == []
    events, due_s = server.tick(1_481.0)

    assert [(e.condition, e.offence) for e in events if isinstance(e, Ended)] == [
        ("amqp:resource-limit-exceeded", True)
    ]
    assert due_s is None
    assert b"\x00\x53\x18" in server.data_to_send()  # Close


def test_empty_frames_keep_a_connection_alive() -> None:
    server = server_with_link()
    for minute in range(1, 30):
        events, _ = server.tick(60.0 * minute)
        assert events == []
        server.receive_data(b"\x00\x00\x00\x08\x02\x00\x00\x00")


def test_a_peer_without_idle_timeout_gets_a_heart_beat_each_two_minutes() -> None:
    server = server_with_link()
    server.tick(10.0)

    assert server.data_to_send() == b""
    server.tick(129.0)
    assert server.data_to_send() == b""
    _, due_s = server.tick(130.0)

    assert server.data_to_send() == b"\x00\x00\x00\x08\x02\x00\x00\x00"
    assert due_s == 250.0


def test_a_peer_with_idle_timeout_gets_heart_beats_in_time() -> None:
    pair = Pair(idle_timeout_s=30).opened()
    pair.server.tick(100.0)
    _, due_s = pair.server.tick(100.0)

    assert due_s == 115.0
    pair.server.tick(115.0)
    assert pair.server.data_to_send() == b"\x00\x00\x00\x08\x02\x00\x00\x00"
