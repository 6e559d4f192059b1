"""How much room the message database may take, and the reserve that lets it go on with a full disk.

Deleting needs space too: SQLite writes to its log before it frees anything. So a file of some MiB lies beside
the database for nothing else than to be given up when the disk is full. Until it is there again, nothing new
is stored: delivering gets the space.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from pathlib import Path
from typing import Final

from messaging.errors import StoreFull

log = logging.getLogger(__name__)

RESERVE_BYTES: Final = 8 << 20  # as large as the log is kept
SMALL_DISK_SHARE: Final = 16  # of a small disk the reserve is this part at most
# Above the limit there is room for what is no message: sessions, parts of rows, and the estimate's error.
MARGIN_PAGES: Final = 256
SLACK_BYTES: Final = 64 << 10  # what a transaction takes besides its messages, at most
SMALLEST_DEFAULT_BYTES: Final = 1 << 20


class StoreSpace:
    """Watches one database file. Used by its owner, in the owner's thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path, max_bytes: int | None) -> None:
        self._connection = connection
        self._path = path
        self._reserve = path.with_name(path.name + "-reserve")
        (self._page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        self.max_bytes = default_max_bytes(path) if max_bytes is None else max_bytes
        pages = self.max_bytes // self._page_bytes + MARGIN_PAGES
        connection.execute(f"PRAGMA max_page_count={pages}").fetchone()
        self._sure_bytes = 0  # there is room for so much at least, as far as the limit goes
        self._short = True
        self._build_reserve()

    def check(self, more_bytes: int) -> None:
        """Refuse what does not fit.

        Raises:
            StoreFull: The limit would be passed, or the disk is full and the reserve given up.
        """
        if self._short and not self._build_reserve():
            raise StoreFull(
                f"message database {self._path}: its disk is full, nothing new is stored until "
                f"{_mib(2 * self._wanted_bytes())} are free; delivering goes on"
            )
        self._sure_bytes -= 2 * more_bytes + SLACK_BYTES
        if self._sure_bytes >= 0:
            return  # without asking SQLite, which costs more than the check is worth
        used_bytes = self.used_bytes()
        self._sure_bytes = self.max_bytes - used_bytes
        if more_bytes > self._sure_bytes:
            raise StoreFull(
                f"message database {self._path}: holds {_mib(used_bytes)} of at most {_mib(self.max_bytes)}, "
                "nothing new is stored until some of it is delivered or expired; "
                "raise storeLimits.maxSizeBytes in the deployment for more"
            )

    def used_bytes(self) -> int:
        """Return what the database holds, free pages not counted."""
        run = self._connection.execute
        (pages,) = run("PRAGMA page_count").fetchone()
        (free,) = run("PRAGMA freelist_count").fetchone()
        used: int = (pages - free) * self._page_bytes
        return used

    def ran_out(self) -> None:
        """SQLite found no space: if it is the disk's, give up the reserve."""
        if self._short or _free_bytes(self._path.parent) >= self._wanted_bytes():
            return  # the limit
        self._short = True
        try:
            self._reserve.unlink(missing_ok=True)
        except OSError as exc:
            log.error("message database %s: the reserve cannot be given up: %s", self._path, exc.strerror)
        log.error(
            "message database %s: its disk is full; new messages are refused, delivering goes on; "
            "free some space in '%s'",
            self._path,
            self._path.parent,
        )

    def recover(self) -> None:
        """Take the reserve back when there is room again."""
        if self._short:
            self._build_reserve()

    def _build_reserve(self) -> bool:
        """Make the reserve anew, and take messages again; False while there is no room for it."""
        wanted_bytes = self._wanted_bytes()
        try:
            if self._reserve.stat().st_blocks * 512 >= wanted_bytes:
                self._short = False
                return True
        except OSError:
            pass  # made below
        if _free_bytes(self._path.parent) < 2 * wanted_bytes:
            return False
        try:
            file = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, wanted_bytes)
            finally:
                os.close(file)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                log.error("message database %s: no reserve can be made: %s", self._path, exc.strerror)
            self._reserve.unlink(missing_ok=True)
            return False
        self._short = False
        return True

    def _wanted_bytes(self) -> int:
        disk = os.statvfs(self._path.parent)
        return min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // SMALL_DISK_SHARE)


def give_up_reserve(path: Path) -> bool:
    """Remove the reserve of a database that cannot be opened for want of space; False: there is none."""
    try:
        path.with_name(path.name + "-reserve").unlink()
    except OSError:
        return False
    return True


def default_max_bytes(path: Path) -> int:
    """Return the limit of a database for which none was stated.

    Half of what its disk has for it: what is free now, and what it takes already.
    """
    own_bytes = path.stat().st_size if path.exists() else 0
    return max(SMALLEST_DEFAULT_BYTES, (_free_bytes(path.parent) + own_bytes) // 2)


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"
