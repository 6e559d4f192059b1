"""What goes wrong between a device and a service of the cloud, and what is made of it."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from actors.upstream.connection import Fault
from runtime.net.https_client import MOST_BYTES, CloudError, HttpsClient, Service
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate

DAY_S = 86_400.0
LIMIT_S = 20.0


class Server:
    """Takes connections, reads one request of each and answers with these bytes; then closes, or goes on."""

    def __init__(self, folder: Path, *answers: bytes, name: str = "127.0.0.1", made_s: float = 0.0) -> None:
        now_s = made_s or time.time()
        self.ca = ensure_edge_ca(folder, "cloud", now_s).certificate_pem
        chain = ensure_server_certificate(folder, (name,), ensure_edge_ca(folder, "cloud", now_s), now_s).path
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(chain)
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def service(self) -> Service:
        return Service("127.0.0.1", self._listener.getsockname()[1], self.ca)

    def close(self) -> None:
        # Closing alone does not wake who waits in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LIMIT_S)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            plain.settimeout(LIMIT_S)
            try:
                with self._tls.wrap_socket(plain, server_side=True) as stream:
                    while self._answers and _has_request(stream):
                        answer = self._answers.pop(0)
                        stream.sendall(answer)
                        if b"Connection: close" in answer:
                            break
            except OSError:
                continue


def _has_request(stream: ssl.SSLSocket) -> bool:
    """Read one request with its body; False: the client is gone."""
    data = b""
    while (data := data + (read := stream.recv(65_536))) and read:
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if end and len(body) >= (int(length[1]) if length else 0):
            return True
    return False


def answer(status: str, body: bytes = b"", *headers: str, ends: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    if ends:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.close()


def fault_of(service: Service) -> tuple[Fault, str]:
    with HttpsClient(service) as client, pytest.raises(CloudError) as caught:
        client.call("GET", "/devices")
    return caught.value.fault.kind, caught.value.fault.reason


def test_an_answer_has_its_body_and_its_headers_in_small_letters(
    servers: list[Server], tmp_path: Path
) -> None:
    servers.append(Server(tmp_path, answer("200 OK", b'{"a":1}', "ETag: x")))

    with HttpsClient(servers[0].service) as client:
        got = client.call("PUT", "/d", {"b": 2})

    assert (got.status, got.body, got.headers["etag"]) == (200, {"a": 1}, "x")


def test_a_connection_is_used_again_and_made_again_when_the_other_side_closed_it(
    servers: list[Server], tmp_path: Path
) -> None:
    servers.append(Server(tmp_path, answer("204 X", ends=False), answer("204 X"), answer("204 X")))

    with HttpsClient(servers[0].service) as client:
        statuses = [client.call("GET", "/d").status for _ in range(3)]

    assert statuses == [204, 204, 204]
    assert servers[0].connections == 2


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        pytest.param(
            answer("401 X", b'{"Message":"ErrorCode:IotHubUnauthorized;wrong key"}'),
            Fault.UNAUTHORIZED,
            "answers 401 IotHubUnauthorized: wrong key",
            id="unauthorized",
        ),
        pytest.param(
            answer("401 X", b'{"Message":"expired 9 s ago"}'), Fault.CLOCK, "expired 9 s ago", id="expired"
        ),
        pytest.param(
            answer("401 X", b"", f"Date: {formatdate(time.time() + DAY_S, usegmt=True)}"),
            Fault.CLOCK,
            "answers 401",
            id="its clock is a day ahead",
        ),
        pytest.param(
            answer("403 X", b'{"Message":"ErrorCode:IotHubQuotaExceeded;used up"}'),
            Fault.QUOTA,
            "used up",
            id="quota",
        ),
        pytest.param(answer("429 X"), Fault.THROTTLED, "answers 429", id="throttled"),
        pytest.param(answer("404 X", b"not JSON"), Fault.REFUSED, "answers 404", id="not there"),
        pytest.param(answer("409 X", b'["a list"]'), Fault.REFUSED, "answers 409", id="in the way"),
        pytest.param(answer("500 X"), Fault.UNREACHABLE, "answers 500", id="server error"),
        pytest.param(answer("503 X"), Fault.UNREACHABLE, "answers 503", id="not available"),
        pytest.param(answer("302 X"), Fault.REFUSED, "answers 302", id="elsewhere"),
        pytest.param(
            answer("401 X", b'{"message":"a\\nforged line"}'),
            Fault.UNAUTHORIZED,
            r"a\nforged",
            id="line break",
        ),
        pytest.param(
            answer("200 X", b"<html>router</html>"), Fault.REFUSED, "not as an IoT Hub does", id="no hub"
        ),
        pytest.param(b"SSH-2.0-nobody\r\n\r\n", Fault.UNREACHABLE, "broke the connection", id="no HTTP"),
        pytest.param(
            f"HTTP/1.1 200 X\r\nContent-Length: {MOST_BYTES + 2}\r\nConnection: close\r\n\r\n".encode()
            + b" " * (MOST_BYTES + 2),
            Fault.REFUSED,
            "not as an IoT Hub does",
            id="without end",
        ),
    ],
)
def test_each_answer_that_is_none_is_told_apart(
    servers: list[Server], tmp_path: Path, reply: bytes, kind: Fault, said: str
) -> None:
    servers.append(Server(tmp_path, reply))

    found, reason = fault_of(servers[0].service)

    assert found is kind
    assert said in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("days", "name", "kind", "said"),
    [
        (-400, "127.0.0.1", Fault.CLOCK, "set the clock of this device"),
        (+10, "127.0.0.1", Fault.CLOCK, "is not yet valid"),
        (0, "other.example", Fault.UNTRUSTED, "is for another name; check the host name"),
    ],
    ids=["expired", "of tomorrow", "another name"],
)
def test_certificates_are_checked_and_the_reason_told(
    servers: list[Server], tmp_path: Path, days: float, name: str, kind: Fault, said: str
) -> None:
    servers.append(Server(tmp_path, answer("204 X"), name=name, made_s=time.time() + days * DAY_S))

    found, reason = fault_of(servers[0].service)

    assert found is kind
    assert said in reason


def test_a_certificate_of_an_unknown_authority_is_not_trusted(servers: list[Server], tmp_path: Path) -> None:
    servers.append(Server(tmp_path, answer("204 X")))
    service = servers[0].service

    found, reason = fault_of(Service(service.host, service.port))

    assert found is Fault.UNTRUSTED
    assert "name its ca.pem with the setting cloud.ca" in reason


def test_a_port_that_speaks_no_tls_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.sendall(b"220 mail\r\n" * 10)

        thread = threading.Thread(target=greet)
        thread.start()

        found, reason = fault_of(Service("127.0.0.1", listener.getsockname()[1]))

        thread.join(LIMIT_S)
    assert found is Fault.UNREACHABLE
    assert "does not speak TLS" in reason


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    found, reason = fault_of(Service("hub1", socket=tmp_path / "rest.sock"))

    assert found is Fault.UNREACHABLE
    assert "hub1 cannot be reached: No such file" in reason
