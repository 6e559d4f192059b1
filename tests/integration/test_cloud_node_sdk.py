"""The unmodified official Node SDK at the IoT Hub stand-in, over MQTT and AMQP: every feature of a device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging.errors import IotHubError
from messaging.identity import Identity
from runtime.iothub.records import Event
from tests.integration.cloud import Cloud
from tests.integration.node_device import NodeDevice
from tests.integration.sdk_clients import loopback_address
from tests.runtime.client_certificates import make_client

D1 = Identity("d1")
LINK = "/devices/d1/messages/events"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud(loopback_address()) as made:
        made.create("d1")
        yield made


@pytest.fixture(params=["mqtt", "mqtt-ws", "amqp", "amqp-ws"])
def device(request: pytest.FixtureRequest, cloud: Cloud) -> Iterator[NodeDevice]:
    """The device `d1`, connected over TCP and over WebSocket."""
    with NodeDevice(cloud.connection_string("d1"), cloud.ca_file, transport=request.param) as device:
        yield device.open()


def events(cloud: Cloud) -> list[Event]:
    return cloud.call(cloud.hub.events(0))


def test_telemetry_arrives_with_all_its_properties(cloud: Cloud, device: NodeDevice) -> None:
    device.ask(
        "send",
        {
            "body": '{"t":21.5}',
            "properties": {"a b/c": "ü&=?"},
            "messageId": "m-1",
            "correlationId": "c/1",
            "contentType": "application/json",
            "contentEncoding": "utf-8",
        },
    )

    (event,) = events(cloud)
    assert event.identity == D1
    assert json.loads(event.telemetry.body) == {"t": 21.5}
    assert event.telemetry.properties == {"a b/c": "ü&=?"}
    system_properties = dict(event.telemetry.system_properties)
    assert system_properties.pop("to", LINK) == LINK  # over AMQP the SDK says where it sends it
    assert system_properties == {
        "messageId": "m-1",
        "cid": "c/1",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
    }


def test_a_twin_is_read_reported_and_patched_from_the_cloud(cloud: Cloud, device: NodeDevice) -> None:
    cloud.call(cloud.hub.patch_twin(D1, {"properties": {"desired": {"rate": 5}}}))

    twin = device.ask("twin")
    device.ask("desired")
    first = device.event("desired")  # the SDK tells at once what it has
    device.ask("report", {"rate": 5, "nested": {"deep": [1, "2"]}})
    cloud.call(cloud.hub.patch_twin(D1, {"properties": {"desired": {"rate": None, "more": {"k": 1}}}}))
    second = device.event("desired")

    assert twin["desired"] == {"rate": 5, "$version": 2}
    assert first["patch"]["rate"] == 5
    assert second["patch"] == {"rate": None, "more": {"k": 1}, "$version": 3}
    reported = cloud.call(cloud.hub.device_twin(D1))["reported"]
    assert reported == {"rate": 5, "nested": {"deep": [1, "2"]}, "$version": 2}


def test_a_report_that_breaks_a_rule_is_an_error_of_that_call_only(cloud: Cloud, device: NodeDevice) -> None:
    device.ask("twin")

    with pytest.raises(RuntimeError):
        device.ask("report", {"a.b": 1})

    device.ask("report", {"ab": 1})
    assert cloud.call(cloud.hub.device_twin(D1))["reported"] == {"ab": 1, "$version": 2}


@pytest.mark.parametrize("payload", [None, {"k": [1, {"ü": None}]}], ids=repr)
def test_a_direct_method_is_called_and_answered(cloud: Cloud, device: NodeDevice, payload: Any) -> None:
    device.ask("method", "reboot", 207)

    result = cloud.call(cloud.hub.invoke_method(D1, "reboot", payload, connect_timeout_s=10))

    assert (result.status, result.payload) == (207, {"name": "reboot", "payload": payload})


def test_c2d_messages_wait_and_arrive_in_order(cloud: Cloud, device: NodeDevice) -> None:
    for n in range(3):
        system_properties = {"messageId": f"m{n}", "cid": "c", "contentType": "application/json"}
        cloud.call(cloud.hub.send_c2d("d1", str(n).encode(), {"a b": "ü/"}, system_properties, ack="full"))

    device.ask("listen")

    messages = [device.event("message") for _ in range(3)]
    assert [message["body"] for message in messages] == ["0", "1", "2"]
    assert [message["messageId"] for message in messages] == ["m0", "m1", "m2"]
    # Over MQTT the SDK knows no name of its own for what the sender wants to know.
    asked = [message["properties"].pop("iothub-ack", None) or message["ack"] for message in messages]
    assert asked == ["full"] * 3
    assert all(message["properties"] == {"a b": "ü/"} for message in messages)
    assert all(message["correlationId"] == "c" for message in messages)


def test_a_message_without_any_property_arrives(cloud: Cloud, device: NodeDevice) -> None:
    device.ask("listen")

    cloud.call(cloud.hub.send_c2d("d1", b"bare"))

    assert device.event("message")["body"] == "bare"


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_a_module_has_its_own_telemetry_twin_and_methods(cloud: Cloud, transport: str) -> None:
    cloud.create("edge1", capabilities={"iotEdge": True})
    cloud.create("edge1/m1")
    module = Identity("edge1", "m1")
    with NodeDevice(cloud.connection_string("edge1/m1"), cloud.ca_file, transport=transport) as device:
        device.open().ask("method", "hi", 200)

        device.ask("sendOutput", "alerts", {"body": "out"})
        device.ask("twin")
        device.ask("report", {"of": "m1"})
        result = cloud.call(cloud.hub.invoke_method(module, "hi", {"x": 1}, connect_timeout_s=10))

    (event,) = events(cloud)
    assert (event.identity, event.telemetry.system_properties["outputName"]) == (module, "alerts")
    assert result.payload == {"name": "hi", "payload": {"x": 1}}
    assert cloud.call(cloud.hub.device_twin(module))["reported"]["of"] == "m1"


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])
def test_a_device_with_a_certificate(cloud: Cloud, tmp_path: Path, transport: str) -> None:
    shown = make_client(tmp_path, "leaf")
    thumbprint = hashlib.sha1(shown.ders[0]).hexdigest()
    prints = {"primaryThumbprint": thumbprint, "secondaryThumbprint": thumbprint}
    cloud.create("leaf", authentication={"type": "selfSigned", "x509Thumbprint": prints})
    credential = f"HostName={cloud.address};DeviceId=leaf;x509=true"
    files = (shown.certificate_file, shown.key_file)

    with NodeDevice(credential, cloud.ca_file, transport=transport, certificate_files=files) as device:
        device.open().ask("send", {"body": "with a certificate"})

    assert [event.identity.id for event in events(cloud)] == ["leaf"]


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_a_renewed_token_keeps_what_the_client_listens_for(cloud: Cloud, transport: str) -> None:
    with NodeDevice(cloud.token("d1", 60), cloud.ca_file, transport=transport) as device:
        device.open().ask("method", "m", 207)
        call(cloud)

        device.ask("renew", cloud.token("d1", 3600))

        # Over MQTT the SDK connects twice and subscribes in neither; a call between the two is lost.
        assert 207 in (call(cloud), call(cloud))
        device.ask("send", {"body": "with the new token"})

    assert [event.telemetry.body for event in events(cloud)] == [b"with the new token"]


def call(cloud: Cloud) -> int:
    """Call the method `m`, once the device is there, and return what it answers, 504 if nothing."""
    try:
        work = cloud.hub.invoke_method(D1, "m", None, response_timeout_s=5, connect_timeout_s=10)
        return cloud.call(work).status
    except IotHubError as exc:
        return exc.status


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_another_key_is_refused_for_good(cloud: Cloud, transport: str) -> None:
    cloud.create("d2")
    credential = cloud.connection_string("d1").replace(cloud.key("d1"), cloud.key("d2"))

    with (
        NodeDevice(credential, cloud.ca_file, transport=transport) as device,
        pytest.raises(RuntimeError, match=r"Unauthorized|NotAuthorized"),
    ):
        device.open()


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_after_a_kill_a_client_goes_on_and_nothing_acknowledged_is_lost(cloud: Cloud, transport: str) -> None:
    cloud.stop()
    cloud.start_process()
    with NodeDevice(cloud.connection_string("d1"), cloud.ca_file, transport=transport) as device:
        device.open().ask("method", "m", 207)
        device.ask("twin")
        device.ask("report", {"before": 1})
        for n in range(20):
            device.ask("send", {"body": str(n)})

        cloud.kill_process()
        cloud.start_process()
        for n in range(20, 40):
            device.ask("send", {"body": str(n)})  # the SDK's own policy connects again
        device.ask("report", {"after": 2})
        cloud.kill_process()
        cloud.start()

        result = cloud.call(cloud.hub.invoke_method(D1, "m", None, connect_timeout_s=60))

    assert result.status == 207
    assert list(dict.fromkeys(int(event.telemetry.body) for event in events(cloud))) == list(range(40))
    reported = cloud.call(cloud.hub.device_twin(D1))["reported"]
    assert (reported["before"], reported["after"]) == (1, 2)
