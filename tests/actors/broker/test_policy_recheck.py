"""Sessions are looked at some at a time after the rules have changed."""

from __future__ import annotations

from typing import Any, cast

from actors.broker.hub_broker import PolicyApplied
from actors.broker.policy_recheck import FILTERS_AT_ONCE, PolicyRecheck, RecheckDue
from actors.broker.user_topics import UserTopics
from actors.kernel.base import EdgeActor
from messaging.envelope import Envelope


class World:
    """Head and rules in one: sessions that have `bad` among their filters end."""

    address = "hub/mqtt"

    def __init__(self, **sessions: list[str]) -> None:
        self.sessions = {name: dict.fromkeys(filters, 1) for name, filters in sessions.items()}
        self.ended: list[str] = []
        self.waiting = 0  # RecheckDue that are on their way
        self.answered: list[object] = []
        self.recheck = PolicyRecheck(
            cast(EdgeActor, self), cast(UserTopics, self), lambda: self.sessions, self.end
        )

    def tell(self, to: str, message: object) -> None:
        assert (to, message) == (self.address, RecheckDue())
        self.waiting += 1

    def reply(self, message: object, to: Any) -> None:
        assert message == PolicyApplied()
        self.answered.append(to)

    def why_cut_off(self, name: str, filters: dict[str, int]) -> str:
        return "it has a bad one" if "bad" in filters else ""

    def end(self, name: str, reason: str) -> None:
        self.ended.append(name)
        del self.sessions[name]

    def begin(self, asked: str) -> None:
        self.recheck.begin(cast(Envelope, asked))

    def turn(self) -> None:
        self.waiting -= 1
        self.recheck.go_on()


MANY = [str(number) for number in range(FILTERS_AT_ONCE)]


def test_few_sessions_are_done_at_once() -> None:
    world = World(a=["x"], b=["x", "bad"], c=[])

    world.begin("asked")

    assert (world.ended, world.answered, world.waiting) == (["b"], ["asked"], 0)


def test_many_take_a_turn_each_and_whoever_asked_is_told_at_the_end() -> None:
    world = World(a=[*MANY, "bad"], b=MANY, c=[*MANY, "bad"])

    world.begin("asked")
    first = list(world.ended), list(world.answered), world.waiting
    world.turn()
    world.turn()

    assert first == (["c"], [], 1)
    assert (world.ended, world.answered, world.waiting) == (["c", "a"], ["asked"], 0)


def test_rules_that_change_again_begin_anew_and_both_are_told() -> None:
    world = World(a=MANY, b=MANY, c=MANY)
    world.begin("first")
    world.sessions["c"]["bad"] = 1

    world.begin("second")
    while world.waiting:
        world.turn()

    assert world.ended == ["c"]
    assert world.answered == ["first", "second"]


def test_a_session_that_ends_meanwhile_is_not_looked_at() -> None:
    world = World(a=[*MANY, "bad"], b=MANY)
    world.begin("asked")

    del world.sessions["a"]
    world.turn()

    assert (world.ended, world.answered) == ([], ["asked"])
