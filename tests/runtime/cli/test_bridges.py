"""What `edge-actors list` and `edge-actors topics` say of bridges."""

from __future__ import annotations

from typing import Any

from runtime.cli.bridges import bridge_lines, bridge_row

GOOD: dict[str, Any] = {
    "endpoint": "site",
    "address": "broker.example:8883",
    "status": "connected",
    "connectedSince": "2026-11-21T22:00:00.000Z",
    "error": "",
    "queued": 0,
    "queuedBytes": 0,
    "sent": 5,
    "dropped": 0,
    "queuedIn": 0,
    "received": 7,
    "echoes": 0,
    "refused": (),
    "unanswered": (),
    "problems": (),
}


def test_a_bridge_that_is_well_is_one_short_line() -> None:
    assert bridge_lines([GOOD]) == [
        "bridge site: connected, 5 sent: broker.example:8883 since 2026-11-21T22:00:00.000Z"
    ]
    assert bridge_row(GOOD) == (
        "site",
        "connected",
        0,
        5,
        0,
        7,
        "broker.example:8883 since 2026-11-21T22:00:00.000Z",
    )


def test_what_waits_what_was_dropped_and_what_is_wrong_is_said() -> None:
    bad = GOOD | {
        "status": "waiting",
        "connectedSince": None,
        "error": "cannot be reached",
        "queued": 3,
        "dropped": 2,
        "refused": ("a/#", "b"),
        "problems": ("rule 0 (in): no filter",),
    }

    assert bridge_lines([bad]) == [
        "bridge site: waiting, 3 messages wait, 2 dropped, 5 sent: broker.example:8883; cannot be reached; "
        "it refuses subscriptions to a/#, b; rule 0 (in): no filter"
    ]


def test_a_subscription_without_an_answer_is_said_while_there_is_a_connection() -> None:
    [line] = bridge_lines([GOOD | {"unanswered": ("a/#", "b")}])

    assert line.endswith("; it has not answered yet to subscriptions to a/#, b")


def test_without_settings_there_is_no_address() -> None:
    [line] = bridge_lines([GOOD | {"address": "", "connectedSince": None, "error": "no settings for 'site'"}])

    assert line.endswith(": no settings for 'site'")
