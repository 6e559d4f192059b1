"""The store without space, and with a damaged file: what is refused, what goes, what goes on."""

from __future__ import annotations

import pytest

from actors.store.cleanup import BUSY_SWEEP_S, SWEEP_ROWS, SWEEP_S
from actors.store.messages import Attach, Ready, SaveSession, SessionSaved
from actors.store.store import FORGET_S
from actors.store.stored import EndpointLedger
from messaging.lifecycle import ActorStopped, RequestFailed
from tests.actors.hub_world import to
from tests.actors.store.test_store import HEAD, IN, STORE, UP, StoreWorld


def test_without_space_new_messages_are_refused_and_delivering_goes_on_to_disk() -> None:
    world = StoreWorld()
    world.disk.most_messages = 4
    world.append(world.batch(b"1", b"2", b"3", b"4"))
    world.attach(window=2)
    [(first, _), (second, _)] = world.ready()

    world.deliver((first, first))  # forgotten with the next commit, which the batch below takes with it
    [refused] = world.append(world.batch(b"5", b"6", who="edge/other"))

    assert [letter.correlation_id for letter in world.letters(HEAD) if letter.kind == "RequestFailed"] == [
        refused
    ]
    assert world.ledger() == EndpointLedger(accepted=4, delivered=1, pending=3)
    [stored] = world.append(world.batch(b"7", who="edge/third"))
    assert stored in world.stored()
    assert world.waiting() == [b"2", b"3", b"4", b"7"]
    assert second == first + 1


def test_of_several_batches_those_that_fit_are_stored_without_space_for_all() -> None:
    world = StoreWorld()
    world.disk.most_messages = 3

    sent = world.append(
        world.batch(b"1", who="edge/a"),
        world.batch(b"2", b"3", b"4", who="edge/b"),
        world.batch(b"5", who="edge/c"),
    )

    assert world.stored() == [sent[0], sent[2]]
    assert world.waiting() == [b"1", b"5"]
    assert len(world.told(HEAD, RequestFailed)) == 1


def test_a_session_is_saved_beside_a_batch_that_has_no_space() -> None:
    world = StoreWorld()
    world.disk.most_messages = 0

    world.turn(STORE, world.batch(b"1"), SaveSession("edge/a", (("t", 1),)), sender=HEAD)

    assert len(world.told(HEAD, SessionSaved)) == 1
    assert len(world.told(HEAD, RequestFailed)) == 1


def test_the_oldest_of_the_lowest_priority_make_way_when_that_is_the_policy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = StoreWorld(drops_oldest=True)
    world.disk.most_messages = SWEEP_ROWS + 5
    world.append(world.batch(b"urgent", matches=to(IN, priority=0)))
    world.append(world.batch(*[b"%d" % n for n in range(SWEEP_ROWS + 4)], matches=to(IN, UP, priority=5)))

    [stored] = world.append(world.batch(b"new", matches=to(IN, priority=3)))

    assert stored in world.stored()
    last_four = [b"%d" % n for n in range(SWEEP_ROWS, SWEEP_ROWS + 4)]
    assert world.waiting() == [b"urgent", b"new", *last_four]
    assert world.waiting(UP) == last_four
    assert world.ledger(UP) == EndpointLedger(
        accepted=SWEEP_ROWS + 4, dropped=SWEEP_ROWS, dropped_by_reason={"limit": SWEEP_ROWS}, pending=4
    )
    assert f"{SWEEP_ROWS} messages for {UP} dropped: no space" in caplog.text


def test_what_made_way_is_not_sent_from_memory() -> None:
    world = StoreWorld(drops_oldest=True)
    world.disk.most_messages = 3
    world.attach(window=1)
    world.append(world.batch(b"1"), world.batch(b"2"), world.batch(b"3"))

    world.append(world.batch(b"4"))
    first = world.ready()
    world.deliver((first[0][0], first[0][0]))

    assert [body for _, body in first + world.ready()] == [b"1", b"4"]


def test_a_batch_larger_than_all_the_space_is_refused_under_either_policy() -> None:
    world = StoreWorld(drops_oldest=True)
    world.disk.most_messages = 3

    world.append(world.batch(*[b"x"] * 4))

    assert world.stored() == []
    assert len(world.told(HEAD, RequestFailed)) == 1


def test_what_expired_is_not_sent_from_memory() -> None:
    world = StoreWorld()
    world.attach(window=1)
    world.append(world.batch(b"1", b"2", matches=to(IN, ttl_s=SWEEP_S / 2)), world.batch(b"3"))
    [(first, _)] = world.ready()

    world.system.advance(SWEEP_S + BUSY_SWEEP_S)
    world.deliver((first, first))
    world.system.advance(FORGET_S)

    assert world.bodies() == [b"3"]


def test_what_expires_at_once_is_counted_and_never_sent() -> None:
    world = StoreWorld()
    world.attach()

    world.append(world.batch(b"1", matches=to(IN, ttl_s=0.0)))
    world.system.advance(SWEEP_S)

    assert world.bodies() == []
    assert world.ledger() == EndpointLedger(accepted=1, expired=1)


@pytest.mark.parametrize("traffic", [False, True])
def test_space_is_given_back_slice_after_slice_in_quiet_moments_and_now_and_then_in_others(
    traffic: bool,
) -> None:
    world = StoreWorld()
    world.to_tidy_bytes = 1

    for _ in range(200):  # 10 s
        if traffic:
            world.append(world.batch(b"x"))
        world.system.advance(0.05)

    assert (world.tidied <= 4) if traffic else (world.tidied > 100)


def test_a_priority_above_goes_first_and_one_below_is_not_forgotten() -> None:
    world = StoreWorld()
    world.attach(window=2)
    world.append(world.batch(b"a", b"b", b"c", matches=to(IN, priority=7)))
    world.append(world.batch(b"A", b"B", matches=to(IN, priority=1)))

    sent = world.ready()
    for _ in range(4):
        world.deliver(*[(position, position) for position, _ in sent[-2:]])
        sent += world.ready()

    assert [body for _, body in sent[:5]] == [b"a", b"b", b"A", b"B", b"c"]


@pytest.mark.parametrize("when", ["serving", "storing", "forgetting", "expiring"])
def test_a_damaged_database_ends_the_actor_so_that_the_next_start_can_salvage_it(when: str) -> None:
    world = StoreWorld()
    world.append(world.batch(b"1", matches=to(IN, UP, ttl_s=1.0)))
    world.attach(endpoint=UP)
    [(position, _)] = world.ready()
    world.disk.damaged = True

    if when == "serving":
        world.turn(STORE, *(Attach(name, 1, 10, 1 << 20) for name in (IN, UP)), sender=HEAD)
    elif when == "storing":
        world.append(world.batch(b"2"), world.batch(b"3", who="edge/b"))
    elif when == "forgetting":
        world.deliver((position, position), endpoint=UP)
    world.system.advance(SWEEP_S)

    [stopped] = world.told("test", ActorStopped)
    assert "damaged" in stopped.reason
    assert world.told(HEAD, Ready) == []
    assert len(world.told(HEAD, RequestFailed)) == (2 if when == "storing" else 0)
