"""`edge-actors inspect flow`: who talks to whom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from runtime.cli.inspect.actors import milliseconds
from runtime.cli.inspect.tables import Picture, show
from runtime.cli.options import common_options
from runtime.exit_codes import DONE

if TYPE_CHECKING:
    from actors.inspection.flow import LinkCounts
    from runtime.cli.inspect.line import InspectedEdge

COLUMNS: Final = (
    "FROM", "TO", "KIND", "PER S", "KB/S", "WAITED P50", "P99", "TOOK P50", "P99", "FAILED",
)  # fmt: skip
READ_EVERY_S: Final = 2.0  # else the edge thinks that nobody looks any more


@click.command()
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long to look.",
)
@click.option("--watch", is_flag=True, help="Look again and again, each time for so long, until Ctrl-C.")
@common_options
def flow(for_s: float, watch: bool, home: Path, as_json: bool) -> int:
    """Show which actors talk to which, the busiest first.

    For each kind of message: envelopes a second and their bytes, how long they waited in the mailbox, how
    long handlers took, and how many failed. Counted in the edge, so none is missed.
    """
    from runtime.cli.inspect.line import inspected

    with inspected(home) as edge:
        looks = _Looks(edge, for_s)
        show(looks.look, as_json, 0.0 if watch else None)
    return DONE


class _Looks:
    """One look after the other, each beginning where the last one ended."""

    def __init__(self, edge: InspectedEdge, for_s: float) -> None:
        self._edge = edge
        self._for_s = for_s
        self._last: dict[str, tuple[float, list[LinkCounts]]] = {}

    def look(self) -> tuple[Picture, Any]:
        """Look for a while; returns what is shown."""
        from actors.inspection.flow import since

        if not self._last:
            self._last, _ = self._read()
        before = self._last
        ends_s = time.monotonic() + self._for_s
        while (left_s := ends_s - time.monotonic()) > 0:
            time.sleep(min(left_s, READ_EVERY_S))
            self._last, remarks = self._read()
        links = []
        for process, (at_s, counts) in self._last.items():
            # A process that was not there when this look began is counted from nothing.
            began_s, earlier = before.get(process, (at_s - self._for_s, []))
            if began_s < at_s:
                links += [_values(process, link, at_s - began_s) for link in since(earlier, counts)]
        links.sort(key=lambda link: -link["per_s"])
        return Picture(COLUMNS, [_row(link) for link in links], remarks), {
            "links": links,
            "problems": remarks,
        }

    def _read(self) -> tuple[dict[str, tuple[float, list[LinkCounts]]], list[str]]:
        from actors.inspection.flow import LinkCounts
        from actors.inspection.messages import FlowRead, ReadFlow
        from runtime.cli.inspect.line import INSPECTORS, ProcessSilent

        found, remarks = {}, []
        for process in INSPECTORS:
            try:
                read = self._edge.ask(process, ReadFlow(), FlowRead)
            except ProcessSilent as exc:
                remarks.append(str(exc))
                continue
            found[process] = (read.at_s, [LinkCounts(*link) for link in read.links])
        return found, remarks


def _values(process: str, link: LinkCounts, seconds: float) -> dict[str, Any]:
    from actors.inspection.flow import quantile_s

    def in_ms(buckets: tuple[int, ...], share: float) -> float | None:
        found = quantile_s(buckets, share)
        return None if found is None else round(found * 1000, 6)

    return {
        "process": process,
        "from": link.sender,
        "to": link.to,
        "kind": link.kind,
        "envelopes": link.envelopes,
        "per_s": round(link.envelopes / seconds, 3),
        "bytes_per_s": round(link.bytes / seconds, 1),
        "waited_p50_ms": in_ms(link.waited, 0.5),
        "waited_p99_ms": in_ms(link.waited, 0.99),
        "took_p50_ms": in_ms(link.took, 0.5),
        "took_p99_ms": in_ms(link.took, 0.99),
        "failed": link.failed,
    }


def _row(link: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        link["from"] or "-",
        link["to"],
        link["kind"],
        f"{link['per_s']:,.1f}",
        f"{link['bytes_per_s'] / 1000:,.1f}",
        *(milliseconds(link[name]) for name in ("waited_p50_ms", "waited_p99_ms")),
        *(milliseconds(link[name]) for name in ("took_p50_ms", "took_p99_ms")),
        link["failed"],
    )
