"""Everything that an unmodified SDK can do at the hub over MQTT and AMQP: official Python and Node clients.

`uamqp`, the engine of the C SDK, does what that SDK does. All of it without a broker, and with one whose
topics other clients keep busy. The modules have all they need from the edge environment; leaf devices have a
connection string with GatewayHostName.
"""

from __future__ import annotations

import base64
import bisect
import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.integration.node_sdk import WHY_NOT
from tests.integration.sdk_peer import Event, SdkPeer
from tests.integration.sdk_site import LEAVES, MODULES, SdkSite, installed_sdks, knows_user_ids, sdk_of
from tests.integration.test_web_socket import may_bind_443, needs_443
from tests.waiting import wait_for

EVERYBODY = [*MODULES.values(), *LEAVES.values()]
# uamqp has no HTTP client, and the calls of Node are the same over each of its transports.
CALLERS = [MODULES["python"], MODULES["node"], MODULES["node-amqp"]]
EXPIRY = "2099-01-31T10:00:00+00:00"
LIMIT_S = 20.0
HANDLERS = 4  # threads in which the Python SDK calls its handlers, each with the next message


@pytest.fixture(scope="module", params=[False, True], ids=["no broker", "busy broker"])
def site(request: pytest.FixtureRequest) -> Iterator[SdkSite]:
    made = SdkSite(installed_sdks(), web=may_bind_443(), broker=request.param)
    try:
        made.start()
        yield made
        if request.param:
            assert made.end_talk() > 0
    finally:
        made.close()


def client_of(site: SdkSite, identity: str) -> SdkPeer:
    if identity not in site.clients:
        pytest.skip(WHY_NOT)
    return site.clients[identity]


# telemetry


MESSAGE = {
    "body": '{"t": 21.5}',
    "properties": {"plain": "v", "odd = & / ü +%": "a b&c=d/e?f#g+h%20ü", "empty": ""},
    "messageId": "m-1",
    "correlationId": "c-1",
    "userId": "u-1",
    "contentType": "application/json",
    "contentEncoding": "utf-8",
    "expiryTimeUtc": EXPIRY,
}


@pytest.mark.parametrize("sender", EVERYBODY)
def test_every_property_of_a_message_arrives_at_module_inputs_and_upstream(
    site: SdkSite, sender: str
) -> None:
    client = client_of(site, sender)
    device, _, module = sender.partition("/")
    body = json.dumps({"from": sender})
    message = MESSAGE | {"body": body}
    began_s = int(time.time() * 1_000) / 1_000  # the IoT Hub may count in milliseconds

    if module:
        client.ask("sendOutput", "out", message)
    else:
        client.ask("send", message)

    for sdk in site.sdks:
        receiver = MODULES[sdk]
        event = site.clients[receiver].event("message", lambda event: event["body"] == body, LIMIT_S)
        assert event["input"] == "in"
        assert take_sender(event) == [device, module]
        assert event["properties"] == MESSAGE["properties"]
        assert system_of(event) == expected_system(sender, receiver)
    record = upstream(site, body.encode())
    assert record["Properties"] == MESSAGE["properties"]
    expected = {
        "messageId": "m-1",
        "cid": "c-1",
        "userId": "u-1",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
        "absolute-expiry-time": EXPIRY,
        "connectionDeviceId": device,
    }
    if module:
        expected |= {"connectionModuleId": module, "outputName": "out"}
    if not knows_user_ids(sender):
        del expected["userId"]
        expected["to"] = f"/devices/{device}{f'/modules/{module}' if module else ''}/messages/events"
    # What the IoT Hub itself says of a message: who sent it, as whom it knows him, and when it came.
    identity = site.registered(sender)
    scope = "module" if module else "device"
    expected |= {
        "connectionAuthMethod": f'{{"scope":"{scope}","type":"sas","issuer":"iothub"}}',
        "connectionDeviceGenerationId": identity["generationId"],
    }
    taken = dict(record["SystemProperties"])
    enqueued_s = datetime.fromisoformat(taken.pop("enqueuedTime")).timestamp()
    assert began_s <= enqueued_s <= time.time()
    taken["absolute-expiry-time"] = moment(taken["absolute-expiry-time"])
    assert taken == expected | {"absolute-expiry-time": moment(EXPIRY)}


def take_sender(event: Event) -> list[str]:
    """Return who has sent a message; over MQTT its properties say that, which are taken out."""
    of_mqtt = [event["properties"].pop(name, "") for name in ("$.cdid", "$.cmid")]
    return list(event.get("sender") or of_mqtt)


def system_of(event: Event) -> dict[str, Any]:
    """Return the system properties that a client was shown."""
    found = {name: event.get(name) or None for name in MESSAGE if name not in ("body", "properties")}
    return found | {"expiryTimeUtc": moment(found["expiryTimeUtc"])}


def expected_system(*ways: str) -> dict[str, Any]:
    """Return the system properties of MESSAGE that these clients, sender and receiver, let through."""
    expected = system_of(MESSAGE)
    return expected if all(map(knows_user_ids, ways)) else expected | {"userId": None}


def moment(text: str) -> datetime:
    """Return a time, which MQTT carries as it was written and AMQP as a number."""
    return datetime.fromisoformat(text)


def upstream(site: SdkSite, body: bytes) -> dict[str, Any]:
    """Wait for the one message with this body in the cloud's own list."""
    path = site.edge.home / "upstream.jsonl"

    def found() -> list[dict[str, Any]] | None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if body_of(record) == body] or None

    [record] = wait_for(found, f"{body!r} in the cloud", LIMIT_S)
    return record


def body_of(record: dict[str, Any]) -> bytes:
    body = record["Body"]
    return json.dumps(body).encode() if isinstance(body, dict) else base64.b64decode(body)


# cloud to device


@pytest.mark.parametrize("device", list(LEAVES.values()))
def test_every_property_of_a_message_from_the_cloud_arrives_at_the_device(site: SdkSite, device: str) -> None:
    client = client_of(site, device)
    properties: dict[str, str | None] = dict(MESSAGE["properties"])  # type: ignore[call-overload]
    system = {
        "messageId": "m-1",
        "cid": "c-1",
        "userId": "u-1",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
        "absolute-expiry-time": EXPIRY,
        "to": f"/devices/{device}/messages/devicebound",
        "ack": "full",
    }

    site.send_c2d(device, b"with properties", properties, **system)

    event = client.event("message", lambda event: event["body"] == "with properties", LIMIT_S)
    assert system_of(event) == expected_system(device)
    # The Node SDK knows no `iothub-ack` over MQTT and shows it with the properties.
    assert event["properties"].pop("iothub-ack", event.get("ack")) == "full"
    assert event["properties"] == properties


@pytest.mark.parametrize("device", list(LEAVES.values()))
def test_messages_from_the_cloud_come_in_order_and_expired_ones_never(site: SdkSite, device: str) -> None:
    client = client_of(site, device)

    for number in range(50):
        late = {"absolute-expiry-time": "2020-01-01T00:00:00Z"} if number % 10 == 3 else {}
        site.send_c2d(device, b"%d" % number, {}, **late)

    numbers = [int(event["body"]) for event in client.events("message", 45)]
    assert in_order(sdk_of(device), numbers) == [number for number in range(50) if number % 10 != 3]


# twins


@pytest.mark.parametrize("identity", EVERYBODY)
def test_a_twin_is_read_reported_and_desired(site: SdkSite, identity: str) -> None:
    client = client_of(site, identity)
    before = client.ask("twin")
    client.ask("desired")
    if sdk_of(identity).startswith("node"):  # the SDK tells what is there already
        client.event("desired")

    client.ask("report", {"rpm": 5, "state": {"on": True, "old": 1}})
    client.ask("report", {"state": {"old": None}})
    version = site.desire(identity, {"limit": {"max": 7}, "gone": None})
    event = client.event("desired", limit_s=LIMIT_S)
    after = client.ask("twin")

    assert before["reported"] == {"$version": 1}
    assert version == before["desired"]["$version"] + 1
    assert event["patch"]["limit"] == {"max": 7}
    assert event["patch"]["$version"] == version
    assert after["desired"] == {"limit": {"max": 7}, "$version": version}
    assert after["reported"] == {"rpm": 5, "state": {"on": True}, "$version": 3}


# direct methods


def invoke(client: SdkPeer, target: str, name: str, payload: Any, **limits: int) -> Any:
    device, _, module = target.partition("/")
    parameters = {
        "methodName": name,
        "payload": payload,
        "responseTimeoutInSeconds": limits.get("response_s", 20),
        "connectTimeoutInSeconds": limits.get("connect_s", 0),
    }
    return client.ask("invoke", device, module or None, parameters)


@needs_443
@pytest.mark.parametrize("target", EVERYBODY)
@pytest.mark.parametrize("caller", CALLERS)
def test_a_module_calls_a_method_of_everybody(site: SdkSite, caller: str, target: str) -> None:
    called = client_of(site, target)
    called.ask("method", "start", 207)

    # The Node SDK does not say when it has subscribed: the call waits for it.
    answer = invoke(client_of(site, caller), target, "start", {"rpm": [1, 2]}, connect_s=20)

    assert answer["status"] == 207
    assert answer["payload"] == {"name": "start", "payload": {"rpm": [1, 2]}}


@needs_443
@pytest.mark.parametrize("target", EVERYBODY)
def test_a_hundred_calls_in_flight_are_each_answered_with_their_own_payload(
    site: SdkSite, target: str
) -> None:
    client_of(site, target).ask("method", "echo", 200)
    caller = site.clients[MODULES["python"]]
    device, _, module = target.partition("/")

    calls = [
        caller.begin(
            "invoke",
            device,
            module or None,
            {"methodName": "echo", "payload": number, "responseTimeoutInSeconds": 30},
        )
        for number in range(100)
    ]

    assert [call.result(60)["payload"]["payload"] for call in calls] == list(range(100))


@needs_443
@pytest.mark.parametrize("caller", CALLERS[:2])
@pytest.mark.slow
def test_who_is_absent_is_404_and_who_does_not_answer_504(site: SdkSite, caller: str) -> None:
    client = client_of(site, caller)
    silent = site.clients[LEAVES["python"]]
    silent.ask("method", "silent", None)

    with pytest.raises(RuntimeError) as absent:
        invoke(client, "nobody", "start", None)
    began_s = time.monotonic()
    with pytest.raises(RuntimeError) as late:
        invoke(client, LEAVES["python"], "silent", None, response_s=5)
    took_s = time.monotonic() - began_s

    of_python = caller == MODULES["python"]
    assert ("404" if of_python else "Not found") in str(absent.value)
    assert ("504" if of_python else "Timeout") in str(late.value)
    assert 5 <= took_s < 8


# order


@pytest.mark.parametrize("sender", EVERYBODY)
def test_what_a_client_sends_arrives_once_and_in_order(site: SdkSite, sender: str) -> None:
    numbers(site, sender, 0, 100)


def numbers(site: SdkSite, sender: str, first: int, count: int) -> None:
    """Let a client send numbers, and see each of them at both modules."""
    client = client_of(site, sender)
    device, _, module = sender.partition("/")
    for sdk in site.sdks:
        site.clients[MODULES[sdk]].forget()

    client.ask("sendMany", "out" if module else "", first, count, limit_s=300)

    for sdk in site.sdks:
        events = site.clients[MODULES[sdk]].events("message", count, 60)
        mine = [event for event in events if is_from(event, device, module)]
        assert in_order(sdk, [int(event["body"]) for event in mine]) == list(range(first, first + count))


def in_order(sdk: str, numbers: list[int]) -> list[int]:
    """Return numbers in the order of their arrival, as far as the SDK tells it.

    That of Python gives each message to the next free one of its threads, so those in the other threads
    may be told later, however long: but of the numbers before one there are never more than those.
    """
    if sdk != "python":
        return numbers
    later: list[int] = []
    for number in reversed(numbers):
        overtaken = bisect.bisect_left(later, number)
        assert overtaken < HANDLERS, f"{number} came before {later[:overtaken]}"
        bisect.insort(later, number)
    return later


def is_from(event: Event, device: str, module: str) -> bool:
    return take_sender({**event, "properties": dict(event["properties"])}) == [device, module]


@pytest.mark.parametrize("device", [LEAVES["node"], LEAVES["node-amqp"], LEAVES["node-amqp-ws"]])
def test_a_client_closes_in_good_order_and_comes_back(site: SdkSite, device: str) -> None:
    """The SDK waits 45 s for what a hub does not answer while it closes."""
    client = client_of(site, device)

    client.ask("close", limit_s=30)
    client.ask("send", {"body": f"{device} is back"})

    assert upstream(site, f"{device} is back".encode())
