"""The official service SDKs, unmodified, against the stand-in over AMQP: messages to devices and feedback.

azure-iothub 1.16.6 of Node over AMQP and over WebSocket, azure-iot-hub 2.7.0 of Python (whose port is always
5671, and whose trust is that of certifi).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging.identity import Identity
from runtime.iothub import feedback
from runtime.iothub.records import C2dMessage
from tests.integration.cloud_server import LIMIT_S, CloudServer, cloud_server
from tests.integration.node_sdk import need_node, need_port, run_scene
from tests.integration.sdk_clients import loopback_address
from tests.runtime.iothub.fakes import FakeDevice

OVER = pytest.mark.parametrize("over", ["AMQP", "AMQP-WS"])


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudServer]:
    """Serve a stand-in with the device `d1`; a batch of feedback waits for half a second only."""
    monkeypatch.setattr(feedback, "BATCH_S", 0.5)
    address = loopback_address()
    need_port(address, 443)
    with cloud_server(tmp_path, address, 443, amqp_port=5671) as server:
        server.run(server.hub.put(Identity("d1"), {}))
        yield server


def play(cloud: CloudServer, scene: str, over: str, **environment: str) -> Any:
    need_node()
    return run_scene(
        "service_amqp.js",
        scene,
        cloud.ca_file,
        OVER=over,
        IOTHUB_CONNECTION_STRING=cloud.connection_string("service"),
        **environment,
    )


def device(cloud: CloudServer) -> FakeDevice:
    return cloud.run(FakeDevice.connect(cloud.hub, "d1"))


def next_message(cloud: CloudServer, device: FakeDevice) -> C2dMessage:
    """Return what the device is told next, and complete it."""

    async def take() -> C2dMessage:
        _, message, lock = await device.next()
        await cloud.hub.complete_c2d(device.grant, lock)
        assert isinstance(message, C2dMessage)
        return message

    return cloud.run(take())


@OVER
def test_node_sends_messages_with_all_their_properties(cloud: CloudServer, over: str) -> None:
    listening = device(cloud)

    play(cloud, "send", over)

    first, second = (next_message(cloud, listening) for _ in range(2))
    assert (first.body, first.properties, first.ack) == (b"a text", {}, "none")
    assert (second.body, second.ack) == (b"all of it", "full")
    assert second.properties == {"p": "v", "odd name": "ä/&"}
    system_properties = dict(second.system_properties)
    assert system_properties.pop("absolute-expiry-time", None)
    assert system_properties == {
        "messageId": "70e01b1e-4a6f-4b62-a5c5-1b8a5d5b6f6e",
        "cid": "c1",
        "contentType": "text/plain",
        "contentEncoding": "utf-8",
        "to": "/devices/d1/messages/devicebound",
        "ack": "full",
    }
    assert 3590 < second.expires_s - second.enqueued_s < 3610


@OVER
def test_node_is_told_why_a_message_is_refused(cloud: CloudServer, over: str) -> None:
    found = play(cloud, "refusals", over)

    assert found == {
        "unknown": {"name": "DeviceNotFoundError", "condition": "amqp:not-found"},
        "large": {"name": "MessageTooLargeError", "condition": "amqp:link:message-size-exceeded"},
        "ack": {"name": "ArgumentError", "condition": "com.microsoft:argument-error"},
        "full": {
            "name": "DeviceMaximumQueueDepthExceededError",
            "condition": "amqp:resource-limit-exceeded",
        },
    }


@OVER
def test_node_is_let_in_with_a_policy_that_allows_it_alone(cloud: CloudServer, over: str) -> None:
    own = cloud.connection_string("service")
    foreign = own.replace(own.rpartition("SharedAccessKey=")[2], "bm90aGluZw==")
    strangers = {"device": cloud.connection_string("device"), "foreign": foreign}

    found = play(cloud, "strangers", over, STRANGERS=json.dumps(strangers))

    assert {name: each["name"] for name, each in found.items()} == dict.fromkeys(
        strangers, "UnauthorizedError"
    )


@OVER
def test_node_gets_feedback(cloud: CloudServer, over: str) -> None:
    listening = device(cloud)
    taking = asyncio.run_coroutine_threadsafe(take_next(cloud, listening), cloud.loop)

    found = play(cloud, "feedback", over)

    taking.result(LIMIT_S)
    assert found["contentType"] == "application/vnd.microsoft.iothub.feedback.json"
    (record,) = found["records"]
    assert (record["originalMessageId"], record["deviceId"], record["statusCode"]) == (
        "taken",
        "d1",
        "Success",
    )
    assert cloud.run(cloud.hub.receive_feedback()) is None


@OVER
def test_node_waits_for_notifications_of_files_in_vain(cloud: CloudServer, over: str) -> None:
    assert play(cloud, "files", over) == {"came": 0}


async def take_next(cloud: CloudServer, listening: FakeDevice) -> None:
    _, _, lock = await listening.next()
    await cloud.hub.complete_c2d(listening.grant, lock)


# Python


@pytest.fixture(params=["AMQP", "AMQP-WS"])
def python(
    request: pytest.FixtureRequest, cloud: CloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return the manager of the SDK, which trusts the stand-in."""
    uamqp = pytest.importorskip("uamqp", reason="azure-iot-hub needs uamqp, of which there is no wheel here")
    import certifi
    from azure.iot.hub import IoTHubRegistryManager

    trusted = tmp_path / "trusted.pem"
    trusted.write_text(Path(certifi.where()).read_text() + cloud.ca_file.read_text())
    monkeypatch.setattr(certifi, "where", lambda: str(trusted))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    types = uamqp.TransportType
    return IoTHubRegistryManager.from_connection_string(
        cloud.connection_string("service"),
        types.Amqp if request.param == "AMQP" else types.AmqpOverWebsocket,
    )


def test_python_sends_messages_with_all_their_properties(cloud: CloudServer, python: Any) -> None:
    listening = device(cloud)

    python.send_c2d_message(
        "d1",
        "hello",
        {
            "p": "v",
            "messageId": "m1",
            "correlationId": "c1",
            "contentType": "text/plain",
            "contentEncoding": "utf-8",
            "iothub-ack": "negative",
        },
    )

    message = next_message(cloud, listening)
    assert (message.body, message.properties, message.ack) == (b"hello", {"p": "v"}, "negative")
    assert message.system_properties == {
        "messageId": "m1",
        "cid": "c1",
        "contentType": "text/plain",
        "contentEncoding": "utf-8",
        "to": "/devices/d1/messages/devicebound",
        "ack": "negative",
    }


def test_python_is_told_that_a_message_is_refused_and_sends_the_next_one(
    cloud: CloudServer, python: Any
) -> None:
    listening = device(cloud)

    for device_id, body in (("nobody", "x"), ("d1", "x" * (64 * 1024 + 1))):
        with pytest.raises(Exception, match="send failure"):
            python.send_c2d_message(device_id, body)
    python.send_c2d_message("d1", "fits")

    assert next_message(cloud, listening).body == b"fits"
