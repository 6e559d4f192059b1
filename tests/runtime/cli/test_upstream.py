"""What `edge-actors upstream status` shows."""

from __future__ import annotations

import pytest

from actors.link_state import LinkState
from runtime.cli.upstream import _as_values, _row, _summary

NOW_S = 1_800_000_000.0
FINE = ("edge1/a", "connected", NOW_S - 90.0, "", "", 12, 3)
REFUSED = ("leaf", "waiting after an error", NOW_S - 7200.0, "unauthorized", "wrong key", 0, 0)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            LinkState(True, 5, True, NOW_S, "", "hub.example"),
            "upstream is on, connected to hub.example since ",
        ),
        (
            LinkState(True, 5, False, NOW_S, "the name is unknown", "hub.example"),
            ": the name is unknown; 5 messages sent since the hub started",
        ),
        (
            LinkState(False, 5, False, NOW_S, "switched off", "hub.example"),
            "upstream is off; 5 messages sent since the hub started",
        ),
    ],
    ids=["connected", "not connected", "off"],
)
def test_the_first_line_says_how_the_link_is_and_why(state: LinkState, text: str) -> None:
    assert text in _summary(state, NOW_S)


def test_each_identity_has_a_row_with_its_trouble() -> None:
    waiting = {"leaf": 40}

    assert _row(FINE, waiting, NOW_S) == ("edge1/a", "connected", "1 minute", 12, 0, "")
    assert _row(REFUSED, waiting, NOW_S) == (
        "leaf",
        "waiting after an error",
        "2 hours",
        0,
        40,
        "unauthorized: wrong key",
    )


def test_programs_get_the_same_as_values() -> None:
    values = _as_values(LinkState(True, 12, True, NOW_S, "", "hub.example", (FINE, REFUSED)), {"leaf": 40})

    assert (values["on"], values["up"], values["sent"], values["waiting"]) == (True, True, 12, 40)
    assert values["identities"][1] == {
        "identity": "leaf",
        "state": "waiting after an error",
        "since": "2027-01-15T06:00:00.000000Z",
        "fault": "unauthorized",
        "reason": "wrong key",
        "sent": 0,
        "underWay": 0,
        "waiting": 40,
    }
