"""Clients that publish more than one commit should hold are read by turns."""

from __future__ import annotations

import pytest

from actors.heads.readers import ENOUGH_MESSAGES, IDLE_S, LARGE_BYTES, LITTLE_MESSAGES, LONGEST_S
from messaging.lifecycle import RequestFailed
from tests.actors.head_world import HEAD, STORE, HeadWorld, publish_packet
from tests.fakes.transport import MemoryClient

NAMES = ("a", "b", "c", "d")
PART = ENOUGH_MESSAGES * 2 // 3  # so that two are more than enough


class Clients:
    """Four clients whose messages nobody has committed yet."""

    def __init__(self) -> None:
        self.world = HeadWorld()
        self.all = {name: self.world.connect(f"edge1/{name}") for name in NAMES}

    def publish(self, *names: str, count: int = PART, body_bytes: int = 1) -> list[int]:
        """Have clients publish in one look at the sockets; return the ids to answer."""
        for name in names:
            body = b"x" * body_bytes
            self.all[name].send(*(publish_packet(n, body, f"edge1/{name}") for n in range(1, count + 1)))
        self.world.system.run()
        return [letter.correlation_id for letter, _ in self.world.published()]

    def are_read(self) -> str:
        """Return the names of the clients that are read."""
        return "".join(name for name, client in self.all.items() if client.transport.reading)

    def __getitem__(self, name: str) -> MemoryClient:
        return self.all[name]


@pytest.fixture
def clients() -> Clients:
    return Clients()


def test_clients_that_bring_little_are_all_read(clients: Clients) -> None:
    clients.publish(*NAMES, count=ENOUGH_MESSAGES // 4)

    assert clients.are_read() == "abcd"


def test_who_brings_more_than_enough_for_a_commit_waits_for_it(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c")
    assert clients.are_read() == "ad"

    clients.world.store(*ids)

    assert clients.are_read() == "abcd"  # two were enough before, so two may go on


def test_a_commit_lets_as_many_be_read_as_brought_enough_before_and_the_others_in_turn(
    clients: Clients,
) -> None:
    ids = clients.publish("a", "b", "c", "d")
    assert clients.are_read() == "a"

    clients.world.store(*ids)
    assert clients.are_read() == "abc"

    ids = clients.publish("b")  # d was before it
    assert clients.are_read() == "ac"

    clients.world.store(*ids)
    assert clients.are_read() == "abcd"


def test_bodies_count_as_well_as_messages(clients: Clients) -> None:
    clients.publish("a", "b", "c", count=1, body_bytes=200 * 1024)

    assert clients.are_read() == "abd"


def test_who_brings_little_is_read_at_any_time(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c")
    assert clients.are_read() == "ad"

    ids += clients.publish("d", count=LITTLE_MESSAGES)
    assert clients.are_read() == "ad"
    clients.publish("d", count=LITTLE_MESSAGES + 1)

    assert clients.are_read() == "a"


def test_who_has_large_bodies_may_bring_more_in_its_turn_than_before(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c", "d", count=3, body_bytes=LARGE_BYTES)
    assert clients.are_read() == "ab"
    ids += clients.publish("a", "b", count=1, body_bytes=LARGE_BYTES + 1)

    clients.world.store(*ids)

    assert clients.are_read() == "cd"
    ids = clients.publish("c", "d", count=3, body_bytes=LARGE_BYTES)
    clients.world.store(*ids)

    assert clients.are_read() == "ab"


def test_a_commit_without_those_whose_turn_it_is_gives_nobody_else_a_turn(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c", "d", count=3, body_bytes=LARGE_BYTES)
    ids += clients.publish("a", "b", count=3, body_bytes=LARGE_BYTES)
    clients.world.store(*ids)
    before = clients.are_read()

    clients.world.store(*clients.publish("c", count=1))

    assert clients.are_read() == before == "cd"


def test_the_next_are_read_when_those_before_have_nothing_to_say(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c", "d")
    clients.world.store(*ids)
    assert clients.are_read() == "abc"

    clients.world.system.advance(2 * IDLE_S)

    assert clients.are_read() == "abcd"


def test_nobody_is_read_before_a_commit_that_takes_its_time(clients: Clients) -> None:
    clients.publish("a", "b", "c", "d")

    clients.world.system.advance(LONGEST_S / 2)

    assert clients.are_read() == "a"


def test_a_commit_of_which_nothing_is_heard_holds_up_nobody_for_long(clients: Clients) -> None:
    clients.publish("a", "b", "c", "d")

    clients.world.system.advance(LONGEST_S * 1.1)

    assert clients.are_read() == "abcd"


def test_what_cannot_be_stored_holds_up_nobody(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c")

    clients.world.tell(HEAD, RequestFailed("Append", STORE, "no space"), STORE, ids[0])

    assert clients["a"].closed
    assert clients.are_read() == "abcd"


def test_who_left_while_waiting_leaves_its_place(clients: Clients) -> None:
    ids = clients.publish("a", "b", "c", "d")
    clients["b"].lose()

    clients.world.store(*ids)

    assert [clients[name].transport.reading for name in "cd"] == [True, True]
