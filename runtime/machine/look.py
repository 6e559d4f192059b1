"""Looks at what the machine and the modules take up: /proc and cgroups, without a word to Docker Engine.

A container has a cgroup of its own, a process module mostly shares one and is then seen by its session.

Source: proc(5), Documentation/admin-guide/cgroup-v2.rst of the Linux kernel; spec sheet observability.md
section 3
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from actors.manifest.module_spec import EDGE_AGENT
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.system_resources import Disk, ModuleResources, Resources
from runtime.machine import system_info
from runtime.machine.process_table import all_processes, read_stat

log = logging.getLogger(__name__)

CGROUPS: Final = Path("/sys/fs/cgroup")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class MachineLook:
    """Remembers the look before, because the use of processors is a difference. Any thread may call."""

    def __init__(self, metrics: AgentMetrics, began_s: float, cgroups: Path = CGROUPS) -> None:
        """Take where to count, and since when the agent runs (seconds since 1970-01-01 UTC)."""
        self._metrics = metrics
        self._began_s = began_s
        self._cgroups = cgroups
        self._busy_s: dict[str, float] = {}  # of processors, by what was looked at
        self._looked_s = 0.0
        self._looking = threading.Lock()

    def look_soon(self, modules: Sequence[tuple[str, int]]) -> None:
        """Look in a thread of its own, unless the look before has not ended."""
        if not self._looking.locked():
            threading.Thread(target=self._look, args=(tuple(modules),), name="machine", daemon=True).start()

    def _look(self, modules: Sequence[tuple[str, int]]) -> None:
        with self._looking:
            try:
                self._metrics.resources(self.look(modules))
            except Exception:
                log.exception("what the machine takes up cannot be seen; it is looked again later")

    def look(self, modules: Sequence[tuple[str, int]]) -> Resources:
        """Return what is taken up now by the machine and by modules, given by name and pid."""
        now_s, passed_s = time.monotonic(), time.monotonic() - self._looked_s
        self._looked_s = now_s
        memory = system_info.memory_use()
        total_bytes, used_bytes = memory["total_ram"], memory["used_ram"]
        sessions = _sessions()
        found = tuple(self._module(name, pid, passed_s, total_bytes, sessions) for name, pid in modules)
        return Resources(
            system_info.host_uptime_s(),
            max(0.0, time.time() - self._began_s),
            self._share("", system_info.processor_ticks()[0] * _TICK_S, passed_s),
            used_bytes,
            total_bytes,
            _disks(),
            found,
        )

    def _share(self, key: str, busy_s: float, passed_s: float) -> float | None:
        """Return which part of all processors was used since the look before, in percent."""
        before_s = self._busy_s.get(key)
        self._busy_s[key] = busy_s
        if before_s is None or passed_s <= 0 or busy_s < before_s:
            return None
        return min(100.0, (busy_s - before_s) * 100 / passed_s / (os.cpu_count() or 1))

    def _module(
        self, name: str, pid: int, passed_s: float, host_bytes: int, sessions: dict[int, list[int]]
    ) -> ModuleResources:
        group = None if name == EDGE_AGENT else self._own_cgroup(pid)
        if group is not None:
            return self._of_cgroup(name, pid, group, passed_s, host_bytes)
        stat = read_stat(pid)
        pids = [pid] if name == EDGE_AGENT or stat is None else sessions.get(stat.session, [pid])
        read_bytes = write_bytes = memory_bytes = 0
        busy_s = 0.0
        for each in pids:
            with suppress(OSError, ValueError, IndexError):
                memory_bytes += int(_read(f"/proc/{each}/statm").split()[1]) * _PAGE_BYTES
                fields = _read(f"/proc/{each}/stat").rpartition(")")[2].split()
                busy_s += (int(fields[11]) + int(fields[12])) * _TICK_S
                amounts = _table(f"/proc/{each}/io", ":")
                read_bytes += amounts.get("read_bytes", 0)
                write_bytes += amounts.get("write_bytes", 0)
        percent = self._share(f"{name} {pid}", busy_s, passed_s)
        return ModuleResources(
            name, percent, memory_bytes, host_bytes, len(pids), None, None, read_bytes, write_bytes
        )

    def _of_cgroup(
        self, name: str, pid: int, group: Path, passed_s: float, host_bytes: int
    ) -> ModuleResources:
        used = _number(group / "memory.current")
        if used is not None:
            used -= _table(group / "memory.stat", " ").get("inactive_file", 0)
        read_bytes = write_bytes = 0
        with suppress(OSError):
            for word in _read(group / "io.stat").split():
                key, _, amount = word.partition("=")
                read_bytes += int(amount) if key == "rbytes" else 0
                write_bytes += int(amount) if key == "wbytes" else 0
        network = _network(pid)
        return ModuleResources(
            name,
            self._share(
                f"{name} {pid}", _table(group / "cpu.stat", " ").get("usage_usec", 0) / 1e6, passed_s
            ),
            used,
            _number(group / "memory.max") or host_bytes,
            _number(group / "pids.current"),
            *network,
            read_bytes,
            write_bytes,
        )

    def _own_cgroup(self, pid: int) -> Path | None:
        """Return the cgroup of a process when it is a container's: another one than ours, with a memory."""
        with suppress(OSError):
            its, ours = _cgroup_of(pid), _cgroup_of(os.getpid())
            group = self._cgroups / its.lstrip("/")
            if its and its != ours and (group / "memory.current").exists():
                return group
        return None


def _cgroup_of(pid: int) -> str:
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":  # of version 2
            return path
    return ""


def _network(pid: int) -> tuple[int | None, int | None]:
    """Return the bytes in and out of all interfaces but loopback that a process sees."""
    try:
        rows = [line.split() for line in _read(f"/proc/{pid}/net/dev").replace(":", ": ").splitlines()[2:]]
    except OSError:
        return None, None
    others = [row for row in rows if row and row[0] != "lo:"]
    return sum(int(row[1]) for row in others), sum(int(row[9]) for row in others)


def _sessions() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for stat in all_processes():
        found.setdefault(stat.session, []).append(stat.pid)
    return found


def _disks() -> tuple[Disk, ...]:
    """Return the disks of this machine, and what its root is on."""
    return tuple(
        Disk(
            disk["name"], disk["file_system"], disk["file_type"], disk["total_space"], disk["available_space"]
        )
        for disk in system_info.disks((Path("/"),))
    )


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(_read(path))
    return None


def _table(path: str | Path, separator: str) -> dict[str, int]:
    """Return the numbers of a file of lines `name: number unit`."""
    found: dict[str, int] = {}
    with suppress(OSError):
        for line in _read(path).splitlines():
            name, _, rest = line.partition(separator)
            with suppress(ValueError, IndexError):
                found[name] = int(rest.split()[0])
    return found


def _read(path: str | Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
