"""Routes that change while a real hub serves: no connection breaks, nothing with a way left is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from actors.addresses import ROUTER, STORE
from actors.agent_hub_messages import Routes, SetRoutes
from actors.hub.router import ListRoutes
from actors.hub.trail import Hops, TraceRouting, TraceStorage
from actors.store.stored import Ledger
from messaging.client import Client
from messaging.mqtt.packets import PubAck, Publish
from runtime.storage.message_ledger import read_ledger
from tests.integration.hub_process import DEVICE, HubProcess
from tests.integration.mqtt_client import MqttClient
from tests.waiting import wait_for

IOTHUB = "iothub.test.internal"
SENSOR, FILTER = f"{DEVICE}/sensor", f"{DEVICE}/filter"
TO = 'FROM /messages/modules/sensor/* INTO BrokeredEndpoint("/modules/filter/inputs/{}")'
LIMIT_S = 10.0
LOWEST = 2_000_000_000


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess({"first": TO.format("one")}, modules=("sensor", "filter")) as made:
        yield made


@pytest.fixture
def client(hub: HubProcess) -> Iterator[Client]:
    with Client.outside(hub.run_dir) as made:
        yield made


def connected(hub: HubProcess, name: str) -> MqttClient:
    return MqttClient.connect(hub.plain_port, name, hub.token(name), IOTHUB)


def set_routes(client: Client, **routes: tuple[str, int]) -> Routes:
    given = tuple((name, text, priority, 0) for name, (text, priority) in routes.items())
    return client.ask(ROUTER, SetRoutes(given, None), Routes, LIMIT_S)


def ledger_when(hub: HubProcess, endpoint: str, pending: int) -> Ledger:
    def so_far() -> Ledger:
        return read_ledger(hub.home / "hub.db")

    def found() -> Ledger | None:
        ledger = so_far()
        is_so = endpoint in ledger.endpoints and ledger.endpoints[endpoint].pending == pending
        return ledger if is_so else None

    return wait_for(found, lambda: str(so_far()), LIMIT_S)


def test_a_subscriber_gets_a_new_input_without_a_new_connection(hub: HubProcess, client: Client) -> None:
    sensor, receiver = connected(hub, SENSOR), connected(hub, FILTER)
    receiver.subscribe(f"devices/{DEVICE}/modules/filter/inputs/#")
    sensor.publish_and_wait(b"before")
    before = receiver.receive(Publish)
    receiver.send(PubAck(before.packet_id))

    set_routes(client, second=(TO.format("two"), 3))
    sensor.publish_and_wait(b"after")
    after = receiver.receive(Publish)

    assert (before.payload, after.payload) == (b"before", b"after")
    assert "/inputs/one/" in before.topic
    assert "/inputs/two/" in after.topic


def test_what_waits_stays_while_some_route_leads_there_and_goes_with_the_last(
    hub: HubProcess, client: Client
) -> None:
    sensor = connected(hub, SENSOR)
    for number in range(30):
        sensor.publish_and_wait(b"%d" % number)

    set_routes(client, again=(TO.format("one"), 5), other=(TO.format("two"), LOWEST))
    sensor.publish_and_wait(b"urgent")
    kept = ledger_when(hub, f"{FILTER}/one", pending=31)
    refused = set_routes(client, bad=("FROM", 0), other=(TO.format("two"), LOWEST))
    still = read_ledger(hub.home / "hub.db")
    set_routes(client, other=(TO.format("two"), LOWEST))
    after = ledger_when(hub, f"{FILTER}/one", pending=0)

    assert kept.endpoints[f"{FILTER}/two"].pending == 1
    assert [bad[0] for bad in refused.bad] == ["bad"]
    assert still.endpoints[f"{FILTER}/one"].pending == 31
    assert after.endpoints[f"{FILTER}/one"].dropped_by_reason == {"removed": 31}
    assert after.endpoints[f"{FILTER}/two"].pending == 1
    assert after.imbalances() == []


def test_the_way_of_a_message_is_told(hub: HubProcess, client: Client) -> None:
    sensor, receiver = connected(hub, SENSOR), connected(hub, FILTER)
    receiver.subscribe(f"devices/{DEVICE}/modules/filter/inputs/#")

    began_s = time.time()
    sensor.send(Publish(f"{sensor.topic}%24.mid=traced", b"x", 1, 77))
    arrived = receiver.receive(Publish)
    receiver.send(PubAck(arrived.packet_id))
    deadline_s = time.monotonic() + LIMIT_S
    stages: list[str] = []
    while "delivered" not in stages:
        routing = client.ask(ROUTER, TraceRouting("traced"), Hops, LIMIT_S)
        storage = client.ask(STORE, TraceStorage("traced"), Hops, LIMIT_S)
        stages = [hop["hop"] for hop in (*routing.hops, *storage.hops)]
        assert time.monotonic() < deadline_s, stages

    assert stages == ["received", "routed", "stored", "sent", "delivered"]
    times = [hop["at_s"] for hop in (*routing.hops, *storage.hops)]
    assert began_s <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.time()
    assert routing.hops[1]["route"] == "first"


def test_a_router_that_was_told_routes_answers_with_them(hub: HubProcess, client: Client) -> None:
    connected(hub, SENSOR)  # which the hub answers when all of it runs
    told = set_routes(client, x=(TO.format("one"), 2))

    assert client.ask(ROUTER, ListRoutes(), Routes, LIMIT_S) == told
    assert told.good == (("x", TO.format("one"), 2, 0, f"{FILTER}/one"),)
