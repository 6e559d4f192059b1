"""One bridge: what it carries where, what it keeps, when it connects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.broker.bridge import LARGEST_BYTES, LOCAL_WINDOW, SUSPICIOUS
from actors.broker.bridge_link import backoff_s
from actors.ports.bridges import BridgeAccess, QueueState
from messaging import sas
from messaging.broker.bridges import BridgeRule, Direction
from messaging.errors import StoreFull
from messaging.mqtt.client_session import IN_FLIGHT
from messaging.mqtt.packets import Publish, ReturnCode
from messaging.time_text import iso_utc
from tests.actors.bridge_world import ENDPOINT, KEY, World

OUT, IN = Direction.OUT, Direction.IN
UP = BridgeRule(OUT, "up/#", "", "far/")
DOWN = BridgeRule(IN, "down/#", "", "near/")
BOTH = BridgeRule(OUT, "shared/#"), BridgeRule(IN, "shared/#")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "bridge.db")
    yield world
    world.store.close()


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def got(world: World) -> list[bytes]:
    return [message.payload for message in world.far.got]


def queue(world: World, direction: Direction = OUT) -> QueueState:
    return world.store.state(ENDPOINT, direction)


# topics


@pytest.mark.parametrize(
    ("rule", "topic", "there"),
    [
        pytest.param(BridgeRule(OUT, "t/#", "a/", "b/"), "a/t/1", "b/t/1", id="both prefixes"),
        pytest.param(BridgeRule(OUT, "#", "floor/", ""), "floor/x", "x", id="no prefix there"),
        pytest.param(BridgeRule(OUT, "#", "floor", ""), "floor/x", "/x", id="no slash is taken away"),
        pytest.param(BridgeRule(OUT, "x", "", "site1/"), "x", "site1/x", id="no prefix here"),
        pytest.param(BridgeRule(OUT, "#", "floor/", ""), "floor/", None, id="nothing is left"),
        pytest.param(BridgeRule(OUT, "t/#", "a/", "b/"), "a/u", None, id="no rule fits"),
    ],
)
def test_topics_change_their_prefix_on_the_way(
    world: World, rule: BridgeRule, topic: str, there: str | None
) -> None:
    world.begin(rule)

    world.publish(topic, b"x", qos=1, retain=False)

    assert [message.topic for message in world.far.got] == ([] if there is None else [there])
    assert world.acknowledged == 1, "what goes nowhere must not come again and again"


def test_what_comes_in_changes_its_prefix_the_same_way(world: World) -> None:
    world.begin(DOWN)

    world.far.send(Publish("down/1", b"x", 1, 7, retain=True))

    assert world.near == [Publish("near/down/1", b"x", 1, retain=True)]
    assert world.far.acknowledged_by_bridge == [7]


def test_the_first_rule_that_fits_counts(world: World) -> None:
    world.begin(BridgeRule(OUT, "a/#", "", "1/"), BridgeRule(OUT, "a/b", "", "2/"))

    world.publish("a/b", b"x")

    assert [message.topic for message in world.far.got] == ["1/a/b"]


def test_a_rule_that_makes_no_filter_is_left_out_and_told(world: World) -> None:
    world.begin(BridgeRule(OUT, "+/x", "floor"), UP)

    [problem] = world.bridge.shown()["problems"]  # type: ignore[misc]
    assert "rule 0 (out): inPrefix and topic do not make a filter" in problem
    assert world.filters == ["up/#"]


# to the other broker


def test_quality_and_retain_stay_as_they_were(world: World) -> None:
    world.begin(UP)

    world.publish("up/0", b"x", qos=0)
    world.publish("up/1", b"x", qos=1, retain=True)

    assert [(message.qos, message.retain) for message in world.far.got] == [(0, False), (1, True)]
    world.bridge.flush()
    assert queue(world) == QueueState(forwarded=2)


def test_messages_are_on_disk_before_they_are_acknowledged_and_until_the_other_broker_has_them(
    world: World,
) -> None:
    world.bridge.set_rules([UP])
    world.publish("up/x", *numbers(50))
    assert world.acknowledged == 50
    assert queue(world).messages == 50

    world.tick()
    world.far.acknowledges = False
    world.far.accept()
    world.bridge.flush()

    assert len(world.far.got) == IN_FLIGHT
    assert queue(world).messages == 50
    world.far.acknowledge()
    world.publish("up/x", b"50")
    assert got(world) == numbers(51)
    world.bridge.flush()
    assert queue(world) == QueueState(forwarded=51)


def test_after_a_lost_connection_nothing_is_missing_or_out_of_order(world: World) -> None:
    world.begin(UP)
    world.far.acknowledges = False
    world.publish("up/x", *numbers(40))
    world.far.lose()

    world.tick(1.0)
    world.far.unanswered.clear()
    world.far.acknowledges = True
    world.far.accept()

    assert got(world) == numbers(IN_FLIGHT) + numbers(40)
    assert all(message.dup for message in world.far.got[IN_FLIGHT : 2 * IN_FLIGHT])


def test_after_a_kill_what_was_not_forwarded_goes_again_in_order(world: World) -> None:
    world.begin(UP)
    world.far.acknowledges = False
    world.publish("up/x", *numbers(40))

    world.restart()
    world.far.got.clear()
    world.far.unanswered.clear()
    world.far.acknowledges = True
    world.begin(UP)

    assert got(world) == numbers(40)


def test_a_full_queue_drops_what_is_new_says_so_once_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path / "small.db", max_messages=3)
    world.bridge.set_rules([UP])

    world.publish("up/x", *numbers(5))
    world.publish("up/x", b"5")

    assert world.acknowledged == 6
    assert queue(world) == QueueState(messages=3, bytes=queue(world).bytes, dropped=3)
    assert caplog.text.count("queue is full") == 1
    world.begin(UP)
    world.bridge.flush()
    world.publish("up/x", b"6")
    assert got(world) == [b"0", b"1", b"2", b"6"]


def test_what_a_full_disk_does_not_take_is_not_acknowledged_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin(UP)
    kept = world.store.append

    def full(*args: object, **kwargs: object) -> int:
        raise StoreFull("bridge database: no space left to store messages; free some on its disk")

    monkeypatch.setattr(world.store, "append", full)
    world.publish("up/x", b"0")
    world.publish("up/x", b"1")
    assert world.acknowledged == 0
    assert "no space left" in str(world.bridge.shown()["error"])

    monkeypatch.setattr(world.store, "append", kept)
    world.tick(1.0)

    assert world.acknowledged == 2
    assert got(world) == [b"0", b"1"]


# from the other broker


def test_what_comes_in_is_on_disk_until_the_local_broker_has_it(world: World) -> None:
    world.begin(DOWN)

    world.far.send(Publish("down/1", b"x", 1, 7))

    assert queue(world, IN).messages == 1
    world.confirm()
    world.bridge.flush()
    assert queue(world, IN) == QueueState(forwarded=1)


def test_after_a_kill_what_the_local_broker_did_not_confirm_is_published_again(world: World) -> None:
    world.begin(DOWN)
    world.far.send(*(Publish("down/1", body, 1, 7 + at) for at, body in enumerate(numbers(5))))

    world.restart()
    world.near.clear()
    world.begin(DOWN)

    assert [message.payload for message in world.near] == numbers(5)


def test_no_more_is_published_at_once_than_the_window_and_the_rest_follows(world: World) -> None:
    world.begin(DOWN)
    for at in range(0, LOCAL_WINDOW + 50, 10):
        world.far.send(*(Publish("down/1", b"%d" % (at + n), 1, 1 + at + n) for n in range(10)))

    assert len(world.near) == LOCAL_WINDOW
    world.confirm()
    assert [message.payload for message in world.near] == numbers(LOCAL_WINDOW + 50)


def test_a_restarted_local_broker_gets_again_what_it_did_not_confirm(world: World) -> None:
    world.begin(DOWN, UP)
    world.far.send(Publish("down/1", b"0", 1, 7), Publish("down/1", b"1", 1, 8))
    world.unpublished = 0
    world.filters = []

    world.bridge.local_broker_restarted()
    world.tick()

    assert [message.payload for message in world.near] == [b"0", b"1", b"0", b"1"]
    assert world.filters == ["up/#"]


def test_without_room_nothing_more_is_read_and_nothing_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path / "small.db", max_messages=3)
    world.begin(DOWN)

    world.far.send(*(Publish("down/1", body, 1, 1 + at) for at, body in enumerate(numbers(5))))

    assert world.far.acknowledged_by_bridge == [1, 2, 3]
    assert not world.far.transport.reading
    world.confirm()
    assert world.far.acknowledged_by_bridge == [1, 2, 3, 4, 5]
    assert world.far.transport.reading
    assert [message.payload for message in world.near] == numbers(5)


def test_what_was_held_back_comes_again_after_a_lost_connection(tmp_path: Path) -> None:
    world = World(tmp_path / "small.db", max_messages=1)
    world.begin(DOWN)
    world.far.send(Publish("down/1", b"0", 1, 1), Publish("down/1", b"1", 1, 2))
    world.far.lose()
    world.confirm()
    world.tick(1.0)
    world.far.accept()

    world.far.send(Publish("down/1", b"1", 1, 2, dup=True))

    assert [message.payload for message in world.near] == [b"0", b"1"]


def test_a_full_disk_ends_the_connection_without_an_acknowledgement(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin(DOWN)

    def full(*args: object, **kwargs: object) -> int:
        raise StoreFull("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "append", full)
        world.far.send(Publish("down/1", b"0", 1, 1))
    assert world.far.acknowledged_by_bridge == []
    assert world.far.abandoned == 1

    world.tick(1.0)
    world.far.accept()
    world.far.send(Publish("down/1", b"0", 1, 1, dup=True))
    assert world.far.acknowledged_by_bridge == [1]
    assert [message.payload for message in world.near] == [b"0"]


def test_what_is_too_large_for_the_local_broker_is_dropped_and_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.begin(DOWN)

    world.far.send(Publish("down/1", bytes(LARGEST_BYTES), 1, 1), Publish("down/1", b"x", 1, 2))

    assert [message.payload for message in world.near] == [b"x"]
    assert world.far.acknowledged_by_bridge == [1, 2]
    assert world.bridge.shown()["dropped"] == 1
    assert "dropped a message of 262144 bytes" in caplog.text


# echoes


def test_an_echo_is_acknowledged_and_not_published_here(world: World) -> None:
    world.begin(*BOTH)
    world.publish("shared/x", b"mine")

    world.far.send(Publish("shared/x", b"mine", 1, 5), Publish("shared/x", b"theirs", 1, 6))

    assert [message.payload for message in world.near] == [b"theirs"]
    assert world.far.acknowledged_by_bridge == [5, 6]
    assert world.bridge.shown()["echoes"] == 1


def test_where_there_is_no_subscription_nothing_counts_as_an_echo(world: World) -> None:
    world.far.refuses_filters.add("shared/#")
    world.begin(*BOTH)
    world.publish("shared/x", b"same")
    world.far.refuses_filters.clear()
    world.tick(11.0)

    world.far.send(Publish("shared/x", b"same", 1, 5))

    assert [message.payload for message in world.near] == [b"same"]


# rules


def test_rules_change_without_a_new_connection(world: World) -> None:
    world.begin(UP, DOWN, BridgeRule(IN, "old/#"))
    assert set(world.far.subscribed) == {"down/#", "old/#"}

    world.bridge.set_rules([BridgeRule(OUT, "other/#"), DOWN, BridgeRule(IN, "new")])
    world.far.answer()

    assert set(world.far.subscribed) == {"down/#", "new"}
    assert world.filters == ["other/#"]
    assert world.far.attempts == 1
    world.far.send(Publish("old/1", b"late", 1, 5), Publish("down/1", b"x", 1, 6))
    assert [message.payload for message in world.near] == [b"x"]
    assert world.far.acknowledged_by_bridge == [5, 6]


def test_what_was_stored_under_an_earlier_rule_still_goes(world: World) -> None:
    world.bridge.set_rules([UP])
    world.publish("up/x", b"0")

    world.begin(DOWN)

    assert got(world) == [b"0"]


def test_a_bridge_without_rules_sends_what_waits_unsubscribes_and_is_over(world: World) -> None:
    world.begin(UP, DOWN)
    world.far.lose()
    world.publish("up/x", b"0")

    world.bridge.set_rules([])
    world.tick()
    assert not world.bridge.is_over
    assert world.bridge.shown()["status"] == "ending"
    world.tick(1.0)
    world.far.accept()
    world.bridge.flush()

    assert got(world) == [b"0"]
    assert world.far.subscribed == {}
    assert world.bridge.is_over


def test_filters_that_were_subscribed_to_before_a_kill_end_with_their_rule(world: World) -> None:
    world.begin(DOWN, BridgeRule(IN, "old/#"))

    world.restart()
    world.begin(DOWN)

    assert set(world.far.subscribed) == {"down/#"}


# the connection


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10_000, 60)]
)
def test_the_wait_doubles_from_one_second_to_a_minute(failures: int, wait_s: float) -> None:
    assert backoff_s(failures) == wait_s


def test_an_attempt_that_fails_is_made_again_at_once_and_then_after_longer_and_longer(world: World) -> None:
    world.bridge.set_rules([UP])
    attempts_at_s = []
    for second in range(130):
        if world.far.handler is not None:
            attempts_at_s.append(second)
            world.far.lose("cannot be reached: Connection refused")
        world.tick(1.0)

    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts_at_s)]
    assert gaps[1:7] == [1, 2, 4, 8, 16, 32]


def test_an_accepted_connection_makes_the_next_attempt_come_at_once(world: World) -> None:
    world.bridge.set_rules([UP])
    world.tick()
    for _ in range(5):
        world.far.lose()
        world.tick(60.0)
    world.far.accept()
    world.tick(5.0)

    world.far.lose()
    world.tick()

    assert world.far.handler is not None


def test_connections_that_end_as_soon_as_they_are_accepted_are_not_made_without_a_pause(
    world: World,
) -> None:
    world.begin(UP)
    before = world.far.attempts
    for _ in range(10):
        if world.far.handler is not None:
            world.far.lose()
        world.tick()
        if world.far.handler is not None:
            world.far.accept()

    assert world.far.attempts == before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION, "3.1.1"),
        (ReturnCode.IDENTIFIER_REJECTED, "client id 'me'"),
        (ReturnCode.SERVER_UNAVAILABLE, "not available"),
        (ReturnCode.BAD_USER_NAME_OR_PASSWORD, "user name or password"),
        (ReturnCode.NOT_AUTHORIZED, "let 'me' connect"),
    ],
)
def test_a_refusal_is_explained_once_and_tried_again(
    world: World, code: ReturnCode, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.bridge.set_rules([UP])
    for _ in range(3):
        world.tick(60.0)
        world.far.accept(code)

    shown = world.bridge.shown()
    assert said in str(shown["error"])
    assert f"return code {code:d}" in str(shown["error"])
    assert caplog.text.count("refused") == 1
    world.tick(60.0)
    world.far.accept()
    assert world.bridge.shown()["status"] == "connected"


def test_the_session_is_asked_to_last(world: World) -> None:
    world.begin(UP)

    connect = world.far.last_connect
    assert connect is not None
    assert (connect.client_id, connect.clean_session, connect.keep_alive_s) == ("me", False, 60)


def test_without_settings_messages_wait_until_there_are_some(world: World) -> None:
    settings, world.settings = world.settings, None
    world.bridge.set_rules([UP])
    world.publish("up/x", b"0")
    world.tick()
    assert world.bridge.shown()["status"] == "no settings"
    assert "no settings for 'site'" in str(world.bridge.shown()["error"])

    world.settings = settings
    world.tick(2.0)
    world.far.accept()

    assert got(world) == [b"0"]


def test_at_a_parent_the_password_is_a_fresh_token_and_is_renewed_in_time(world: World) -> None:
    world.settings = BridgeAccess(
        "parent", 8883, "d/$edgeHub", user_name="hub/d/$edgeHub/", signs_as="d/$edgeHub", audience_host="hub"
    )
    world.bridge.set_rules([UP])
    world.tick()
    assert world.keys_asked == [("d/$edgeHub", False)]
    world.bridge.key_known(KEY)
    world.far.accept()

    connect = world.far.last_connect
    assert connect is not None
    assert connect.password is not None
    token = sas.parse_token(connect.password.decode())
    assert sas.named_by(token) == "d/$edgehub"
    assert token.expires_s - world.clock.now_s() == pytest.approx(3600, abs=2)
    world.tick(3600 - 300 - 2)
    assert len(world.keys_asked) == 1
    world.tick(3.0)
    assert len(world.keys_asked) == 2
    world.bridge.key_known(KEY)
    world.far.accept()
    assert world.bridge.shown()["status"] == "connected"
    assert world.bridge.shown()["error"] == ""


def test_a_refused_key_is_asked_for_anew(world: World) -> None:
    world.settings = BridgeAccess("parent", 8883, "d/$edgeHub", user_name="x", signs_as="d/$edgeHub")
    world.bridge.set_rules([UP])
    world.tick()
    world.bridge.key_unknown("'d/$edgeHub' is disabled")
    assert "is disabled" in str(world.bridge.shown()["error"])
    world.tick(1.0)
    world.bridge.key_known(KEY)
    world.far.accept(ReturnCode.NOT_AUTHORIZED)
    world.tick(5.0)

    assert world.keys_asked[-1] == ("d/$edgeHub", True)


def test_what_an_operator_is_told(world: World) -> None:
    world.begin(UP, DOWN)
    world.publish("up/x", b"0")
    world.far.send(Publish("down/1", b"1", 1, 1))
    world.confirm()
    world.bridge.flush()

    shown = world.bridge.shown()

    assert shown["endpoint"] == ENDPOINT
    assert shown["address"] == "far:8883"
    assert shown["status"] == "connected"
    assert shown["connectedSince"] == iso_utc(world.clock.now_s())
    assert (shown["sent"], shown["received"], shown["queued"], shown["queuedIn"]) == (1, 1, 0, 0)


def test_a_message_that_ends_one_connection_after_another_is_named(world: World) -> None:
    world.begin(UP)
    world.far.acknowledges = False
    world.publish("up/forbidden", b"x")
    for _ in range(SUSPICIOUS):
        assert world.bridge.shown()["problems"] == ()
        world.far.lose()
        world.tick(60.0)
        world.far.accept()

    [problem] = world.bridge.shown()["problems"]  # type: ignore[misc]
    assert "'far/up/forbidden'" in problem
    world.far.acknowledge()
    assert world.bridge.shown()["problems"] == ()
