"""What the inspector sees of one actor without asking it: one that hangs is seen as well."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from actors.kernel.handler_times import Percentiles
from messaging.zmq_bus import LOOK_AHEAD


class ActorSight(NamedTuple):
    """One actor, at one moment."""

    address: str
    parent: str  # "" of a root
    behaviour: str  # its class
    state: str  # starting, running, stopping; ended: it gave up
    doing: str  # the kind of a message that it has been at for a second or longer, else ""
    doing_s: float  # for how long at least
    control: int  # messages that wait, of each lane
    data: int
    handled: int  # since it was started; a restart of its behaviour does not reset it
    failures: int
    restarts: int
    last_error: str  # "" without one; of one that has ended the reason
    times: Percentiles | None  # of its handlers; None before the first message


# Control messages are never held back, so their number has no limit. Of data an actor takes over this many
# frames; what more there is waits in ZeroMQ, bounded by the byte credits of those who send (DESIGN.md).
CONTROL_LIMIT: Final = None
DATA_LIMIT: Final = LOOK_AHEAD


def as_values(sight: ActorSight) -> dict[str, Any]:
    """Return a sight as plain values, under the names that `edge-actors inspect actors --json` shows."""
    times = sight.times
    return {
        "address": sight.address,
        "parent": sight.parent,
        "behaviour": sight.behaviour,
        "state": sight.state,
        "doing": sight.doing,
        "doing_s": sight.doing_s,
        "mailbox": {
            "control": {"depth": sight.control, "limit": CONTROL_LIMIT},
            "data": {"depth": sight.data, "limit": DATA_LIMIT},
        },
        "handled": sight.handled,
        "failures": sight.failures,
        "restarts": sight.restarts,
        "last_error": sight.last_error,
        "p50_ms": None if times is None else times.p50_s * 1000,
        "p99_ms": None if times is None else times.p99_s * 1000,
    }
