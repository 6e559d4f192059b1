"""The database of the stand-in: one commit for all that waits, and nothing lost that was told."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from messaging.clock import ManualClock
from messaging.errors import StoreError, StoreFull
from messaging.identity import Identity
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.hub import IotHub
from runtime.iothub.records import Telemetry
from tests.runtime.iothub.fakes import FakeDevice, opened, run

D = Identity("d")
LIMIT_S = 30.0

# Appends messages and patches as fast as it can, and says after each round what it was told is kept.
WRITER = """
import asyncio, sys
from pathlib import Path
from messaging.identity import Identity
from runtime.iothub.hub import IotHub
from runtime.iothub.records import Telemetry
from tests.runtime.iothub.fakes import FakeDevice

async def main():
    hub = await IotHub.open(Path(sys.argv[1]), "hub.local")
    await hub.put(Identity("d"), {})
    device = await FakeDevice.connect(hub, "d")
    sent = 0
    while True:
        futures = [hub.telemetry(device.grant, [Telemetry({}, {}, b"%d" % (sent + n))]) for n in range(20)]
        version = await hub.patch_reported(Identity("d"), {"sent": sent})
        await asyncio.gather(*futures)
        sent += 20
        print(sent, version, flush=True)

asyncio.run(main())
"""


def statements(connection: sqlite3.Connection, into: list[str]) -> None:
    connection.set_trace_callback(into.append)


def test_what_waits_together_is_committed_together(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        seen: list[str] = []
        await hub._db.run(lambda connection: statements(connection, seen))

        await asyncio.gather(*(hub.telemetry(device.grant, [Telemetry({}, {}, b"x")]) for _ in range(300)))

        inserts = [text for text in seen if text.startswith("INSERT INTO telemetry")]
        assert 1 <= len(inserts) <= 30
        assert seen.count("COMMIT") == len(inserts) + 1  # and that of the job that began to look

    run(tmp_path, test)


def test_a_commit_is_on_disk_before_anybody_is_told(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        def settings(connection: sqlite3.Connection) -> list[object]:
            return [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]

        assert await hub._db.run(settings) == ["wal", 2]
        assert (tmp_path / "cloud.db").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "policies.json").stat().st_mode & 0o777 == 0o600

    run(tmp_path, test)


@pytest.mark.parametrize("rounds", [1, 7, 40])
def test_a_killed_hub_has_lost_nothing_that_it_acknowledged(tmp_path: Path, rounds: int) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = ""
        for _ in range(rounds):
            told = writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        told = (writer.stdout.read().splitlines() or [told])[-1]
    sent, version = map(int, told.split())

    async def main() -> None:
        async with opened(tmp_path) as (hub, _):
            kept: list[int] = []
            while events := await hub.events(len(kept)):
                kept += [int(event.telemetry.body) for event in events]
            assert len(kept) >= sent
            assert kept == list(range(len(kept)))
            reported = (await hub.device_twin(D))["reported"]
            assert reported["$version"] >= version
            assert reported["sent"] == (reported["$version"] - 2) * 20

    asyncio.run(main())


def test_a_full_disk_refuses_what_does_not_fit_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        await hub.telemetry(device.grant, [Telemetry({}, {}, b"before")])
        await hub._db.run(_limit_pages)

        with pytest.raises(StoreFull, match="no space"):
            await hub.telemetry(device.grant, [Telemetry({}, {}, b"x" * 200_000)])
        await hub._db.run(lambda connection: connection.execute("PRAGMA max_page_count=100000").fetchall())
        await hub.telemetry(device.grant, [Telemetry({}, {}, b"after")])

        events = await hub.events(0)
        assert [(event.sequence_number, event.telemetry.body) for event in events] == [
            (1, b"before"),
            (2, b"after"),
        ]

    run(tmp_path, test)


def _limit_pages(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 3}").fetchall()


def test_what_is_done_behind_a_commit_is_done_though_nobody_waits_any_more(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        asking = asyncio.create_task(hub.patch_twin(D, {"properties": {"desired": {"a": 1}}}))
        await asyncio.sleep(0)
        asking.cancel()

        assert await device.next() == ("desired", {"a": 1}, 2)

    run(tmp_path, test)


def test_a_closed_database_refuses_and_a_second_close_does_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        db = await CloudDb.open(tmp_path / "cloud.db")
        waits = db.run(lambda connection: connection.execute("SELECT 7").fetchone()[0])
        await asyncio.gather(db.close(), db.close())

        assert await waits == 7
        with pytest.raises(StoreError, match="being closed"):
            await db.run(lambda connection: None)

    asyncio.run(main())


def test_a_file_that_is_no_database_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "cloud.db").write_bytes(b"this is not a database" * 100)

    with pytest.raises(StoreError, match=r"cloud database .*cloud\.db"):
        run(tmp_path, _nothing)


async def _nothing(hub: IotHub, clock: ManualClock) -> None:
    raise AssertionError("the hub opened")
