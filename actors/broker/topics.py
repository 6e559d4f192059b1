"""What is told of the broker: who subscribes to what, what goes where. Light to import, for programs."""

from __future__ import annotations

from typing import Any, Final

from messaging.broker.engine import Broker
from messaging.broker.session import Session
from messaging.kinds import message

# An envelope holds so much, and nobody reads more.
TOLD_TOPICS: Final = 200
TOLD_CLIENTS: Final = 300
TOLD_FILTERS: Final = 50
LONGEST_TOLD: Final = 200  # characters of a topic or filter


@message
class DescribeTopics:
    """Tell who subscribes to what, and what goes where. Answered with Topics."""


@message
class Topics:
    """What goes on at the broker, as plain values for `edge-actors topics`."""

    about: dict[str, Any]


def described(engine: Broker, per_s: dict[str, float]) -> dict[str, Any]:
    """Return the busiest topics with their rates, and the busiest clients with their subscriptions."""
    counted = engine.published_to
    topics = sorted(counted, key=lambda topic: counted[topic], reverse=True)
    clients = sorted(engine.sessions(), key=lambda session: session.sent + session.published, reverse=True)
    counts = engine.counts()
    return {
        "published": sum(counts.published),
        "sent": sum(counts.sent),
        "dropped": counts.dropped,
        "notRetained": counts.not_retained,
        "retained": len(engine.retained),
        "topics": [
            {"topic": _cut(topic), "messages": counted[topic], "perSecond": per_s.get(topic, 0.0)}
            for topic in topics[:TOLD_TOPICS]
        ],
        "moreTopics": max(0, len(topics) - TOLD_TOPICS),
        "clients": [_client(session) for session in clients[:TOLD_CLIENTS]],
        "moreClients": max(0, len(clients) - TOLD_CLIENTS),
    }


def _client(session: Session) -> dict[str, Any]:
    filters = list(session.filters.items())
    return {
        "client": session.name,
        "connected": session.outlet is not None,
        "persistent": session.is_persistent,
        "filters": {_cut(topic_filter): qos for topic_filter, qos in filters[:TOLD_FILTERS]},
        "moreFilters": max(0, len(filters) - TOLD_FILTERS),
        "published": session.published,
        "sent": session.sent,
        "inFlight": session.in_flight,
        "waiting": len(session.unsent) + session.awaiting,
        "dropped": session.dropped,
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}…"
