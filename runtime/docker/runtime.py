"""Module runtime for containers of Docker Engine.

A container belongs to its edge by its labels, so the next agent finds it whatever became of our files. Ends
and health come from the event stream of the engine (docker/engine.py). No handler of an actor waits longer
than a few seconds: a start that takes its time goes on in a thread of its own (docker/starts.py), and the
actor is told when to ask for it again.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actors.manifest.module_spec import DockerSettings, ModuleSpec
from actors.manifest.registries import RegistryCredential
from actors.ports.modules import (
    ModuleAccess,
    ModuleEnd,
    ModuleHealth,
    ModuleRun,
    OnExit,
    OnHealth,
    OnPreparation,
)
from messaging.errors import EdgeError, EngineAway
from runtime.daemon.caller import ModuleContainer
from runtime.docker.engine import DockerEngine, in_background
from runtime.docker.image_collector import CollectionTimes, ImageCollector
from runtime.docker.image_preparation import ImagePreparation
from runtime.docker.image_use import ImageUse
from runtime.docker.images import ContainerImages
from runtime.docker.maker import ContainerMaker, ContainerNames
from runtime.docker.network import remembered_gateway
from runtime.docker.starts import ContainerStarts
from runtime.docker.state import end_of, is_unhealthy, run_of
from runtime.docker.watch import ContainerWatch, Watched

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

KILL_ALL_LIMIT_S: Final = 5.0
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
        own_credentials: Sequence[RegistryCredential] = (),
    ) -> None:
        """Keep what is needed.

        Args:
            names: What containers are told of this edge.
            marker: File in the home that is there when containers were made.
            environment: The variables of a module.
            collection: When unused images are removed; None: never.
            own_credentials: Of this device, for registries that a deployment has none for.
        """
        self._own_credentials = tuple(own_credentials)
        self._marker = marker
        self._first = False  # whether there were no containers before this run
        self._lock = threading.Lock()
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
        self._starts = ContainerStarts(self._engine, self._maker, self._watch, self._stop)
        self._preparation: ImagePreparation | None = None
        self._collector = None if collection is None else ImageCollector(self._engine, use, collection)

    def tell_gateway(self, on_gateway: Callable[[str], None]) -> None:
        """Tell the address at which containers look for the hub, before one of them is started."""
        self._starts.on_gateway = on_gateway

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
        with self._lock:
            self._to_remove.discard(module.name)
        return self._starts.start(module, access, on_exit)

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        """Call when a module whose start was postponed can be tried again; see ModuleRuntime."""
        self._starts.when_possible(name, on_possible)

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
        accounts = (*credentials, *self._own_credentials)  # the first that fits is used
        preparation = ImagePreparation(self._engine, self._images, modules, accounts, on_progress)
        with self._lock:
            earlier, self._preparation = self._preparation, preparation
        if earlier is not None:
            earlier.withdraw()
        preparation.begin()

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """Take these for the deployment in force; see ModuleRuntime."""
        self._images.credentials = (*credentials, *self._own_credentials)
        images = [one.settings.image for one in modules if isinstance(one.settings, DockerSettings)]
        if images or self.in_use:
            self._use.deployed(images)
            if self._collector is not None:
                self._collector.start()

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds; see ModuleRuntime. The engine does both."""
        self._starts.withdraw(name, grace_s)
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
        self._starts.close()
        with self._lock:
            preparation = self._preparation
        if preparation is not None:
            preparation.withdraw()
        if self._collector is not None:
            self._collector.close()
        self._engine.close()

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
        self._starts.on_back()

    def _catch_up(self, running: Mapping[str, Watched]) -> None:
        try:
            listed = self._engine.ask(self._engine.containers)
        except EdgeError as exc:
            log.warning("it cannot be seen which containers still run: %s", exc)
            return
        self._watch.catch_up(running, listed)
