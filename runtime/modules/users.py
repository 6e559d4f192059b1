"""The users of process modules: when the edge is root, each module has a user id and a folder of its own.

The owner of the module's folder, `HOME/module-data/<module>`, is the record of its user id: it stays as long
as the folder does and cannot disagree with it. Group id and user id are the same number.

For modules to reach their folders and sockets, the ways there may be entered by others (mode 0711): the home,
`module-data`, the run directory. What else stands there is closed to others one by one.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import logging
import os
import pwd
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from messaging.errors import EdgeError, EnvironmentFault
from runtime.home import Home
from runtime.machine import process_table
from runtime.run_directory import OWNER, RunDirectory

log = logging.getLogger(__name__)

FOLDER_MODE = 0o700
WAY_MODE = 0o711  # others may pass through, and see nothing


class ModuleUser(Struct, frozen=True):
    """As whom a module runs, and the folder that is its own."""

    uid: int  # also its group id
    folder: Path


class ModuleUsers:
    """Gives the modules of one home their users. Only for root. Any thread may call."""

    def __init__(self, home: Home, run: RunDirectory, uids: range) -> None:
        self._home = home
        self._run = run
        self._uids = uids
        self._lock = threading.Lock()
        self._users: dict[str, ModuleUser] = {}

    def claim(self, name: str) -> ModuleUser:
        """Return the user of a module, made when it has none; the same for as long as this object lives.

        A user id that has got an account, or is that of a module of another edge of root, is replaced,
        and the folder with it.

        Raises:
            EnvironmentFault: no user id is free, or the folder cannot be made.
        """
        with self._lock:
            if name not in self._users:
                try:
                    with self._alone():
                        self._users[name] = self._make(name)
                except OSError as exc:
                    raise EnvironmentFault(
                        f"module '{name}' gets no user of its own: {exc.filename}: {exc.strerror}"
                    ) from exc
            return self._users[name]

    def _make(self, name: str) -> ModuleUser:
        self._open_way()
        folder = self._home.module_data / name
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        owner = folder.lstat().st_uid
        if owner == 0 or (self._is_taken(owner, name) and not _lives(owner)):
            uid = choose(f"{self._run.home}|{name}", self._uids, lambda uid: not self._is_taken(uid, name))
            if uid is None:
                raise EnvironmentFault(
                    f"module '{name}' gets no user of its own: none of the user ids "
                    f"{self._uids.start}-{self._uids.stop - 1} is free; "
                    "set another range with the setting process_modules.uids"
                )
            give(folder, owner, uid)
            log.info("module %s runs as user id %d", name, uid)
            owner = uid
        folder.chmod(FOLDER_MODE)
        return ModuleUser(owner, folder)

    def _is_taken(self, uid: int, name: str) -> bool:
        """Say whether a user id is not for this module: it has an account, or another module has it."""
        return _has_account(uid) or any(
            owner == uid and not (home == self._run.home and module == name)
            for home, module, owner in self._claims()
        )

    def _claims(self) -> Iterator[tuple[Path, str, int]]:
        """Yield home, module and user id of all modules, also of other edges of root that run."""
        homes = {self._run.home}
        for other in self._run.path.parent.iterdir():
            try:
                homes.add(Path(os.fsdecode((other / OWNER).read_bytes())))
            except OSError:
                continue  # being made or removed
        for home in homes:
            try:
                with os.scandir(Home(home).module_data) as entries:
                    for entry in entries:
                        yield home, entry.name, entry.stat(follow_symlinks=False).st_uid
            except OSError:
                continue  # none of its modules has a user

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other edges from choosing at the same time."""
        folder = os.open(self._run.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _open_way(self) -> None:
        home = self._run.home
        if not home.stat().st_mode & stat.S_IXOTH:
            foreign = self._home.foreign()
            if foreign:
                raise EnvironmentFault(
                    f"home {home} stays closed to other users, because it also holds what is not the edge's "
                    f"({', '.join(foreign[:3])}); choose another --home"
                )
            home.chmod(WAY_MODE)
        self._home.module_data.mkdir(mode=WAY_MODE, exist_ok=True)
        for folder in (self._home.module_data, self._run.path.parent, self._run.path):
            folder.chmod(WAY_MODE)


def choose(key: str, uids: range, is_free: Callable[[int], bool]) -> int | None:
    """Return a free user id, None when there is none.

    The search starts where a checksum of `key` says, so that two machines or homes rarely meet.
    """
    start = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    for step in range(len(uids)):
        uid = uids[(start + step) % len(uids)]
        if is_free(uid):
            return uid
    return None


def give(folder: Path, owner: int, uid: int) -> None:
    """Give a folder, and all in it that belongs to `owner`, to another user.

    Not what belongs to others: its owner could have linked a file of somebody else's into it.
    """
    for path, folders, files in os.walk(folder, topdown=False):
        for entry in (os.path.join(path, name) for name in (*folders, *files)):
            if os.lstat(entry).st_uid == owner:
                os.lchown(entry, uid, uid)
    os.lchown(folder, uid, uid)


def group_of(users: ModuleUsers | None, name: str) -> int | None:
    """Return the group of a module for its socket, None when it has none of its own."""
    if users is None:
        return None
    try:
        return users.claim(name).uid
    except EdgeError:
        return None  # told where the module is started


def _has_account(uid: int) -> bool:
    for look in (pwd.getpwuid, grp.getgrgid):
        try:
            look(uid)
        except KeyError:
            continue
        return True
    return False


def _lives(uid: int) -> bool:
    """Say whether a process of this user runs."""
    for process in process_table.all_processes():
        try:
            if os.stat(f"/proc/{process.pid}").st_uid == uid:
                return True
        except FileNotFoundError:
            continue  # ended meanwhile
    return False
