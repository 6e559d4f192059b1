"""Faults in envelopes, as an actor and its neighbours live through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors.kernel.faults import FaultsActor
from actors.kernel.memory_system import MemorySystem
from messaging.envelope_faults import Action, EnvelopeFaults, Rule
from tests.actors.kernel_actors import Burst, Note, Notebook, Recall

BOOK = "hub/book"


class World:
    """One actor, somebody who tells it things, and rules."""

    def __init__(self) -> None:
        Notebook.generations.clear()
        self.system = MemorySystem(seed=1)
        self.hung_s: list[float] = []
        self.faults = EnvelopeFaults(self.hung_s.append)
        self.letters = self.system.mailbox("test/asker")
        self.system.start(BOOK, Notebook)
        self.system.start("hub/faults", lambda: FaultsActor(self.faults, self._use))

    def _use(self, faults: Any) -> None:
        self.system.bus.faults = faults

    def add(self, action: Action, **more: Any) -> None:
        self._use(self.faults)
        self.faults.add(Rule(1, action, to=BOOK, **{"kind": "Note", **more}))

    def tell(self, message: object) -> None:
        self.system.bus.send(BOOK, message, sender="test/asker")
        self.system.run()

    def numbers(self) -> tuple[int, ...]:
        self.letters()
        self.tell(Recall())
        return next(letter.body[0] for letter in self.letters() if letter.kind == "Memory")  # type: ignore[no-any-return]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("action", "more", "at_once", "later"),
    [
        pytest.param(Action.DROP, {}, (2, 3), (2, 3), id="drop"),
        pytest.param(Action.DOUBLE, {}, (1, 1, 2, 3), (1, 1, 2, 3), id="double"),
        pytest.param(Action.CORRUPT, {}, (2, 3), (2, 3), id="corrupt"),
        pytest.param(Action.REORDER, {"delay_s": 1.0}, (2, 3), (2, 3, 1), id="reorder"),
        pytest.param(Action.FAIL, {}, (2, 3), (2, 3), id="fail"),
        pytest.param(Action.HANG, {"delay_s": 1.0}, (1, 2, 3), (1, 2, 3), id="hang"),
    ],
)
def test_what_an_actor_gets(
    world: World, action: Action, more: dict[str, Any], at_once: tuple[int, ...], later: tuple[int, ...]
) -> None:
    world.add(action, **more)

    for number in (1, 2, 3):
        world.tell(Note(number))
    first = world.numbers()
    world.system.advance(2.0)

    assert first == at_once
    assert world.numbers() == later
    assert world.faults.counts() == {1: 1}


def test_delayed_envelopes_keep_their_order_with_all_that_come_behind(world: World) -> None:
    world.add(Action.DELAY, delay_s=1.0)

    for number in (1, 2, 3):
        world.tell(Note(number))
    world.letters()
    world.tell(Recall())
    early = world.letters()
    world.system.advance(2.0)

    assert not early, "the question waits behind the note"
    assert [letter.body[0] for letter in world.letters()] == [(1, 2, 3)]


def test_an_envelope_that_waits_outlives_a_restart_of_its_actor(world: World) -> None:
    world.add(Action.REORDER, delay_s=1.0)

    world.tell(Note(1))
    world.tell(Burst("boom"))
    world.system.advance(2.0)

    assert world.numbers() == (1,)


def test_an_actor_that_is_made_to_fail_starts_anew_and_its_message_is_a_dead_letter(world: World) -> None:
    world.add(Action.FAIL)
    world.tell(Note(1))

    (letter,) = world.system.bus.dead_letters.recent()

    assert "FaultInjected" in letter.reason
    assert world.system.cells[BOOK].restarts == 1


def test_an_actor_that_hangs_takes_its_time(world: World) -> None:
    world.add(Action.HANG, delay_s=14.0)

    world.tell(Note(1))

    assert world.hung_s == [14.0]


def test_rules_come_and_go_by_message_and_an_idle_actor_is_hit_all_the_same(world: World) -> None:
    from actors.kernel.faults import AddFault, FaultCounts, ListFaults, RemoveFault

    def ask(question: object) -> FaultCounts:
        world.letters()
        world.system.bus.send("hub/faults", question, sender="test/asker")
        world.system.run()
        return FaultCounts(*next(one.body for one in world.letters() if one.kind == "FaultCounts"))

    ask(AddFault(7, "fail", to=BOOK))
    after = ask(ListFaults())
    ask(RemoveFault(7))
    world.tell(Note(1))

    assert after.counts == {7: 1}
    assert world.system.cells[BOOK].restarts == 1
    assert world.numbers() == (1,)


def test_without_rules_nobody_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    judge: Callable[..., Any] = lambda *_: pytest.fail("asked")  # noqa: E731
    monkeypatch.setattr(EnvelopeFaults, "judge", judge)

    world.tell(Note(1))

    assert world.numbers() == (1,)
