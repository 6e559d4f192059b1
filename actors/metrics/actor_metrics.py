"""How the actors of a process fare, as metrics. These are our own, beside those of the spec sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actors.metrics.registry import Of, gauges
from messaging.exposition import Family, Kind, Labels


class ActorCounts(NamedTuple):
    """One actor since it was started; a restart of its behaviour does not reset it."""

    address: str
    waiting: int  # messages that its thread has taken over and not handled yet
    handled: int
    failures: int
    restarts: int


_FAMILIES: tuple[tuple[str, str, Kind], ...] = (
    ("actor_mailbox_depth", "Messages in the mailbox that its actor has seen and not handled", "gauge"),
    ("actor_handled_total", "Messages handled", "counter"),
    ("actor_failures_total", "Messages at which the actor failed, and starts that failed", "counter"),
    ("actor_restarts_total", "Restarts of the actor after a failure", "counter"),
)


def actor_families(prefix: str, common: Labels, actors: Sequence[ActorCounts]) -> list[Family]:
    """Return the families of these actors; `prefix` is that of the process, with its underscore."""
    found = []
    for column, (name, help_text, kind) in enumerate(_FAMILIES, start=1):
        values: dict[Of, float] = {(actor.address,): actor[column] for actor in actors}  # type: ignore[misc]
        found.append(gauges(prefix + name, help_text, common, ("actor",), values, kind))
    return found
