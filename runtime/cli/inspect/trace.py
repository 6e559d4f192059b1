"""`edge-actors inspect trace`: the way of one envelope, or of one message of a client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.inspect.actors import milliseconds
from runtime.cli.inspect.tables import Picture, show
from runtime.cli.options import common_options
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from actors.inspection.envelope_watch import Hop
    from runtime.cli.inspect.line import InspectedEdge

COLUMNS: Final = ("TIME", "FROM", "TO", "KIND", "WAITED", "TOOK", "ID", "")
_ID: Final = re.compile(r"[0-9a-f]{1,16}", re.IGNORECASE)


@click.command()
@click.argument("id_", metavar="ID")
@common_options
def trace(id_: str, home: Path, as_json: bool) -> int:
    """Show the way of one message through the actors, each step with its time.

    ID is that of an envelope or of a correlation, as `edge-actors inspect tap` shows them. A request, its
    answers and what is done for it have the same correlation, and all of them are shown. The edge remembers
    some ten thousand envelopes, for ten minutes, of the time in which somebody taps, records or looks at the
    flow, and two seconds more.

    ID may also be the message id that a device or module gave its message: those are remembered always, see
    `edge-actors trace`.
    """
    from messaging.errors import ConfigError
    from runtime.cli.inspect.line import inspected

    with inspected(home) as edge:
        is_of_envelope = _ID.fullmatch(id_) is not None
        hops, known = _way(edge, int(id_, 16)) if is_of_envelope else ([], 0)
        steps = _steps_of_message(edge, id_)
    if not hops and not steps:
        if not is_of_envelope:
            raise ConfigError(
                f"no message with id {id_[:200]!r} is known, and ids of envelopes have up to 16 digits 0 to f"
            )
        raise ConfigError(
            f"nothing is known of id {id_[:200]!r}; {known} envelopes are remembered. They are while "
            "somebody taps: run `edge-actors inspect tap` and have it happen again"
        )
    rows = [*map(_row, hops), *map(_step_row, steps)]
    picture = Picture(COLUMNS, [row for _, row in sorted(rows, key=lambda timed: timed[0])])
    show(lambda: (picture, {"id": id_, "envelopes": hops, "message": steps}), as_json, None)
    return DONE


def _way(edge: InspectedEdge, id_: int) -> tuple[list[dict[str, Any]], int]:
    """Return what both processes know of an envelope and of all that have to do with it, in order of
    handling, and how many envelopes they know.
    """
    found, known = _hops(edge, id_)
    # A damaged envelope may have anything there.
    correlations = {hop.correlation_id for _, hop in found.values() if isinstance(hop.correlation_id, int)}
    for correlation in correlations - {0, id_}:
        found |= _hops(edge, correlation)[0]
    in_order = sorted(found.values(), key=lambda pair: pair[1].handled_s)
    return [_values(process, hop) for process, hop in in_order], known


def _hops(edge: InspectedEdge, id_: int) -> tuple[dict[str, tuple[str, Hop]], int]:
    """Return the hops that have this id or correlation, each with its process, by what makes them unique."""
    from actors.inspection.envelope_watch import Hop
    from actors.inspection.messages import FindHops, HopsFound
    from runtime.cli.inspect.line import INSPECTORS, ProcessSilent

    found: dict[str, tuple[str, Hop]] = {}
    known = 0
    for process in INSPECTORS:
        try:
            answer = edge.ask(process, FindHops(id_), HopsFound)
        except ProcessSilent as exc:
            click.echo(f"note: {exc}", err=True)
            continue
        known += answer.known
        found |= {f"{process} {hop!r}": (process, Hop(*hop)) for hop in answer.hops}
    return found, known


def _values(process: str, hop: Hop) -> dict[str, Any]:
    from messaging.time_text import iso_utc
    from runtime.cli.inspect.envelopes import id_text, waited_s

    return {
        "process": process,
        "id": id_text(hop.id),
        "correlation": id_text(hop.correlation_id) if hop.correlation_id else None,
        "from": hop.sender,
        "to": hop.to,
        "kind": hop.kind,
        "handled": iso_utc(hop.handled_s),
        "handled_s": hop.handled_s,
        "waited_ms": round(waited_s(hop.handled_s - hop.took_s, hop.sent_s) * 1000, 3),
        "took_ms": round(hop.took_s * 1000, 3),
        "failed": hop.failed,
        "size": hop.size,
    }


def _steps_of_message(edge: InspectedEdge, message_id: str) -> list[dict[str, Any]]:
    from actors.addresses import ROUTER, STORE
    from actors.hub.trail import Hops, TraceRouting, TraceStorage, in_order
    from messaging.errors import BusError

    try:
        routing = edge.client.ask(ROUTER, TraceRouting(message_id), Hops)
        storage = edge.client.ask(STORE, TraceStorage(message_id), Hops)
    except BusError:
        return []  # without a hub there is nothing to know
    return list(in_order((*routing.hops, *storage.hops)))


def _row(hop: Mapping[str, Any]) -> tuple[float, tuple[object, ...]]:
    from runtime.cli.inspect.envelopes import clock

    return hop["handled_s"], (
        clock(hop["handled_s"]),
        hop["from"] or "-",
        hop["to"],
        hop["kind"],
        milliseconds(hop["waited_ms"]),
        milliseconds(hop["took_ms"]),
        hop["id"],
        "failed" if hop["failed"] else "",
    )


def _step_row(step: Mapping[str, Any]) -> tuple[float, tuple[object, ...]]:
    from runtime.cli.inspect.envelopes import clock
    from runtime.cli.trace import told

    actor = "hub/router" if step["hop"] in ("received", "routed", "unrouted") else "hub/store"
    return step["at_s"], (clock(step["at_s"]), "", actor, step["hop"], "", "", "", told(step))
