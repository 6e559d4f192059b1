"""What the link over AMQP makes of what a cloud refuses, does not answer, or takes back."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from actors.upstream.connection import CloudAccess, CloudConnection, Fault
from actors.upstream.protocol import UpstreamProtocol
from messaging.amqp import conditions
from messaging.amqp.link import Delivery
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import Message
from runtime.iothub.cloud_home import CloudHome
from runtime.security.certificates import SERVER_FILE
from runtime.upstream.connections import UpstreamConnections
from runtime.upstream.shared import CloudTimes
from tests.fakes.amqp_peer import AmqpPeer, accept
from tests.fakes.cloud_observer import LIMIT_S, ObservedConnection
from tests.integration.cloud import AMQP_PORT, WEB_PORT, make_home
from tests.integration.sdk_clients import loopback_address

ADDRESS = loopback_address()


@dataclass
class World:
    """A peer and the product's connections to it."""

    peer: AmqpPeer
    connections: UpstreamConnections
    ca_pem: str

    def open(self, device: str = "d1") -> tuple[CloudConnection, ObservedConnection]:
        observer = ObservedConnection()
        access = CloudAccess(Identity.parse(device), ADDRESS, Secret(b"a2V5"), self.ca_pem)
        connection = self.connections.make(access, observer)
        connection.open()
        return connection, observer

    def connect(self, device: str = "d1") -> tuple[CloudConnection, ObservedConnection]:
        connection, observer = self.open(device)
        observer.next("connected")
        return connection, observer


@pytest.fixture(scope="module")
def home() -> Iterator[CloudHome]:
    made = make_home(ADDRESS, ADDRESS)
    yield made
    shutil.rmtree(made.path.parent)


@pytest.fixture
def times() -> CloudTimes:
    return CloudTimes()


@pytest.fixture
def world(home: CloudHome, times: CloudTimes) -> Iterator[World]:
    with (
        AmqpPeer((ADDRESS, AMQP_PORT), home.certificates / SERVER_FILE) as peer,
        closing(UpstreamConnections(UpstreamProtocol.AMQP, times, batch_messages=3)) as connections,
    ):
        yield World(peer, connections, home.ca.read_text())


def message(number: int) -> Message:
    return Message("/messages/", {}, {}, b"%d" % number)


def send(connection: CloudConnection, numbers: range) -> None:
    for number in numbers:
        connection.send(number, message(number))


def rejecting(condition: str, *bodies: bytes) -> Callable[[AmqpPeer, Delivery], None]:
    """Reject what carries one of these bodies, and accept the rest."""

    def decide(peer: AmqpPeer, delivery: Delivery) -> None:
        if set(peer.transfers[-1]) & set(bodies):
            delivery.reject(condition, '{"errorCode": 400004, "message": "no"}')
        else:
            delivery.accept()

    return decide


@pytest.mark.parametrize(
    ("condition", "kind", "status"),
    [
        (conditions.CONTAINER_THROTTLED, Fault.THROTTLED, 429),
        (conditions.QUOTA_EXCEEDED, Fault.QUOTA, 403),
        (conditions.RESOURCE_LIMIT_EXCEEDED, Fault.QUOTA, 403),
        (conditions.TIMEOUT, Fault.TIMEOUT, 408),
        (conditions.INTERNAL_ERROR, Fault.THROTTLED, 500),
        (conditions.UNAUTHORIZED_ACCESS, Fault.UNAUTHORIZED, 401),
        (conditions.NOT_FOUND, Fault.UNAUTHORIZED, 401),
        ("com.example:new", Fault.THROTTLED, 500),
    ],
)
def test_a_message_refused_for_what_may_pass_is_the_last_and_its_identity_alone_is_lost(
    world: World, condition: str, kind: Fault, status: int
) -> None:
    connection, observer = world.connect("d1")
    other, other_observer = world.connect("d2")
    reject = rejecting(condition, b"3")
    all_asked = threading.Event()

    def decide(peer: AmqpPeer, delivery: Delivery) -> None:
        assert all_asked.wait(LIMIT_S)  # or what is asked for after the loss would fail behind it
        reject(peer, delivery)

    world.peer.decide = decide
    send(connection, range(9))
    all_asked.set()

    *told, (_, fault) = observer.until("lost")
    done = [call[1] for call in told if call[0] == "done"]
    failed = [call[1] for call in told if call[0] == "failed"]
    assert done + failed == list(range(9))
    assert 3 in failed
    assert (fault.kind, fault.status) == (kind, status)
    world.peer.decide = accept
    other.send(1, message(1))
    assert other_observer.next("done") == (1, b"")
    connection.open()
    observer.next("connected")
    send(connection, range(failed[0], 9))
    assert [observer.next("done")[0] for _ in failed] == failed
    assert world.peer.accepted == 1


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        (conditions.MESSAGE_SIZE_EXCEEDED, Fault.TOO_LARGE),
        (conditions.ARGUMENT_ERROR, Fault.REFUSED),
        (conditions.NOT_ALLOWED, Fault.REFUSED),
    ],
)
def test_of_a_batch_with_a_message_that_is_never_taken_the_others_go_on(
    world: World, condition: str, kind: Fault
) -> None:
    world.peer.decide = rejecting(condition, b"2")
    connection, observer = world.connect()

    send(connection, range(7))

    told = [observer.any() for _ in range(7)]
    assert [call[1] for call in told] == list(range(7))
    [(_, number, fault)] = [call for call in told if call[0] == "failed"]
    assert (number, fault.kind) == (2, kind)
    assert [b"2"] in world.peer.transfers
    taken = [bodies for bodies in world.peer.transfers if b"2" not in bodies]
    assert [body for bodies in taken for body in bodies] == [b"%d" % n for n in (0, 1, 3, 4, 5, 6)]
    connection.send(8, message(8))
    assert observer.next("done") == (8, b"")


@pytest.mark.parametrize("give_back", [Delivery.release, Delivery.modify, Delivery.settle])
def test_a_message_that_is_given_back_has_failed(world: World, give_back: Callable[[Delivery], None]) -> None:
    world.peer.decide = lambda peer, delivery: give_back(delivery)
    connection, observer = world.connect()

    connection.send(1, message(1))

    assert observer.next("failed")[0] == 1
    assert observer.next("lost")[0].kind is Fault.THROTTLED


def test_without_credit_messages_wait_and_with_it_they_go_on(world: World) -> None:
    world.peer.credit = 1
    connection, observer = world.connect()

    send(connection, range(10))
    assert observer.next("done")[0] == 0
    left = len(world.peer.transfers[0])  # together with the first
    assert [observer.next("done")[0] for _ in range(1, left)] == list(range(1, left))
    assert observer.is_quiet(0.1)
    assert len(world.peer.transfers) == 1
    link = world.peer.links["/devices/d1/messages/events"]
    world.peer.do(lambda: link.grant(10))

    assert [observer.next("done")[0] for _ in range(left, 10)] == list(range(left, 10))
    assert [body for bodies in world.peer.transfers for body in bodies] == [b"%d" % n for n in range(10)]


def test_without_credit_for_one_the_others_are_served(world: World) -> None:
    world.peer.credit = 0
    waiting, waiting_observer = world.connect("d1")
    world.peer.credit = 10
    connection, observer = world.connect("d2")

    send(waiting, range(5))
    send(connection, range(5))

    assert [observer.next("done")[0] for _ in range(5)] == list(range(5))
    assert waiting_observer.is_quiet()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Fault.UNAUTHORIZED),
        (400, Fault.UNAUTHORIZED),
        (404, Fault.UNAUTHORIZED),
        (429, Fault.THROTTLED),
        (500, Fault.THROTTLED),
        (403, Fault.QUOTA),
    ],
)
def test_a_token_that_is_not_taken_is_its_identitys_alone(world: World, status: int, kind: Fault) -> None:
    world.connect("d2")
    world.peer.statuses = [status]

    _, observer = world.open("d1")

    assert observer.next("lost")[0].kind is kind
    world.connect("d1")
    assert world.peer.tokens == [f"{ADDRESS}/devices/{name}" for name in ("d2", "d1", "d1")]
    assert world.peer.accepted == 1


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        (conditions.UNAUTHORIZED_ACCESS, Fault.UNAUTHORIZED),
        (conditions.NOT_FOUND, Fault.UNAUTHORIZED),
        (conditions.CONTAINER_THROTTLED, Fault.THROTTLED),
        (conditions.QUOTA_EXCEEDED, Fault.QUOTA),
        (conditions.DETACH_FORCED, Fault.UNREACHABLE),
    ],
)
def test_a_link_that_is_refused_is_its_identitys_alone(world: World, condition: str, kind: Fault) -> None:
    other, other_observer = world.connect("d2")
    world.peer.refusals = {"d1/messages/events": condition}

    _, observer = world.open("d1")

    assert observer.next("lost")[0].kind is kind
    other.send(1, message(1))
    assert other_observer.next("done") == (1, b"")


def test_a_link_for_twins_that_is_refused_fails_the_request_and_the_identity(world: World) -> None:
    connection, observer = world.connect()
    world.peer.refusals = {"/twin": conditions.NOT_IMPLEMENTED}

    connection.get_twin(1)

    assert observer.next("failed")[0] == 1
    assert observer.next("lost")[0].kind is Fault.THROTTLED


def test_a_renewal_that_fails_for_a_while_loses_nobody(home: CloudHome) -> None:
    times = CloudTimes(token_life_s=2000.0)
    clock = _MovedClock()
    with (
        AmqpPeer((ADDRESS, AMQP_PORT), home.certificates / SERVER_FILE) as peer,
        closing(UpstreamConnections(UpstreamProtocol.AMQP, times, clock)) as connections,
    ):
        world = World(peer, connections, home.ca.read_text())
        connection, observer = world.connect()
        peer.statuses = [500, 429]

        clock.ahead_s = 1710.0
        _wait_for(lambda: len(peer.tokens) == 2)
        assert observer.is_quiet(0.1)
        _wait_for(lambda: clock.goes_on_until(1980.0) and len(peer.tokens) == 4)

        connection.send(1, message(1))
        assert observer.next("done") == (1, b"")
        peer.statuses = [401]
        clock.ahead_s = 4000.0
        assert observer.next("lost")[0].kind is Fault.UNAUTHORIZED


class _MovedClock:
    """Implements `Clock`: the machine's, and so many seconds more."""

    ahead_s = 0.0

    def goes_on_until(self, latest_s: float) -> bool:
        """Be some seconds further ahead, but no more than so many."""
        self.ahead_s = min(self.ahead_s + 2.0, latest_s)
        return True

    def now_s(self) -> float:
        return time.time() + self.ahead_s

    def monotonic_s(self) -> float:
        return time.monotonic()


def test_a_cloud_that_closes_the_connection_is_lost_for_all(world: World) -> None:
    opened = [world.connect(name)[1] for name in ("d1", "d2")]

    world.peer.do(lambda: world.peer.close(conditions.CONNECTION_FORCED, "for a while"))

    for observer in opened:
        (fault,) = observer.next("lost")
        assert fault.kind is Fault.UNREACHABLE
        assert conditions.CONNECTION_FORCED in fault.reason


def test_a_cloud_that_says_what_is_not_amqp_is_lost_for_all(world: World) -> None:
    _, observer = world.connect("d1")

    world.peer.do(lambda: world.peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n"))

    assert observer.next("lost")[0].kind is Fault.UNREACHABLE


@pytest.mark.parametrize("times", [CloudTimes(keep_alive_s=5)], ids=["keep-alive of 5 s"])
@pytest.mark.slow
def test_a_silent_connection_stands_as_long_as_both_ends_beat(world: World) -> None:
    _, observer = world.connect("d1")

    assert observer.is_quiet(12.0)  # twice the time after which a silent cloud is given up, and more


@pytest.mark.parametrize("times", [CloudTimes(silence_s=1.0)], ids=["1 s for an answer"])
def test_a_half_open_connection_is_noticed_by_all_who_wait(world: World) -> None:
    opened = [world.connect(name) for name in ("d1", "d2")]
    world.peer.answers = False

    opened[0][0].send(1, message(1))

    assert opened[0][1].next("failed")[0] == 1
    for _, observer in opened:
        (fault,) = observer.next("lost")
        assert (fault.kind, "has not answered" in fault.reason) == (Fault.UNREACHABLE, True)


def test_an_identity_that_is_given_up_in_silence_takes_the_dead_connection_with_it(world: World) -> None:
    (connection, observer), (_, other) = world.connect("d1"), world.connect("d2")
    world.peer.answers = False
    connection.send(1, message(1))
    assert observer.is_quiet(2.5)

    connection.close()

    assert other.next("lost")[0].kind is Fault.UNREACHABLE
    assert observer.is_quiet()


def test_an_identity_that_is_given_up_alone_leaves_the_others_in_peace(world: World) -> None:
    (connection, observer), (other, other_observer) = world.connect("d1"), world.connect("d2")
    world.peer.decide = lambda peer, delivery: None if peer.transfers[-1] == [b"1"] else delivery.accept()
    connection.send(1, message(1))
    for number in range(10, 13):
        assert observer.is_quiet(0.8)
        other.send(number, message(number))
        assert other_observer.next("done") == (number, b"")

    connection.close()

    other.send(13, message(13))
    assert other_observer.next("done") == (13, b"")
    assert world.peer.accepted == 1


def test_web_socket_that_is_refused_says_so(home: CloudHome) -> None:
    with (
        AmqpPeer((ADDRESS, WEB_PORT), home.certificates / SERVER_FILE) as peer,
        closing(UpstreamConnections(UpstreamProtocol.AMQP_WS, CloudTimes(open_s=2.0))) as connections,
    ):
        _, observer = World(peer, connections, home.ca.read_text()).open()

        (fault,) = observer.next("lost")

    assert fault.kind is Fault.REFUSED
    assert f"'{ADDRESS}:443' does not take AMQP over WebSocket" in fault.reason


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)
