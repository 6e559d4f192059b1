"""Reads the log files of modules for `edge-actors logs`: their end, and what is added while one watches.

A log is the archives that rotation made (logs/rotation.py) and the file that is written, read one after the
other. Bytes, not text: a module may write anything.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from messaging.errors import EnvironmentFault
from runtime.logs.rotation import ARCHIVES, archive, undisturbed

BLOCK_BYTES = 1 << 16
POLL_S = 0.2  # what a person does not notice; asking for the size of a file costs microseconds


def read(path: Path, tail: int | None = None) -> Iterator[bytes]:
    """Yield the last `tail` lines of a log in blocks, the whole log when `tail` is None.

    Raises:
        EnvironmentFault: there is no such log, or it cannot be read.
    """
    try:
        os.stat(path)
        with _Reader(path) as reader:
            reader.seek_tail(tail)
            while block := reader.next_block():
                yield block
    except OSError as exc:
        raise EnvironmentFault(
            f"log {path} cannot be read: {exc.strerror}; has the module been started? (`edge-actors list`)"
        ) from exc


def follow(path: Path, tail: int | None, stopped: threading.Event) -> Iterator[bytes]:
    """Yield the last `tail` lines of a log, then what is appended, until `stopped` is set.

    A log that does not exist yet is waited for. Rotation is followed without a gap or a repetition. When the
    file is replaced, what was still added to the old one comes before the new one; when it is cut shorter
    than what was read, reading begins again at its start.
    """
    with _Reader(path) as reader:
        reader.seek_tail(tail)
        while True:
            # Asked before reading: what was written before the stop is shown.
            last = stopped.is_set()
            while block := reader.next_block():
                yield block
            if last:
                return
            stopped.wait(POLL_S)


class _Mark(Struct, frozen=True):
    """What an archive is known by when it has moved on to the next number."""

    inode: int
    mtime_ns: int


class _Reader:
    """A place in a log.

    The place is an offset into what follows the archive `_done`: the next younger archive, or the live file.
    When a younger archive appears, it begins with the byte that was the first of the live file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._live: int | None = None  # descriptor
        self._done: _Mark | None = None
        self._offset = 0

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_live()

    def seek_tail(self, tail: int | None) -> None:
        """Go to where the last `tail` lines begin, to the beginning with None."""
        with undisturbed(self._path.parent):
            self._open_live()
            archives = self._archives()  # oldest first
            if tail is None:
                return
            missing, end = tail, True
            files = [path for path, _ in archives] + ([self._path] if self._live is not None else [])
            for number in range(len(files) - 1, -1, -1):
                offset, missing, end = _tail_in(files[number], missing, end)
                if missing == 0 or number == 0:
                    self._offset = offset
                    self._done = archives[number - 1][1] if number > 0 else None
                    return

    def next_block(self) -> bytes:
        """Return the next bytes, b"" when there are none at the moment."""
        with undisturbed(self._path.parent):
            while True:
                younger = self._younger()
                if younger and not self._is_live(younger[0][1]):
                    path, mark = younger[0]
                    block = _block(path, self._offset)
                    if block:
                        self._offset += len(block)
                        return block
                    self._offset = max(0, self._offset - path.stat().st_size)
                    self._done = mark
                    continue
                if self._live is None and not self._open_live():
                    return b""
                assert self._live is not None
                block = os.pread(self._live, BLOCK_BYTES, self._offset)
                if block:
                    self._offset += len(block)
                    return block
                if younger or self._is_replaced():
                    archives = younger[:1] or self._archives()
                    self._done = archives[-1][1] if archives else None
                    self._offset = 0
                    self._close_live()
                elif os.fstat(self._live).st_size < self._offset:
                    self._offset = 0
                else:
                    return b""

    def _archives(self) -> list[tuple[Path, _Mark]]:
        """Return the archives there are, oldest first."""
        found = []
        for number in range(ARCHIVES, 0, -1):
            path = archive(self._path, number)
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((path, _Mark(status.st_ino, status.st_mtime_ns)))
        return found

    def _younger(self) -> list[tuple[Path, _Mark]]:
        """Return the archives that come after the one that was read last."""
        archives = self._archives()
        marks = [mark for _, mark in archives]
        return archives[marks.index(self._done) + 1 :] if self._done in marks else archives

    def _is_live(self, mark: _Mark) -> bool:
        """Say whether an archive is the file we have open: the agent's own log is renamed."""
        return self._live is not None and os.fstat(self._live).st_ino == mark.inode

    def _is_replaced(self) -> bool:
        """Say whether the path names another file by now; between removal and creation it does not yet."""
        assert self._live is not None
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._live))
        except FileNotFoundError:
            return False

    def _open_live(self) -> bool:
        try:
            self._live = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _close_live(self) -> None:
        if self._live is not None:
            os.close(self._live)
            self._live = None


def _tail_in(path: Path, missing: int, is_end: bool) -> tuple[int, int, bool]:
    """Look backwards in one file for where the last `missing` lines of the log begin.

    Returns:
        The offset, how many lines are still missing, and whether the end of the log is still ahead: the
        newline there ends the last line, and does not begin another.
    """
    with open(path, "rb") as file:
        end = position = file.seek(0, os.SEEK_END)
        if missing == 0:
            return end, 0, is_end
        while position > 0:
            size = min(BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            at = len(block)
            if is_end and block.endswith(b"\n"):
                at -= 1
            is_end = False
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                missing -= 1
                if missing == 0:
                    return position + at + 1, 0, is_end
    return 0, missing, is_end


def _block(path: Path, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(BLOCK_BYTES)
