"""The inspector of a process, on virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

from actors.inspection.inspector import (
    COUNTED_S,
    HOPS_KEPT_S,
    LEASE_S,
    LINGER_S,
    MOST_TAPS,
    NOT_ALLOWED,
    InspectorActor,
)
from actors.inspection.messages import (
    ActorsSeen,
    CloseTap,
    FindHops,
    FlowRead,
    HopsFound,
    LetterShown,
    LookAtActors,
    MessageSent,
    OpenTap,
    ReadFlow,
    ReadTap,
    ReplayLetter,
    SendMessage,
    ShowLetter,
    TapClosed,
    TapOpened,
    TapRead,
)
from actors.inspection.tap import LARGEST_BYTES
from actors.kernel.actor_sight import ActorSight
from actors.kernel.memory_system import MemorySystem
from messaging.envelope import decode
from messaging.kinds import kind_named
from messaging.lifecycle import RequestFailed
from tests.actors.kernel_actors import Burst, Memory, Note, Notebook, Recall

T = TypeVar("T")

BOOK = "test/book"
INSPECTOR = "test/inspector"
SIGHT = ActorSight(BOOK, "test", "Notebook", "running", "", 0.0, 1, 2, 3, 4, 5, "oops", None)


class World:
    """A notebook, and an inspector that looks at it."""

    def __init__(self, allows_faults: bool = True) -> None:
        Notebook.generations.clear()
        self.system = MemorySystem(seed=1)
        self.bus = self.system.bus
        self.letters = self.system.mailbox("test/asker")
        self.system.start(BOOK, Notebook)
        self.system.start(
            INSPECTOR,
            lambda: InspectorActor(
                self.observe, lambda: self.look(), self.bus.dead_letters, allows_faults=allows_faults
            ),
        )
        self.sights: Sequence[ActorSight] = (SIGHT,)

    def observe(self, observer: Any) -> None:
        self.bus.observer = observer

    def look(self) -> Sequence[ActorSight]:
        return self.sights

    def tell(self, message: object, to: str = BOOK, sender: str = "test/asker") -> None:
        self.bus.send(to, message, sender=sender)
        self.system.run()

    def ask(self, message: object, answer: type[T], to: str = INSPECTOR) -> T:
        self.letters()
        self.tell(message, to)
        kind = kind_named(answer.__name__)
        assert kind is not None
        [found] = [kind.build(*letter.body) for letter in self.letters() if letter.kind == answer.__name__]
        assert isinstance(found, answer)
        return found

    def refusal(self, message: object) -> str:
        return self.ask(message, RequestFailed).reason

    def numbers(self) -> tuple[int, ...]:
        return self.ask(Recall(), Memory, BOOK).numbers


@pytest.fixture
def world() -> World:
    return World()


def test_it_tells_how_the_actors_are_and_whether_faults_are_allowed(world: World) -> None:
    seen = world.ask(LookAtActors(), ActorsSeen)

    assert (seen.process, seen.allows_faults) == ("test", True)
    [actor] = seen.actors
    assert actor["address"] == BOOK
    assert actor["mailbox"] == {"control": {"depth": 1, "limit": None}, "data": {"depth": 2, "limit": 1024}}
    assert (actor["handled"], actor["failures"], actor["restarts"], actor["last_error"]) == (3, 4, 5, "oops")
    assert actor["p50_ms"] is None


def test_nothing_is_watched_until_somebody_taps_and_a_moment_after_the_last_one(world: World) -> None:
    before = world.bus.observer
    tap = world.ask(OpenTap(), TapOpened).tap
    during = world.bus.observer
    world.ask(CloseTap(tap), TapClosed)
    world.system.advance(LINGER_S - 1.5)
    lingering = world.bus.observer
    world.system.advance(3.0)

    assert before is None
    assert during is lingering is not None
    assert world.bus.observer is None


def test_a_tap_gives_the_envelopes_that_fit_with_the_names_of_their_fields_once(world: World) -> None:
    tap = world.ask(OpenTap(to=(BOOK,)), TapOpened).tap
    world.tell(Note(5))
    first = world.ask(ReadTap(tap, 1 << 20, 0), TapRead)
    world.tell(Note(6))
    second = world.ask(ReadTap(tap, 1 << 20, first.number), TapRead)

    [(_, size, frame)] = first.envelopes
    assert (decode(frame).kind, decode(frame).body, size) == ("Note", (5,), len(frame))
    assert (first.fields, second.fields) == ({"Note": ("number",)}, {})
    assert [decode(frame).body for _, _, frame in second.envelopes] == [(6,)]


def test_a_sign_of_life_takes_nothing_away_from_the_next_read(world: World) -> None:
    tap = world.ask(OpenTap(to=(BOOK,)), TapOpened).tap
    world.tell(Note(5))

    assert world.ask(ReadTap(tap, 0, 0), TapRead) == TapRead(0, (), {})
    assert world.ask(ReadTap(tap, 1, 0), TapRead).fields == {"Note": ("number",)}


def test_an_answer_that_did_not_come_is_given_again_and_nothing_is_lost(world: World) -> None:
    tap = world.ask(OpenTap(to=(BOOK,)), TapOpened).tap
    world.tell(Note(5))
    lost = world.ask(ReadTap(tap, 1 << 20, 0), TapRead)
    world.tell(Note(6))

    again = world.ask(ReadTap(tap, 1 << 20, 0), TapRead)
    after = world.ask(ReadTap(tap, 1 << 20, again.number), TapRead)

    assert again == lost
    assert [decode(frame).body for _, _, frame in again.envelopes + after.envelopes] == [(5,), (6,)]


def test_who_was_stopped_is_told_how_many_it_missed_and_sees_what_comes_from_then_on(world: World) -> None:
    tap = world.ask(OpenTap(to=(BOOK,)), TapOpened).tap
    world.tell(Note(1))
    world.system.advance(LEASE_S + 1)
    for number in range(2, 8):
        world.tell(Note(number))
    world.system.advance(COUNTED_S - 2)

    back = world.ask(ReadTap(tap, 1 << 20, 0), TapRead)
    world.tell(Note(8))
    after = world.ask(ReadTap(tap, 1 << 20, back.number), TapRead)

    assert [(size, frame) for _, size, frame in back.envelopes] == [(7, b"")]
    assert [decode(frame).body for _, _, frame in after.envelopes] == [(8,)]


def test_a_tap_that_nobody_reads_for_long_ends(world: World) -> None:
    tap = world.ask(OpenTap(), TapOpened).tap
    world.system.advance(LEASE_S - 1)
    world.ask(ReadTap(tap, 0, 0), TapRead)
    world.system.advance(LEASE_S - 1)
    world.ask(ReadTap(tap, 0, 0), TapRead)

    world.system.advance(LEASE_S + COUNTED_S + LINGER_S + 3)

    assert world.bus.observer is None
    assert world.refusal(ReadTap(tap, 1, 0)) == "there is no such tap: it was not read for 300 s"


def test_a_tap_of_another_incarnation_is_never_taken_for_ones_own(world: World) -> None:
    first, second = (world.ask(OpenTap(), TapOpened).tap for _ in range(2))
    world.system.start("test/other", lambda: InspectorActor(world.observe, world.look, world.bus.dead_letters,
                                                           allows_faults=False))  # fmt: skip
    third = world.ask(OpenTap(), TapOpened, "test/other").tap

    assert len({first, second, third}) == 3


def test_more_taps_than_the_edge_can_hold_are_refused(world: World) -> None:
    for _ in range(MOST_TAPS):
        world.ask(OpenTap(), TapOpened)

    assert world.refusal(OpenTap()) == "8 inspectors tap already; end one of them"


def test_one_that_is_not_read_makes_room_for_another(world: World) -> None:
    asleep = world.ask(OpenTap(), TapOpened).tap
    awake = [world.ask(OpenTap(), TapOpened).tap for _ in range(MOST_TAPS - 1)]
    for _ in range(2):
        world.system.advance(LEASE_S - 1)
        for tap in awake:
            world.ask(ReadTap(tap, 0, 0), TapRead)

    world.ask(OpenTap(), TapOpened)

    assert world.refusal(ReadTap(asleep, 0, 0))
    assert world.refusal(OpenTap()) == "8 inspectors tap already; end one of them"


def test_the_flow_is_counted_while_somebody_reads_it(world: World) -> None:
    assert world.ask(ReadFlow(), FlowRead).links == ()
    world.tell(Note(1))
    world.tell(Note(2))

    links = world.ask(ReadFlow(), FlowRead).links
    world.system.advance(LEASE_S + LINGER_S + 3)

    assert [link[:6] for link in links] == [("test/asker", BOOK, "Note", 2, 0, links[0][5])]
    assert world.bus.observer is None
    assert world.ask(ReadFlow(), FlowRead).links == ()


def test_the_way_of_a_request_and_its_failure_is_found_by_its_correlation_and_forgotten_later(
    world: World,
) -> None:
    tap = world.ask(OpenTap(), TapOpened).tap
    world.bus.send(BOOK, Burst("boom"), sender="test/asker", correlation_id=77, deadline_s=1e9)
    world.system.run()

    found = world.ask(FindHops(77), HopsFound)
    world.ask(CloseTap(tap), TapClosed)
    world.system.advance(LINGER_S + HOPS_KEPT_S + 5)

    assert [(hop[2], hop[4], hop[8]) for hop in found.hops] == [("Burst", BOOK, True)]
    assert found.known >= 1
    assert world.ask(FindHops(77), HopsFound) == HopsFound((), 0)


def test_a_dead_letter_is_shown_in_full_and_sent_again(world: World) -> None:
    world.tell(Note(3), to="test/nobody")
    world.tell(Burst("boom"))

    nobody = world.ask(ShowLetter(1), LetterShown)
    failed = world.ask(ShowLetter(2), LetterShown)
    world.ask(ReplayLetter(2), MessageSent)

    assert nobody.reason == "no actor at 'test/nobody'"
    assert decode(nobody.frame).body == (3,)
    assert nobody.fields == ("number",)
    assert failed.reason == "ValueError: boom"
    assert "kernel_actors.py" in failed.traceback
    assert world.ask(ShowLetter(3), LetterShown).reason == "ValueError: boom"


def test_a_dead_letter_that_is_too_large_is_shown_without_its_message(world: World) -> None:
    world.tell(Burst("x" * LARGEST_BYTES))

    shown = world.ask(ShowLetter(1), LetterShown)

    assert decode(shown.frame).body == ()
    assert shown.size > LARGEST_BYTES > len(shown.frame)


def test_a_dead_letter_that_there_is_not_is_refused_with_those_that_there_are(world: World) -> None:
    assert world.refusal(ShowLetter(1)) == "there is no dead letter 1 of this process; there is none"

    world.tell(Note(3), to="test/nobody")

    assert world.refusal(ReplayLetter(4)) == "there is no dead letter 4 of this process; 1 to 1 are kept"


def test_a_message_is_sent_with_its_fields_by_name(world: World) -> None:
    sent = world.ask(SendMessage(BOOK, "Note", {"number": 9}), MessageSent)

    assert (sent.to, sent.kind) == (BOOK, "Note")
    assert world.numbers() == (9,)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            SendMessage("test/bok", "Note", {"number": 1}),
            "there is no actor 'test/bok'; did you mean 'test/book'?",
        ),
        (
            SendMessage(BOOK, "Nota", {"number": 1}),
            "there is no kind of message 'Nota'; did you mean 'Note'?",
        ),
        (SendMessage(BOOK, "Note", {"numbr": 1}), "Note has no field 'numbr'; did you mean 'number'?"),
        (SendMessage(BOOK, "Note", {}), "Note: Object missing required field `number`"),
        (SendMessage(BOOK, "Note", {"number": "1"}), "Note: Expected `int`, got `str` - at `$.number`"),
    ],
    ids=["actor", "kind", "field", "missing", "type"],
)
def test_a_message_that_makes_no_sense_is_refused_and_reaches_nobody(
    world: World, asked: SendMessage, reason: str
) -> None:
    assert world.refusal(asked) == reason
    assert world.numbers() == ()
    assert world.bus.dead_letters.count == 0


def test_without_the_permission_nothing_is_sent() -> None:
    world = World(allows_faults=False)
    world.tell(Note(3), to="test/nobody")

    assert world.refusal(SendMessage(BOOK, "Note", {"number": 9})) == NOT_ALLOWED
    assert world.refusal(ReplayLetter(1)) == NOT_ALLOWED
    assert world.numbers() == ()


def test_a_restart_of_the_inspector_leaves_no_observer_behind(world: World) -> None:
    world.ask(OpenTap(), TapOpened)

    def fail() -> Sequence[ActorSight]:
        raise RuntimeError("no sight")

    world.look = fail  # type: ignore[method-assign]
    world.tell(LookAtActors(), to=INSPECTOR)

    assert world.system.cells[INSPECTOR].restarts == 1
    assert world.bus.observer is None
    world.ask(OpenTap(), TapOpened)
    assert world.bus.observer is not None
