"""Whoever watches queues hears of each in which messages wait for nobody, once until somebody is attached."""

from __future__ import annotations

import pytest

from actors.store.cleanup import BUSY_SWEEP_S, SWEEP_S
from actors.store.messages import (
    Append,
    CountQueues,
    Delivered,
    Detach,
    KeepQueues,
    QueueCounts,
    QueuesWaiting,
    WatchQueues,
)
from messaging.lifecycle import ActorRestarted
from messaging.upstream_queues import UPSTREAM, UPSTREAM_QUEUES, upstream_queue
from tests.actors.hub_world import to
from tests.actors.store.test_store import HEAD, IN, STORE, UP, StoreWorld

A, B = upstream_queue("edge/a"), upstream_queue("leaf")


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld()


def watch(world: StoreWorld) -> None:
    world.turn(STORE, WatchQueues(UPSTREAM_QUEUES), sender=UP)


def waiting(world: StoreWorld) -> list[tuple[str, ...]]:
    return [message.endpoint_ids for message in world.told(UP, QueuesWaiting)]


def send(world: StoreWorld, queue: str, *bodies: bytes, ttl_s: float | None = None) -> None:
    world.append(world.batch(*bodies, who=queue, matches=to(queue, ttl_s=ttl_s)))


def attach(world: StoreWorld, queue: str, attachment: int = 1) -> None:
    world.attach(attachment, endpoint=queue, who=UP)


def test_the_answer_names_the_queues_in_which_something_waits(world: StoreWorld) -> None:
    send(world, A, b"1")
    send(world, IN, b"another")
    send(world, B, b"2")

    watch(world)

    assert waiting(world) == [(A, B)]


def test_how_many_messages_wait_is_told_for_each_queue_that_has_any(world: StoreWorld) -> None:
    send(world, A, b"1", b"2")
    send(world, B, b"3")
    send(world, IN, b"another")
    attach(world, B)
    [(position, _)] = world.ready(who=UP)
    world.turn(STORE, Delivered(B, 1, ((position, position),)), sender=UP)
    world.system.advance(1.0)

    world.turn(STORE, CountQueues(UPSTREAM_QUEUES), sender=UP)

    assert world.told(UP, QueueCounts) == [QueueCounts(((A, 2),))]


def test_there_is_an_answer_when_nothing_waits(world: StoreWorld) -> None:
    watch(world)

    assert waiting(world) == [()]


def test_a_queue_is_told_once_when_its_first_message_is_on_disk(world: StoreWorld) -> None:
    watch(world)
    waiting(world)

    world.append(*(world.batch(b"x", who=queue, matches=to(queue)) for queue in (A, B, A, B)))
    send(world, A, b"later")
    send(world, IN, b"another")

    assert waiting(world) == [(A, B)]


def test_a_queue_with_a_consumer_is_not_told(world: StoreWorld) -> None:
    watch(world)
    waiting(world)
    attach(world, A)

    send(world, A, b"1")

    assert waiting(world) == []
    assert [body for _, body in world.ready(who=UP)] == [b"1"]


def test_a_consumer_that_leaves_an_empty_queue_hears_of_its_next_message(world: StoreWorld) -> None:
    watch(world)
    attach(world, A)
    send(world, A, b"1")
    [(position, _)] = world.ready(who=UP)
    waiting(world)

    world.turn(STORE, Delivered(A, 1, ((position, position),)), Detach(A), sender=UP)
    world.system.advance(SWEEP_S)
    left = waiting(world)
    send(world, A, b"2")

    assert left == []
    assert waiting(world) == [(A,)]


def test_a_consumer_that_leaves_messages_behind_hears_of_them(world: StoreWorld) -> None:
    watch(world)
    attach(world, A)
    send(world, A, b"1", b"2")
    [(position, _), _] = world.ready(who=UP)
    waiting(world)

    world.turn(STORE, Delivered(A, 1, ((position, position),)), Detach(A), sender=UP)
    world.system.advance(SWEEP_S)

    assert waiting(world) == [(A,)]


def test_who_asks_again_is_attached_to_nothing_and_hears_of_everything(world: StoreWorld) -> None:
    watch(world)
    attach(world, A)
    send(world, A, b"1")
    send(world, B, b"2")
    waiting(world)

    watch(world)
    send(world, A, b"3")

    assert waiting(world) == [(A, B)]
    attach(world, A, attachment=2)
    assert [body for _, body in world.ready(2, who=UP)] == [b"1", b"3"]


def test_what_has_arrived_does_not_wait_for_who_asks_in_the_same_turn(world: StoreWorld) -> None:
    watch(world)
    attach(world, A)
    send(world, A, b"1")
    [(position, _)] = world.ready(who=UP)
    waiting(world)

    world.turn(STORE, Delivered(A, 1, ((position, position),)), WatchQueues(UPSTREAM_QUEUES), sender=UP)

    assert waiting(world) == [()]


def test_somebody_elses_consumer_stays_when_a_watcher_asks_again(world: StoreWorld) -> None:
    world.attach(endpoint=A, who=HEAD)

    watch(world)
    send(world, A, b"1")

    assert waiting(world) == [()]
    assert world.bodies() == [b"1"]


def test_after_a_restart_of_the_store_the_watcher_hears_of_all_when_it_asks_again(world: StoreWorld) -> None:
    watch(world)
    send(world, A, b"1")
    waiting(world)

    world.append(Append("edge/broken", None, 0, (), ()))  # type: ignore[arg-type]
    send(world, B, b"2")
    meanwhile = waiting(world)
    watch(world)

    assert len(world.told("test", ActorRestarted)) == 1
    assert meanwhile == []
    assert waiting(world) == [(A, B)]


def test_what_has_expired_does_not_wait_and_a_new_message_is_told(world: StoreWorld) -> None:
    send(world, A, b"old", ttl_s=1.0)
    world.clock.advance(2.0)
    watch(world)
    asked = waiting(world)

    send(world, B, b"old", ttl_s=1.0)
    first = waiting(world)
    world.system.advance(2 * SWEEP_S)
    send(world, B, b"new")

    assert asked == [()]
    assert first == [(B,)]
    assert waiting(world) == [(B,)]


def test_a_queue_that_is_given_up_is_told_when_a_route_leads_there_again(world: StoreWorld) -> None:
    send(world, A, b"1")
    world.turn(STORE, KeepQueues(()), sender="hub/router")
    watch(world)
    given_up = waiting(world)

    world.turn(STORE, KeepQueues((UPSTREAM,)), sender="hub/router")
    world.system.advance(BUSY_SWEEP_S)

    assert given_up == [()]
    assert waiting(world) == [(A,)]


def test_a_database_that_cannot_be_read_answers_later(world: StoreWorld) -> None:
    send(world, A, b"1")
    world.disk.unreadable = True
    watch(world)
    meanwhile = waiting(world)

    world.disk.unreadable = False
    world.system.advance(SWEEP_S)

    assert meanwhile == []
    assert waiting(world) == [(A,)]


def test_the_store_describes_the_consumers_of_the_cloud_as_one(world: StoreWorld) -> None:
    for queue in (A, IN, B):
        attach(world, queue)

    assert world.described(STORE) == {"consumers": (UPSTREAM, IN)}
