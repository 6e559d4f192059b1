"""The ledger as metrics, and how long the queues are.

`edgehub_queue_length` is the reference's; the others are ours. They are counted in the database, so a restart
of the hub does not reset them; a new epoch of the ledger does.

Source: spec sheet observability.md section 2
"""

from __future__ import annotations

from collections.abc import Iterable

from actors.hub.c2d_queues import is_c2d_queue
from actors.metrics.registry import MS_TELEMETRY, Of, gauges
from actors.store.stored import Ledger
from messaging.exposition import Family, Labels

_ENDPOINT_TERMS = ("accepted", "delivered", "expired", "dropped")


def ledger_families(ledger: Ledger, lanes: Iterable[tuple[str, int]], common: Labels) -> list[Family]:
    """Return the families of a ledger; `lanes` are endpoints and priorities that were used, also if empty."""
    lengths: dict[Of, float] = {(endpoint, str(priority), "True"): 0 for endpoint, priority in sorted(lanes)}
    terms: dict[Of, float] = {}
    dropped: dict[Of, float] = {}
    pending: dict[Of, float] = {}
    for endpoint, row in sorted(ledger.endpoints.items()):
        if not is_c2d_queue(endpoint):
            for priority, count in sorted(row.pending_by_priority.items()):
                lengths[endpoint, str(priority), "True"] = count
        for term in _ENDPOINT_TERMS:
            terms[endpoint, term] = getattr(row, term)
        for reason, count in sorted(row.dropped_by_reason.items()):
            dropped[endpoint, reason] = count
        pending[endpoint,] = row.pending
    total = ledger.total
    whole: dict[Of, float] = {
        ("received",): total.received,
        ("unrouted",): total.unrouted,
        ("routed",): total.routed,
    }
    return [
        gauges(
            "edgehub_queue_length",
            "Messages that wait",
            common,
            ("endpoint", "priority", MS_TELEMETRY),
            lengths,
        ),
        gauges(
            "edgehub_ledger_messages_total",
            "Messages accepted, each counted once: received = unrouted + routed",
            common,
            ("term",),
            whole,
            "counter",
        ),
        gauges(
            "edgehub_ledger_endpoint_messages_total",
            "Messages for an endpoint: accepted = delivered + expired + dropped + pending",
            common,
            ("endpoint", "term"),
            terms,
            "counter",
        ),
        gauges(
            "edgehub_ledger_dropped_messages_total",
            "Messages given up, by reason",
            common,
            ("endpoint", "reason"),
            dropped,
            "counter",
        ),
        gauges("edgehub_ledger_pending_messages", "Messages that wait", common, ("endpoint",), pending),
        gauges(
            "edgehub_ledger_epoch",
            "Grows when a damaged database was replaced",
            common,
            (),
            {(): ledger.epoch.number},
        ),
    ]
