"""What is committed is on disk: kill -9, failing disks, and the system calls of a commit."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.store.stored import DEFAULT_PRIORITY, position_of
from runtime.storage.message_db import MessageDb
from runtime.storage.message_ledger import read_ledger
from tests.runtime.message_stores import positions, ranges, waiting
from tests.runtime.message_writer import ENDPOINTS

ROUNDS = 20


def writer(path: Path, seed: int, commits: int = 0) -> list[str]:
    return [sys.executable, "-m", "tests.runtime.message_writer", str(path), str(seed), str(commits)]


def lines_until_killed(path: Path, seed: int, kill_after: int) -> list[list[str]]:
    """Run a writer, kill it after so many lines, and return the words of every line it said."""
    with subprocess.Popen(writer(path, seed), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.split())
            if len(lines) == kill_after:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return lines


def test_after_kill_9_every_acknowledged_message_is_there_or_was_delivered(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    chance = random.Random(20)
    acknowledged: dict[str, dict[int, str]] = {endpoint_id: {} for endpoint_id in ENDPOINTS}
    offered: dict[str, set[int]] = {endpoint_id: set() for endpoint_id in ENDPOINTS}

    for seed in range(1, ROUNDS + 1):
        delivered: list[tuple[str, list[int]]] = []
        for kind, *words in lines_until_killed(path, seed, kill_after=chance.randint(1, 60)):
            assert kind in "DC"
            if kind == "D":
                about = words[0], [int(word) for word in words[1:]]
                offered[about[0]].update(about[1])
            else:
                first, size, name = map(int, words[:3])
                for endpoint_id in words[3:]:
                    for number in range(size):
                        position = position_of(DEFAULT_PRIORITY, first + number)
                        acknowledged[endpoint_id][position] = str(name + number)
                delivered.append(about)

        killed = read_ledger(path)
        db = MessageDb.open(path)
        assert db.ledger() == killed
        assert killed.imbalances() == []
        for endpoint_id, names in acknowledged.items():
            found = waiting(db, endpoint_id, now_s=0)
            assert positions(found) == sorted(positions(found))
            there = {one.position: one.body.decode() for one in found}
            for position, body in names.items():
                assert there.get(position, body) == body
                assert position in there or position in offered[endpoint_id]
        for endpoint_id, places in delivered:
            assert not set(places) & set(positions(waiting(db, endpoint_id, now_s=0)))
            with db.transaction():
                assert db.delivered({endpoint_id: ranges(places)}) == 0
        assert db.ledger() == killed
        db.close()

    assert min(len(names) for names in acknowledged.values()) > 1000
    assert min(len(places) for places in offered.values()) > 100


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def traced(folder: Path, *options: str, commits: int) -> tuple[list[str], list[str]]:
    """Return what a writer said, and its system calls, one per line."""
    calls = folder / "calls"
    done = subprocess.run(
        ["strace", "-f", "-y", "-o", str(calls), *options, *writer(folder / "messages.db", 1, commits)],
        capture_output=True,
        text=True,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), calls.read_text().splitlines()


@needs_strace
def test_every_commit_syncs_its_log_once_before_it_is_acknowledged(tmp_path: Path) -> None:
    _, calls = traced(tmp_path, "-e", "trace=fsync,fdatasync,write", commits=12)

    commits, syncs = 0, 0
    for call in calls:
        if "sync(" in call and "messages.db-wal>) = 0" in call.replace("  ", " "):
            syncs += 1
        elif '"D ' in call:
            syncs = 0
        elif '"C ' in call:
            assert syncs == 1, calls
            commits += 1
    assert commits == 12


@needs_strace
def test_a_commit_that_the_disk_refuses_is_not_kept_and_later_ones_are(tmp_path: Path) -> None:
    log = tmp_path / "messages.db-wal"
    failing = ("-P", str(log), "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=4..6")

    said, calls = traced(tmp_path, *failing, commits=10)

    kinds = [line[0] for line in said if line[0] != "D"]
    assert sum("INJECTED" in call for call in calls) == 3
    assert "".join(kinds).count("EEE") == 1
    assert kinds.count("C") == 7
    assert all("cannot commit: disk I/O error" in line for line in said if line[0] == "E")
    db = MessageDb.open(tmp_path / "messages.db")
    committed = [list(map(int, line.split()[1:4])) for line in said if line[0] == "C"]
    assert db.ledger().total.received == sum(size for _, size, _ in committed)
    assert db.ledger().imbalances() == []
    names = {
        str(name + number): position_of(DEFAULT_PRIORITY, first + number)
        for first, size, name in committed
        for number in range(size)
    }
    for endpoint_id in ENDPOINTS:
        for one in waiting(db, endpoint_id, now_s=0):
            assert names[one.body.decode()] == one.position
    db.close()
