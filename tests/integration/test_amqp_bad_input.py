"""Bad input over AMQP at a running hub, over TLS: the documented condition, and nobody else notices.

Source: hub-protocols.md sections 3.3 to 3.5 and 5.6; AMQP 1.0 parts 2 and 3
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from messaging import sas
from messaging.amqp import codec
from messaging.amqp.codec import AmqpMessage, UInt
from messaging.amqp.events import Ended, LinkDetached, Outcome, Received, Settled
from messaging.amqp.link import Link, RcvSettleMode, SndSettleMode
from messaging.amqp.sasl import AMQP_HEADER, SASL_HEADER
from messaging.amqp.values import Described, Symbol, UByte, ULong, decode_value
from messaging.message import LARGEST_MESSAGE_BYTES
from messaging.mqtt.packets import PubAck, Publish
from tests.integration.amqp_scene import receive_c2d
from tests.integration.amqp_socket import (
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    END,
    FLOW,
    OPEN,
    TRANSFER,
    AmqpSocket,
    LinkRefused,
    frame,
    path_of,
)
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import LIMIT_S, MqttSocket

ROUTES = {
    "up": "FROM /messages/* INTO $upstream",
    "in": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/filter/inputs/in")',
}
EVENTS = "/devices/leaf/messages/events"
LONG_ONES = 200  # messages of so many bytes
LONG_BYTES = 50_000


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    modules, devices = ("filter", "a", "well"), ("leaf", "victim", "well")
    with HubProcess(ROUTES, modules=modules, devices=devices) as made:
        yield made


class Bystanders:
    """Honest clients of both protocols, whose connections live through all that follows."""

    def __init__(self, hub: HubProcess) -> None:
        self.mqtt = MqttSocket(hub)
        self.mqtt.connect(hub, "well")
        self.amqp = AmqpSocket(hub).log_in("edge1/well")
        self._link = self.amqp.events_sender("edge1/well")
        self._packet_id = 0

    def are_served(self) -> None:
        """Both send, and are answered."""
        began_s = time.monotonic()
        self._packet_id = self._packet_id % 60_000 + 1
        self.mqtt.send(Publish("devices/well/messages/events/", b"well", 1, self._packet_id))
        assert self.mqtt.receive() == PubAck(self._packet_id)
        self.amqp.send_ok(self._link, b"well")
        assert time.monotonic() - began_s < 5.0

    def close(self) -> None:
        self.mqtt.__exit__()
        self.amqp.__exit__()


@pytest.fixture(scope="module")
def bystanders(hub: HubProcess) -> Iterator[Bystanders]:
    made = Bystanders(hub)
    yield made
    made.close()


@pytest.fixture(scope="module")
def half_open(hub: HubProcess, bystanders: Bystanders) -> Iterator[list[AmqpSocket]]:
    """Peers that fall silent at each step up to a token. They are there while all others are tested."""
    with ExitStack() as stack:
        silent, header_only, half_a_frame, in_sasl = (
            stack.enter_context(AmqpSocket(hub, connect=False)) for _ in range(4)
        )
        header_only.send_bytes(AMQP_HEADER)
        half_a_frame.send_bytes(AMQP_HEADER + frame(OPEN, "half")[:9])
        in_sasl.send_bytes(SASL_HEADER)
        opened, no_token = (stack.enter_context(AmqpSocket(hub)) for _ in range(2))
        no_token.sender("$cbs")
        yield [silent, header_only, half_a_frame, in_sasl, opened, no_token]


@pytest.fixture(autouse=True)
def _serves_on(hub: HubProcess, bystanders: Bystanders, half_open: list[AmqpSocket]) -> Iterator[None]:
    yield
    assert hub.process is not None
    assert hub.process.poll() is None
    bystanders.are_served()
    assert [line for line in hub.log_lines() if "Traceback" in line or "internal error" in line] == []


@pytest.fixture
def client(hub: HubProcess) -> Iterator[AmqpSocket]:
    """Who has proved to be `leaf`."""
    with AmqpSocket(hub) as made:
        yield made.log_in("leaf")


# identities


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("/devices/victim", id="another device"),
        pytest.param("/devices/edge1/modules/a", id="a module of the edge"),
        pytest.param("/devices/edge1/modules/$edgeHub", id="the hub"),
        pytest.param("/devices/nobody", id="nobody"),
        pytest.param("/devices/leaf%2F..%2Fvictim", id="encoded slashes"),
    ],
)
@pytest.mark.parametrize("node", ["messages/events", "messages/devicebound", "twin", "methods/devicebound"])
def test_links_of_another_identity_are_refused(client: AmqpSocket, other: str, node: str) -> None:
    own = client.events_sender("leaf")

    attach = client.sender if node == "messages/events" else client.receiver
    with pytest.raises(LinkRefused) as caught:
        attach(f"{other}/{node}")

    assert caught.value.condition in {"amqp:unauthorized-access", "amqp:not-allowed"}
    if "%" not in other:
        assert caught.value.condition == "amqp:unauthorized-access"
    client.send_ok(own, b"goes on")


def test_a_link_without_a_token_is_refused(hub: HubProcess) -> None:
    with AmqpSocket(hub) as client, pytest.raises(LinkRefused) as caught:
        client.events_sender("leaf")

    assert caught.value.condition == "amqp:unauthorized-access"


def test_a_token_that_expires_ends_the_links_of_its_identity_alone(hub: HubProcess) -> None:
    """Another identity of the same connection has a token that goes on; a renewal in time helps, too."""
    life_s = 3 - int(sas.CLOCK_SKEW_S)
    with AmqpSocket(hub) as client:
        for identity in ("leaf", "victim"):
            client.put_token(identity, hub.token(identity, life_s))
        client.log_in("edge1/a")
        short, renewed, long = (client.events_sender(one) for one in ("leaf", "victim", "edge1/a"))
        client.log_in("victim")

        ended = client.detached(short)

        assert ended.condition == "amqp:unauthorized-access"
        for link in (renewed, long):
            client.send_ok(link, b"goes on")
        with pytest.raises(LinkRefused):
            client.events_sender("leaf")
        client.log_in("leaf")
        client.send_ok(client.events_sender("leaf"), b"with a new token")


def test_a_renewal_with_a_forged_token_ends_the_links(client: AmqpSocket, hub: HubProcess) -> None:
    """It is answered with 200 as each token is; then it is noticed."""
    forged = sas.make_token(f"{hub.iothub}/devices/leaf", b"k" * 32, int(time.time()) + 3600)
    link = client.events_sender("leaf")

    answer = client.put_token("leaf", forged)

    assert answer.application_properties["status-code"] == 200
    assert client.detached(link).condition == "amqp:unauthorized-access"


def test_sasl_plain_with_a_forged_token_is_refused(hub: HubProcess) -> None:
    """The outcome is code 1, auth. Source: AMQP 1.0 part 5.3.3.6."""
    with AmqpSocket(hub, connect=False) as client:
        response = b"\x00leaf@sas.iothub\x00" + hub.token("victim").encode()
        client.send_bytes(SASL_HEADER + frame(0x41, Symbol("PLAIN"), response, frame_type=1))

        said = b""
        while part := client.socket.recv(4096):
            said += part

    mechanisms = 8 + int.from_bytes(said[8:12], "big")
    outcome: Any = decode_value(said[mechanisms + 8 :])
    assert (outcome.descriptor, outcome.value) == (0x44, [1])


# sizes


def over_the_link_limit(client: AmqpSocket) -> str:
    link = client.events_sender("leaf")
    assert link.max_message_bytes == 1_048_576
    client.receiver("/devices/leaf/messages/devicebound")  # the connection ends with its last link
    link.max_message_bytes = 0  # as if we had not heard of it
    link.send(codec.encode(AmqpMessage(body=b"x" * 1_100_000)), b"1", settled=False)
    client.flush()
    return client.detached(link).condition


def over_the_message_limit(client: AmqpSocket) -> str:
    settled = client.send(client.events_sender("leaf"), AmqpMessage(body=b"x" * (LARGEST_MESSAGE_BYTES + 1)))
    assert settled.outcome is Outcome.REJECTED
    return settled.condition


def batch_over_the_limit(client: AmqpSocket) -> str:
    elements = [codec.encode(AmqpMessage(body=b"x" * 200_000)) for _ in range(4)]
    batch = codec.join_batch(elements)
    settled = client.send(client.events_sender("leaf"), batch, message_format=codec.BATCH_FORMAT)
    assert settled.outcome is Outcome.REJECTED
    return settled.condition


def element_over_the_limit(client: AmqpSocket) -> str:
    elements = [codec.encode(AmqpMessage(body=b"x" * size)) for size in (10, LARGEST_MESSAGE_BYTES + 1)]
    batch = codec.join_batch(elements)
    settled = client.send(client.events_sender("leaf"), batch, message_format=codec.BATCH_FORMAT)
    assert settled.outcome is Outcome.REJECTED
    return settled.condition


@pytest.mark.parametrize(
    ("offend", "condition"),
    [
        (over_the_link_limit, "amqp:link:message-size-exceeded"),
        (over_the_message_limit, "amqp:link:message-size-exceeded"),
        (element_over_the_limit, "amqp:link:message-size-exceeded"),
        (batch_over_the_limit, "amqp:not-allowed"),
    ],
)
def test_what_is_too_long_is_refused_as_that(
    client: AmqpSocket, offend: Callable[[AmqpSocket], str], condition: str
) -> None:
    assert offend(client) == condition
    client.send_ok(client.events_sender("leaf"), b"goes on")


@pytest.mark.parametrize(
    ("data", "message_format"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"hello", 0, id="no sections"),
        pytest.param(b"\x00\x53\x75\xb0\xff\xff\xff\xff", 0, id="data of 4 GB"),
        pytest.param(b"\x00\x53\x75\xa0\x05abcde\x00\x53\x79\x40", 0, id="a section that there is not"),
        pytest.param(b"\x00\x53\x76\xc0\x01\x00", 0, id="a sequence"),
        pytest.param(b"\x00\x53\x75\xa0\x05hello", codec.BATCH_FORMAT, id="a batch of no messages"),
        pytest.param(b"\x00" * 500, 0, id="descriptors of descriptors"),
    ],
)
def test_what_is_no_message_is_rejected(client: AmqpSocket, data: bytes, message_format: int) -> None:
    link = client.events_sender("leaf")
    delivery = link.send(data or b"\x00", b"bad", settled=False, message_format=message_format)
    client.flush()

    event = client.wait_for(
        object, lambda event: getattr(event, "delivery", None) is delivery or isinstance(event, LinkDetached)
    )

    assert getattr(event, "outcome", Outcome.REJECTED) is Outcome.REJECTED
    fresh = client.events_sender("leaf")
    client.send_ok(fresh, b"goes on")


# links


def terminus(code: int, address: str) -> Described:
    return Described(ULong(code), [address])


def attach_frame(handle: int, address: str, *, role: bool = False, modes: tuple[int, int] = (2, 0)) -> bytes:
    """Return an Attach of a client's sender (`role` False) or receiver."""
    return frame(
        ATTACH,
        f"raw-{handle}",
        UInt(handle),
        role,
        UByte(modes[0]),
        UByte(modes[1]),
        terminus(0x28, address),
        terminus(0x29, address),
        None,
        None,
        UInt(0),
    )


def transfer_frame(handle: int, delivery_id: int, payload: bytes, settled: bool = False) -> bytes:
    tag = b"%d" % delivery_id
    return frame(TRANSFER, UInt(handle), UInt(delivery_id), tag, UInt(0), settled, False, payload=payload)


def flow_frame(handle: int, credit: int) -> bytes:
    return frame(
        FLOW, UInt(0), UInt(2**31 - 1), UInt(0), UInt(2**31 - 1), UInt(handle), UInt(0), UInt(credit)
    )


MESSAGE = codec.encode(AmqpMessage(body=b"hello"))
# Each is sent by a client that has a session and a token; the hub ends link, session or connection.
OFFENCES = {
    "transfer on no link": transfer_frame(77, 900, MESSAGE),
    "detach of no link": frame(DETACH, UInt(77), True),
    "flow of no link": flow_frame(77, 10),
    "attach on no session": frame(ATTACH, "x", UInt(1), False, channel=9),
    "transfer on no session": frame(TRANSFER, UInt(0), channel=9),
    "end of no session": frame(END, channel=9),
    "a second open": frame(OPEN, "again"),
    "an attach without fields": frame(ATTACH),
    "an attach of an unknown mode": attach_frame(9, EVENTS, modes=(7, 0)),
    "an attach of an unknown receiver's mode": attach_frame(9, EVENTS, modes=(0, 9)),
    "a begin without fields": frame(BEGIN, channel=1),
    "an unknown performative": frame(0x55),
    "a performative that is none": b"\x00\x00\x00\x0a\x02\x00\x00\x00\x40\x40",
    "a frame shorter than its head": b"\x00\x00\x00\x04\x02\x00\x00\x00",
    "a frame longer than agreed": b"\x00\x02\x00\x00\x02\x00\x00\x00" + b"x" * 100,
    "a frame of 4 GB": b"\xff\xff\xff\xff\x02\x00\x00\x00" + b"x" * 100,
    "an offset beyond the frame": b"\x00\x00\x00\x0c\xff\x00\x00\x00xxxx",
    "an offset into the head": b"\x00\x00\x00\x0c\x01\x00\x00\x00xxxx",
    "a frame of SASL": frame(0x41, Symbol("ANONYMOUS"), frame_type=1),
    "a frame of another type": frame(FLOW, frame_type=7),
    "another protocol header": AMQP_HEADER,
    "HTTP": b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
}
# These are odd and harm nobody: the connection may go on.
ODDITIES = {
    "disposition of nothing": frame(DISPOSITION, True, UInt(5000), UInt(9000), True),
    "disposition that goes backwards": frame(DISPOSITION, True, UInt(9), UInt(2), True),
    "flow of a session": frame(FLOW, UInt(0), UInt(0), UInt(0), UInt(0)),
    "an empty frame": b"\x00\x00\x00\x08\x02\x00\x00\x00",
    "a second begin": frame(BEGIN, None, UInt(0), UInt(10), UInt(10)),
    "a second session": frame(BEGIN, None, UInt(0), UInt(10), UInt(10), channel=5),
}


@pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)
def test_frames_that_may_not_be_end_the_connection(client: AmqpSocket, offence: bytes) -> None:
    client.send_ok(client.events_sender("leaf"), b"in front of it")

    client.send_bytes(offence)

    ended = client.end()
    assert ended.condition.startswith("amqp:") or ended == Ended("", "the peer closed the transport", False)


@pytest.mark.parametrize("oddity", ODDITIES.values(), ids=ODDITIES)
def test_odd_frames_harm_nobody(hub: HubProcess, client: AmqpSocket, oddity: bytes) -> None:
    link = client.events_sender("leaf")

    client.send_bytes(oddity)

    with suppress(EOFError, OSError):  # it may also be sent away
        client.send_ok(link, b"behind it")
    with AmqpSocket(hub) as again:
        again.log_in("leaf")
        again.send_ok(again.events_sender("leaf"), b"another time")


@pytest.mark.parametrize("offence", [b"HTTP", b"AMQP\x01\x01\x00\x00", b"\x10\x20\x00\x04MQTT"])
def test_what_does_not_begin_as_amqp_is_answered_with_a_header_and_closed(
    hub: HubProcess, offence: bytes
) -> None:
    """Source: AMQP 1.0 part 2.2."""
    with AmqpSocket(hub, connect=False) as client:
        client.send_bytes(offence)

        said = b""
        while part := client.socket.recv(100):
            said += part

    assert said == SASL_HEADER


def test_an_idle_time_out_that_is_too_short_is_refused(hub: HubProcess) -> None:
    """Source: hub-protocols.md section 3.1."""
    with AmqpSocket(hub, idle_timeout_s=2.0, connect=False) as client:
        client.engine.open()
        client.flush()

        ended = client.end()

    assert ended.condition == "amqp:not-allowed"


@pytest.mark.parametrize("kind", ["messages/events", "messages/devicebound", "twin", "methods/devicebound"])
@pytest.mark.parametrize("sender_mode", list(SndSettleMode))
@pytest.mark.parametrize("receiver_mode", list(RcvSettleMode))
def test_a_settle_mode_that_does_not_fit_is_answered_with_the_hubs_own(
    client: AmqpSocket, kind: str, sender_mode: SndSettleMode, receiver_mode: RcvSettleMode
) -> None:
    """Source: hub-protocols.md section 3.4."""
    modes = {"snd_settle_mode": sender_mode, "rcv_settle_mode": receiver_mode}
    address = f"/devices/leaf/{kind}"

    if kind == "messages/events":
        link = client.sender(address, **modes)
        assert (link.snd_settle_mode, link.rcv_settle_mode) == (sender_mode, RcvSettleMode.FIRST)
        link.send(MESSAGE, b"1", settled=sender_mode is SndSettleMode.SETTLED)
        client.flush()
        return
    link = client.receiver(address, **modes)
    second = RcvSettleMode.SECOND if kind == "messages/devicebound" else RcvSettleMode.FIRST
    first = SndSettleMode.UNSETTLED if kind == "messages/devicebound" else SndSettleMode.SETTLED
    assert (link.snd_settle_mode, link.rcv_settle_mode) == (first, second)


def test_telemetry_that_is_settled_when_it_is_sent_is_stored(hub: HubProcess, client: AmqpSocket) -> None:
    link = client.sender(EVENTS, snd_settle_mode=SndSettleMode.SETTLED)
    before = len(hub.upstream(0))
    for number in range(50):
        link.send(codec.encode(AmqpMessage(body=b"settled %d" % number)), b"%d" % number, settled=True)
    client.flush()
    client.send_ok(link, b"behind them")

    hub.upstream(before + 51)


# credit


def test_more_than_the_credit_ends_the_link_or_is_served_but_holds_up_nobody(
    client: AmqpSocket, bystanders: Bystanders
) -> None:
    client.sender(EVENTS)
    handle = 50
    client.send_bytes(attach_frame(handle, EVENTS))
    data = b"".join(transfer_frame(handle, 10_000 + number, MESSAGE) for number in range(5_000))
    with suppress(OSError):  # it may be gone before we have said all
        client.send_bytes(data)
    bystanders.are_served()

    event = client.wait_for(object, lambda event: isinstance(event, (LinkDetached, Ended)))

    assert getattr(event, "condition", "").startswith("amqp:")


def test_a_client_that_grants_endless_credit_and_never_reads_holds_up_nobody(
    hub: HubProcess, bystanders: Bystanders
) -> None:
    assert hub.process is not None
    address = f"{path_of('edge1/filter')}/messages/events"
    with AmqpSocket(hub) as greedy, AmqpSocket(hub) as sending:
        greedy.log_in("edge1/filter").receiver(address, credit=2**31 - 1)
        link = sending.log_in("edge1/a").events_sender("edge1/a")
        for _ in range(2):  # what windows and buffers take at most
            send_long_ones(sending, link)
        before_bytes = memory_bytes(hub.process.pid)
        for _ in range(3):
            send_long_ones(sending, link)
        bystanders.are_served()
        grown_bytes = memory_bytes(hub.process.pid) - before_bytes
    print(f"another 30 MB for a client that does not read: the hub grew by {grown_bytes / 1e6:.1f} MB")
    assert grown_bytes < 10_000_000
    with AmqpSocket(hub) as honest:
        honest.log_in("edge1/filter")
        take_all(honest, honest.receiver(address, credit=50), 5 * LONG_ONES)


def send_long_ones(client: AmqpSocket, link: Link) -> None:
    """Have many long messages stored."""
    sent = [
        link.send(codec.encode(AmqpMessage(body=b"x" * LONG_BYTES)), b"%d" % number, settled=False)
        for number in range(LONG_ONES)
    ]
    client.flush()
    for delivery in sent:
        client.wait_for(Settled, lambda event, its=delivery: event.delivery is its)  # type: ignore[misc]


def take_all(client: AmqpSocket, link: Link, count: int) -> None:
    """Accept what comes until so many of the long ones have come."""
    while count:
        delivery, message = client.receive(link)
        count -= len(message.body) == LONG_BYTES
        delivery.accept()
        link.grant(1)
        client.flush()


def memory_bytes(pid: int) -> int:
    """Return what memory a process has for itself."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def test_a_receiver_without_credit_gets_nothing(hub: HubProcess, client: AmqpSocket) -> None:
    client.log_in("victim")
    link = client.receiver("/devices/victim/messages/devicebound", credit=0)
    receive_c2d(hub, "victim", b"waits")
    client.send_ok(client.events_sender("victim"), b"later than that")
    assert not any(isinstance(event, Received) for event in client.events)

    link.grant(1)
    client.flush()

    delivery, message = client.receive(link)
    assert message.body == b"waits"
    delivery.accept()
    client.flush()


# peers that say half of it, or nothing


def test_a_peer_that_vanishes_without_a_word_gives_way_to_its_next_connection(hub: HubProcess) -> None:
    """As a device whose network was cut: the old connection is still there for the hub."""
    with AmqpSocket(hub) as vanished, AmqpSocket(hub) as again:
        vanished.log_in("leaf")
        vanished.send_ok(vanished.events_sender("leaf"), b"before")

        again.log_in("leaf")

        again.send_ok(again.events_sender("leaf"), b"after")


@pytest.mark.slow
def test_peers_that_do_not_say_who_they_are_end_in_time(hub: HubProcess, half_open: list[AmqpSocket]) -> None:
    with socket.create_connection((hub.address, hub.amqp_port), timeout=LIMIT_S) as stalled:
        stalled.sendall(b"\x16\x03\x01")
        for client in half_open:
            client.socket.settimeout(LIMIT_S)
            while client.socket.recv(4096):
                pass
        assert stalled.recv(10) == b""


def test_close_with_everything_open_is_answered(client: AmqpSocket) -> None:
    client.events_sender("leaf")
    client.send_bytes(frame(CLOSE))

    assert client.end().condition == ""
