"""Cloud-to-device messages that came over AMQP and are not settled: the cloud keeps them until they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from messaging.amqp.link import Delivery

MOST: Final = 50  # IoT Hub has no more for a device


class HeldMessages:
    """Those of one device, on one link."""

    most: Final = MOST

    def __init__(self) -> None:
        self._undecided: set[Delivery] = set()
        self._left = 0  # not taken, and held until the link ends: the cloud would send them again at once

    def __len__(self) -> int:
        """Return how many nobody has decided upon."""
        return len(self._undecided)

    def hold(self, delivery: Delivery) -> None:
        """Keep one until it is decided upon."""
        self._undecided.add(delivery)

    def decide(self, delivery: Delivery, is_taken: bool) -> bool:
        """Let the cloud forget one, or not; False when that is no more to be decided."""
        if delivery not in self._undecided:
            return False
        self._undecided.discard(delivery)
        if is_taken:
            delivery.accept()
        else:
            self._left += 1
        return True

    def missing(self, credit: int) -> int:
        """Return how much credit to grant: little is, when many are not decided upon or were left."""
        free = MOST - self._left - len(self._undecided) - credit
        return free if free >= MOST // 2 else 0

    def forget(self) -> None:
        """The link has ended."""
        self._undecided.clear()
        self._left = 0
