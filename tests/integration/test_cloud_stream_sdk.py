"""The official SDK of Event Hubs, unmodified, reads what devices have sent to the stand-in.

azure-eventhub 5.15.1 with its own AMQP library and with uamqp, which is also asked where the stream is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from messaging import sas
from messaging.identity import Identity
from runtime.iothub.records import Telemetry
from tests.integration.cloud_server import CloudServer, cloud_server
from tests.runtime.iothub.fakes import FakeDevice

pytest.importorskip("azure.eventhub", reason="azure-eventhub is not installed; type scripts/setup test")

from azure.eventhub import EventHubConsumerClient
from azure.eventhub.exceptions import EventHubError

ADDRESS = "127.0.0.13"
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    folder = tmp_path_factory.mktemp("cloud")
    with cloud_server(folder, ADDRESS, amqp_port=5671) as server:
        server.run(server.hub.put(Identity("d1"), {}))
        server.run(server.hub.put(Identity("d1", "m1"), {}))
        yield server


def send(cloud: CloudServer, *bodies: bytes, module_id: str | None = None, **system: str) -> None:
    """Have a device or module send messages."""

    async def work() -> None:
        device = await FakeDevice.connect(cloud.hub, "d1", module_id)
        await cloud.hub.telemetry(device.grant, [Telemetry({"p": "v"}, system, body) for body in bodies])

    cloud.run(work())


def consumer(
    cloud: CloudServer, entity: str = "events", key: str = "", policy: str = "service", **options: Any
) -> Any:
    key = key or cloud.hub.policies.find(policy).primary_key
    return EventHubConsumerClient.from_connection_string(
        f"Endpoint=sb://{ADDRESS}/;SharedAccessKeyName={policy};SharedAccessKey={key};EntityPath={entity}",
        consumer_group="$Default",
        connection_verify=str(cloud.ca_file),
        retry_total=0,
        **options,
    )


def read(client: Any, count: int, *, ready: Callable[[], None] | None = None, **start: Any) -> list[Any]:
    """Return the next events; `ready` is called as soon as nothing has come for a second."""
    found: list[Any] = []
    called: list[bool] = []
    deadline_s = time.monotonic() + LIMIT_S

    def take(context: Any, event: Any) -> None:
        if event is not None:
            found.append(event)
        elif ready is not None and not called:
            called.append(True)
            ready()
        if len(found) >= count or time.monotonic() > deadline_s:
            client.close()

    with client:
        client.receive(take, partition_id="0", max_wait_time=1, **start)
    assert len(found) == count
    return found


def last(cloud: CloudServer) -> int:
    return cloud.run(cloud.hub.last_sequence_number())


@pytest.mark.parametrize("uamqp_transport", [False, True], ids=["its own AMQP", "uamqp"])
@pytest.mark.parametrize("entity", ["events", "messages/events"])
def test_what_was_sent_is_read_with_all_that_the_hub_says_of_it(
    cloud: CloudServer, entity: str, uamqp_transport: bool
) -> None:
    if uamqp_transport:
        pytest.importorskip("uamqp")
    before = last(cloud)
    send(cloud, b'{"a": 1}', messageId="m-1", contentType="application/json", contentEncoding="utf-8")
    send(cloud, b"of a module", module_id="m1")

    client = consumer(cloud, entity, uamqp_transport=uamqp_transport)
    first, second = read(client, 2, starting_position=before)

    assert (first.body_as_json(), first.message_id, first.content_type) == (
        {"a": 1},
        "m-1",
        "application/json",
    )
    assert {name.decode(): value.decode() for name, value in first.properties.items()} == {"p": "v"}
    assert (first.sequence_number, first.offset) == (before + 1, str(before + 1))
    assert abs((datetime.now(UTC) - first.enqueued_time).total_seconds()) < 60
    stamps = {name.decode(): value for name, value in second.system_properties.items()}
    assert stamps["iothub-connection-device-id"] == b"d1"
    assert stamps["iothub-connection-module-id"] == b"m1"
    assert stamps["iothub-message-source"] == b"Telemetry"
    assert stamps["iothub-connection-auth-method"] == b'{"scope":"module","type":"sas","issuer":"iothub"}'
    assert stamps["iothub-connection-auth-generation-id"].isdigit()
    assert stamps["to"] == b"/devices/d1/modules/m1/messages/events"


def test_questions_about_the_stream_are_answered(cloud: CloudServer) -> None:
    send(cloud, b"one")

    with consumer(cloud) as client:
        stream = client.get_eventhub_properties()
        partition = client.get_partition_properties("0")
        with pytest.raises(EventHubError, match="no stream 'events' with a partition '7'"):
            client.get_partition_properties("7")

    assert (stream["eventhub_name"], stream["partition_ids"]) == ("events", ["0"])
    assert partition["beginning_sequence_number"] == 1
    assert partition["last_enqueued_sequence_number"] == last(cloud)
    assert partition["last_enqueued_offset"] == str(last(cloud))
    assert not partition["is_empty"]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        pytest.param(lambda number, _: {"starting_position": number}, [b"2", b"3"], id="behind a number"),
        pytest.param(
            lambda number, _: {"starting_position": number, "starting_position_inclusive": True},
            [b"1", b"2", b"3"],
            id="at a number",
        ),
        pytest.param(
            lambda number, _: {"starting_position": str(number)}, [b"2", b"3"], id="behind an offset"
        ),
        pytest.param(lambda _, time: {"starting_position": time}, [b"2", b"3"], id="behind a time"),
    ],
)
def test_reading_begins_where_it_is_asked_to(
    cloud: CloudServer, start: Callable[[int, datetime], dict[str, Any]], expected: list[bytes]
) -> None:
    send(cloud, b"1")
    number = last(cloud)
    (event,) = cloud.run(cloud.hub.events(number - 1))
    time_of_it = datetime.fromtimestamp(int(event.enqueued_s * 1000) / 1000, UTC)
    while int(time.time() * 1000) <= int(event.enqueued_s * 1000):
        pass  # the next one comes later, if only by a millisecond
    send(cloud, b"2", b"3")

    found = read(consumer(cloud), len(expected), **start(number, time_of_it))

    assert [b"".join(event.body) for event in found] == expected


def test_who_asks_for_what_is_new_gets_what_comes_from_now_on(cloud: CloudServer) -> None:
    send(cloud, b"old")

    found = read(consumer(cloud), 2, ready=lambda: send(cloud, b"new", b"newer"), starting_position="@latest")

    assert [b"".join(event.body) for event in found] == [b"new", b"newer"]


def test_many_messages_and_large_ones_come_in_order(cloud: CloudServer) -> None:
    before = last(cloud)
    bodies = [str(number).encode() for number in range(3000)] + [bytes([65 + n]) * 200_000 for n in range(20)]
    for at in range(0, len(bodies), 500):
        send(cloud, *bodies[at : at + 500])

    found = read(consumer(cloud, prefetch=200), len(bodies), starting_position=before)

    assert [b"".join(event.body) for event in found] == bodies


@pytest.mark.parametrize(
    ("options", "start", "says"),
    [
        pytest.param({"key": "bm90aGluZw=="}, {}, "signed with a key", id="another key"),
        pytest.param({"policy": "device"}, {}, "does not allow", id="another policy"),
        pytest.param({"entity": "elsewhere"}, {}, "no stream 'elsewhere'", id="another stream"),
        pytest.param({}, {"starting_position": 10**9}, "no number 1000000000", id="a number still to come"),
    ],
)
def test_who_may_not_read_is_told_why(
    cloud: CloudServer, options: dict[str, str], start: dict[str, Any], says: str
) -> None:
    errors: list[Exception] = []

    with consumer(cloud, **options) as client:

        def failed(context: Any, error: Exception) -> None:
            errors.append(error)
            client.close()

        client.receive(
            lambda context, event: None,
            on_error=failed,
            **{"partition_id": "0", "starting_position": "-1", **start},
        )

    assert says in str(errors[0])


def test_a_reader_of_higher_rank_takes_over(cloud: CloudServer) -> None:
    send(cloud, b"1")
    errors: list[Exception] = []
    low, high = consumer(cloud), consumer(cloud)

    def take_over() -> None:
        read(high, 1, starting_position="-1", owner_level=2)

    def failed(context: Any, error: Exception) -> None:
        errors.append(error)
        low.close()

    with low:
        low.receive(
            lambda context, event: take_over() if event is None else None,
            partition_id="0",
            max_wait_time=1,
            starting_position="@latest",
            owner_level=1,
            on_error=failed,
        )

    assert "epoch 2 has come" in str(errors[0])


def test_a_client_that_asks_where_the_stream_is_gets_the_address(cloud: CloudServer) -> None:
    uamqp = pytest.importorskip("uamqp", reason="there is no wheel of uamqp for this Python")
    policy = cloud.hub.policies.find("service")
    token = sas.make_token(ADDRESS, policy.keys[0], int(time.time()) + 3600, "service")
    auth = uamqp.authentication.SASLPlain(
        ADDRESS, f"service@sas.root.{ADDRESS.partition('.')[0]}", token, verify=str(cloud.ca_file)
    )
    client = uamqp.ReceiveClient(f"amqps://{ADDRESS}/messages/events/$management", auth=auth)

    def attach() -> None:
        client.open()
        deadline_s = time.monotonic() + LIMIT_S
        while not client.client_ready() and time.monotonic() < deadline_s:
            pass

    with pytest.raises(uamqp.errors.LinkRedirect) as redirect:
        attach()
    client.close()

    assert redirect.value.hostname == ADDRESS.encode()
    assert redirect.value.address == f"amqps://{ADDRESS}:5671/events/$management".encode()
