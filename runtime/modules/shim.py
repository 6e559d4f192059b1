"""The `sh` that stands between the agent and a process module, and the files it leaves.

The shim is the leader of a session of its own and the parent of the module. It writes down what only a parent
can know, so that a module outlives the agent and the next agent still learns its exit status. In the module's
state folder:

started      three lines: boot id, /proc/PID/stat of the shim, /proc/PID/stat of the module
ended        one line: the exit status as a shell has it, 128 + n after signal n
environment  only while starting, and only when the environment has names that `sh` would drop
isolation    written before by us: why the module has the rights of the edge; empty when it has not

The modification times of the first two are start and end.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from runtime.machine import process_table
from runtime.machine.process_table import ProcessStat

SHELL = "/bin/sh"
STARTED = "started"
ENDED = "ended"
ENVIRONMENT = "environment"
ISOLATION = "isolation"
SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# $0 is the state folder, "$@" the module's command, descriptor 0 a pipe to the agent.
# - A trapped signal, unlike an ignored one, is the default again in the module; the shim itself only notes
#   it, so that SIGTERM to the whole group leaves it the time to write the exit status.
# - The module runs in the foreground: a shell starts background commands with SIGINT ignored.
# - `read` takes the stat line without a process: /proc/self is whoever opens it, shim or subshell, and the
#   module keeps pid and start time of the subshell, because exec does.
# - The module does not start unless its pid is written down; else the next agent would start a second one.
# - Each file is one write of a shell: a `mv` of a complete one would cost one process more, twice, and
#   whoever reads a file before its line is there takes it for missing.
SCRIPT: Final = f"""
trap : HUP INT QUIT PIPE ALRM TERM USR1 USR2
read -r _EDGE_ACTORS_BOOT </proc/sys/kernel/random/boot_id
read -r _EDGE_ACTORS_SHIM </proc/self/stat
(
  read -r _EDGE_ACTORS_MODULE </proc/self/stat &&
  printf '%s\\n' "$_EDGE_ACTORS_BOOT" "$_EDGE_ACTORS_SHIM" "$_EDGE_ACTORS_MODULE" >"$0/{STARTED}" ||
    exit 125
  [ ! -e "$0/{ENVIRONMENT}" ] || . "$0/{ENVIRONMENT}"
  echo >&0 || exit 125
  exec "$@" </dev/null
)
echo $? >"$0/{ENDED}"
"""


class Started(Struct, frozen=True):
    """What the shim wrote before the module ran."""

    boot_id: str
    shim: ProcessStat
    module: ProcessStat
    at_s: float  # seconds since 1970-01-01 UTC

    def is_of_this_boot(self) -> bool:
        """Say whether pids and times written here mean anything."""
        return self.boot_id == process_table.boot_id()

    def session(self) -> int | None:
        """Return the module's session while its number surely means that: until its leader is waited for."""
        leader = process_table.read_stat(self.shim.pid) if self.is_of_this_boot() else None
        known = leader is not None and leader.start_ticks == self.shim.start_ticks
        return self.shim.session if known else None


class Ended(Struct, frozen=True):
    """What the shim wrote after the module ended."""

    status: int
    at_s: float  # seconds since 1970-01-01 UTC

    @property
    def signal(self) -> int | None:
        """The signal that ended the module. Neither a shell nor Docker tells `exit 137` from SIGKILL."""
        number = self.status - 128
        return number if number in signal.valid_signals() else None


class StateFolder(Struct, frozen=True):
    """The state folder of one module."""

    path: Path

    def started(self) -> Started | None:
        """Return what is written about the start, None when the module never ran."""
        text = _read(self.path / STARTED)
        if text is None:
            return None
        try:
            boot_id, shim, module = text[0].splitlines()
            return Started(boot_id, process_table.parse_stat(shim), process_table.parse_stat(module), text[1])
        except ValueError:
            return None  # not written by a shim

    def ended(self) -> Ended | None:
        """Return what is written about the end, None when it has not ended or nobody could write it down."""
        text = _read(self.path / ENDED)
        if text is None or not text[0].strip().isdigit():
            return None  # an empty file: there was no space left
        return Ended(int(text[0]), text[1])

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Make the folder fit for a new start: no files of the one before.

        Shells drop variables whose names they cannot write (`a.b`, `a-b`); these go round the shell in a file
        that only we may read, through `env`.
        """
        for folder in (self.path.parent, self.path):
            folder.mkdir(mode=0o700, exist_ok=True)
        for name in (STARTED, ENDED, ENVIRONMENT):
            (self.path / name).unlink(missing_ok=True)
        odd = [f"{name}={value}" for name, value in environment.items() if not SHELL_NAME.fullmatch(name)]
        if odd:
            env = shutil.which("env", path=os.defpath) or "env"
            path = self.path / ENVIRONMENT
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f'set -- {shlex.join([env, *odd])} "$@"\n')

    def note_isolation(self, not_isolated: str) -> None:
        """Write down, for the next agent, why the module has our rights; "" when it has not."""
        (self.path / ISOLATION).write_text(not_isolated, encoding="utf-8")

    def not_isolated(self) -> str:
        """Return what `note_isolation` wrote."""
        text = _read(self.path / ISOLATION)
        return "it was started by an earlier version of the edge" if text is None else text[0]

    def remove(self) -> None:
        """Delete the folder; not existing is fine."""
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            pass

    def forget_environment(self) -> None:
        """Delete the file with odd names, once the shim has read it."""
        (self.path / ENVIRONMENT).unlink(missing_ok=True)


def arguments(state: StateFolder, command: tuple[str, ...]) -> list[str]:
    """Return the command line of a shim that runs `command`."""
    return [SHELL, "-c", SCRIPT, str(state.path), *command]


def _read(path: Path) -> tuple[str, float] | None:
    """Return text and modification time of a file, None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
