"""What the cloud has of what this edge reports, and what it lacks: one patch at a time. Pure.

Times are monotonic.

Source: spec sheet agent.md section 6.5
"""

from __future__ import annotations

from typing import Final

from messaging.twin import Json, difference

REPORT_SPACING_S: Final = 2.0  # between two reports; each counts against the operations of the IoT Hub


class CloudReport:
    """The reported properties of one twin, here and in the cloud."""

    def __init__(self) -> None:
        self._state: Json | None = None  # what the cloud shall have; None: nobody has said yet
        self._known: Json | None = None  # what it has; None: that is not known
        self._refused: Json | None = None  # a state that it does not take
        self._under_way: Json | None = None  # what it has once the patch that was sent is taken
        self._next_s = 0.0

    @property
    def is_owed_an_answer(self) -> bool:
        """Whether the cloud has still to say what became of a patch, on top of what it is known to have."""
        return self._known is not None and self._under_way is not None

    def shall_be(self, state: Json) -> None:
        """Have the cloud know this, and nothing else."""
        self._state = state

    def read(self, reported: Json) -> None:
        """Note what the cloud says that it has."""
        self._known = reported

    def lost(self) -> None:
        """The connection is gone: what the cloud has is read again on the next one."""
        self._known = self._under_way = None

    def patch(self) -> Json:
        """Return what is to be sent now, {} when nothing is or can be."""
        if self._state is None or self._known is None or self._under_way is not None:
            return {}
        return {} if self._state == self._refused else difference(self._known, self._state)

    def wait_s(self, now_s: float) -> float:
        """Return how long that should wait, for the last one was a moment ago; 0 or less: not at all."""
        return self._next_s - now_s

    def sent(self, now_s: float) -> None:
        """The patch is on its way."""
        self._under_way = self._state
        self._next_s = now_s + REPORT_SPACING_S

    def taken(self) -> None:
        """The patch has arrived."""
        self._known, self._under_way = self._under_way, None

    def failed(self, is_final: bool) -> None:
        """The patch was refused, for good or not; if not, it may have arrived all the same."""
        if is_final:
            self._refused = self._under_way
        else:
            self._known = None
        self._under_way = None
