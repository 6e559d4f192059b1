"""Connections to IoT Hub, or to what stands in for it: one per identity, over MQTT or AMQP.

Implements `actors/upstream/connection.py`. What a protocol needs is loaded with the first connection that
opens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from actors.upstream.connection import CloudAccess, CloudConnection, CloudFault, CloudObserver, Fault
from actors.upstream.protocol import DEFAULT, UpstreamProtocol
from messaging.clock import Clock, SystemClock
from runtime.net import amqp_engine
from runtime.upstream.batches import BATCH_MESSAGES, Batches
from runtime.upstream.loop import CloudLoop
from runtime.upstream.openers import Openers
from runtime.upstream.probe import Probes
from runtime.upstream.shared import AMQP, AMQP_WS, MQTT, MQTT_WS, CloudTimes, Shared, Way
from runtime.upstream.trust import Trust

if TYPE_CHECKING:
    from runtime.upstream.amqp_connection import AmqpConnection
    from runtime.upstream.amqp_line import Line
    from runtime.upstream.mqtt_connection import SdkConnection

log = logging.getLogger(__name__)

_FAREWELL_S: Final = 2.0
MEMBERS: Final = 900  # identities on one line: IoT Hub takes a thousand
_WAYS: Final = {
    UpstreamProtocol.AMQP: (AMQP,),
    UpstreamProtocol.AMQP_WS: (AMQP_WS,),
    UpstreamProtocol.MQTT: (MQTT,),
    UpstreamProtocol.MQTT_WS: (MQTT_WS,),
    UpstreamProtocol.AMQP_ELSE_WS: (AMQP, AMQP_WS),
}


class UpstreamConnections:
    """Implements `CloudConnections`: a loop, a few threads that open connections, and probes."""

    def __init__(
        self,
        protocol: UpstreamProtocol = DEFAULT,
        times: CloudTimes | None = None,
        clock: Clock | None = None,
        *,
        batch_messages: int = BATCH_MESSAGES,
    ) -> None:
        protocol = _possible(protocol)
        self._ways: tuple[Way, ...] = _WAYS[protocol]
        self._is_amqp = protocol.is_amqp
        self._probes = Probes(*(way.port for way in self._ways))
        self._batch_messages = batch_messages
        self._loop = CloudLoop()
        self._openers = Openers()
        self._shared = Shared(
            self._loop, self._openers, Trust(), times or CloudTimes(), clock or SystemClock()
        )
        self._made: set[AmqpConnection | SdkConnection] = set()
        self._lines: dict[tuple[str, str, tuple[Way, ...]], list[Line]] = {}  # by host and whom to trust

    def make(self, access: CloudAccess, observer: CloudObserver) -> CloudConnection:
        made: AmqpConnection | SdkConnection
        if self._is_amqp:
            from runtime.upstream.amqp_connection import AmqpConnection

            batches = Batches(self._batch_messages)
            made = AmqpConnection(access, observer, self._line(access), batches)
        else:
            from runtime.upstream.mqtt_connection import SdkConnection

            made = SdkConnection(access, observer, self._shared, self._ways[0])
        made.on_closed = partial(self._made.discard, made)
        self._made.add(made)
        return made

    def speak(self, protocol: UpstreamProtocol) -> None:
        """Make connections like this from now on; those there are, of another protocol, are lost."""
        protocol = _possible(protocol)
        self._is_amqp, self._ways = protocol.is_amqp, _WAYS[protocol]
        self._probes.use(*(way.port for way in self._ways))
        for made in list(self._made):
            made.drop(CloudFault(Fault.UNREACHABLE, f"the link speaks {protocol} from now on"))

    def probe(self, host_name: str, reached: Callable[[], None]) -> None:
        self._probes.probe(host_name, reached)

    def close(self) -> None:
        self._probes.close()
        for made in list(self._made):
            made.close()
        self._loop.close()
        self._openers.close(_FAREWELL_S)

    def _line(self, access: CloudAccess) -> Line:
        """Return the line for an identity: all to one host share one, until it is full."""
        from runtime.upstream.amqp_line import Line

        lines = self._lines.setdefault((access.host_name, access.ca_pem, self._ways), [])
        for line in lines:
            if len(line.members) < MEMBERS:
                return line
        lines.append(Line(access.host_name, access.ca_pem, self._shared, self._ways))
        return lines[-1]


def _possible(protocol: UpstreamProtocol) -> UpstreamProtocol:
    """Return the protocol, or where AMQP cannot be had what reaches the same cloud without it."""
    if not protocol.is_amqp or amqp_engine.is_installed():
        return protocol
    instead = UpstreamProtocol.MQTT_WS if protocol is UpstreamProtocol.AMQP_WS else UpstreamProtocol.MQTT
    log.warning("the link speaks %s and not %s: %s", instead, protocol, amqp_engine.WAY_OUT)
    return instead
