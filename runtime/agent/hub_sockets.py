"""The agent's hold on the hub's listening sockets: bound once, kept over every restart of the hub."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from messaging.errors import EdgeError, EnvironmentFault
from runtime.config.listen_addresses import ListenAddress
from runtime.net import listening_sockets, socket_handover
from runtime.net.listening_sockets import Use, address_of

log = logging.getLogger(__name__)

SETTINGS: Final = {
    Use.MQTT: "--listen",
    Use.AMQP: "the setting hub.amqp_listen",
    Use.WEB: "the setting hub.web_listen",
    Use.PLAIN_MQTT: "the setting hub.plain_listen",
    Use.METRICS: "HttpSettings__metrics_port of edgeHub in the deployment",
}
MISSED: Final = {
    Use.AMQP: "no AMQP",
    Use.WEB: "no MQTT and AMQP over WebSocket, and no HTTPS",
    Use.METRICS: "no metrics of edgeHub over HTTP there, only with `edge-actors metrics`",
}
TAKE_LIMIT_S: Final = 5.0  # a hub that was started a moment ago needs a part of a second


class Wanted(Struct, frozen=True):
    """An address for one use. The hub does without an optional one that cannot be had."""

    use: Use
    address: ListenAddress
    is_optional: bool = False


class HubSockets:
    """The sockets for the addresses of the settings, in their order. Any thread may call."""

    def __init__(
        self, wanted: Sequence[Wanted], beside: Callable[[], Sequence[socket.socket]] = lambda: ()
    ) -> None:
        """Keep what is needed; `beside` as in `listening_sockets.bind`."""
        self._wanted = tuple(wanted)
        self._beside = beside
        self._held: list[socket.socket] = []
        self._missed: set[Wanted] = set()  # that the user has been told of
        self._lock = threading.RLock()

    def take_back(self, run_dir: Path, has_ended: Callable[[], bool]) -> bool:
        """Take duplicates from a hub that outlived its agent; returns whether it gave them.

        `has_ended` says whether that hub has ended meanwhile.
        """
        taken = socket_handover.take(run_dir, TAKE_LIMIT_S, has_ended)
        if taken is None:
            return False
        self._held = taken
        return True

    def must_wait_for_hub(self) -> bool:
        """Return whether an address that the hub should not have any more keeps a wanted one from us."""
        _, missing, removed = self._sorted()
        return any(_is_in_the_way(listener, missing) for listener in removed)

    def bind(self) -> None:
        """Have a socket for every address: kept where there is one, bound where not; close all others.

        Raises:
            EnvironmentFault: an address cannot be had that is not optional.
        """
        with self._lock:
            kept, missing, removed = self._sorted()
            for listener in removed:
                if _is_in_the_way(listener, missing):
                    self._close(listener)
            bound: dict[Wanted, socket.socket] = {}
            try:
                for wanted in sorted(missing, key=lambda one: one.is_optional):
                    self._bind_one(wanted, bound)
            except EnvironmentFault:
                for listener in bound.values():
                    listener.close()
                raise
            for listener in removed:
                self._close(listener)
            have = kept | bound
            self._held = [have[wanted] for wanted in self._wanted if wanted in have]

    def listen_on(self, wanted: Sequence[Wanted]) -> None:
        """Want other addresses and have them; the hub gets them at its next start.

        Raises:
            EnvironmentFault: one cannot be had; all stays as it was.
        """
        with self._lock:
            before = self._wanted
            self._wanted = tuple(wanted)
            try:
                self.bind()
            except EdgeError:
                self._wanted = before
                raise

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Want other addresses, to be bound at the next start of the hub."""
        with self._lock:
            self._wanted = tuple(wanted)

    def to_environment(self) -> tuple[Mapping[str, str], tuple[int, ...]]:
        """Return environment and descriptors for the hub process."""
        kept, _, _ = self._sorted()
        return listening_sockets.to_environment((wanted.use, kept[wanted]) for wanted in kept)

    def held(self) -> Sequence[socket.socket]:
        """Return what we hold."""
        with self._lock:
            return tuple(self._held)

    def close(self) -> None:
        """Close what we hold; a hub that lives has its own."""
        with self._lock:
            for listener in self._held:
                listener.close()
            self._held = []

    def _bind_one(self, wanted: Wanted, bound: dict[Wanted, socket.socket]) -> None:
        try:
            [bound[wanted]] = listening_sockets.bind([wanted.address], SETTINGS[wanted.use], self._beside())
            self._missed.discard(wanted)
        except EnvironmentFault as exc:
            if not wanted.is_optional:
                raise
            if wanted not in self._missed:
                self._missed.add(wanted)
                log.warning("%s: %s", MISSED[wanted.use], exc)

    def _close(self, listener: socket.socket) -> None:
        if listener in self._held:
            log.info("not listening on %s any more", address_of(listener))
            self._held.remove(listener)
            listener.close()

    def _sorted(self) -> tuple[dict[Wanted, socket.socket], list[Wanted], list[socket.socket]]:
        """Return what is held and wanted, what is wanted only, and what is held only."""
        removed = list(self._held)
        kept: dict[Wanted, socket.socket] = {}
        for wanted in self._wanted:
            fitting = next((have for have in removed if wanted.address.is_met_by(address_of(have))), None)
            if fitting is not None:
                kept[wanted] = fitting
                removed.remove(fitting)
        return kept, [wanted for wanted in self._wanted if wanted not in kept], removed


def _is_in_the_way(listener: socket.socket, missing: Iterable[Wanted]) -> bool:
    return any(address_of(listener).stands_in_the_way_of(wanted.address) for wanted in missing)
