"""Direct methods: calls reach the client they are for, or their caller learns why not."""

from __future__ import annotations

import pytest

from actors.hub.client_services import (
    CallMethod,
    ClientChanged,
    ClientGone,
    HeadStarted,
    InvokeMethod,
    MethodAnswered,
    MethodFailed,
    MethodResult,
)
from actors.hub.methods import MOST_CALLS, MethodActor
from tests.actors.hub_world import World, message_in

METHODS, HEAD, OTHER_HEAD, CALLER = "hub/methods", "hub/mqtt", "hub/amqp", "test/caller"
PUMP = "edge1/pump"


class MethodWorld(World):
    def __init__(self) -> None:
        super().__init__(HEAD, OTHER_HEAD, CALLER, "test")
        self.start(METHODS, MethodActor)

    def wants_methods(self, identity: str = PUMP, head: str = HEAD) -> None:
        self.tell(METHODS, ClientChanged(identity, ("METHODS", "TWIN_RESPONSES")), head)

    def invoke(self, number: int = 1, *, to: str = PUMP, answer_s: float = 30, connect_s: float = 0) -> None:
        self.tell(METHODS, InvokeMethod(to, "start", b'{"rpm":5}', answer_s, connect_s), CALLER, number)

    def answer(self, call: CallMethod, status: int = 200, payload: bytes = b"", rid: str = "") -> None:
        answered = MethodAnswered(call.identity, rid or call.request_id, status, payload)
        self.tell(METHODS, answered, HEAD)

    def results(self) -> list[tuple[int, object]]:
        """Return what the caller heard: number of the call and answer."""
        return [(letter.correlation_id, message_in(letter)) for letter in self.letters(CALLER)]


@pytest.fixture
def world() -> MethodWorld:
    return MethodWorld()


def test_a_call_goes_to_the_head_of_its_client_and_the_answer_to_its_caller(world: MethodWorld) -> None:
    world.wants_methods()
    world.invoke(7)

    [call] = world.told(HEAD, CallMethod)
    assert (call.identity, call.name, call.payload) == (PUMP, "start", b'{"rpm":5}')
    world.answer(call, 501, b"null")

    assert world.results() == [(7, MethodResult(501, b"null"))]


@pytest.mark.parametrize("features", [None, (), ("C2D", "TWIN_RESPONSES")], ids=["away", "none", "others"])
def test_a_client_that_takes_no_methods_is_404_at_once(
    world: MethodWorld, features: tuple[str, ...] | None
) -> None:
    """Source: hub-protocols.md section 8.4, row 36."""
    if features is not None:
        world.tell(METHODS, ClientChanged(PUMP, features), HEAD)

    world.invoke(7)

    reason = f"'{PUMP}' is not connected, or takes no method calls"
    assert world.results() == [(7, MethodFailed(404, reason))]


def test_a_call_waits_for_its_client_as_long_as_its_connect_timeout_says(world: MethodWorld) -> None:
    world.invoke(1, connect_s=10)
    world.invoke(2, connect_s=20)
    world.system.advance(10.5)
    assert [(number, type(result)) for number, result in world.results()] == [(1, MethodFailed)]

    world.wants_methods()
    [call] = world.told(HEAD, CallMethod)
    world.system.advance(15)  # its connect time-out has no meaning any more
    world.answer(call)

    assert world.results() == [(2, MethodResult(200, b""))]


def test_a_client_that_does_not_answer_in_time_is_504_and_its_late_answer_goes_nowhere(
    world: MethodWorld,
) -> None:
    world.wants_methods()
    world.invoke(7, answer_s=5)
    [call] = world.told(HEAD, CallMethod)

    world.system.advance(5.1)
    world.answer(call)

    [(number, failed)] = world.results()
    assert isinstance(failed, MethodFailed)
    assert (number, failed.status, call.request_id in failed.reason) == (7, 504, True)


def test_answers_are_told_apart_whatever_their_order_and_the_case_of_their_ids(world: MethodWorld) -> None:
    """Source: hub-protocols.md section 8.4, row 37."""
    world.wants_methods()
    for number in range(1, 51):
        world.invoke(number)
    calls = world.told(HEAD, CallMethod)
    assert len({call.request_id for call in calls}) == 50

    for status, call in reversed(list(enumerate(calls, 1000))):
        world.answer(call, status, rid=call.request_id.upper())

    assert dict(world.results()) == {n + 1: MethodResult(1000 + n, b"") for n in range(50)}


def test_another_client_cannot_answer(world: MethodWorld) -> None:
    world.wants_methods()
    world.invoke(7)
    [call] = world.told(HEAD, CallMethod)

    world.tell(METHODS, MethodAnswered("edge1/other", call.request_id, 200, b""), HEAD)
    assert world.results() == []

    world.answer(call)
    assert len(world.results()) == 1


def test_a_second_answer_goes_nowhere(world: MethodWorld) -> None:
    world.wants_methods()
    world.invoke(7)
    [call] = world.told(HEAD, CallMethod)

    world.answer(call, 200)
    world.answer(call, 500)

    assert world.results() == [(7, MethodResult(200, b""))]


def test_a_client_that_moved_to_another_head_is_called_there(world: MethodWorld) -> None:
    world.wants_methods(head=HEAD)
    world.wants_methods(head=OTHER_HEAD)
    world.tell(METHODS, ClientGone(PUMP), HEAD)  # the older connection ends after the newer began

    world.invoke()

    assert len(world.told(OTHER_HEAD, CallMethod)) == 1


def test_the_clients_of_a_head_that_starts_anew_are_gone(world: MethodWorld) -> None:
    world.wants_methods()
    world.tell(METHODS, HeadStarted(), HEAD)

    world.invoke(7)

    assert [(number, type(result)) for number, result in world.results()] == [(7, MethodFailed)]


def test_so_many_calls_are_open_and_no_more(world: MethodWorld) -> None:
    world.wants_methods()
    for _ in range(MOST_CALLS):
        world.system.bus.send(METHODS, InvokeMethod(PUMP, "m", b"", 300, 0), sender=CALLER)
    world.system.run()

    world.invoke(9)

    assert world.results() == [(9, MethodFailed(429, f"{MOST_CALLS} method calls are open already"))]
