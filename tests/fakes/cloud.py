"""The way to the cloud and the copy of the identities, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from actors.hub_identity import KnownIdentities
from messaging.errors import EnvironmentFault
from messaging.message import Message


class MemoryLink:
    """Implements `actors.ports.CloudLink`. `down` says why nothing gets through; `poison` is never sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.down = ""
        self.poison = b""
        self.sends = 0
        self.closed = 0
        self._on = True

    def send(self, messages: Sequence[Message]) -> None:
        self.sends += 1
        if self.down:
            raise EnvironmentFault(self.down)
        if self.poison and any(message.body == self.poison for message in messages):
            raise ValueError("this message cannot be sent")
        self.bodies += [message.body for message in messages]

    def is_on(self) -> bool:
        return self._on

    def switch(self, on: bool) -> None:
        self._on = on

    def close(self) -> None:
        self.closed += 1


class MemoryCopy:
    """Implements `actors.identities.IdentityCopy`. `full` makes it unwritable."""

    def __init__(self, known: KnownIdentities | None = None) -> None:
        self.known = known
        self.full = False

    def load(self) -> KnownIdentities | None:
        return self.known

    def save(self, known: KnownIdentities) -> None:
        if self.full:
            raise EnvironmentFault("cannot write 'identities.copy': no space left on device")
        self.known = known
