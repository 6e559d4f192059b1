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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.module_spec import DockerSettings, ModuleSpec
from actors.ports import (
    ModuleAccess,
    ModuleEnd,
    ModuleHealth,
    ModuleRun,
    OnExit,
    OnHealth,
    OnPreparation,
)
from actors.registries import RegistryCredential
from messaging.errors import EdgeError, EngineAway, EnvironmentFault, ImageComing, StartLater
from runtime.caller import ModuleContainer
from runtime.container_images import ContainerImages
from runtime.container_maker import ContainerGone, ContainerMaker, ContainerNames, why_not_started
from runtime.container_network import remembered_gateway
from runtime.container_start import ContainerStart
from runtime.container_state import end_of, is_unhealthy, run_of
from runtime.container_watch import ContainerWatch, Watched
from runtime.docker_engine import ANSWER_LIMIT_S, DockerEngine, in_background
from runtime.image_collector import CollectionTimes, ImageCollector
from runtime.image_preparation import ImagePreparation
from runtime.image_use import ImageUse

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

KILL_ALL_LIMIT_S: Final = 5.0
REMOVAL_LIMIT_S: Final = 20.0  # for a container that somebody removes while it is to be started
REMOVAL_LOOK_S: Final = 0.05  # between two looks whether that is done
IMAGES_FILE: Final = "images.json"  # beside the marker


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
        collection: CollectionTimes | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            names: What containers are told of this edge.
            marker: File in the home that is there when containers were made.
            environment: The variables of a module.
            collection: When unused images are removed; None: never.
        """
        self._marker = marker
        self._first = False  # whether there were no containers before this run
        # Told the address at which containers look for the hub, before one of them is started.
        self.on_gateway: Callable[[str], None] = lambda address: None
        self._lock = threading.Lock()
        self._failed_away: set[str] = set()  # whose last start found no engine
        self._waiting: dict[str, Callable[[], None]] = {}
        self._starts: dict[str, ContainerStart] = {}  # whose result nobody has asked for
        self._to_remove: set[str] = set()  # removed while no engine answered
        self._engine = DockerEngine(
            names.home_id,
            on_event=lambda event: self._watch.on_event(event),
            on_away=lambda: self._watch.on_away(),
            on_back=self._on_back,
        )
        self._watch = ContainerWatch(self._is_out_of_memory)
        use = ImageUse(marker.with_name(IMAGES_FILE))
        self._images = ContainerImages(use)
        self._use = use
        self._maker = ContainerMaker(self._engine, names, marker, environment, self._images)
        self._preparation: ImagePreparation | None = None
        self._collector = None if collection is None else ImageCollector(self._engine, use, collection)

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
            run = self._result(start)
        except EdgeError as exc:
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
        self._watch.watch_health(name, on_health)

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        """Fetch the images of these modules; see ModuleRuntime."""
        preparation = ImagePreparation(self._engine, self._images, modules, credentials, on_progress)
        with self._lock:
            earlier, self._preparation = self._preparation, preparation
        if earlier is not None:
            earlier.withdraw()
        preparation.begin()

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """Take these for the deployment in force; see ModuleRuntime."""
        self._images.credentials = tuple(credentials)
        images = [one.settings.image for one in modules if isinstance(one.settings, DockerSettings)]
        if images or self.in_use:
            self._use.deployed(images)
            if self._collector is not None:
                self._collector.start()

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
        run = self._watch.take_over(name, on_exit)
        if run is not None:
            return run

        def look(client: APIClient) -> ModuleRun | ModuleEnd | None:
            found = self._engine.container(client, name)
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
        if self._watch.get(name) is not None:
            raise ValueError(f"module {name!r} still runs; stop it before it is removed")
        if not self.in_use:
            return

        def remove(client: APIClient) -> None:
            found = self._engine.container(client, name)
            if found is not None:
                self._maker.remove(client, found)

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
        for name in self._watch.names():
            self.kill(name)
        self._watch.wait_until_none(KILL_ALL_LIMIT_S)

    def caller_of(self, name: str) -> ModuleContainer | None:
        """Return by what the caller of a workload socket is known, None when the module does not run."""
        watched = self._watch.get(name)
        return None if watched is None else ModuleContainer(watched.container_id)

    def close(self) -> None:
        """End the watching. What still runs lives on, for the next agent to adopt."""
        with self._lock:
            for start in self._starts.values():
                start.withdraw(0.0)
            preparation = self._preparation
        if preparation is not None:
            preparation.withdraw()
        if self._collector is not None:
            self._collector.close()
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
            if self._watch.get(name) is not None:
                raise ValueError(f"module {name!r} runs already")
            self._failed_away.discard(name)
            self._to_remove.discard(name)
            start = self._starts[name] = ContainerStart(module, access)
        start.begin(self._make_and_start)
        return start

    def _result(self, start: ContainerStart) -> ModuleRun:
        """Return the run; a start that failed is over, one that takes longer goes on.

        Raises:
            StartLater: it takes longer.
            EdgeError: it failed.
        """
        name = start.module.name
        if not start.wait(ANSWER_LIMIT_S):
            raise (ImageComing if start.is_downloading else StartLater)(start.doing)
        try:
            return start.result(0.0)
        except Exception as exc:
            with self._lock:
                self._starts.pop(name, None)
                if isinstance(exc, EngineAway):
                    self._failed_away.add(name)
            if isinstance(exc, EdgeError):
                raise
            # A fault of ours: told as one, and no reason to take the other modules' agent down.
            log.exception("module %s: its start failed", name)
            raise EnvironmentFault(f"its start failed: {type(exc).__name__}: {exc}") from exc

    def _make_and_start(self, start: ContainerStart) -> ModuleRun:
        """In the thread of the start."""
        name = start.module.name
        with self._engine.calls() as client:
            gateway = self._maker.network(client)
            self.on_gateway(gateway)
            run = self._made_and_started(client, start, gateway)
        if start.withdrawn_grace_s is not None:
            self._stop(name, start.withdrawn_grace_s)
        return run

    def _made_and_started(self, client: APIClient, start: ContainerStart, gateway: str) -> ModuleRun:
        """Make a container unless it is there, and start it. One that is being removed is waited for."""
        ends_s = time.monotonic() + REMOVAL_LIMIT_S
        while True:
            container_id = self._maker.container(client, start.module, start.access, gateway, start.tell)
            if start.withdrawn_grace_s is not None:
                raise StartLater("its start was given up")
            try:
                return self._started(client, start.module.name, container_id, start.exited)
            except ContainerGone:
                if time.monotonic() > ends_s:
                    raise
                time.sleep(REMOVAL_LOOK_S)

    def _started(self, client: APIClient, name: str, container_id: str, on_exit: OnExit) -> ModuleRun:
        from docker.errors import APIError

        watched = self._watch.begin(name, container_id, on_exit)  # from now on it may end, or ask us things
        try:
            client.start(container_id)
            state = client.inspect_container(container_id)
        except BaseException as exc:
            self._watch.forget(name, watched)
            if isinstance(exc, APIError):
                raise why_not_started(client, exc) from exc
            raise
        run = run_of(state)
        self._watch.settle(name, watched, run, ended=None if state["State"]["Running"] else state)
        return run

    def _look(
        self, client: APIClient, name: str, container_id: str, on_exit: OnExit
    ) -> ModuleRun | ModuleEnd | None:
        """Watch a container that was found, when it runs."""
        watched = self._watch.begin(name, container_id, on_exit)
        try:
            state = client.inspect_container(container_id)
        except BaseException:
            self._watch.forget(name, watched)
            raise
        if not state["State"]["Running"]:
            self._watch.forget(name, watched)
            return end_of(state)
        run = run_of(state)
        self._watch.settle(name, watched, run, ended=None)
        if is_unhealthy(state):
            self._watch.tell_health(name, ModuleHealth(False, run.started_at_s))
        return run

    # ending

    def _tell(self, name: str, what: str, command: Callable[[APIClient, str], None]) -> None:
        """Have the engine do something to a container that runs, in a thread: it may take the whole grace."""
        watched = self._watch.get(name)
        if watched is None:
            return

        def tell() -> None:
            try:
                with self._engine.calls() as client:
                    command(client, watched.container_id)
            except EdgeError as exc:
                if self._watch.get(name) is watched:  # not ended by itself meanwhile
                    log.error("module %s cannot be %s: %s", name, what, exc)

        in_background(f"docker {name}", tell)

    # what the engine tells, in the thread of its events

    def _is_out_of_memory(self, container_id: str) -> bool:
        """Return whether the engine killed a container, or a process in it, for want of memory."""

        def look(client: APIClient) -> bool:
            return bool(client.inspect_container(container_id)["State"].get("OOMKilled"))

        try:
            return self._engine.ask(look)
        except EdgeError as exc:  # also one that was removed by hand
            log.debug("how container %s ended is not known: %s", container_id, exc)
            return False

    def _on_back(self) -> None:
        """The engine answers, perhaps after it had been away."""
        with self._lock:
            to_remove, self._to_remove = self._to_remove, set()
        running = self._watch.running()
        for name in to_remove:
            self.remove(name)
        if running:
            self._catch_up(running)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for on_back in waiting.values():
            on_back()

    def _catch_up(self, running: Mapping[str, Watched]) -> None:
        try:
            listed = self._engine.ask(self._engine.containers)
        except EdgeError as exc:
            log.warning("it cannot be seen which containers still run: %s", exc)
            return
        self._watch.catch_up(running, listed)
