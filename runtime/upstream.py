"""Connections to IoT Hub, or to what stands in for it: one per identity, on `azure-iot-device`.

Implements `actors/cloud_connection.py`. The SDK is loaded with the first connection that opens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from actors.cloud_connection import CloudAccess, CloudObserver
from messaging.clock import Clock, SystemClock
from runtime.cloud_loop import CloudLoop
from runtime.cloud_openers import Openers
from runtime.cloud_probe import Probes
from runtime.cloud_trust import Trust
from runtime.upstream_connection import CloudTimes, SdkConnection, Shared

_FAREWELL_S: Final = 2.0


class SdkConnections:
    """Implements `CloudConnections`: a loop, a few threads that open connections, and probes."""

    def __init__(self, times: CloudTimes | None = None, clock: Clock | None = None) -> None:
        self._loop = CloudLoop()
        self._openers = Openers()
        self._probes = Probes()
        self._shared = Shared(
            self._loop, self._openers, Trust(), times or CloudTimes(), clock or SystemClock()
        )
        self._made: set[SdkConnection] = set()

    def make(self, access: CloudAccess, observer: CloudObserver) -> SdkConnection:
        made = SdkConnection(access, observer, self._shared)
        made.on_closed = partial(self._made.discard, made)
        self._made.add(made)
        return made

    def probe(self, host_name: str, reached: Callable[[], None]) -> None:
        self._probes.probe(host_name, reached)

    def close(self) -> None:
        self._probes.close()
        for made in list(self._made):
            made.close()
        self._loop.close()
        self._openers.close(_FAREWELL_S)
