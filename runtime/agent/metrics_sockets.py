"""Where the agent tells its metrics over HTTP: its listening sockets, as the deployment wants them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable
from typing import Final

from messaging.errors import EnvironmentFault
from runtime.config.listen_addresses import ListenAddress
from runtime.net import listening_sockets
from runtime.net.metrics_server import MetricsServer

log = logging.getLogger(__name__)

SETTING: Final = "the variable port of edgeAgent in the deployment"
MISSED: Final = "no metrics of edgeAgent over HTTP there, only with `edge-actors metrics`: %s"


class AgentMetricsSockets:
    """Binds what is wanted, closes the rest, tells once what cannot be had. Any thread may call."""

    def __init__(self, server: MetricsServer) -> None:
        """Take who serves on the sockets."""
        self._server = server
        self._held: dict[ListenAddress, socket.socket] = {}
        self._missed: set[ListenAddress] = set()  # that the user has been told of
        self._lock = threading.Lock()

    def listen_on(self, addresses: Iterable[ListenAddress], path: str) -> None:
        """Serve these addresses, and no others."""
        with self._lock:
            wanted = tuple(addresses)
            left = [self._held.pop(address) for address in list(self._held) if address not in wanted]
            for address in wanted:
                if address not in self._held:
                    self._bind(address)
            self._server.use(self._held.values(), path)
            for listener in left:
                listener.close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            for listener in self._held.values():
                listener.close()
            self._held.clear()

    def _bind(self, address: ListenAddress) -> None:
        try:
            [self._held[address]] = listening_sockets.bind([address], SETTING)
            self._missed.discard(address)
        except EnvironmentFault as exc:
            if address not in self._missed:
                self._missed.add(address)
                log.warning(MISSED, exc)
