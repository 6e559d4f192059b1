"""The stand-in as a process: `edge-actors cloud run`.

In this order, so that a mistake of the user's is told before anything runs: run directory and lock, sockets,
certificates, then the hub and what serves it, all on one event loop. The command line reaches REST by a Unix
socket in the run directory, so that it works whatever ports and names there are.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from msgspec import Struct

from actors.heads.admission import Admission
from messaging import sas
from messaging.clock import Clock, SystemClock
from messaging.errors import AuthError, EdgeError, EnvironmentFault
from runtime.iothub.cloud_home import CloudHome, Serving
from runtime.iothub.cloud_settings import CloudSettings
from runtime.iothub.dps_api import DpsApi
from runtime.iothub.hub import IotHub
from runtime.iothub.mqtt.front import MqttFront
from runtime.iothub.mqtt.provisioning import DpsMqtt
from runtime.iothub.mqtt.server import MqttServer
from runtime.iothub.policies import Permission
from runtime.iothub.provisioning import Provisioning
from runtime.iothub.rest.api import RestApi
from runtime.iothub.telemetry_file import TelemetryFile
from runtime.net import amqp_engine, listening_sockets
from runtime.net.http_messages import Response
from runtime.net.listening_sockets import address_of
from runtime.net.stream_listener import StreamListener
from runtime.net.tcp_listener import Visit, most_connections
from runtime.net.tls_server import ServerCertificate
from runtime.net.web_listener import (
    AMQP,
    MQTT,
    HandleRequest,
    WebConnection,
    WebLimits,
    WebListener,
    WebRequest,
)
from runtime.run_directory import prepare_home
from runtime.security.certificates import EdgeCa, ensure_named_ca, ensure_server_certificate
from runtime.storage.atomic_file import make_private_folder, write_private_file

if TYPE_CHECKING:
    from runtime.iothub.amqp.server import AmqpServer

log = logging.getLogger(__name__)

DONE: Final = 0
CA_VALID_DAYS: Final = 3650  # clients are told to trust it once
SERVER_VALID_DAYS: Final = 365
LOOK_AT_CERTIFICATE_S: Final = 12 * 3600.0
STOP_LIMIT_S: Final = 10.0  # after that the process ends whatever still goes on
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LOCAL: Final = "127.0.0.1"  # as what the admission counts who comes by the Unix socket


class CloudSockets(Struct, frozen=True):
    """On what the stand-in listens."""

    mqtt: list[socket.socket]
    amqp: list[socket.socket]
    https: list[socket.socket]


def run_cloud(
    home: CloudHome, settings: CloudSettings, sockets: CloudSockets | None = None, copy: Path | None = None
) -> int:
    """Run the stand-in until SIGTERM or SIGINT. In the main thread: it takes the signals.

    Args:
        home: Where its state is.
        settings: Its names and addresses.
        sockets: On what it listens, if it need not bind that itself.
        copy: A file to which telemetry is written as well, if any.

    Raises:
        ConfigError: a file of the home is damaged; nothing runs.
        EnvironmentFault: port in use, another stand-in on this home, home not writable; nothing runs.
        StoreError: the database cannot be opened; nothing runs.
    """
    with ExitStack() as stack:
        umask = os.umask(0o077)
        stack.callback(os.umask, umask)
        home.run.prepare()
        lock = home.lock()
        lock.acquire()
        stack.callback(lock.release)
        if sockets is None:
            mqtt = listening_sockets.bind(settings.mqtt, "--mqtt-port")
            stack.callback(_close_all, mqtt)
            amqp = _bind_amqp(settings)
            stack.callback(_close_all, amqp)
            https = _bind_https(settings)
            stack.callback(_close_all, https)
            sockets = CloudSockets(mqtt, amqp, https)
        prepare_home(home.path)
        make_private_folder(home.path)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Cloud(home, settings, sockets, copy, SystemClock()).run())
    return DONE


class _Cloud:
    """What one run of the stand-in holds."""

    def __init__(
        self,
        home: CloudHome,
        settings: CloudSettings,
        sockets: CloudSockets,
        copy: Path | None,
        clock: Clock,
    ) -> None:
        self._home = home
        self._settings = settings
        self._mqtt = sockets.mqtt
        self._amqp = sockets.amqp
        self._https = sockets.https
        self._copy = copy
        self._clock = clock

    async def run(self) -> None:
        """Serve until a signal says to stop."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)
        server = str(self._ensure_server(self._ensure_ca()))
        certificate = ServerCertificate(server, server)
        async with AsyncExitStack() as stack:
            copy = None if self._copy is None else TelemetryFile(self._copy, self._home.database)
            if copy is not None:
                stack.push_async_callback(asyncio.to_thread, copy.close)  # when all is in the database
            hub = await IotHub.open(
                self._home.path, self._settings.host_name, self._settings.aliases, self._clock
            )
            stack.push_async_callback(hub.close)
            if copy is not None:
                hub.follow_telemetry(copy)
                copy.open()
            service = await Provisioning.open(hub, self._settings.host_name, self._clock)
            await stack.enter_async_context(self._serving(hub, service, certificate))
            renewal = asyncio.create_task(self._renew_for_ever(certificate))
            stack.callback(renewal.cancel)
            self._tell(service)
            gc.freeze()  # what is imported stays: the collector need not look at it again
            await stop.wait()
            log.info("IoT Hub '%s' is stopping", self._settings.host_name)
            # Whoever does not let go shall not keep the process: nothing acknowledged is lost by that.
            loop.call_later(STOP_LIMIT_S, os._exit, DONE)

    def _ensure_ca(self) -> EdgeCa:
        ca = ensure_named_ca(
            self._home.certificates, "edge-actors cloud", self._settings.names, time.time(), CA_VALID_DAYS
        )
        write_private_file(self._home.ca, ca.certificate_pem.encode("ascii"))
        return ca

    def _ensure_server(self, ca: EdgeCa) -> Path:
        names = self._settings.names
        return ensure_server_certificate(
            self._home.certificates, names, ca, time.time(), SERVER_VALID_DAYS
        ).path

    @asynccontextmanager
    async def _serving(
        self, hub: IotHub, service: Provisioning, certificate: ServerCertificate
    ) -> AsyncIterator[None]:
        devices = MqttServer(hub, self._clock)
        provisioning = DpsMqtt(service)
        front = MqttFront(devices, provisioning)
        amqp_server = _amqp_server(hub, self._clock)
        handle = _handler(hub, service)
        admission = Admission(most_connections())
        mqtt = StreamListener("MQTT", self._mqtt, (), certificate, admission)
        amqp = StreamListener("AMQP", self._amqp, (), certificate, admission)
        subprotocols = (MQTT,) if amqp_server is None else (MQTT, AMQP)
        web = WebListener(self._https, certificate, handle, admission, subprotocols=subprotocols)
        local = _LocalDoor(self._home.socket, handle, front)
        try:
            await local.open()
            devices.open()
            mqtt.open(front)
            web.open_part(MQTT, front)
            if amqp_server is not None:
                amqp_server.open()
                amqp.open(amqp_server)
                web.open_part(AMQP, amqp_server)
            yield
        finally:
            mqtt.close()
            amqp.close()
            web.close()
            local.close()
            front.close()
            devices.close()
            if amqp_server is not None:
                amqp_server.close()
            provisioning.close()

    def _tell(self, service: Provisioning) -> None:
        settings = self._settings
        serving = Serving(
            settings.host_name,
            [str(address_of(listener)) for listener in self._mqtt],
            [str(address_of(listener)) for listener in self._https],
            address_of(self._https[0]).port if self._https else settings.https_port,
            service.id_scope,
            [str(address_of(listener)) for listener in self._amqp],
        )
        self._home.say_serving(serving)
        if not settings.is_loopback:
            log.warning("listening beyond this machine: %s", ", ".join(settings.addresses))
        log.info("IoT Hub '%s', id scope %s, home %s", serving.host_name, service.id_scope, self._home.path)
        log.info("clients need this CA: %s", self._home.ca)

    async def _renew_for_ever(self, certificate: ServerCertificate) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_CERTIFICATE_S)
            try:
                self._ensure_server(self._ensure_ca())
                certificate.load()
            except (EdgeError, OSError) as exc:  # the one before is in use until it expires
                log.error("the server certificate could not be renewed: %s", exc)


def authorize(hub: IotHub, token: str, path: str, changes: bool) -> None:
    """Return when a token lets a service read enrollments, or change them.

    Raises:
        AuthError: it does not.
    """
    if not token:
        raise AuthError("the header Authorization is missing")
    sent = sas.parse_token(token)
    policy = hub.policies.find(sent.key_name)
    sas.check_resource(sent, policy.keys, policy.name, path, hub.hosts, hub.clock.now_s())
    if (Permission.REGISTRY_WRITE if changes else Permission.REGISTRY_READ) not in policy.permissions:
        raise AuthError(f"the shared access policy '{policy.name}' does not allow this")


def _handler(hub: IotHub, service: Provisioning) -> HandleRequest:
    """Return what answers a request: the hub's REST, or the provisioning service's."""
    rest = RestApi(hub)
    dps = DpsApi(service, lambda token, path, changes: authorize(hub, token, path, changes))

    async def handle(request: WebRequest) -> Response:
        answer = dps.answer if dps.serves(request.target) else rest.handle
        return await answer(request)

    return handle


class _LocalDoor:
    """Serves the command line by a Unix socket, in a folder that is its owner's alone."""

    def __init__(self, path: Path, handle: HandleRequest, front: MqttFront) -> None:
        self._path = path
        self._handle = handle
        self._front = front
        self._admission = Admission()
        self._asking: set[WebConnection] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. What a run that was killed has left there goes; the lock says that it has ended."""
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connection, str(self._path))

    def close(self) -> None:
        """Hang up and listen no more."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._asking):
            connection.close()
        self._path.unlink(missing_ok=True)

    def _connection(self) -> WebConnection:
        self._admission.enter(LOCAL)
        visit = Visit(self._admission, LOCAL, 0)
        visit.authenticated()
        return WebConnection(self._handle, {MQTT: self._front}, visit, WebLimits(), self._asking)


def _bind_amqp(settings: CloudSettings) -> list[socket.socket]:
    """Return the sockets for AMQP; none, and a line that says why, where it cannot be had."""
    if amqp_engine.is_installed():
        return listening_sockets.bind(settings.amqp, "--amqp-port")
    log.warning("no AMQP: %s", amqp_engine.WAY_OUT)
    return []


def _amqp_server(hub: IotHub, clock: Clock) -> AmqpServer | None:
    if not amqp_engine.is_installed():
        return None
    from runtime.iothub.amqp.server import AmqpServer

    return AmqpServer(hub, clock)


def _bind_https(settings: CloudSettings) -> list[socket.socket]:
    """Return the sockets for HTTPS; none, and a line that says why, when that port is not permitted."""
    try:
        return listening_sockets.bind(settings.https, "--https-port")
    except EnvironmentFault as exc:
        cause = exc.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EACCES:
            raise
        log.warning(
            "no HTTPS (REST for SDKs, provisioning over HTTP, WebSocket): port %d is not permitted "
            "to this user; `sudo sysctl net.ipv4.ip_unprivileged_port_start=%d` permits it, "
            "or take another one: --https-port 8443",
            settings.https_port,
            settings.https_port,
        )
        return []


def _close_all(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        listener.close()
