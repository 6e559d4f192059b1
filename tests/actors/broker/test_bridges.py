"""The actor of all bridges beside that of the broker: sessions, restarts, what is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.addresses import BRIDGES, BROKER, HUB_CLIENT, IDENTITIES, MQTT
from actors.broker.bridge_messages import Bridges, BridgesReport, ListBridges, SetBridges, client_id_of
from actors.broker.bridges import FLUSH_S, TICK_S, BridgesActor
from actors.broker.broker import BrokerActor
from actors.broker.hub_broker import HubBroker
from actors.broker.settings import SetBroker, set_broker
from actors.hub.identity_messages import Access, GetAccess
from actors.metrics.broker_metrics import Stands
from actors.ports.bridges import BridgeAccess, BridgePorts
from messaging.broker.bridges import Bridge, BridgeRule, Direction
from messaging.broker.config import BrokerConfig, BrokerSpec, compiled
from messaging.broker.delivery import Outgoing
from messaging.broker.limits import DEFAULT_LIMITS
from messaging.broker.local_client import LocalClient
from messaging.errors import ConfigError
from messaging.lifecycle import RequestFailed, Stop
from messaging.mqtt.packets import Publish
from runtime.storage.bridge_db import BridgeDb
from runtime.storage.broker_db import BrokerDb
from tests.actors.bridge_world import KEY, FarBroker
from tests.actors.hub_world import World

SITE = "site"
SESSION = client_id_of("edge1", SITE)
UP = BridgeRule(Direction.OUT, "up/#", "", "far/")
DOWN = BridgeRule(Direction.IN, "down/#", "", "near/")


class Settings:
    """Implements BridgeSettings."""

    def __init__(self) -> None:
        self.known = {SITE: BridgeAccess("far", 8883, "me")}
        self.wrong: set[str] = set()  # that are there and cannot be used

    def access(self, endpoint: str) -> BridgeAccess:
        try:
            return self.known[endpoint]
        except KeyError:
            raise ConfigError(f"no settings for '{endpoint}'") from None

    def names(self, endpoint: str) -> bool:
        return endpoint in self.known or endpoint in self.wrong


class Hub(World):
    """Broker and bridges of a hub, a local client that publishes and subscribes, and the other broker."""

    def __init__(
        self, folder: Path, *rules: BridgeRule, endpoint: str = SITE, has_bridges: bool = True
    ) -> None:
        super().__init__(MQTT, IDENTITIES, HUB_CLIENT, "test")
        self.folder = folder
        self.far = FarBroker()
        self.settings = Settings()
        config = _config(BrokerSpec((), (Bridge(endpoint, rules),) if rules else ()))
        self.broker = HubBroker(config, DEFAULT_LIMITS)
        self.stands = Stands()

        def open_store() -> BrokerDb:
            return BrokerDb.open(folder / "broker.db")

        self.start(BROKER, lambda: BrokerActor("edge1", self.broker, open_store, _config, self.stands))
        self.heard: list[tuple[str, bytes]] = []
        self._unacknowledged: list[int] = []
        self.client = LocalClient(
            self.broker.engine,
            "edge1/m",
            self._hear,
            clean=True,
            now_s=0.0,
            hold=lambda: None,
            release=lambda: None,
            changed=lambda: self.broker.ask_to_write(self._tell),
        )
        if has_bridges:
            self.start_bridges()

    def start_bridges(self) -> None:
        ports = BridgePorts(lambda: BridgeDb.open(self.folder / "bridge.db"), self.far, self.settings)
        specs = self.broker.config.bridges
        self.start(
            BRIDGES,
            lambda: BridgesActor(
                "edge1",
                ports,
                specs=specs,
                stands=self.stands,
            ),
        )

    def _tell(self, to: str, message: object) -> None:
        self.system.bus.send(to, message, sender=MQTT)

    def _hear(self, outs: list[Outgoing]) -> None:
        self.heard += [(out.topic, out.payload) for out in outs]
        self._unacknowledged += [out.packet_id for out in outs]

    def acknowledge(self) -> None:
        """Have the local client take what it has heard."""
        heard, self._unacknowledged = self._unacknowledged, []
        self.client.acknowledge(heard)

    def publish(self, topic: str, *bodies: bytes) -> list[str]:
        """Publish at QoS 1 as a local client; return what is said when it is on disk."""
        said: list[str] = []
        self.client.publish([Publish(topic, body, 1) for body in bodies], 0.0, 0.0, said.append)
        self.system.run()
        self.far.answer()
        self.system.run()
        return said

    def rest(self, seconds: float = FLUSH_S) -> None:
        """Let time pass."""
        self.system.advance(seconds)
        self.far.answer()
        self.system.run()

    def set_rules(self, *rules: BridgeRule, endpoint: str = SITE) -> None:
        spec = BrokerSpec((), (Bridge(endpoint, rules),) if rules else ())
        self.tell(BROKER, set_broker(spec), "test")
        self.far.answer()
        self.system.run()

    def far_bodies(self) -> list[bytes]:
        return [message.payload for message in self.far.got]

    def waiting(self) -> int:
        """How many messages the local broker holds for the bridge."""
        session = self.broker.engine.session(SESSION)
        return 0 if session is None else len(session.pending)

    def listed(self) -> Sequence[dict[str, object]]:
        self.tell(BRIDGES, ListBridges(), "test", 7)
        [told] = self.told("test", Bridges)
        return told.bridges


def _config(spec: BrokerSpec) -> BrokerConfig:
    return compiled(spec, iothub_hostname="hub.test", edge_device_id="edge1")


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path, UP, DOWN)


def test_messages_go_both_ways_and_leave_nothing_behind(hub: Hub) -> None:
    hub.far.accept()
    hub.client.subscribe("near/#", 1, 0.0)

    assert hub.publish("up/x", *numbers(50)) == [""]
    hub.far.send(Publish("down/1", b"in", 1, 3))
    hub.rest()

    assert hub.far_bodies() == numbers(50)
    assert [message.topic for message in hub.far.got[:1]] == ["far/up/x"]
    assert hub.heard == [("near/down/1", b"in")]
    assert hub.waiting() == 0
    [shown] = hub.listed()
    assert (shown["sent"], shown["received"], shown["queued"], shown["queuedIn"]) == (50, 1, 0, 0)


def test_what_is_published_before_the_bridges_are_up_waits_for_them(tmp_path: Path) -> None:
    hub = Hub(tmp_path, UP, has_bridges=False)

    assert hub.publish("up/x", *numbers(2000)) == [""]
    hub.start_bridges()
    hub.far.accept()
    hub.rest()

    assert hub.far_bodies() == numbers(2000)


def test_a_restarted_actor_of_bridges_goes_on_where_it_was(hub: Hub) -> None:
    hub.far.accept()
    hub.publish("up/x", *numbers(5))

    hub.tell(BRIDGES, SetBridges(b"no JSON"), "test")
    hub.far.accept()
    hub.publish("up/x", *numbers(5, 5))
    hub.rest()

    assert hub.far.attempts == 2
    assert list(dict.fromkeys(hub.far_bodies())) == numbers(10)
    assert hub.waiting() == 0


def test_a_restarted_actor_of_the_broker_is_joined_again(hub: Hub) -> None:
    hub.far.accept()
    hub.publish("up/x", *numbers(5))

    hub.tell(BROKER, SetBroker(b"no JSON"), "test")
    hub.rest()
    hub.publish("up/x", *numbers(5, 5))
    hub.far.send(Publish("down/1", b"in", 1, 3))
    hub.rest()

    assert hub.far.attempts == 1
    assert list(dict.fromkeys(hub.far_bodies())) == numbers(10)
    assert hub.waiting() == 0
    [shown] = hub.listed()
    assert (shown["received"], shown["queuedIn"]) == (1, 0)


def test_large_messages_go_in_several_envelopes_and_stay_in_order(tmp_path: Path) -> None:
    hub = Hub(tmp_path, UP, DOWN, has_bridges=False)
    large = [bytes([number]) * 200_000 for number in range(60)]
    for body in large:
        hub.publish("up/x", body)
    hub.start_bridges()
    hub.client.subscribe("near/#", 1, 0.0)

    hub.far.accept()
    hub.far.send(*(Publish("down/1", body, 1, 1 + at) for at, body in enumerate(large)))
    for _ in range(60):
        hub.acknowledge()
        hub.rest()

    assert hub.far_bodies() == large
    assert [body for _, body in hub.heard] == large
    assert not hub.dead_letters.count


def test_subscribers_that_are_slow_hold_up_a_bridge_and_make_nothing_come_twice(tmp_path: Path) -> None:
    hub = Hub(tmp_path, DOWN)
    hub.far.accept()
    hub.client.subscribe("near/#", 1, 0.0)
    bodies = numbers(900)
    for at in range(0, 900, 20):
        hub.far.send(*(Publish("down/1", body, 1, 1 + at + n) for n, body in enumerate(bodies[at : at + 20])))
        hub.system.run()

    for _ in range(400):  # one window every half second, for longer than a bridge waits for an answer
        hub.acknowledge()
        hub.rest(0.5)

    assert [body for _, body in hub.heard] == bodies


def test_a_session_of_a_bridge_that_is_in_no_deployment_ends_at_the_next_start(tmp_path: Path) -> None:
    hub = Hub(tmp_path, UP, has_bridges=False)
    hub.publish("up/x", b"0")
    hub.tell(BROKER, Stop(), "test")

    again = Hub(tmp_path, has_bridges=False)

    assert again.broker.engine.session(SESSION) is None


def test_rules_arrive_with_those_of_the_broker(hub: Hub) -> None:
    hub.far.accept()

    hub.set_rules(BridgeRule(Direction.OUT, "other/#"))
    hub.publish("up/x", b"old")
    hub.publish("other/x", b"new")

    assert [message.topic for message in hub.far.got] == ["other/x"]
    assert hub.far.subscribed == {}
    assert hub.far.attempts == 1


def test_a_bridge_that_is_taken_out_ends_with_its_session(hub: Hub) -> None:
    hub.far.accept()
    hub.publish("up/x", b"0")
    hub.rest()

    hub.set_rules()
    hub.rest(2 * TICK_S)

    assert hub.listed() == ()
    assert hub.broker.engine.session(SESSION) is None
    assert hub.far.transport.closed


def test_what_was_left_by_a_bridge_of_an_earlier_deployment_is_still_sent(tmp_path: Path) -> None:
    db = BridgeDb.open(tmp_path / "bridge.db")
    db.append(SITE, Direction.OUT, [Publish("far/x", b"left", 1)])
    db.close()

    hub = Hub(tmp_path)
    hub.far.accept()
    hub.rest(2 * TICK_S)

    assert hub.far_bodies() == [b"left"]
    assert hub.listed() == ()


def test_the_hub_tells_how_its_bridges_are_when_that_changes(hub: Hub) -> None:
    hub.far.accept()
    hub.rest(TICK_S)
    [up] = hub.told(HUB_CLIENT, BridgesReport)[-1].bridges
    assert up[:2] == (SITE, "connected")
    assert up[3] == ""
    hub.rest(5 * TICK_S)
    assert hub.told(HUB_CLIENT, BridgesReport) == []

    hub.far.lose("the connection was lost")
    hub.rest(TICK_S)

    [down] = hub.told(HUB_CLIENT, BridgesReport)[-1].bridges
    assert down[2:] == ("", "the connection was lost")


def test_at_a_parent_the_key_of_the_hub_is_asked_for(tmp_path: Path) -> None:
    hub = Hub(tmp_path, BridgeRule(Direction.OUT, "t/#"), endpoint="$upstream")
    hub.settings.known["$upstream"] = BridgeAccess(
        "parent", 8883, "edge1/$edgeHub", user_name="u", signs_as="edge1/$edgeHub"
    )
    hub.rest(3 * TICK_S)

    [asked] = [letter for letter in hub.letters(IDENTITIES) if letter.kind == GetAccess.__name__]
    hub.tell(
        BRIDGES, RequestFailed("GetAccess", IDENTITIES, "not known yet"), IDENTITIES, asked.correlation_id
    )
    [shown] = hub.listed()
    assert "not known yet" in str(shown["error"])
    hub.rest(3 * TICK_S)
    [asked] = [letter for letter in hub.letters(IDENTITIES) if letter.kind == GetAccess.__name__]
    hub.tell(BRIDGES, Access("edge1/$edgeHub", KEY), IDENTITIES, asked.correlation_id)
    hub.far.accept()

    [shown] = hub.listed()
    assert shown["status"] == "connected"


def test_for_a_parent_whose_settings_are_wrong_messages_wait(tmp_path: Path) -> None:
    hub = Hub(tmp_path, BridgeRule(Direction.OUT, "t/#"), endpoint="$upstream")
    hub.settings.wrong.add("$upstream")
    hub.rest(2 * TICK_S)
    hub.publish("t/1", b"for the parent")
    hub.rest(2 * TICK_S)

    [shown] = hub.listed()
    assert (shown["status"], shown["queued"]) == ("no settings", 1)

    hub.settings.known["$upstream"] = BridgeAccess("parent", 8883, "edge1/$edgeHub")
    hub.rest(5 * TICK_S)
    hub.far.accept()
    assert hub.far_bodies() == [b"for the parent"]


def test_for_a_parent_that_there_is_not_nothing_is_kept_until_there_is_one(tmp_path: Path) -> None:
    hub = Hub(tmp_path, BridgeRule(Direction.OUT, "t/#"), endpoint="$upstream")
    hub.publish("t/1", b"for nobody")
    hub.rest(2 * TICK_S)
    [shown] = hub.listed()
    assert (shown["status"], shown["queued"]) == ("no settings", 0)

    hub.settings.known["$upstream"] = BridgeAccess("parent", 8883, "edge1/$edgeHub")
    hub.rest(5 * TICK_S)
    hub.far.accept()
    hub.publish("t/1", b"for the parent")

    assert hub.far_bodies() == [b"for the parent"]
