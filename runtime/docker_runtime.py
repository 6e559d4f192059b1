"""Module runtime for containers of Docker Engine.

A container belongs to its edge by its labels, so the next agent finds it whatever became of our files. Ends
and health come from the event stream of the engine (docker_engine.py). No handler of an actor waits longer
than a few seconds: a start that takes its time goes on in a thread of its own (container_start.py), and the
actor is told when to ask for it again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.module_spec import ModuleSpec
from actors.ports import ModuleAccess, ModuleEnd, ModuleHealth, ModuleRun, OnExit, OnHealth
from messaging.errors import EdgeError, EngineAway, EnvironmentFault, StartLater
from runtime.caller import ModuleContainer
from runtime.container_maker import ContainerMaker, ContainerNames, why_not_started
from runtime.container_network import remembered_gateway
from runtime.container_start import ContainerStart
from runtime.container_state import end_of, end_with_code, is_listed_unhealthy, is_unhealthy, run_of
from runtime.docker_engine import (
    ANSWER_LIMIT_S,
    ContainerDied,
    ContainerHealth,
    DockerEngine,
    in_background,
)

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

KILL_ALL_LIMIT_S: Final = 5.0


@dataclass(slots=True, eq=False)
class _Watched:
    """A container that runs, or is about to."""

    container_id: str
    on_exit: OnExit
    run: ModuleRun | None = None  # None while it is being started
    died: ContainerDied | None = None  # an end that came before its start was known


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
        self._marker = marker
        self._first = False  # whether there were no containers before this run
        # Told the address at which containers look for the hub, before one of them is started.
        self.on_gateway: Callable[[str], None] = lambda address: None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._watched: dict[str, _Watched] = {}
        self._failed_away: set[str] = set()  # whose last start found no engine
        self._waiting: dict[str, Callable[[], None]] = {}
        self._starts: dict[str, ContainerStart] = {}  # whose result nobody has asked for
        self._on_health: dict[str, OnHealth] = {}
        self._to_remove: set[str] = set()  # removed while no engine answered
        self._engine = DockerEngine(
            names.home_id, on_event=self._on_event, on_away=self._on_away, on_back=self._on_back
        )
        self._maker = ContainerMaker(self._engine, names, marker, environment)

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
        self._first = not self.in_use
        try:
            return self._engine.ask(self._maker.network)
        except EngineAway:
            known = remembered_gateway(self._marker)
            if known is None:
                raise
            return known

    def take_back_gateway(self) -> None:
        """Leave nothing of `gateway` after a start of the edge that failed; no container, no harm done."""
        if not self._first:
            return
        try:
            if self._engine.ask(self._maker.remove_unused_network):
                self._marker.unlink()
                self._marker.parent.rmdir()
        except (EdgeError, OSError) as exc:
            log.debug("what was made for containers stays: %s", exc)  # `down` finds it

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module; see ModuleRuntime. Takes over one that runs and was made from the same."""
        name = module.name
        try:
            start = self._start_of(module, access)
            run = start.result(ANSWER_LIMIT_S)
        except TimeoutError as exc:
            raise StartLater(f"module '{name}': {start.doing}") from exc
        except EdgeError as exc:
            with self._lock:
                self._starts.pop(name, None)
                if isinstance(exc, EngineAway):
                    self._failed_away.add(name)
            if isinstance(exc, EnvironmentFault):
                raise type(exc)(f"module '{name}': {exc}") from exc
            raise
        with self._lock:
            self._starts.pop(name, None)
        start.hand_over(on_exit)
        return run

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        """Call when a module whose start was postponed can be tried again; see ModuleRuntime."""
        with self._lock:
            start = self._starts.get(name)
            if start is None:
                if name not in self._failed_away:
                    return
                if not self._engine.is_watching:
                    self._waiting[name] = on_possible
                    return
        if start is None:
            on_possible()
        else:
            start.when_done(on_possible)

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        """Tell when the HEALTHCHECK of a container says something else; see ModuleRuntime."""
        with self._lock:
            self._on_health[name] = on_health

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds; see ModuleRuntime. The engine does both."""
        with self._lock:
            start = self._starts.get(name)
        if start is not None:
            start.withdraw(grace_s)
        self._stop(name, grace_s)

    def _stop(self, name: str, grace_s: float) -> None:
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

        def look(client: APIClient) -> ModuleRun | ModuleEnd | None:
            found = self._engine.containers(client).get(name)
            return None if found is None else self._look(client, name, found["Id"], on_exit)

        try:
            return self._engine.ask(look)
        except EdgeError as exc:
            log.warning("module %s: it cannot be seen whether it runs: %s", name, exc)
            return None

    def rest(self, name: str) -> None:
        """Nothing is held for the next start of a container; see ModuleRuntime."""

    def remove(self, name: str) -> None:
        """Forget a module that has ended; see ModuleRuntime. Done later when the engine is away."""
        with self._lock:
            if name in self._watched:
                raise ValueError(f"module {name!r} still runs; stop it before it is removed")
        if not self.in_use:
            return

        def remove(client: APIClient) -> None:
            found = self._engine.containers(client).get(name)
            if found is not None:
                client.remove_container(found["Id"], force=True)

        try:
            self._engine.ask(remove)
        except EdgeError as exc:
            log.warning("module %s: its container is removed once that is possible: %s", name, exc)
            with self._lock:
                self._to_remove.add(name)

    def names(self) -> tuple[str, ...]:
        """Return what was started and not removed; see ModuleRuntime. Nothing while the engine is away."""
        if not self.in_use:
            return ()
        try:
            return tuple(sorted(self._engine.ask(self._engine.containers)))
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
        with self._lock:
            for start in self._starts.values():
                start.withdraw(0.0)
        self._engine.close()

    # starting

    def _start_of(self, module: ModuleSpec, access: ModuleAccess) -> ContainerStart:
        """Return the start of a module: the one under way, or a new one.

        Raises:
            ValueError: it runs already.
            StartLater: another start of it has to end first.
        """
        name = module.name
        with self._lock:
            start = self._starts.get(name)
            if start is not None and start.fits(module, access):
                return start
            if start is not None and not start.is_done:
                start.withdraw(0.0)
                raise StartLater("its start before this one is being ended")
            if name in self._watched:
                raise ValueError(f"module {name!r} runs already")
            self._failed_away.discard(name)
            self._to_remove.discard(name)
            start = self._starts[name] = ContainerStart(module, access)
        start.begin(self._make_and_start)
        return start

    def _make_and_start(self, start: ContainerStart) -> ModuleRun:
        """In the thread of the start."""
        name = start.module.name
        with self._engine.calls() as client:
            gateway = self._maker.network(client)
            self.on_gateway(gateway)
            container_id = self._maker.container(client, start.module, start.access, gateway, start.tell)
            if start.withdrawn_grace_s is not None:
                raise StartLater("its start was given up")
            run = self._started(client, name, container_id, start.exited)
        if start.withdrawn_grace_s is not None:
            self._stop(name, start.withdrawn_grace_s)
        return run

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
                raise why_not_started(client, exc) from exc
            raise
        run = run_of(state)
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
            return end_of(state)
        run = run_of(state)
        self._settle(name, watched, run, ended=None)
        if is_unhealthy(state):
            self._tell_health(name, ModuleHealth(False, run.started_at_s))
        return run

    def _settle(self, name: str, watched: _Watched, run: ModuleRun, ended: dict[str, Any] | None) -> None:
        """Note the run of a container; tell its end if it came meanwhile."""
        with self._changed:
            watched.run = run
            died = watched.died
            end = None
            if died is not None and died.at_s >= run.started_at_s:
                end = end_with_code(run, died.exit_code, died.at_s, died.with_engine)
            elif ended is not None:
                end = end_of(ended)
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

        in_background(f"docker {name}", tell)

    # what the engine tells, in the thread of its events

    def _on_event(self, event: ContainerDied | ContainerHealth) -> None:
        if isinstance(event, ContainerDied):
            self._on_died(event)
            return
        with self._lock:
            watched = self._watched.get(event.module)
            run = watched.run if watched is not None and watched.container_id == event.container_id else None
        if run is not None and event.at_s >= run.started_at_s:  # else told twice, as below
            self._tell_health(event.module, ModuleHealth(event.healthy, run.started_at_s))

    def _tell_health(self, name: str, health: ModuleHealth) -> None:
        with self._lock:
            on_health = self._on_health.get(name)
        if on_health is not None:
            on_health(health)

    def _on_died(self, died: ContainerDied) -> None:
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
        watched.on_exit(end_with_code(watched.run, died.exit_code, died.at_s, died.with_engine))

    def _on_away(self) -> None:
        """Nobody knows how the modules are doing."""
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
        """The engine answers, perhaps after it had been away."""
        with self._lock:
            to_remove, self._to_remove = self._to_remove, set()
            running = {name: watched for name, watched in self._watched.items() if watched.run is not None}
        for name in to_remove:
            self.remove(name)
        if running:
            self._catch_up(running)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for on_back in waiting.values():
            on_back()

    def _catch_up(self, running: dict[str, _Watched]) -> None:
        """Tell what became of containers while the engine was out of sight; it took the ended ones along."""
        try:
            found = self._engine.ask(self._engine.containers)
        except EdgeError as exc:
            log.warning("it cannot be seen which containers still run: %s", exc)
            return
        for name, watched in running.items():
            assert watched.run is not None
            if name in found and found[name]["State"] == "running":
                healthy = not is_listed_unhealthy(found[name])
                self._tell_health(name, ModuleHealth(healthy, watched.run.started_at_s))
                continue
            with self._changed:
                if self._watched.get(name) is not watched:
                    continue
                del self._watched[name]
                self._changed.notify_all()
            watched.on_exit(ModuleEnd(None, None, watched.run.started_at_s, time.time(), engine_away=True))
