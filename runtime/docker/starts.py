"""The starts of containers that are under way, and those that wait for the engine.

A start goes on in a thread of its own (docker/start.py); whoever asks for it waits a few seconds, and is
told when to ask again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from actors.manifest.module_spec import ModuleSpec
from actors.ports.modules import ModuleAccess, ModuleRun, OnExit
from messaging.errors import EdgeError, EngineAway, EnvironmentFault, ImageComing, StartLater
from runtime.docker.engine import ANSWER_LIMIT_S, DockerEngine
from runtime.docker.maker import ContainerGone, ContainerMaker, why_not_started
from runtime.docker.start import ContainerStart
from runtime.docker.state import run_of
from runtime.docker.watch import ContainerWatch

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

REMOVAL_LIMIT_S: Final = 20.0  # for a container that somebody removes while it is to be started
REMOVAL_LOOK_S: Final = 0.05  # between two looks whether that is done


class ContainerStarts:
    """One start of a module at a time. Any thread may call."""

    def __init__(
        self,
        engine: DockerEngine,
        maker: ContainerMaker,
        watch: ContainerWatch,
        stop: Callable[[str, float], None],
    ) -> None:
        """Keep what is needed; `stop` ends a container that nobody wants any more, in so many seconds."""
        self._engine = engine
        self._maker = maker
        self._watch = watch
        self._stop = stop
        # Told the address at which containers look for the hub, before one of them is started.
        self.on_gateway: Callable[[str], None] = lambda address: None
        self._lock = threading.Lock()
        self._failed_away: set[str] = set()  # whose last start found no engine
        self._waiting: dict[str, Callable[[], None]] = {}
        self._starts: dict[str, ContainerStart] = {}  # whose result nobody has asked for

    def start(self, module: ModuleSpec, access: ModuleAccess, on_exit: OnExit) -> ModuleRun:
        """Start a module; see ModuleRuntime. Takes over a start of the same that is under way."""
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

    def withdraw(self, name: str, grace_s: float) -> None:
        """Nobody wants this start any more; what it brings up may take so long to end."""
        with self._lock:
            start = self._starts.get(name)
        if start is not None:
            start.withdraw(grace_s)

    def on_back(self) -> None:
        """The engine answers: those who waited for it are told."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for on_possible in waiting.values():
            on_possible()

    def close(self) -> None:
        """Nobody wants anything any more."""
        with self._lock:
            for start in self._starts.values():
                start.withdraw(0.0)

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
