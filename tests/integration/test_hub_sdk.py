"""The unmodified official Python SDK at a running hub, over TLS: nothing acknowledged is ever lost."""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.broker_world import CONNECT, spec
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import MqttSocket
from tests.integration.sdk_clients import (
    SDK_PORT,
    SdkConsumer,
    SdkPublisher,
    are_in_order,
    loopback_address,
    once,
    sdk_client,
)

TO_FILTER = 'FROM /messages/modules/{}/* INTO BrokeredEndpoint("/modules/filter/inputs/in")'
ROUTES = {
    "a": TO_FILTER.format("a"),
    "b": TO_FILTER.format("b"),
    "filter": "FROM /messages/modules/filter/* INTO $upstream",
    "leaf": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
}
SERVED_AGAIN_S = 1.0  # after the hub is up
# What the SDK tells a caller in the moment between a lost connection and its next one, once in some 20 kills.
NOT_CONNECTED = {"NoConnectionError('Client is not connected to IoTHub')"}


@pytest.fixture(params=[None, spec(CONNECT)], ids=["broker off", "broker on"])
def hub(request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    made = HubProcess(
        ROUTES,
        modules=("a", "b", "filter"),
        devices=("leaf",),
        address=loopback_address(),
        port=SDK_PORT,
        broker=request.param,
    )
    with made:
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def consumer_of(hub: HubProcess, ending: ExitStack) -> SdkConsumer:
    consumer = SdkConsumer(hub, "edge1/filter")
    ending.callback(consumer.client.shutdown)
    consumer.start()
    return consumer


def publisher_of(
    hub: HubProcess, ending: ExitStack, name: str, per_s: float, **settings: object
) -> SdkPublisher:
    publisher = SdkPublisher(hub, name, per_s, **settings)
    ending.callback(publisher.client.shutdown)
    publisher.start()
    return publisher


def test_messages_go_from_a_sensor_through_a_filter_to_the_cloud(hub: HubProcess, ending: ExitStack) -> None:
    from azure.iot.device import Message

    filtering = sdk_client(hub, "edge1/filter")
    sensor, leaf = sdk_client(hub, "edge1/a"), sdk_client(hub, "leaf")
    for client in (filtering, sensor, leaf):
        ending.callback(client.shutdown)
    filtering.connect()

    def pass_on(message: Message) -> None:
        assert message.input_name == "in"
        even = Message(message.data)
        even.custom_properties["from"] = message.custom_properties["$.cmid"]
        even.content_type, even.content_encoding = "application/json", "utf-8"
        if int(message.data) % 2 == 0:
            filtering.send_message_to_output(even, "out")

    filtering.on_message_received = pass_on
    for number in range(50):
        sensor.send_message_to_output(Message(str(number)), "temperature")
    leaf.send_message(Message("from outside"))

    arrived = hub.upstream(26)

    filtered = [record for record in arrived if record["Properties"].get("from") == "a"]
    assert [record["Body"] for record in filtered] == list(range(0, 50, 2))
    [outside] = [record for record in arrived if record not in filtered]
    assert outside["SystemProperties"]["connectionDeviceId"] == "leaf"


def assert_same(got: list[int], sent: list[int]) -> None:
    assert sorted(got) == sent
    assert are_in_order(got)


def kill_and_restart(
    hub: HubProcess, publishers: list[SdkPublisher], down_s: float
) -> tuple[float, list[float]]:
    """Kill the hub, start it again, and return how long it was down and how long each publisher waited."""
    hub.kill()
    killed_s = time.monotonic()
    time.sleep(down_s)  # what a supervisor takes, or a slow machine
    hub.start()
    with MqttSocket(hub) as probe:  # waits in the backlog as the clients do
        probe.connect(hub, "leaf")
    up_s = time.monotonic()
    counts = [len(publisher.acknowledged) for publisher in publishers]
    for publisher, count in zip(publishers, counts, strict=True):
        publisher.wait_for(count + 10)
    return up_s - killed_s, [max(0.0, publisher.first_after(killed_s) - up_s) for publisher in publishers]


def run_through_kills(hub: HubProcess, ending: ExitStack, downs_s: list[float], per_s: float) -> None:
    consumer = consumer_of(hub, ending)
    publishers = {name: publisher_of(hub, ending, f"edge1/{name}", per_s / 2) for name in ("a", "b")}
    started_s = time.monotonic()
    waits_s: list[float] = []

    for down_s in downs_s:
        for publisher in publishers.values():
            publisher.wait_for(len(publisher.acknowledged) + int(per_s / 2))
        down, waited_s = kill_and_restart(hub, list(publishers.values()), down_s)
        waits_s += waited_s
        print(f"down {down:.2f} s, publishers served {[f'{w:.3f}' for w in waited_s]} s after the hub was up")
    for publisher in publishers.values():
        publisher.stop()
    took_s = time.monotonic() - started_s

    for name, publisher in publishers.items():
        acknowledged = publisher.numbers()
        consumer.wait_for(name, acknowledged[-1])
        got = once(consumer.numbers_of(name))
        assert set(acknowledged) <= set(got)
        assert are_in_order(got)
        assert set(publisher.errors) <= NOT_CONNECTED
    total = sum(len(publisher.acknowledged) for publisher in publishers.values())
    twice = len(consumer.messages) - total
    print(
        f"{total} acknowledged in {took_s:.1f} s ({total / took_s:.0f}/s), {twice} came twice"
        f"; served again: median {statistics.median(waits_s):.3f} s, max {max(waits_s):.3f} s"
    )
    assert max(waits_s) < SERVED_AGAIN_S
    ending.close()
    assert hub.stop() == 0
    ledger = hub.ledger()
    assert ledger.imbalances() == []
    assert ledger.endpoints["edge1/filter/in"].dropped == 0


def test_kill_9_under_load_loses_nothing_acknowledged_and_clients_are_served_again_at_once(
    hub: HubProcess, ending: ExitStack
) -> None:
    run_through_kills(hub, ending, [0.0, 0.5], per_s=500)


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_many_kills_under_load(hub: HubProcess, ending: ExitStack) -> None:
    run_through_kills(hub, ending, [0.0, 0.1, 0.3, 1.0, 3.0] * 4, per_s=500)


def test_a_consumer_that_never_subscribes_again_gets_what_came_while_it_was_away(
    hub: HubProcess, ending: ExitStack
) -> None:
    """The SDK subscribes once in its life: the session must be on the hub's disk."""
    consumer = consumer_of(hub, ending)
    consumer.client.disconnect()
    publisher = publisher_of(hub, ending, "edge1/a", 200)
    publisher.wait_for(100)
    publisher.stop()

    hub.kill()
    hub.start()
    consumer.client.connect()
    consumer.wait_for("a", publisher.numbers()[-1])

    assert_same(once(consumer.numbers_of("a")), publisher.numbers())


def test_renewing_short_lived_tokens_under_load_loses_and_doubles_nothing(
    hub: HubProcess, ending: ExitStack
) -> None:
    """The SDK renews 120 s before the end: it leaves and connects anew with another token.

    What it publishes arrives exactly once. A consumer may have taken a message and not have said so when it
    leaves; then it is sent again, as nobody can know.
    """
    consumer = SdkConsumer(hub, "edge1/filter", sastoken_ttl=123)
    ending.callback(consumer.client.shutdown)
    consumer.start()
    publisher = publisher_of(hub, ending, "edge1/a", 250, sastoken_ttl=122)
    leaf = publisher_of(hub, ending, "leaf", 100, sastoken_ttl=122)

    for name in ("edge1/a", "leaf", "edge1/filter"):
        hub.wait_for_log(f"{name} connected", count=4, limit_s=40.0)
    for each in (publisher, leaf):
        each.wait_for(len(each.acknowledged) + 50)
        each.stop()
    consumer.wait_for("a", publisher.numbers()[-1])

    got = consumer.numbers_of("a")
    print(f"{len(got)} at the consumer, {len(got) - len(set(got))} of them again")
    assert_same(once(got), publisher.numbers())
    upstream = [int(base64.b64decode(record["Body"])) for record in hub.upstream(len(leaf.acknowledged))]
    assert upstream == leaf.numbers()
    assert (publisher.errors, leaf.errors) == ([], [])
    ending.close()
    assert hub.stop() == 0
    received = hub.ledger().total.received
    assert received == len(publisher.acknowledged) + len(leaf.acknowledged)
