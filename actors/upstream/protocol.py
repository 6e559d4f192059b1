"""How the link to the cloud speaks: the values of `UpstreamProtocol`.

Source: spec sheets agent.md section 8, observability.md section 6
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from messaging.nearest import did_you_mean


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


DEFAULT: Final = UpstreamProtocol.AMQP_ELSE_WS
NAMES: Final = tuple(each.value for each in UpstreamProtocol if each is not UpstreamProtocol.AMQP_ELSE_WS)
ALLOWED: Final = "Amqp, AmqpWs, Mqtt or MqttWs, in any case"
VARIABLE: Final = "UpstreamProtocol"  # of edgeHub and of edgeAgent


def parse_protocol(text: str) -> UpstreamProtocol:
    """Read one of `NAMES`, in any case.

    Raises:
        ValueError: it is none of them; says which there are.
    """
    for name in NAMES:
        if name.casefold() == text.strip().casefold():
            return UpstreamProtocol(name)
    raise ValueError(f"{ALLOWED}{did_you_mean(text, NAMES)}")
