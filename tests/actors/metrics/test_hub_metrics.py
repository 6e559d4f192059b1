"""What is counted in a whole hub, in virtual time, as Prometheus reads it.

Source: spec sheet observability.md section 13
"""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.addresses import METHODS, ROUTER
from actors.agent_hub_messages import SetRoutes
from actors.hub.client_services import InvokeMethod
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.metrics.ledger_metrics import ledger_families
from actors.metrics.registry import Registry
from messaging.exposition import encode_text
from messaging.mqtt.packets import PubAck, Publish
from tests.actors import whole_hub
from tests.actors.whole_hub import A_TO_B, DEFAULT_PRIORITY, DEVICE, INPUT, IOTHUB, LEAF, UP, A, B, HubWorld
from tests.fakes.message_db import MemoryMessageDb

COMMON = (("iothub", IOTHUB), ("edge_device", DEVICE), ("instance_number", "n"))
LOWEST = str(DEFAULT_PRIORITY)


class Counted:
    """A hub whose metrics a test reads."""

    def __init__(self, routes: dict[str, str] = UP) -> None:
        self.world = HubWorld(routes, metrics=lambda clock: HubMetrics(Registry(clock, COMMON), IOTHUB))
        self.metrics = self.world.metrics

    def text(self) -> str:
        self.world.system.advance(0.1)  # what was delivered is forgotten by then
        store = MemoryMessageDb(self.world.disk)
        families = list(self.metrics.registry.collect())
        families += ledger_families(store.ledger(), self.metrics.lanes, COMMON)
        return encode_text(families).decode()

    def value(self, sample: str, **labels: str) -> float | None:
        """Return the value of the one series with exactly these labels besides the common ones."""
        found = [
            one.value
            for family in text_string_to_metric_families(self.text())
            for one in family.samples
            if one.name == sample and one.labels == {**dict(COMMON), **labels}
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def ms(self, sample: str, **labels: str) -> float | None:
        """Return the value of a series that the quality telemetry may have."""
        return self.value(sample, **labels, ms_telemetry="True")


@pytest.fixture
def counted() -> Counted:
    return Counted()


def output(name: str, **properties: str) -> str:
    bag = "&".join([f"%24.on={name}", *(f"{key}={value}" for key, value in properties.items())])
    return f"devices/{DEVICE}/modules/a/messages/events/{bag}"


def sent(to: str, to_input: str, route_output: str = "o1", priority: str = LOWEST) -> dict[str, str]:
    return {
        "from": A,
        "to": to,
        "from_route_output": route_output,
        "to_route_input": to_input,
        "priority": priority,
    }


def test_messages_of_an_output_are_received_and_sent_each_by_its_labels() -> None:
    counted = Counted(A_TO_B)
    module, publisher = counted.world.open().connect(B), counted.world.open().connect(A)
    module.subscribe(INPUT)
    module.received()

    publisher.send(*(Publish(output("o1"), b"x", 1, number) for number in (1, 2, 3)))
    got = [body for kind, body in module.received() if kind == whole_hub.PUBLISH]
    module.send(*(PubAck(number) for number in (1, 2, 3)))

    assert len(got) == 3
    assert counted.ms("edgehub_messages_received_total", id=A, route_output="o1") == 3
    assert counted.ms("edgehub_messages_sent_total", **sent(B, "in")) == 3
    assert counted.ms("edgehub_queue_length", endpoint=f"{B}/in", priority=LOWEST) == 0
    labels = {key: text for key, text in sent(B, "in").items() if key != "priority"}
    assert counted.value("edgehub_message_send_duration_seconds_count", **labels) == 3
    process = {"from": A, "to": B, "priority": LOWEST}
    assert counted.ms("edgehub_message_process_duration_seconds_count", **process) == 3


def test_what_is_not_acknowledged_yet_is_received_but_not_sent() -> None:
    counted = Counted(A_TO_B)
    module, publisher = counted.world.open().connect(B), counted.world.open().connect(A)
    module.subscribe(INPUT)

    publisher.send(*(Publish(output("o1"), b"x", 1, number) for number in (1, 2, 3)))
    module.send(PubAck(1), PubAck(3))

    assert counted.ms("edgehub_messages_received_total", id=A, route_output="o1") == 3
    assert counted.ms("edgehub_messages_sent_total", **sent(B, "in")) == 2


def test_outputs_of_one_batch_are_counted_apart() -> None:
    counted = Counted({"all": 'FROM /messages/* INTO BrokeredEndpoint("/modules/b/inputs/in")'})
    module, publisher = counted.world.open().connect(B), counted.world.open().connect(A)
    module.subscribe(INPUT)

    names = ("o1", "o2", "o1", "o2", "o2")
    publisher.send(*(Publish(output(name), b"x", 1, number) for number, name in enumerate(names, 1)))
    module.send(*(PubAck(number) for number in (2, 3, 4)))

    assert counted.ms("edgehub_messages_received_total", id=A, route_output="o1") == 2
    assert counted.ms("edgehub_messages_received_total", id=A, route_output="o2") == 3
    assert counted.ms("edgehub_messages_sent_total", **sent(B, "in", "o1")) == 1
    assert counted.ms("edgehub_messages_sent_total", **sent(B, "in", "o2")) == 2


def test_the_priority_of_a_route_is_a_label(counted: Counted) -> None:
    world = counted.world
    texts = (("ab", A_TO_B["ab"], 2, 0),)
    world.system.bus.send(ROUTER, SetRoutes(texts, None), sender="test")
    module, publisher = world.open().connect(B), world.open().connect(A)
    module.subscribe(INPUT)

    publisher.publish(b"x")
    module.send(PubAck(1))

    assert counted.ms("edgehub_messages_sent_total", **sent(B, "in", "", "2")) == 1
    assert counted.ms("edgehub_queue_length", endpoint=f"{B}/in", priority="2") == 0


def test_a_message_without_a_route_is_dropped_and_no_queue_grows() -> None:
    counted = Counted({"other": "FROM /messages/modules/b/* INTO $upstream"})

    counted.world.open().connect(A).send(Publish(output("o1"), b"x", 1, 1))

    dropped = {"reason": "no_route", "from": A, "from_route_output": "o1"}
    assert counted.ms("edgehub_messages_dropped_total", **dropped) == 1
    assert "edgehub_queue_length{" not in counted.text()


def test_messages_wait_in_the_queue_of_the_cloud_while_it_is_away(counted: Counted) -> None:
    publisher = counted.world.open().connect(LEAF)

    for number in range(1, 11):
        publisher.publish(b"x", number)

    assert counted.ms("edgehub_queue_length", endpoint="iothub", priority=LOWEST) == 10
    assert counted.value("edgehub_ledger_pending_messages", endpoint="iothub") == 10
    assert counted.value("edgehub_ledger_endpoint_messages_total", endpoint="iothub", term="accepted") == 10
    assert counted.value("edgehub_ledger_messages_total", term="received") == 10


def test_the_size_of_a_message_is_its_body_with_names_and_values_of_its_properties(counted: Counted) -> None:
    counted.world.open().connect(A).send(Publish(output("o1", a="bcd"), b"x" * 100, 1, 1))

    assert counted.value("edgehub_message_size_bytes_sum", id=A) == 104
    assert counted.value("edgehub_message_size_bytes_count", id=A) == 1
    assert counted.value("edgehub_message_size_bytes", id=A, quantile="0.5") == 104


def test_expired_messages_are_counted_by_sender_and_output(counted: Counted) -> None:
    world = counted.world
    world.system.bus.send(ROUTER, SetRoutes((("up", UP["up"], DEFAULT_PRIORITY, 1),), None), sender="test")
    world.open().connect(A).send(*(Publish(output("o1"), b"x", 1, number) for number in (1, 2)))

    world.system.advance(12.0)

    dropped = {"reason": "ttl_expiry", "from": A, "from_route_output": "o1"}
    assert counted.ms("edgehub_messages_dropped_total", **dropped) == 2
    assert counted.ms("edgehub_queue_length", endpoint="iothub", priority=LOWEST) == 0


def test_messages_that_cannot_be_stored_are_counted_as_not_acknowledged(counted: Counted) -> None:
    counted.world.disk.failing = True

    counted.world.open().connect(A).send(*(Publish(output("o1"), b"x", 1, number) for number in (1, 2)))

    refused = {"reason": "storage_failure", "from": A, "from_route_output": "o1"}
    assert counted.ms("edgehub_messages_unack_total", **refused) == 2


def test_clients_are_counted_as_they_come_and_go(counted: Counted) -> None:
    module, _ = counted.world.open().connect(A), counted.world.open().connect(LEAF)

    module.gone()

    words = f"DeviceId: {DEVICE}; ModuleId: a [IotHubHostName: {IOTHUB}]"
    assert counted.value("edgehub_connected_clients") == 1
    assert counted.value("edgehub_client_connect_success_total", id=words) == 1
    assert counted.value("edgehub_client_disconnect_total", id=words) == 1
    leaf = f"DeviceId: {LEAF} [IotHubHostName: {IOTHUB}]"
    assert counted.value("edgehub_client_connect_success_total", id=leaf) == 1
    assert counted.value("edgehub_client_disconnect_total", id=leaf) is None


def test_a_wrong_key_is_counted_and_nobody_is_connected_for_it(counted: Counted) -> None:
    world = counted.world
    world.open().connect(LEAF)

    world.open().send(world.connect_packet(A, key=b"wrong" * 7))

    assert counted.ms("edgehub_client_connect_failed_total", id=A, reason="not_authenticated") == 1
    assert counted.value("edgehub_connected_clients") == 1


def test_a_twin_asked_for_without_a_cloud_is_counted_for_the_hub_alone(counted: Counted) -> None:
    peer = counted.world.open().connect(A)
    peer.subscribe("$iothub/twin/res/#")

    peer.send(Publish("$iothub/twin/GET/?$rid=1", b"", 1, 1))
    peer.send(Publish("$iothub/twin/PATCH/properties/reported/?$rid=2", b'{"a":1}', 1, 2))

    assert counted.ms("edgehub_gettwin_total", source="edge_hub", id=A) == 1
    assert counted.ms("edgehub_gettwin_total", source="upstream", id=A) is None
    assert counted.ms("edgehub_reported_properties_total", target="edge_hub", id=A) == 1
    updates = {"target": "edge_hub", "id": A}
    assert counted.value("edgehub_reported_properties_update_duration_seconds_count", **updates) == 1


def test_changes_of_twins_are_no_messages_of_the_hub(counted: Counted) -> None:
    peer = counted.world.open().connect(A)

    peer.send(Publish("$iothub/twin/PATCH/properties/reported/?$rid=2", b'{"a":1}', 1, 2))

    assert "edgehub_messages_received_total{" not in counted.text()


def test_a_restart_of_the_head_leaves_its_clients_disconnected(counted: Counted) -> None:
    counted.world.open().connect(A)
    connected = counted.world.head._connected

    connected.head_started(whole_hub.MQTT, 5000.0)

    assert counted.value("edgehub_connected_clients") == 0


def test_every_series_has_the_common_labels_first(counted: Counted) -> None:
    publisher = counted.world.open().connect(A)
    publisher.send(Publish(output("o1"), b"x", 1, 1))

    for family in text_string_to_metric_families(counted.text()):
        for sample in family.samples:
            assert tuple(sample.labels.items())[:3] == COMMON


def test_a_call_of_a_method_is_counted_with_caller_and_target(counted: Counted) -> None:
    world = counted.world
    peer = world.open().connect(B)
    peer.subscribe("$iothub/methods/POST/#")
    peer.received()

    world.system.bus.send(METHODS, InvokeMethod(B, "start", b"", 10.0, 0.0, A), sender="test")
    world.system.run()
    [(_, called)] = peer.received()
    request = called.partition(b"$rid=")[2][:36].decode()
    world.system.advance(2.0)
    peer.send(Publish(f"$iothub/methods/res/200/?$rid={request}", b"", 1, 5))
    world.system.bus.send(METHODS, InvokeMethod(A, "start", b"", 10.0, 0.0), sender="test")

    assert counted.ms("edgehub_direct_methods_total", **{"from": A, "to": B}) == 1
    took = counted.value("edgehub_direct_method_duration_seconds_sum", **{"from": A, "to": B})
    assert took == pytest.approx(2.0)
    assert counted.ms("edgehub_direct_methods_total", **{"from": "upstream", "to": A}) == 1


def test_the_time_of_a_method_is_a_summary() -> None:
    metrics = HubMetrics(Registry(HubWorld().system.clock))

    metrics.method_called("edge1/a", "edge1/b", 0.25)

    found = {
        family.name: [sample.value for sample in family.samples] for family in metrics.registry.collect()
    }
    assert found["edgehub_direct_methods_total"] == [1]
    assert found["edgehub_direct_method_duration_seconds"][-2:] == [0.25, 1]


def test_the_first_link_has_a_time_offline_and_a_cut_counts_once() -> None:
    clock = HubWorld().system.clock
    metrics = HubMetrics(Registry(clock))

    for seconds, is_up in ((2, True), (10, False), (0, False), (5, True)):
        clock.advance(seconds)
        metrics.link_changed(DEVICE, is_up)

    found = {family.name: family.samples for family in metrics.registry.collect()}
    [count] = found["edgehub_offline_count_total"]
    assert (dict(count.labels)["id"], count.value) == (f"{DEVICE}/$edgeHub", 1)
    assert [one.value for one in found["edgehub_offline_duration_seconds"][-2:]] == [7, 2]


def test_with_metrics_off_nothing_is_remembered() -> None:
    world = HubWorld()
    publisher = world.open().connect(A)

    publisher.publish(b"x")

    assert OFF.registry.collect() == ()
    assert not OFF._known
    assert not OFF.lanes
