"""The broker's engine: limits, who waits for whom, what is written, participants of this process."""

from __future__ import annotations

import pytest

from messaging.broker.delivery import Outgoing, PacketIds, WireOutlet
from messaging.broker.engine import Broker
from messaging.broker.journal import Changes, Kept
from messaging.broker.limits import DAY_S, FIRST_PACKET_ID, LAST_PACKET_ID, Limits
from messaging.broker.local_client import LocalClient
from messaging.broker.session import Session
from messaging.mqtt.packets import Publish

NOW_S = 1_800_000_000.0


class Client:
    """One client at the broker, and what it was written."""

    def __init__(self, broker: Broker, name: str, *filters: str, qos: int = 1, clean: bool = True) -> None:
        self.broker = broker
        self.written: list[bytes] = []
        self.is_held = False
        outlet = WireOutlet(self.written.append, self._hold, self._release)
        self.session, self.was_known = broker.attach(name, outlet, clean=clean, now_s=NOW_S)
        for name in filters:
            broker.subscribe(self.session, name, qos, NOW_S)
        broker.resume(self.session)
        broker.flush()

    def _hold(self) -> None:
        self.is_held = True

    def _release(self) -> None:
        self.is_held = False

    def publish(self, *bodies: bytes, topic: str = "t", qos: int = 1, retain: bool = False) -> bool:
        messages = [Publish(topic, body, qos, at + 1, retain=retain) for at, body in enumerate(bodies)]
        waits = self.broker.publish(messages, self.session, NOW_S, self.broker_s)
        self.broker.flush()
        return waits

    broker_s = 1000.0

    def acknowledge(self, count: int) -> None:
        """Acknowledge the oldest ones in flight."""
        self.session.acknowledged(list(self.session.pending)[:count])
        self.broker.flush()

    @property
    def in_flight(self) -> int:
        return self.session.in_flight


def write(broker: Broker, problem: str = "") -> Changes | None:
    """Do what the owner of the disk does; return what it would have written."""
    found = broker.take_changes()
    if found is None:
        return None
    broker.written(found[1], problem)
    return found[0]


def test_a_client_that_never_acknowledges_gets_16_messages_and_one_more_for_each_puback() -> None:
    broker = Broker()
    silent, publisher = Client(broker, "s", "t"), Client(broker, "p")

    publisher.publish(*[b"x"] * 20)
    assert silent.in_flight == 16

    silent.acknowledge(1)
    assert silent.in_flight == 16
    assert len(silent.session.unsent) == 3


@pytest.mark.parametrize(
    ("drops_oldest", "kept"), [(False, range(1000)), (True, range(1, 1001))], ids=["drop_new", "drop_old"]
)
def test_of_1001_messages_for_a_client_that_is_away_1000_are_kept(drops_oldest: bool, kept: range) -> None:
    broker = Broker(Limits(drops_oldest=drops_oldest))
    away = Client(broker, "s", "t", clean=False)
    publisher = Client(broker, "p")
    broker.detach(away.session, NOW_S)

    for number in range(1001):
        publisher.publish(number.to_bytes(2))
        write(broker)

    bodies = [out.payload for out in away.session.unsent]
    assert bodies == [number.to_bytes(2) for number in kept]
    assert away.session.dropped == 1


def test_what_went_in_and_out_is_counted_by_quality_of_service_also_of_sessions_that_are_gone() -> None:
    broker = Broker()
    publisher = Client(broker, "p")
    once, twice = Client(broker, "a", "t", qos=2), Client(broker, "b", "t", qos=1)
    away = Client(broker, "c", "t", clean=False)
    broker.detach(away.session, NOW_S)

    publisher.publish(b"0", b"0", qos=0)
    publisher.publish(b"1", qos=1)
    publisher.publish(*[b"2"] * 1000, qos=2)
    write(broker)
    for client in (once, twice):
        broker.detach(client.session, NOW_S)
    counts = broker.counts()

    assert counts.published == (2, 1, 1000)
    # 16 of QoS 1 and 2 are in flight to each of two clients; what is owed to the third waits.
    assert counts.sent == (4, 1 + 1 + 15, 15)
    assert counts.dropped == 3


def test_all_that_waited_at_qos_0_comes_when_its_client_is_back() -> None:
    broker = Broker()
    away, publisher = Client(broker, "s", "t", clean=False), Client(broker, "p")
    broker.detach(away.session, NOW_S)
    publisher.publish(*(bytes([n]) for n in range(40)), qos=0)

    back = Client(broker, "s", clean=False)

    assert b"".join(back.written).count(b"\x00\x01t") == 40
    assert (len(back.session.unsent), back.session.queued_bytes) == (0, 0)


def test_what_waits_is_sent_in_order_however_it_is_acknowledged() -> None:
    broker = Broker()
    publisher = Client(broker, "p")
    subscribers = [Client(broker, f"s{step}", "t") for step in (1, 3, 16)]

    publisher.publish(*(bytes([n]) for n in range(100)))
    for subscriber, step in zip(subscribers, (1, 3, 16), strict=True):
        while subscriber.in_flight:
            subscriber.acknowledge(step)

    bodies = [[frame[7] for frame in _frames(b"".join(one.written))] for one in subscribers]
    assert bodies == [list(range(100))] * 3
    assert all(not one.session.pending and not one.session.queued_bytes for one in subscribers)


def _frames(data: bytes) -> list[bytes]:
    """Cut PUBLISHes of fewer than 128 bytes."""
    frames = []
    while data:
        frames.append(data[: 2 + data[1]])
        data = data[2 + data[1] :]
    return frames


def test_a_puback_does_not_end_a_message_of_qos_2() -> None:
    broker = Broker()
    subscriber, publisher = Client(broker, "s", "t", qos=2), Client(broker, "p")
    publisher.publish(b"x", qos=2)

    subscriber.acknowledge(1)

    assert subscriber.in_flight == 1


def test_a_batch_larger_than_the_queue_is_kept_as_far_as_it_fits() -> None:
    broker = Broker(Limits(max_queued=10))
    away, publisher = Client(broker, "s", "t", clean=False), Client(broker, "p")
    broker.detach(away.session, NOW_S)

    publisher.publish(*(bytes([n]) for n in range(30)))
    changes = write(broker)

    assert changes is not None
    assert len(changes.queued) == 10
    assert [out.payload for out in away.session.unsent] == [bytes([n]) for n in range(10)]


def test_bytes_of_a_queue_are_limited_where_that_is_wanted() -> None:
    broker = Broker(Limits(max_queued_bytes=100))
    away, publisher = Client(broker, "s", "t", clean=False), Client(broker, "p")
    broker.detach(away.session, NOW_S)

    publisher.publish(b"x" * 60, b"x" * 60)
    write(broker)

    assert (len(away.session.unsent), away.session.dropped) == (1, 1)


def test_a_transient_subscriber_costs_no_disk() -> None:
    broker = Broker()
    Client(broker, "s", "t", qos=2)

    waits = Client(broker, "p").publish(b"1", b"2", qos=2)

    assert not waits
    assert broker.take_changes() is None


def test_a_body_is_written_once_for_all_sessions_and_gone_with_the_last() -> None:
    broker = Broker()
    clients = [Client(broker, f"s{n}", "t", clean=False) for n in range(3)]
    publisher = Client(broker, "p")
    write(broker)

    assert publisher.publish(b"x")
    assert all(client.in_flight == 0 for client in clients), "nothing is delivered before it is on disk"
    changes = write(broker)
    assert changes is not None
    assert (len(changes.bodies), len(changes.queued)) == (1, 3)

    for client in clients[:2]:
        client.acknowledge(1)
    changes = write(broker)
    assert changes is not None
    assert (len(changes.done), changes.gone_bodies) == (2, [])
    clients[2].acknowledge(1)
    changes = write(broker)
    assert changes is not None
    assert changes.gone_bodies == [1]


def test_what_could_not_be_written_is_delivered_to_no_persistent_session() -> None:
    broker = Broker()
    client, publisher = Client(broker, "s", "t", clean=False), Client(broker, "p")
    problems: list[str] = []

    publisher.publish(b"x")
    broker.journal.when_written(problems.append)
    write(broker, "disk full")

    assert problems == ["disk full"]
    assert client.in_flight == 0
    assert client.session.awaiting == 0


def test_a_publisher_waits_for_a_subscriber_that_is_slow_and_goes_on_with_it() -> None:
    broker = Broker()
    slow, publisher = Client(broker, "s", "t"), Client(broker, "p")

    while not publisher.is_held:
        publisher.publish(*[b"x"] * 100)
    assert slow.session.dropped == 0
    while publisher.is_held:
        slow.acknowledge(16)

    assert slow.session.dropped == 0
    assert len(slow.session.unsent) > 0


def test_nobody_waits_longer_than_a_second_for_who_stands_still() -> None:
    broker = Broker()
    Client(broker, "s", "t")
    publisher = Client(broker, "p")
    while not publisher.is_held:
        publisher.publish(*[b"x"] * 100)

    broker.tick(NOW_S, Client.broker_s + 0.9)
    assert publisher.is_held
    broker.tick(NOW_S, Client.broker_s + 1.1)
    assert not publisher.is_held

    for _ in range(20):
        publisher.publish(*[b"x"] * 100)
    assert not publisher.is_held


def test_nobody_waits_for_itself_nor_two_for_each_other() -> None:
    broker = Broker()
    alone = Client(broker, "alone", "own")
    for _ in range(20):
        alone.publish(*[b"x"] * 100, topic="own")
    assert not alone.is_held

    one, other = Client(broker, "one", "to/one"), Client(broker, "other", "to/other")
    for _ in range(20):
        if not one.is_held:
            one.publish(*[b"x"] * 100, topic="to/other")
        if not other.is_held:
            other.publish(*[b"x"] * 100, topic="to/one")
    assert one.is_held != other.is_held


def test_a_publisher_is_free_again_when_the_subscriber_it_waits_for_goes() -> None:
    broker = Broker()
    slow, publisher = Client(broker, "s", "t"), Client(broker, "p")
    while not publisher.is_held:
        publisher.publish(*[b"x"] * 100)

    broker.detach(slow.session, NOW_S)

    assert not publisher.is_held


def test_qos_0_for_who_does_not_read_is_dropped_once_it_stands_still() -> None:
    broker = Broker()
    deaf, publisher = Client(broker, "s", "t", qos=0), Client(broker, "p")
    broker.unread(deaf.session, Client.broker_s)

    publisher.publish(b"1", qos=0)
    assert publisher.is_held
    broker.tick(NOW_S, Client.broker_s + 1.1)
    publisher.publish(b"2", qos=0)

    assert not publisher.is_held
    assert deaf.session.dropped == 1
    broker.read_again(deaf.session)
    publisher.publish(b"3", qos=0)
    assert deaf.written[-1].endswith(b"3")


def test_all_subscribers_of_a_broadcast_get_the_same_bytes_in_one_write() -> None:
    broker = Broker()
    clients = [Client(broker, f"s{n}", "t") for n in range(5)]

    Client(broker, "p").publish(b"1", b"2", b"3")

    assert all(len(client.written) == 1 for client in clients)
    assert len({id(client.written[0]) for client in clients}) == 1


def test_what_one_batch_brings_on_many_topics_is_one_write() -> None:
    broker = Broker()
    client = Client(broker, "s", "#")

    broker.publish([Publish(f"t/{n % 3}", b"x", n % 2, n + 1) for n in range(10)], None, NOW_S, 0.0)
    broker.flush()

    assert len(client.written) == 1


def test_retained_messages_are_limited_in_number_and_age() -> None:
    broker = Broker(Limits(max_retained=3))
    publisher = Client(broker, "p")
    for number in range(5):
        publisher.publish(b"x", topic=f"r/{number}", qos=0, retain=True)
    publisher.publish(b"newer", topic="r/0", qos=0, retain=True)

    assert len(broker.retained) == 3
    assert broker.counts().not_retained == 2
    assert {message.payload for message in broker.retained.matching("r/0")} == {b"newer"}
    broker.tick(NOW_S + 60 * DAY_S - 1, 0.0)
    assert len(broker.retained) == 3
    broker.tick(NOW_S + 60 * DAY_S + 1, 0.0)
    assert len(broker.retained) == 0


def test_bytes_of_retained_messages_are_limited() -> None:
    broker = Broker()
    publisher = Client(broker, "p")

    for number in range(100):
        publisher.publish(bytes(256 * 1024), topic=f"r/{number}", qos=0, retain=True)

    assert len(broker.retained) == 63
    publisher.publish(b"", topic="r/0", qos=0, retain=True)
    assert len(broker.retained) == 62


def test_a_session_that_nobody_comes_for_ends_after_60_days() -> None:
    broker = Broker()
    away, there = Client(broker, "away", "t", clean=False), Client(broker, "there", "t", clean=False)
    broker.detach(away.session, NOW_S)

    assert broker.tick(NOW_S + 60 * DAY_S - 1, 0.0) == []
    assert broker.tick(NOW_S + 60 * DAY_S + 1, 0.0) == ["away"]
    assert broker.session("away") is None
    assert broker.session("there") is there.session


def test_what_is_on_disk_makes_the_same_sessions() -> None:
    broker = Broker()
    client = Client(broker, "s", "t", qos=2, clean=False)
    publisher = Client(broker, "p", clean=False)
    publisher.publish(*(bytes([n]) for n in range(20)), qos=2)
    changes = write(broker)
    assert changes is not None
    received = next(iter(client.session.pending))
    client.session.received(received)
    more = write(broker)
    assert more is not None
    sessions = [(number, *kept) for number, kept in changes.sessions.items() if kept is not None]
    rows = [(*row, row[:2] in more.received) for row in changes.queued]

    again = Broker()
    again.load(Kept(sessions, dict(changes.bodies), rows, list(changes.incoming), {}), NOW_S)

    session = again.session("s")
    assert session is not None
    assert list(session.pending) == list(client.session.pending)
    assert (session.in_flight, list(session.released)) == (16, [received])
    assert [out.payload for out in session.unsent] == [out.payload for out in client.session.unsent]
    sender = again.session("p")
    assert sender is not None
    assert sender.incoming == set(range(1, 21))


def test_packet_ids_go_round_in_their_half() -> None:
    ids = PacketIds()
    seen: set[int] = set()

    for _ in range(1000):
        first = ids.take(100)
        assert first >= FIRST_PACKET_ID
        assert first + 99 <= LAST_PACKET_ID
        seen |= set(range(first, first + 100))

    assert len(seen) > 32_600


def test_a_packet_id_that_is_taken_is_not_given_to_another_message_and_the_disk_knows() -> None:
    broker = Broker()
    client, publisher = Client(broker, "s", "t", clean=False), Client(broker, "p")
    publisher.publish(b"stays")
    write(broker)
    [stays] = client.session.pending

    renamed = []
    for _ in range(LAST_PACKET_ID - FIRST_PACKET_ID + 1):
        publisher.publish(b"x")
        write(broker)
        last = list(client.session.pending)[-1]
        assert last != stays
        client.session.acknowledged([last])
        if (changes := write(broker)) is not None:
            renamed += changes.renamed

    assert len(renamed) == 1


def test_a_participant_in_this_process_is_a_client_like_others() -> None:
    broker = Broker()
    got: list[list[Outgoing]] = []
    stored: list[str] = []
    local = LocalClient(
        broker, "$local", got.append, clean=False, now_s=NOW_S, hold=lambda: None, release=lambda: None,
        changed=lambda: None,
    )  # fmt: skip
    local.subscribe("in/#", 1, NOW_S)
    client = Client(broker, "c", "out/#")

    client.publish(b"1", b"2", topic="in/x")
    write(broker)
    assert [[(out.topic, out.payload) for out in batch] for batch in got] == [
        [("in/x", b"1"), ("in/x", b"2")]
    ]
    local.acknowledge([out.packet_id for out in got[0]])
    local.publish([Publish("out/y", b"3", 1, 1)], NOW_S, 0.0, stored.append)

    assert stored == [""]
    assert client.in_flight == 1
    local.leave(NOW_S)
    client.publish(b"4", topic="in/x")
    write(broker)
    back = LocalClient(
        broker, "$local", got.append, clean=False, now_s=NOW_S, hold=lambda: None, release=lambda: None,
        changed=lambda: None,
    )  # fmt: skip
    back.resume()
    assert back.was_known
    assert [out.payload for out in got[-1]] == [b"4"]


def test_queues_of_all_sessions_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messaging.broker.session.MOST_QUEUED_BYTES", 10_000)
    broker = Broker()
    away = [Client(broker, f"s{n}", "t", clean=False) for n in range(4)]
    publisher = Client(broker, "p")
    for client in away:
        broker.detach(client.session, NOW_S)

    for _ in range(10):
        publisher.publish(bytes(999))
        write(broker)

    sessions: list[Session] = [client.session for client in away]
    assert sum(len(session.unsent) for session in sessions) == 10
    assert sum(session.dropped for session in sessions) == 30
