"""Where fault scripts reach into a process that was started with `--allow-faults`."""

from __future__ import annotations

import time

from actors.kernel.faults import FaultsActor
from messaging.bus import Faults
from messaging.envelope_faults import EnvelopeFaults
from messaging.zmq_bus import ZmqBus


def faults_actor(bus: ZmqBus) -> FaultsActor:
    """Return the actor that takes the rules; with the first one, the cells begin to ask for them."""

    def use(faults: Faults) -> None:
        bus.faults = faults

    return FaultsActor(EnvelopeFaults(time.sleep), use)
