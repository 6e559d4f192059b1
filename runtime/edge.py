"""The agent process: takes what it needs of the machine, starts the actors, waits, and gives all back.

In this order, so that a mistake of the user's is told before anything runs: deployment, run directory and
lock, listening sockets, keys and certificates, then the actors. The main thread only waits for signals, for
the time limit of `--for`, and for the end of the root actor.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import select
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from actors import hub_config
from actors.actor_metrics import actor_families
from actors.addresses import AGENT, AGENT_PROCESS, SECURITY
from actors.agent import AgentActor
from actors.agent_link import LINK
from actors.agent_metrics import AgentMetrics
from actors.agent_metrics_actor import AgentMetricsActor
from actors.agent_root import AgentRootActor, StopEdge
from actors.base import ChildSpec, EdgeActor
from actors.certificate_ends import certificate_families
from actors.deployment import Deployment
from actors.deployment_keeper import DeploymentKeeper
from actors.hosts import ThreadSystem
from actors.hub_config import HubConfig, route_texts
from actors.hub_environment import HubEnvironment
from actors.hub_manifest import StoreFullPolicy
from actors.metric_registry import Registry
from actors.module_spec import (
    EDGE_AGENT,
    EDGE_CLOUD,
    EDGE_HUB,
    DesiredStatus,
    DockerSettings,
    ModuleSpec,
    ModuleStatus,
    ProcessSettings,
    RestartPolicy,
    StandInSettings,
    spec_hash,
)
from actors.module_tree import KillModules
from actors.ports import ModuleAccess, ModuleRecord, ModuleRun
from actors.process_permission import Origin
from actors.registry import REGISTRY, RegistryActor
from actors.reported import Platform
from actors.restart_policy import RestartState
from actors.rollout import start_groups
from actors.security import SecurityActor
from actors.supervisor_messages import RestartModule
from actors.upstream_protocol import UpstreamProtocol
from messaging.address import child_of
from messaging.broker.config import BrokerSpec
from messaging.clock import SystemClock
from messaging.errors import EdgeError
from messaging.version import VERSION
from messaging.zmq_bus import ZmqBus
from runtime import amqp_engine
from runtime.agent_cloud import AgentLinkChoice, cloud_actors
from runtime.agent_metrics_files import CheckpointFile, ScrapeFiles
from runtime.agent_metrics_sockets import AgentMetricsSockets
from runtime.atomic_file import write_private_file
from runtime.certificates import server_names
from runtime.connection_keeper import ConnectionKeeper
from runtime.deployed_ports import as_deployed
from runtime.device_file import remember_device
from runtime.docker_runtime import DockerRuntime
from runtime.edge_containers import container_runtime, edge_names, listening_for_containers, with_gateway
from runtime.edge_deployment import Chosen, EdgeDeployments, choose
from runtime.edge_modules import EdgeModules
from runtime.edge_security import EdgeSecurity
from runtime.embedded_cloud import SAMPLE, EmbeddedCloud, embedded_cloud
from runtime.exit_codes import DONE, PART_FAILED
from runtime.given_ca import GivenCa, ca_source
from runtime.home import Home
from runtime.home_place import came_from_elsewhere
from runtime.hub_sockets import HubSockets, Wanted
from runtime.inspector_note import inspector, write_note
from runtime.isolation import ProcessIsolation
from runtime.last_deployment import LastDeployment
from runtime.lean_memory import share_one_arena
from runtime.listen_addresses import amqp_addresses, metrics_addresses, web_addresses
from runtime.listening_sockets import Use
from runtime.machine_look import MachineLook
from runtime.management_server import ManagementServer
from runtime.measured_runtime import MeasuredRuntime
from runtime.metrics_server import MetricsServer
from runtime.module_records import ModuleRecordFiles
from runtime.module_runtimes import ModuleRuntimes
from runtime.module_users import ModuleUsers, group_of
from runtime.one_core import on_one_core
from runtime.process_end import end_at_once
from runtime.provisioning import Provisioned, enrollment_of, provision, remember
from runtime.run_directory import AGENT as AGENT_LOCK
from runtime.run_directory import Lock, RunDirectory, check_home, prepare_home
from runtime.service_manager import ServiceManager, SignsOfLife
from runtime.settings import Settings
from runtime.store_place import check_folder, chosen_folder, database_in, database_of
from runtime.trust_bundle import trusted_pem

if TYPE_CHECKING:  # imported when somebody asks
    from runtime.management_api import ManagementApi

log = logging.getLogger(__name__)

MOVED: Final = -1  # to another IoT Hub or key; never an exit code
ANEW: Final = -2  # the program is to be run again with the settings of now; never an exit code
ACTORS_STOP_LIMIT_S: Final = 15.0  # after the modules have ended
COPIED: Final = (
    "home %s was copied or moved here from another machine or folder; it is still device '%s'. "
    "If the edge that it comes from still runs, both are one device to the cloud, and messages that wait in "
    "both are sent twice: end one of them, or start here with an empty --home and another --device-id"
)
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
KILL_LIMIT_S: Final = 5.0  # for everything to end after the second Ctrl-C


def run_edge(
    settings: Settings,
    deployment_path: Path | None,
    for_s: float | None = None,
    read_again: Callable[[], object] | None = None,
) -> int:
    """Run an edge until SIGTERM, SIGINT, or for `for_s` seconds. In the main thread: it takes the signals.

    Args:
        settings: Home, addresses, names and limits.
        deployment_path: The manifest; None: what the cloud says.
        for_s: How long to run, None for as long as nobody ends it.
        read_again: Reads the settings of now, to see whether they are right; None: the caller cannot
            run the program again.

    Returns:
        0 when it ended as asked, 70 when a part of it failed for good, ANEW when it is to be run again.

    Raises:
        ConfigError: deployment or settings are wrong; nothing was started or changed.
        EnvironmentFault: port in use, another edge on this home, home not writable; nothing was started.
    """
    share_one_arena()
    for remark in settings.remarks:
        log.warning("%s", remark)
    limit = _TimeLimit(for_s)
    manager = ServiceManager.from_environment(os.environ)
    while (code := _run_as_provisioned(settings, deployment_path, limit, manager, read_again)) == MOVED:
        log.info("starting anew, as the device that this is by now")
    return code


class _TimeLimit:
    """For how long an edge runs, counted from when it first does."""

    def __init__(self, for_s: float | None) -> None:
        self._for_s = for_s
        self._ends_s: float | None = None

    def begin(self) -> float | None:
        """Return the monotonic time when it is over, None when never."""
        if self._ends_s is None and self._for_s is not None:
            self._ends_s = time.monotonic() + self._for_s
        return self._ends_s


def _run_as_provisioned(
    settings: Settings,
    deployment_path: Path | None,
    limit: _TimeLimit,
    manager: ServiceManager | None,
    read_again: Callable[[], object] | None,
) -> int:
    """Run until the end, or until the edge is another device or has another key: MOVED."""
    check_home(settings.home)
    settings, provisioned = provision(settings)
    ca = ca_source(settings)
    if isinstance(ca, GivenCa):  # a mistake of the user's is told before anything is started
        ca.read(Home(settings.home).certificates, settings.hostname, time.time())
    cloud = embedded_cloud(settings, provisioned)
    origin = Origin.CLOUD if cloud is None else Origin.LOCAL
    first = None if cloud is None else cloud.first_deployment
    chosen = choose(settings, deployment_path, provisioned is not None or cloud is not None, origin, first)
    deployment = chosen.deployment
    earlier, message_db = database_of(Home(settings.home)), _message_db(settings, deployment)
    if earlier != message_db and earlier.exists():
        log.warning(
            "messages are kept in %s from now on; what waits in %s stays there until that is the place again",
            message_db,
            earlier,
        )
    run = RunDirectory.of(settings.home)
    with ExitStack() as stack:
        umask = os.umask(0o077)  # what we make is ours alone; modules get theirs back
        stack.callback(os.umask, umask)
        run.prepare()
        lock = Lock(run, AGENT_LOCK)
        lock.acquire()
        stack.callback(lock.release)
        write_note(run, settings.allow_faults)
        if settings.allow_faults:
            log.warning("this edge was started with --allow-faults: whoever may inspect it may disturb it")
        stack.callback(_remove_unless_modules_live, run)
        if cloud is not None:  # first of all: modules of every kind are told its name
            stack.callback(cloud.close)
            cloud.prepare(run.path)
            settings = replace(settings, iothub_hostname=cloud.host_name, cloud_https_port=cloud.https_port)
        as_set, settings = settings, as_deployed(settings, deployment)
        containers = container_runtime(settings, run)
        settings = listening_for_containers(settings, deployment, containers)
        edge = _Edge(
            settings, as_set, provisioned, cloud, chosen, deployment_path, run, containers, umask, read_again
        )
        stack.callback(edge.close)
        try:
            edge.prepare()
        except BaseException:
            containers.take_back_gateway()
            edge.take_back_cloud()
            raise
        return edge.run(limit.begin(), manager)


def upstream_protocol(settings: Settings, deployment: Deployment) -> UpstreamProtocol:
    """Return how the agent speaks to the cloud, and the hub, unless that is told otherwise."""
    return deployment.agent_protocol or settings.upstream_protocol


def hub_settings(settings: Settings, deployment: Deployment, certificate: Path) -> HubConfig:
    """Return what the hub process has to know."""
    hub = deployment.hub
    return HubConfig(
        device_id=settings.device_id,
        iothub_hostname=settings.iothub_hostname,
        cloud_ca_file=_cloud_ca_file(settings),
        cloud_https_port=settings.cloud_https_port,
        cloud_connections=settings.cloud_connections,
        cloud_protocol=deployment.hub_environment.values.upstream_protocol
        or upstream_protocol(settings, deployment),
        cloud_messages_per_s=settings.cloud_messages_per_s,
        host_names=_server_names(settings),
        certificate_file=str(certificate),
        key_file=str(certificate),
        twins={module: dict(desired) for module, desired in deployment.twins.items()},
        routes=route_texts(hub),
        broker=hub.broker,
        bridge_settings=str(_bridge_settings(settings, hub.broker)),
        ttl_s=hub.ttl_s,
        environment=deployment.hub_environment.values,
        message_db=str(_message_db(settings, deployment)),
        max_store_bytes=hub.max_size_bytes,
        drops_oldest=hub.when_full is StoreFullPolicy.DROP_OLDEST,
        allow_faults=settings.allow_faults,
    )


def fixed_part(config: HubConfig) -> bytes:
    """Return what of its configuration a hub cannot change while it lives.

    It is told of new routes, twins and rules of the broker; whether it has a broker is settled at its start.
    """
    broker = None if config.broker is None else BrokerSpec()
    return hub_config.encode(msgspec.structs.replace(config, routes=(), ttl_s=None, twins={}, broker=broker))


def _bridge_settings(settings: Settings, broker: BrokerSpec | None) -> Path:
    """Return where the hub looks for other brokers; what is wrong there is said."""
    path = settings.bridge_settings or Home(settings.home).bridges
    if broker is not None and broker.bridges:
        from runtime.bridge_settings import OwnNames, check_bridge_settings

        try:
            check_bridge_settings(path, OwnNames(settings.device_id, settings.iothub_hostname))
        except EdgeError as exc:
            log.warning("a bridge will not connect: %s", exc)
    return path


def _cloud_ca_file(settings: Settings) -> str:
    path = Home(settings.home).cloud_ca
    return str(path) if path.exists() else ""


def _message_db(settings: Settings, deployment: Deployment) -> Path:
    hub = deployment.edge_hub
    folder, origin = chosen_folder(settings.storage_folder, {} if hub is None else hub.env)
    if folder is not None:
        check_folder(folder, origin)
    return database_in(folder, Home(settings.home))


class _Edge:
    """What one run of the edge holds."""

    def __init__(
        self,
        settings: Settings,
        as_set: Settings,
        provisioned: Provisioned | None,
        cloud: EmbeddedCloud | None,
        chosen: Chosen,
        deployment_path: Path | None,
        run: RunDirectory,
        containers: DockerRuntime,
        umask: int,
        read_again: Callable[[], object] | None,
    ) -> None:
        self._settings = settings
        self._as_set = as_set  # before a deployment and containers changed where the hub listens
        self._provisioned = provisioned
        self._chosen = chosen
        self._deployment_path = deployment_path
        self._deployment = chosen.deployment
        self._environment = chosen.deployment.hub_environment.values
        self._keeper: DeploymentKeeper | None = None
        self._run = run
        self._home = Home(run.home)
        self._records = ModuleRecordFiles(self._home.modules)
        self._hub_sockets = HubSockets(
            hub_listeners(settings, self._environment), beside=cloud.sockets if cloud else lambda: ()
        )
        self._cloud = cloud
        if cloud is not None:
            cloud.beside = self._hub_sockets.held
        self._security: EdgeSecurity | None = None
        self._hub_ended = threading.Event()
        self._cloud_ended = threading.Event()
        self._cloud_was_started = False
        self._failure = ""
        self._root_ended = False
        self._is_moved = self._is_anew = False
        self._read_again = read_again
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._bus: ZmqBus | None = None
        self._new_gateway = threading.Lock()
        self._management = ManagementServer(run.path)
        self._connections = ConnectionKeeper(run.path)
        self._link = AgentLinkChoice(upstream_protocol(settings, chosen.deployment))
        self._containers = containers
        containers.tell_gateway(self._listen_for_container)
        isolated = os.geteuid() == 0 and settings.process_isolation != "off"
        self._users = ModuleUsers(self._home, run, settings.process_uids) if isolated else None
        self._names = edge_names(settings)
        processes = EdgeModules(
            run,
            names=self._names,
            deployment_folder=chosen.folder,
            log_level=settings.log_level,
            log_format=settings.log_format,
            isolation=ProcessIsolation(settings.process_isolation, self._users),
            umask=umask,
            hub_sockets=self._sockets_for_hub,
            close_hub_sockets=self._hub_sockets.close,
            cloud_sockets=cloud.for_process if cloud else lambda: ({}, ()),
        )
        self._metrics_common = (
            ("iothub", settings.iothub_hostname),
            ("edge_device", settings.device_id),
            ("instance_number", str(uuid.uuid4())),
        )
        environment = chosen.deployment.agent_environment
        self._metrics = AgentMetrics(
            Registry(
                SystemClock(),
                self._metrics_common,
                histogram_age_s=environment.metrics_histogram_max_age_s,
            )
        )
        self._metrics_server = MetricsServer()
        self._metrics_sockets = AgentMetricsSockets(self._metrics_server)
        self._modules = ModuleRuntimes(processes, containers)

    def prepare(self) -> None:
        """Take sockets, keys and certificates; write down what the hub needs."""
        settings, home = self._settings, self._home
        hub_lives = self._hub_wanted and self._hub_lives()
        sockets_held = False
        if hub_lives:
            sockets_held = self._take_sockets_back()
        elif self._hub_wanted:
            self._hub_sockets.bind()
        prepare_home(home.path)
        home.close_entries()
        if self._cloud is not None:
            self._start_cloud(self._cloud)
        remember_device(settings.home, settings.device_id)
        remember(home, self._provisioned, same_hub=self._cloud is not None)
        if came_from_elsewhere(home.path):
            log.warning(COPIED, home.path, settings.device_id)
        self._security = EdgeSecurity(
            home,
            self._run.path,
            names=self._names,
            server_names=_server_names(settings),
            process_of=self._modules.process_of,
            ca=ca_source(settings),
            trusted_pem=trusted_pem(settings),
            provisioned=self._provisioned,
            group_of=self._group_of,
            image_of=self._image_of,
            now_s=time.time,
        )
        self._management.open()
        self._connections.open()
        config = hub_settings(settings, self._deployment, self._security.certificate_file)
        self._deployment = self._with_hub_version(settings, self._deployment, config)
        last = LastDeployment(home.last_deployment, self._security.keys)
        self._keeper = DeploymentKeeper(
            self._deployment,
            EdgeDeployments(
                self._put_in_place,
                last,
                settings.process_allow,
                Origin.CLOUD if self._cloud is None else Origin.LOCAL,
            ),
            file_name=self._chosen.file_name,
            kept=self._chosen.kept,
        )
        if hub_lives and not sockets_held and not self._hub_is_current():
            self._end_hub()  # for its ports; with the sockets in hand its supervisor replaces it
            self._hub_sockets.bind()
        write_private_file(home.hub_config, hub_config.encode(config))
        self._tell_metrics()
        credentials = self._deployment.runtime.registry_credentials.values()
        self._modules.deployed(tuple(self._deployment.modules.values()), tuple(credentials))

    def take_back_cloud(self) -> None:
        """End the stand-in that was started, when nothing else will be."""
        if self._cloud is not None and self._cloud_was_started:
            self._modules.kill(EDGE_CLOUD)
            self._cloud_ended.wait(KILL_LIMIT_S)
            self._modules.remove(EDGE_CLOUD)
            self._cloud.remove_run_directory()

    def run(self, ends_s: float | None, manager: ServiceManager | None) -> int:
        """Start the actors and wait for the end, at the latest until this monotonic time.

        Args:
            ends_s: That time; None: for as long as nobody ends it.
            manager: Who is told how the edge is; None: nobody.
        """
        bus = self._bus = ZmqBus(AGENT_PROCESS, self._run.path)
        security = self._security
        assert security is not None
        began_s = time.time()
        assert self._security is not None
        self._security.note_module(EDGE_AGENT, ModuleStatus.RUNNING.value, began_s, None)
        with self._signals_caught():
            system = ThreadSystem(bus, end_process=end_at_once)
            root = ChildSpec(AGENT_PROCESS, lambda: self._root(began_s, system), exported=True)
            on_one_core(lambda: system.spawn(root, AGENT_PROCESS, "", self._on_root_end))
            self._management.serve(lambda: self._management_api(began_s))
            signs = SignsOfLife(manager, bus) if manager is not None else None
            log.info("edge %s runs, version %s, home %s", self._settings.device_id, VERSION, self._home.path)
            log.info("certificates of this edge: %s", security.validity())
            if not self._chosen.file_name and self._chosen.kept is None:
                log.info("waiting for a deployment from %s", self._settings.iothub_hostname)
            self._wait(ends_s)
            if signs is not None:
                goes_on = self._is_moved or self._is_anew
                signs.stopping(self._stop_limit_s + 2 * KILL_LIMIT_S, for_good=not goes_on)
            if not self._root_ended:
                log.info("edge %s is stopping", self._settings.device_id)
                bus.send(AGENT_PROCESS, StopEdge())
                self._wait_for_end(bus)
            if signs is not None:
                signs.close()
        if self._failure or not self._root_ended:
            # Actors may still run, so the bus is left to the end of this process; so are the modules, which
            # the next agent takes over.
            log.error("the edge failed: %s", self._failure or "the actors did not stop in time")
            return PART_FAILED
        self._modules.kill_all()
        bus.close()
        log.info("edge %s has stopped", self._settings.device_id)
        if self._is_anew:
            return ANEW
        return MOVED if self._is_moved else DONE

    def close(self) -> None:
        """Give everything back but modules that outlived a failure."""
        self._management.close()
        if self._security is not None:
            self._security.close()
        self._modules.close()
        self._hub_sockets.close()
        self._connections.close()
        self._metrics_sockets.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        if self._root_ended and not self._failure:
            self._run.remove()
            if self._cloud is not None:
                self._cloud.remove_run_directory()

    def _group_of(self, name: str) -> int | None:
        """Return who may use the workload socket of a module; a container may have any user."""
        module = self._deployment.modules.get(name)
        if module is None or not isinstance(module.settings, ProcessSettings):
            return None
        return group_of(self._users, name)

    def _image_of(self, name: str) -> str | None:
        module = self._deployment.modules.get(name)
        return module.settings.image if module and isinstance(module.settings, DockerSettings) else None

    def _management_api(self, began_s: float) -> ManagementApi:
        """In a thread of its server."""
        from runtime.management_api import ManagementApi, commands_of

        security = self._security
        assert security is not None
        return ManagementApi(
            self._home,
            security.keys,
            modules=security.states,
            command=commands_of(self._home.path),
            started_s=began_s,
        )

    # the actors

    def _root(self, began_s: float, system: ThreadSystem) -> AgentRootActor:
        security = self._security
        assert security is not None
        enrollment = enrollment_of(self._settings, self._provisioned)
        registry = security.registry(enrollment, self._on_moved, self._cloud is not None)
        cloud = (
            ()
            if self._provisioned is None
            else cloud_actors(self._provisioned, self._home, self._link.connections, self._metrics)
        )
        return AgentRootActor(
            lambda: SecurityActor(security, REGISTRY if registry else ""),
            lambda: RegistryActor(registry, security=SECURITY, random=random.random),
            lambda: self._agent(began_s),
            cloud,
            self._start_anew,
            lambda: self._metrics_actor(began_s, system),
            lambda: inspector(system, self._settings.allow_faults),
            faults=self._faults if self._settings.allow_faults else None,
        )

    def _faults(self) -> EdgeActor:
        from runtime.fault_point import faults_actor  # only where they are allowed

        assert self._bus is not None
        return faults_actor(self._bus)

    def _metrics_actor(self, began_s: float, system: ThreadSystem) -> AgentMetricsActor:
        common, security = self._metrics_common, self._security
        assert security is not None
        return AgentMetricsActor(
            self._metrics,
            self._metrics_server,
            (
                lambda: actor_families("edgeAgent_", common, system.counts()),
                lambda: certificate_families(security.certificates(), common, time.time()),
            ),
            look_at_machine=MachineLook(self._metrics, began_s).look_soon,
            checkpoint=CheckpointFile(self._home.availability),
            kept=ScrapeFiles(self._home.quality),
            link=LINK if self._provisioned else "",
        )

    def _tell_metrics(self) -> None:
        """Tell metrics where and as the deployment in force wants it."""
        environment = self._deployment.agent_environment
        self._metrics.configure(environment)
        host = {"operatingSystemType": "linux", "architecture": os.uname().machine, "version": VERSION}
        self._metrics.is_edge(VERSION, host)
        addresses = (
            metrics_addresses(self._settings, environment.metrics_port) if environment.metrics_enabled else ()
        )
        self._metrics_sockets.listen_on(addresses, f"/{environment.metrics_suffix}")

    def _agent(self, began_s: float) -> AgentActor:
        keeper = self._keeper
        assert keeper is not None
        return AgentActor(
            keeper,
            security=SECURITY,
            runtime=MeasuredRuntime(self._modules, self._metrics),
            records=self._records,
            stop_grace_s=self._settings.stop_grace_s,
            hub_grace_s=self._hub_grace_s,
            agent_pid=os.getpid(),
            started_at_s=began_s,
            link=LINK if self._provisioned else "",
            platform=Platform(architecture=os.uname().machine),
            cloud=None if self._cloud is None else _cloud_spec(self._cloud),
            until_ready=self._settings.start_when_ready,
            trial_s=self._settings.deployment_trial,
            metrics=self._metrics,
        )

    def _on_moved(self) -> None:
        """In a worker thread: stop as if asked to; what comes next is another device, or has another key."""
        self._is_moved = True
        os.write(self._wake_writer, bytes([signal.SIGTERM]))

    def _start_anew(self) -> str:
        """In the thread of the root actor: stop as if asked to, unless what would come next is wrong."""
        if self._read_again is None:
            return "this edge cannot start anew by itself; end it and start it"
        try:
            self._read_again()
        except EdgeError as exc:
            return f"it goes on with its old settings, because the new ones are wrong for it: {exc}"
        log.info("starting anew with other settings")
        self._is_anew = True
        os.write(self._wake_writer, bytes([signal.SIGTERM]))
        return ""

    def _on_root_end(self, reason: str) -> None:
        """In the thread of the root actor."""
        self._failure = reason
        self._root_ended = True
        os.write(self._wake_writer, b"\0")

    # waiting

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT arrive as bytes at the reader that this thread waits on."""
        earlier_fd = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        earlier = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(earlier_fd)

    def _wait(self, ends_s: float | None) -> bool:
        """Wait for a signal, the root's end or a monotonic time; returns whether it was a signal."""
        while not self._root_ended:
            left_s = None if ends_s is None else ends_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            if select.select([self._wake_reader], [], [], left_s)[0]:
                came = os.read(self._wake_reader, 64)
                if any(number in STOP_SIGNALS for number in came):
                    return True
        return False

    def _wait_for_end(self, bus: ZmqBus) -> None:
        """Wait until all actors have stopped; a second signal ends the modules at once."""
        limit_s = self._stop_limit_s
        if self._wait(time.monotonic() + limit_s):
            log.warning("asked again: modules are killed")
        elif not self._root_ended:
            log.error("modules did not end within %.0f s and are killed", limit_s)
        if not self._root_ended:
            bus.send(AGENT, KillModules())
            self._wait_through_signals(KILL_LIMIT_S)
        if not self._root_ended:
            self._modules.kill_all()

    @property
    def _stop_limit_s(self) -> float:
        """How long modules and actors may take to end."""
        groups = len(start_groups(self._deployment))
        grace_s = self._settings.stop_grace_s
        limit_s = groups * (grace_s + KILL_LIMIT_S) + ACTORS_STOP_LIMIT_S
        return limit_s + max(0.0, self._hub_grace_s - grace_s)

    def _wait_through_signals(self, limit_s: float) -> None:
        ends_s = time.monotonic() + limit_s
        while self._wait(ends_s):
            log.warning("modules are being killed already")

    # the hub

    @property
    def _hub_grace_s(self) -> float:
        wait_s = self._environment.shutdown_wait_s
        return self._settings.stop_grace_s if wait_s is None else wait_s

    @property
    def _hub_wanted(self) -> bool:
        return _wants_hub(self._deployment)

    def _take_sockets_back(self) -> bool:
        """Take the sockets of a hub that outlived its agent and bind what it lacks; False: it keeps them."""
        taken = self._hub_sockets.take_back(self._run.path, self._hub_ended.is_set)
        if not taken and not self._hub_ended.is_set():
            log.warning("the hub of an earlier run keeps its listening sockets until it ends")
            return False
        if self._hub_sockets.must_wait_for_hub():
            self._end_hub()
        self._hub_sockets.bind()
        return True

    def _sockets_for_hub(self) -> tuple[Mapping[str, str], tuple[int, ...]]:
        """Called before each start of the hub; one that kept its sockets had the ports until now."""
        self._hub_sockets.bind()
        return self._hub_sockets.to_environment()

    def _listen_for_container(self, gateway: str) -> None:
        """Before a container is started: have the hub listen where it looks for it, unless it does already.

        That is so at the first start of an edge that found no engine at its own.
        """
        with self._new_gateway:
            settings = with_gateway(self._settings, gateway)
            if settings is self._settings or self._bus is None or not self._hub_wanted:
                return
            self._hub_sockets.listen_on(hub_listeners(settings, self._environment))
            self._settings = settings
        self._tell_metrics()
        log.info("containers look for the hub at %s; it is restarted to listen there too", gateway)
        self._bus.send(child_of(AGENT, EDGE_HUB), RestartModule(EDGE_HUB))

    def _hub_lives(self) -> bool:
        return isinstance(self._modules.adopt(EDGE_HUB, lambda end: self._hub_ended.set()), ModuleRun)

    def _end_hub(self) -> None:
        """End a hub of a former agent that was made from something else, for its ports."""
        log.info("the hub of an earlier run is ended: its settings changed")
        self._modules.stop(EDGE_HUB, self._hub_grace_s)
        self._hub_ended.wait(self._hub_grace_s + KILL_LIMIT_S)

    # the stand-in

    def _start_cloud(self, cloud: EmbeddedCloud) -> None:
        """Start it before its supervisor does: the first time the edge's identity is made in it."""
        cloud.keep_address()
        spec = _cloud_spec(cloud)
        record = self._records.load(EDGE_CLOUD)
        if record is None or record.spec_hash != spec_hash(spec):
            record = ModuleRecord(spec_hash(spec), spec.startup_order, spec.status, RestartState())
            self._records.save(EDGE_CLOUD, record, durable=False)
        ended = self._cloud_ended
        found = self._modules.adopt(EDGE_CLOUD, lambda end: ended.set())
        if not isinstance(found, ModuleRun) and record.by_hand is not DesiredStatus.STOPPED:
            self._modules.start(spec, ModuleAccess(), lambda end: ended.set())
            self._cloud_was_started = True
        device_id = self._settings.device_id
        self._provisioned = cloud.identity(device_id, self._provisioned, ended.is_set)
        if self._deployment_path is not None:
            threading.Thread(target=self._show_deployment, args=(cloud, self._deployment_path)).start()
        elif cloud.device_is_new and SAMPLE.exists():
            cloud.deploy(device_id, SAMPLE, ended.is_set)
            log.info("the sample deployment %s was put into the IoT Hub of this edge", SAMPLE)

    def _show_deployment(self, cloud: EmbeddedCloud, path: Path) -> None:
        """In a thread, because nothing waits for it: have the twins in the stand-in say what a file says."""
        try:
            cloud.deploy(self._settings.device_id, path, self._cloud_ended.is_set)
        except EdgeError as exc:
            log.warning("the IoT Hub of this edge does not show the deployment that runs: %s", exc)

    def _put_in_place(self, deployment: Deployment) -> Deployment:
        """In the agent's thread: have ready what the hub of a new deployment starts from."""
        security = self._security
        assert security is not None
        environment = deployment.hub_environment.values
        with self._new_gateway:
            settings = self._listening_for(deployment)
            config = hub_settings(settings, deployment, security.certificate_file)
            made = self._with_hub_version(settings, deployment, config)
            wanted = hub_listeners(settings, environment)
            if _wants_hub(deployment):
                self._hub_sockets.listen_on(wanted)
            else:
                self._hub_sockets.want(wanted)
            if settings.listen != self._settings.listen:
                security.serve_under(_server_names(settings))
            write_private_file(self._home.hub_config, hub_config.encode(config))
            self._settings, self._deployment, self._environment = settings, made, environment
        self._link.choose(upstream_protocol(settings, deployment))
        self._tell_metrics()
        credentials = deployment.runtime.registry_credentials.values()
        self._modules.deployed(tuple(deployment.modules.values()), tuple(credentials))
        return made

    def _listening_for(self, deployment: Deployment) -> Settings:
        """Return the settings with the addresses of a new deployment, and those at which containers look.

        Modules that run know the edge by its name, so that stays until the next start.
        """
        before = as_deployed(self._as_set, self._deployment)
        settings = as_deployed(self._as_set, deployment)
        for address in self._settings.listen:
            if address not in before.listen:
                settings = with_gateway(settings, address.host)
        # Known before the hub starts, or else it would have to start again for the first container.
        settings = listening_for_containers(settings, deployment, self._containers)
        return replace(
            self._settings,
            listen=settings.listen,
            web_listen=settings.web_listen,
            amqp_listen=settings.amqp_listen,
            bridge=settings.bridge,
        )

    def _with_hub_version(self, settings: Settings, deployment: Deployment, config: HubConfig) -> Deployment:
        """Make configuration and addresses part of what the hub is made from: a change replaces it."""
        hub = deployment.edge_hub
        if hub is None:
            return deployment
        listeners = hub_listeners(settings, deployment.hub_environment.values)
        digest = hashlib.sha256(f"{listeners} ".encode() + fixed_part(config)).hexdigest()[:16]
        return replace(deployment, edge_hub=replace(hub, version=f"{hub.version}+{digest}"))

    def _hub_is_current(self) -> bool:
        hub, record = self._deployment.edge_hub, self._records.load(EDGE_HUB)
        return hub is not None and record is not None and record.spec_hash == spec_hash(hub)


def _wants_hub(deployment: Deployment) -> bool:
    hub = deployment.edge_hub
    return hub is not None and hub.status is DesiredStatus.RUNNING


def _cloud_spec(cloud: EmbeddedCloud) -> ModuleSpec:
    settings = StandInSettings(cloud.host_name)
    return ModuleSpec(EDGE_CLOUD, settings, restart_policy=RestartPolicy.ALWAYS, version=VERSION)


def _server_names(settings: Settings) -> tuple[str, ...]:
    addresses = (*settings.listen, *web_addresses(settings), *amqp_addresses(settings))
    return server_names(settings.hostname, (address.host for address in addresses))


def hub_listeners(settings: Settings, environment: HubEnvironment) -> list[Wanted]:
    """Return on what the hub is to listen. A port that this device does not ask for may be missing."""
    mqtt = settings.listen if environment.mqtt_enabled else ()
    has_amqp = environment.amqp_enabled and amqp_engine.is_installed()
    amqp = amqp_addresses(settings, environment.amqp_port) if has_amqp else ()
    web = web_addresses(settings, environment.http_port) if environment.http_enabled else ()
    plain = [settings.plain_listen] if settings.plain_listen and environment.mqtt_enabled else []
    metrics = metrics_addresses(settings, environment.metrics_port) if environment.serves_metrics else ()
    by_use = (
        (Use.MQTT, mqtt),
        (Use.AMQP, amqp),
        (Use.WEB, web),
        (Use.PLAIN_MQTT, plain),
        (Use.METRICS, metrics),
    )
    asked_for = {
        Use.MQTT: True,
        Use.AMQP: "amqp_listen" in settings.given,
        Use.WEB: "web_listen" in settings.given,
        Use.PLAIN_MQTT: True,
        Use.METRICS: False,
    }
    return [
        Wanted(
            use,
            address,
            is_optional=not asked_for[use],
        )
        for use, addresses in by_use
        for address in addresses
    ]


def _remove_unless_modules_live(run: RunDirectory) -> None:
    """Leave nothing of a start that failed; modules that live on keep their files, for the next agent."""
    if not run.modules.is_dir() or not any(run.modules.iterdir()):
        run.remove()
