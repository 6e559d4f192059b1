"""Between processes: who is there, what is stale, nothing that blocks. Two buses are two processes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.kernel.base import ChildSpec
from actors.kernel.hosts import ThreadSystem
from messaging.address import socket_name
from messaging.client import Client, NobodyThere
from messaging.envelope import Envelope, decode, encode, lane_of, opened
from messaging.errors import AddressInUse
from messaging.lifecycle import Hello, PeerDown, PeerUp, Stop
from messaging.zmq_bus import ZmqBus
from tests.actors.kernel_actors import Load, Memory, Note, Notebook, Recall

MakeBus = Callable[[str], ZmqBus]


@pytest.fixture
def hub(make_bus: MakeBus) -> Iterator[ZmqBus]:
    bus = make_bus("hub")
    ended = threading.Event()
    spec = ChildSpec("book", Notebook, exported=True)
    ThreadSystem(bus).spawn(spec, "hub/book", "", lambda reason: ended.set())
    with Client(bus, "hub/asker") as asker:
        asker.ask("hub/book", Recall(), Memory)
    yield bus
    bus.send("hub/book", Stop())
    assert ended.wait(5.0)


def test_another_process_answers(hub: ZmqBus, make_bus: MakeBus) -> None:
    agent = make_bus("agent")
    agent.peer_seen("hub", hub.epoch)

    with Client(agent, "agent/asker", exported=True) as asker:
        asker.tell("hub/book", Note(1))
        assert asker.ask("hub/book", Recall(), Memory).numbers == (1,)


def test_a_client_from_outside_is_answered_and_leaves_nothing_behind(hub: ZmqBus, run_dir: Path) -> None:
    with Client.outside(run_dir) as asker:
        assert asker.ask("hub/book", Recall(), Memory).numbers == ()

    assert [path.name for path in run_dir.iterdir()] == ["hub.book"]


@pytest.mark.parametrize("left_behind", [False, True], ids=["never was", "killed"])
def test_a_client_from_outside_hears_at_once_that_nobody_is_there(
    left_behind: bool, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if left_behind:  # as kill -9 leaves it: a socket file that nobody listens on
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(run_dir / socket_name("hub/book")))

    with Client.outside(run_dir) as asker, pytest.raises(NobodyThere, match="hub/book cannot be asked"):
        asker.ask("hub/book", Recall(), Memory, timeout_s=60.0)

    assert caplog.text == ""


def test_a_message_for_an_earlier_incarnation_is_a_dead_letter(hub: ZmqBus, make_bus: MakeBus) -> None:
    agent = make_bus("agent")
    agent.peer_seen("hub", hub.epoch + 2)
    with Client(agent, "agent/asker", exported=True) as asker:
        asker.tell("hub/book", Note(1))
        agent.peer_seen("hub", hub.epoch)

        assert asker.ask("hub/book", Recall(), Memory).numbers == ()

    assert "meant for incarnation" in hub.dead_letters.recent()[0].reason


def test_a_hello_reaches_whichever_incarnation_is_there(hub: ZmqBus, make_bus: MakeBus) -> None:
    agent = make_bus("agent")
    with Client(agent, "agent/asker", exported=True) as asker:
        agent.peer_seen("hub", hub.epoch + 2)

        asker.tell("hub/book", Hello("agent", agent.epoch))
        agent.peer_seen("hub", hub.epoch)
        asker.ask("hub/book", Recall(), Memory)

    assert hub.dead_letters.count == 0


def test_sending_to_a_process_that_died_is_a_dead_letter_and_a_peer_down(
    hub: ZmqBus, make_bus: MakeBus, run_dir: Path
) -> None:
    agent = make_bus("agent")
    with Client(agent, "agent/asker", exported=True) as asker:
        agent.watch_peer("hub", "agent/asker")
        agent.peer_seen("hub", hub.epoch)
        assert asker.receive(PeerUp) == PeerUp("hub", hub.epoch)
        asker.ask("hub/book", Recall(), Memory)

        asker.tell("hub/book", Stop())
        while not agent.dead_letters.count:  # until the closed socket is noticed
            asker.tell("hub/book", Note(1))

        assert asker.receive(PeerDown) == PeerDown("hub")
    assert agent.dead_letters.recent()[0].reason == "process 'hub' is not there"


def test_a_new_incarnation_is_down_and_up_for_its_watchers(make_bus: MakeBus) -> None:
    agent = make_bus("agent")
    with Client(agent, "agent/asker") as asker:
        agent.peer_seen("hub", 1)
        agent.watch_peer("hub", "agent/asker")
        agent.peer_seen("hub", 1)
        agent.peer_seen("hub", 2)

        assert asker.receive(PeerUp) == PeerUp("hub", 1)
        assert asker.receive(PeerDown) == PeerDown("hub")
        assert asker.receive(PeerUp) == PeerUp("hub", 2)


def test_a_process_that_was_never_there_is_a_dead_letter_at_once(make_bus: MakeBus) -> None:
    agent = make_bus("agent")

    agent.send("hub/store", Note(1), sender="agent/asker")

    assert agent.dead_letters.recent()[0].reason == "no actor at 'hub/store'"


def test_an_address_belongs_to_one_actor(bus: ZmqBus) -> None:
    bus.reserve("test/one")

    with pytest.raises(AddressInUse, match="'test/one' is taken"):
        bus.reserve("test/one")


def test_a_mailbox_of_the_same_thread_is_woken_by_hand(bus: ZmqBus) -> None:
    bus.reserve("test/a")
    mailbox = bus.open("test/a")
    woken: list[int] = []
    mailbox.wake = lambda: woken.append(sum(mailbox.waiting()))

    bus.send("test/a", Note(1))
    bus.send("test/a", Load(2))

    assert woken == [1, 2]
    assert [opened(mail).body for mail in mailbox.take(10)] == [(1,), (2,)]
    assert mailbox.is_dry
    bus.release("test/a")
    mailbox.close()


def test_data_that_stays_on_its_thread_is_not_packed_and_waits_in_its_place(bus: ZmqBus) -> None:
    bus.reserve("test/a")
    mailbox = bus.open("test/a")

    for number in range(3):
        bus.send("test/a", Load(number), correlation_id=7, deadline_s=9.0)
    bus.send("test/a", Note(3))

    mails = [*mailbox.take(2), *mailbox.take(2)]
    assert [type(mail) for mail in mails] == [bytes, Envelope, Envelope, Envelope]
    assert [lane_of(mail) for mail in mails] == [0, 1, 1, 1]
    assert [opened(mail).body for mail in mails] == [(3,), (0,), (1,), (2,)]
    assert all(decode(encode(mail)) == mail for mail in mails if isinstance(mail, Envelope))
    bus.release("test/a")
    mailbox.close()


def test_what_a_thread_sent_before_a_mailbox_was_open_is_not_overtaken(bus: ZmqBus) -> None:
    bus.reserve("test/a")
    bus.send("test/a", Note(1))
    mailbox = bus.open("test/a")

    bus.send("test/a", Note(2))

    frames = [mailbox.next(5.0), mailbox.next(5.0)]
    assert [opened(mail).body for mail in frames if mail is not None] == [(1,), (2,)]
    bus.release("test/a")
    mailbox.close()


def test_a_mailbox_of_the_same_thread_that_was_given_back_takes_nothing(bus: ZmqBus) -> None:
    bus.reserve("test/a")
    mailbox = bus.open("test/a")
    bus.send("test/a", Note(1))
    bus.release("test/a")

    bus.send("test/a", Note(2))

    assert [opened(mail).body for mail in mailbox.close()] == [(1,)]
    assert bus.dead_letters.count == 1


def test_a_million_bytes_wait_for_a_slow_reader_without_blocking_the_sender(bus: ZmqBus) -> None:
    with Client(bus, "test/slow") as slow:
        for number in range(20_000):
            bus.send("test/slow", Note(number))

        assert slow.receive(Note) == Note(0)
        for number in range(1, 20_000):
            assert slow.receive(Note) == Note(number)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hub", "hub"),
        ("hub/store", "hub.store"),
        ("agent/agent/" + "m" * 128, None),
        ("agent/agent/größe", None),
    ],
    ids=["process", "actor", "long", "not ASCII"],
)
def test_socket_names_stay_short_and_distinct(address: str, name: str | None) -> None:
    made = socket_name(address)

    assert len(made) <= 40
    assert made.isascii()
    assert name is None or made == name
    assert socket_name(address + "x") != made
