"""Reads the log files of modules for `edge-actors logs`: their end, and what is added while one watches.

Bytes, not text: a module may write anything.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from messaging.errors import EnvironmentFault

BLOCK_BYTES = 1 << 16
POLL_S = 0.2  # what a person does not notice; asking for the size of a file costs microseconds


def read(path: Path, tail: int | None = None) -> Iterator[bytes]:
    """Yield the last `tail` lines of a log in blocks, the whole log when `tail` is None.

    Raises:
        EnvironmentFault: there is no such log, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            file.seek(_start_of_tail(file, tail))
            yield from _rest(file)
    except OSError as exc:
        raise EnvironmentFault(
            f"log {path} cannot be read: {exc.strerror}; has the module been started? (`edge-actors list`)"
        ) from exc


def follow(path: Path, tail: int | None, stopped: threading.Event) -> Iterator[bytes]:
    """Yield the last `tail` lines of a log, then what is appended, until `stopped` is set.

    A log that does not exist yet is waited for. When the file is replaced, what was still added to the old
    one comes before the new one; when it is cut shorter than what was read, reading begins again at its
    start.
    """
    file: BinaryIO | None = None
    try:
        while True:
            # Asked before reading: what was written before the stop is shown.
            last = stopped.is_set()
            if file is None:
                file = _open(path)
                if file is not None:
                    file.seek(_start_of_tail(file, tail))
                tail = None  # a file that comes later is news from its first line
            if file is not None:
                replaced = _is_replaced(path, file)
                yield from _rest(file)
                if replaced:
                    file.close()
                    file = None
                    continue
                if os.fstat(file.fileno()).st_size < file.tell():
                    file.seek(0)
                    continue
            if last:
                return
            stopped.wait(POLL_S)
    finally:
        if file is not None:
            file.close()


def _start_of_tail(file: BinaryIO, tail: int | None) -> int:
    """Return where the last `tail` lines begin, reading backwards no further than that."""
    if tail is None:
        return 0
    end = position = file.seek(0, os.SEEK_END)
    if tail == 0:
        return end
    missing = tail
    while position > 0:
        size = min(BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        at = len(block)
        if position + size == end and block.endswith(b"\n"):
            at -= 1  # ends the last line, does not begin another
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            missing -= 1
            if missing == 0:
                return position + at + 1
    return 0


def _rest(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _open(path: Path) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _is_replaced(path: Path, file: BinaryIO) -> bool:
    """Say whether the path names another file by now; between removal and creation it does not yet."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
