"""Tells the services of the hub which clients of a head are there and what they want. Knows no protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from actors.hub.client_services import ClientChanged, ClientGone, HeadStarted
from actors.kernel.base import EdgeActor
from messaging.lifecycle import Watch


class Client(Protocol):
    """A client of a head; `features` is what the services were told that it wants, None: nothing yet."""

    client_id: str
    features: tuple[str, ...] | None
    model_id: str


class Presence:
    """A part of a head, which calls it."""

    def __init__(self, head: EdgeActor, *services: str) -> None:
        """Take the addresses of those who want to know."""
        self._head = head
        self._services = services

    def started(self) -> None:
        """The head serves clients from now on."""
        for service in self._services:
            self._head.tell(service, Watch())
            self._head.tell(service, HeadStarted())

    def restarted(self, service: str, clients: Iterable[Client]) -> None:
        """A service may have forgotten who there is."""
        if service in self._services:
            for client in clients:
                self._introduce(client, service)

    def wants(self, client: Client, features: tuple[str, ...]) -> None:
        """A client has connected or wants something else: tell the services, if that is news."""
        if features != client.features:
            client.features = features
            for service in self._services:
                self._introduce(client, service)

    def gone(self, client: Client) -> None:
        """The client is not connected any more."""
        if client.features is not None:
            for service in self._services:
                self._head.tell(service, ClientGone(client.client_id))

    def _introduce(self, client: Client, service: str) -> None:
        if client.features is not None:
            self._head.tell(service, ClientChanged(client.client_id, client.features, client.model_id))
