import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.logs import reader
from runtime.logs.reader import BLOCK_BYTES

LONG = b"x" * (BLOCK_BYTES - 1)  # with its newline exactly one block


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "module.log"


@pytest.mark.parametrize(
    ("content", "tail", "expected"),
    [
        (b"", 3, b""),
        (b"", None, b""),
        (b"a\nb\nc\n", None, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 0, b""),
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"a\nb\nunfinished", 1, b"unfinished"),
        (b"a\nb\nunfinished", 2, b"b\nunfinished"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"\n", 1, b"\n"),
        (b"one", 1, b"one"),
        (b"a\n" + LONG + b"\n", 1, LONG + b"\n"),
        (b"a\n" + LONG + b"\n", 2, b"a\n" + LONG + b"\n"),
        (LONG + b"\nb\n", 1, b"b\n"),
        (LONG + b"\n" + LONG + b"\n" + LONG + b"\n", 2, LONG + b"\n" + LONG + b"\n"),
        (b"a" + LONG + b"\n" + LONG + b"\n", 1, LONG + b"\n"),
        (b"\xff\xfe\n\x00\n", 1, b"\x00\n"),
    ],
)
def test_the_tail_of_a_log_is_its_last_lines(path: Path, content: bytes, tail, expected: bytes) -> None:
    path.write_bytes(content)

    assert b"".join(reader.read(path, tail)) == expected


def test_the_tail_of_a_large_log_is_found_without_reading_it_whole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole: a terabyte that takes no space, and no time unless it is read
        file.seek(0, 2)
        file.write(b"\nlast\n")

    assert b"".join(reader.read(path, 1)) == b"last\n"


def test_a_log_that_does_not_exist_is_explained(path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=f"log {path} cannot be read: No such file"):
        next(reader.read(path, 1))


class Steps(threading.Event):
    """Does one step each time the follower waits for news; after the last one the follower is to stop."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self._steps = list(steps)

    def wait(self, timeout: float | None = None) -> bool:
        self._steps.pop(0)()
        if not self._steps:
            self.set()
        return self.is_set()


def append(path: Path, content: bytes) -> Callable[[], object]:
    def step() -> None:
        with open(path, "ab") as file:
            file.write(content)

    return step


def followed(path: Path, tail: int | None, *steps: Callable[[], object]) -> bytes:
    return b"".join(reader.follow(path, tail, Steps(*steps)))


def test_what_is_appended_is_shown_after_the_tail(path: Path) -> None:
    path.write_bytes(b"old\nrecent\n")

    assert followed(path, 1, append(path, b"new\nun"), append(path, b"finished\n")) == (
        b"recent\nnew\nunfinished\n"
    )


def test_a_log_that_does_not_exist_yet_is_shown_from_its_first_line(path: Path) -> None:
    assert followed(path, 0, lambda: None, append(path, b"first\n"), append(path, b"second\n")) == (
        b"first\nsecond\n"
    )


def test_a_log_that_was_cut_is_read_again_from_its_start(path: Path) -> None:
    path.write_bytes(b"a long first line\n")

    assert followed(path, None, lambda: path.write_bytes(b"short\n")) == b"a long first line\nshort\n"


def test_a_log_that_was_replaced_is_read_to_its_end_and_then_the_new_one(path: Path) -> None:
    path.write_bytes(b"one\n")

    def replace() -> None:
        append(path, b"two\n")()
        path.rename(path.with_suffix(".1"))
        path.write_bytes(b"three, longer than the old file\n")

    assert followed(path, 0, replace, append(path, b"four\n")) == (
        b"two\nthree, longer than the old file\nfour\n"
    )


def test_a_log_that_is_removed_is_waited_for(path: Path) -> None:
    path.write_bytes(b"one\n")

    assert followed(path, None, path.unlink, append(path, b"two\n")) == b"one\ntwo\n"


def test_a_follower_that_is_told_to_stop_shows_what_was_written_before(path: Path) -> None:
    path.write_bytes(b"one\n")
    stopped = threading.Event()
    stopped.set()

    assert b"".join(reader.follow(path, None, stopped)) == b"one\n"


def test_a_follower_waits_between_looks(path: Path) -> None:
    path.write_bytes(b"one\n")
    stopped = threading.Event()
    lines: list[bytes] = []
    first = threading.Event()

    def watch() -> None:
        for block in reader.follow(path, None, stopped):
            lines.append(block)
            first.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert first.wait(10)
    append(path, b"two\n")()
    stopped.set()
    thread.join(10)

    assert b"".join(lines) == b"one\ntwo\n"
