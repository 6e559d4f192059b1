"""Which sessions get what is published to a topic: looked up once, remembered until somebody subscribes."""

from __future__ import annotations

from typing import Final

from messaging.broker.session import Session
from messaging.mqtt.filters import SubscriptionTree

# Clients choose topics, so what is remembered of them is bounded.
REMEMBERED_TOPICS: Final = 4096
LONGEST_REMEMBERED: Final = 512  # characters


class Route:
    """The sessions that get what is published to a topic, by the QoS granted to them."""

    __slots__ = ("_granted", "_ways")

    def __init__(self, granted: dict[Session, int]) -> None:
        self._granted = granted
        self._ways: list[list[tuple[int, list[Session], list[Session]]] | None] = [None, None, None]

    def ways(self, qos: int) -> list[tuple[int, list[Session], list[Session]]]:
        """Return, for messages of this QoS: (QoS of delivery, transient sessions, persistent ones).

        At QoS 0 all are among the first.
        """
        ways = self._ways[qos]
        if ways is None:
            by_qos: dict[int, tuple[list[Session], list[Session]]] = {}
            for session, granted in self._granted.items():
                effective = min(qos, granted)  # [MQTT-3.8.4-6]
                group = by_qos.setdefault(effective, ([], []))
                group[1 if effective and session.is_persistent else 0].append(session)
            ways = self._ways[qos] = [(effective, *group) for effective, group in by_qos.items()]
        return ways


class Routes:
    """The subscriptions of all sessions."""

    def __init__(self) -> None:
        self._tree: SubscriptionTree[tuple[Session, int]] = SubscriptionTree()
        self._known: dict[str, Route] = {}

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> None:
        """Add a subscription, or change its QoS."""
        self._tree.subscribe(topic_filter, session, (session, qos))
        self._known.clear()

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """Remove the one with exactly this filter."""
        self._tree.unsubscribe(topic_filter, session)
        self._known.clear()

    def remove_all(self, session: Session) -> None:
        """Remove all of a session."""
        self._tree.remove_all(session)
        self._known.clear()

    def to(self, topic: str) -> Route:
        """Return who gets what is published to a topic."""
        route = self._known.get(topic)
        if route is None:
            granted: dict[Session, int] = {}
            for session, qos in self._tree.match(topic):
                if granted.get(session, -1) < qos:  # one copy at the highest QoS [MQTT-3.3.5-1]
                    granted[session] = qos
            route = Route(granted)
            if len(topic) <= LONGEST_REMEMBERED:
                if len(self._known) >= REMEMBERED_TOPICS:
                    self._known.clear()
                self._known[topic] = route
        return route
