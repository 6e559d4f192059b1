"""The listeners of the hub's protocol heads: over TLS, over WebSocket, and plain; what they share."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from msgspec import Struct

from actors.heads.admission import Admission
from actors.manifest.hub_environment import HubEnvironment
from actors.ports.connections import ConnectionHandler, Listener
from runtime.agent.connection_keeper import GivenConnections
from runtime.net.listening_sockets import Use
from runtime.net.stream_listener import StreamListener
from runtime.net.tls_server import ServerCertificate
from runtime.net.web_listener import AMQP, MQTT, HandleRequest, TakePassedOn, WebListener


class Listeners:
    """Implements `actors.ports.Listener` by several, for one handler."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections on all of them."""
        for listener in self._listeners:
            listener.open(handler)

    def close(self) -> None:
        """Accept no more."""
        for listener in self._listeners:
            listener.close()


class HeadListeners(Struct, frozen=True):
    """What the MQTT head and the AMQP head listen with."""

    mqtt: Listener
    amqp: Listener


def head_listeners(
    sockets: Mapping[Use, Sequence[socket.socket]],
    certificate: ServerCertificate,
    admission: Admission,
    answer: HandleRequest,
    passed_on: TakePassedOn,
    environment: HubEnvironment,
    kept: GivenConnections,
) -> HeadListeners:
    """Return what serves these sockets; their connections are admitted together, and `kept` once their
    clients are known; requests go to `answer`, certificates that a proxy passes on to `passed_on`.

    The web port takes connections while all heads that there are have opened their part of it: without AMQP
    there is no AMQP head. There always is one for MQTT, whose part is then switched off.
    """
    web = WebListener(
        sockets[Use.WEB],
        certificate,
        answer,
        admission,
        subprotocols=(MQTT, AMQP) if environment.amqp_enabled else (MQTT,),
        switched_off={
            name: f"this hub does not speak {name}: {variable} of edgeHub is false"
            for name, variable, is_enabled in (
                (MQTT, "MqttSettings__Enabled", environment.mqtt_enabled),
                (AMQP, "AmqpSettings__Enabled", environment.amqp_enabled),
            )
            if not is_enabled
        },
        passed_on=passed_on,
        kept=kept,
    )
    return HeadListeners(
        Listeners(
            StreamListener(
                "MQTT", sockets[Use.MQTT], sockets[Use.PLAIN_MQTT], certificate, admission, kept=kept
            ),
            web.part(MQTT),
        ),
        Listeners(
            # uamqp writes disposition and flow apart, and sends the second when the first is acknowledged:
            # otherwise 40 ms for each message.
            StreamListener(
                "AMQP", sockets[Use.AMQP], (), certificate, admission, acknowledges_at_once=True, kept=kept
            ),
            web.part(AMQP),
        ),
    )
