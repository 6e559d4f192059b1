"""The store actor on a store in memory: what is answered is on disk, and every consumer gets its messages."""

from __future__ import annotations

import pytest

from actors.hub.trail import StorageTrail
from actors.store.append_guard import AppendGuard
from actors.store.cleanup import BUSY_SWEEP_S, SWEEP_S
from actors.store.messages import (
    Append,
    Attach,
    DeleteSession,
    Delivered,
    Detach,
    LoadSessions,
    Ready,
    SaveSession,
    Sessions,
    SessionSaved,
    Stored,
    Undeliverable,
)
from actors.store.store import FORGET_MESSAGES, FORGET_S, SHARED_MESSAGES, SHARED_S, StoreActor
from actors.store.stored import EndpointLedger, Match, Totals
from messaging.errors import StoreError
from messaging.lifecycle import ActorRestarted, RequestFailed, Stop, Watch
from tests.actors.hub_world import World, to
from tests.fakes.message_db import MemoryDisk, MemoryMessageDb

STORE = "hub/store"
HEAD = "hub/mqtt"
UP = "hub/upstream"
IN = "edge/filter/in"


class StoreWorld(World):
    def __init__(self, *, drops_oldest: bool = False, cleanup_s: float = SWEEP_S) -> None:
        super().__init__(HEAD, UP, "test")
        self.disk = MemoryDisk()
        self.guard, self.trail = AppendGuard(), StorageTrail()
        self.commits = self.tidied = self.to_tidy_bytes = 0
        self.next_index: dict[tuple[str, int], int] = {}
        self.start(
            STORE,
            lambda: StoreActor(
                lambda: CountingDb(self),
                self.guard,
                self.trail,
                drops_oldest=drops_oldest,
                cleanup_s=cleanup_s,
            ),
        )

    def batch(
        self, *bodies: bytes, who: str = "edge/sensor", epoch: int = 1, matches: tuple[Match, ...] = to(IN)
    ) -> Append:
        index = self.next_index.get((who, epoch), 0)
        self.next_index[who, epoch] = index + 1
        return Append(who, epoch, index, ((b"h", matches),), tuple((0, body) for body in bodies))

    def append(self, *batches: Append, sender: str = HEAD) -> list[int]:
        return self.turn(STORE, *batches, sender=sender)

    def attach(self, attachment: int = 1, window: int = 100, endpoint: str = IN, who: str = HEAD) -> None:
        self.turn(STORE, Attach(endpoint, attachment, window, 1 << 20), sender=who)

    def deliver(self, *ranges: tuple[int, int], attachment: int = 1, endpoint: str = IN) -> None:
        self.turn(STORE, Delivered(endpoint, attachment, ranges), sender=HEAD)

    def stored(self, who: str = HEAD) -> list[int]:
        return [batch for message in self.told(who, Stored) for batch in message.batches]

    def ready(self, attachment: int = 1, who: str = HEAD) -> list[tuple[int, bytes]]:
        return [
            (first + at, body)
            for message in self.told(who, Ready)
            if message.attachment == attachment
            for first, _, entries in message.runs
            for at, (_, body) in enumerate(entries)
        ]

    def bodies(self, attachment: int = 1) -> list[bytes]:
        return [body for _, body in self.ready(attachment)]

    def waiting(self, endpoint: str = IN) -> list[bytes]:
        runs = MemoryMessageDb(self.disk).read(endpoint, -1, 10_000, 1 << 40, self.clock.now_s())
        return [body for run in runs for _, body in run.entries]

    def ledger(self, endpoint: str = IN) -> EndpointLedger:
        return MemoryMessageDb(self.disk).ledger().endpoints[endpoint]


class CountingDb(MemoryMessageDb):
    def __init__(self, world: StoreWorld) -> None:
        super().__init__(world.disk)
        self._world = world

    def append(self, segments, now_s):  # type: ignore[no-untyped-def]
        self._world.commits += 1
        return super().append(segments, now_s)

    def tidy(self) -> int:
        self._world.tidied += 1
        return self._world.to_tidy_bytes


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld()


def test_a_batch_is_answered_when_it_is_on_disk(world: StoreWorld) -> None:
    [sent] = world.append(world.batch(b"a", b"b"))

    assert world.stored() == [sent]
    assert world.waiting() == [b"a", b"b"]


def test_nothing_is_answered_before_the_turn_is_committed(world: StoreWorld) -> None:
    cell = world.system.cells[STORE]
    cell.deliver(world.envelope(STORE, world.batch(b"a"), HEAD, 77))
    world.system.run()
    before = world.stored()

    cell.turn_ended()
    cell.turn_over()
    world.system.run()

    assert (before, world.stored()) == ([], [77])


def test_all_batches_of_a_turn_are_one_commit_and_one_answer_for_each_head(world: StoreWorld) -> None:
    batches = [world.batch(b"%d" % n, who=f"edge/m{n % 3}") for n in range(9)]

    sent = world.append(*batches)

    assert world.commits == 1
    [answer] = world.told(HEAD, Stored)
    assert list(answer.batches) == sent
    assert sorted(world.waiting()) == [b"%d" % n for n in range(9)]


def test_a_batch_that_cannot_be_stored_is_poison_and_only_it(world: StoreWorld) -> None:
    good = world.batch(b"good", who="edge/a")
    wrong = world.batch(b"bad", who="edge/b", matches=to(IN, priority=10))
    also_good = world.batch(b"too", who="edge/c")

    sent = world.append(good, wrong, also_good)

    assert world.stored() == [sent[0], sent[2]]
    assert sorted(world.waiting()) == [b"good", b"too"]
    [failed] = world.told(HEAD, RequestFailed)
    assert "priority 10" in failed.reason
    [letter] = world.dead_letters.recent()
    assert letter.envelope is not None
    assert letter.envelope.correlation_id == sent[1]
    assert "ValueError" in letter.traceback
    assert world.told("test", ActorRestarted) == []


def test_after_a_poison_batch_its_connection_is_refused_until_it_is_a_new_one(world: StoreWorld) -> None:
    world.append(world.batch(b"bad", matches=to(IN, priority=10)))

    world.append(world.batch(b"later"))
    [sent] = world.append(world.batch(b"new connection", epoch=2))

    assert world.stored() == [sent]
    assert world.waiting() == [b"new connection"]


@pytest.mark.parametrize("trouble", ["full", "failing"])
def test_while_the_disk_refuses_publishers_hear_it_and_later_batches_do_not_overtake(
    world: StoreWorld, trouble: str
) -> None:
    setattr(world.disk, trouble, True)
    world.append(world.batch(b"1"), world.batch(b"1", who="edge/other"))
    refused = world.told(HEAD, RequestFailed)
    setattr(world.disk, trouble, False)

    world.append(world.batch(b"2"))
    too_late = world.told(HEAD, RequestFailed)
    sent = world.append(*(world.batch(body, epoch=2) for body in (b"1", b"2")))

    assert len(refused) == 2
    assert "memory store" in refused[0].reason
    assert len(too_late) == 1
    assert world.stored() == sent
    assert world.waiting() == [b"1", b"2"]
    assert world.told("test", ActorRestarted) == []


def test_what_was_delivered_while_the_disk_failed_is_forgotten_later(world: StoreWorld) -> None:
    world.append(world.batch(b"1", b"2"))
    world.attach()
    [(first, _), (last, _)] = world.ready()
    world.disk.failing = True

    world.deliver((first, last))
    world.system.advance(FORGET_S * 3)
    kept = world.waiting()
    world.disk.failing = False
    world.system.advance(SWEEP_S * 2)

    assert kept == [b"1", b"2"]
    assert world.ledger() == EndpointLedger(accepted=2, delivered=2)


def test_a_failing_disk_is_told_to_the_log_once_and_its_sweep_is_no_failure_of_the_actor(
    world: StoreWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.append(world.batch(b"1"))
    world.attach()
    [(first, _)] = world.ready()
    world.disk.failing = True
    world.deliver((first, first))

    world.system.advance(SWEEP_S * 8)

    assert [r.levelname for r in caplog.records if r.name == "actors.store.store"] == ["ERROR"]
    assert world.told("test", ActorRestarted) == []


def test_a_consumer_gets_first_what_waited_and_then_what_is_new(world: StoreWorld) -> None:
    world.append(world.batch(b"old"))
    world.attach()
    world.append(world.batch(b"new"))

    assert world.bodies() == [b"old", b"new"]


def test_the_window_holds_back_and_deliveries_open_it(world: StoreWorld) -> None:
    world.attach(window=2)
    world.append(world.batch(*(b"%d" % n for n in range(5))))

    first = world.ready()
    world.deliver((first[0][0], first[0][0]))
    second = world.ready()
    world.deliver((first[1][0], second[0][0]))

    assert [body for _, body in first] == [b"0", b"1"]
    assert [body for _, body in second] == [b"2"]
    assert world.bodies() == [b"3", b"4"]


def test_what_the_window_has_room_for_again_leaves_before_the_next_commit(world: StoreWorld) -> None:
    world.attach(window=1)
    world.append(world.batch(b"1", b"2"))
    [(first, _)] = world.ready()

    world.turn(STORE, Delivered(IN, 1, ((first, first),)), world.batch(b"3"), sender=HEAD)

    assert [letter.kind for letter in world.letters(HEAD)] == [
        Stored.__name__,
        Ready.__name__,
        Stored.__name__,
    ]


def test_what_was_not_delivered_is_sent_again_after_detach_and_attach(world: StoreWorld) -> None:
    world.attach()
    world.append(world.batch(b"1", b"2", b"3"))
    [(first, _), *_] = world.ready()

    world.turn(STORE, Delivered(IN, 1, ((first, first),)), Detach(IN), sender=HEAD)
    world.append(world.batch(b"4"))
    nobody = world.told(HEAD, Ready)
    world.attach(attachment=2)

    assert nobody == []
    assert world.bodies(2) == [b"2", b"3", b"4"]


def test_what_was_delivered_just_before_an_attach_is_not_sent_again(world: StoreWorld) -> None:
    """Attach must not overtake Delivered: both travel in the same lane."""
    world.attach()
    world.append(world.batch(b"1", b"2"))
    [(first, _), (last, _)] = world.ready()

    send = world.system.bus.send
    send(STORE, Delivered(IN, 1, ((first, last),)), sender=HEAD)
    send(STORE, Detach(IN), sender=HEAD)
    send(STORE, Attach(IN, 2, 100, 1 << 20), sender=HEAD)
    world.system.run()

    assert world.bodies(2) == []


def test_a_delivery_for_an_earlier_attachment_is_forgotten_on_disk_but_makes_no_room(
    world: StoreWorld,
) -> None:
    world.append(world.batch(b"1", b"2", b"3"))
    world.attach(window=1)
    [(first, _)] = world.ready()
    world.attach(attachment=2, window=1)
    again = world.bodies(2)

    world.deliver((first, first), attachment=1)
    stays = world.bodies(2)
    world.deliver((first, first), attachment=2)
    world.system.advance(FORGET_S)

    assert (again, stays, world.bodies(2)) == ([b"1"], [], [b"2"])
    assert world.ledger().delivered == 1


def test_deliveries_are_forgotten_after_a_moment_though_nothing_new_comes(world: StoreWorld) -> None:
    world.attach()
    world.append(world.batch(b"1"))
    [(first, _)] = world.ready()

    world.deliver((first, first))
    before = world.waiting()
    world.system.advance(FORGET_S)

    assert (before, world.waiting()) == ([b"1"], [])


def test_many_deliveries_are_forgotten_at_once(world: StoreWorld) -> None:
    world.attach(window=FORGET_MESSAGES)
    world.append(world.batch(*[b"x"] * FORGET_MESSAGES))
    positions = [position for position, _ in world.ready()]

    world.deliver((positions[0], positions[-1]))

    assert world.waiting() == []


def test_what_no_consumer_can_take_is_dropped_as_poison_and_makes_room(world: StoreWorld) -> None:
    world.attach(window=1)
    world.append(world.batch(b"1", b"2"))
    [(first, _)] = world.ready()

    world.turn(STORE, Undeliverable(IN, 1, ((first, first),)), sender=HEAD)
    world.system.advance(FORGET_S)

    assert world.bodies() == [b"2"]
    assert world.ledger() == EndpointLedger(accepted=2, dropped=1, dropped_by_reason={"poison": 1}, pending=1)


def test_each_endpoint_has_a_consumer_of_its_own(world: StoreWorld) -> None:
    world.attach()
    world.attach(endpoint="iothub", who=UP)

    world.append(world.batch(b"both", matches=to(IN, "iothub")), world.batch(b"up", matches=to("iothub")))

    assert world.bodies() == [b"both"]
    assert [body for _, body in world.ready(who=UP)] == [b"both", b"up"]


def test_messages_without_a_route_are_answered_and_counted(world: StoreWorld) -> None:
    sent = world.append(world.batch(b"nobody", matches=()))

    assert world.stored() == sent
    assert MemoryMessageDb(world.disk).ledger().total == Totals(received=1, unrouted=1)


def test_expired_messages_go_with_the_sweep_slice_by_slice(world: StoreWorld) -> None:
    world.append(world.batch(*[b"x"] * 2500, matches=to(IN, ttl_s=1.0)), world.batch(b"stays"))

    world.system.advance(SWEEP_S)
    assert world.ledger() == EndpointLedger(accepted=2501, expired=1000, pending=1501)
    world.system.advance(3 * BUSY_SWEEP_S)

    assert world.ledger() == EndpointLedger(accepted=2501, expired=2500, pending=1)


def test_a_session_is_answered_when_it_is_on_disk(world: StoreWorld) -> None:
    cell = world.system.cells[STORE]
    cell.deliver(world.envelope(STORE, SaveSession("edge/a", (("a/#", 1), ("b", 0))), HEAD, 5))
    world.system.run()
    before = world.told(HEAD, SessionSaved)
    cell.turn_ended()
    cell.turn_over()
    world.system.run()

    world.turn(STORE, SaveSession("edge/b", ()), DeleteSession("edge/c"), sender=HEAD)
    world.turn(STORE, DeleteSession("edge/b"), sender=HEAD)
    world.turn(STORE, LoadSessions(), sender=HEAD)

    assert before == []
    assert [saved.identity for saved in world.told(HEAD, SessionSaved)] == [
        *("edge/a", "edge/b", "edge/c", "edge/b")
    ]
    assert world.told(HEAD, Sessions) == [Sessions({"edge/a": (("a/#", 1), ("b", 0))})]


def test_a_session_that_cannot_be_stored_is_refused(world: StoreWorld) -> None:
    world.disk.failing = True

    world.turn(STORE, SaveSession("edge/a", ()), sender=HEAD)

    [failed] = world.told(HEAD, RequestFailed)
    assert failed.kind == "SaveSession"


def test_a_fault_in_a_handler_restarts_the_store_and_loses_nothing_of_its_turn(world: StoreWorld) -> None:
    world.turn(STORE, Watch(), sender=HEAD)
    world.attach()
    first, last = world.batch(b"before"), world.batch(b"after")
    broken = Append("edge/broken", "no number", 0, (), ())  # type: ignore[arg-type]

    sent = world.append(first, broken, last)

    assert world.stored() == [sent[0], sent[2]]
    assert world.waiting() == [b"before", b"after"]
    [restarted] = world.told(HEAD, ActorRestarted)
    assert restarted.address == STORE
    [failed] = world.told(HEAD, RequestFailed)
    assert "TypeError" in failed.reason
    world.attach(attachment=2)
    assert world.bodies(2) == [b"before", b"after"]


def test_the_order_of_a_connection_holds_over_a_restart(world: StoreWorld) -> None:
    """The batch that was lost leaves a gap, and what comes behind it must not be stored."""
    world.append(world.batch(b"1"))
    world.batch(b"2, lost on its way")

    world.append(Append("edge/broken", None, 0, (), ()))  # type: ignore[arg-type]
    world.append(world.batch(b"3"))

    assert world.waiting() == [b"1"]
    assert len(world.told("test", ActorRestarted)) == 1


def test_a_broken_delivery_is_a_dead_letter_and_the_batches_beside_it_are_stored(world: StoreWorld) -> None:
    broken = Delivered(IN, 1, ((1,),))  # type: ignore[arg-type]

    sent = world.append(world.batch(b"1"), broken, world.batch(b"2"))  # type: ignore[arg-type]

    assert world.stored() == [sent[0], sent[2]]
    [letter] = world.dead_letters.recent()
    assert letter.envelope is not None
    assert letter.envelope.kind == "Delivered"


def test_at_the_end_what_waits_is_committed_and_the_database_closed(world: StoreWorld) -> None:
    world.attach()
    world.append(world.batch(b"1"))
    [(first, _)] = world.ready()
    world.deliver((first, first))

    world.tell(STORE, Stop(), sender="test")

    assert STORE not in world.system.cells
    assert world.ledger() == EndpointLedger(accepted=1, delivered=1)


def test_thousand_small_messages_with_large_properties_fit_into_envelopes(world: StoreWorld) -> None:
    """Their headers weigh 60 times what a window of bytes allows for bodies."""
    world.attach(window=1000)
    for number in range(100):
        header = b"%05d" % number * 12_000
        index = world.next_index["edge/sensor", 1] = number
        world.append(Append("edge/sensor", 1, index, ((header, to(IN)),), tuple([(0, b"x")] * 10)))

    got = 0
    while runs := world.ready():
        got += len(runs)
        world.deliver(*((position, position) for position, _ in runs))

    assert got == 1000
    assert world.told("test", ActorRestarted) == []


def test_a_store_that_cannot_be_opened_says_why() -> None:
    world = World("test")

    def cannot_open() -> MemoryMessageDb:
        raise StoreError("message database hub.db: damaged")

    world.start(STORE, lambda: StoreActor(cannot_open, AppendGuard(), StorageTrail()))

    assert STORE not in world.system.cells
    assert "hub.db: damaged" in world.dead_letters.recent()[0].reason


@pytest.mark.parametrize("jump_s", [86400.0, -86400.0], ids=["ahead", "back"])
def test_a_clock_that_is_set_changes_no_time_to_live(world: StoreWorld, jump_s: float) -> None:
    world.append(world.batch(b"x", matches=to(IN, ttl_s=3600.0)))

    world.clock.set(world.clock.now_s() + jump_s)
    world.system.advance(3600.0 - SWEEP_S)
    kept = world.ledger()
    world.system.advance(2 * SWEEP_S)

    assert kept == EndpointLedger(accepted=1, pending=1)
    assert world.ledger() == EndpointLedger(accepted=1, expired=1)


def test_expired_messages_go_from_the_disk_as_often_as_is_set_and_are_not_sent_before() -> None:
    world = StoreWorld(cleanup_s=30)
    world.system.advance(SWEEP_S)  # the first look, which finds nothing
    world.append(world.batch(b"x", matches=to(IN, ttl_s=1.0)))

    world.system.advance(25)
    world.attach()
    assert world.ready() == []
    assert world.ledger() == EndpointLedger(accepted=1, pending=1)
    world.system.advance(5)

    assert world.ledger() == EndpointLedger(accepted=1, expired=1)


def test_a_commit_that_brings_something_new_forgets_what_was_delivered_only_now_and_then(
    world: StoreWorld,
) -> None:
    world.attach()
    world.append(world.batch(b"1"))
    [(first, _)] = world.ready()
    world.deliver((first, first))

    world.append(world.batch(b"2"))
    soon = world.waiting()
    world.system.advance(SHARED_S * 1.1)
    world.append(world.batch(b"3"))

    assert (soon, world.waiting()) == ([b"1", b"2"], [b"2", b"3"])


def test_a_commit_that_brings_something_new_forgets_what_was_delivered_when_that_is_much(
    world: StoreWorld,
) -> None:
    world.attach(window=SHARED_MESSAGES)
    world.append(world.batch(*[b"x"] * SHARED_MESSAGES))
    positions = [position for position, _ in world.ready()]
    world.deliver((positions[0], positions[-1]))
    before = len(world.waiting())

    world.append(world.batch(b"y"))

    assert (before, world.waiting()) == (SHARED_MESSAGES, [b"y"])
