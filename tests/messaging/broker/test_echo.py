"""Which arrivals are a bridge's own messages."""

from __future__ import annotations

from messaging.broker.echo import ECHO_LIMIT_S, REMEMBERED, EchoGuard


def test_each_message_that_was_sent_has_one_echo() -> None:
    guard = EchoGuard()
    guard.sent("a", b"x", 0.0)
    guard.sent("a", b"x", 1.0)

    assert [guard.is_echo("a", b"x", 2.0) for _ in range(3)] == [True, True, False]


def test_another_body_or_topic_is_no_echo() -> None:
    guard = EchoGuard()
    guard.sent("a", b"x", 0.0)

    assert not guard.is_echo("a", b"y", 1.0)
    assert not guard.is_echo("b", b"x", 1.0)
    assert guard.is_echo("a", b"x", 1.0)


def test_what_never_came_back_does_not_swallow_the_same_message_of_somebody_else_later() -> None:
    guard = EchoGuard()
    guard.sent("a", b"x", 0.0)

    assert not guard.is_echo("a", b"x", ECHO_LIMIT_S + 1)


def test_the_time_without_a_connection_does_not_count() -> None:
    guard = EchoGuard()
    guard.sent("a", b"x", 0.0)
    guard.connected(3600.0)

    assert guard.is_echo("a", b"x", 3600.0 + ECHO_LIMIT_S)


def test_an_expired_message_leaves_its_younger_twin() -> None:
    guard = EchoGuard()
    guard.sent("a", b"x", 0.0)
    guard.sent("a", b"x", ECHO_LIMIT_S)

    later_s = ECHO_LIMIT_S + 1
    assert [guard.is_echo("a", b"x", later_s) for _ in range(2)] == [True, False]


def test_an_echo_that_came_does_not_take_its_twin_along_when_it_expires() -> None:
    guard = EchoGuard()
    guard.sent("a", b"x", 0.0)
    assert guard.is_echo("a", b"x", 1.0)
    guard.sent("a", b"x", 2.0)

    assert guard.is_echo("a", b"x", ECHO_LIMIT_S + 1)


def test_what_is_remembered_is_bounded() -> None:
    guard = EchoGuard()
    for number in range(REMEMBERED + 5):
        guard.sent("a", b"%d" % number, 0.0)

    assert not guard.is_echo("a", b"0", 0.0)
    assert guard.is_echo("a", b"%d" % (REMEMBERED + 4), 0.0)
