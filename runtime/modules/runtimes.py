"""Chooses by the type of a module who runs it: Docker Engine, or this machine as a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.manifest.module_spec import DockerSettings, ModuleSpec
from actors.manifest.registries import RegistryCredential
from actors.ports.modules import ModuleAccess, ModuleEnd, ModuleRun, OnExit, OnHealth, OnPreparation
from runtime.agent.modules import EdgeModules
from runtime.daemon.caller import ModuleContainer, ModuleProcess
from runtime.docker.runtime import DockerRuntime


class ModuleRuntimes:
    """Implements `actors.ports.ModuleRuntime`. Any thread may call.

    A name is run by one of them at a time; one whose type changed has ended before it is started anew.
    """

    def __init__(self, processes: EdgeModules, containers: DockerRuntime) -> None:
        self._processes = processes
        self._containers = containers
        self._cleared: set[str] = set()  # of which the other has nothing any more

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module; see ModuleRuntime."""
        mine: DockerRuntime | EdgeModules = self._processes
        other: DockerRuntime | EdgeModules = self._containers
        if isinstance(module.settings, DockerSettings):
            mine, other = other, mine
        if module.name not in self._cleared:
            other.remove(module.name)
            self._cleared.add(module.name)
        return mine.start(module, access, on_exit)

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        """Call when a module whose start was postponed can be tried again; see ModuleRuntime."""
        self._containers.when_possible(name, on_possible)

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        """Tell when the health of a module changes; see ModuleRuntime."""
        self._containers.watch_health(name, on_health)

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        """Fetch what these modules need; see ModuleRuntime. Of a process everything is on this machine."""
        self._containers.prepare(modules, credentials, on_progress)

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """Take these for the deployment in force; see ModuleRuntime."""
        self._containers.deployed(modules, credentials)

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds; see ModuleRuntime."""
        self._processes.stop(name, grace_s)
        self._containers.stop(name, grace_s)

    def kill(self, name: str) -> None:
        """Kill a module; see ModuleRuntime."""
        self._processes.kill(name)
        self._containers.kill(name)

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        """Take over what runs under a name; see ModuleRuntime."""
        process = self._processes.adopt(name, on_exit)
        if isinstance(process, ModuleRun):
            return process
        return self._containers.adopt(name, on_exit) or process

    def rest(self, name: str) -> None:
        """Give back what is held for the next start; see ModuleRuntime. Of a container that is nothing."""
        self._processes.rest(name)

    def remove(self, name: str) -> None:
        """Forget a module that has ended; see ModuleRuntime."""
        self._cleared.discard(name)
        self._processes.remove(name)
        self._containers.remove(name)

    def names(self) -> tuple[str, ...]:
        """Return what was started and not removed, running or not; see ModuleRuntime."""
        return tuple(sorted({*self._processes.names(), *self._containers.names()}))

    def kill_all(self) -> None:
        """Kill whatever still runs: the last resort when the actors did not end their modules."""
        self._processes.kill_all()
        self._containers.kill_all()

    def process_of(self, name: str) -> ModuleProcess | ModuleContainer | None:
        """Return the process or container of a module for the check of callers, None if it does not run."""
        return self._containers.caller_of(name) or self._processes.process_of(name)

    def close(self) -> None:
        """End the watching. What still runs lives on, for the next agent to adopt."""
        self._processes.close()
        self._containers.close()
