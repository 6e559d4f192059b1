"""Unmodified SDKs over WebSocket on port 443 at the real hub process, and both ports through its troubles."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from actors.addresses import HUB
from actors.hub.config import CertificateChanged
from messaging.client import Client
from messaging.lifecycle import Describe, Described
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate
from tests.integration.hub_process import DEVICE, HubProcess
from tests.integration.node_sdk import NodeProgram
from tests.integration.sdk_clients import (
    SDK_PORT,
    SdkConsumer,
    SdkPublisher,
    loopback_address,
    once,
    sdk_client,
)

WEB_PORT = 443  # the SDKs' own, not to be changed
REPLACEMENTS = 20
ROUTES = {
    "in": 'FROM /messages/modules/a/* INTO BrokeredEndpoint("/modules/filter/inputs/in")',
    "filter": "FROM /messages/modules/filter/* INTO $upstream",
    "leaf": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream",
}


def may_bind_443() -> bool:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((loopback_address(), WEB_PORT))
    except OSError:
        return False
    return True


needs_443 = pytest.mark.skipif(not may_bind_443(), reason="port 443 is not permitted to this user")
pytestmark = needs_443


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    made = HubProcess(
        ROUTES,
        modules=("a", "filter"),
        devices=("leaf",),
        address=loopback_address(),
        port=SDK_PORT,
        web_port=WEB_PORT,
    )
    with made:
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_python_sdk_sends_and_receives_over_websocket(hub: HubProcess, ending: ExitStack) -> None:
    filtering, sensor = (
        SdkConsumer(hub, "edge1/filter", websockets=True),
        sdk_client(hub, "edge1/a", websockets=True),
    )
    leaf = sdk_client(hub, "leaf", websockets=True)
    for client in (filtering.client, sensor, leaf):
        ending.callback(client.shutdown)
    filtering.start()

    for number in range(20):
        sensor.send_message_to_output(str(number), "out")
        leaf.send_message("x" * 200_000 if number == 10 else f"leaf {number}")

    filtering.wait_for("a", 19)
    assert filtering.numbers_of("a") == list(range(20))
    assert len(hub.upstream(20)) == 20
    assert not hub.wait_for_log(f":{WEB_PORT}")[1:]  # only that it listens there


def test_node_sdk_sends_and_receives_over_websocket(hub: HubProcess, ending: ExitStack) -> None:
    sensor = sdk_client(hub, "edge1/a")
    ending.callback(sensor.shutdown)
    with (
        NodeProgram("web_socket.js", hub.connection_string("edge1/filter"), str(hub.ca_file), "20") as module,
        NodeProgram("web_socket.js", hub.connection_string("leaf"), str(hub.ca_file), "20") as device,
    ):
        assert [device.next(), device.next()] == ["open", "sent"]
        assert [module.next(), module.next()] == ["open", "sent"]
        sensor.send_message_to_output("to Node", "out")
        assert module.next() == {"input": "in", "data": "to Node"}

    assert len(hub.upstream(40)) == 40


def test_clients_on_both_ports_outlive_a_killed_hub(hub: HubProcess, ending: ExitStack) -> None:
    by_web = SdkPublisher(hub, "edge1/filter", 20, websockets=True)
    by_mqtt = SdkPublisher(hub, "leaf", 20)
    for publisher in (by_web, by_mqtt):
        ending.callback(publisher.client.shutdown)
        publisher.start()
        publisher.wait_for(10)

    hub.kill()
    hub.start()
    began_s = time.monotonic()
    for publisher in (by_web, by_mqtt):
        publisher.wait_for(len(publisher.acknowledged) + 20)
        assert publisher.first_after(began_s) - began_s < 5
        publisher.stop()

    for publisher, sender in ((by_web, "filter"), (by_mqtt, None)):
        came = hub.numbers_upstream(publisher.numbers()[-1], sender)
        assert set(publisher.numbers()) <= set(came)
        assert once(came) == sorted(once(came))


def _shown(hub: HubProcess, port: int) -> bytes:
    """Return the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(hub.ca_file))
    with (
        socket.create_connection((hub.address, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def test_server_certificate_is_replaced_under_load_and_no_client_is_dropped(
    hub: HubProcess, ending: ExitStack
) -> None:
    by_web = SdkPublisher(hub, "edge1/filter", 50, websockets=True)
    by_mqtt = SdkPublisher(hub, "leaf", 50)
    dropped: list[str] = []
    for name, publisher in (("web", by_web), ("mqtt", by_mqtt)):
        ending.callback(publisher.client.shutdown)
        publisher.start()
        publisher.wait_for(20)

        def note(name: str = name, publisher: SdkPublisher = publisher) -> None:
            if not publisher.client.connected:
                dropped.append(name)

        publisher.client.on_connection_state_change = note
    before = [_shown(hub, port) for port in (hub.port, hub.web_port)]
    replacements: set[bytes] = set()
    newcomers: list[bytes] = []
    enough = threading.Event()

    def knock() -> None:
        while not enough.is_set():
            newcomers.append(_shown(hub, hub.port))

    knocking = threading.Thread(target=knock)
    ending.callback(enough.set)
    knocking.start()

    for number in range(REPLACEMENTS):
        now_s = time.time()
        ca = ensure_edge_ca(hub.home, DEVICE, now_s)
        ensure_server_certificate(hub.home, ("localhost", hub.address, f"new{number}.example"), ca, now_s)
        with Client.outside(hub.run_dir) as client:
            client.tell(HUB, CertificateChanged())
            client.ask(HUB, Describe(), Described)  # handled after it
        replacements.add(_shown(hub, hub.port))
        for publisher in (by_web, by_mqtt):
            publisher.wait_for(len(publisher.acknowledged) + 5)

    enough.set()
    knocking.join()
    after = [_shown(hub, port) for port in (hub.port, hub.web_port)]
    for publisher in (by_web, by_mqtt):
        publisher.stop()
    assert before[0] == before[1] != after[0] == after[1]
    assert dropped == []
    assert by_web.errors == by_mqtt.errors == []
    assert len(set(newcomers)) > REPLACEMENTS / 2  # a handshake that failed would have ended their thread
    assert len(replacements - set(before)) == REPLACEMENTS
    assert len(hub.upstream(len(by_web.acknowledged) + len(by_mqtt.acknowledged))) == len(
        by_web.acknowledged
    ) + len(by_mqtt.acknowledged)


def test_refused_client_is_told_so_before_the_connection_ends(hub: HubProcess) -> None:
    from azure.iot.device import IoTHubDeviceClient
    from azure.iot.device.exceptions import CredentialError

    good = hub.connection_string("leaf").split(";")
    key = base64.b64encode(bytes(32)).decode()
    bad = ";".join(f"SharedAccessKey={key}" if part.startswith("SharedAccessKey=") else part for part in good)
    client = IoTHubDeviceClient.create_from_connection_string(
        bad, server_verification_cert=hub.ca_file.read_text(), websockets=True
    )
    try:
        with pytest.raises(CredentialError):
            client.connect()
    finally:
        client.shutdown()


@pytest.mark.parametrize(
    "request_line", ["GET / HTTP/1.1", "POST /nothing/here?api-version=2021-04-12 HTTP/1.1"]
)
def test_unknown_path_is_answered_with_404(hub: HubProcess, request_line: str) -> None:
    context = ssl.create_default_context(cafile=str(hub.ca_file))
    with (
        socket.create_connection((hub.address, hub.web_port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(f"{request_line}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tls.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["message"]
