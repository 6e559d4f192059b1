"""The MQTT broker and its bridges as metrics: who is there, what goes through, what waits.

All of them are ours: the reference's broker told its metrics to its cloud alone. The actors of broker and
bridges say each second what they stand at; whoever asks gets that. What bridges have forwarded and dropped is
counted in their database, so a restart does not reset it; the counters of the broker begin with the hub.

Names are made as spec sheet observability.md section 1 says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from actors.metrics.registry import Of, gauges
from messaging.exposition import Family, Labels

if TYPE_CHECKING:
    from actors.ports.bridges import QueueState
    from messaging.broker.engine import Broker, Counts


class BrokerStand(Struct, frozen=True):
    """What the broker stands at."""

    counts: Counts
    retained: int
    connected: int  # sessions whose client is there
    away: int  # sessions whose client is not
    subscriptions: int
    in_flight: int
    queued: int
    queued_bytes: int


class BridgeStand(Struct, frozen=True):
    """What a bridge stands at."""

    endpoint: str
    is_connected: bool
    outward: QueueState
    inward: QueueState


class Stands:
    """What broker and bridges stood at last. Each is replaced whole by its actor, so any thread may look."""

    def __init__(self) -> None:
        """Begin with a hub that has no broker."""
        self.broker: BrokerStand | None = None
        self.bridges: Sequence[BridgeStand] = ()


def stand_of(engine: Broker) -> BrokerStand:
    """Return what a broker stands at, in the thread that has it."""
    connected = subscriptions = in_flight = queued = queued_bytes = 0
    sessions = engine.sessions()
    for session in sessions:
        connected += session.outlet is not None
        subscriptions += len(session.filters)
        in_flight += session.in_flight
        queued += len(session.unsent) + session.awaiting
        queued_bytes += session.queued_bytes
    return BrokerStand(
        engine.counts(),
        len(engine.retained),
        connected,
        len(sessions) - connected,
        subscriptions,
        in_flight,
        queued,
        queued_bytes,
    )


def broker_families(stands: Stands, common: Labels) -> list[Family]:
    """Return the families of broker and bridges; none where there is no broker."""
    broker = stands.broker
    return [] if broker is None else [*_of_broker(broker, common), *_of_bridges(stands.bridges, common)]


def _of_broker(broker: BrokerStand, common: Labels) -> list[Family]:
    def counter(name: str, help_text: str, values: dict[Of, float], labels: Of = ()) -> Family:
        return gauges(f"edgehub_broker_{name}_total", help_text, common, labels, values, "counter")

    def gauge(name: str, help_text: str, value: float) -> Family:
        return gauges(f"edgehub_broker_{name}", help_text, common, (), {(): value})

    counts = broker.counts
    states: dict[Of, float] = {("connected",): broker.connected, ("away",): broker.away}
    return [
        counter(
            "messages_received", "Messages published to topics", _by_qos(counts.published), labels=("qos",)
        ),
        counter("messages_sent", "Messages sent to subscribers", _by_qos(counts.sent), labels=("qos",)),
        counter("messages_dropped", "Messages that found no room in a queue", {(): counts.dropped}),
        counter("retained_dropped", "Messages that found no room to be retained", {(): counts.not_retained}),
        gauge("retained_messages", "Messages that are retained", broker.retained),
        gauges("edgehub_broker_sessions", "Sessions of clients and bridges", common, ("state",), states),
        gauge("subscriptions", "Filters that sessions are subscribed to", broker.subscriptions),
        gauge("messages_in_flight", "Messages that were sent and not acknowledged", broker.in_flight),
        gauge("queued_messages", "Messages that wait to be sent", broker.queued),
        gauge("queued_bytes", "Bytes of these", broker.queued_bytes),
    ]


def _by_qos(counts: Sequence[int]) -> dict[Of, float]:
    return {(str(qos),): count for qos, count in enumerate(counts)}


def _of_bridges(bridges: Sequence[BridgeStand], common: Labels) -> list[Family]:
    queues = {
        (bridge.endpoint, direction): queue
        for bridge in bridges
        for direction, queue in (("out", bridge.outward), ("in", bridge.inward))
    }
    labels = ("endpoint", "direction")

    def counter(name: str, help_text: str, values: dict[Of, float]) -> Family:
        return gauges(f"edgehub_broker_bridge_{name}_total", help_text, common, labels, values, "counter")

    def gauge(name: str, help_text: str, values: dict[Of, float]) -> Family:
        return gauges(f"edgehub_broker_bridge_{name}", help_text, common, labels, values)

    return [
        gauges(
            "edgehub_broker_bridge_connected",
            "1 while the bridge is connected to the other broker, else 0",
            common,
            ("endpoint",),
            {(bridge.endpoint,): bridge.is_connected for bridge in bridges},
        ),
        gauge(
            "queued_messages",
            "Messages that wait to be forwarded",
            {key: queue.messages for key, queue in queues.items()},
        ),
        gauge("queued_bytes", "Bytes of these", {key: queue.bytes for key, queue in queues.items()}),
        counter(
            "messages_forwarded",
            "Messages that have arrived at the other end",
            {key: queue.forwarded for key, queue in queues.items()},
        ),
        counter(
            "messages_dropped",
            "Messages that found no room in the queue or were too large",
            {key: queue.dropped for key, queue in queues.items()},
        ),
    ]
