"""Cloud-to-device messages: from the cloud's actor through router and store to devices over MQTT."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from actors.addresses import ROUTER, STORE
from actors.agent_hub_messages import SetRoutes
from actors.hub.c2d_queues import LONGEST_WAIT_S, granted_qos, in_time, is_c2d_queue, queue_of, time_to_live_s
from actors.hub.client_services import ClientChanged
from actors.manifest.hub_environment import DEFAULTS
from actors.store.cleanup import SWEEP_S
from actors.store.messages import Stored
from actors.store.stored import EndpointLedger
from actors.upstream.messages import C2dReceived
from messaging.clock import ManualClock
from messaging.lifecycle import ActorRestarted, RequestFailed
from messaging.message import encode_header
from messaging.mqtt.packets import PubAck, Subscribe
from messaging.time_text import from_iso, iso_utc
from messaging.topics import Feature
from tests.actors.head_world import CLOUD as CLOUD_ACTOR
from tests.actors.head_world import HeadWorld
from tests.actors.hub_world import message_in
from tests.actors.whole_hub import LEAF, PUBLISH, A, HubWorld, Peer
from tests.fakes.message_db import MemoryMessageDb

FILTER = f"devices/{LEAF}/messages/devicebound/#"
QUEUE = "leaf/$c2d"
CLOUD = "test/cloud"
NOW_S = ManualClock().now_s()


class C2dWorld(HubWorld):
    """The hub, and a mailbox as the cloud's actor."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = self.system.mailbox(CLOUD)

    def receive(self, body: bytes, number: int = 1, to: str = LEAF, **system_properties: str) -> None:
        header = encode_header("", {}, system_properties)
        self.system.bus.send(ROUTER, C2dReceived(to, header, body), sender=CLOUD, correlation_id=number)
        self.system.run()

    def ledger(self) -> EndpointLedger:
        self.system.advance(SWEEP_S + 1)
        ledger = MemoryMessageDb(self.disk).ledger()
        assert ledger.imbalances() == []
        return ledger.endpoints[QUEUE]


class Device:
    """A device that acknowledges when it is told to."""

    def __init__(
        self, world: C2dWorld, *, clean: bool = True, subscribes: str = FILTER, qos: int = 1
    ) -> None:
        self.peer: Peer = world.open().connect(LEAF, clean=clean)
        if subscribes:
            self.peer.subscribe(subscribes, qos)
        self.packet_ids: list[int] = []

    def published(self) -> Iterator[tuple[str, bytes]]:
        """Return topic and body of what came; at QoS 1 it is to be acknowledged."""
        for kind, content in self.peer.received():
            if kind != PUBLISH:
                continue
            length = int.from_bytes(content[:2], "big")
            topic, rest = content[2 : 2 + length].decode(), content[2 + length :]
            self.packet_ids.append(int.from_bytes(rest[:2], "big"))
            yield topic, rest[2:]

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.published()]

    def acknowledge(self) -> None:
        waiting, self.packet_ids = self.packet_ids, []
        self.peer.send(*[PubAck(packet_id) for packet_id in waiting])


@pytest.fixture
def world() -> C2dWorld:
    return C2dWorld()


def test_a_message_waits_for_its_device_on_disk_and_leaves_with_its_acknowledgement(world: C2dWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 34."""
    world.receive(b"hello", 7)
    answers = [message_in(letter) for letter in world.cloud()]
    device = Device(world)

    came = device.bodies()
    waiting = world.ledger().pending
    device.acknowledge()

    assert answers == [Stored((7,))]
    assert (came, waiting) == ([b"hello"], 1)
    assert world.ledger() == EndpointLedger(accepted=1, delivered=1)


def test_topic_and_properties_are_those_of_the_cloud(world: C2dWorld) -> None:
    device = Device(world)
    header = encode_header(
        "", {"k": "v 1"}, {"messageId": "m1", "to": "/devices/leaf/messages/devicebound", "ack": "full"}
    )

    world.system.bus.send(ROUTER, C2dReceived(LEAF, header, b""), sender=CLOUD, correlation_id=1)
    world.system.run()

    assert list(device.published()) == [
        (
            "devices/leaf/messages/devicebound/k=v%201&iothub-ack=full&%24.mid=m1"
            "&%24.to=%2Fdevices%2Fleaf%2Fmessages%2Fdevicebound",
            b"",
        )
    ]


def test_a_device_has_one_message_at_a_time_in_the_order_of_the_cloud(world: C2dWorld) -> None:
    device = Device(world)
    for number in range(1, 6):
        world.receive(b"%d" % number, number)

    came = []
    while bodies := device.bodies():
        came.append(bodies)
        device.acknowledge()

    assert came == [[b"1"], [b"2"], [b"3"], [b"4"], [b"5"]]


def test_what_a_device_did_not_acknowledge_comes_again_in_front_of_the_others(world: C2dWorld) -> None:
    device = Device(world)
    world.receive(b"1")
    world.receive(b"2")
    assert device.bodies() == [b"1"]

    device.peer.gone()
    back = Device(world)
    first = back.bodies()
    back.acknowledge()

    assert (first, back.bodies()) == ([b"1"], [b"2"])


def test_a_device_that_acknowledges_nothing_gets_it_again_after_a_while(world: C2dWorld) -> None:
    device = Device(world)
    world.receive(b"1")
    assert device.bodies() == [b"1"]

    world.system.advance(DEFAULTS.message_ack_timeout_s + 2)

    assert device.bodies() == [b"1"]
    device.acknowledge()
    assert world.ledger().delivered == 1


def test_a_session_that_goes_on_gets_its_messages_without_a_subscribe(world: C2dWorld) -> None:
    device = Device(world, clean=False)
    device.peer.gone()

    again = Device(world, clean=False, subscribes="")
    world.receive(b"1")

    assert again.bodies() == [b"1"]


def test_at_qos_0_a_message_is_delivered_when_it_is_written(world: C2dWorld) -> None:
    device = Device(world, qos=0)

    world.receive(b"1")
    world.receive(b"2")

    kinds = [content for kind, content in device.peer.received() if kind == PUBLISH]
    assert [content[-1:] for content in kinds] == [b"1", b"2"]
    assert world.ledger().delivered == 2


def test_after_an_unsubscribe_nothing_comes_until_the_device_wants_it_again(world: C2dWorld) -> None:
    device = Device(world)
    device.peer.unsubscribe(FILTER)
    world.receive(b"1")
    without = device.bodies()

    device.peer.subscribe(FILTER)

    assert (without, device.bodies()) == ([], [b"1"])


@pytest.mark.parametrize("wait_s", [-5.0, 0.0, 30.0], ids=["long ago", "now", "while it waits"])
def test_a_message_that_expired_before_the_device_came_is_never_delivered(
    world: C2dWorld, wait_s: float
) -> None:
    now_s = world.system.clock.now_s()
    world.receive(b"late", 1, **{"absolute-expiry-time": iso_utc(now_s + wait_s)})
    world.receive(b"in time", 2, **{"absolute-expiry-time": iso_utc(now_s + 3600)})
    world.system.advance(40)

    device = Device(world)

    assert device.bodies() == [b"in time"]
    device.acknowledge()
    assert world.ledger() == EndpointLedger(accepted=2, delivered=1, expired=1)


def test_a_message_that_expires_behind_one_that_is_not_acknowledged_is_left_out(world: C2dWorld) -> None:
    """It waits in memory then, where the store does not look at the time."""
    device = Device(world)
    now_s = world.system.clock.now_s()
    world.receive(b"1")
    world.receive(b"late", 2, **{"absolute-expiry-time": iso_utc(now_s + 5)})
    world.receive(b"3", 3)
    assert device.bodies() == [b"1"]

    world.system.advance(5.1)
    device.acknowledge()

    assert device.bodies() == [b"3"]
    device.acknowledge()
    assert world.ledger() == EndpointLedger(accepted=3, delivered=2, expired=1)


def test_a_message_without_an_expiry_waits_as_long_as_iot_hub_lets_any_wait(world: C2dWorld) -> None:
    world.receive(b"1")

    world.system.advance(LONGEST_WAIT_S - 60)
    before = world.ledger()
    world.system.advance(120)

    assert before.pending == 1
    assert world.ledger() == EndpointLedger(accepted=1, expired=1)


def test_a_message_that_makes_no_topic_is_dropped_and_the_next_one_comes(
    world: C2dWorld, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(world)
    long = encode_header("", {"k": "v" * 70_000}, {})
    with caplog.at_level(logging.ERROR):
        world.system.bus.send(ROUTER, C2dReceived(LEAF, long, b"1"), sender=CLOUD, correlation_id=1)
        world.receive(b"2", 2)

    assert device.bodies() == [b"2"]
    device.acknowledge()
    assert world.ledger().dropped_by_reason == {"poison": 1}


def test_a_message_that_cannot_be_stored_is_refused_and_the_next_one_is_not(world: C2dWorld) -> None:
    world.disk.full = True
    world.receive(b"1", 1)
    world.disk.full = False
    world.receive(b"1", 2)

    refused, stored = (message_in(letter) for letter in world.cloud())

    assert isinstance(refused, RequestFailed)
    assert stored == Stored((2,))
    assert Device(world).bodies() == [b"1"]


def test_new_routes_leave_the_queues_of_devices_alone(world: C2dWorld) -> None:
    world.receive(b"1")

    world.system.bus.send(ROUTER, SetRoutes((), None), sender=CLOUD)
    world.system.advance(60)

    assert Device(world).bodies() == [b"1"]


def test_a_restarted_store_goes_on_behind_what_is_acknowledged_to_it(world: C2dWorld) -> None:
    device = Device(world)
    world.receive(b"1")
    world.receive(b"2")
    assert device.bodies() == [b"1"]

    world.system.bus.send("hub/mqtt", ActorRestarted(STORE, "it failed", 1), sender=STORE)
    world.system.run()

    assert device.bodies() == []
    device.acknowledge()
    assert device.bodies() == [b"2"]


def test_a_filter_for_another_device_and_a_module_get_nothing(world: C2dWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 34: what no filter matches waits here, not rejected."""
    device = Device(world, subscribes="devices/other/messages/devicebound/#")
    module = world.open().connect(A)
    module.subscribe("devices/edge1/messages/devicebound/#")
    world.receive(b"1")
    world.receive(b"2", 2, to="edge1")

    assert device.bodies() == []
    assert [kind for kind, _ in module.received() if kind == PUBLISH] == []
    assert world.ledger().pending == 1


# who wants them


@pytest.mark.parametrize(
    ("client_id", "filters", "qos"),
    [
        ("leaf", {FILTER: 1}, 1),
        ("leaf", {FILTER: 0}, 0),
        ("leaf", {FILTER: 0, "devices/+/messages/devicebound/#": 1}, 1),
        ("leaf", {"devices/other/messages/devicebound/#": 1}, None),
        ("leaf", {"devices/leaf/messages/#": 1, "#": 1}, None),
        ("leaf", {"x/messages/devicebound/#": 1}, None),
        ("leaf", {}, None),
        ("edge1/a", {"devices/edge1/messages/devicebound/#": 1, "devices/edge1/modules/a/#": 1}, None),
    ],
)
def test_a_device_that_asks_for_its_own_messages_gets_them(
    client_id: str, filters: dict[str, int], qos: int | None
) -> None:
    assert granted_qos(client_id, filters) == qos


@pytest.mark.parametrize(
    ("client_id", "wanted", "features"),
    [
        (LEAF, FILTER, (Feature.C2D.name,)),
        (LEAF, "devices/other/messages/devicebound/#", ()),
        (A, "devices/edge1/messages/devicebound/#", ()),
    ],
    ids=["device", "another device's", "module"],
)
def test_the_cloud_hears_of_those_who_can_get_them_alone(
    client_id: str, wanted: str, features: tuple[str, ...]
) -> None:
    """What the cloud's actor fetches for somebody who cannot get it would wait here for nobody."""
    world = HeadWorld()
    client = world.connect(client_id, clean_session=True)
    world.send(client, Subscribe(1, ((wanted, 1),)))

    heard = world.told(CLOUD_ACTOR, ClientChanged)
    assert heard[-1] == ClientChanged(client_id, features)


# pure parts


def test_the_queue_of_a_device_is_no_input_of_a_module() -> None:
    assert queue_of("leaf") == QUEUE
    assert is_c2d_queue(QUEUE)
    assert not is_c2d_queue("edge1/$c2d/in")
    assert not is_c2d_queue("edge1/module/$c2d")


@pytest.mark.parametrize(
    ("expiry", "ttl_s"),
    [
        (None, LONGEST_WAIT_S),
        (iso_utc(NOW_S + 60), 60.0),
        (iso_utc(NOW_S - 60), 0.0),
        (iso_utc(NOW_S + 30 * 24 * 3600), LONGEST_WAIT_S),
        ("tomorrow", LONGEST_WAIT_S),
        ("", LONGEST_WAIT_S),
    ],
    ids=["none", "a minute", "past", "a month", "unreadable", "empty"],
)
def test_the_time_to_live_follows_the_expiry(expiry: str | None, ttl_s: float) -> None:
    header = encode_header("", {}, {} if expiry is None else {"absolute-expiry-time": expiry})

    assert time_to_live_s(header, NOW_S) == pytest.approx(ttl_s, abs=1e-3)


def test_expired_messages_are_parted_from_the_others() -> None:
    past, future = (
        encode_header("", {}, {"absolute-expiry-time": iso_utc(NOW_S + after_s)}) for after_s in (-1, 1)
    )
    run = (10, (past, future), ((0, b"a"), (1, b"b"), (0, b"c"), (1, b"d")))

    kept, late = in_time([run, (20, (future,), ((0, b"e"),))], NOW_S)

    assert kept == (
        (11, (future,), ((0, b"b"),)),
        (13, (future,), ((0, b"d"),)),
        (20, (future,), ((0, b"e"),)),
    )
    assert late == ((10, 10), (12, 12))


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("2024-01-31T10:00:00.0000000Z", 1706695200.0),
        ("2024-01-31T10:00:00Z", 1706695200.0),
        ("2024-01-31T11:00:00.5+01:00", 1706695200.5),
        ("2024-01-31T10:00:00", 1706695200.0),
        ("20240131T100000Z", 1706695200.0),
    ],
)
def test_times_are_read_in_any_form_of_iso_8601(text: str, at_s: float) -> None:
    assert from_iso(text) == at_s


@pytest.mark.parametrize("text", ["", "soon", "2024-13-01T00:00:00Z", "1706695200"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_iso(text)
