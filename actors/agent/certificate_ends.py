"""When the certificates of an edge end: who has to be told, and the metric. Pure.

What the edge makes itself it renews itself; an edge CA that an operator supplies is the operator's to renew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from actors.metrics.registry import gauges
from messaging.exposition import Family, Labels
from messaging.text import quoted
from messaging.time_text import iso_utc

DAY_S: Final = 86_400.0
SOON_S: Final = 30 * DAY_S  # long enough to have a certificate signed in most companies
SHARE_OF_LIFE: Final = 5  # a fifth; of one that lives a month, the last 30 days are no news
URGENT_S: Final = 7 * DAY_S  # from which `check` warns as well


class CertificateLife(Struct, frozen=True):
    """A certificate of this edge; times are seconds since 1970-01-01 UTC."""

    name: str  # as in the metric
    not_before_s: float
    not_after_s: float
    given_file: str = ""  # where an operator put it; "": the edge makes it


class Remark(NamedTuple):
    """What is to be logged."""

    level: int
    text: str


def remark(life: CertificateLife, now_s: float) -> Remark | None:
    """Return what an operator has to know by now of a certificate, None when there is nothing to do."""
    left_s = life.not_after_s - now_s
    soon_s = max(URGENT_S, min(SOON_S, (life.not_after_s - life.not_before_s) / SHARE_OF_LIFE))
    if not life.given_file or left_s >= soon_s:
        return None
    day = iso_utc(life.not_after_s)[:10]
    told = (
        f"expires in {left_s / DAY_S:.1f} days, on {day}; from then on no client can connect"
        if left_s > 0
        else f"has expired on {day}; no client can connect"
    )
    return Remark(
        logging.ERROR if left_s < URGENT_S else logging.WARNING,
        f"the edge CA in {quoted(life.given_file)} {told}; put a new one with its key in its place: "
        "it is taken within a minute",
    )


def certificate_families(lives: Iterable[CertificateLife], common: Labels, now_s: float) -> list[Family]:
    """Return the metric, which is ours, beside those of the spec sheet."""
    return [
        gauges(
            "edgeAgent_certificate_expiry_seconds",
            "Time until a certificate of this edge expires, below zero afterwards",
            common,
            ("certificate",),
            {(life.name,): round(life.not_after_s - now_s) for life in lives},
        )
    ]
