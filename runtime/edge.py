"""The agent process: takes what it needs of the machine, starts the actors, waits, and gives all back.

In this order, so that a mistake of the user's is told before anything runs: deployment, run directory and
lock, listening sockets, keys and certificates, then the actors. The main thread only waits for signals, for
the time limit of `--for`, and for the end of the root actor.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.addresses import AGENT, AGENT_PROCESS, SECURITY
from actors.agent.agent import AgentActor
from actors.agent.deployment_keeper import DeploymentKeeper
from actors.agent.link_messages import LINK
from actors.agent.module_tree import KillModules
from actors.agent.process_permission import Origin
from actors.agent.registry import REGISTRY, RegistryActor
from actors.agent.reported import Platform
from actors.agent.rollout import start_groups
from actors.agent.root import AgentRootActor, StopEdge
from actors.agent.security import SecurityActor
from actors.agent.supervisor_messages import RestartModule
from actors.hub import config as hub_config
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.hosts import ThreadSystem
from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import (
    EDGE_AGENT,
    EDGE_HUB,
    DockerSettings,
    ModuleStatus,
    ProcessSettings,
    spec_hash,
)
from actors.ports.modules import ModuleRun
from messaging.address import child_of
from messaging.errors import EdgeError
from messaging.version import VERSION
from messaging.zmq_bus import ZmqBus
from runtime.agent.cloud_actors import AgentLinkChoice, cloud_actors
from runtime.agent.cloud_start import KILL_LIMIT_S, CloudStart, cloud_spec
from runtime.agent.connection_keeper import ConnectionKeeper
from runtime.agent.containers import container_runtime, edge_names, listening_for_containers, with_gateway
from runtime.agent.deployed_ports import as_deployed
from runtime.agent.deployments import Chosen, EdgeDeployments, choose
from runtime.agent.embedded_cloud import EmbeddedCloud, embedded_cloud
from runtime.agent.end import EdgeEnd
from runtime.agent.hub_settings import (
    hub_listeners,
    hub_settings,
    message_db_of,
    names_of_server,
    upstream_protocol,
    wants_hub,
    with_hub_version,
)
from runtime.agent.hub_sockets import HubSockets
from runtime.agent.inspector_note import inspector, write_note
from runtime.agent.last_deployment import LastDeployment
from runtime.agent.measured_runtime import MeasuredRuntime
from runtime.agent.metrics import EdgeMetrics
from runtime.agent.module_records import ModuleRecordFiles
from runtime.agent.modules import EdgeModules
from runtime.agent.security import EdgeSecurity
from runtime.config.device_file import remember_device
from runtime.config.settings import Settings
from runtime.daemon.management_server import ManagementServer
from runtime.docker.runtime import DockerRuntime
from runtime.exit_codes import DONE, PART_FAILED
from runtime.home import Home
from runtime.home_place import came_from_elsewhere
from runtime.machine.lean_memory import share_one_arena
from runtime.machine.one_core import on_one_core
from runtime.machine.process_end import end_at_once
from runtime.machine.service_manager import ServiceManager, SignsOfLife
from runtime.modules.isolation import ProcessIsolation
from runtime.modules.runtimes import ModuleRuntimes
from runtime.modules.users import ModuleUsers, group_of
from runtime.run_directory import AGENT as AGENT_LOCK
from runtime.run_directory import Lock, RunDirectory, check_home, prepare_home
from runtime.security.given_ca import GivenCa, ca_source
from runtime.security.trust_bundle import trusted_pem
from runtime.storage.atomic_file import write_private_file
from runtime.storage.store_place import database_of
from runtime.upstream.provisioning import Provisioned, enrollment_of, provision, remember

if TYPE_CHECKING:  # imported when somebody asks
    from runtime.daemon.management_api import ManagementApi

log = logging.getLogger(__name__)

MOVED: Final = -1  # to another IoT Hub or key; never an exit code
ANEW: Final = -2  # the program is to be run again with the settings of now; never an exit code
ACTORS_STOP_LIMIT_S: Final = 15.0  # after the modules have ended
COPIED: Final = (
    "home %s was copied or moved here from another machine or folder; it is still device '%s'. "
    "If the edge that it comes from still runs, both are one device to the cloud, and messages that wait in "
    "both are sent twice: end one of them, or start here with an empty --home and another --device-id"
)


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
    earlier, message_db = database_of(Home(settings.home)), message_db_of(settings, deployment)
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
        self._end = EdgeEnd()
        self._is_moved = self._is_anew = False
        self._read_again = read_again
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
        self._metrics = EdgeMetrics(settings, chosen.deployment.agent_environment)
        self._modules = ModuleRuntimes(processes, containers)
        self._cloud_start = (
            CloudStart(cloud, settings.device_id, self._modules, self._records) if cloud else None
        )

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
        if self._cloud_start is not None:
            self._provisioned = self._cloud_start.start(self._provisioned, self._deployment_path)
        remember_device(settings.home, settings.device_id)
        remember(home, self._provisioned, same_hub=self._cloud is not None)
        if came_from_elsewhere(home.path):
            log.warning(COPIED, home.path, settings.device_id)
        self._security = EdgeSecurity(
            home,
            self._run.path,
            names=self._names,
            server_names=names_of_server(settings),
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
        self._deployment = with_hub_version(settings, self._deployment, config)
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
        self._metrics.tell_as(self._settings, self._deployment.agent_environment)
        credentials = self._deployment.runtime.registry_credentials.values()
        self._modules.deployed(tuple(self._deployment.modules.values()), tuple(credentials))

    def take_back_cloud(self) -> None:
        """End the stand-in that was started, when nothing else will be."""
        if self._cloud_start is not None:
            self._cloud_start.take_back()

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
        with self._end.signals_caught():
            system = ThreadSystem(bus, end_process=end_at_once)
            root = ChildSpec(AGENT_PROCESS, lambda: self._root(began_s, system), exported=True)
            on_one_core(lambda: system.spawn(root, AGENT_PROCESS, "", self._end.tell_root_end))
            self._management.serve(lambda: self._management_api(began_s))
            signs = SignsOfLife(manager, bus) if manager is not None else None
            log.info("edge %s runs, version %s, home %s", self._settings.device_id, VERSION, self._home.path)
            log.info("certificates of this edge: %s", security.validity())
            if not self._chosen.file_name and self._chosen.kept is None:
                log.info("waiting for a deployment from %s", self._settings.iothub_hostname)
            self._end.wait(ends_s)
            if signs is not None:
                goes_on = self._is_moved or self._is_anew
                signs.stopping(self._stop_limit_s + 2 * KILL_LIMIT_S, for_good=not goes_on)
            if not self._end.root_ended:
                log.info("edge %s is stopping", self._settings.device_id)
                bus.send(AGENT_PROCESS, StopEdge())
                self._wait_for_end(bus)
            if signs is not None:
                signs.close()
        if self._end.failure or not self._end.root_ended:
            # Actors may still run, so the bus is left to the end of this process; so are the modules, which
            # the next agent takes over.
            log.error("the edge failed: %s", self._end.failure or "the actors did not stop in time")
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
        self._metrics.close()
        self._end.close()
        if self._end.root_ended and not self._end.failure:
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
        from runtime.daemon.management_api import ManagementApi, commands_of

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
            else cloud_actors(self._provisioned, self._home, self._link.connections, self._metrics.counts)
        )
        return AgentRootActor(
            lambda: SecurityActor(security, REGISTRY if registry else ""),
            lambda: RegistryActor(registry, security=SECURITY, random=random.random),
            lambda: self._agent(began_s),
            cloud,
            self._start_anew,
            lambda: self._metrics.actor(
                self._home, system, security.certificates, began_s, self._link_address
            ),
            lambda: inspector(system, self._settings.allow_faults),
            faults=self._faults if self._settings.allow_faults else None,
        )

    @property
    def _link_address(self) -> str:
        return LINK if self._provisioned else ""

    def _faults(self) -> EdgeActor:
        from runtime.fault_point import faults_actor  # only where they are allowed

        assert self._bus is not None
        return faults_actor(self._bus)

    def _agent(self, began_s: float) -> AgentActor:
        keeper = self._keeper
        assert keeper is not None
        return AgentActor(
            keeper,
            security=SECURITY,
            runtime=MeasuredRuntime(self._modules, self._metrics.counts),
            records=self._records,
            stop_grace_s=self._settings.stop_grace_s,
            hub_grace_s=self._hub_grace_s,
            agent_pid=os.getpid(),
            started_at_s=began_s,
            link=self._link_address,
            platform=Platform(architecture=os.uname().machine),
            cloud=None if self._cloud is None else cloud_spec(self._cloud),
            until_ready=self._settings.start_when_ready,
            trial_s=self._settings.deployment_trial,
            metrics=self._metrics.counts,
        )

    def _on_moved(self) -> None:
        """In a worker thread: stop as if asked to; what comes next is another device, or has another key."""
        self._is_moved = True
        self._end.ask()

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
        self._end.ask()
        return ""

    def _wait_for_end(self, bus: ZmqBus) -> None:
        """Wait until all actors have stopped; a second signal ends the modules at once."""
        limit_s = self._stop_limit_s
        if self._end.wait(time.monotonic() + limit_s):
            log.warning("asked again: modules are killed")
        elif not self._end.root_ended:
            log.error("modules did not end within %.0f s and are killed", limit_s)
        if not self._end.root_ended:
            bus.send(AGENT, KillModules())
            self._wait_through_signals(KILL_LIMIT_S)
        if not self._end.root_ended:
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
        while self._end.wait(ends_s):
            log.warning("modules are being killed already")

    # the hub

    @property
    def _hub_grace_s(self) -> float:
        wait_s = self._environment.shutdown_wait_s
        return self._settings.stop_grace_s if wait_s is None else wait_s

    @property
    def _hub_wanted(self) -> bool:
        return wants_hub(self._deployment)

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
        self._metrics.tell_as(self._settings, self._deployment.agent_environment)
        log.info("containers look for the hub at %s; it is restarted to listen there too", gateway)
        self._bus.send(child_of(AGENT, EDGE_HUB), RestartModule(EDGE_HUB))

    def _hub_lives(self) -> bool:
        return isinstance(self._modules.adopt(EDGE_HUB, lambda end: self._hub_ended.set()), ModuleRun)

    def _end_hub(self) -> None:
        """End a hub of a former agent that was made from something else, for its ports."""
        log.info("the hub of an earlier run is ended: its settings changed")
        self._modules.stop(EDGE_HUB, self._hub_grace_s)
        self._hub_ended.wait(self._hub_grace_s + KILL_LIMIT_S)

    def _put_in_place(self, deployment: Deployment) -> Deployment:
        """In the agent's thread: have ready what the hub of a new deployment starts from."""
        security = self._security
        assert security is not None
        environment = deployment.hub_environment.values
        with self._new_gateway:
            settings = self._listening_for(deployment)
            config = hub_settings(settings, deployment, security.certificate_file)
            made = with_hub_version(settings, deployment, config)
            wanted = hub_listeners(settings, environment)
            if wants_hub(deployment):
                self._hub_sockets.listen_on(wanted)
            else:
                self._hub_sockets.want(wanted)
            if settings.listen != self._settings.listen:
                security.serve_under(names_of_server(settings))
            write_private_file(self._home.hub_config, hub_config.encode(config))
            self._settings, self._deployment, self._environment = settings, made, environment
        self._link.choose(upstream_protocol(settings, deployment))
        self._metrics.tell_as(self._settings, self._deployment.agent_environment)
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

    def _hub_is_current(self) -> bool:
        hub, record = self._deployment.edge_hub, self._records.load(EDGE_HUB)
        return hub is not None and record is not None and record.spec_hash == spec_hash(hub)


def _remove_unless_modules_live(run: RunDirectory) -> None:
    """Leave nothing of a start that failed; modules that live on keep their files, for the next agent."""
    if not run.modules.is_dir() or not any(run.modules.iterdir()):
        run.remove()
