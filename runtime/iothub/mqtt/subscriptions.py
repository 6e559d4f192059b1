"""What one MQTT client of the stand-in subscribed to: which filters it may have, and what they switch on.

IoT Hub knows a handful of filters and refuses all others in its SUBACK, where an edge hub grants them without
effect. So a typing error shows, rather than a client that waits for ever.

Source: spec sheet hub-protocols.md sections 0.2, 1.3 and 1.5
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from messaging.identity import Identity
from messaging.mqtt.filters import matches
from messaging.mqtt.packets import SUBSCRIPTION_FAILURE
from messaging.topics import Feature, classify_filter
from runtime.iothub.records import Features

MOST_FILTERS: Final = 5  # per client, as IoT Hub
HIGHEST_QOS: Final = 1


class Subscriptions:
    """The filters of one client, each with the QoS that was granted."""

    def __init__(self, identity: Identity) -> None:
        module = f"/modules/{identity.module_id}" if identity.module_id is not None else ""
        self._own = f"devices/{identity.device_id}{module}/"
        self._filters: dict[str, int] = {}

    def subscribe(self, topic_filter: str, qos: int) -> int:
        """Add a filter or change its QoS; returns the code for the SUBACK, 0x80 when it is refused."""
        if topic_filter not in self._filters and (
            len(self._filters) >= MOST_FILTERS or not self._may_have(topic_filter)
        ):
            return SUBSCRIPTION_FAILURE
        granted = min(qos, HIGHEST_QOS)
        self._filters[topic_filter] = granted
        return granted

    def unsubscribe(self, topic_filter: str) -> None:
        """Remove a filter, if it is there."""
        self._filters.pop(topic_filter, None)

    def qos_of(self, topic: str) -> int | None:
        """Return at which QoS a message on this topic goes to the client; None: not at all."""
        return max((qos for wanted, qos in self._filters.items() if matches(wanted, topic)), default=None)

    @property
    def filters(self) -> Mapping[str, int]:
        """All filters with their QoS."""
        return dict(self._filters)

    @property
    def features(self) -> Features:
        """What the filters switch on."""
        found = {classify_filter(topic_filter) for topic_filter in self._filters}
        is_device = "/modules/" not in self._own
        return Features(
            methods=Feature.METHODS in found,
            desired=Feature.DESIRED_PROPERTIES in found,
            c2d=is_device and Feature.C2D in found,
        )

    def _may_have(self, topic_filter: str) -> bool:
        feature = classify_filter(topic_filter)
        if feature is Feature.C2D:
            return topic_filter == f"{self._own}messages/devicebound/#"
        if feature is Feature.MODULE_MESSAGES:
            return topic_filter.startswith(self._own)
        return feature is not Feature.UNKNOWN

    # what is kept of a persistent session

    def encode(self) -> bytes:
        """Return the filters as they are kept on disk."""
        return msgspec.msgpack.encode(self._filters)

    def load(self, record: bytes) -> None:
        """Take over the filters of a record that `encode` made.

        Raises:
            ValueError: it is damaged.
        """
        self._filters = msgspec.msgpack.decode(record, type=dict[str, int])
