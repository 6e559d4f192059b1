"""How much the broker keeps for clients that do not take it. Source: spec sheet broker.md section 2"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

DAY_S: Final = 24 * 3600.0
# Packet ids of a connection are shared: its IoT Hub messages have the lower half, its topics the upper one.
FIRST_PACKET_ID: Final = 32_768
LAST_PACKET_ID: Final = 65_535
MOST_IN_FLIGHT: Final = LAST_PACKET_ID - FIRST_PACKET_ID + 1
# All queues together are in memory as well as on disk, and so are retained messages.
MOST_QUEUED_BYTES: Final = 64 * 1024 * 1024
MOST_RETAINED_BYTES: Final = 16 * 1024 * 1024


class Limits(Struct, frozen=True):
    """The limits of each session, and of retained messages. A number of 0 means: no limit of its own."""

    max_in_flight: int = 16  # sent to a client and not acknowledged
    max_queued: int = 1000  # messages that wait for a client
    max_queued_bytes: int = 0
    drops_oldest: bool = False  # of a full queue, the oldest goes; else the new one does not come in
    session_expiry_s: float = 60 * DAY_S  # for which a persistent session is kept without its client
    max_retained: int = 1000
    retained_expiry_s: float = 60 * DAY_S

    @property
    def window(self) -> int:
        """How many messages may be in flight to one client."""
        return min(self.max_in_flight or MOST_IN_FLIGHT, MOST_IN_FLIGHT)


DEFAULT_LIMITS: Final = Limits()
