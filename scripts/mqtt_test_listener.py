"""The hub's MQTT broker on a port of this machine, for conformance suites: any client id, no password.

    python -m scripts.mqtt_test_listener --port 1883

It is the hub's own head, engine and databases; only who may connect, and what, is different: everybody may do
everything, but subscribe to `test/nosubscribe`. So it listens on 127.0.0.1 alone. What is kept for persistent
sessions is in a folder that goes with the process, or in `--directory`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvloop

from actors.addresses import (
    BROKER,
    HUB,
    HUB_CLIENT,
    IDENTITIES,
    METHODS,
    MQTT,
    ROUTER,
    STORE,
    TWINS,
    UPSTREAM,
)
from actors.broker.broker import BrokerActor
from actors.broker.hub_broker import HubBroker
from actors.heads.connected_clients import ConnectedClients
from actors.heads.mqtt_head import MqttHead
from actors.heads.mqtt_login import Login, Refusal
from actors.hub.client_services import ClientChanged, ClientGone, HeadStarted
from actors.hub.identity_messages import ACCEPTED, Authenticate, Verdict
from actors.hub.root import FRONT
from actors.hub.router import KeptRoutes, RouterActor
from actors.hub.trail import RoutingTrail, StorageTrail
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.kernel.root import RootActor
from actors.manifest.hub_environment import HubEnvironment
from actors.manifest.module_spec import EDGE_HUB
from actors.ports.connections import Listener
from actors.store.append_guard import AppendGuard
from actors.store.store import StoreActor
from messaging.broker.config import BrokerConfig
from messaging.broker.limits import DEFAULT_LIMITS, Limits
from messaging.broker.policy import ClientOfBroker, Operation, Policy
from messaging.clock import SystemClock
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.lifecycle import Stop
from messaging.mqtt.packets import Connect
from messaging.username import UserName
from messaging.zmq_bus import ZmqBus
from runtime.exit_codes import FAILED
from runtime.logs.levels import parse_levels
from runtime.logs.setup import log_to_stderr
from runtime.machine.process_end import end_at_once
from runtime.net.stream_listener import StreamListener
from runtime.storage.broker_db import BrokerDb
from runtime.storage.message_db import MessageDb

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
NOT_TO_SUBSCRIBE = "test/nosubscribe"
EVERYBODY = Identity("test-listener")
DAY_S = 24 * 3600.0


class OpenPolicy(Policy):
    """Everybody may do everything, but subscribe to one topic."""

    def __init__(self) -> None:
        super().__init__((), iothub_hostname=HOST, edge_device_id=EVERYBODY.id)

    def may(self, who: ClientOfBroker, operation: Operation, topic_or_filter: str = "") -> bool:
        return operation is not Operation.SUBSCRIBE or topic_or_filter != NOT_TO_SUBSCRIBE


class AnyClient(EdgeActor):
    """Judges everybody well."""

    def on_authenticate(self, message: Authenticate) -> None:
        self.reply(Verdict(message.identity, ACCEPTED, ""))


class NoService(EdgeActor):
    """In the place of twins, methods and the cloud: hears who is there, and does nothing."""

    def on_head_started(self, message: HeadStarted) -> None:
        pass

    def on_client_changed(self, message: ClientChanged) -> None:
        pass

    def on_client_gone(self, message: ClientGone) -> None:
        pass


def actors_of(
    listener: Listener, folder: Path, limits: Limits = DEFAULT_LIMITS, policy: Policy | None = None
) -> dict[str, Callable[[], EdgeActor]]:
    """Return what builds the actors that a client of the broker has to do with, in the order of their start.

    Args:
        listener: Where clients come from.
        folder: For the databases.
        limits: Of sessions and retained messages.
        policy: Who may do what; None: everybody everything, but subscribe to one topic.
    """
    broker = HubBroker(BrokerConfig(policy or OpenPolicy(), ()), limits)
    environment = HubEnvironment(max_keep_alive_timeout_s=DAY_S)
    connected = ConnectedClients()
    guard, routes = AppendGuard(), KeptRoutes((), None)
    nameless = itertools.count(1)

    def login(
        packet: Connect, certificates: tuple[bytes, ...], environment: HubEnvironment
    ) -> Login | Refusal:
        name = packet.client_id or f"nameless {next(nameless)}"
        return Login(name, UserName(EVERYBODY, ""), Authenticate(name, Secret(b""), ()))

    def mqtt() -> MqttHead:
        return MqttHead(
            listener,
            EVERYBODY.id,
            environment=environment,
            connected=connected,
            broker=broker,
            read_login=login,
        )

    def broker_actor() -> BrokerActor:
        return BrokerActor(
            EVERYBODY.id, broker, lambda: BrokerDb.open(folder / "broker.db"), lambda spec: broker.config
        )

    return {
        STORE: lambda: StoreActor(lambda: MessageDb.open(folder / "hub.db"), guard, StorageTrail()),
        IDENTITIES: AnyClient,
        ROUTER: lambda: RouterActor(EVERYBODY.id, STORE, routes, RoutingTrail()),
        UPSTREAM: NoService,
        TWINS: NoService,
        METHODS: NoService,
        HUB_CLIENT: NoService,
        BROKER: broker_actor,
        MQTT: mqtt,
    }


class ListenerRoot(RootActor):
    """Starts the actors of the listener, in order."""

    def __init__(self, listening: socket.socket, folder: Path, ready: Callable[[], None]) -> None:
        self._ready = ready
        actors = actors_of(StreamListener("MQTT", (), [listening], None), folder)
        super().__init__(
            [ChildSpec(address.removeprefix(f"{HUB}/"), build, FRONT) for address, build in actors.items()]
        )

    def all_started(self) -> None:
        self._ready()


def serve(port: int, folder: Path) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    listening = socket.create_server((HOST, port), backlog=1024)
    ended = threading.Event()
    failures: list[str] = []

    def end(reason: str) -> None:
        if reason:
            failures.append(reason)
        ended.set()

    def ready() -> None:
        print(f"ready on {HOST}:{listening.getsockname()[1]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mqtt-listener-") as run_dir:
        bus = ZmqBus(HUB, Path(run_dir), SystemClock())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: bus.send(HUB, Stop()))
        system = ThreadSystem(bus, uvloop.new_event_loop, end_at_once)
        system.spawn(ChildSpec(HUB, lambda: ListenerRoot(listening, folder, ready)), HUB, "", end)
        ended.wait()
        if failures:
            log.error("the listener ends: %s", failures[0])
            return FAILED
        bus.close()
    return 0


def main() -> int:
    """Parse the command line, and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.mqtt_test_listener", description="The hub's MQTT broker, for test suites."
    )
    parser.add_argument("--port", type=int, default=1883, help="of 127.0.0.1; 0: any that is free")
    parser.add_argument("--directory", type=Path, help="keep sessions and retained messages there")
    parser.add_argument("--log-level", default="warning")
    arguments = parser.parse_args()
    log_to_stderr(EDGE_HUB, parse_levels(arguments.log_level))
    with ExitStack() as stack:
        folder = arguments.directory
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mqtt-broker-")))
        elif not folder.is_dir():
            parser.error(f"--directory {folder} is not a directory")
        try:
            return serve(arguments.port, folder)
        except OSError as exc:
            print(f"port {arguments.port} of {HOST}: {exc.strerror}; choose another --port", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
