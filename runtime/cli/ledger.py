"""`edge-actors ledger`: every message accounted for, whether the edge runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

from runtime.cli.options import common_options
from runtime.cli.output import print_json, print_table
from runtime.exit_codes import DONE, FAILED

if TYPE_CHECKING:
    from actors.store.stored import Epoch, Ledger

TERMS = ("accepted", "delivered", "expired", "dropped", "pending")


@click.command()
@common_options
def ledger(home: Path, as_json: bool) -> int:
    """Account for every message that the hub accepted.

    received = unrouted + routed, and for each endpoint
    accepted = delivered + expired + dropped + pending.

    The endpoint iothub is the cloud; D/$c2d has what the cloud sends to device D, and /$c2d sums up devices
    for which nothing waits, once there are many.

    Each number is counted at its own event. When an equation does not hold, it is told on stderr and the
    exit code is 1.
    """
    found = _read(home)
    if as_json:
        print_json(as_values(found))
    else:
        _tell_epoch(found.epoch)
        total = found.total
        click.echo(f"received {total.received} = unrouted {total.unrouted} + routed {total.routed}")
        if found.endpoints:
            click.echo()
            print_table(("ENDPOINT", *(term.upper() for term in TERMS), ""), _rows(found))
    for problem in found.imbalances():
        click.echo(f"error: the ledger does not balance: {problem}", err=True)
    return FAILED if found.imbalances() else DONE


def _read(home: Path) -> Ledger:
    """Return the ledger of a home; an empty one in the moment before its first hub has made the database."""
    from actors.store.stored import Ledger, Totals
    from runtime.home import Home
    from runtime.storage.message_ledger import read_ledger
    from runtime.storage.store_place import database_of

    place = Home(home)
    database = database_of(place)
    if place.hub_config.exists() and not database.exists():
        return Ledger(Totals(), {})
    return read_ledger(database)


def _tell_epoch(epoch: Epoch) -> None:
    if epoch.number > 1:
        lost = "an unknown number" if epoch.lost is None else epoch.lost
        click.echo(
            f"epoch {epoch.number}: counted anew since the message database was found damaged; "
            f"of what waited {epoch.salvaged} salvaged, {lost} lost; "
            f"the damaged files are in {epoch.quarantine}\n"
        )


def as_values(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as plain values, under the names of its terms."""
    return {
        "epoch": asdict(ledger.epoch),
        "total": asdict(ledger.total),
        "endpoints": {
            endpoint_id: {
                "accepted": row.accepted,
                "delivered": row.delivered,
                "expired": row.expired,
                "dropped": row.dropped,
                "dropped_by_reason": dict(row.dropped_by_reason),
                "pending": row.pending,
            }
            for endpoint_id, row in ledger.endpoints.items()
        },
    }


def _rows(ledger: Ledger) -> list[tuple[object, ...]]:
    return [
        (endpoint_id, *(getattr(row, term) for term in TERMS), _reasons(row.dropped_by_reason))
        for endpoint_id, row in sorted(ledger.endpoints.items())
    ]


def _reasons(counts: Any) -> str:
    return ", ".join(f"{count} dropped: {reason}" for reason, count in sorted(counts.items()))
