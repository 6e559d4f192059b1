from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.logs import reader
from runtime.logs import rotation as log_rotation
from runtime.logs.rotation import LogRotation, archive, rotate
from tests.runtime.module_processes import LIMIT_S
from tests.waiting import wait_until

BLOCK = 4096
# Appends numbered lines through a descriptor of its own, as a module does, as fast as it can.
WRITER = """
import os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(int(sys.argv[2])):
    os.write(log, b"%09d %s\\n" % (number, b"x" * 90))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "module.log"


@pytest.fixture(params=["collapse", "truncate"])
def way(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to shorten a log; the first needs a file system that can."""
    if request.param == "truncate":
        monkeypatch.setattr(log_rotation, "_collapse", lambda file, size: False)
    elif not can_collapse(path):
        pytest.skip("the file system of the temporary folder cannot collapse files")
    return str(request.param)


def can_collapse(path: Path) -> bool:
    path.write_bytes(b"x" * 3 * BLOCK)
    with open(path, "r+b") as file:
        done = log_rotation._collapse(file.fileno(), BLOCK)
    path.unlink()
    return done


def lines(start: int, count: int) -> bytes:
    return b"".join(b"%09d %s\n" % (number, b"x" * 90) for number in range(start, start + count))


def append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


def whole(path: Path, tail: int | None = None) -> bytes:
    return b"".join(reader.read(path, tail))


def test_a_small_log_stays_as_it_is(path: Path) -> None:
    path.write_bytes(b"x" * 100)

    assert not rotate(path, max_bytes=100)
    assert not rotate(path.with_name("none.log"), max_bytes=100)
    assert [entry.name for entry in path.parent.iterdir()] == ["module.log"]


def test_a_large_log_is_split_and_read_as_one(path: Path, way: str) -> None:
    content = lines(0, 1000)
    path.write_bytes(content)

    assert rotate(path, max_bytes=50_000)

    assert path.stat().st_size <= BLOCK
    assert archive(path, 1).read_bytes() + path.read_bytes() == content
    assert archive(path, 1).stat().st_mode & 0o777 == 0o600
    assert whole(path) == content
    assert whole(path, 1) == lines(999, 1)
    assert whole(path, 900) == lines(100, 900)
    assert whole(path, 5000) == content


def test_only_the_youngest_archives_are_kept(path: Path, way: str) -> None:
    for number in range(5):
        append(path, lines(number * 1000, 1000))
        assert rotate(path, max_bytes=50_000)

    kept = sorted(entry.name for entry in path.parent.iterdir())
    assert kept == ["module.log", "module.log.1", "module.log.2"]
    assert lines(0, 5000).endswith(whole(path))
    assert len(whole(path)) > 190_000
    assert whole(path, 1500) == lines(3500, 1500)


def test_a_follower_misses_nothing_and_repeats_nothing_over_rotations(path: Path, way: str) -> None:
    path.write_bytes(lines(0, 10))
    seen: list[bytes] = []
    steps: list[Callable[[], object]] = [
        lambda: append(path, lines(10, 1000)),  # is rotated before the follower has seen it
        lambda: rotate(path, 50_000),
        lambda: append(path, lines(1010, 5)),
        lambda: (append(path, lines(1015, 1000)), rotate(path, 50_000), append(path, lines(2015, 1000))),
        lambda: (append(path, lines(3015, 10)), rotate(path, 50_000), append(path, lines(3025, 1000))),
        lambda: (rotate(path, 50_000), append(path, lines(4025, 900)), rotate(path, 50_000)),
    ]

    class Steps(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            steps.pop(0)()
            if not steps:
                self.set()
            return True

    for block in reader.follow(path, 5, Steps()):
        seen.append(block)

    assert b"".join(seen) == lines(5, 4920)


def test_a_log_that_is_renamed_twice_between_two_looks_is_followed(path: Path) -> None:
    path.write_bytes(b"one\n")

    def rename() -> None:
        if archive(path, 1).exists():
            archive(path, 1).rename(archive(path, 2))
        path.rename(archive(path, 1))

    class Steps(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            for content in (b"two\n", b"three, and longer\n"):
                rename()
                path.write_bytes(content)
            self.set()
            return True

    assert b"".join(reader.follow(path, None, Steps())) == b"one\ntwo\nthree, and longer\n"


def test_no_line_is_lost_while_a_module_writes_as_fast_as_it_can(path: Path) -> None:
    if not can_collapse(path):
        pytest.skip("the file system of the temporary folder cannot collapse files")
    count, rotations, kept = 200_000, 0, b""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(count)])
    try:
        while writer.poll() is None or (path.exists() and path.stat().st_size > 1_000_000):
            if rotate(path, max_bytes=1_000_000):
                rotations += 1
                kept += archive(path, 1).read_bytes()
    finally:
        writer.kill()
        writer.wait()

    assert kept + path.read_bytes() == lines(0, count)
    assert rotations > 3


def test_a_reader_in_the_middle_of_a_look_is_not_disturbed(path: Path, way: str) -> None:
    path.write_bytes(lines(0, 1000))
    reading = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(reading, fcntl.LOCK_SH)

    disturbed = rotate(path, max_bytes=50_000)
    os.close(reading)

    assert not disturbed
    assert [entry.name for entry in path.parent.iterdir()] == ["module.log"]
    assert rotate(path, max_bytes=50_000)


def test_a_hole_that_a_module_makes_does_not_fill_the_disk(
    path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_rotation, "MAX_ARCHIVE_BYTES", 1 << 20)
    with open(path, "wb") as file:
        file.truncate(1 << 34)
        file.seek(0, os.SEEK_END)
        file.write(b"end\n")

    assert rotate(path)

    assert path.stat().st_size <= BLOCK
    assert archive(path, 1).stat().st_size <= (1 << 20) + BLOCK
    assert whole(path, 1).endswith(b"end\n")


def test_a_log_that_cannot_be_copied_stays_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(lines(0, 1000))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space left"):
        rotate(path, max_bytes=50_000)

    assert path.read_bytes() == lines(0, 1000)
    assert [entry.name for entry in path.parent.iterdir()] == ["module.log"]


@pytest.fixture
def rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogRotation]:
    monkeypatch.setattr(log_rotation, "PERIOD_S", 0.01)
    made = LogRotation(tmp_path, spared=frozenset({"own.log"}), max_bytes=50_000)
    yield made
    made.close()


def test_logs_are_looked_after_but_not_those_of_others(rotation: LogRotation, path: Path) -> None:
    for name in ("own.log", "module.log"):
        path.with_name(name).write_bytes(lines(0, 1000))

    rotation.start()
    wait_until(archive(path, 1).exists, "a file was rotated", LIMIT_S)
    rotation.close()

    assert path.with_name("own.log").read_bytes() == lines(0, 1000)
    assert not archive(path.with_name("own.log"), 1).exists()
