"""Keeps the logs of modules small while they are written.

A module holds its log open for appending and knows nothing of us, so the file cannot be renamed away. What
is old is copied to `NAME.log.1` and then cut out of the front of the file with FALLOC_FL_COLLAPSE_RANGE: the
kernel moves the rest forward in one step, between two writes of the module, so that no byte is lost (ext4,
XFS, F2FS, overlayfs on these). The cut is at a block of the file system, so it may be within a line; the
files read one after the other are the whole log.

Elsewhere (Btrfs, tmpfs, ZFS) the file is copied and truncated, and what is written in the moment between is
lost: 60 kB a rotation from a module that writes 30 MB/s, next to nothing from a usual one.

The folder is locked while the files change places, so that a reader can follow, see logs.py.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

MAX_BYTES = 10 * 1024 * 1024
ARCHIVES = 2  # beside the log itself
# More may be written between two looks; a hole that a module makes is not written out in full.
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
PERIOD_S = 2.0
FALLOC_FL_COLLAPSE_RANGE = 0x08  # linux/falloc.h
NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class LogRotation:
    """Looks after the logs in a folder, in a thread of its own, from `start` to `close`."""

    def __init__(self, folder: Path, spared: frozenset[str], max_bytes: int = MAX_BYTES) -> None:
        """Take the folder, and the names of files in it that somebody else looks after."""
        self._folder = folder
        self._spared = spared
        self._max_bytes = max_bytes
        self._closed = threading.Event()
        self._complained: set[Path] = set()
        self._thread = threading.Thread(target=self._run, name="log rotation", daemon=True)

    def start(self) -> None:
        """Begin to look, every PERIOD_S seconds."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(PERIOD_S):
            for path in self._folder.glob("*.log"):
                if path.name not in self._spared:
                    self._look_at(path)

    def _look_at(self, path: Path) -> None:
        try:
            rotate(path, self._max_bytes)
            self._complained.discard(path)
        except OSError as exc:
            if path not in self._complained:  # once, not every two seconds
                self._complained.add(path)
                log.warning("log %s cannot be rotated and grows: %s", path, exc.strerror)


def archive(path: Path, number: int) -> Path:
    """Return the path of an archive of a log; 1 is the youngest."""
    return path.with_name(f"{path.name}.{number}")


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Move what is old in a log to its archive if the log is larger than `max_bytes`; say whether it was.

    A reader in the middle of a look makes it wait until the next time.

    Raises:
        OSError: no space, for example. The log is as it was; the oldest archive may be gone.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(file).st_size
        if size <= max_bytes:
            return False
        block = os.fstatvfs(file).f_bsize
        old_bytes = (size - 1) // block * block  # the kernel refuses to cut away everything
        fresh = path.with_name(f".{path.name}.new")
        archive(path, ARCHIVES).unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as copy:
            try:
                _copy(file, copy.fileno(), max(0, old_bytes - MAX_ARCHIVE_BYTES), old_bytes)
                with _alone(path.parent) as is_alone:
                    if not is_alone:
                        return False
                    _shift(path, fresh)
                    if not _collapse(file, old_bytes):
                        _copy(file, copy.fileno(), old_bytes, None)
                        os.ftruncate(file, 0)
            finally:
                fresh.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)


def _shift(path: Path, fresh: Path) -> None:
    for number in range(ARCHIVES, 1, -1):
        try:
            archive(path, number - 1).rename(archive(path, number))
        except FileNotFoundError:
            continue
    fresh.rename(archive(path, 1))


def _copy(source: int, target: int, start: int, end: int | None) -> None:
    """Copy a range, up to the end of the source with `end` None."""
    while end is None or start < end:
        copied = os.sendfile(target, source, start, (1 << 26) if end is None else end - start)
        if copied == 0:
            return
        start += copied


def _collapse(file: int, size: int) -> bool:
    """Cut `size` bytes, whole blocks, out of the front of a file; False when the file system cannot."""
    if size == 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int64(0), ctypes.c_int64(size))
    # With 64-bit offsets under whatever name; musl has no other.
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate
    if fallocate(file, FALLOC_FL_COLLAPSE_RANGE, *arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in NOT_HERE:
        return False
    raise OSError(number, os.strerror(number))


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Lock out readers if none is reading at this moment; say whether that was so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def undisturbed(folder: Path) -> Iterator[None]:
    """Keep files from changing places; for readers, and only while they read a block."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
