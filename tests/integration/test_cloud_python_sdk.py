"""The unmodified official Python SDK at the IoT Hub stand-in, over TLS: every feature of a device."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from messaging.identity import Identity
from runtime.iothub.records import Event
from tests.integration.cloud import LIMIT_S, Cloud
from tests.integration.sdk_clients import loopback_address
from tests.runtime.client_certificates import make_client, make_signer
from tests.waiting import wait_until

D1 = Identity("d1")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud(loopback_address()) as made:
        made.create("d1")
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client_of(cloud: Cloud, ending: ExitStack, client_id: str = "d1", **settings: Any) -> Any:
    """Return an SDK client that is not connected yet."""
    from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient

    kind = IoTHubModuleClient if "/" in client_id else IoTHubDeviceClient
    client = kind.create_from_connection_string(
        cloud.connection_string(client_id), server_verification_cert=cloud.ca_file.read_text(), **settings
    )
    ending.callback(client.shutdown)
    return client


def connected(cloud: Cloud, ending: ExitStack, client_id: str = "d1", **settings: Any) -> Any:
    """Return an SDK client that is connected."""
    client = client_of(cloud, ending, client_id, **settings)
    client.connect()
    return client


def events(cloud: Cloud) -> list[Event]:
    return cloud.call(cloud.hub.events(0))


def answer_methods(client: Any) -> None:
    """Let a client answer each method with what it was called with, and the length of its name as status."""
    from azure.iot.device import MethodRequest, MethodResponse

    def answer(request: MethodRequest) -> None:
        body = {"name": request.name, "payload": request.payload}
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 200 + len(request.name), body)
        )

    client.on_method_request_received = answer


def test_telemetry_arrives_with_all_its_properties(cloud: Cloud, ending: ExitStack) -> None:
    from azure.iot.device import Message

    client = connected(cloud, ending)
    message = Message(json.dumps({"t": 21.5}))
    message.message_id, message.correlation_id, message.user_id = "m-1", "c/1", "user ä"
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.custom_properties["a b/c"] = "ü&=?"

    client.send_message(message)
    client.send_message(b"\x00\xff binary")

    first, second = events(cloud)
    assert json.loads(first.telemetry.body) == {"t": 21.5}
    assert first.telemetry.properties == {"a b/c": "ü&=?"}
    assert first.telemetry.system_properties == {
        "messageId": "m-1",
        "cid": "c/1",
        "userId": "user ä",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
    }
    assert json.loads(first.auth_method) == {"scope": "device", "type": "sas", "issuer": "iothub"}
    assert (first.identity, second.telemetry.body) == (D1, b"\x00\xff binary")
    assert second.sequence_number == first.sequence_number + 1


def test_a_twin_is_read_reported_and_patched_from_the_cloud(cloud: Cloud, ending: ExitStack) -> None:
    client = connected(cloud, ending)
    patches: queue.Queue[dict[str, Any]] = queue.Queue()
    cloud.call(cloud.hub.patch_twin(D1, {"tags": {"site": "x"}, "properties": {"desired": {"rate": 5}}}))

    assert client.get_twin() == {"desired": {"rate": 5, "$version": 2}, "reported": {"$version": 1}}
    client.on_twin_desired_properties_patch_received = patches.put
    client.patch_twin_reported_properties({"rate": 5, "nested": {"deep": [1, "2", None is None]}})
    client.patch_twin_reported_properties({"rate": None})
    cloud.call(cloud.hub.patch_twin(D1, {"properties": {"desired": {"rate": None, "more": {"k": 1}}}}))

    assert patches.get(timeout=LIMIT_S) == {"rate": None, "more": {"k": 1}, "$version": 3}
    twin = cloud.call(cloud.hub.twin(D1))
    reported = {k: v for k, v in twin["properties"]["reported"].items() if not k.startswith("$")}
    assert reported == {"nested": {"deep": [1, "2", True]}}
    assert client.get_twin()["desired"] == {"more": {"k": 1}, "$version": 3}


def test_a_report_that_breaks_a_rule_is_an_error_of_that_call_only(cloud: Cloud, ending: ExitStack) -> None:
    from azure.iot.device.exceptions import ClientError

    client = connected(cloud, ending)

    with pytest.raises(ClientError):
        client.patch_twin_reported_properties({"a.b": 1})

    client.patch_twin_reported_properties({"ab": 1})
    assert client.get_twin()["reported"] == {"ab": 1, "$version": 2}


@pytest.mark.parametrize("payload", [None, 1, "text", {"k": [1, {"ü": None}]}], ids=repr)
def test_a_direct_method_is_called_and_answered(cloud: Cloud, ending: ExitStack, payload: Any) -> None:
    client = connected(cloud, ending)
    answer_methods(client)

    result = cloud.call(cloud.hub.invoke_method(D1, "reboot.now", payload))

    assert (result.status, result.payload) == (210, {"name": "reboot.now", "payload": payload})


def test_a_method_of_a_device_that_does_not_listen_or_answer_is_refused(
    cloud: Cloud, ending: ExitStack
) -> None:
    from messaging.errors import IotHubError

    client = connected(cloud, ending)
    with pytest.raises(IotHubError) as not_online:
        cloud.call(cloud.hub.invoke_method(D1, "m", None))
    client.on_method_request_received = lambda _: None

    with pytest.raises(IotHubError) as silent:
        cloud.call(cloud.hub.invoke_method(D1, "m", None, response_timeout_s=5))

    assert (not_online.value.code, silent.value.code) == (404103, 504101)


def test_c2d_messages_wait_arrive_in_order_and_are_told_about(cloud: Cloud, ending: ExitStack) -> None:
    got: queue.Queue[Any] = queue.Queue()
    for n in range(3):
        cloud.call(
            cloud.hub.send_c2d(
                "d1",
                str(n).encode(),
                {"a b": "ü/"},
                {"messageId": f"m{n}", "cid": "c", "contentType": "application/json"},
                ack="full",
            )
        )

    connected(cloud, ending).on_message_received = got.put

    messages = [got.get(timeout=LIMIT_S) for _ in range(3)]
    assert [message.data for message in messages] == [b"0", b"1", b"2"]
    assert [message.message_id for message in messages] == ["m0", "m1", "m2"]
    assert {message.correlation_id for message in messages} == {"c"}
    assert {message.content_type for message in messages} == {"application/json"}
    assert {message.ack for message in messages} == {"full"}
    assert all(message.custom_properties == {"a b": "ü/"} for message in messages)
    outcomes: list[tuple[str, str]] = []

    def told() -> bool:
        found = cloud.call(cloud.hub.receive_feedback())
        if found is not None:
            cloud.call(cloud.hub.complete_feedback(found.lock))
            outcomes.extend((record.original_message_id, record.outcome) for record in found.records)
        return len(outcomes) == 3

    wait_until(told, "the feedback")
    assert sorted(outcomes) == [("m0", "Success"), ("m1", "Success"), ("m2", "Success")]


@pytest.mark.parametrize("module", ["m1", "$edgeHub", "$edgeAgent"])
def test_a_module_has_its_own_telemetry_twin_and_methods(
    cloud: Cloud, ending: ExitStack, module: str
) -> None:
    from azure.iot.device import Message

    cloud.create("edge1", capabilities={"iotEdge": True})
    client_id = f"edge1/{module}"
    keys = {"primaryKey": cloud.key("edge1"), "secondaryKey": cloud.key("d1")}
    cloud.create(
        client_id,
        if_match="*" if module.startswith("$") else None,  # an edge device is born with these
        authentication={"type": "sas", "symmetricKey": keys},
    )
    client = connected(cloud, ending, client_id)
    answer_methods(client)

    client.send_message_to_output(Message("out"), "alerts")
    client.send_message(Message("plain"))
    client.patch_twin_reported_properties({"of": module})
    result = cloud.call(cloud.hub.invoke_method(Identity("edge1", module), "hi", {"x": 1}))

    assert [event.identity.id for event in events(cloud)] == [client_id] * 2
    assert events(cloud)[0].telemetry.system_properties["outputName"] == "alerts"
    assert result.payload == {"name": "hi", "payload": {"x": 1}}
    assert client.get_twin()["reported"]["of"] == module
    assert "of" not in cloud.call(cloud.hub.device_twin(Identity("edge1")))["reported"]


@pytest.mark.parametrize("proof", ["its thumbprint", "a CA", "a CA between"])
def test_a_device_with_a_certificate(cloud: Cloud, ending: ExitStack, tmp_path: Path, proof: str) -> None:
    from azure.iot.device import X509, IoTHubDeviceClient

    root = make_signer("root")
    if proof == "its thumbprint":
        shown = make_client(tmp_path, "leaf")
        from hashlib import sha256

        thumbprint = sha256(shown.ders[0]).hexdigest()
        authentication = {
            "type": "selfSigned",
            "x509Thumbprint": {"primaryThumbprint": thumbprint, "secondaryThumbprint": thumbprint},
        }
    else:
        shown = make_client(tmp_path, "leaf", signer=root, sent_along=[root] if "between" in proof else [])
        authentication = {"type": "certificateAuthority"}
        der = root.certificate.public_bytes(Encoding.DER)
        cloud.call(cloud.hub.save_document("authority", "root", {"der": der}))
    cloud.create("leaf", authentication=authentication)
    client = IoTHubDeviceClient.create_from_x509_certificate(
        X509(str(shown.certificate_file), str(shown.key_file)),
        hostname=cloud.address,
        device_id="leaf",
        server_verification_cert=cloud.ca_file.read_text(),
    )
    ending.callback(client.shutdown)

    client.send_message("with a certificate")

    (event,) = events(cloud)
    assert event.identity.id == "leaf"
    assert json.loads(event.auth_method)["type"].startswith("x509")


def test_a_certificate_that_is_not_the_registered_one_is_refused(
    cloud: Cloud, ending: ExitStack, tmp_path: Path
) -> None:
    from azure.iot.device import X509, IoTHubDeviceClient
    from azure.iot.device.exceptions import CredentialError

    shown = make_client(tmp_path, "leaf")
    prints = {"primaryThumbprint": "0" * 64, "secondaryThumbprint": "1" * 64}
    cloud.create("leaf", authentication={"type": "selfSigned", "x509Thumbprint": prints})
    client = IoTHubDeviceClient.create_from_x509_certificate(
        X509(str(shown.certificate_file), str(shown.key_file)),
        hostname=cloud.address,
        device_id="leaf",
        server_verification_cert=cloud.ca_file.read_text(),
    )
    ending.callback(client.shutdown)

    with pytest.raises(CredentialError):
        client.connect()


def test_another_key_is_refused_for_good(cloud: Cloud, ending: ExitStack) -> None:
    from azure.iot.device.exceptions import CredentialError

    cloud.create("d2")
    theirs = cloud.connection_string("d1").replace(cloud.key("d1"), cloud.key("d2"))
    from azure.iot.device import IoTHubDeviceClient

    client = IoTHubDeviceClient.create_from_connection_string(
        theirs, server_verification_cert=cloud.ca_file.read_text()
    )
    ending.callback(client.shutdown)

    with pytest.raises(CredentialError):
        client.connect()


def test_over_web_sockets_everything_works_as_over_tcp(cloud: Cloud, ending: ExitStack) -> None:
    client = connected(cloud, ending, websockets=True)
    answer_methods(client)

    client.send_message("x" * 200_000)
    client.patch_twin_reported_properties({"by": "web socket"})
    result = cloud.call(cloud.hub.invoke_method(D1, "ping", 1))

    assert len(events(cloud)[0].telemetry.body) == 200_000
    assert client.get_twin()["reported"]["by"] == "web socket"
    assert result.payload == {"name": "ping", "payload": 1}


def test_a_disabled_device_is_cut_off_and_comes_back_when_it_is_enabled(
    cloud: Cloud, ending: ExitStack
) -> None:
    from azure.iot.device.exceptions import CredentialError

    client = connected(cloud, ending, connection_retry=False)
    gone = threading.Event()
    client.on_connection_state_change = lambda: None if client.connected else gone.set()

    cloud.call(cloud.hub.put(D1, {"status": "disabled", "statusReason": "test"}, if_match="*"))

    assert gone.wait(LIMIT_S)
    with pytest.raises(CredentialError):
        client.connect()
    cloud.call(cloud.hub.put(D1, {"status": "enabled"}, if_match="*"))
    client.connect()
    client.send_message("back")
    assert [event.telemetry.body for event in events(cloud)] == [b"back"]


def test_a_renewed_token_keeps_what_the_client_listens_for(cloud: Cloud, ending: ExitStack) -> None:
    # The SDK renews two minutes before the end, and does not subscribe again.
    client = connected(cloud, ending, sastoken_ttl=122)
    answer_methods(client)
    renewed: list[bool] = []
    client.on_connection_state_change = lambda: renewed.append(client.connected)

    wait_until(lambda: renewed[-1:] == [True], "the renewal")

    assert cloud.call(cloud.hub.invoke_method(D1, "m", None, connect_timeout_s=10)).status == 201


def test_nothing_acknowledged_is_lost_by_a_kill_and_the_client_goes_on(
    cloud: Cloud, ending: ExitStack
) -> None:
    cloud.stop()
    cloud.start_process()
    client = connected(cloud, ending, connection_retry_interval=1)
    answer_methods(client)
    acknowledged: list[int] = []
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            try:
                client.send_message(str(number))
            except Exception:  # noqa: BLE001 - not acknowledged, then; the same number goes again
                continue
            acknowledged.append(number)
            number += 1

    client.patch_twin_reported_properties({"before": 1})
    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    for _ in range(3):
        so_far = len(acknowledged)
        wait_until(lambda at=so_far: len(acknowledged) >= at + 200, "messages", 60)  # type: ignore[misc]
        cloud.kill_process()
        cloud.start_process()
    so_far = len(acknowledged)
    wait_until(lambda: len(acknowledged) >= so_far + 50, "messages after the last kill", 60)
    stop.set()
    publisher.join(60)
    client.patch_twin_reported_properties({"after": 2})
    cloud.kill_process()
    cloud.start()

    stored = [int(event.telemetry.body) for event in _all_events(cloud)]
    assert set(acknowledged) <= set(stored)
    assert list(dict.fromkeys(stored)) == sorted(set(stored))  # in order, but for repetitions
    reported = cloud.call(cloud.hub.device_twin(D1))["reported"]
    assert (reported["before"], reported["after"]) == (1, 2)
    # It subscribed once, three hubs ago.
    result = cloud.call(cloud.hub.invoke_method(D1, "m", None, connect_timeout_s=20))
    assert result.status == 201


def _all_events(cloud: Cloud) -> list[Event]:
    found: list[Event] = []
    while more := cloud.call(cloud.hub.events(found[-1].sequence_number if found else 0)):
        found += more
    return found
