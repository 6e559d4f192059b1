"""A module runtime without processes, kept honest by the contract tests it shares with the real one."""

from __future__ import annotations

import itertools
import signal as signals
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.manifest.module_spec import ModuleSpec, spec_hash
from actors.manifest.registries import RegistryCredential
from actors.ports.modules import (
    ModuleAccess,
    ModuleEnd,
    ModuleHealth,
    ModuleRun,
    OnExit,
    OnHealth,
    OnPreparation,
    Preparation,
)
from messaging.clock import Clock
from messaging.errors import ConfigError, EngineAway, ImageRefused


@dataclass
class _Module:
    run: ModuleRun
    end: ModuleEnd | None = None
    on_exit: OnExit | None = None  # None: started by an agent that is gone


class FakeModuleRuntime:
    """Modules that run until a test ends them, or somebody stops them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pids = itertools.count(1001)
        self._modules: dict[str, _Module] = {}
        self.story: list[str] = []  # "start x", "stop x", "kill x", "remove x", in order
        self.given_up: list[str] = []  # postponed starts that nobody wants any more
        self.resting: list[str] = []  # what was told to rest, in order
        self.access: dict[str, ModuleAccess] = {}  # with what each was started last
        self.broken: dict[str, str] = {}  # modules that cannot be started, with the reason
        self.refused: dict[str, str] = {}  # modules whose image is not the pinned one, with the reason
        self.checked: set[str] = set()  # modules with a check of their own, which has not succeeded at first
        self.remarks: tuple[str, ...] = ()  # of every module
        self.stubborn: set[str] = set()  # modules that ignore SIGTERM
        self.labels = False  # whether a run says from what it was made, as containers do
        self.away: dict[str, str] = {}  # modules whose engine does not answer, with the reason
        self.prepared: list[tuple[str, ...]] = []  # the modules of each preparation, in order
        self.missing: dict[str, str] = {}  # modules for which something cannot be fetched, with the reason
        self.outdated: frozenset[str] = frozenset()  # modules whose image is another one by now
        self.slow_to_prepare = False  # whether a preparation waits for `finish_preparing`
        self.finish_preparing: Callable[[], None] = lambda: None
        self.in_force: tuple[str, ...] = ()  # the modules of the deployment in force
        self._waiting: dict[str, Callable[[], None]] = {}
        self._on_health: dict[str, OnHealth] = {}

    # ModuleRuntime

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        name = module.name
        if self.pid(name):
            raise ValueError(f"module {name!r} runs already")
        self.story.append(f"start {name}")
        if name in self.away:
            raise EngineAway(f"module {name!r}: {self.away[name]}")
        if name in self.refused:
            raise ImageRefused(self.refused[name])
        if name in self.broken:
            raise ConfigError(f"module {name!r}: {self.broken[name]}")
        pid = next(self._pids)
        # As on a disk, no two runs start at exactly the same time.
        made_from = spec_hash(module) if self.labels else None
        checked = name in self.checked
        run = ModuleRun(
            pid,
            self._clock.now_s() + pid * 1e-6,
            spec_hash=made_from,
            has_check=checked,
            is_healthy=not checked,
            remarks=self.remarks,
        )
        self._modules[name] = _Module(run, on_exit=on_exit)
        self.access[name] = access
        return run

    def when_possible(self, name: str, on_possible: Callable[[], None]) -> None:
        self._waiting[name] = on_possible

    def watch_health(self, name: str, on_health: OnHealth) -> None:
        self._on_health[name] = on_health

    def prepare(
        self,
        modules: Sequence[ModuleSpec],
        credentials: Sequence[RegistryCredential],
        on_progress: OnPreparation,
    ) -> None:
        self.prepared.append(tuple(module.name for module in modules))
        problems = {one.name: self.missing[one.name] for one in modules if one.name in self.missing}
        if self.slow_to_prepare:
            self.finish_preparing = lambda: on_progress(Preparation(True, "", problems, self.outdated))
            on_progress(Preparation(False, "images are being pulled"))
        else:
            on_progress(Preparation(True, "", problems, self.outdated))

    def deployed(self, modules: Sequence[ModuleSpec], credentials: Sequence[RegistryCredential]) -> None:
        self.in_force = tuple(module.name for module in modules)

    def stop(self, name: str, grace_s: float) -> None:
        if name in self._waiting:
            self.given_up.append(name)
        if self.pid(name):
            self.story.append(f"stop {name}")
            if name not in self.stubborn:
                self.end(name, signal=signals.SIGTERM)

    def kill(self, name: str) -> None:
        if self.pid(name):
            self.story.append(f"kill {name}")
            self.end(name, signal=signals.SIGKILL)

    def adopt(self, name: str, on_exit: OnExit) -> ModuleRun | ModuleEnd | None:
        module = self._modules.get(name)
        if module is None:
            return None
        if module.end is not None:
            return module.end
        module.on_exit = on_exit
        return module.run

    def rest(self, name: str) -> None:
        self.resting.append(name)

    def remove(self, name: str) -> None:
        if self.pid(name):
            raise ValueError(f"module {name!r} still runs; stop it before it is removed")
        if self._modules.pop(name, None) is not None:
            self.story.append(f"remove {name}")

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._modules))

    # what a test does

    def pid(self, name: str) -> int:
        """Return the pid of a module, 0 when it does not run."""
        module = self._modules.get(name)
        return module.run.pid if module is not None and module.end is None else 0

    def end(
        self, name: str, exit_code: int = 0, signal: int | None = None, out_of_memory: bool = False
    ) -> None:
        """Let a module end by itself, or by a signal of somebody's."""
        module = self._modules[name]
        code = exit_code if signal is None else 128 + signal
        module.end = ModuleEnd(
            code, signal, module.run.started_at_s, self._clock.now_s(), out_of_memory=out_of_memory
        )
        if module.on_exit is not None:
            module.on_exit(module.end)

    def check_health(self, name: str, healthy: bool) -> None:
        """The module's own check says something else than before."""
        self._on_health[name](ModuleHealth(healthy, self._modules[name].run.started_at_s))

    def lose_engine(self, name: str, why: str) -> None:
        """The engine of a module stops, and takes it along."""
        self.away[name] = why
        module = self._modules[name]
        module.end = ModuleEnd(None, None, module.run.started_at_s, self._clock.now_s(), engine_away=True)
        if module.on_exit is not None:
            module.on_exit(module.end)

    def bring_engine_back(self, name: str) -> None:
        """The engine of a module answers again."""
        del self.away[name]
        self._waiting.pop(name)()

    def lose_agent(self) -> None:
        """Nobody watches any more: the agent was killed."""
        for module in self._modules.values():
            module.on_exit = None

    def lose_machine(self) -> None:
        """The machine was started anew: nothing runs and nothing is known of what ran."""
        self._modules.clear()
