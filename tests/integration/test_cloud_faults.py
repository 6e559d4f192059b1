"""What a connection to the cloud tells when it cannot be made or is ended: state, reason and way out."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from actors.upstream.connection import CloudAccess, CloudFault, Fault
from actors.upstream.protocol import UpstreamProtocol
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import Message
from runtime.faults.line import Line
from runtime.security.certificates import ensure_named_ca, ensure_server_certificate
from runtime.upstream.connections import UpstreamConnections
from runtime.upstream.shared import CloudTimes
from tests.fakes.cloud_observer import ObservedConnection
from tests.integration.cloud_worlds import PORTS, StandInWorld, connect
from tests.integration.sdk_clients import loopback_address

DAY_S = 86_400


@pytest.fixture(params=PORTS, ids=str)
def protocol(request: pytest.FixtureRequest) -> UpstreamProtocol:
    chosen: UpstreamProtocol = request.param
    return chosen


@pytest.fixture
def world(protocol: UpstreamProtocol) -> Iterator[StandInWorld]:
    with StandInWorld(protocol=protocol) as stand_in:
        yield stand_in


def fault_of(connections: UpstreamConnections, access: CloudAccess) -> CloudFault:
    """Return with what opening ends."""
    observer = ObservedConnection()
    connection = connections.make(access, observer)
    connection.open()
    (fault,) = observer.next("lost")
    assert isinstance(fault, CloudFault)
    return fault


@pytest.mark.parametrize(
    ("client_id", "key"),
    [
        pytest.param("d1", base64.b64encode(bytes(32)), id="wrong key"),
        pytest.param("nobody", base64.b64encode(bytes(32)), id="unknown device"),
        pytest.param("d1/nothing", base64.b64encode(bytes(32)), id="unknown module"),
    ],
)
def test_who_is_not_let_in_is_told_what_to_look_at(world: StandInWorld, client_id: str, key: bytes) -> None:
    access = replace(world.access("d1"), identity=Identity.parse(client_id), key=Secret(key))

    fault = fault_of(world.connections, access)

    assert (fault.kind, fault.status) == (Fault.UNAUTHORIZED, 401)
    assert f"'{client_id}'" in fault.reason
    assert "key is wrong" in fault.reason
    assert key.decode() not in fault.reason


def test_a_key_that_is_not_base64_is_no_key(world: StandInWorld) -> None:
    fault = fault_of(world.connections, replace(world.access("d1"), key=Secret(b"no key\xff")))

    reason = "the key of 'd1' cannot be used: a shared access key is not base64; see the IoT Hub for it"
    assert fault == CloudFault(Fault.UNAUTHORIZED, reason)


def test_a_device_that_is_deleted_while_connected_hears_of_it_when_it_comes_back(world: StandInWorld) -> None:
    connection, observer = connect(world, "d2")
    connection.send(1, Message("/", {}, {}, b"1"))
    observer.next("done")

    world.cloud.call(world.cloud.hub.delete(Identity("d2")))
    (lost,) = observer.next("lost")
    connection.open()
    (fault,) = observer.next("lost")

    assert lost.kind is (Fault.UNAUTHORIZED if world.protocol.is_amqp else Fault.UNREACHABLE)
    assert fault.kind is Fault.UNAUTHORIZED
    assert "does not exist" in fault.reason


@dataclass(frozen=True, slots=True)
class _ClockOff:
    """Implements `Clock`: the machine's, and so many seconds more."""

    seconds: float

    def now_s(self) -> float:
        return time.time() + self.seconds

    def monotonic_s(self) -> float:
        return time.monotonic()

    def steady_s(self) -> float:
        return self.now_s()


def test_a_clock_that_is_a_day_behind_is_told_from_a_wrong_key(world: StandInWorld) -> None:
    connections = UpstreamConnections(world.protocol, clock=_ClockOff(-DAY_S))
    access = replace(world.access("d1"), host_name=world.cloud.address)

    with closing(connections):
        fault = fault_of(connections, access)

    assert (fault.kind, fault.status) == (Fault.CLOCK, 401)
    assert re.search(r"clock of this machine is 2[34]\.\d hours behind the cloud's; set it", fault.reason)


def test_a_clock_that_is_a_day_ahead_does_no_harm(world: StandInWorld) -> None:
    connections = UpstreamConnections(world.protocol, clock=_ClockOff(DAY_S))
    observer = ObservedConnection()

    with closing(connections):
        connections.make(world.access("d1"), observer).open()
        observer.next("connected")


def test_a_name_that_does_not_resolve_is_named(world: StandInWorld) -> None:
    fault = fault_of(world.connections, replace(world.access("d1"), host_name="no-such-hub.invalid"))

    assert fault.kind is Fault.UNREACHABLE
    assert "'no-such-hub.invalid' cannot be resolved" in fault.reason


def test_a_port_where_nothing_listens_is_named(world: StandInWorld) -> None:
    world.cut()

    fault = fault_of(world.connections, world.access("d1"))

    assert fault.kind is Fault.UNREACHABLE
    assert (
        fault.reason == f"nothing listens at '{world.host_name}:{PORTS[world.protocol]}' (connection refused)"
    )


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(world: StandInWorld) -> None:
    fault = fault_of(world.connections, replace(world.access("d1"), ca_pem=""))

    assert fault.kind is Fault.UNTRUSTED
    assert "is not trusted" in fault.reason
    assert "name its ca.pem with the setting cloud.ca" in fault.reason


def test_a_certificate_for_another_name_is_not_trusted(world: StandInWorld) -> None:
    other = loopback_address()
    port = PORTS[world.protocol]
    with Line((other, port), (world.cloud.address, port)):
        fault = fault_of(world.connections, replace(world.access("d1"), host_name=other))

    assert fault.kind is Fault.UNTRUSTED
    assert "is for another name" in fault.reason


@pytest.mark.parametrize(
    ("issued_days_ago", "expected"),
    [
        pytest.param(60, "has expired", id="expired"),
        pytest.param(-30, "is not valid yet", id="not yet valid"),
    ],
)
def test_a_certificate_out_of_its_time_points_to_the_clock(
    tmp_path: Path, protocol: UpstreamProtocol, issued_days_ago: int, expected: str
) -> None:
    address = loopback_address()
    with (
        closing(UpstreamConnections(protocol)) as connections,
        _tls_server(tmp_path, (address, PORTS[protocol]), issued_days_ago) as ca_pem,
    ):
        access = CloudAccess(Identity("d1"), address, Secret(b"a2V5"), ca_pem)
        fault = fault_of(connections, access)

    assert fault.kind is Fault.CLOCK
    assert expected in fault.reason
    assert "check the clock of this machine" in fault.reason


def test_what_does_not_speak_tls_is_no_iot_hub(protocol: UpstreamProtocol) -> None:
    address = loopback_address()
    with (
        closing(UpstreamConnections(protocol)) as connections,
        _answering((address, PORTS[protocol]), b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ):
        fault = fault_of(connections, CloudAccess(Identity("d1"), address, Secret(b"a2V5")))

    assert fault.kind is Fault.UNTRUSTED
    assert "is it an IoT Hub?" in fault.reason


def test_a_ca_that_is_no_certificate_is_named(world: StandInWorld) -> None:
    fault = fault_of(world.connections, replace(world.access("d1"), ca_pem="not PEM"))

    assert fault.kind is Fault.UNTRUSTED
    assert "no certificate in PEM" in fault.reason


def test_a_host_that_accepts_and_never_answers_is_given_up(protocol: UpstreamProtocol) -> None:
    address = loopback_address()
    connections = UpstreamConnections(protocol, CloudTimes(open_s=0.5))
    with closing(connections), _answering((address, PORTS[protocol]), b""):
        fault = fault_of(connections, CloudAccess(Identity("d1"), address, Secret(b"a2V5")))

    assert fault.kind is Fault.UNREACHABLE
    assert "has not answered" in fault.reason
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cloud-")]


@contextmanager
def _answering(place: tuple[str, int], answer: bytes) -> Iterator[None]:
    """Accept connections, say something, and keep them open."""
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            kept.append(accepted)
            accepted.sendall(answer)

    with socket.create_server(place) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for each in kept:
        each.close()


@contextmanager
def _tls_server(folder: Path, place: tuple[str, int], issued_days_ago: int) -> Iterator[str]:
    """Serve TLS with a certificate that is valid for 30 days from then on; gives its CA."""
    issued_s = time.time() - issued_days_ago * DAY_S
    ca = ensure_named_ca(folder, "test", (place[0],), time.time() - 90 * DAY_S, 365)
    chain = ensure_server_certificate(folder, (place[0],), ca, issued_s, 30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain.path)

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            with accepted:
                try:
                    context.wrap_socket(accepted, server_side=True).close()
                except OSError:
                    pass  # the client does not want it

    with socket.create_server(place) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield ca.certificate_pem
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
