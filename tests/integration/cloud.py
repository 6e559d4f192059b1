"""The IoT Hub stand-in on real sockets with TLS: in a thread of the test, or in a process to be killed."""

from __future__ import annotations

import asyncio
import base64
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from messaging import sas
from messaging.clock import SystemClock
from messaging.identity import Identity
from runtime.config.listen_addresses import parse_address
from runtime.iothub.amqp.server import AmqpServer
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.cloud_process import CA_VALID_DAYS, SERVER_VALID_DAYS
from runtime.iothub.cloud_settings import read_cloud_settings
from runtime.iothub.hub import IotHub
from runtime.iothub.mqtt.server import MqttServer
from runtime.net.http_messages import Response, error_response
from runtime.net.listening_sockets import bind
from runtime.net.stream_listener import StreamListener
from runtime.net.tls_server import ServerCertificate
from runtime.net.web_listener import AMQP, MQTT, WebListener, WebRequest
from runtime.security.certificates import SERVER_FILE, ensure_named_ca, ensure_server_certificate
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT_S: Final = 20.0
MQTT_PORT: Final = 8883  # the SDKs' own, not to be changed
AMQP_PORT: Final = 5671
WEB_PORT: Final = 443
T = TypeVar("T")


class Serving:
    """A hub with its servers on one address, on the loop that it is made in."""

    def __init__(self, hub: IotHub, folder: Path, address: str) -> None:
        certificate = folder / "certificates" / SERVER_FILE
        self.hub = hub
        ports = (MQTT_PORT, AMQP_PORT, WEB_PORT)
        self._sockets = bind([parse_address(f"{address}:{port}") for port in ports])
        self.server = MqttServer(hub)
        self._amqp = AmqpServer(hub, SystemClock())
        tls = ServerCertificate(str(certificate), str(certificate))
        mqtt = StreamListener("MQTT", self._sockets[:1], [], tls)
        amqp = StreamListener("AMQP", self._sockets[1:2], [], tls)
        web = WebListener(self._sockets[2:], tls, _no_requests, subprotocols=(MQTT, AMQP))
        self._listeners: list[StreamListener | WebListener] = [mqtt, amqp, web]
        self.server.open()
        self._amqp.open()
        mqtt.open(self.server)
        amqp.open(self._amqp)
        web.open_part(MQTT, self.server)
        web.open_part(AMQP, self._amqp)

    @classmethod
    async def start(cls, folder: Path, address: str, name: str) -> Serving:
        """Open the hub in `folder`, for which `make_home` was called, and serve."""
        return cls(await IotHub.open(folder, name, (address,)), folder, address)

    async def stop(self) -> None:
        """Stop in order."""
        for listener in self._listeners:
            listener.close()
        self.server.close()
        self._amqp.close()
        await self.hub.close()
        for listening in self._sockets:
            listening.close()


async def _no_requests(request: WebRequest) -> Response:
    return error_response(404, f"{request.target} is not served by this test")


def make_home(address: str, name: str) -> CloudHome:
    """Return a home with the certificates that a stand-in of this address and name makes for itself."""
    home = CloudHome.in_home(Path(tempfile.mkdtemp(prefix="ea-cloud-")))
    settings = read_cloud_settings([address], [name])
    ca = ensure_named_ca(home.certificates, "edge-actors cloud", settings.names, time.time(), CA_VALID_DAYS)
    ensure_server_certificate(home.certificates, settings.names, ca, time.time(), SERVER_VALID_DAYS)
    home.ca.write_text(ca.certificate_pem)
    return home


class Cloud:
    """The stand-in in a thread of its own; the test plays the service side with `call`.

    `with Cloud(address) as cloud` starts it and removes everything at the end.

    Args:
        address: Where it listens.
        name: What clients call it, when that is another address, such as that of a `Line` to it.
    """

    def __init__(self, address: str, name: str = "") -> None:
        self.address = address
        self.name = name or address
        self.home = make_home(address, self.name)
        self.ca_file = self.home.ca
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cloud", daemon=True)
        self._serving: Serving | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keys: dict[str, bytes] = {}

    def __enter__(self) -> Cloud:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill_process()
        if self._serving is not None:
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()
        shutil.rmtree(self.home.path.parent, ignore_errors=True)

    @property
    def hub(self) -> IotHub:
        assert self._serving is not None
        return self._serving.hub

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the hub in its loop."""
        return self.start_call(work).result(LIMIT_S)

    def soon(self, work: Callable[[], object]) -> None:
        """Do something in its loop that is no coroutine."""
        self._loop.call_soon_threadsafe(work)

    def start_call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin something of the hub in its loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self) -> None:
        """Serve in the thread."""
        self._serving = self.call(Serving.start(self.home.path, self.address, self.name))

    def stop(self) -> None:
        """Stop serving, with everybody who is connected."""
        assert self._serving is not None
        self.call(self._serving.stop())
        self._serving = None

    # in a process

    def start_process(self) -> None:
        """Serve the same home in a process of its own; the one in the thread has to be stopped."""
        home = str(self.home.path.parent)
        command = [sys.executable, "-m", "runtime.cli.main", "cloud", "run"]
        self._process = subprocess.Popen(
            [*command, "--home", home, "--listen", self.address, "--host", self.name],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        started = self._process

        def serves(port: int) -> bool:
            try:
                socket.create_connection((self.address, port), timeout=LIMIT_S).close()
            except ConnectionRefusedError:
                assert started.poll() is None, "it ended"
                return False
            return True

        for port in (MQTT_PORT, AMQP_PORT):
            wait_until(partial(serves, port), f"it serves port {port}", LIMIT_S)

    def kill_process(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(LIMIT_S)
        self._process = None

    # identities

    def create(self, client_id: str, *, if_match: str | None = None, **wanted: Any) -> None:
        """Register a device or module, or update one; with keys unless something else is wanted."""
        registered = self.call(self.hub.put(Identity.parse(client_id), wanted, if_match))
        self._keys[client_id] = base64.b64decode(registered.authentication.primary_key)

    def key(self, client_id: str) -> str:
        """Return the primary key of an identity."""
        return base64.b64encode(self._keys[client_id]).decode()

    def token(self, client_id: str, life_s: float = 3600) -> str:
        """Return a fresh token for an identity."""
        audience = sas.audience_of(self.name, Identity.parse(client_id))
        return sas.make_token(audience, self._keys[client_id], int(time.time() + life_s))

    def user_name(self, client_id: str) -> str:
        """Return the MQTT user name of an identity."""
        return f"{self.name}/{client_id}/?api-version=2021-04-12"

    def connection_string(self, client_id: str) -> str:
        """Return the connection string of an identity."""
        identity = Identity.parse(client_id)
        module = f"ModuleId={identity.module_id};" if identity.module_id else ""
        return (
            f"HostName={self.name};DeviceId={identity.device_id};{module}"
            f"SharedAccessKey={self.key(client_id)}"
        )
