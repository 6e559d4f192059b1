import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from actors.store.stored import EndpointLedger, Ledger, Totals
from actors.upstream.link_state import LinkState
from runtime.cli.picture import Snapshot, Warning, draw

NOW_S = 1_700_000_000.0


def module(name: str, **others: Any) -> dict[str, Any]:
    known = {
        "name": name,
        "status": "running",
        "pid": 7,
        "restarts": 0,
        "since_s": NOW_S - 90,
        "description": "",
        "not_isolated": "",
    }
    return known | others


SNAPSHOT = Snapshot(
    state="running",
    device_id="gate-7",
    home="/var/lib/edge-actors",
    listen=("127.0.0.1:8883", "[::1]:8883"),
    since_s=NOW_S - 3700,
    now_s=NOW_S,
    modules=(
        module("edgeHub"),
        module(
            "sensor",
            status="backoff",
            pid=0,
            restarts=3,
            since_s=None,
            description="crashed; next start at 10:00",
        ),
    ),
    ledger=Ledger(
        Totals(received=12, unrouted=2, routed=10),
        {"iothub": EndpointLedger(accepted=10, delivered=6, dropped=1, pending=3)},
    ),
)


def lines_of(snapshot: Snapshot, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(draw(snapshot))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_picture_shows_edge_modules_and_messages() -> None:
    lines = lines_of(SNAPSHOT)

    assert [line.split(maxsplit=1) for line in lines[:2]] == [
        ["device", "gate-7"],
        ["home", "/var/lib/edge-actors"],
    ]
    assert lines[2].split(maxsplit=2) == ["listens", "on", "127.0.0.1:8883, [::1]:8883"]
    assert lines[3].split(maxsplit=1) == ["state", "running, up 1 hour"]
    assert lines[5].split() == ["MODULE", "STATUS", "PID", "RESTARTS", "SINCE", "DESCRIPTION"]
    assert lines[6].split()[:4] == ["edgeHub", "running", "7", "0"]
    assert lines[6].endswith("Up 1 minute")
    assert lines[7].split() == ["sensor", "backoff", "3", "crashed;", "next", "start", "at", "10:00"]
    assert lines[9] == "messages  received 12   routed 10   unrouted 2"
    assert lines[12].split() == ["iothub", "10", "6", "0", "1", "3"]
    assert lines[-1] == "Ctrl-C stops the edge and its modules"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            {"link": LinkState(False, 0)},
            "cloud       the link is off; `edge-actors upstream on` switches it on",
        ),
        ({"link": LinkState(True, 0, True, host_name="127.0.0.2")}, "cloud       connected to 127.0.0.2"),
        (
            {"link": LinkState(True, 0, reason="nobody answers", host_name="hub.example")},
            "cloud       hub.example: nobody answers",
        ),
        ({"bad_routes": (("r1", "line 1, column 5: no"),)}, "route 'r1' is left out: line 1, column 5: no"),
        ({"ledger": None}, "no message yet"),
        ({"state": "stopped"}, "state       stopped, after 1 hour"),
    ],
    ids=["upstream off", "connected", "cloud away", "bad route", "no ledger", "stopped"],
)
def test_what_is_out_of_the_ordinary_is_shown(change: dict[str, Any], shown: str) -> None:
    assert shown in lines_of(replace(SNAPSHOT, **change))


def test_only_the_last_warnings_are_shown_with_their_time() -> None:
    warnings = tuple(Warning(NOW_S - 10 + n, "WARNING", f"warning {n}") for n in range(6))

    lines = lines_of(replace(SNAPSHOT, warnings=warnings))

    assert [line.split("  ")[1] for line in lines if "warning" in line] == [
        f"warning {n}" for n in range(2, 6)
    ]


def test_nothing_wraps_on_a_narrow_terminal() -> None:
    long = replace(
        SNAPSHOT,
        home="/x" * 60,
        bad_routes=(("r", "p" * 100),),
        warnings=(Warning(NOW_S, "ERROR", "w" * 100),),
    )

    lines = lines_of(long, width=60)

    assert len(lines) == len(lines_of(long, width=300))
    assert max(map(len, lines)) <= 60


def test_markup_in_what_others_wrote_is_not_obeyed() -> None:
    warning = Warning(NOW_S, "WARNING", "[red]not red[/red] [link=x]")

    assert any(
        "[red]not red[/red] [link=x]" in line for line in lines_of(replace(SNAPSHOT, warnings=(warning,)))
    )
