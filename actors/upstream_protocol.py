"""How the link to the cloud speaks: the values of `UpstreamProtocol`.

Source: spec sheets agent.md section 8, observability.md section 6
"""

from __future__ import annotations

from enum import StrEnum


class UpstreamProtocol(StrEnum):
    """A protocol and its port; `…Ws` is WebSocket on 443, where firewalls let nothing else out."""

    AMQP = "Amqp"  # 5671, all identities over one connection
    AMQP_WS = "AmqpWs"
    MQTT = "Mqtt"  # 8883, a connection for each identity
    MQTT_WS = "MqttWs"
    AMQP_ELSE_WS = "Amqp, else AmqpWs"  # what the reference does unless one is named

    @property
    def is_amqp(self) -> bool:
        return self in (UpstreamProtocol.AMQP, UpstreamProtocol.AMQP_WS, UpstreamProtocol.AMQP_ELSE_WS)


DEFAULT = UpstreamProtocol.MQTT
NAMES = tuple(each.value for each in UpstreamProtocol if each is not UpstreamProtocol.AMQP_ELSE_WS)


def parse_protocol(text: str) -> UpstreamProtocol:
    """Read one of `NAMES`, in any case.

    Raises:
        ValueError: it is none of them.
    """
    for name in NAMES:
        if name.casefold() == text.strip().casefold():
            return UpstreamProtocol(name)
    raise ValueError
