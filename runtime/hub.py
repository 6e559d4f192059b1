"""The hub process: `python -m runtime.hub --home H --run R`, started by the agent as a module like any other.

Its listening sockets are inherited, so that connections wait in the kernel while it restarts. It serves with
the configuration and the identities it finds in the home, whether an agent lives or not.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop
from msgspec.structs import replace

from actors.addresses import HUB
from actors.heads.admission import Admission
from actors.hub import config as hub_config
from actors.hub.config import HubConfig
from actors.hub.root import HubRootActor
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.manifest.module_spec import EDGE_HUB
from actors.metrics.actor_metrics import actor_families
from actors.metrics.broker_metrics import Stands, broker_families
from actors.metrics.hub_metrics import HubMetrics
from actors.metrics.ledger_metrics import ledger_families
from actors.metrics.registry import Registry
from actors.ports.storage import BrokerStore, MessageStore
from actors.upstream.connection import CloudConnections
from messaging.errors import ConfigError, EdgeError
from messaging.exposition import Family
from messaging.lifecycle import Stop
from messaging.version import VERSION
from messaging.zmq_bus import ZmqBus
from runtime.agent.connection_keeper import GivenConnections
from runtime.agent.inspector_note import inspector
from runtime.exit_codes import DONE, PART_FAILED, WRONG_INPUT
from runtime.home import Home
from runtime.logs.setup import LevelSwitch, log_as_told
from runtime.machine.process_end import end_at_once, end_with
from runtime.machine.process_table import boot_id
from runtime.net import amqp_engine
from runtime.net.http_gate import HttpGate
from runtime.net.hub_listener import head_listeners
from runtime.net.listening_sockets import Use, from_environment
from runtime.net.metrics_server import MetricsServer
from runtime.net.socket_handover import SocketOffer
from runtime.net.tcp_listener import most_connections
from runtime.net.tls_server import ServerCertificate
from runtime.run_directory import AGENT, Lock, RunDirectory
from runtime.security.client_certificates import check_certificate
from runtime.security.identity_copy import IdentityFile
from runtime.storage.ledger_source import LedgerSource
from runtime.storage.message_db import MessageDb
from runtime.storage.message_salvage import make_sound
from runtime.storage.steady_clock import SteadyClock
from runtime.storage.store_place import StoreLock
from runtime.storage.twin_db import TwinDb
from runtime.upstream.connections import UpstreamConnections
from runtime.upstream.link_switch import LinkSwitchFile

if TYPE_CHECKING:  # loaded where there is a broker
    from actors.ports.bridges import BridgePorts

log = logging.getLogger("runtime.hub")  # `__main__` where it runs

SWITCH_INTERVAL_S = 0.0005  # threads that wait for the interpreter get it sooner than after Python's 5 ms


OpenStore = Callable[[Path, int | None], MessageStore]
MakeConnections = Callable[[Path, HubConfig], CloudConnections]


def connections_to_cloud(home: Path, config: HubConfig) -> CloudConnections:
    """Return what makes connections to IoT Hub; what they need is loaded with the first of them."""
    batch_messages = config.environment.upstream_batch_messages
    return UpstreamConnections(config.cloud_protocol, batch_messages=batch_messages)


def run_hub(
    home: Path,
    run_dir: Path,
    log_levels: LevelSwitch,
    open_store: OpenStore = MessageDb.open,
    make_connections: MakeConnections = connections_to_cloud,
) -> int:
    """Run until SIGTERM or until the root gives up; returns the exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    path = home / "hub.json"
    try:
        config = hub_config.decode(path.read_bytes(), str(path))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}; start the edge with `edge-actors run`") from exc
    database = Path(config.message_db) if config.message_db else Home(home).message_db
    store_lock = StoreLock(database)
    make_sound(database, time.time())
    sockets = from_environment(os.environ)
    offer = SocketOffer(run_dir, [listener for _, listener in sockets])
    offer.open()
    kept = GivenConnections(run_dir)
    kept.open()
    by_use = {use: [listener for its, listener in sockets if its is use] for use in Use}
    if config.environment.amqp_enabled and not amqp_engine.is_installed():
        log.warning("AMQP is left out: %s", amqp_engine.WAY_OUT)
        without = replace(config.environment, amqp_enabled=False)
        config = msgspec.structs.replace(config, environment=without)
    environment = config.environment
    if environment.log_level is not None:
        log_levels.deployed(environment.log_level)
    certificate = ServerCertificate(config.certificate_file, config.key_file, environment.ssl_protocols)
    log.info("hub of %s, version %s, certificate %s", config.device_id, VERSION, config.certificate_file)
    most_open = most_connections()
    clock = SteadyClock(database.with_name(f"{database.name}-clock"), boot_id())
    bus = ZmqBus(HUB, run_dir, clock)
    gate = HttpGate()
    listeners = head_listeners(
        by_use, certificate, Admission(most_open), gate.answer, gate.passed_on, environment, kept
    )
    common = (
        ("iothub", config.iothub_hostname),
        ("edge_device", config.device_id),
        ("instance_number", str(uuid.uuid4())),
    )
    registry = Registry(
        clock,
        common,
        is_on=environment.metrics_enabled,
        histogram_age_s=environment.metrics_histogram_max_age_s,
    )
    metrics = HubMetrics(registry, config.iothub_hostname)
    metrics_server = MetricsServer(by_use[Use.METRICS])
    ledger = LedgerSource(database)
    stands = Stands()

    def actors() -> list[Family]:
        return actor_families("edgehub_", common, system.counts())

    def stock() -> list[Family]:
        found = ledger.read()
        return [] if found is None else ledger_families(found, tuple(metrics.lanes), common)

    def topics() -> list[Family]:
        return broker_families(stands, common)

    agent_lock = Lock(RunDirectory(run_dir, home), AGENT)
    # Not an Event: the kernel may have any thread take a signal, and then nothing wakes one that waits for a
    # lock, so that Python never runs the handler. A byte in a pipe does.
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    has_ended: list[bool] = []
    failures: list[str] = []

    def root() -> HubRootActor:
        return HubRootActor(
            config,
            open_store=lambda: open_store(database, config.max_store_bytes),
            open_twins=lambda: TwinDb.open(home / "twins.db"),
            identity_copy=IdentityFile(home / "identities.copy"),
            check_certificate=check_certificate,
            agent_lives=lambda: agent_lock.holder() is not None,
            make_connections=lambda: make_connections(home, config),
            link_switch=LinkSwitchFile(home / "upstream.off"),
            cloud_ca_pem=lambda: cloud_ca_pem(config.cloud_ca_file),
            mqtt_listener=listeners.mqtt,
            amqp_listener=listeners.amqp,
            http_gate=gate,
            open_broker_store=lambda: open_broker_store(database.with_name("broker.db")),
            bridge_ports=lambda: bridge_ports(home, config, database.with_name("bridge.db")),
            load_certificate=certificate.load,
            metrics=metrics,
            metrics_gate=metrics_server,
            metrics_sources=(actors, stock, topics),
            stands=stands if environment.metrics_enabled else None,
            inspector=lambda: inspector(system, config.allow_faults),
            faults=(lambda: faults_of(bus)) if config.allow_faults else None,
        )

    def end(reason: str) -> None:
        if reason:
            failures.append(reason)
        has_ended.append(True)
        os.write(waker, b"\0")

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the agent, which stops us in order
    system = ThreadSystem(bus, uvloop.new_event_loop, end_at_once)
    system.spawn(ChildSpec(HUB, root, exported=True), HUB, "", end)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: bus.send(HUB, Stop()))  # from here on there is one to send it to
    gc.freeze()  # what is imported stays: the collector need not look at it again
    while not has_ended:
        os.read(woken, 64)
    if failures:
        # Children still run, so their sockets are left to the end of this process.
        log.error("the hub ends: %s", failures[0])
        return PART_FAILED
    bus.close()
    kept.close()
    offer.close()
    store_lock.close()
    return DONE


def bridge_ports(home: Path, config: HubConfig, database: Path) -> BridgePorts:
    """Return what bridges need, which is loaded only where there is a broker."""
    from actors.ports.bridges import BridgePorts
    from runtime.config.bridge_settings import BridgeSettingsFile, OwnNames
    from runtime.net.bridge_lines import BridgeLines
    from runtime.storage.bridge_db import BridgeDb

    environment = config.environment
    return BridgePorts(
        lambda: BridgeDb.open(database, environment.bridge_max_bytes, environment.bridge_max_messages),
        BridgeLines(),
        BridgeSettingsFile(
            Path(config.bridge_settings or Home(home).bridges),
            OwnNames(config.device_id, config.iothub_hostname),
        ),
    )


def faults_of(bus: ZmqBus) -> EdgeActor:
    """Return the actor that takes what fault scripts want, which is loaded only where that is allowed."""
    from runtime.fault_point import faults_actor

    return faults_actor(bus)


def open_broker_store(path: Path) -> BrokerStore:
    """Open the database of the MQTT broker, which is loaded only where there is one."""
    from runtime.storage.broker_db import BrokerDb

    return BrokerDb.open(path)


def cloud_ca_pem(path: str) -> str:
    """Return what to trust at the cloud; nothing when the file cannot be read, which the log then has.

    The hub has to serve without a cloud, too, so it does not end for that.
    """
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as exc:
        log.error("the certificates to trust at the cloud cannot be read from %s: %s", path, exc)
        return ""


def main(
    open_store: OpenStore = MessageDb.open, make_connections: MakeConnections = connections_to_cloud
) -> int:
    """Read the command line of the hub process, and run it."""
    match sys.argv[1:]:  # from the agent alone, so no argparse: it takes 0.4 MB
        case ["--home", home, "--run", run]:
            pass
        case _:
            print("usage: python -m runtime.hub --home HOME --run RUN", file=sys.stderr)
            return WRONG_INPUT
    log_levels = log_as_told(EDGE_HUB, Home(Path(home)).log_levels)
    try:
        return run_hub(Path(home), Path(run), log_levels, open_store, make_connections)
    except EdgeError as exc:
        log.error("%s", exc)
        return WRONG_INPUT


if __name__ == "__main__":
    end_with(main())
