"""What the kernel says about processes: CPU time, memory, and which ones belong to one edge."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
RUN_MARKER = "EDGE_ACTORS_RUN"
MODULE_MARKER = "EDGE_ACTORS_MODULE"
STAND_IN = "edgeCloud"
SHELLS = ("sh", "dash", "bash", "busybox")


@dataclass(frozen=True, slots=True)
class EdgeProcess:
    pid: int
    role: str  # agent, hub, shim, module, cloud for the stand-in; broker for another product's
    name: str  # of the module that it runs or watches, else its command line

    @property
    def label(self) -> str:
        return self.role if self.role in ("agent", "broker") else f"{self.role} {self.name}"


def machine_cpu_s() -> float:
    """Return the time that all cores together have been busy since boot, in s."""
    user, nice, system, _idle, _io_wait, *interrupts = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, *interrupts))) / TICKS_PER_S


def cpu_s(pid: int) -> float:
    """Return user and system time so far, in s; 0 when the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def pss_kb(pid: int) -> int:
    """Return the proportional set size in KiB; 0 when the process is gone."""
    return memory_kb(pid).get("Pss", 0)


def written_bytes(pid: int) -> int:
    """Return what the process has had written to storage so far; 0 when it is gone or not ours to ask."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def memory_kb(pid: int) -> dict[str, int]:
    """Return the sums that the kernel keeps of a process's memory, in KiB; empty when the process is gone.

    `Pss` shares out what several processes have mapped, so it changes with who else runs; `Anonymous` is what
    no file holds, and with it whatever leaks.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def environment(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; empty when it is gone or not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0") if "=" in entry)
    return {name: value for name, _, value in pairs}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _relations() -> dict[int, tuple[int, int]]:
    """Return (parent, session) of every process."""
    relations = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            relations[int(entry.name)] = int(fields[1]), int(fields[3])
    return relations


def of_edge(run_pid: int) -> list[EdgeProcess]:
    """Return the processes of the edge whose agent is `run_pid`.

    Each of them but the agent carries the run directory in its environment, whoever its parent is by now;
    which directory it is shows in the agent's own children.
    """
    relations = _relations()
    marks = {pid: mark for pid in relations if (mark := environment(pid).get(RUN_MARKER))}
    run_directories = {mark for pid, mark in marks.items() if relations[pid][0] == run_pid}
    members = sorted(pid for pid, mark in marks.items() if mark in run_directories and pid != run_pid)
    leaders = {pid for pid in members if relations[pid][1] == pid}
    return [EdgeProcess(run_pid, "agent", "agent"), *(_describe(pid, pid in leaders) for pid in members)]


def _describe(pid: int, leads_session: bool) -> EdgeProcess:
    marks = environment(pid)
    if marks.get(MODULE_MARKER) == STAND_IN:
        return EdgeProcess(pid, "cloud", STAND_IN)  # its shim with it: it counts apart
    module = marks.get("IOTEDGE_MODULEID", "")
    command = command_line(pid)
    if leads_session and Path(command.split(" ")[0]).name in SHELLS:
        return EdgeProcess(pid, "shim", module or "edgeHub")
    if module in ("", "$edgeHub"):
        return EdgeProcess(pid, "hub", "edgeHub")
    return EdgeProcess(pid, "module", module)
