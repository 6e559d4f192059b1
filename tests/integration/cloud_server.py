"""An IoT Hub stand-in on a thread of its own, with the REST API, and AMQP if wanted, on real TLS ports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from actors.heads.admission import Admission
from runtime.config.listen_addresses import parse_address
from runtime.iothub.amqp.server import AmqpServer
from runtime.iothub.hub import IotHub
from runtime.iothub.rest.api import RestApi
from runtime.net.listening_sockets import bind
from runtime.net.stream_listener import StreamListener
from runtime.net.tls_server import ServerCertificate
from runtime.net.web_listener import AMQP, MQTT, WebListener
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate
from tests.runtime.iothub.fakes import FakeDevice
from tests.runtime.web_client import EchoHandler

LIMIT_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CloudServer:
    """What a test needs to know of a running stand-in."""

    hub: IotHub
    loop: asyncio.AbstractEventLoop
    address: str
    port: int
    ca_file: Path

    @property
    def host(self) -> str:
        """As it stands in HostName."""
        return self.address if self.port == 443 else f"{self.address}:{self.port}"

    def connection_string(self, policy: str = "iothubowner") -> str:
        return self.hub.policies.connection_string(self.host, policy)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop of the hub."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LIMIT_S)

    def answering_device(self, device_id: str, module_id: str | None = None) -> None:
        """Connect a device that answers each direct method with its name and payload, status 207."""
        self.run(AnsweringDevice.connect(self.hub, device_id, module_id))


class AnsweringDevice(FakeDevice):
    """A device whose methods all work."""

    def method(self, request_id: str, name: str, payload: bytes) -> None:
        answer = b'{"name":"%s","payload":%s}' % (name.encode(), payload)
        asyncio.get_running_loop().call_soon(self.hub.method_answered, self.grant, request_id, 207, answer)


@contextmanager
def cloud_server(
    folder: Path, address: str = "127.0.0.2", port: int = 0, *, amqp_port: int | None = None
) -> Iterator[CloudServer]:
    """Serve a stand-in with its home in `folder`; port 0 takes a free one, `amqp_port` None has no AMQP."""
    started = threading.Event()
    servers: list[CloudServer] = []
    stop: list[asyncio.Event] = []

    async def serve() -> None:
        now_s = time.time()
        ca = ensure_edge_ca(folder / "certificates", "cloud", now_s)
        (folder / "ca.pem").write_text(ca.certificate_pem)
        chain = ensure_server_certificate(folder / "certificates", (address,), ca, now_s)
        (listening,) = bind([parse_address(f"{address}:{port}")])
        hub = await IotHub.open(folder, address)
        certificate = ServerCertificate(str(chain.path), str(chain.path))
        listener = WebListener([listening], certificate, RestApi(hub).handle, subprotocols=(MQTT, AMQP))
        listener.open_part(MQTT, EchoHandler())
        amqp = AmqpServer(hub)
        amqp.open()
        listener.open_part(AMQP, amqp)
        amqp_listening = [] if amqp_port is None else bind([parse_address(f"{address}:{amqp_port}")])
        amqp_listener = StreamListener("AMQP", amqp_listening, (), certificate, Admission())
        amqp_listener.open(amqp)
        stop.append(asyncio.Event())
        servers.append(
            CloudServer(
                hub,
                asyncio.get_running_loop(),
                address,
                listening.getsockname()[1],
                folder / "ca.pem",
            )
        )
        started.set()
        await stop[0].wait()
        amqp_listener.close()
        listener.close()
        amqp.close()
        for each in (listening, *amqp_listening):
            each.close()
        await hub.close()

    def work() -> None:
        try:
            uvloop.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=work, name="stand-in")
    thread.start()
    try:
        assert started.wait(LIMIT_S)
        assert servers, "the stand-in did not start"
        yield servers[0]
    finally:
        if servers:
            servers[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(LIMIT_S)
