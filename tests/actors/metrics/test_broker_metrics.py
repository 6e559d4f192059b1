"""What the broker and its bridges tell of themselves, as Prometheus reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.broker.bridges import TICK_S
from actors.metrics.broker_metrics import Stands, broker_families
from messaging.exposition import encode_text
from messaging.mqtt.packets import Publish
from tests.actors.broker.test_bridges import DOWN, SITE, UP, Hub, numbers

COMMON = (("iothub", "hub.test"), ("edge_device", "edge1"), ("instance_number", "n"))


def told(stands: Stands) -> dict[str, float]:
    """Return the samples by name and own labels, such as `name{qos=1}`."""
    found = {}
    for family in text_string_to_metric_families(encode_text(broker_families(stands, COMMON)).decode()):
        for sample in family.samples:
            assert tuple(sample.labels.items())[: len(COMMON)] == COMMON
            own = ",".join(f"{name}={value}" for name, value in list(sample.labels.items())[len(COMMON) :])
            found[sample.name.removeprefix("edgehub_broker_") + (f"{{{own}}}" if own else "")] = sample.value
    return found


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path, UP, DOWN)


def test_a_hub_without_a_broker_tells_nothing_of_one() -> None:
    assert broker_families(Stands(), COMMON) == []


def test_messages_sessions_and_queues_of_the_broker_are_told(hub: Hub) -> None:
    hub.client.subscribe("mine/#", 1, 0.0)
    hub.publish("mine/1", *numbers(20))  # 16 in flight, as nobody acknowledges them
    hub.client.publish([Publish("kept", b"x", 0, retain=True)], hub.system.clock.steady_s(), 0.0)

    hub.rest(2 * TICK_S)

    found = told(hub.stands)
    assert {name: value for name, value in found.items() if not name.startswith("bridge_")} == {
        "messages_received_total{qos=0}": 1,
        "messages_received_total{qos=1}": 20,
        "messages_received_total{qos=2}": 0,
        "messages_sent_total{qos=0}": 0,
        "messages_sent_total{qos=1}": 16,
        "messages_sent_total{qos=2}": 0,
        "messages_dropped_total": 0,
        "retained_dropped_total": 0,
        "retained_messages": 1,
        "sessions{state=connected}": 2,
        "sessions{state=away}": 0,
        "subscriptions": 2,
        "messages_in_flight": 16,
        "queued_messages": 4,
        "queued_bytes": sum(len("mine/1") + len(body) for body in numbers(20)[16:]),
    }


def test_a_bridge_tells_its_connection_what_waits_and_what_has_gone(hub: Hub) -> None:
    hub.publish("up/x", *numbers(5))
    hub.rest(2 * TICK_S)
    before = told(hub.stands)

    hub.far.accept()
    hub.far.send(Publish("down/1", b"in", 1, 3))
    hub.rest(2 * TICK_S)
    after = told(hub.stands)

    out, came_in = f"{{endpoint={SITE},direction=out}}", f"{{endpoint={SITE},direction=in}}"
    connected = f"bridge_connected{{endpoint={SITE}}}"
    assert (before[connected], after[connected]) == (0, 1)
    assert before[f"bridge_queued_messages{out}"] == 5
    assert before[f"bridge_queued_bytes{out}"] > 0
    assert after[f"bridge_queued_messages{out}"] == after[f"bridge_queued_bytes{out}"] == 0
    assert before[f"bridge_messages_forwarded_total{out}"] == 0
    assert after[f"bridge_messages_forwarded_total{out}"] == 5
    assert after[f"bridge_messages_forwarded_total{came_in}"] == 1
    assert after[f"bridge_messages_dropped_total{out}"] == 0
    assert after[f"bridge_messages_dropped_total{came_in}"] == 0


def test_a_bridge_that_is_taken_out_is_told_no_more(hub: Hub) -> None:
    hub.far.accept()
    hub.rest(TICK_S)
    assert f"bridge_connected{{endpoint={SITE}}}" in told(hub.stands)

    hub.set_rules()
    hub.rest(2 * TICK_S)

    assert not [name for name in told(hub.stands) if name.startswith("bridge_")]
