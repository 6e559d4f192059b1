"""The switch of the link to the cloud and the copy of the identities, in memory."""

from __future__ import annotations

from actors.hub.identity import KnownIdentities
from messaging.errors import EnvironmentFault


class MemorySwitch:
    """Implements `actors.ports.LinkSwitch`; `full` makes it unwritable."""

    def __init__(self, on: bool = True) -> None:
        self.on = on
        self.full = False

    def is_on(self) -> bool:
        return self.on

    def switch(self, on: bool) -> None:
        if self.full:
            raise EnvironmentFault("cannot write 'upstream.off': no space left on device")
        self.on = on


class MemoryCopy:
    """Implements `actors.hub.identities.IdentityCopy`. `full` makes it unwritable."""

    def __init__(self, known: KnownIdentities | None = None) -> None:
        self.known = known
        self.full = False

    def load(self) -> KnownIdentities | None:
        return self.known

    def save(self, known: KnownIdentities) -> None:
        if self.full:
            raise EnvironmentFault("cannot write 'identities.copy': no space left on device")
        self.known = known
