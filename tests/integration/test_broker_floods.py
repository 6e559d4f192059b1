"""What one client can do to the broker of a real hub is bounded, told, and nobody else's trouble."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from actors.addresses import BROKER
from actors.broker.topics import DescribeTopics, Topics
from messaging.client import Client
from messaging.mqtt.packets import Publish, SubAck, Subscribe
from tests.actors.broker_world import subscribe
from tests.integration.broker_world import CONNECT, LEAF, LIMIT_S, M1, M2, User, spec, statement, user
from tests.integration.hub_process import HubProcess

REFUSED = 0x80
MIB = 1 << 20
ANSWERED_S = 5.0  # within which a bystander is served meanwhile; a busy machine takes a part of that itself


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with ExitStack() as stack:
        everything = statement("publish", "subscribe", on=["#"])
        made = HubProcess({}, ("m1", "m2"), (LEAF,), broker=spec(CONNECT, everything))
        yield stack.enter_context(made)


def resident_bytes(hub: HubProcess) -> int:
    fields = Path(f"/proc/{hub.process.pid}/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1]) * 1024


def topics(hub: HubProcess) -> dict[str, int]:
    """Return what `edge-actors topics` is told."""
    with Client.outside(hub.run_dir) as us:
        about: dict[str, int] = us.ask(BROKER, DescribeTopics(), Topics, LIMIT_S).about
        return about


def assert_served(bystander: User) -> None:
    """A client that has subscribed to what it publishes gets it."""
    begun_s = time.monotonic()
    assert bystander.publish("bystander", b"x")
    assert time.monotonic() - begun_s < ANSWERED_S


def test_a_flood_of_subscriptions_is_refused_filter_by_filter(hub: HubProcess) -> None:
    bystander, flooder = user(hub, M2), user(hub, M1)
    before_bytes = resident_bytes(hub)

    packets = [
        Subscribe(number + 1, tuple((f"flood/{number}/{part}", 1) for part in range(100)))
        for number in range(200)
    ]
    for packet in packets[:100]:
        flooder.send(packet)
    assert_served(bystander)
    for packet in packets[100:]:
        flooder.send(packet)
    codes = [code for _ in packets for code in _codes(flooder)]

    assert codes == [1] * 1000 + [REFUSED] * 19_000
    hub.wait_for_log("subscription to 'flood/10/0' refused: it has 1000 filters, which is the limit")
    assert len(hub.log_lines()) < 200
    assert resident_bytes(hub) - before_bytes < 32 * MIB
    assert_served(bystander)


def _codes(client: User) -> tuple[int, ...]:
    while not isinstance(answer := client.receive(), SubAck):
        pass
    return tuple(answer.return_codes)


def test_topics_of_64_kb_are_carried_and_not_remembered(hub: HubProcess) -> None:
    bystander, subscriber, publisher = user(hub, M2), user(hub, LEAF), user(hub, M1)
    assert subscriber.subscribe(("#", 0)) == (0,)
    longest = "t" * 65_530
    assert publisher.publish(f"{longest}00000", b"first")
    assert subscriber.message() == (f"{longest}00000", b"first")
    before_bytes = resident_bytes(hub)

    for number in range(1, 501):
        publisher.send(Publish(f"{longest}{number:05}", b"x"))
        assert subscriber.message() == (f"{longest}{number:05}", b"x")

    assert_served(bystander)
    assert resident_bytes(hub) - before_bytes < 16 * MIB  # of 32 MiB of topics


def test_a_topic_of_10_000_levels_ends_its_connection_alone(hub: HubProcess) -> None:
    bystander, publisher, subscriber = user(hub, M2), user(hub, M1), user(hub, LEAF)

    assert not publisher.publish("/" * 9_999, b"x")
    subscriber.send_bytes(subscribe(1, ("+/" * 9_999 + "#", 0)))

    assert subscriber.is_closed()
    hub.wait_for_log(f"{M1}: published to a topic of 10000 levels; the limit is 200")
    hub.wait_for_log("10000 levels; the limit is 200", count=2)
    assert_served(bystander)


def test_a_flood_of_retained_messages_is_passed_on_and_not_kept(hub: HubProcess) -> None:
    bystander, subscriber, publisher = user(hub, M2), user(hub, LEAF), user(hub, M1)
    assert subscriber.subscribe(("flood/#", 0)) == (0,)
    before_bytes = resident_bytes(hub)

    for number in range(3_000):
        publisher.send(Publish(f"flood/{number}", bytes(20_000), retain=True))
        assert subscriber.message()[0] == f"flood/{number}"
        if number % 1_000 == 0:
            assert_served(bystander)

    about = topics(hub)
    assert 800 < about["retained"] < 1000  # 16 MiB of 20,000 bytes each
    assert about["notRetained"] == 3_000 - about["retained"]
    hub.wait_for_log("messages were passed on and not retained: there is room for 1000, of 16 MiB together")
    assert resident_bytes(hub) - before_bytes < 64 * MIB
    assert_served(bystander)


def test_what_a_client_does_not_come_for_is_dropped_and_told(hub: HubProcess) -> None:
    away, publisher = user(hub, LEAF, clean=False), user(hub, M1)
    assert away.subscribe(("news", 1)) == (1,)
    away.close()
    hub.wait_for_log(f"{LEAF}: connection lost")

    assert all(publisher.publish("news", b"%d" % number) for number in range(1_100))

    hub.wait_for_log("messages were dropped: their subscribers do not take them, and 1000 may wait for each")
    assert topics(hub)["dropped"] == 100
