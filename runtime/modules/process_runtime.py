"""Module runtime for plain processes: a module is a command line.

Each module runs in a session of its own under a shim (modules/shim.py), so that it lives on when the agent
dies and the next agent adopts it. One thread waits for the ends of all.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct

from messaging.errors import ConfigError, EnvironmentFault
from runtime.machine import process_table
from runtime.machine.exit_watcher import ExitWatcher
from runtime.machine.one_core import on_all_cores
from runtime.modules import shim as module_shim
from runtime.modules.process_module import ModuleExit, ProcessSpec, RunningModule, resolve_command
from runtime.modules.shim import Started, StateFolder
from runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)

# In the environment of every process of an edge: whose it is, even when all files are gone.
RUN_MARKER = "EDGE_ACTORS_RUN"
MODULE_MARKER = "EDGE_ACTORS_MODULE"

START_LIMIT_S = 7.0  # for the shim, not the module; it takes milliseconds. Less than a handler may take
SWEEP_LIMIT_S = 1.0  # for killed descendants to be gone
REAP_PERIOD_S = 10.0


class _Watched(Struct, eq=False):
    """A module whose shim lives."""

    running: RunningModule
    started: Started
    state: StateFolder
    on_exit: Callable[[ModuleExit], None]
    module_pidfd: int | None  # None when the module had ended just before


class ProcessRuntime:
    """Starts, adopts and ends process modules of one home.

    `on_exit` runs in the watcher's thread, must be short, and may come before `start` has returned. It is
    called once per start or adoption, when the module and its descendants are gone and the name can be
    started again.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._swept: set[str] = set()  # ended before our eyes, and nothing is left of it
        # The lock is held over a shim's birth, so that it is not taken for an orphan.
        self._shims_lock = threading.Lock()
        self._shims: set[int] = set()
        process_table.become_subreaper()
        self._watcher = ExitWatcher("module exits")
        self._watcher.call_later(REAP_PERIOD_S, self._reap)

    def start(self, spec: ProcessSpec, on_exit: Callable[[ModuleExit], None]) -> RunningModule:
        """Start a module and return as soon as its pid is written down, a few milliseconds.

        Whatever an earlier process of this name left running is killed before.

        Raises:
            ConfigError: the command or the working directory is not there or not usable.
            EnvironmentFault: the log or the run directory cannot be written, or no process can be made.
            ValueError: a module of this name runs.
        """
        state = self._state(spec.name)
        with self._lock:
            if spec.name in self._watched:
                raise ValueError(f"module {spec.name!r} runs already")
        arguments = module_shim.arguments(state, resolve_command(spec))
        environment = {**spec.env, RUN_MARKER: str(self._run.path), MODULE_MARKER: spec.name}
        self._sweep_before(spec.name, state)
        try:
            output = _open_log(spec)
            try:
                state.prepare(environment)
                state.note_isolation(spec.not_isolated)
                shim, pidfd = self._spawn(spec, arguments, environment, output)
            finally:
                os.close(output)
        except OSError as exc:
            state.remove()
            raise EnvironmentFault(f"module {spec.name!r} cannot be started: {exc}") from exc
        try:
            started = state.started()
            state.forget_environment()
            if started is None:
                raise EnvironmentFault(
                    f"module {spec.name!r} cannot be started: nothing was written to {state.path}; "
                    "is there space left (`df`), and is /proc mounted?"
                )
            return self._watch(spec.name, state, started, pidfd, on_exit)
        except BaseException:
            self._discard(shim, pidfd)
            state.remove()
            raise

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a module to end: SIGTERM to its whole process group, SIGKILL after `grace_s` seconds.

        Returns at once; `on_exit` reports the end. Without effect when it does not run. `close` cancels what
        is still to come.

        Raises:
            EnvironmentFault: the module became another user, who is out of our reach.
        """
        watched = self._find(name)
        if watched is None:
            return
        for group in _groups(watched):
            with _signalling(watched):
                os.killpg(group, signal.SIGTERM)
        self._watcher.call_later(grace_s, lambda: self._kill(watched))

    def kill(self, name: str) -> None:
        """SIGKILL a module. `on_exit` reports the end. Without effect when it does not run."""
        watched = self._find(name)
        if watched is not None:
            self._kill(watched)

    def adopt(self, name: str, on_exit: Callable[[ModuleExit], None]) -> RunningModule | ModuleExit | None:
        """Take over what an earlier agent started under `name`.

        Returns:
            The running module, watched from now on; or its exit, when it ended while no agent lived
            (`on_exit` is not called then); or None when nothing was started, it was removed, or the machine
            went down with it.

        Raises:
            ValueError: the module is watched already.
        """
        state = self._state(name)
        with self._lock:
            if name in self._watched:
                raise ValueError(f"module {name!r} is watched already")
        started = state.started()
        if started is None:
            return None
        if started.is_of_this_boot():
            pidfd = process_table.open_pidfd(started.shim.pid, started.shim.start_ticks)
            if pidfd is not None:
                return self._watch(name, state, started, pidfd, on_exit)
        self._sweep_before(name, state)
        if not started.is_of_this_boot() and state.ended() is None:
            state.remove()  # the run directory outlived a reboot
            return None
        return _exit(name, state, started)

    def remove(self, name: str) -> None:
        """Forget a module that has ended: kill what may be left of it, delete its state files.

        Raises:
            ValueError: it still runs.
        """
        state = self._state(name)
        with self._lock:
            if name in self._watched:
                raise ValueError(f"module {name!r} still runs; stop it before it is removed")
        self._sweep_before(name, state)
        state.remove()

    def close(self) -> None:
        """End the watcher. Modules live on, for the next agent to adopt."""
        self._watcher.close()
        with self._lock:
            for watched in self._watched.values():
                _close(watched)
            self._watched.clear()

    def _state(self, name: str) -> StateFolder:
        if not name or "/" in name or "\0" in name or name in (".", "..") or len(os.fsencode(name)) > 200:
            raise ConfigError(
                f"module name {name!r} cannot name a folder; use letters, digits, '-' and '_', at most 200"
            )
        return StateFolder(self._run.modules / name)

    def _spawn(
        self, spec: ProcessSpec, arguments: list[str], environment: Mapping[str, str], output: int
    ) -> tuple[int, int]:
        """Start the shim; return its pid and pidfd once it wrote its file, ended, or took START_LIMIT_S."""
        ready, told = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                with self._shims_lock, on_all_cores():
                    child = subprocess.Popen(
                        arguments,
                        stdin=told,
                        stdout=output,
                        stderr=output,
                        cwd=spec.working_directory,
                        env=environment,
                        pass_fds=spec.pass_fds,
                        start_new_session=True,
                        umask=spec.umask,
                    )
                    self._shims.add(child.pid)
                # It is waited for by pid when its pidfd says so: Popen shall neither do it nor warn.
                child.returncode = 0
            finally:
                os.close(told)
            try:
                pidfd = os.pidfd_open(child.pid)
            except OSError:  # no descriptor left
                os.killpg(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                self._forget_shim(child.pid)
                raise
            _wait_for(ready, START_LIMIT_S)
            return child.pid, pidfd
        finally:
            os.close(ready)

    def _watch(
        self,
        name: str,
        state: StateFolder,
        started: Started,
        pidfd: int,
        on_exit: Callable[[ModuleExit], None],
    ) -> RunningModule:
        shim, module = started.shim, started.module
        running = RunningModule(
            name,
            module.pid,
            module.start_ticks,
            shim.pid,
            shim.start_ticks,
            started_at_s=started.at_s,
            not_isolated=state.not_isolated(),
        )
        module_pidfd = process_table.open_pidfd(module.pid, module.start_ticks)
        watched = _Watched(running, started, state, on_exit, module_pidfd)
        with self._shims_lock:
            self._shims.add(shim.pid)
        with self._lock:  # over both: the end may come at once
            self._watcher.watch(pidfd, lambda: self._on_shim_ended(watched))
            self._watched[name] = watched
        return running

    def _on_shim_ended(self, watched: _Watched) -> None:
        name, shim = watched.running.name, watched.started.shim
        # The shim is reaped after the sweep: until then no other session can have its number.
        exited = ModuleExit(name, None, None, watched.started.at_s, time.time())
        is_gone = False
        try:
            is_gone = self._sweep(name, oldest_ticks=shim.start_ticks, session=shim.session)
            exited = _exit(name, watched.state, watched.started)
        except OSError as exc:  # no descriptor left: the end is reported all the same
            log.error("module %s ended, but it cannot be seen how, nor what it left: %s", name, exc)
        with self._lock:
            del self._watched[name]
            _close(watched)
            if is_gone:
                self._swept.add(name)
        self._forget_shim(shim.pid)
        self._reap_orphans()
        watched.on_exit(exited)

    def _find(self, name: str) -> _Watched | None:
        with self._lock:
            return self._watched.get(name)

    def _kill(self, watched: _Watched) -> None:
        """Kill the module alone: the shim writes down how it ended, then the sweep takes the rest."""
        with self._lock:
            if self._watched.get(watched.running.name) is not watched:
                return
            # A SIGSTOP to the group stopped the shim too, perhaps after it had seen the module's end.
            with _signalling(watched):
                os.kill(watched.started.shim.pid, signal.SIGCONT)
            if watched.module_pidfd is not None:
                with _signalling(watched):
                    signal.pidfd_send_signal(watched.module_pidfd, signal.SIGKILL)

    def _sweep_before(self, name: str, state: StateFolder) -> None:
        """Sweep what an earlier process of this name left, when we did not see its end ourselves."""
        with self._lock:
            if name in self._swept:
                self._swept.discard(name)
                return
        started = state.started()
        if started is None or not started.is_of_this_boot():
            self._sweep(name, oldest_ticks=0, session=None)
        else:
            self._sweep(name, oldest_ticks=started.shim.start_ticks, session=started.session())

    def _sweep(self, name: str, oldest_ticks: int, session: int | None) -> bool:
        """Kill what belongs to a module: its session, and what left the session but carries our marks.

        Waits until it is gone, SWEEP_LIMIT_S at most; returns whether it is.
        """
        marks = {RUN_MARKER: str(self._run.path), MODULE_MARKER: name}
        sessions = () if session is None else (session,)
        deadline_s = time.monotonic() + SWEEP_LIMIT_S
        while left := process_table.find(marks, sessions, oldest_ticks):
            limit_s = max(0.0, deadline_s - time.monotonic())
            alive = process_table.signal_and_wait(left, signal.SIGKILL, limit_s)
            if alive:
                log.warning("module %s: processes %s were killed but do not end", name, sorted(alive))
                return False
        return True

    def _reap(self) -> None:
        self._reap_orphans()
        self._watcher.call_later(REAP_PERIOD_S, self._reap)

    def _reap_orphans(self) -> None:
        with self._shims_lock:
            process_table.reap_orphans(self._shims)

    def _forget_shim(self, pid: int) -> None:
        with self._shims_lock:
            process_table.reap(pid)
            self._shims.discard(pid)

    def _discard(self, shim: int, pidfd: int) -> None:
        """End a shim that nobody will watch, and its module."""
        try:
            os.killpg(shim, signal.SIGKILL)
        except ProcessLookupError:
            pass  # ended by itself
        _wait_for(pidfd, SWEEP_LIMIT_S)
        os.close(pidfd)
        self._forget_shim(shim)


@contextmanager
def _signalling(watched: _Watched) -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        pass  # ended meanwhile
    except PermissionError as exc:
        raise EnvironmentFault(
            f"module {watched.running.name!r} (pid {watched.running.pid}) became another user and cannot be "
            "ended by this one; end it as that user, or start the edge as root"
        ) from exc


def _wait_for(descriptor: int, limit_s: float) -> None:
    """Wait until a descriptor, of any number, is readable or at its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(limit_s * 1000)


def _groups(watched: _Watched) -> set[int]:
    """Return the process groups to ask to end: the shim's, and the module's own if it made one."""
    module = process_table.read_stat(watched.running.pid)
    own = module is not None and module.start_ticks == watched.running.start_ticks
    return {watched.running.session_id, module.group} if own and module else {watched.running.session_id}


def _exit(name: str, state: StateFolder, started: Started) -> ModuleExit:
    ended = state.ended()
    if ended is None:
        return ModuleExit(name, None, None, started.at_s, ended_at_s=time.time())
    return ModuleExit(name, ended.status, ended.signal, started.at_s, ended.at_s)


def _open_log(spec: ProcessSpec) -> int:
    spec.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = os.open(spec.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        # Programs that write to /dev/stdout open the file anew. Nobody else gets through to its folder.
        os.fchown(log_file, spec.uid or 0, -1)
    return log_file


def _close(watched: _Watched) -> None:
    if watched.module_pidfd is not None:
        os.close(watched.module_pidfd)
