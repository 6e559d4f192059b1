"""All listeners of the hub as one, for its MQTT head: MQTT over TLS, over WebSocket, and plain."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from actors.admission import Admission
from actors.ports import ConnectionHandler, Listener
from runtime.listening_sockets import Use
from runtime.mqtt_listener import MqttListener
from runtime.tls_server import ServerCertificate
from runtime.web_listener import HandleRequest, TakePassedOn, WebListener


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


def hub_listener(
    sockets: Mapping[Use, Sequence[socket.socket]],
    certificate: ServerCertificate,
    admission: Admission,
    answer: HandleRequest,
    passed_on: TakePassedOn,
    *,
    web_socket: bool = True,
) -> Listeners:
    """Return what serves these sockets; their connections are admitted together, requests go to `answer`,
    certificates that a proxy passes on to `passed_on`.

    Without `web_socket` there is no MQTT on the web port.
    """
    return Listeners(
        MqttListener(sockets[Use.MQTT], sockets[Use.PLAIN_MQTT], certificate, admission),
        WebListener(
            sockets[Use.WEB], certificate, answer, admission, web_socket=web_socket, passed_on=passed_on
        ),
    )
