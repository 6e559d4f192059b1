"""What devices and services can do with the stand-in, without a wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from messaging.clock import ManualClock
from messaging.errors import AuthError, IotHubError
from messaging.identity import Identity
from messaging.message import DIAGNOSTICS_TYPE
from runtime.iothub.diagnostics import FILE
from runtime.iothub.hub import IotHub
from runtime.iothub.records import Features, Telemetry
from tests.runtime.iothub.fakes import FakeDevice, opened, run, token_of

D = Identity("d")
E = Identity("e")


def telemetry(*bodies: bytes) -> list[Telemetry]:
    return [Telemetry({"k": "v"}, {}, body) for body in bodies]


def test_telemetry_is_read_in_order_with_what_the_hub_adds(tmp_path: Path) -> None:
    async def test(hub: IotHub, clock: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        await hub.telemetry(device.grant, telemetry(b"1", b"2"))
        clock.advance(5)
        await hub.telemetry(device.grant, telemetry(b"3"))

        events = await hub.events(0)
        assert [event.telemetry.body for event in events] == [b"1", b"2", b"3"]
        assert [event.sequence_number for event in events] == [1, 2, 3]
        assert [event.enqueued_s for event in events] == [clock.now_s() - 5, clock.now_s() - 5, clock.now_s()]
        assert {event.identity for event in events} == {D}
        assert events[0].auth_method == '{"scope":"device","type":"sas","issuer":"iothub"}'
        assert events[0].generation_id == (await hub.find(D)).generation_id
        assert [event.telemetry.body for event in await hub.events(1, max_count=1)] == [b"2"]
        assert await hub.last_sequence_number() == 3

    run(tmp_path, test)


def test_a_reader_at_the_end_of_the_stream_gets_what_comes_next(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")
        readers = [asyncio.create_task(hub.events(0, wait_s=10)) for _ in range(3)]
        await hub.last_sequence_number()  # behind the first look of each reader

        await hub.telemetry(device.grant, telemetry(b"x"))

        for reader in readers:
            assert [event.telemetry.body for event in await reader] == [b"x"]

    run(tmp_path, test)


def test_the_ring_forgets_the_oldest_and_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, ring_bytes=50_000) as (hub, _):
            await hub.put(D, {})
            device = await FakeDevice.connect(hub, "d")
            for number in range(100):
                await hub.telemetry(device.grant, telemetry(f"{number:03}".encode() * 400))
            events = await hub.events(0)
            assert events[-1].sequence_number == 100
            assert 30 < len(events) < 45
            assert [e.sequence_number for e in events] == list(range(101 - len(events), 101))
        async with opened(tmp_path, ring_bytes=50_000) as (hub, _):
            device = await FakeDevice.connect(hub, "d")
            await hub.telemetry(device.grant, telemetry(b"after"))
            assert (await hub.events(100))[0].sequence_number == 101

    asyncio.run(main())


def test_calls_of_one_turn_are_all_kept_and_each_is_told(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        await asyncio.gather(*(hub.telemetry(device.grant, telemetry(b"%d" % n)) for n in range(500)))

        events = await hub.events(0)
        assert [int(event.telemetry.body) for event in events] == list(range(500))

    run(tmp_path, test)


def test_a_message_over_the_limit_is_refused(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        with pytest.raises(IotHubError, match="over 262144 bytes"):
            hub.telemetry(device.grant, telemetry(b"x" * 262_143))

    run(tmp_path, test)


def test_a_device_is_told_each_desired_patch_in_order(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        await asyncio.gather(*(hub.patch_twin(D, {"properties": {"desired": {"n": n}}}) for n in range(20)))

        assert [await device.next() for _ in range(20)] == [("desired", {"n": n}, n + 2) for n in range(20)]
        assert (await hub.device_twin(D))["desired"] == {"n": 19, "$version": 21}

    run(tmp_path, test)


def test_a_replaced_twin_reaches_the_device_as_the_difference(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await hub.patch_twin(D, {"properties": {"desired": {"a": 1, "b": {"x": 1, "y": 2}}}})
        device = await FakeDevice.connect(hub, "d")

        await hub.replace_twin(D, {"properties": {"desired": {"b": {"x": 1, "y": 3}}}})

        assert await device.next() == ("desired", {"a": None, "b": {"y": 3}}, 3)

    run(tmp_path, test)


def test_reported_properties_raise_the_version_of_the_twin_but_not_its_etag(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        before = await hub.twin(D)

        assert await hub.patch_reported(D, {"fw": "1.0"}) == 2

        after = await hub.twin(D)
        assert after["properties"]["reported"]["fw"] == "1.0"
        assert after["version"] == before["version"] + 1
        assert after["etag"] == before["etag"]

    run(tmp_path, test)


def test_a_patch_with_a_stale_etag_changes_nothing(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        etag = (await hub.twin(D))["etag"]
        await hub.patch_twin(D, {"tags": {"a": 1}}, f'"{etag}"')

        with pytest.raises(IotHubError) as refused:
            await hub.patch_twin(D, {"tags": {"a": 2}}, f'"{etag}"')

        assert refused.value.code == 412001
        assert (await hub.twin(D))["tags"] == {"a": 1}

    run(tmp_path, test)


def test_a_refused_request_does_not_undo_its_neighbours(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})

        results = await asyncio.gather(
            hub.patch_reported(D, {"a": 1}),
            hub.patch_reported(D, {"b.c": 1}),
            hub.patch_reported(D, {"c": 1}),
            return_exceptions=True,
        )

        assert results[0] == 2
        assert isinstance(results[1], IotHubError)
        assert results[2] == 3
        assert (await hub.device_twin(D))["reported"] == {"a": 1, "c": 1, "$version": 3}

    run(tmp_path, test)


def test_a_method_is_answered(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        call = asyncio.create_task(hub.invoke_method(D, "reboot", {"in": 5}))
        _, request_id, name, payload = await device.next()
        hub.method_answered(device.grant, request_id, 207, b'{"ok":[1]}')

        assert (name, payload) == ("reboot", b'{"in":5}')
        result = await call
        assert (result.status, result.payload) == (207, {"ok": [1]})

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("answer", "payload"),
    [(b"", None), (b" ", None), (b"not json", "not json"), (b"\xff", "\ufffd"), (b"[1]", [1])],
    ids=["empty", "blank", "no JSON", "no text", "JSON"],
)
def test_whatever_a_device_answers_becomes_json(tmp_path: Path, answer: bytes, payload: Any) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        call = asyncio.create_task(hub.invoke_method(D, "m", None))
        request = await device.next()
        hub.method_answered(device.grant, request[1], 200, answer)

        assert (await call).payload == payload

    run(tmp_path, test)


def test_only_the_device_that_was_asked_can_answer(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await hub.put(E, {})
        device, other = await FakeDevice.connect(hub, "d"), await FakeDevice.connect(hub, "e")

        call = asyncio.create_task(hub.invoke_method(D, "m", None))
        request_id = (await device.next())[1]
        hub.method_answered(other.grant, request_id, 500, b'"mine"')
        hub.method_answered(device.grant, request_id.upper(), 200, b'"right"')

        assert (await call).payload == "right"

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("features", "code"),
    [(None, 404103), (Features(desired=True, c2d=True), 404103), (Features(methods=True), 504101)],
    ids=["not connected", "does not listen for methods", "does not answer"],
)
def test_a_method_without_an_answer_ends_with_the_documented_error(
    tmp_path: Path, features: Features | None, code: int
) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        if features is not None:
            await FakeDevice.connect(hub, "d", features=features)

        with pytest.raises(IotHubError) as refused:
            await hub.invoke_method(D, "m", None, response_timeout_s=0.05)

        assert refused.value.code == code

    run(tmp_path, test)


def test_a_method_waits_for_its_device_to_connect(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        call = asyncio.create_task(hub.invoke_method(D, "m", None, connect_timeout_s=10))
        await hub.find(D)

        device = await FakeDevice.connect(hub, "d")
        hub.method_answered(device.grant, (await device.next())[1], 200, b"1")

        assert (await call).payload == 1

    run(tmp_path, test)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({"status": "disabled"}, id="disabled"),
        pytest.param({"authentication": {"symmetricKey": {"primaryKey": "A" * 44}}}, id="another key"),
        pytest.param(
            {"authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "A" * 40}}},
            id="another type of authentication",
        ),
    ],
)
def test_a_device_that_may_not_be_connected_any_more_is_cut_off(tmp_path: Path, wanted: Any) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await hub.put(Identity("d", "m"), {})
        device, module = await FakeDevice.connect(hub, "d"), await FakeDevice.connect(hub, "d", "m")
        token = await token_of(hub, D)

        await hub.put(D, wanted, "*")

        assert (await device.next())[0] == "cut off"
        assert (await module.next())[0] == "cut off"
        assert not hub.is_connected(D)
        with pytest.raises(AuthError):
            await hub.authenticate(D, token, None)

    run(tmp_path, test)


def test_an_update_that_changes_no_proof_leaves_the_connection_alone(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        device = await FakeDevice.connect(hub, "d")

        await hub.put(D, {"status": "enabled", "statusReason": "checked"}, "*")

        assert hub.is_connected(D)
        assert device.told.empty()

    run(tmp_path, test)


def test_a_deleted_device_is_cut_off_with_its_modules_and_leaves_nothing(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        await hub.put(Identity("d", "m"), {})
        await hub.send_c2d("d", b"x")
        await hub.save_session(D, b"subscriptions")
        device, module = (
            await FakeDevice.connect(hub, "d", features=Features()),
            await FakeDevice.connect(hub, "d", "m"),
        )

        await hub.delete(D)
        await hub.put(D, {})

        assert (await device.next())[0] == "cut off"
        assert (await module.next())[0] == "cut off"
        assert await hub.service.modules("d") == []
        assert (await hub.service.describe(D))["cloudToDeviceMessageCount"] == 0
        assert (await hub.service.describe(D))["connectionStateUpdatedTime"] == "0001-01-01T00:00:00Z"
        assert await hub.load_session(D) is None

    run(tmp_path, test)


def test_a_second_connection_of_an_identity_ends_the_first(tmp_path: Path) -> None:
    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        first, second = await FakeDevice.connect(hub, "d"), await FakeDevice.connect(hub, "d")

        hub.disconnected(first.grant, first)

        assert (await first.next())[0] == "cut off"
        assert hub.is_connected(D)
        hub.disconnected(second.grant, second)
        assert not hub.is_connected(D)

    run(tmp_path, test)


def test_what_was_told_is_there_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as (hub, clock):
            await hub.put(D, {"status": "enabled"})
            await hub.patch_twin(D, {"tags": {"site": "x"}, "properties": {"desired": {"a": 1.0}}})
            await hub.patch_reported(D, {"b": [1, {"c": True}]})
            device = await FakeDevice.connect(hub, "d", features=Features())
            await hub.send_c2d("d", b"later", {"p": "1"})
            clock.advance(60)
            hub.disconnected(device.grant, device)
            await hub.save_session(D, b"s")
            before = (await hub.twin(D), await hub.service.describe(D))
        async with opened(tmp_path) as (hub, _):
            assert (await hub.twin(D), await hub.service.describe(D)) == before
            assert before[0]["lastActivityTime"] == "2023-11-14T22:14:20.000000Z"
            assert await hub.load_session(D) == b"s"
            device = await FakeDevice.connect(hub, "d")
            told = await device.next()
            assert (told[1].body, told[1].properties) == (b"later", {"p": "1"})

    asyncio.run(main())


def test_what_an_edge_tells_about_itself_reaches_no_reader_of_messages(tmp_path: Path) -> None:
    """Source: observability.md section 13, row 26."""

    async def test(hub: IotHub, _: ManualClock) -> None:
        await hub.put(D, {})
        grant = (await FakeDevice.connect(hub, "d")).grant
        about = Telemetry({}, {"contentType": DIAGNOSTICS_TYPE}, b"numbers")

        await hub.telemetry(grant, [about])
        await hub.telemetry(grant, [Telemetry({}, {}, b"1"), about, Telemetry({}, {}, b"2")])

        assert [event.telemetry.body for event in await hub.events(0)] == [b"1", b"2"]
        assert len((tmp_path / FILE).read_text().splitlines()) == 2

    run(tmp_path, test)
