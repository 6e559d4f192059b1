"""Counts what a module runtime is asked to do, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from actors.manifest.module_spec import EDGE_CLOUD, EDGE_HUB, DockerSettings, ModuleSpec
from actors.manifest.registries import RegistryCredential
from actors.metrics.agent_metrics import AgentMetrics
from actors.ports.modules import (
    ModuleAccess,
    ModuleEnd,
    ModuleRun,
    ModuleRuntime,
    OnExit,
    OnPreparation,
    Preparation,
)


class MeasuredRuntime:
    """Implements `actors.ports.ModuleRuntime` by another one. Any thread may call."""

    def __init__(self, runtime: ModuleRuntime, metrics: AgentMetrics) -> None:
        """Take who does it, and where to count."""
        self._runtime = runtime
        self._metrics = metrics
        self._versions: dict[str, str] = {}  # of modules that were started or deployed
        self._deployed: dict[str, ModuleSpec] = {}
        self.when_possible = runtime.when_possible
        self.watch_health = runtime.watch_health
        self.kill = runtime.kill
        self.rest = runtime.rest
        self.names = runtime.names

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """See ModuleRuntime."""
        began_s = time.monotonic()
        run = self._runtime.start(module, access, on_exit)
        if module.name != EDGE_CLOUD:
            self._versions[module.name] = _version(module)
            self._metrics.started(module.name, _version(module))
            self._metrics.command_took("start", time.monotonic() - began_s)
        return run

    def stop(self, name: str, grace_s: float) -> None:
        """See ModuleRuntime."""
        began_s = time.monotonic()
        self._runtime.stop(name, grace_s)
        if name != EDGE_CLOUD:
            self._metrics.stopped(name, self._versions.get(name, ""))
            self._metrics.command_took("stop", time.monotonic() - began_s)

    def remove(self, name: str) -> None:
        """See ModuleRuntime."""
        began_s = time.monotonic()
        self._runtime.remove(name)
        self._versions.pop(name, None)
        if name != EDGE_CLOUD:
            self._metrics.command_took("remove", time.monotonic() - began_s)

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        """See ModuleRuntime."""
        return self._runtime.adopt(name, on_exit)

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        """See ModuleRuntime."""
        began_s = time.monotonic()
        for module in modules:
            if isinstance(module.settings, DockerSettings) and self._deployed.get(module.name) != module:
                self._metrics.prepared(module.name, _version(module))

        def measured(found: Preparation) -> None:
            if found.is_done:
                self._metrics.command_took("prepareUpdate", time.monotonic() - began_s)
            on_progress(found)

        self._runtime.prepare(modules, credentials, measured)

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        """See ModuleRuntime."""
        self._deployed = {module.name: module for module in modules}
        for module in modules:
            self._versions.setdefault(module.name, _version(module))
        self._runtime.deployed(modules, credentials)


def _version(module: ModuleSpec) -> str:
    # What the hub is made from is a part of its version inside the edge.
    return module.version.rpartition("+")[0] if module.name == EDGE_HUB else module.version
