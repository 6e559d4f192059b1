"""Twin requests that have no answer yet."""

from __future__ import annotations

from runtime.upstream.requests import TwinRequests


def asked() -> TwinRequests:
    requests = TwinRequests()
    requests.add("a", 1, True, b" ", 10.0)
    requests.add("b", 2, False, b"{}", 20.0)
    return requests


def test_requests_leave_in_order_and_are_answered_once() -> None:
    requests = asked()

    first, second = requests.next_to_leave(), requests.next_to_leave()

    assert first is not None
    assert second is not None
    assert (first.request_id, second.request_id) == ("a", "b")
    assert requests.next_to_leave() is None
    assert requests.answered("b") is second
    assert requests.answered("b") is None
    assert len(requests) == 1


def test_what_is_overdue_is_forgotten_also_when_it_has_not_left() -> None:
    requests = asked()

    assert [request.number for request in requests.overdue(10.0)] == [1]
    second = requests.next_to_leave()
    assert second is not None
    assert second.number == 2
    assert requests.overdue(19.9) == []
    assert [request.number for request in requests.overdue(20.0)] == [2]
    assert len(requests) == 0


def test_all_are_given_back_in_order() -> None:
    requests = asked()

    assert requests.take_all() == [1, 2]
    assert requests.take_all() == []
    assert requests.next_to_leave() is None
