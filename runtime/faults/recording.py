"""Records what a process does to the files of one folder, by `strace`.

The real system calls of the real process, with all data, in an order that keeps causes before effects: the
kernel stops a thread at each call, so whatever another thread did because of it comes later. What this
reader does not know how to account for is an error, never passed over.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

CALLS: Final = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,"
    "fdatasync,sync,syncfs,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,"
    "lseek,mmap,copy_file_range,sendfile,splice,io_uring_setup"
)
MOST_BYTES: Final = 16 << 20  # of one call; longer ones are told by strace, and refused here
SHARED_MEMORY: Final = "-shm"  # SQLite's index of its log: mapped, made anew after a crash, never synced


class RecordingError(Exception):
    """The recording cannot be made, or holds something that this reader does not understand."""


class Written(NamedTuple):
    """Data of a file; `at` None: at its end."""

    moment: int
    at_s: float  # of the wall clock
    name: str
    at: int | None
    data: bytes


class Resized(NamedTuple):
    """A file has this size now, or with `grows` at least this size."""

    moment: int
    at_s: float
    name: str
    size_bytes: int
    grows: bool = False


class Created(NamedTuple):
    """A name was opened and made when it was not there."""

    moment: int
    at_s: float
    name: str


class Removed(NamedTuple):
    """A name is gone."""

    moment: int
    at_s: float
    name: str


class Renamed(NamedTuple):
    """A file has another name."""

    moment: int
    at_s: float
    old: str
    new: str


class Synced(NamedTuple):
    """A file, or the folder where `name` is empty, is on disk as it was before the call began."""

    moment: int
    at_s: float
    name: str
    began: int


Event = Written | Resized | Created | Removed | Renamed | Synced


def command(trace: Path, program: Iterable[str]) -> list[str]:
    """Return the command that runs a program, as the process itself, and records it.

    Raises:
        RecordingError: strace is not installed.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise RecordingError("power cuts need strace; install it: apt-get install -y strace")
    # -D: the program keeps the pid, and its parent, that it would have without a recorder.
    options = [
        "-D",
        "-f",
        "--seccomp-bpf",
        "-yy",
        "-xx",
        "-ttt",
        "-s",
        str(MOST_BYTES),
        "-e",
        f"trace={CALLS}",
    ]
    return [strace, *options, "-o", str(trace), *program]


_HEX = rb'"((?:\\x[0-9a-f]{2})*)"'
_LINE = re.compile(rb"^(\d+) +(\d+\.\d+) (.*)$", re.DOTALL)
_STRING = re.compile(_HEX)
_RESUMED = re.compile(rb"^<\.\.\. (\w+|\?\?\?) resumed>(.*)$", re.DOTALL)
_UNFINISHED = b" <unfinished ...>"
_CALL = re.compile(rb"^(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(.*)$", re.DOTALL)
_DESCRIPTOR = re.compile(rb"^(\d+)<")
_PATH = rb"<((?:\\x[0-9a-f]{2})+)>(?!\(deleted\))"  # a file that has no name any more is lost anyway
_FILE = re.compile(rb"^\d+" + _PATH)
_RETURNED = re.compile(rb"^" + _PATH)
_MAPPED = re.compile(rb", \d+" + _PATH)
_WRITERS = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
_POSITIONED = {"pwrite64": -1, "pwritev": -1, "pwritev2": -2}  # which argument from the end is the offset
_NOT_UNDERSTOOD = {"link", "linkat", "copy_file_range", "sendfile", "splice", "sync", "syncfs", "truncate"}


class Reader:
    """Turns the lines of one recording into events about one folder, in the order in which calls ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._unfinished: dict[bytes, tuple[int, bytes]] = {}  # by thread: where it began, and its start
        self.killed_in: set[str] = set()  # files of calls that may have been done or not, at the end
        self._open: dict[int, list[object]] = {}  # descriptor → name, position, appends

    def events(self, lines: Iterable[bytes]) -> Iterator[Event]:
        """Read all lines.

        Raises:
            RecordingError: one of them changes the folder in a way that is not understood.
        """
        for moment, line in enumerate(lines, 1):
            found = _LINE.match(line.rstrip(b"\n"))
            if found is None:
                raise RecordingError(f"line {moment} is not strace's: {line[:80]!r}")
            thread, at_s, text = found[1], float(found[2]), found[3]
            began = moment
            if text.startswith((b"+++", b"---")):
                continue
            if text.endswith(_UNFINISHED):
                self._unfinished[thread] = moment, text[: -len(_UNFINISHED)]
                continue
            resumed = _RESUMED.match(text)
            if resumed is not None:
                if resumed[1] == b"???" and thread not in self._unfinished:
                    continue  # killed before strace saw which call; the files will tell if it was done
                began, start = self._unfinished.pop(thread)
                text = start + resumed[2]
            if text.startswith(b"???("):
                continue  # the same
            call = _CALL.match(text)
            if call is None:
                raise RecordingError(f"line {moment} is no call: {text[:120]!r}")
            name, arguments, result, rest = call[1].decode(), call[2], call[3], call[4]
            if result == b"?":  # the process was killed in it: it may have been done
                self._killed_in(arguments)
            elif not result.startswith(b"-"):
                yield from self._done(moment, at_s, began, name, arguments, int(result, 0), rest)
        for _, start in self._unfinished.values():
            self._killed_in(start.partition(b"(")[2])

    def _killed_in(self, arguments: bytes) -> None:
        """Note a file: what was done to it was not synced, so nobody knows whether it was."""
        for path in (_path_of_descriptor(arguments), *_paths(arguments)):
            if (file := self._name(path)) is not None:
                self.killed_in.add(file)

    def _done(
        self, moment: int, at_s: float, began: int, name: str, arguments: bytes, result: int, rest: bytes
    ) -> Iterator[Event]:
        if name in _WRITERS:
            yield from self._wrote(moment, at_s, name, arguments, result)
        elif name in ("open", "openat", "openat2", "creat"):
            yield from self._opened(moment, at_s, name, arguments, result, rest)
        elif name in ("fsync", "fdatasync"):
            path = _path_of_descriptor(arguments)
            if path == self._folder:
                yield Synced(moment, at_s, "", began)
            elif (file := self._name(path)) is not None:
                yield Synced(moment, at_s, file, began)
        elif name in ("unlink", "unlinkat"):
            if (file := self._name(_paths(arguments)[0])) is not None:
                yield Removed(moment, at_s, file)
        elif name in ("rename", "renameat", "renameat2"):
            old, new = map(self._name, _paths(arguments)[:2])
            if old is not None and new is not None:
                yield Renamed(moment, at_s, old, new)
            elif old is not None or new is not None:
                raise RecordingError(f"line {moment}: a file is moved into or out of {self._folder}")
        elif name == "io_uring_setup":
            # uvloop has a ring with which it only tells epoll about sockets; the one for files polls.
            if b"IORING_SETUP_SQPOLL" in arguments:
                raise RecordingError(f"line {moment}: io_uring does what no recording shows")
        else:
            yield from self._changed(moment, at_s, name, arguments, result)

    def _changed(self, moment: int, at_s: float, name: str, arguments: bytes, result: int) -> Iterator[Event]:
        descriptor = _DESCRIPTOR.match(arguments)
        file = self._name(_path_of_descriptor(arguments))
        if name == "mmap":
            mapped = _MAPPED.search(arguments)
            file = self._name(_path(mapped[1])) if mapped else None
            if file is not None and b"MAP_SHARED" in arguments and b"PROT_WRITE" in arguments:
                raise RecordingError(f"line {moment}: {file} is mapped for writing, which no call shows")
        elif name in _NOT_UNDERSTOOD:
            named = any(self._name(path) is not None for path in _paths(arguments))
            if file is not None or named or name in ("sync", "syncfs"):
                raise RecordingError(f"line {moment}: {name} is not understood")
        elif file is None or descriptor is None:
            return
        elif name == "ftruncate":
            yield Resized(moment, at_s, file, _number(arguments, -1))
        elif name == "fallocate":
            mode = arguments.split(b", ")[1]
            if mode == b"0":
                yield Resized(moment, at_s, file, _number(arguments, -1) + _number(arguments, -2), True)
            elif mode != b"FALLOC_FL_KEEP_SIZE":
                raise RecordingError(f"line {moment}: fallocate of {file} with {mode.decode()}")
        elif name == "lseek" and int(descriptor[1]) in self._open:
            self._open[int(descriptor[1])][1] = result

    def _opened(
        self, moment: int, at_s: float, name: str, arguments: bytes, result: int, rest: bytes
    ) -> Iterator[Event]:
        returned = _RETURNED.match(rest)
        file = self._name(_path(returned[1])) if returned else None
        self._open.pop(result, None)
        if file is None:
            return
        self._open[result] = [file, 0, b"O_APPEND" in arguments]
        if b"O_CREAT" in arguments or name == "creat":
            yield Created(moment, at_s, file)
        if b"O_TRUNC" in arguments or name == "creat":
            yield Resized(moment, at_s, file, 0)

    def _wrote(self, moment: int, at_s: float, name: str, arguments: bytes, count: int) -> Iterator[Event]:
        file = self._name(_path_of_descriptor(arguments))
        if file is None:
            return
        if b'"...' in arguments:
            raise RecordingError(f"line {moment}: more than {MOST_BYTES} bytes in one call")
        data = _data(arguments)[:count]
        if len(data) < count:
            raise RecordingError(f"line {moment}: {name} of {count} bytes, {len(data)} of them recorded")
        if data:
            if name in _POSITIONED:
                yield Written(moment, at_s, file, _number(arguments, _POSITIONED[name]), data)
                return
            descriptor = _DESCRIPTOR.match(arguments)
            opened = self._open.get(int(descriptor[1])) if descriptor else None
            if opened is None or opened[0] != file:
                raise RecordingError(f"line {moment}: {file} was opened in a way that is not understood")
            _, position, appends = opened
            assert isinstance(position, int)
            yield Written(moment, at_s, file, None if appends else position, data)
            opened[1] = position + count

    def _name(self, path: str) -> str | None:
        """Return the name of a file of the folder that a disk keeps, None for any other."""
        folder, name = os.path.split(path)
        return name if folder == self._folder and name and not name.endswith(SHARED_MEMORY) else None


def _decoded(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())


def _path(text: bytes) -> str:
    return os.fsdecode(_decoded(text))


def _paths(arguments: bytes) -> list[str]:
    """Return the strings among the arguments. Relative ones are of another folder: nobody changes into it."""
    return [_path(found) for found in _STRING.findall(arguments)]


def _path_of_descriptor(arguments: bytes) -> str:
    found = _FILE.match(arguments)
    return _path(found[1]) if found else ""


def _data(arguments: bytes) -> bytes:
    return b"".join(map(_decoded, _STRING.findall(arguments)))


def _number(arguments: bytes, index: int) -> int:
    return int(arguments.split(b", ")[index], 0)
