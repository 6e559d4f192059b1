"""What the kernel tells about the processes of this machine: /proc and pidfds.

A pid alone names a process badly, because the kernel gives it away again (after 32,768 others on a small
device). So a process is known here by pid and start time, and signals go through a pidfd opened and checked
before.

Source: proc_pid_stat(5), pidfd_open(2), PR_SET_CHILD_SUBREAPER(2const)
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct

PR_SET_CHILD_SUBREAPER = 36
READ_BYTES = 1 << 16


class ProcessStat(Struct, frozen=True):
    """One line of /proc/PID/stat, as far as it is needed."""

    pid: int
    state: str  # one letter; Z is a zombie: ended, but not yet waited for
    parent: int
    group: int
    session: int
    start_ticks: int  # clock ticks since boot: with the pid and the boot, the identity of a process


def parse_stat(line: str) -> ProcessStat:
    """Parse one line of /proc/PID/stat. Raises ValueError when it is none."""
    # The second field is the program's name in parentheses and may itself hold blanks and parentheses.
    pid, opening, rest = line.partition(" (")
    _, closing, tail = rest.rpartition(") ")
    fields = tail.split()
    if not opening or not closing or len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {line!r}")
    return ProcessStat(
        int(pid), fields[0], int(fields[1]), int(fields[2]), int(fields[3]), start_ticks=int(fields[19])
    )


def read_stat(pid: int) -> ProcessStat | None:
    """Return what the kernel says about `pid`, None when there is no such process."""
    line = _read(f"/proc/{pid}/stat")
    return parse_stat(line.decode("utf-8", "replace")) if line else None


def all_processes() -> Iterator[ProcessStat]:
    """Yield every process, zombies too; those that end meanwhile are left out."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := read_stat(int(entry))) is not None:
            yield stat


def find(
    marks: Mapping[str, str], sessions: Collection[int] = (), oldest_ticks: int = 0
) -> list[ProcessStat]:
    """Return the living processes that are in one of `sessions` or have all of `marks` in their environment.

    Those older than `oldest_ticks` are left out. A process in the middle of an exec shows no environment; its
    session still tells.
    """
    found = []
    for process in all_processes():
        if process.state in "ZX" or process.start_ticks < oldest_ticks:
            continue
        if process.session in sessions or marks.items() <= read_environment(process.pid).items():
            found.append(process)
    return found


def read_environment(pid: int) -> dict[str, str]:
    """Return the environment `pid` was started with; empty when it has ended or we may not look."""
    entries = _read(f"/proc/{pid}/environ").split(b"\0")
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs}


def command_of(pid: int) -> str:
    """Return the first words of the command line of `pid`, fit for a message.

    Only the program and what it runs: later words of a stranger's command line may be passwords.
    """
    words = [os.fsdecode(word) for word in _read(f"/proc/{pid}/cmdline").split(b"\0") if word]
    if words:
        return " ".join(words[: 3 if words[1:2] == ["-m"] else 2])
    return os.fsdecode(_read(f"/proc/{pid}/comm").strip()) or "unknown command"


def boot_id() -> str:
    """Return the name of this boot: pids and start times of another boot mean nothing."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def is_alive(pid: int, start_ticks: int) -> bool:
    """Say whether this very process lives. A zombie does not: its files and locks are closed."""
    stat = read_stat(pid)
    return stat is not None and stat.start_ticks == start_ticks and stat.state not in "ZX"


def open_pidfd(pid: int, start_ticks: int) -> int | None:
    """Return a pidfd of this very process, None when it has ended. The caller closes it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Checked after opening: from here on the pid cannot come to mean another process unnoticed.
    if is_alive(pid, start_ticks):
        return pidfd
    os.close(pidfd)
    return None


def ancestors(pid: int) -> set[int]:
    """Return `pid` and the pids of its parents up to the first process."""
    line: set[int] = set()
    while pid > 0 and pid not in line and (stat := read_stat(pid)) is not None:
        line.add(pid)
        pid = stat.parent
    return line


def signal_and_wait(processes: Iterable[ProcessStat], number: signal.Signals, limit_s: float) -> set[int]:
    """Send a signal to each of `processes` and return the pids of those still alive after `limit_s` seconds.

    Returns as soon as all have ended but those that we may not send signals to.
    """
    pidfds: dict[int, int] = {}
    refused: set[int] = set()
    try:
        for process in processes:
            pidfd = open_pidfd(process.pid, process.start_ticks)
            if pidfd is None:
                continue
            pidfds[pidfd] = process.pid
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                pass  # it ended by itself; its pidfd says so below
            except PermissionError:
                refused.add(pidfd)
        alive = set(pidfds) - refused
        poll = select.poll()
        for pidfd in alive:
            poll.register(pidfd, select.POLLIN)
        deadline_s = time.monotonic() + limit_s
        while alive:
            ready = poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)
            if not ready:
                break
            for pidfd, _ in ready:
                poll.unregister(pidfd)
                alive.discard(pidfd)
        return {pidfds[pidfd] for pidfd in alive | refused}
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def become_subreaper() -> None:
    """Make this process the new parent of descendants whose own parent ends, in place of init.

    In a container the first process is often a program that never waits for strangers' children.
    """
    import ctypes  # only the agent's process runtime needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


def reap_orphans(keep: Collection[int]) -> None:
    """Wait for ended children that nobody else will: those of other sessions, except the pids in `keep`.

    Children that our own code started with `subprocess` share our session and are left to it.
    """
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
    except ChildProcessError:
        return
    ourselves, session = os.getpid(), os.getsid(0)
    for process in all_processes():
        ended_child = process.parent == ourselves and process.state == "Z"
        if ended_child and process.session != session and process.pid not in keep:
            reap(process.pid)


def reap(pid: int) -> None:
    """Wait for `pid` if it is an ended child of ours; otherwise do nothing."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def _read(path: str) -> bytes:
    """Return the whole of a file of /proc, empty when the process has ended or we may not look."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(descriptor, READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
