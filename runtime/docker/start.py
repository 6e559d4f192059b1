"""A start of a container that may take longer than a handler of an actor may: a pull, a slow engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from actors.manifest.module_spec import ModuleSpec
from actors.ports.modules import ModuleAccess, ModuleEnd, ModuleRun, OnExit
from runtime.docker.engine import in_background


class ContainerStart:
    """One start in a thread of its own, and its result until somebody asks for it."""

    def __init__(self, module: ModuleSpec, access: ModuleAccess) -> None:
        self.module = module
        self.access = access
        self.doing = "its container is being made"  # fit to be shown
        self.is_downloading = False
        self._withdrawn_grace_s: float | None = None
        self._lock = threading.Lock()
        self._tell: Callable[[], None] | None = None
        self._on_exit: OnExit | None = None
        self._end: ModuleEnd | None = None
        self._future: Future[ModuleRun] = Future()

    def begin(self, work: Callable[[ContainerStart], ModuleRun]) -> None:
        """Do it. The work looks at `withdrawn_grace_s` and tells the end of its run to `exited`."""
        self._future = in_background(f"start {self.module.name}", lambda: work(self))
        self._future.add_done_callback(self._done)

    def tell(self, doing: str) -> None:
        """Say how far its image is fetched."""
        self.doing, self.is_downloading = doing, True

    @property
    def withdrawn_grace_s(self) -> float | None:
        """None, or how long what was started may take to end: nobody wants it any more."""
        return self._withdrawn_grace_s

    def withdraw(self, grace_s: float) -> None:
        """Nobody wants it any more, nor to be told of it."""
        with self._lock:
            self._withdrawn_grace_s, self._tell = grace_s, None

    def fits(self, module: ModuleSpec, access: ModuleAccess) -> bool:
        """Return whether it is a start of the same."""
        return self._withdrawn_grace_s is None and (self.module, self.access) == (module, access)

    def wait(self, limit_s: float) -> bool:
        """Wait for the result; return whether there is one."""
        return bool(wait([self._future], limit_s).done)

    def result(self, limit_s: float) -> ModuleRun:
        """Return the run.

        Raises:
            TimeoutError: it takes longer.
            EdgeError: it failed.
        """
        return self._future.result(limit_s)

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return self._future.done()

    def when_done(self, tell: Callable[[], None]) -> None:
        """Call once when there is a result, in any thread; now when there is one."""
        with self._lock:
            if self._withdrawn_grace_s is not None:
                return
            if not self.is_done:
                self._tell = tell
                return
        tell()

    def _done(self, _: Future[ModuleRun]) -> None:
        with self._lock:
            tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    def exited(self, end: ModuleEnd) -> None:
        """Pass on the end of the run, or keep it until somebody is there to be told."""
        with self._lock:
            on_exit = self._on_exit
            if on_exit is None:
                self._end = end
                return
        on_exit(end)

    def hand_over(self, on_exit: OnExit) -> None:
        """Tell the end of the run to somebody from now on, an end that was kept at once."""
        with self._lock:
            self._on_exit = on_exit
            end, self._end = self._end, None
        if end is not None:
            on_exit(end)
