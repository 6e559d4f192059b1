"""Module runtime for containers of Docker Engine.

A container belongs to its edge by its labels, so the next agent finds it whatever became of our files. It is
created once and started again after each end, with what it wrote inside; another request than the one it was
made from replaces it. Ends come from the event stream of the engine (docker_engine.py).
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.module_spec import DockerSettings, ModuleSpec
from actors.ports import ModuleAccess, ModuleEnd, ModuleRun, OnExit
from messaging.errors import ConfigError, EdgeError, EngineAway, EnvironmentFault
from runtime.caller import ModuleContainer
from runtime.container_network import ensure_network, network_name, remembered_gateway
from runtime.container_request import (
    REQUEST_LABEL,
    SOCKET_FOLDER,
    SPEC_LABEL,
    ContainerRequest,
    Surroundings,
    container_names,
    create_request,
)
from runtime.docker_engine import ContainerDied, DockerEngine, explanation
from runtime.workload_server import SOCKET_NAME

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

KILL_ALL_LIMIT_S: Final = 5.0
_PORT = re.compile(r"(?:Bind for|listen (?:tcp4?|udp4?)) \S*?:(\d+)\b.*(?:allocated|in use)")


@dataclass(slots=True, eq=False)
class _Watched:
    """A container that runs, or is about to."""

    container_id: str
    on_exit: OnExit
    run: ModuleRun | None = None  # None while it is being started
    died: ContainerDied | None = None  # an end that came before its start was known


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """What containers are told of the edge they belong to."""

    home_id: str
    device_id: str
    gateway_name: str


class DockerRuntime:
    """Implements `actors.ports.ModuleRuntime` for containers. Any thread may call.

    Nothing is loaded and nobody asked before the first container, or where an earlier run made some.
    """

    def __init__(
        self,
        names: ContainerNames,
        marker: Path,
        *,
        environment: Callable[[ModuleSpec, ModuleAccess], dict[str, str]],
    ) -> None:
        """Keep what is needed.

        Args:
            names: What containers are told of this edge.
            marker: File in the home that is there when containers were made.
            environment: The variables of a module.
        """
        self._names = names
        self._marker = marker
        self._environment = environment
        # Told the address at which containers look for the hub, before one of them is started.
        self.on_gateway: Callable[[str], None] = lambda address: None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._watched: dict[str, _Watched] = {}
        self._failed_away: set[str] = set()  # whose last start found no engine
        self._waiting: dict[str, Callable[[], None]] = {}
        self._to_remove: set[str] = set()  # removed while no engine answered
        self._engine = DockerEngine(
            names.home_id, on_died=self._on_died, on_away=self._on_away, on_back=self._on_back
        )

    @property
    def in_use(self) -> bool:
        """Whether there may be containers of this edge."""
        return self._marker.exists()

    def gateway(self) -> str:
        """Make the network and return the address at which containers look for the hub.

        While the engine is away, the one of an earlier run, which this machine has until it is switched off.

        Raises:
            EdgeError: the engine is away or refuses.
        """
        try:
            with self._engine.calls() as client:
                return ensure_network(client, self._names.home_id, self._marker)
        except EngineAway:
            known = remembered_gateway(self._marker)
            if known is None:
                raise
            return known

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module; see ModuleRuntime. Takes over one that runs and was made from the same."""
        name = module.name
        with self._lock:
            if name in self._watched:
                raise ValueError(f"module {name!r} runs already")
            self._failed_away.discard(name)
            self._to_remove.discard(name)
        try:
            with self._engine.calls() as client:
                container_id = self._container_for(client, module, access)
                run = self._started(client, name, container_id, on_exit)
        except EngineAway as exc:
            with self._lock:
                self._failed_away.add(name)
            raise EngineAway(f"module '{name}': {exc}") from exc
        except EnvironmentFault as exc:
            raise EnvironmentFault(f"module '{name}': {exc}") from exc
        return run

    def when_back(self, name: str, on_back: Callable[[], None]) -> None:
        """Call when a module whose start found no engine can be tried again; see ModuleRuntime."""
        with self._lock:
            if name not in self._failed_away:
                return
            if not self._engine.is_watching:
                self._waiting[name] = on_back
                return
        on_back()

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds; see ModuleRuntime. The engine does both."""
        whole_s = math.ceil(grace_s)
        self._tell(name, "stopped", lambda client, container: client.stop(container, timeout=whole_s))

    def kill(self, name: str) -> None:
        """Kill a module; see ModuleRuntime."""
        self._tell(name, "killed", lambda client, container: client.kill(container))

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        """Take over what runs under a name; see ModuleRuntime. None as well while the engine is away."""
        if not self.in_use:
            return None
        with self._lock:
            watched = self._watched.get(name)
            if watched is not None and watched.run is not None:
                watched.on_exit = on_exit
                return watched.run
        try:
            with self._engine.calls() as client:
                found = self._engine.containers(client).get(name)
                return None if found is None else self._look(client, name, found["Id"], on_exit)
        except EdgeError as exc:
            log.warning("module %s: it cannot be seen whether it runs: %s", name, exc)
            return None

    def remove(self, name: str) -> None:
        """Forget a module that has ended; see ModuleRuntime. Done later when the engine is away."""
        with self._lock:
            if name in self._watched:
                raise ValueError(f"module {name!r} still runs; stop it before it is removed")
        if not self.in_use:
            return
        try:
            with self._engine.calls() as client:
                found = self._engine.containers(client).get(name)
                if found is not None:
                    client.remove_container(found["Id"], force=True)
        except EdgeError as exc:
            log.warning("module %s: its container is removed once that is possible: %s", name, exc)
            with self._lock:
                self._to_remove.add(name)

    def names(self) -> tuple[str, ...]:
        """Return what was started and not removed; see ModuleRuntime. Nothing while the engine is away."""
        if not self.in_use:
            return ()
        try:
            with self._engine.calls() as client:
                return tuple(sorted(self._engine.containers(client)))
        except EdgeError as exc:
            log.warning("it cannot be seen which containers there are: %s", exc)
            return ()

    def kill_all(self) -> None:
        """Kill whatever still runs: the last resort when the actors did not end their modules."""
        with self._lock:
            names = list(self._watched)
        for name in names:
            self.kill(name)
        with self._changed:
            self._changed.wait_for(lambda: not self._watched, KILL_ALL_LIMIT_S)

    def caller_of(self, name: str) -> ModuleContainer | None:
        """Return by what the caller of a workload socket is known, None when the module does not run."""
        with self._lock:
            watched = self._watched.get(name)
            return None if watched is None else ModuleContainer(watched.container_id)

    def close(self) -> None:
        """End the watching. What still runs lives on, for the next agent to adopt."""
        self._engine.close()

    # starting

    def _container_for(self, client: APIClient, module: ModuleSpec, access: ModuleAccess) -> str:
        """Return the container of a module, a new one unless there is one made from the same request."""
        gateway = ensure_network(client, self._names.home_id, self._marker)
        self.on_gateway(gateway)
        request = self._request(module, access, gateway)
        found = self._engine.containers(client).get(module.name)
        if found is not None:
            if found["Labels"].get(REQUEST_LABEL) == request.digest:
                return str(found["Id"])
            client.remove_container(found["Id"], force=True)
        for option in request.left_out:
            log.warning(
                "module %s: HostConfig.%s of its createOptions is left out; restarts and removal follow "
                "the deployment",
                module.name,
                option,
            )
        return self._create(client, module, request)

    def _request(self, module: ModuleSpec, access: ModuleAccess, gateway: str) -> ContainerRequest:
        names = self._names
        around = Surroundings(names.home_id, network_name(names.home_id), gateway, names.gateway_name)
        environment = self._environment(module, access) | {"IOTEDGE_GATEWAYHOSTNAME": names.gateway_name}
        folder = ""
        if access.workload_uri:
            folder = str(Path(access.workload_uri.removeprefix("unix://")).parent)
            environment["IOTEDGE_WORKLOADURI"] = f"unix://{SOCKET_FOLDER}/{SOCKET_NAME}"
        return create_request(module, environment, folder, around)

    def _create(self, client: APIClient, module: ModuleSpec, request: ContainerRequest) -> str:
        from docker.errors import APIError, ImageNotFound

        settings = module.settings
        assert isinstance(settings, DockerSettings)
        names = container_names(module.name, self._names.device_id, self._names.home_id)
        for name in names:
            try:
                made = client.create_container_from_config(request.body, name)  # type: ignore[no-untyped-call]
                return str(made["Id"])
            except ImageNotFound as exc:
                raise ConfigError(
                    f"module '{module.name}': image '{settings.image}' not found on this device; pull it "
                    f"(`docker pull {settings.image}`), or fix settings.image in the deployment"
                ) from exc
            except APIError as exc:
                if exc.status_code != 409 or name == names[-1]:
                    raise ConfigError(
                        f"module '{module.name}': Docker Engine refuses to create its container: "
                        f"{explanation(exc)}; fix settings.createOptions in the deployment"
                    ) from exc
                log.info("container name %s is taken by somebody else's", name)
        raise AssertionError("the last name returned or raised")

    def _started(self, client: APIClient, name: str, container_id: str, on_exit: OnExit) -> ModuleRun:
        from docker.errors import APIError

        watched = _Watched(container_id, on_exit)
        with self._lock:
            self._watched[name] = watched  # from now on it may end, and ask the workload API
        try:
            client.start(container_id)
            state = client.inspect_container(container_id)
        except BaseException as exc:
            self._forget(name, watched)
            if isinstance(exc, APIError):
                raise EnvironmentFault(self._why_not_started(client, exc)) from exc
            raise
        run = _run(state)
        self._settle(name, watched, run, ended=None if state["State"]["Running"] else state)
        return run

    def _look(
        self, client: APIClient, name: str, container_id: str, on_exit: OnExit
    ) -> ModuleRun | ModuleEnd | None:
        """Watch a container that was found, when it runs."""
        watched = _Watched(container_id, on_exit)
        with self._lock:
            self._watched[name] = watched
        try:
            state = client.inspect_container(container_id)
        except BaseException:
            self._forget(name, watched)
            raise
        if not state["State"]["Running"]:
            self._forget(name, watched)
            return _end(state)
        run = _run(state)
        self._settle(name, watched, run, ended=None)
        return run

    def _settle(self, name: str, watched: _Watched, run: ModuleRun, ended: dict[str, Any] | None) -> None:
        """Note the run of a container; tell its end if it came meanwhile."""
        with self._changed:
            watched.run = run
            died = watched.died
            end = None
            if died is not None and died.at_s >= run.started_at_s:
                end = _end_of(run, died.exit_code, died.at_s, died.with_engine)
            elif ended is not None:
                end = _end(ended)
            if end is None or self._watched.get(name) is not watched:
                return
            del self._watched[name]
            self._changed.notify_all()
        watched.on_exit(end)

    def _forget(self, name: str, watched: _Watched) -> None:
        with self._changed:
            if self._watched.get(name) is watched:
                del self._watched[name]
                self._changed.notify_all()

    def _why_not_started(self, client: APIClient, error: Any) -> str:
        text = explanation(error)
        taken = _PORT.search(text)
        if taken is None:
            return f"Docker Engine cannot start its container: {text}; fix settings in the deployment"
        holder = _holder_of(client, int(taken[1]))
        return (
            f"port {taken[1]} is taken by {holder}; stop that, or choose another port in "
            "HostConfig.PortBindings of its createOptions"
        )

    # ending

    def _tell(self, name: str, what: str, command: Callable[[APIClient, str], None]) -> None:
        """Have the engine do something to a container that runs, in a thread: it may take the whole grace."""
        with self._lock:
            watched = self._watched.get(name)
        if watched is None:
            return

        def tell() -> None:
            try:
                with self._engine.calls() as client:
                    command(client, watched.container_id)
            except EdgeError as exc:
                with self._lock:
                    over = self._watched.get(name) is not watched
                if not over:  # not ended by itself meanwhile
                    log.error("module %s cannot be %s: %s", name, what, exc)

        threading.Thread(target=tell, name=f"docker {name}", daemon=True).start()

    def _on_died(self, died: ContainerDied) -> None:
        """In the thread of the engine's events."""
        with self._changed:
            watched = self._watched.get(died.module)
            if watched is None or watched.container_id != died.container_id:
                return
            if watched.run is None:
                watched.died = died
                return
            if died.at_s < watched.run.started_at_s:
                return  # told twice: events are asked for from a moment back
            del self._watched[died.module]
            self._changed.notify_all()
        watched.on_exit(_end_of(watched.run, died.exit_code, died.at_s, died.with_engine))

    def _on_away(self) -> None:
        """In the thread of the engine's events: nobody knows how the modules are doing."""
        with self._changed:
            lost = {name: watched for name, watched in self._watched.items() if watched.run is not None}
            for name in lost:
                del self._watched[name]
            self._changed.notify_all()
        now_s = time.time()
        for watched in lost.values():
            assert watched.run is not None
            watched.on_exit(ModuleEnd(None, None, watched.run.started_at_s, now_s, engine_away=True))

    def _on_back(self) -> None:
        """In the thread of the engine's events: the engine answers, perhaps after it had been away."""
        with self._lock:
            to_remove, self._to_remove = self._to_remove, set()
            running = {name: watched for name, watched in self._watched.items() if watched.run is not None}
        for name in to_remove:
            self.remove(name)
        if running:
            self._find_ended(running)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for on_back in waiting.values():
            on_back()

    def _find_ended(self, running: dict[str, _Watched]) -> None:
        """Tell the ends of containers that ended while the engine was out of sight: it took them along."""
        try:
            with self._engine.calls() as client:
                found = self._engine.containers(client)
        except EdgeError as exc:
            log.warning("it cannot be seen which containers still run: %s", exc)
            return
        for name, watched in running.items():
            if name in found and found[name]["State"] == "running":
                continue
            with self._changed:
                if self._watched.get(name) is not watched:
                    continue
                del self._watched[name]
                self._changed.notify_all()
            assert watched.run is not None
            watched.on_exit(ModuleEnd(None, None, watched.run.started_at_s, time.time(), engine_away=True))


def _run(container: dict[str, Any]) -> ModuleRun:
    state, labels = container["State"], container["Config"]["Labels"]
    started_at_s = _seconds(state["StartedAt"])
    return ModuleRun(state["Pid"], started_at_s or time.time(), spec_hash=labels.get(SPEC_LABEL))


def _end(container: dict[str, Any]) -> ModuleEnd | None:
    """Return how the last run of a container ended, None when it never ran."""
    state = container["State"]
    started_at_s = _seconds(state["StartedAt"])
    if started_at_s is None:
        return None
    run = ModuleRun(0, started_at_s)
    return _end_of(run, state["ExitCode"], _seconds(state["FinishedAt"]) or time.time())


def _end_of(run: ModuleRun, exit_code: int | None, at_s: float, with_engine: bool = False) -> ModuleEnd:
    # Docker, as a shell, tells a signal as 128 + its number.
    by_signal = exit_code is not None and 128 < exit_code <= 128 + 64
    number = exit_code - 128 if by_signal and exit_code is not None else None
    return ModuleEnd(exit_code, number, run.started_at_s, at_s, with_engine)


def _seconds(text: str) -> float | None:
    """Return seconds since 1970-01-01 UTC from 2024-05-06T07:08:09.123456789Z; None for Docker's "never"."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    at_s = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return None if at_s < 0 else at_s + float(f"0.{fraction or 0}")


def _holder_of(client: APIClient, port: int) -> str:
    for container in client.containers():
        if any(bound.get("PublicPort") == port for bound in container.get("Ports") or ()):
            return f"container '{container['Names'][0].removeprefix('/')}'"
    return "a process that is no container"
