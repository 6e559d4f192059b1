"""Queues that no route leads to any more are given up and counted; all others are left alone."""

from __future__ import annotations

import pytest

from actors.store.cleanup import BUSY_SWEEP_S
from actors.store.messages import Delivered, KeepQueues
from actors.store.orphan_queues import SLICE_MESSAGES
from actors.store.stored import EndpointLedger
from messaging.upstream_queues import UPSTREAM, upstream_queue
from tests.actors.hub_world import to
from tests.actors.store.test_store import HEAD, IN, STORE, UP, StoreWorld

OTHER = "edge/other/in"


def ledger_of(world: StoreWorld, endpoint: str) -> EndpointLedger:
    return world.ledger(endpoint)


def removed(count: int, **others: int) -> EndpointLedger:
    return EndpointLedger(
        accepted=count + sum(others.values()), dropped=count, dropped_by_reason={"removed": count}, **others
    )


def keep(world: StoreWorld, *endpoints: str) -> None:
    world.turn(STORE, KeepQueues(endpoints), sender="hub/router")


def test_what_waits_without_a_route_is_dropped_as_removed_and_the_rest_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = StoreWorld()
    urgent = to(IN, priority=0)
    world.append(world.batch(b"1", b"2", matches=to(IN, OTHER)), world.batch(b"3", matches=urgent))

    keep(world, OTHER)
    world.system.advance(BUSY_SWEEP_S)

    assert ledger_of(world, IN) == removed(3)
    assert ledger_of(world, OTHER) == EndpointLedger(accepted=2, pending=2)
    assert f"3 messages for {IN} dropped: no route leads there any more" in caplog.text


def test_a_long_queue_is_given_up_in_slices() -> None:
    world = StoreWorld()
    world.append(world.batch(*[b"x"] * (2 * SLICE_MESSAGES + 1)))

    keep(world)
    world.system.advance(0.0)
    after_one = world.waiting()
    world.system.advance(3 * BUSY_SWEEP_S)

    assert len(after_one) == SLICE_MESSAGES + 1
    assert ledger_of(world, IN) == removed(2 * SLICE_MESSAGES + 1)


def test_the_queues_of_all_senders_to_the_cloud_go_with_its_last_route_and_the_log_has_one_sum(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = StoreWorld()  # a slice goes through 100 queues
    senders = [upstream_queue(f"leaf{number}") for number in range(300)]
    world.append(*(world.batch(b"1", b"2", who=name, matches=to(name)) for name in senders))
    world.append(world.batch(b"stays"))

    keep(world, UPSTREAM, IN)
    world.system.advance(1.0)
    kept = ledger_of(world, UPSTREAM)
    keep(world, IN)
    world.system.advance(1.0)

    assert kept == EndpointLedger(accepted=600, pending=600)
    assert ledger_of(world, UPSTREAM) == removed(600)
    assert ledger_of(world, IN) == EndpointLedger(accepted=1, pending=1)
    assert [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()] == [
        "600 messages for iothub dropped: no route leads there any more"
    ]


def test_a_route_that_comes_back_in_time_saves_what_is_left() -> None:
    world = StoreWorld()
    world.attach(window=1)
    world.append(world.batch(*[b"%d" % n for n in range(SLICE_MESSAGES + 5)]))
    keep(world)
    world.system.advance(0.0)
    left = world.waiting()

    keep(world, IN)
    world.system.advance(1.0)
    [(first, _)] = world.ready()
    for position in range(first, first + SLICE_MESSAGES + 5):
        world.deliver((position, position))

    assert len(left) == 5
    assert world.bodies() == left
    world.system.advance(1.0)
    assert ledger_of(world, IN) == removed(SLICE_MESSAGES, delivered=5)


def test_what_arrived_before_the_change_counts_as_delivered() -> None:
    world = StoreWorld()
    world.attach()
    world.append(world.batch(b"1", b"2", b"3"))
    [(first, _), *_] = world.ready()

    world.turn(STORE, Delivered(IN, 1, ((first, first + 1),)), KeepQueues(()), sender=HEAD)
    world.system.advance(1.0)

    assert ledger_of(world, IN) == removed(1, delivered=2)


def test_a_consumer_gets_nothing_of_what_is_given_up_and_all_that_comes_later() -> None:
    world = StoreWorld()
    world.attach(endpoint=UP, window=2, who=UP)
    world.append(world.batch(*[b"%d" % n for n in range(10)], matches=to(UP)))
    sent = world.ready(who=UP)

    keep(world)
    world.turn(STORE, Delivered(UP, 1, ((sent[0][0], sent[1][0]),)), sender=UP)
    world.system.advance(1.0)
    keep(world, UP)
    world.append(world.batch(b"new", matches=to(UP)))

    assert [body for _, body in sent] == [b"0", b"1"]
    assert [body for _, body in world.ready(who=UP)] == [b"new"]


def test_a_database_that_cannot_give_up_a_queue_is_asked_again() -> None:
    world = StoreWorld()
    world.append(world.batch(b"1"))
    world.disk.failing = True

    keep(world)
    world.system.advance(1.0)
    world.disk.failing = False
    world.system.advance(10.0)

    assert ledger_of(world, IN) == removed(1)
