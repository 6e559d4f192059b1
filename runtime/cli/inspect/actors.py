"""`edge-actors inspect actors`: the live tree of both processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.inspect.tables import Picture, show
from runtime.cli.options import common_options
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from runtime.cli.inspect.envelopes import Shown
    from runtime.cli.inspect.line import InspectedEdge

WATCH_S: Final = 1.0
COLUMNS: Final = (
    "ACTOR", "STATE", "CONTROL", "DATA", "HANDLED", "FAILURES", "RESTARTS", "P50", "P99", "LAST ERROR",
)  # fmt: skip
_LONGEST_ERROR: Final = 60


@click.command()
@click.option("--watch", is_flag=True, help="Look again each second, until Ctrl-C.")
@common_options
def actors(watch: bool, home: Path, as_json: bool) -> int:
    """Show the actors of agent and hub as a tree, and how each is.

    CONTROL and DATA are the messages that wait in the two lanes of its mailbox. Of data it takes over as many
    as stand behind the slash; what more there is waits before its mailbox, bounded by the bytes that a sender
    may have unanswered. Control messages are served first and never held back. P50 and P99 are how long its
    last handlers took, of which one in 17 is timed.
    """
    from runtime.cli.inspect.envelopes import Shown
    from runtime.cli.inspect.line import inspected

    with inspected(home) as edge:
        shown = Shown.of(home)
        show(lambda: _look(edge, shown), as_json, WATCH_S if watch else None)
    return DONE


def _look(edge: InspectedEdge, shown: Shown) -> tuple[Picture, Any]:
    from actors.inspection.messages import ActorsSeen, LookAtActors
    from runtime.cli.inspect.line import INSPECTORS, ProcessSilent

    processes: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    remarks = []
    for process in INSPECTORS:
        try:
            seen = edge.ask(process, LookAtActors(), ActorsSeen)
        except ProcessSilent as exc:
            processes.append({"process": process, "problem": str(exc)})
            remarks.append(str(exc))
            continue
        processes.append(
            {"process": process, "version": seen.version, "allows_faults": seen.allows_faults, "problem": ""}
        )
        found += [
            {"process": process, **actor, "last_error": shown.text(actor["last_error"])}
            for actor in in_tree(seen.actors)
        ]
    rows = [_row(actor) for actor in found]
    return Picture(COLUMNS, rows, remarks), {"processes": processes, "actors": found}


def in_tree(actors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the actors with each behind its parent, in order of start, and how deep it is in the tree."""
    known = {actor["address"] for actor in actors}
    children: dict[str, list[Mapping[str, Any]]] = {}
    for actor in actors:
        parent = actor["parent"] if actor["parent"] in known else ""
        children.setdefault(parent, []).append(actor)
    found: list[dict[str, Any]] = []

    def add(parent: str, depth: int) -> None:
        for actor in children.get(parent, ()):
            found.append({**actor, "depth": depth})
            add(actor["address"], depth + 1)

    add("", 0)
    return found


def _row(actor: Mapping[str, Any]) -> tuple[object, ...]:
    mailbox = actor["mailbox"]
    error = actor["last_error"]
    return (
        "  " * actor["depth"] + actor["address"],
        state_in_words(actor),
        mailbox["control"]["depth"],
        f"{mailbox['data']['depth']}/{mailbox['data']['limit']}",
        actor["handled"],
        actor["failures"],
        actor["restarts"],
        milliseconds(actor["p50_ms"]),
        milliseconds(actor["p99_ms"]),
        error if len(error) <= _LONGEST_ERROR else error[: _LONGEST_ERROR - 1] + "…",
    )


def state_in_words(actor: Mapping[str, Any]) -> str:
    """Return the state of an actor, and what it does not come back from."""
    state: str = actor["state"]
    return f"{state}, {actor['doing_s']:.0f} s in {actor['doing']}" if actor["doing"] else state


def milliseconds(value: float | None) -> str:
    """Return a time with three digits."""
    return "–" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"
