"""Real processes for tests: shell scripts as modules, and what to wait for."""

from __future__ import annotations

import os
import queue
import select
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.daemon.caller import ModuleProcess, parse_stat
from runtime.machine import process_table
from runtime.modules.process_module import ModuleExit, ProcessSpec

LIMIT_S = 10.0
ROOT = Path(__file__).parents[2]


@dataclass
class Exits:
    """Collects exits; is itself the callback."""

    seen: queue.Queue[ModuleExit] = field(default_factory=queue.Queue)

    def __call__(self, exited: ModuleExit) -> None:
        self.seen.put(exited)

    def next(self) -> ModuleExit:
        return self.seen.get(timeout=LIMIT_S)


@dataclass
class Workshop:
    """A folder in which modules run: their log, and a named pipe on which they report to the test."""

    folder: Path
    log_path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log_path = self.folder / "logs" / "module.log"
        self.pipe = self.folder / "pipe"
        os.mkfifo(self.pipe)
        self._reader = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # A writer of our own, so that the pipe has no end between two modules.
        self._writer = os.open(self.pipe, os.O_WRONLY | os.O_CLOEXEC)
        self._rest = b""

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def spec(
        self, script: str, name: str = "temp", env: Mapping[str, str] | None = None, **others: object
    ) -> ProcessSpec:
        """Return a module that runs a shell script in this folder."""
        return self.command(("sh", "-c", script), name, env, **others)

    def command(
        self,
        command: tuple[str, ...],
        name: str = "temp",
        env: Mapping[str, str] | None = None,
        **others: object,
    ) -> ProcessSpec:
        fields: dict[str, object] = {
            "name": name,
            "command": command,
            "env": {"PATH": os.environ["PATH"]} | dict(env or {}),
            "working_directory": self.folder,
            "log_path": self.log_path,
        }
        return ProcessSpec(**(fields | others))  # type: ignore[arg-type]

    def line(self) -> str:
        """Return the next line that a module wrote to `pipe`."""
        while b"\n" not in self._rest:
            assert select.select([self._reader], [], [], LIMIT_S)[0], "the module said nothing"
            self._rest += os.read(self._reader, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


def lives(pid: int) -> bool:
    stat = process_table.read_stat(pid)
    return stat is not None and stat.state not in "ZX"


def wait_until_ended(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], LIMIT_S)[0], f"process {pid} still lives"
    finally:
        os.close(pidfd)


def module_process(pid: int) -> ModuleProcess:
    """Return the description of a process that cannot be reaped meanwhile: a child that just started."""
    session_id, started_at_ticks = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    return ModuleProcess(pid, session_id, started_at_ticks)
