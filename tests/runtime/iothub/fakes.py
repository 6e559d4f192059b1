"""A connected device without a wire, and how the tests of the stand-in open a hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from messaging.clock import ManualClock
from messaging.identity import Identity
from messaging.sas import audience_of, decode_key, make_token
from runtime.iothub.hub import IotHub
from runtime.iothub.records import C2dMessage, CutOff, Features, Grant

HOST = "hub.local"
LIMIT_S = 10.0

Test = Callable[[IotHub, ManualClock], Coroutine[Any, Any, None]]


def run(folder: Path, test: Test) -> None:
    """Run a test with a hub in `folder` whose clock stands still."""

    async def main() -> None:
        async with opened(folder) as (hub, clock), asyncio.timeout(LIMIT_S):
            await test(hub, clock)

    asyncio.run(main())


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[tuple[IotHub, ManualClock]]:
    """Open a hub in `folder`, and close it."""
    clock = ManualClock()
    hub = await IotHub.open(folder, HOST, clock=clock, **settings)
    try:
        yield hub, clock
    finally:
        await hub.close()


class FakeDevice:
    """Implements DeviceSession: remembers what it is told, in order, and lets a test wait for it."""

    def __init__(self, hub: IotHub, grant: Grant) -> None:
        self.hub = hub
        self.grant = grant
        self.told: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    @classmethod
    async def connect(
        cls, hub: IotHub, device_id: str, module_id: str | None = None, features: Features | None = None
    ) -> Self:
        """Connect with the key of the identity, listening for everything."""
        identity = Identity(device_id, module_id)
        grant = await hub.authenticate(identity, await token_of(hub, identity), None)
        device = cls(hub, grant)
        hub.connected(grant, device)
        hub.features_changed(grant, device, features or Features(True, True, True))
        return device

    async def next(self) -> tuple[Any, ...]:
        """Wait for the next thing the device is told."""
        async with asyncio.timeout(LIMIT_S):
            return await self.told.get()

    def desired_patched(self, patch: Mapping[str, Any], version: int) -> None:
        self.told.put_nowait(("desired", dict(patch), version))

    def method(self, request_id: str, name: str, payload: bytes) -> None:
        self.told.put_nowait(("method", request_id, name, payload))

    def c2d(self, message: C2dMessage, lock: str) -> None:
        self.told.put_nowait(("c2d", message, lock))

    def cut_off(self, why: CutOff) -> None:
        self.told.put_nowait(("cut off", why))


async def token_of(hub: IotHub, identity: Identity, seconds: float = 60) -> str:
    """Return a token with the primary key of an identity."""
    registered = await hub.find(identity)
    key = decode_key(registered.authentication.primary_key)
    return make_token(audience_of(hub.host_name, identity), key, int(hub.clock.now_s() + seconds))
