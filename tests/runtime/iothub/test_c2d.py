"""Cloud-to-device messages: order, locks, expiry, counts, feedback."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from messaging.clock import ManualClock
from messaging.errors import IotHubError
from messaging.identity import Identity
from runtime.iothub import c2d
from runtime.iothub.hub import IotHub
from runtime.iothub.records import Features
from tests.runtime.iothub.fakes import FakeDevice, run

D = Identity("d")


async def outcomes(hub: IotHub) -> list[tuple[str, str]]:
    """Return message and outcome of all feedback there is, and complete it."""
    batch = await hub.receive_feedback()
    if batch is None:
        return []
    await hub.complete_feedback(batch.lock)
    return [(each.original_message_id, each.outcome) for each in batch.records]


async def send(hub: IotHub, name: str, **settings: Any) -> None:
    await hub.send_c2d("d", name.encode(), system_properties={"messageId": name}, ack="full", **settings)


def test_messages_come_in_order_and_are_gone_when_completed(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await send(hub, "1")
        device = await FakeDevice.connect(hub, "d")
        await send(hub, "2")

        told = [await device.next() for _ in range(2)]
        for _, _, lock in told:
            await hub.complete_c2d(device.grant, lock)
            await hub.complete_c2d(device.grant, lock)  # once is enough, twice does no harm

        assert [message.body for _, message, _ in told] == [b"1", b"2"]
        assert (await hub.service.describe(D))["cloudToDeviceMessageCount"] == 0
        assert await outcomes(hub) == [("1", "Success"), ("2", "Success")]

    run(tmp_path, test)


def test_a_message_that_is_not_acknowledged_comes_again_after_a_minute(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        await send(hub, "1")
        _, _, first_lock = await device.next()

        clock.advance(59)
        await hub.sweep()
        assert device.told.empty()
        clock.advance(1)
        await hub.sweep()
        _, message, lock = await device.next()
        await hub.complete_c2d(device.grant, first_lock)
        count = (await hub.service.describe(D))["cloudToDeviceMessageCount"]

        assert (message.body, message.delivery_count) == (b"1", 0)
        assert lock != first_lock
        assert count == 1

    run(tmp_path, test)


def test_a_lost_connection_gives_its_messages_back_at_once(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        await send(hub, "1")
        await device.next()

        hub.disconnected(device.grant, device)
        again = await FakeDevice.connect(hub, "d")

        assert (await again.next())[1].body == b"1"

    run(tmp_path, test)


def test_a_device_that_does_not_listen_gets_nothing_until_it_does(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d", features=Features(methods=True))
        await send(hub, "1")
        assert device.told.empty()

        hub.features_changed(device.grant, device, Features(c2d=True))

        assert (await device.next())[1].body == b"1"

    run(tmp_path, test)


def test_a_message_is_passed_on_once_while_many_are_sent_and_settled(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        got = []
        sending = [asyncio.create_task(send(hub, str(number))) for number in range(40)]
        for _ in range(40):
            _, message, lock = await device.next()
            got.append(message.sequence_number)
            await hub.complete_c2d(device.grant, lock)
        await asyncio.gather(*sending)
        await hub.find(D)  # behind every look at the queue

        assert device.told.empty()
        assert got == sorted(set(got))

    run(tmp_path, test)


def test_a_message_that_is_abandoned_too_often_is_given_up(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        await send(hub, "1")
        counts = []
        for _ in range(c2d.MOST_DELIVERIES):
            _, message, lock = await device.next()
            counts.append(message.delivery_count)
            await hub.abandon_c2d(device.grant, lock)
        await hub.find(D)

        assert counts == list(range(c2d.MOST_DELIVERIES))
        assert device.told.empty()
        assert await outcomes(hub) == [("1", "DeliveryCountExceeded")]

    run(tmp_path, test)


def test_a_message_expires_after_an_hour_or_when_its_sender_says(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        await send(hub, "usual")
        await send(hub, "short", expires_s=clock.now_s() + 10)

        clock.advance(10)
        await hub.sweep()
        first = await outcomes(hub)
        clock.advance(3590)
        await hub.sweep()
        device = await FakeDevice.connect(hub, "d")
        await hub.find(D)

        assert first == [("short", "Expired")]
        assert await outcomes(hub) == [("usual", "Expired")]
        assert device.told.empty()

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("ack", "completed", "rejected"),
    [
        ("none", [], []),
        ("positive", ["Success"], []),
        ("negative", [], ["Rejected"]),
        ("full", ["Success"], ["Rejected"]),
    ],
)
def test_the_sender_is_told_what_it_asked_for(
    tmp_path: Path, ack: Any, completed: list[str], rejected: list[str]
) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        await hub.send_c2d("d", b"x", ack=ack)
        await hub.complete_c2d(device.grant, (await device.next())[2])
        await hub.send_c2d("d", b"x", ack=ack)
        await hub.reject_c2d(device.grant, (await device.next())[2])

        assert [outcome for _, outcome in await outcomes(hub)] == completed + rejected

    run(tmp_path, test)


def test_only_its_own_device_can_settle_a_message(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await hub.put(Identity("e"), {})
        device, other = await FakeDevice.connect(hub, "d"), await FakeDevice.connect(hub, "e")
        await send(hub, "1")
        lock = (await device.next())[2]

        await hub.complete_c2d(other.grant, lock)

        assert (await hub.service.describe(D))["cloudToDeviceMessageCount"] == 1

    run(tmp_path, test)


def test_a_full_queue_takes_again_what_expiry_made_room_for(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        for number in range(c2d.QUEUE_DEPTH):
            await send(hub, str(number), expires_s=clock.now_s() + (5 if number == 7 else 500))
        with pytest.raises(IotHubError) as full:
            await send(hub, "more")
        clock.advance(5)

        await send(hub, "more")

        assert full.value.code == 403004

    run(tmp_path, test)
