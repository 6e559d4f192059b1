"""The agent process: takes what it needs of the machine, starts the actors, waits, and gives all back.

In this order, so that a mistake of the user's is told before anything runs: deployment, run directory and
lock, listening sockets, keys and certificates, then the actors. The main thread only waits for signals, for
the time limit of `--for`, and for the end of the root actor.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from actors import hub_config, process_permission
from actors.agent import AgentActor, KillModules, start_groups
from actors.agent_root import AGENT, AGENT_PROCESS, SECURITY, AgentRootActor, StopEdge
from actors.base import ChildSpec
from actors.deployment import Deployment, parse_deployment
from actors.hosts import ThreadSystem
from actors.hub_config import HubConfig, route_texts
from actors.hub_environment import HubEnvironment
from actors.hub_manifest import StoreFullPolicy
from actors.module_spec import EDGE_HUB, DesiredStatus, DockerSettings, ProcessSettings, spec_hash
from actors.ports import ModuleRun
from actors.process_permission import Origin
from actors.security import SecurityActor
from actors.supervisor import RestartModule
from messaging.address import child_of
from messaging.errors import ConfigError
from messaging.zmq_bus import ZmqBus
from runtime import listening_sockets
from runtime.atomic_file import write_private_file
from runtime.certificates import server_names
from runtime.config import Settings, remember_device, web_addresses
from runtime.deployed_ports import as_deployed
from runtime.docker_runtime import DockerRuntime
from runtime.edge_containers import container_runtime, edge_names, listening_for_containers, with_gateway
from runtime.edge_modules import EdgeModules
from runtime.edge_security import EdgeSecurity
from runtime.home import Home
from runtime.home_place import came_from_elsewhere
from runtime.hub_sockets import HubSockets, Wanted
from runtime.isolation import ProcessIsolation
from runtime.listening_sockets import Use
from runtime.module_records import ModuleRecordFiles
from runtime.module_runtimes import ModuleRuntimes
from runtime.module_users import ModuleUsers, group_of
from runtime.one_core import on_one_core
from runtime.process_end import FAILED, end_at_once
from runtime.run_directory import AGENT as AGENT_LOCK
from runtime.run_directory import Lock, RunDirectory, prepare_home
from runtime.store_place import check_folder, chosen_folder, database_in, database_of
from runtime.trust_bundle import trusted_pem

log = logging.getLogger(__name__)

DONE: Final = 0
ACTORS_STOP_LIMIT_S: Final = 15.0  # after the modules have ended
COPIED: Final = (
    "home %s was copied or moved here from another machine or folder; it is still device '%s'. "
    "If the edge that it comes from still runs, both are one device to the cloud, and messages that wait in "
    "both are sent twice: end one of them, or start here with an empty --home and another --device-id"
)
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
KILL_LIMIT_S: Final = 5.0  # for everything to end after the second Ctrl-C


def run_edge(settings: Settings, deployment_path: Path, for_s: float | None = None) -> int:
    """Run an edge until SIGTERM, SIGINT, or for `for_s` seconds. In the main thread: it takes the signals.

    Args:
        settings: Home, addresses, names and limits.
        deployment_path: The manifest.
        for_s: How long to run, None for as long as nobody ends it.

    Returns:
        0 when it ended as asked, 70 when a part of it failed for good.

    Raises:
        ConfigError: deployment or settings are wrong; nothing was started or changed.
        EnvironmentFault: port in use, another edge on this home, home not writable; nothing was started.
    """
    deployment = read_deployment(deployment_path)
    process_permission.check(deployment, Origin.LOCAL, settings.process_allow)
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
        stack.callback(_remove_unless_modules_live, run)
        settings = as_deployed(settings, deployment)
        containers = container_runtime(settings, run)
        settings = listening_for_containers(settings, deployment, containers)
        edge = _Edge(settings, deployment, deployment_path.resolve().parent, run, containers, umask)
        stack.callback(edge.close)
        try:
            edge.prepare()
        except BaseException:
            containers.take_back_gateway()
            raise
        return edge.run(for_s)


def read_deployment(path: Path) -> Deployment:
    """Return the deployment in a file.

    Raises:
        DeploymentError: the manifest is wrong.
        ConfigError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"deployment '{path}' cannot be read: {exc.strerror}; name a manifest with --deployment"
        ) from exc
    return parse_deployment(content, str(path))


def hub_settings(settings: Settings, deployment: Deployment, certificate: Path) -> HubConfig:
    """Return what the hub process has to know."""
    hub = deployment.hub
    return HubConfig(
        device_id=settings.device_id,
        iothub_hostname=settings.iothub_hostname,
        host_names=_server_names(settings),
        certificate_file=str(certificate),
        key_file=str(certificate),
        twins={module: dict(desired) for module, desired in deployment.twins.items()},
        routes=route_texts(hub),
        ttl_s=hub.ttl_s,
        environment=deployment.hub_environment.values,
        message_db=str(_message_db(settings, deployment)),
        max_store_bytes=hub.max_size_bytes,
        drops_oldest=hub.when_full is StoreFullPolicy.DROP_OLDEST,
    )


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
        deployment: Deployment,
        deployment_folder: Path,
        run: RunDirectory,
        containers: DockerRuntime,
        umask: int,
    ) -> None:
        self._settings = settings
        self._deployment = deployment
        self._environment = deployment.hub_environment.values
        self._run = run
        self._home = Home(run.home)
        self._records = ModuleRecordFiles(self._home.modules)
        self._hub_sockets = HubSockets(hub_listeners(settings, self._environment))
        self._security: EdgeSecurity | None = None
        self._hub_ended = threading.Event()
        self._failure = ""
        self._root_ended = False
        self._wake_reader, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._bus: ZmqBus | None = None
        self._new_gateway = threading.Lock()
        containers.on_gateway = self._listen_for_container
        isolated = os.geteuid() == 0 and settings.process_isolation != "off"
        self._users = ModuleUsers(self._home, run, settings.process_uids) if isolated else None
        self._names = edge_names(settings)
        processes = EdgeModules(
            run,
            names=self._names,
            deployment_folder=deployment_folder,
            log_level=settings.log_level,
            isolation=ProcessIsolation(settings.process_isolation, self._users),
            umask=umask,
            hub_sockets=self._sockets_for_hub,
            close_hub_sockets=self._hub_sockets.close,
        )
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
        remember_device(settings)
        if came_from_elsewhere(home.path):
            log.warning(COPIED, home.path, settings.device_id)
        self._security = EdgeSecurity(
            home,
            self._run.path,
            names=self._names,
            server_names=_server_names(settings),
            process_of=self._modules.process_of,
            trusted_pem=trusted_pem(settings),
            group_of=self._group_of,
            image_of=self._image_of,
            now_s=time.time,
        )
        config = hub_settings(settings, self._deployment, self._security.certificate_file)
        self._deployment = self._with_hub_version(config)
        if hub_lives and not sockets_held and not self._hub_is_current():
            self._end_hub()  # for its ports; with the sockets in hand its supervisor replaces it
            self._hub_sockets.bind()
        write_private_file(home.hub_config, hub_config.encode(config))
        credentials = self._deployment.runtime.registry_credentials.values()
        self._modules.deployed(tuple(self._deployment.modules.values()), tuple(credentials))

    def run(self, for_s: float | None) -> int:
        """Start the actors and wait for the end."""
        bus = self._bus = ZmqBus(AGENT_PROCESS, self._run.path)
        began_s = time.time()
        ends_s = None if for_s is None else time.monotonic() + for_s
        with self._signals_caught():
            root = ChildSpec(AGENT_PROCESS, lambda: self._root(began_s), exported=True)
            system = ThreadSystem(bus, end_process=end_at_once)
            on_one_core(lambda: system.spawn(root, AGENT_PROCESS, "", self._on_root_end))
            log.info("edge %s runs, home %s", self._settings.device_id, self._home.path)
            self._wait(ends_s)
            if not self._root_ended:
                log.info("stopping")
                bus.send(AGENT_PROCESS, StopEdge())
                self._wait_for_end(bus)
        if self._failure or not self._root_ended:
            # Actors may still run, so the bus is left to the end of this process; so are the modules, which
            # the next agent takes over.
            log.error("the edge failed: %s", self._failure or "the actors did not stop in time")
            return FAILED
        self._modules.kill_all()
        bus.close()
        log.info("stopped")
        return DONE

    def close(self) -> None:
        """Give everything back but modules that outlived a failure."""
        if self._security is not None:
            self._security.close()
        self._modules.close()
        self._hub_sockets.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        if self._root_ended and not self._failure:
            self._run.remove()

    def _group_of(self, name: str) -> int | None:
        """Return who may use the workload socket of a module; a container may have any user."""
        module = self._deployment.modules.get(name)
        if module is None or not isinstance(module.settings, ProcessSettings):
            return None
        return group_of(self._users, name)

    def _image_of(self, name: str) -> str | None:
        module = self._deployment.modules.get(name)
        return module.settings.image if module and isinstance(module.settings, DockerSettings) else None

    # the actors

    def _root(self, began_s: float) -> AgentRootActor:
        security = self._security
        assert security is not None
        return AgentRootActor(lambda: SecurityActor(security), lambda: self._agent(began_s))

    def _agent(self, began_s: float) -> AgentActor:
        return AgentActor(
            self._deployment,
            security=SECURITY,
            runtime=self._modules,
            records=self._records,
            stop_grace_s=self._settings.stop_grace_s,
            hub_grace_s=self._hub_grace_s,
            agent_pid=os.getpid(),
            started_at_s=began_s,
        )

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
        groups = len(start_groups(self._deployment))
        grace_s = self._settings.stop_grace_s
        limit_s = groups * (grace_s + KILL_LIMIT_S) + ACTORS_STOP_LIMIT_S
        limit_s += max(0.0, self._hub_grace_s - grace_s)
        if self._wait(time.monotonic() + limit_s):
            log.warning("asked again: modules are killed")
        elif not self._root_ended:
            log.error("modules did not end within %.0f s and are killed", limit_s)
        if not self._root_ended:
            bus.send(AGENT, KillModules())
            self._wait_through_signals(KILL_LIMIT_S)
        if not self._root_ended:
            self._modules.kill_all()

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
        hub = self._deployment.edge_hub
        return hub is not None and hub.status is DesiredStatus.RUNNING

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
        log.info("containers look for the hub at %s; it is restarted to listen there too", gateway)
        self._bus.send(child_of(AGENT, EDGE_HUB), RestartModule(EDGE_HUB))

    def _hub_lives(self) -> bool:
        return isinstance(self._modules.adopt(EDGE_HUB, lambda end: self._hub_ended.set()), ModuleRun)

    def _end_hub(self) -> None:
        """End a hub of a former agent that was made from something else, for its ports."""
        log.info("the hub of an earlier run is ended: its settings changed")
        self._modules.stop(EDGE_HUB, self._hub_grace_s)
        self._hub_ended.wait(self._hub_grace_s + KILL_LIMIT_S)

    def _with_hub_version(self, config: HubConfig) -> Deployment:
        """Make configuration and addresses part of what the hub is made from: a change replaces it.

        Not its routes and twins: a hub that lives is told of new ones.
        """
        hub = self._deployment.edge_hub
        if hub is None:
            return self._deployment
        settings = self._settings
        fixed = hub_config.encode(msgspec.structs.replace(config, routes=(), ttl_s=None, twins={}))
        made_from = f"{hub_listeners(settings, self._environment)} ".encode() + fixed
        digest = hashlib.sha256(made_from).hexdigest()[:16]
        return replace(self._deployment, edge_hub=replace(hub, version=f"{hub.version}+{digest}"))

    def _hub_is_current(self) -> bool:
        hub, record = self._deployment.edge_hub, self._records.load(EDGE_HUB)
        return hub is not None and record is not None and record.spec_hash == spec_hash(hub)


def _server_names(settings: Settings) -> tuple[str, ...]:
    addresses = (*settings.listen, *web_addresses(settings))
    return server_names(settings.hostname, (address.host for address in addresses))


def hub_listeners(settings: Settings, environment: HubEnvironment) -> list[Wanted]:
    """Return on what the hub is to listen. A web port that this device does not ask for may be missing."""
    mqtt = settings.listen if environment.mqtt_enabled else ()
    web = web_addresses(settings, environment.http_port) if environment.http_enabled else ()
    plain = [settings.plain_listen] if settings.plain_listen and environment.mqtt_enabled else []
    by_use = ((Use.MQTT, mqtt), (Use.WEB, web), (Use.PLAIN_MQTT, plain))
    return [
        Wanted(
            use,
            listening_sockets.ListenAddress(ipaddress.ip_address(address.host), address.port),
            is_optional=use is Use.WEB and "web_listen" not in settings.given,
        )
        for use, addresses in by_use
        for address in addresses
    ]


def _remove_unless_modules_live(run: RunDirectory) -> None:
    """Leave nothing of a start that failed; modules that live on keep their files, for the next agent."""
    if not run.modules.is_dir() or not any(run.modules.iterdir()):
        run.remove()
