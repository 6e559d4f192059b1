"""How many connections whom: strangers by address and in all, everybody in the total."""

from __future__ import annotations

import pytest

from actors.heads.admission import LOOPBACK_STRANGERS, STRANGERS_PER_ADDRESS, Admission


@pytest.mark.parametrize(
    ("address", "limit"),
    [
        ("192.0.2.7", STRANGERS_PER_ADDRESS),
        ("2001:db8::7", STRANGERS_PER_ADDRESS),
        ("fe80::1%eth0", STRANGERS_PER_ADDRESS),
        ("127.0.0.1", LOOPBACK_STRANGERS),
        ("127.44.0.1", LOOPBACK_STRANGERS),
        ("::1", LOOPBACK_STRANGERS),
        ("::ffff:127.0.0.1", LOOPBACK_STRANGERS),
    ],
)
def test_strangers_of_one_address_are_limited_and_others_are_not_affected(address: str, limit: int) -> None:
    admission = Admission(1_000_000)

    assert [admission.enter(address) for _ in range(limit)] == [""] * limit
    assert admission.enter(address) == f"{limit} connections from {address} have not authenticated yet"
    assert admission.enter("198.51.100.1") == ""


def test_who_has_authenticated_is_no_stranger_any_more() -> None:
    admission = Admission(1_000_000)
    for _ in range(2 * STRANGERS_PER_ADDRESS):
        assert admission.enter("192.0.2.7") == ""
        admission.authenticated("192.0.2.7")

    for _ in range(2 * STRANGERS_PER_ADDRESS):
        admission.leave("192.0.2.7", stranger=False)

    assert admission.enter("192.0.2.7") == ""


def test_a_stranger_who_leaves_makes_room() -> None:
    admission = Admission(1_000_000)
    for _ in range(STRANGERS_PER_ADDRESS):
        admission.enter("192.0.2.7")

    admission.leave("192.0.2.7", stranger=True)

    assert admission.enter("192.0.2.7") == ""
    assert admission.enter("192.0.2.7") != ""


def test_strangers_leave_half_of_all_connections_to_others() -> None:
    admission = Admission(8)
    for number in range(4):
        assert admission.enter(f"192.0.2.{number}") == ""

    assert admission.enter("192.0.2.9") == "4 connections have not authenticated yet"
    for number in range(4):
        admission.authenticated(f"192.0.2.{number}")
        assert admission.enter(f"198.51.100.{number}") == ""
        admission.authenticated(f"198.51.100.{number}")

    assert admission.enter("192.0.2.9") == "8 connections are open, as many as this hub takes"
