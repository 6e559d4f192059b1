"""Who is at the other end of a Unix socket, and whether it is a given module.

The decision is pure; reading /proc is apart from it. What is asked is the process that called connect():
whoever it hands the connection to afterwards speaks in its name for as long as it lives.

Source: spec sheet security-daemon.md section 0.4; unix(7), pidfd_open(2), proc_pid_stat(5)
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from pathlib import Path

from msgspec import Struct

_SO_PEERPIDFD = 77  # Linux 6.5; the socket module has no name for it before Python 3.14
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Caller(Struct, frozen=True):
    """A living process that connected. Its start time is in clock ticks since the machine started."""

    pid: int
    uid: int
    session_id: int
    started_at_ticks: int
    container_id: str | None


class ModuleProcess(Struct, frozen=True):
    """The process of a module, which runs in a session of its own."""

    pid: int
    session_id: int
    started_at_ticks: int


class ModuleContainer(Struct, frozen=True):
    """The container of a module, by its 64-digit id."""

    container_id: str


def is_module(caller: Caller | None, module: ModuleProcess | ModuleContainer | None) -> bool:
    """Tell whether the caller is that module.

    A process module: of its session, and not older than its process. The start time keeps out what had the
    same session number before the module was started; a process that left the module's session (setsid) is
    no longer the module. A container: in its cgroup, which only root can enter from outside; so are those
    that `docker exec` started. Pid 0 is one that cannot be seen from here.
    """
    if caller is None or module is None or caller.pid <= 0:
        return False
    if isinstance(module, ModuleContainer):
        return caller.container_id == module.container_id
    return caller.session_id == module.session_id and caller.started_at_ticks >= module.started_at_ticks


def is_user(caller: Caller | None, uid: int) -> bool:
    """Tell whether the caller is a living process of that user."""
    return caller is not None and caller.pid > 0 and caller.uid == uid


class Peer:
    """The process that connected, pinned by a pidfd so that a reused pid is never taken for it.

    Belongs to one thread. `close` releases the pidfd.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Read the credentials of the other end. They do not change while the connection lives."""
        self.pid, self.uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self._pidfd = _open_pidfd(connection, self.pid)

    def caller(self) -> Caller | None:
        """Return what /proc says of the peer at this moment, or None when it ended or cannot be seen."""
        if self._pidfd is None:
            return None
        folder = Path("/proc") / str(self.pid)
        try:
            session_id, started_at_ticks = parse_stat((folder / "stat").read_text(errors="replace"))
            container_id = parse_cgroup((folder / "cgroup").read_text(errors="replace"))
        except (OSError, ValueError):
            return None
        if _has_ended(
            self._pidfd
        ):  # asked last: while it lives, its pid is its own, and so is what was just read
            return None
        return Caller(self.pid, self.uid, session_id, started_at_ticks, container_id)

    def close(self) -> None:
        """Release the pidfd. May be called twice."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def parse_stat(text: str) -> tuple[int, int]:
    """Return session id and start time in ticks from the content of /proc/<pid>/stat.

    Raises:
        ValueError: the text is not of that form.
    """
    # The second field is the command's name in parentheses and may itself hold blanks and parentheses.
    _, found, rest = text.rpartition(")")
    fields = rest.split()
    if not found or len(fields) < 20:
        raise ValueError("not the content of a stat file")
    return int(fields[3]), int(fields[19])


def parse_cgroup(text: str) -> str | None:
    """Return the 64-digit id of the container in /proc/<pid>/cgroup, or None for a process outside of any."""
    for line in text.splitlines():
        ids = _CONTAINER_ID.findall(line)
        if ids:
            return str(ids[-1])  # containers may be nested; the last one is the process's own
    return None


def _open_pidfd(connection: socket.socket, pid: int) -> int | None:
    if pid <= 0:
        return None
    try:
        return int(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:
            return None  # the peer has ended already
    try:
        # An older kernel: by now the pid may belong to another process, and nothing here could tell.
        return os.pidfd_open(pid)
    except OSError:
        return None


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
