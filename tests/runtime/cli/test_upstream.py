"""What `edge-actors upstream status` shows."""

from __future__ import annotations

import pytest

from actors.upstream.link_state import LinkState
from runtime.cli.upstream import _as_values, _rows, _summary

NOW_S = 1_800_000_000.0
FINE = ("edge1/a", "connected", NOW_S - 90.0, "", "", 12, 3, 0.0)
REFUSED = ("leaf", "waiting after an error", NOW_S - 7200.0, "unauthorized", "wrong key", 0, 0, NOW_S + 25.0)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            LinkState(True, 5, True, NOW_S, "", "hub.example"),
            "upstream is on, connected to hub.example since ",
        ),
        (
            LinkState(True, 5, False, NOW_S, "the name is unknown", "hub.example"),
            ": the name is unknown; 2 messages wait; 5 sent since the hub started",
        ),
        (
            LinkState(False, 5, False, NOW_S, "switched off", "hub.example"),
            "; 2 messages wait until `edge-actors upstream on`; 5 sent since the hub started",
        ),
        (
            LinkState(False, 5, False, NOW_S, "switched off", "hub.example"),
            "upstream is off, not connected since ",
        ),
    ],
    ids=["connected", "not connected", "off", "off since when"],
)
def test_the_first_line_says_how_the_link_is_and_why(state: LinkState, text: str) -> None:
    assert text in _summary(state, {"a": 1, "b": 1}, NOW_S)


def test_each_identity_has_a_row_with_its_trouble() -> None:
    state = LinkState(True, 12, True, NOW_S, "", "hub.example", (FINE, REFUSED))

    assert _rows(state, {"leaf": 40}, NOW_S) == [
        ("edge1/a", "connected", "1 minute", 12, 0, ""),
        (
            "leaf",
            "waiting after an error, tried again in 25 seconds",
            "2 hours",
            0,
            40,
            "unauthorized: wrong key",
        ),
    ]


def test_what_is_wrong_with_all_of_them_is_said_once() -> None:
    refused = [
        (name, "connecting", NOW_S, "unauthorized", f"'hub' does not let '{name}' in", 0, 0, 0.0)
        for name in ("edge1/a", "edge1/b")
    ]
    state = LinkState(True, 0, False, NOW_S, "", "hub.example", tuple(refused))

    rows = _rows(state, {}, NOW_S)

    assert [row[-1] for row in rows] == ["unauthorized: 'hub' does not let 'edge1/a' in", "unauthorized"]


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
        "triedAgain": "2027-01-15T08:00:25.000000Z",
    }
