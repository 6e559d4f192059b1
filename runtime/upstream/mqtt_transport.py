"""The MQTT transport of `azure-iot-device`, served by the loop of all connections.

The SDK's clients are not used, for four reasons (measured, DESIGN.md): all clients of a process share one
thread, on which a TLS handshake blocks; a message hops between four threads; a message from the cloud is
acknowledged before the application has seen it; and a client has two threads of its own. What is below them,
`MQTTTransport` on paho, has none of that, and its loop is made to be replaced.

This file alone knows what is private in the two: `_mqtt_client` and `_create_ssl_context` of the SDK;
`_send_puback`, `_create_socket_connection` and `_reconnect_on_failure` of paho 1.6. A test names them.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlencode

from azure.iot.device import constant, user_agent
from azure.iot.device.common.mqtt_transport import MQTTTransport
from msgspec import Struct

from actors.upstream.connection import CloudAccess
from runtime.upstream.loop import FAREWELL_S, CloudLoop
from runtime.upstream.shared import Way

# What it says of each message, topics with their properties among it, is no story for an operator.
for _name in ("azure.iot.device", "paho"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# More than this is not handed to the kernel at once, so that a twin request or a ping of a slow link waits
# for little telemetry.
_UNSENT_BYTES: Final = 16 * 1024


class HeldMessage(Struct):
    """A message from the cloud that is not acknowledged yet."""

    packet_id: int = 0  # 0: it needs no acknowledgement
    is_settled: bool = False


class CloudTransport(MQTTTransport):
    """One connection, used once. `connect` blocks and has a thread of its own; all else is for the loop."""

    def __init__(
        self, access: CloudAccess, trust: ssl.SSLContext, loop: CloudLoop, keep_alive_s: int, way: Way
    ) -> None:
        self._trust = trust
        super().__init__(  # type: ignore[no-untyped-call]  # the SDK has few types
            client_id=access.identity.id,
            hostname=access.host_name,
            username=user_name(access),
            keep_alive=keep_alive_s,
            websockets=way.is_web_socket,
        )
        self.refill: Callable[[], bool] = lambda: False  # publishes what waits; tells whether there is more
        self.heard: Callable[[], object] = lambda: None
        self._loop = loop
        self._socket: ssl.SSLSocket | None = None
        self._handshaking: socket.socket | None = None
        self._holding: HeldMessage | None = None
        self._is_ended = False
        self._client = _paho(self)
        self._client.max_inflight_messages_set(0)  # how many are under way is the caller's decision
        self._client.loop_start = self._begin
        self._client.loop_stop = _nothing
        self._client.on_socket_register_write = self._has_written
        self._client.on_socket_close = self._closing
        self._client._reconnect_on_failure = False
        self._connect_socket = self._client._create_socket_connection
        self._client._create_socket_connection = self._create_socket
        self._acknowledge = self._client._send_puback
        self._client._send_puback = self._acknowledge_or_hold

    def _create_ssl_context(self) -> ssl.SSLContext:
        """Share one context: the system's authorities alone are half a megabyte."""
        return self._trust

    # opening: the thread that called `connect`

    def _create_socket(self) -> socket.socket:
        created: socket.socket = self._connect_socket()
        if self._is_ended:
            created.close()
            raise ConnectionAbortedError
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self._handshaking = created.dup()  # TLS takes the socket over; to break off needs one of our own
        return created

    def _begin(self) -> int:
        self._loop.call(self._serve)
        return 0

    # on the loop

    def hold(self) -> HeldMessage:
        """Do not acknowledge the message that is being told, but when it is handed to `acknowledge`."""
        self._holding = HeldMessage()
        return self._holding

    def hold_nothing(self) -> None:
        """Acknowledge the message that is being told, as usual."""
        self._holding = None

    def acknowledge(self, held: HeldMessage) -> None:
        """Tell the cloud that a held message has been taken."""
        if held.packet_id:
            self._acknowledge(held.packet_id)

    def has_more(self) -> None:
        """Ask for `refill` as soon as there is room."""
        if self._socket is not None and not self._client.want_write():
            self._loop.wants_write(self._socket, True)

    def look_after(self) -> None:
        """Ping when it is time, and give up when the cloud does not answer: to be called each second."""
        self._client.loop_misc()

    def end(self) -> None:
        """Say goodbye and close, now or within a second; tell nothing any more."""
        self._is_ended = True
        self.refill, self.heard = lambda: False, _nothing
        self.on_mqtt_connected_handler = self.on_mqtt_connection_failure_handler = _nothing
        self.on_mqtt_disconnected_handler = self.on_mqtt_message_received_handler = _nothing
        self.break_off()
        self.shutdown()  # type: ignore[no-untyped-call]
        self._write()
        if self._socket is not None:
            self._loop.later(FAREWELL_S / 2, self._close_socket)

    def break_off(self) -> None:
        """Let a TLS handshake that is under way fail."""
        handshaking, self._handshaking = self._handshaking, None
        if handshaking is not None:
            if self._socket is None:
                try:
                    handshaking.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has failed by itself
            handshaking.close()

    def _serve(self) -> None:
        self._socket = self._client.socket()
        if self._is_ended:
            self._close_socket()  # while it was made; nothing has been said on it
        elif self._socket is not None:
            self._loop.watch(self._socket, self._ready)
            self.break_off()
            self._write()

    def _ready(self, is_readable: bool) -> None:
        if is_readable:
            self.heard()
            # TLS may keep what the kernel no longer has.
            while self._client.loop_read() == 0 and self._socket is not None and self._socket.pending():
                pass
        self._write()

    def _write(self) -> None:
        is_more = False
        if self._socket is not None and not self._client.want_write():
            is_more = self.refill()
        if self._socket is not None:
            self._client.loop_write()
        if self._socket is not None:
            self._loop.wants_write(self._socket, is_more or self._client.want_write())

    def _has_written(self, *_: object) -> None:
        """Paho has a packet to send: it leaves with all that are written in this turn of the loop."""
        if self._socket is not None:
            self._loop.wants_write(self._socket, True)

    def _closing(self, _client: object, _data: object, closing: socket.socket) -> None:
        self._loop.forget(closing)
        self._socket = None

    def _close_socket(self) -> None:
        if self._socket is not None:
            left, self._socket = self._socket, None
            self._loop.forget(left)
            left.close()

    def _acknowledge_or_hold(self, packet_id: int) -> Any:
        held, self._holding = self._holding, None
        if held is None:
            return self._acknowledge(packet_id)
        held.packet_id = packet_id
        return 0


def user_name(access: CloudAccess) -> str:
    """Return the MQTT user name of an identity: as the SDK's clients have it, or as an edge's hub has it."""
    agent: str = user_agent.get_iothub_user_agent()  # type: ignore[no-untyped-call]
    product = ("DeviceClientType", agent)
    properties = [("api-version", constant.IOTHUB_API_VERSION), product]
    if access.model_id:
        model = (constant.DIGITAL_TWIN_QUERY_HEADER, access.model_id)
        properties = [("api-version", constant.DIGITAL_TWIN_API_VERSION), product, model]
    if access.signer is not None:
        properties.append(("auth-chain", f"{access.identity.device_id};{access.signer.device_id}"))
    return f"{access.host_name}/{access.identity}/?{urlencode(properties, quote_via=quote)}"


def _paho(transport: MQTTTransport) -> Any:
    return transport._mqtt_client


def _nothing(*_: object) -> int:
    return 0
