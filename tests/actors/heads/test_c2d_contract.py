"""What every actor that holds the link to the cloud does with cloud-to-device messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from actors.hub.client_services import ClientChanged, ClientGone, HeadStarted
from actors.store.messages import Stored
from actors.upstream.messages import C2dReceived
from messaging.envelope import Envelope
from messaging.lifecycle import RequestFailed
from messaging.message import Message, encode_header
from tests.actors.hub_world import World, message_in
from tests.actors.link_world import LinkWorld
from tests.fakes.cloud_c2d import CloudQueues, MemoryC2dCloud, SendC2d

CLOUD, ROUTER, HEAD, OTHER_HEAD, SERVICE = "hub/upstream", "hub/router", "hub/mqtt", "hub/amqp", "service"
LEAF, OTHER = "leaf", "leaf2"
WITHIN_S = 60.0  # a message that was not stored comes again
HEADER = encode_header("", {}, {})


class CloudWorld(Protocol):
    """A cloud with an actor of the hub at it, whose router and heads are mailboxes."""

    world: World

    def queue(self, device_id: str, body: bytes) -> None:
        """Let the service send a message."""
        ...

    def left(self, device_id: str) -> list[bytes]:
        """Return what the cloud has not been told to be received."""
        ...


class MemoryWorld:
    """Implements CloudWorld."""

    def __init__(self) -> None:
        self.world = World(ROUTER, HEAD, OTHER_HEAD, SERVICE, "test")
        self.queues = CloudQueues()
        self.world.start(CLOUD, lambda: MemoryC2dCloud(self.queues, ROUTER))

    def queue(self, device_id: str, body: bytes) -> None:
        self.world.tell(CLOUD, SendC2d(device_id, HEADER, body), SERVICE)

    def left(self, device_id: str) -> list[bytes]:
        return self.queues.bodies(device_id)


class LinkedWorld:
    """Implements CloudWorld with the hub's own link, at a cloud in memory."""

    def __init__(self) -> None:
        self.linked = LinkWorld()
        self.world: World = self.linked

    def queue(self, device_id: str, body: bytes) -> None:
        self.linked.cloud.send_c2d(device_id, Message("", {}, {}, body))
        self.world.system.run()

    def left(self, device_id: str) -> list[bytes]:
        return [message.body for message in self.linked.cloud.c2d[device_id]]


@pytest.fixture(params=[MemoryWorld, LinkedWorld])
def cloud(request: pytest.FixtureRequest) -> CloudWorld:
    make: Callable[[], CloudWorld] = request.param
    return make()


def wants(cloud: CloudWorld, device: str, *features: str, head: str = HEAD) -> None:
    cloud.world.tell(CLOUD, ClientChanged(device, features), head)


def handed_over(cloud: CloudWorld) -> list[Envelope]:
    return [letter for letter in cloud.world.letters(ROUTER) if letter.kind == C2dReceived.__name__]


def bodies_of(letters: list[Envelope]) -> list[tuple[str, bytes]]:
    return [(message.device_id, message.body) for message in map(message_in, letters)]


def store(cloud: CloudWorld, letters: list[Envelope]) -> None:
    cloud.world.tell(CLOUD, Stored(tuple(letter.correlation_id for letter in letters)), "hub/store")


def test_nothing_is_fetched_for_a_device_that_does_not_want_it(cloud: CloudWorld) -> None:
    cloud.queue(LEAF, b"1")
    wants(cloud, LEAF, "METHODS")

    assert (handed_over(cloud), cloud.left(LEAF)) == ([], [b"1"])


def test_messages_come_in_their_order_once_the_device_wants_them(cloud: CloudWorld) -> None:
    for body in (b"1", b"2", b"3"):
        cloud.queue(LEAF, body)
    wants(cloud, LEAF, "C2D")

    came: list[tuple[str, bytes]] = []
    while letters := handed_over(cloud):
        came += bodies_of(letters)
        store(cloud, letters)

    assert came == [(LEAF, b"1"), (LEAF, b"2"), (LEAF, b"3")]
    assert cloud.left(LEAF) == []


def test_one_device_does_not_wait_for_another(cloud: CloudWorld) -> None:
    wants(cloud, LEAF, "C2D")
    wants(cloud, OTHER, "C2D")

    cloud.queue(LEAF, b"1")
    cloud.queue(OTHER, b"2")

    assert bodies_of(handed_over(cloud)) == [(LEAF, b"1"), (OTHER, b"2")]


def test_what_the_hub_could_not_store_comes_again(cloud: CloudWorld) -> None:
    wants(cloud, LEAF, "C2D")
    cloud.queue(LEAF, b"1")
    [letter] = handed_over(cloud)

    refused = RequestFailed("Append", "hub/store", "no space left")
    cloud.world.tell(CLOUD, refused, "hub/store", letter.correlation_id)
    cloud.world.system.advance(WITHIN_S)

    again = handed_over(cloud)
    assert bodies_of(again[:1]) == [(LEAF, b"1")]
    store(cloud, again[-1:])
    assert cloud.left(LEAF) == []


def test_what_was_never_answered_comes_again(cloud: CloudWorld) -> None:
    wants(cloud, LEAF, "C2D")
    cloud.queue(LEAF, b"1")
    handed_over(cloud)

    cloud.world.system.advance(WITHIN_S)

    assert bodies_of(handed_over(cloud))[:1] == [(LEAF, b"1")]


@pytest.mark.parametrize(
    "end",
    [ClientGone(LEAF), ClientChanged(LEAF, ()), HeadStarted()],
    ids=["gone", "unsubscribed", "restarted"],
)
def test_nothing_more_is_fetched_when_the_device_has_gone(cloud: CloudWorld, end: object) -> None:
    wants(cloud, LEAF, "C2D")
    cloud.world.tell(CLOUD, end, HEAD)

    cloud.queue(LEAF, b"1")

    assert (handed_over(cloud), cloud.left(LEAF)) == ([], [b"1"])


def test_a_device_that_went_over_to_another_head_is_not_gone(cloud: CloudWorld) -> None:
    wants(cloud, LEAF, "C2D", head=HEAD)
    wants(cloud, LEAF, "C2D", head=OTHER_HEAD)
    cloud.world.tell(CLOUD, ClientGone(LEAF), HEAD)

    cloud.queue(LEAF, b"1")

    assert bodies_of(handed_over(cloud)) == [(LEAF, b"1")]
