"""The run directory of a home: where sockets, locks and the state of process modules are while the edge runs.

It is short whatever the length of the home, because a Unix socket path may have only 107 bytes, and it is
found from the home alone, so that `down` works when the home is gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from pathlib import Path

from msgspec import Struct

from messaging.errors import EnvironmentFault
from runtime.machine import process_table, system_service

BASE_NAME = "edge-actors"
# 107 bytes of a socket path less "/edge-actors/01234567/" leaves 50 for names below a base of this length.
LONGEST_BASE_BYTES = 35
AGENT = "agent"
CLOUD = "cloud"  # the IoT Hub stand-in, whose run directory is one of its own
EMBEDDED_CLOUD = "runtime.iothub.embedded"  # the program of one that an edge runs for itself
OWNER = "home"  # file with the path of the home
NO_FOLDER = "home {} is not a folder; choose another with --home"


class RunDirectory(Struct, frozen=True):
    """One home's run directory. Values only: nothing is created before `prepare`."""

    path: Path
    home: Path  # absolute, links resolved

    @classmethod
    def of(cls, home: Path) -> RunDirectory:
        """Return the run directory of `home`, which need not exist."""
        real = Path(os.path.realpath(home))
        digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:8]
        return cls(base_folder(os.geteuid(), os.environ.get("XDG_RUNTIME_DIR")) / digest, real)

    @property
    def modules(self) -> Path:
        """Folder with one state folder per process module."""
        return self.path / "modules"

    def prepare(self) -> None:
        """Create what is missing, and check what is there.

        Raises:
            EnvironmentFault: as `check`, or it cannot be created.
        """
        for folder in (self.path.parent, self.path):
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except FileExistsError:
                pass  # something else has that name; the check says what
            except OSError as exc:
                raise EnvironmentFault(
                    f"run directory {folder} cannot be created: {exc.strerror}; "
                    "make its parent writable, or set XDG_RUNTIME_DIR to a short private folder of yours"
                ) from exc
        self.check()
        owner = self.path / OWNER
        if not owner.exists():
            try:
                owner.write_bytes(os.fsencode(self.home))
            except OSError as exc:
                raise EnvironmentFault(
                    f"run directory {self.path} cannot be written: {exc.strerror}"
                ) from exc

    def check(self) -> None:
        """Check owner, mode and links of what exists, before anything in it is believed.

        Raises:
            EnvironmentFault: somebody else could read or replace what stands here, or it is another home's.
        """
        for folder in (self.path.parent, self.path):
            if os.path.lexists(folder):
                _check_private(folder)
        try:
            other = Path(os.fsdecode((self.path / OWNER).read_bytes()))
        except FileNotFoundError:
            return
        if other != self.home:
            raise EnvironmentFault(
                f"run directory {self.path} of home {self.home} is taken by home {other}: "
                "their names have the same checksum; choose another --home"
            )

    def remove(self) -> None:
        """Delete the run directory and all in it; none is fine. Raises EnvironmentFault as `check`."""
        self.check()
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            pass


class LockHolder(Struct, frozen=True):
    """Who wrote itself into a lock file."""

    pid: int
    start_ticks: int
    boot_id: str
    started_at_s: float  # seconds since 1970-01-01 UTC
    command: str


class Lock:
    """Says that one process, and no second one, plays a part of the edge on a home.

    An flock: the kernel releases it when the process ends, however it ends. What is written inside is for
    people and for `down`.
    """

    def __init__(self, run: RunDirectory, process: str) -> None:
        self.run = run
        self.process = process
        self.path = run.path / f"{process}.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            EnvironmentFault: another process has it, named with pid and start; or the file cannot be written.
        """
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as exc:
                raise EnvironmentFault(
                    f"lock {self.path} cannot be opened: {exc.strerror}; "
                    f"run `edge-actors down --home {self.run.home}` and start again"
                ) from exc
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                os.close(descriptor)
                raise EnvironmentFault(self._taken(self.holder())) from exc
            if _is_file_at(self.path, descriptor):
                break
            # Its holder removed it between our open and our lock: what we locked has no name any more.
            os.close(descriptor)
        self._descriptor = descriptor
        own = process_table.read_stat(os.getpid())
        assert own is not None, "our own process is always in /proc"
        holder = {
            "pid": own.pid,
            "start_ticks": own.start_ticks,
            "boot_id": process_table.boot_id(),
            "started_at_s": time.time(),
            "command": process_table.command_of(own.pid),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)

    def release(self) -> None:
        """Give the lock back and remove its file; without effect when we do not have it."""
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def holder(self) -> LockHolder | None:
        """Return who has the lock, None when nobody does. Never takes it, so that it disturbs no start."""
        try:
            holder = LockHolder(**json.loads(self.path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        if holder.boot_id != process_table.boot_id():
            return None
        return holder if process_table.is_alive(holder.pid, holder.start_ticks) else None

    def _taken(self, holder: LockHolder | None) -> str:
        who = "another edge" if self.process == AGENT else f"another {self.process} process"
        # A holder that is just writing itself down is not yet readable.
        known = f" (pid {holder.pid}, started {_clock(holder.started_at_s)})" if holder else ""
        home = self.run.home
        if self.process == CLOUD and holder and holder.command.endswith(EMBEDDED_CLOUD):
            return (
                f"the edge on home {home.parent} runs an IoT Hub stand-in there already (pid {holder.pid}); "
                f"`edge-actors cloud …` works with it. End both with `edge-actors down --home {home.parent}`"
            )
        if self.process == CLOUD:
            way_out = f"end it with `kill {holder.pid}`" if holder else "end it first"
            return f"another IoT Hub stand-in{known} runs on home {home.parent}; {way_out}"
        return f"{who}{known} runs on home {home}; stop it with `edge-actors down --home {home}`"


def check_home(home: Path) -> None:
    """Check that `home` is a folder, or can become one.

    Raises:
        EnvironmentFault: something else has its name.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(home).st_mode)
    except NotADirectoryError:
        is_folder = False
    except OSError:
        return  # `prepare_home` makes it, or says why not
    if not is_folder:
        raise EnvironmentFault(NO_FOLDER.format(home))


def prepare_home(home: Path) -> None:
    """Create `home` with mode 0700 if it does not exist, and check that we can write there.

    Raises:
        EnvironmentFault: it cannot be created, is no folder, or is not writable.
    """
    way_out = "choose another folder with --home, or make it writable for this user"
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise EnvironmentFault(NO_FOLDER.format(home)) from exc
    except OSError as exc:
        raise EnvironmentFault(f"home {home} cannot be created: {exc.strerror}; {way_out}") from exc
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise EnvironmentFault(f"home {home} is not writable; {way_out}")


def base_folder(uid: int, xdg_runtime_dir: str | None) -> Path:
    """Return the folder that holds the run directories of user `uid`.

    `/run/edge-actors` for root, that of the service for its user, else below XDG_RUNTIME_DIR. A service or
    cron job of the same user has no such variable, so the place systemd gives it, /run/user/UID, is tried
    too: both must find the same edge. Without any, a folder of this user in /tmp.
    """
    if uid != 0 and _belongs_to(system_service.RUN, uid):
        return system_service.RUN
    for candidate in ["/run"] if uid == 0 else [xdg_runtime_dir or "", f"/run/user/{uid}"]:
        short = os.path.isabs(candidate) and len(os.fsencode(candidate)) <= LONGEST_BASE_BYTES
        if short and os.path.isdir(candidate) and os.stat(candidate).st_uid == uid:
            return Path(candidate) / BASE_NAME
    return Path("/tmp") / f"{BASE_NAME}-{uid}"


def _belongs_to(folder: Path, uid: int) -> bool:
    try:
        return os.lstat(folder).st_uid == uid
    except OSError:
        return False


def _check_private(folder: Path) -> None:
    status = folder.lstat()
    uid = os.geteuid()
    if stat.S_ISLNK(status.st_mode):
        raise EnvironmentFault(f"run directory {folder} is a symbolic link; remove it: rm {folder}")
    if not stat.S_ISDIR(status.st_mode):
        raise EnvironmentFault(f"run directory {folder} is not a folder; remove it: rm {folder}")
    if status.st_uid != uid:
        raise EnvironmentFault(
            f"run directory {folder} belongs to user id {status.st_uid}, not to ours ({uid}); "
            f"remove it, or run as that user"
        )
    # Others may pass through to the sockets of modules that run as users of their own, see modules/users.py.
    if stat.S_IMODE(status.st_mode) & 0o066:
        raise EnvironmentFault(
            f"run directory {folder} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"check what is in it, then: chmod 700 {folder}"
        )


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clock(at_s: float) -> str:
    then = time.localtime(at_s)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", then)
