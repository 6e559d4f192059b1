"""The recorder: what strace says of a process, as events about one folder; and that nothing is missed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.faults import recording
from runtime.faults.disk import Disk
from runtime.faults.needs import missing
from runtime.faults.power import apply, files_of
from runtime.faults.recording import (
    Created,
    Event,
    Reader,
    RecordingError,
    Removed,
    Renamed,
    Resized,
    Synced,
    Written,
)
from tests.waiting import wait_until

FOLDER = Path("/h")


def hexed(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return "".join(f"\\x{byte:02x}" for byte in data)


def quoted(text: str | bytes) -> str:
    return f'"{hexed(text)}"'


def file(number: int, path: str = "/h/db") -> str:
    return f"{number}<{hexed(path)}>"


def events(*calls: str) -> list[Event]:
    lines = [f"7 {number}.5 {call}\n".encode() for number, call in enumerate(calls, 1)]
    return list(Reader(FOLDER).events(lines))


OPENED = f"openat(AT_FDCWD<{hexed('/')}>, {quoted('/h/db')}, O_RDWR|O_CREAT|O_CLOEXEC, 0600) = {file(3)}"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (OPENED, [Created(1, 1.5, "db")]),
        (OPENED.replace("O_CREAT", "O_TRUNC"), [Resized(1, 1.5, "db", 0)]),
        (f"pwrite64({file(3)}, {quoted(b'ab')}, 2, 4096) = 2", [Written(1, 1.5, "db", 4096, b"ab")]),
        (f"pwrite64({file(3)}, {quoted(b'ab')}, 2, 4096) = 1", [Written(1, 1.5, "db", 4096, b"a")]),
        (f"pwrite64({file(3)}, {quoted(b'ab')}, 2, 4096) = -1 ENOSPC (No space left on device)", []),
        (f"pwrite64({file(3, '/h/db-shm')}, {quoted(b'a')}, 1, 0) = 1", []),
        (f"pwrite64({file(3, '/h/below/db')}, {quoted(b'a')}, 1, 0) = 1", []),
        (f"pwrite64({file(3)}(deleted), {quoted(b'a')}, 1, 0) = 1", []),
        (f"ftruncate({file(3)}, 100) = 0", [Resized(1, 1.5, "db", 100)]),
        (f"fallocate({file(3)}, 0, 100, 50) = 0", [Resized(1, 1.5, "db", 150, grows=True)]),
        (f"fallocate({file(3)}, FALLOC_FL_KEEP_SIZE, 0, 50) = 0", []),
        (f"fdatasync({file(3)}) = 0", [Synced(1, 1.5, "db", 1)]),
        (f"fdatasync({file(3)}) = -1 EIO (Input/output error)", []),
        (f"fsync({file(4, '/h')}) = 0", [Synced(1, 1.5, "", 1)]),
        (f"unlink({quoted('/h/db')}) = 0", [Removed(1, 1.5, "db")]),
        (f"rename({quoted('/h/db.new')}, {quoted('/h/db')}) = 0", [Renamed(1, 1.5, "db.new", "db")]),
        (
            f"pwritev({file(3)}, [{{iov_base={quoted(b'a')}, iov_len=1}}, "
            f"{{iov_base={quoted(b'bc')}, iov_len=2}}], 2, 512) = 3",
            [Written(1, 1.5, "db", 512, b"abc")],
        ),
        (f"write(9<TCP:[127.0.0.1:1883->127.0.0.1:40001]>, {quoted(b'ab')}, 2) = 2", []),
        (f"write(1</dev/pts/0<char 136:0>>, {quoted(b'a')}, 1) = 1", []),
        ("+++ exited with 0 +++", []),
        ("--- SIGTERM {si_signo=SIGTERM} ---", []),
    ],
)
def test_a_call_is_what_it_does_to_the_folder(call: str, expected: list[Event]) -> None:
    assert events(call) == expected


def test_a_call_that_another_thread_interrupts_counts_when_it_ends_and_syncs_from_where_it_began() -> None:
    lines = [
        f"7 1.5 fdatasync({file(3)} <unfinished ...>\n",
        f"8 2.5 {OPENED}\n",
        "7 3.5 <... fdatasync resumed>) = 0\n",
    ]

    found = list(Reader(FOLDER).events(line.encode() for line in lines))

    assert found == [Created(2, 2.5, "db"), Synced(3, 3.5, "db", 1)]


def test_writes_without_a_position_follow_each_other_or_go_to_the_end() -> None:
    appending = OPENED.replace("O_CREAT", "O_CREAT|O_APPEND").replace(file(3), file(4, "/h/lines"))

    found = events(
        OPENED,
        f"write({file(3)}, {quoted(b'ab')}, 2) = 2",
        f"write({file(3)}, {quoted(b'c')}, 1) = 1",
        f"lseek({file(3)}, 10, SEEK_SET) = 10",
        f"write({file(3)}, {quoted(b'd')}, 1) = 1",
        appending,
        f"write({file(4, '/h/lines')}, {quoted(b'e')}, 1) = 1",
    )

    assert [event[3:] for event in found if isinstance(event, Written)] == [
        (0, b"ab"),
        (2, b"c"),
        (10, b"d"),
        (None, b"e"),
    ]


def test_of_what_was_done_in_the_moment_of_death_only_the_file_is_known() -> None:
    reader = Reader(FOLDER)
    calls = [
        f"7 1.5 pwrite64({file(3)}, {quoted(b'ab')}, 2, 0 <unfinished ...>) = ?\n",
        f"8 1.5 write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, {quoted(b'ab')}, 2) = ?\n",
        f"10 1.5 ftruncate({file(4, '/h/other')}, 5 <unfinished ...>\n",
        "10 1.5 <... ??? resumed>) = ?\n",
        "11 1.5 <... ??? resumed>) = ?\n",
        "11 1.5 +++ killed by SIGKILL +++\n",
        "12 1.5 ???()           = ?\n",
    ]

    assert list(reader.events(call.encode() for call in calls)) == []
    assert reader.killed_in == {"db", "other"}


@pytest.mark.parametrize(
    ("call", "because"),
    [
        ("what is this", "is no call"),
        (f"pwrite64({file(3)}, {quoted(b'ab')}..., 5, 0) = 5", "more than 16777216 bytes"),
        (f"write({file(3)}, {quoted(b'ab')}, 2) = 2", "opened in a way that is not understood"),
        (f"link({quoted('/h/db')}, {quoted('/h/other')}) = 0", "link is not understood"),
        (f"copy_file_range({file(3)}, NULL, {file(4)}, NULL, 5, 0) = 5", "copy_file_range is not"),
        ("sync() = 0", "sync is not understood"),
        (f"fallocate({file(3)}, FALLOC_FL_COLLAPSE_RANGE, 0, 50) = 0", "FALLOC_FL_COLLAPSE_RANGE"),
        (f"mmap(NULL, 10, PROT_READ|PROT_WRITE, MAP_SHARED, {file(3)}, 0) = 0x7f", "mapped for writing"),
        (f"rename({quoted('/h/db')}, {quoted('/elsewhere')}) = 0", "moved into or out of"),
        ("io_uring_setup(64, {flags=IORING_SETUP_SQPOLL}) = 5", "io_uring"),
    ],
)
def test_what_is_not_understood_is_an_error(call: str, because: str) -> None:
    with pytest.raises(RecordingError, match=f"line 1.*{because}"):
        events(call)


def test_a_line_that_is_not_straces_is_an_error() -> None:
    with pytest.raises(RecordingError, match="line 1 is not strace's"):
        list(Reader(FOLDER).events([b"strace: something else\n"]))


PROGRAM = """
import os, sqlite3, sys
from pathlib import Path
folder = Path(sys.argv[1])
store = sqlite3.connect(folder / "a.db", isolation_level=None)
store.execute("PRAGMA journal_mode=WAL")
store.execute("PRAGMA wal_autocheckpoint=20")
store.execute("PRAGMA journal_size_limit=30000")
store.execute("CREATE TABLE t (data BLOB)")
for number in range(60):
    store.execute("INSERT INTO t VALUES (?)", (os.urandom(500 + 100 * number),))
    if number % 3 == 0:
        store.execute("DELETE FROM t WHERE rowid % 4 = 0")
(folder / "a.new").write_bytes(os.urandom(100_000))
os.rename(folder / "a.new", folder / "a")
with open(folder / "log", "ab") as log:
    for _ in range(3):
        log.write(b"line\\n")
        log.flush()
store.execute("VACUUM")
with open(folder / "reserve", "wb") as reserve:
    os.posix_fallocate(reserve.fileno(), 0, 50_000)
    os.posix_fallocate(reserve.fileno(), 100, 10_000)
os.kill(os.getpid(), 9)
"""


def test_the_files_of_a_killed_process_are_what_was_recorded_of_them(tmp_path: Path) -> None:
    if reason := missing(("strace",)):
        pytest.skip(reason)
    folder, trace = tmp_path / "files", tmp_path / "trace"
    folder.mkdir()
    (folder / "log").write_bytes(b"before\n")
    disk = Disk(files_of(folder))

    program = [sys.executable, "-c", PROGRAM, str(folder)]
    subprocess.run(recording.command(trace, program), check=False)
    wait_until(lambda: b"+++ killed by SIGKILL +++" in trace.read_bytes()[-80:], "strace has told the end")
    with trace.open("rb") as lines:
        found = list(Reader(folder).events(lines))
    for event in found:
        apply(disk, event)

    assert disk.now() == files_of(folder)
    assert disk.touched >= {"a", "a.new", "a.db", "a.db-wal", "log", "reserve"}
    assert sum(isinstance(event, Synced) and event.name == "a.db" for event in found) > 3
    assert len({tuple(sorted(disk.after_cut(random.Random(seed)).items())) for seed in range(9)}) > 1
