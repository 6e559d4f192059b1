"""What became of cloud-to-device messages: batches, locks, how often they are handed out, restarts."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from messaging.clock import ManualClock
from messaging.errors import IotHubError
from messaging.identity import Identity
from runtime.iothub import feedback
from runtime.iothub.hub import IotHub
from runtime.iothub.records import FeedbackBatch
from tests.runtime.iothub.fakes import opened, run

D = Identity("d")


async def purge(hub: IotHub, *names: str) -> None:
    """Have a record left for each of these messages."""
    for name in names:
        await hub.send_c2d("d", b"", system_properties={"messageId": name}, ack="full")
        await hub.purge_c2d("d")


def ids(batch: FeedbackBatch | None) -> list[str]:
    return [] if batch is None else [record.original_message_id for record in batch.records]


def test_a_batch_is_locked_for_who_received_it_and_comes_again_later(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        await purge(hub, "1")
        batch = await hub.receive_feedback()
        assert batch is not None
        assert await hub.receive_feedback() is None

        clock.advance(feedback.LOCK_S)
        await hub.sweep()

        with pytest.raises(IotHubError, match="lock"):
            await hub.complete_feedback(batch.lock)
        again = await hub.receive_feedback()
        assert again is not None
        await hub.complete_feedback(again.lock)
        assert await hub.receive_feedback() is None

    run(tmp_path, test)


def test_what_is_completed_while_another_looks_is_not_handed_out_again(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await purge(hub, "1")
        batch = await hub.receive_feedback()
        assert batch is not None
        disk = threading.Event()
        held = hub._db.run(lambda connection: disk.wait(10))
        looking = asyncio.create_task(hub.receive_feedback())  # reads the record before it is deleted
        await asyncio.sleep(0)
        completing = asyncio.create_task(hub.complete_feedback(batch.lock))
        await asyncio.sleep(0)

        disk.set()

        assert await held
        assert await looking is None
        await completing

    run(tmp_path, test)


def test_who_waits_gets_a_batch_fifteen_seconds_after_its_first_record(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        waiting = asyncio.create_task(hub.next_feedback())
        await purge(hub, "1")
        clock.advance(feedback.BATCH_S - 1)
        await hub.sweep()
        await purge(hub, "2")
        assert await hub.service.devices(1)  # behind the look that the sweep brought
        assert not waiting.done()

        clock.advance(1)
        await hub.sweep()

        assert ids(await waiting) == ["1", "2"]

    run(tmp_path, test)


def test_who_waits_gets_a_full_batch_at_once(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        names = [str(number) for number in range(feedback.MOST_RECORDS + 1)]
        await purge(hub, *names)

        assert ids(await hub.next_feedback()) == names[:-1]

    run(tmp_path, test)


def test_two_who_wait_share_what_there_is(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        names = [str(number) for number in range(2 * feedback.MOST_RECORDS)]
        await purge(hub, *names)

        batches = await asyncio.gather(hub.next_feedback(), hub.next_feedback())

        assert sorted(ids(batches[0]) + ids(batches[1])) == sorted(names)

    run(tmp_path, test)


def test_a_batch_that_is_released_comes_again_at_once(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await purge(hub, "1")
        batch = await hub.receive_feedback()
        assert batch is not None

        hub.release_feedback(batch.lock)

        assert ids(await hub.receive_feedback()) == ["1"]

    run(tmp_path, test)


def test_records_that_are_abandoned_too_often_are_given_up(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await purge(hub, "1")

        times = 0
        while (batch := await hub.receive_feedback()) is not None:
            times += 1
            await hub.abandon_feedback(batch.lock)

        assert times == feedback.MOST_DELIVERIES

    run(tmp_path, test)


def test_records_that_nobody_fetches_are_forgotten_after_an_hour(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        await purge(hub, "1")

        clock.advance(feedback.TTL_S)
        await hub.sweep()

        assert await hub.receive_feedback() is None

    run(tmp_path, test)


def test_records_survive_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as (hub, _):
            await hub.put(D, {})
            await purge(hub, "1")
            assert await hub.receive_feedback() is not None
        async with opened(tmp_path) as (hub, _):
            assert ids(await hub.receive_feedback()) == ["1"]

    asyncio.run(test())
