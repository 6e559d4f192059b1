"""Ends every process of an edge, however little of the edge is left: for `edge-actors down`.

The agent may have been killed, its files or the whole home may be gone. What belongs to an edge is found by
its lock, by the state files of its modules, and by the mark that every process of it carries in its
environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection

from msgspec import Struct

from messaging.errors import EnvironmentFault
from runtime.machine import process_table
from runtime.machine.process_table import ProcessStat
from runtime.modules.process_runtime import MODULE_MARKER, RUN_MARKER
from runtime.modules.shim import SHELL, StateFolder
from runtime.run_directory import AGENT, Lock, RunDirectory

KILL_LIMIT_S = 5.0  # for killed processes to be gone


class EdgeProcess(Struct, frozen=True):
    """A living process of an edge."""

    process: ProcessStat
    name: str  # of the module or the edge's own process
    command: str

    @property
    def is_shim(self) -> bool:
        """A shim is our own affair; people know their modules."""
        return self.process.pid == self.process.session and self.command == f"{SHELL} -c"


class EndedProcess(Struct, frozen=True):
    """What `end_edge` ended."""

    pid: int
    name: str  # of the module or the edge's own process
    command: str
    killed: bool  # it did not end by itself in the time it was given


def end_edge(run: RunDirectory, grace_s: float) -> list[EndedProcess]:
    """End all processes of the edge with this run directory, then remove the directory.

    The agent goes first, because it ends its modules properly and would start them again otherwise. Whoever
    has not ended `grace_s` seconds after SIGTERM is killed. This process and its parents are spared: `down`
    may be called by a module.

    Returns:
        What was ended, shims left out; empty when nothing ran.

    Raises:
        EnvironmentFault: the run directory is not ours, a process cannot be ended, or an edge was started on
            this home meanwhile.
    """
    run.check()
    spared = process_table.ancestors(os.getpid())
    ended = _end(_lock_holders(run, AGENT, spared), grace_s)
    lock = Lock(run, AGENT)
    if run.path.exists():
        lock.acquire()  # from here on no other agent may start
    try:
        ended += _end(processes_of(run, spared), grace_s)
        while born_meanwhile := processes_of(run, spared):
            ended += _end(born_meanwhile, grace_s=0)
        run.remove()
    finally:
        lock.release()
    return ended


def processes_of(run: RunDirectory, spared: Collection[int] = ()) -> list[EdgeProcess]:
    """Return what lives of the edge with this run directory: agent, hub, modules, their shims."""
    sessions: dict[int, str] = {}
    for folder in sorted(run.modules.iterdir()) if run.modules.exists() else []:
        started = StateFolder(folder).started()
        session = started.session() if started else None
        if session is not None:
            sessions[session] = folder.name
    members = {member.process.pid: member for member in _lock_holders(run, "*", spared)}
    for process in process_table.find({RUN_MARKER: str(run.path)}, sessions):
        if process.pid not in spared:
            marks = process_table.read_environment(process.pid)
            name = marks.get(MODULE_MARKER) or sessions.get(process.session) or "unknown"
            members[process.pid] = EdgeProcess(process, name, process_table.command_of(process.pid))
    return list(members.values())


def _lock_holders(run: RunDirectory, pattern: str, spared: Collection[int]) -> list[EdgeProcess]:
    found = []
    for path in sorted(run.path.glob(f"{pattern}.lock")):
        holder = Lock(run, path.stem).holder()
        process = process_table.read_stat(holder.pid) if holder else None
        if holder and process and process.start_ticks == holder.start_ticks and process.pid not in spared:
            found.append(EdgeProcess(process, path.stem, holder.command))
    return found


def _end(members: list[EdgeProcess], grace_s: float) -> list[EndedProcess]:
    alive = process_table.signal_and_wait([m.process for m in members], signal.SIGTERM, grace_s)
    stubborn = [m.process for m in members if m.process.pid in alive]
    undying = process_table.signal_and_wait(stubborn, signal.SIGKILL, KILL_LIMIT_S)
    if undying:
        raise EnvironmentFault(
            f"processes {', '.join(map(str, sorted(undying)))} of this edge were killed but do not end; "
            "they belong to another user or wait for a device: see them with `ps`, then try again"
        )
    return [
        EndedProcess(m.process.pid, m.name, m.command, killed=m.process.pid in alive)
        for m in members
        if not m.is_shim
    ]
