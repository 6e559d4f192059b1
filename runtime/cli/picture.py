"""The live picture of a running edge, drawn from a snapshot of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runtime.cli.modules import told
from runtime.cli.words import duration, local_time

if TYPE_CHECKING:
    from actors.store.stored import Ledger
    from actors.upstream.link_state import LinkState

STYLES: Final[Mapping[str, str]] = {
    "running": "green",
    "backoff": "yellow",
    "downloading": "yellow",
    "unhealthy": "yellow",
    "failed": "red",
    "dead": "red",
}
WARNINGS_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Warning:
    """A line of the log that somebody should read."""

    at_s: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the picture shows. Times in seconds since 1970-01-01 UTC; None is not known yet."""

    state: str  # "running", "stopped", or in words why neither is known
    device_id: str
    home: str
    listen: tuple[str, ...]
    since_s: float
    now_s: float
    modules: tuple[Mapping[str, Any], ...] = ()  # as in actors.agent.ModuleList
    ledger: Ledger | None = None
    link: LinkState | None = None
    bad_routes: tuple[tuple[str, str], ...] = ()  # name, problem
    warnings: tuple[Warning, ...] = ()
    hint: str = "Ctrl-C stops the edge and its modules"


def draw(snapshot: Snapshot) -> RenderableType:
    """Return the whole picture. Nothing in it wraps, so that its lines stay where they are."""
    parts: list[RenderableType] = [_header(snapshot), Text()]
    if snapshot.modules:
        parts.extend((_modules(snapshot), Text()))
    parts.extend(_counts(snapshot))
    for name, problem in snapshot.bad_routes:
        parts.append(_line(f"route '{name}' is left out: {problem}", "red"))
    if snapshot.warnings:
        parts.append(Text())
    for warning in snapshot.warnings[-WARNINGS_SHOWN:]:
        style = "yellow" if warning.level == "WARNING" else "red"
        parts.append(_line(f"{local_time(warning.at_s, snapshot.now_s)}  {warning.text}", style))
    if snapshot.hint:
        parts.extend((Text(), _line(snapshot.hint, "dim")))
    return Group(*parts)


def _header(snapshot: Snapshot) -> RenderableType:
    table = _grid()
    up = duration(snapshot.now_s - snapshot.since_s)
    so_long = f"after {up}" if snapshot.state == "stopped" else f"up {up}"
    table.add_row("device", Text(snapshot.device_id, "bold"))
    table.add_row("home", Text(snapshot.home))
    table.add_row("listens on", Text(", ".join(snapshot.listen)))
    if snapshot.link is not None:
        table.add_row("cloud", _cloud(snapshot.link, snapshot.now_s))
    table.add_row("state", Text(f"{snapshot.state}, {so_long}"))
    return table


def _cloud(link: LinkState, now_s: float) -> Text:
    if not link.on:
        return Text("the link is off; `edge-actors upstream on` switches it on", "yellow")
    if link.is_up:
        return Text(f"connected to {link.host_name}")
    away = f", away since {local_time(link.since_s, now_s)}" if link.since_s else ""
    return Text(f"{link.host_name}{away}: {link.reason or 'connecting'}", "yellow")


def _modules(snapshot: Snapshot) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("MODULE", "STATUS"):
        table.add_column(column, no_wrap=True)
    for column in ("PID", "RESTARTS"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("SINCE", no_wrap=True)
    table.add_column("DESCRIPTION", no_wrap=True, overflow="ellipsis")
    for module in snapshot.modules:
        since_s, status = module["since_s"], module["status"]
        table.add_row(
            Text(module["name"]),
            Text(status, STYLES.get(status, "dim")),
            str(module["pid"] or ""),
            str(module["restarts"]),
            "" if since_s is None else local_time(since_s, snapshot.now_s),
            Text(told(module, snapshot.now_s)),
        )
    return table


def _counts(snapshot: Snapshot) -> list[RenderableType]:
    ledger = snapshot.ledger
    if ledger is None:
        return [_line("no message yet", "dim")]
    total = ledger.total
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("ENDPOINT", no_wrap=True, overflow="ellipsis")
    for column in ("ACCEPTED", "DELIVERED", "EXPIRED", "DROPPED", "PENDING"):
        table.add_column(column, justify="right", no_wrap=True)
    for endpoint_id, row in sorted(ledger.endpoints.items()):
        table.add_row(
            Text(endpoint_id),
            str(row.accepted),
            str(row.delivered),
            str(row.expired),
            Text(str(row.dropped), "red" if row.dropped else ""),
            Text(str(row.pending), "yellow" if row.pending else ""),
        )
    line = Text(f"messages  received {total.received}   routed {total.routed}   unrouted {total.unrouted}")
    line.no_wrap = True
    return [line, Text(), table] if ledger.endpoints else [line]


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    return table


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
