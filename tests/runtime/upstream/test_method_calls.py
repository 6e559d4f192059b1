"""Direct methods that have no answer yet."""

from __future__ import annotations

from runtime.upstream.method_calls import LIFE_S, MethodCalls


def test_a_call_is_answered_once_under_the_id_of_the_cloud() -> None:
    calls: MethodCalls[str] = MethodCalls()
    calls.came("1", "of the cloud", 10.0)
    calls.came("2", "of the cloud", 10.0)  # the cloud may use an id again

    assert calls.answered("1") == "of the cloud"
    assert calls.answered("1") is None
    assert calls.answered("2") == "of the cloud"
    assert calls.answered("3") is None


def test_a_call_that_the_cloud_has_given_up_is_forgotten_with_the_next_one() -> None:
    calls: MethodCalls[bytes] = MethodCalls()
    calls.came("old", b"1", 0.0)
    calls.came("just", b"2", 1.0)

    calls.came("new", b"3", LIFE_S + 1.0)

    assert calls.answered("old") is None
    assert calls.answered("just") == b"2"
    assert calls.answered("new") == b"3"


def test_nothing_is_owed_after_the_connection() -> None:
    calls: MethodCalls[str] = MethodCalls()
    calls.came("1", "a", 0.0)

    calls.clear()

    assert calls.answered("1") is None
