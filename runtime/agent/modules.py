"""Runs the modules of a deployment: the user's as processes, edgeHub and edgeCloud as processes of ours.

Turns what a deployment says into command line, environment and files, and remembers which process is which
module, for the workload API asks.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from actors.manifest.module_spec import EDGE_AGENT, EDGE_CLOUD, EDGE_HUB, ModuleSpec, ProcessSettings
from actors.manifest.registries import RegistryCredential
from actors.ports.modules import (
    ModuleAccess,
    ModuleEnd,
    ModuleRun,
    OnExit,
    OnHealth,
    OnPreparation,
    Preparation,
)
from messaging.errors import ConfigError
from runtime.daemon.caller import ModuleProcess
from runtime.home import Home
from runtime.logs.rotation import LogRotation
from runtime.logs.setup import FORMAT_VARIABLE, LEVEL_VARIABLE
from runtime.modules.environment import EdgeNames, module_variables
from runtime.modules.isolation import ProcessIsolation
from runtime.modules.process_module import ModuleExit, ProcessSpec, RunningModule
from runtime.modules.process_runtime import ProcessRuntime
from runtime.run_directory import EMBEDDED_CLOUD, RunDirectory

START_WAIT_S: Final = 2.0  # for a start under way, when the module already asks the workload API
RUN_BASE: Final = "XDG_RUNTIME_DIR"  # our own programs have to find the same run directories
# What programs expect to find; everything else of our own environment is none of a module's business.
PASSED_ON: Final = ("HOME", "LANG", "TZ", "USER")
HUB_PROGRAM: Final = "runtime.hub"
SOURCES: Final = Path(__file__).resolve().parents[2]  # where the hub process finds these packages

# Environment and descriptors of listening sockets for a process.
Sockets = Callable[[], tuple[Mapping[str, str], tuple[int, ...]]]


class EdgeModules:
    """Implements `actors.ports.ModuleRuntime` for processes. Any thread may call."""

    def __init__(
        self,
        run: RunDirectory,
        *,
        names: EdgeNames,
        deployment_folder: Path,
        log_level: str,
        log_format: str,
        isolation: ProcessIsolation,
        umask: int = -1,
        hub_sockets: Sockets,
        close_hub_sockets: Callable[[], None],
        cloud_sockets: Sockets = lambda: ({}, ()),
    ) -> None:
        """Keep what is needed.

        Args:
            run: The run directory of this home.
            names: What modules are told of this edge.
            deployment_folder: Relative commands and working folders start here.
            log_level: Of our own processes.
            log_format: Of their logs.
            isolation: As whom the user's modules run.
            umask: Of the user's modules; -1 is our own.
            hub_sockets: Environment and descriptors of the listening sockets, bound when first needed; raises
                EnvironmentFault when that is not possible.
            close_hub_sockets: For a hub that was stopped on purpose.
            cloud_sockets: As `hub_sockets`, of the stand-in.
        """
        self._run = run
        self._names = names
        self._deployment_folder = deployment_folder
        self._log_level = log_level
        self._log_format = log_format
        self._isolation = isolation
        self._umask = umask
        self._hub_sockets = hub_sockets
        self._close_hub_sockets = close_hub_sockets
        self._cloud_sockets = cloud_sockets
        self._processes = ProcessRuntime(run)
        home = Home(run.home)
        self._rotation = LogRotation(home.logs, spared=frozenset({home.log_of(EDGE_AGENT).name}))
        self._rotation.start()
        self._changing = threading.Condition()
        self._running: dict[str, RunningModule] = {}
        self._starting: set[str] = set()
        self._on_exit: dict[str, OnExit] = {}  # whom to tell, by name: the last who asked
        self._ended_early: dict[str, float] = {}  # runs whose end was told before their start returned

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module; see ModuleRuntime."""
        spec = self._spec_of(module, access)
        with self._changing:
            self._starting.add(module.name)
            self._on_exit[module.name] = on_exit
        try:
            return self._note(self._processes.start(spec, self._ended))
        finally:
            with self._changing:
                self._starting.discard(module.name)
                self._changing.notify_all()

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        """No start of a process is postponed; see ModuleRuntime."""

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        """Processes have no check of their health; see ModuleRuntime."""

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        """Nothing has to be fetched for a process; see ModuleRuntime."""
        on_progress(Preparation(is_done=True))

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """Nothing is kept for processes; see ModuleRuntime."""

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end, kill it after `grace_s` seconds; see ModuleRuntime."""
        self._processes.stop(name, grace_s)

    def kill(self, name: str) -> None:
        """Kill a module; see ModuleRuntime."""
        self._processes.kill(name)

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        """Take over what runs under a name; see ModuleRuntime."""
        with self._changing:
            self._on_exit[name] = on_exit
            known = self._running.get(name)
        if known is not None:
            return _run(known)
        found = self._processes.adopt(name, self._ended)
        if isinstance(found, RunningModule):
            return self._note(found)
        return None if found is None else _end(found)

    def rest(self, name: str) -> None:
        """Let clients of a hub that was stopped on purpose be refused, not wait; see ModuleRuntime."""
        if name == EDGE_HUB:
            self._close_hub_sockets()

    def remove(self, name: str) -> None:
        """Forget a module that has ended; see ModuleRuntime."""
        self._processes.remove(name)
        self.rest(name)

    def names(self) -> tuple[str, ...]:
        """Return what was started and not removed, running or not; see ModuleRuntime."""
        folder = self._run.modules
        return tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()

    def kill_all(self) -> None:
        """Kill whatever still runs: the last resort when the actors did not end their modules."""
        with self._changing:
            names = list(self._running)
        for name in names:
            self._processes.kill(name)
        with self._changing:
            self._changing.wait_for(lambda: not self._running, START_WAIT_S)

    def process_of(self, name: str) -> ModuleProcess | None:
        """Return the process of a module for the check of callers, None when it does not run.

        One that is being started is waited for: it may ask before its start is known here.
        """
        with self._changing:
            self._changing.wait_for(lambda: name not in self._starting, START_WAIT_S)
            running = self._running.get(name)
        if running is None:
            return None
        return ModuleProcess(running.pid, running.session_id, running.start_ticks)

    def close(self) -> None:
        """End the watching. What still runs lives on, for the next agent to adopt."""
        self._rotation.close()
        self._processes.close()

    def _note(self, running: RunningModule) -> ModuleRun:
        """Remember a run, unless it is over already: exits may be told before starts return."""
        with self._changing:
            if self._ended_early.get(running.name) != running.started_at_s:
                self._running[running.name] = running
        return _run(running)

    def _ended(self, exited: ModuleExit) -> None:
        """In the thread of the process runtime."""
        with self._changing:
            known = self._running.get(exited.name)
            if known is not None and known.started_at_s == exited.started_at_s:
                del self._running[exited.name]
            else:
                self._ended_early[exited.name] = exited.started_at_s
            on_exit = self._on_exit[exited.name]
            self._changing.notify_all()
        on_exit(_end(exited))

    def _spec_of(self, module: ModuleSpec, access: ModuleAccess) -> ProcessSpec:
        home, run = str(self._run.home), str(self._run.path)
        if module.name == EDGE_HUB:
            return self._own(EDGE_HUB, self._hub_sockets, HUB_PROGRAM, "--home", home, "--run", run)
        if module.name == EDGE_CLOUD:
            return self._own(EDGE_CLOUD, self._cloud_sockets, EMBEDDED_CLOUD, "--home", home)
        return self._user_module(module, access)

    def _user_module(self, module: ModuleSpec, access: ModuleAccess) -> ProcessSpec:
        settings = module.settings
        if not isinstance(settings, ProcessSettings):
            raise ConfigError(f"module '{module.name}' is not a process; set its type to 'process'")
        folder = self._deployment_folder / (settings.working_directory or ".")
        environment = {
            **self._common_environment(),
            **module.env,
            **module_variables(self._names, module.name, access),
        }
        log_path = Home(self._run.home).log_of(module.name)
        spec = ProcessSpec(module.name, settings.command, environment, folder, log_path, umask=self._umask)
        return self._isolation.apply(spec, module.env.keys())

    def _own(self, name: str, take_sockets: Sockets, program: str, *arguments: str) -> ProcessSpec:
        """Return how a program of ours is run."""
        sockets, descriptors = take_sockets()
        home = self._run.home
        environment = {
            **self._common_environment(RUN_BASE),
            **sockets,
            LEVEL_VARIABLE: self._log_level,
            FORMAT_VARIABLE: self._log_format,
            "PYTHONPATH": str(SOURCES),
        }
        command = (sys.executable, "-m", program, *arguments)
        return ProcessSpec(name, command, environment, home, Home(home).log_of(name), descriptors)

    def _common_environment(self, *more: str) -> dict[str, str]:
        own_folder = str(Path(sys.executable).parent)  # so that `python3` is the one that has the device SDK
        path = os.pathsep.join((own_folder, os.environ.get("PATH", os.defpath)))
        passed_on = {name: os.environ[name] for name in (*PASSED_ON, *more) if name in os.environ}
        return passed_on | {"PATH": path}


def _run(running: RunningModule) -> ModuleRun:
    return ModuleRun(running.pid, running.started_at_s, running.not_isolated)


def _end(exited: ModuleExit) -> ModuleEnd:
    return ModuleEnd(exited.exit_code, exited.signal, exited.started_at_s, exited.ended_at_s)
