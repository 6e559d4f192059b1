"""The clock of the hub, whose `steady_s` goes on where it was when the hub, or the machine, starts again.

Within one boot the monotonic clock says how long that took, whatever became of the time of day meanwhile;
over a reboot only the time of day can.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from messaging.errors import EdgeError
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)

JUMP_S: Final = 60.0  # by so much the time of day has to change before that is written down


class SteadyClock:
    """Implements `messaging.clock.Clock`. One process at a time has the file."""

    def __init__(
        self,
        path: Path,
        boot_id: str,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Go on where the file says.

        Args:
            path: The file; it is made where it is missing.
            boot_id: Names this boot of the machine.
            now_s: The time of day of this machine.
            monotonic_s: Its monotonic clock.
        """
        self.now_s = now_s
        self.monotonic_s = monotonic_s
        self._path = path
        self._boot_id = boot_id
        self._ahead_s = self._kept_ahead_s()  # of the monotonic clock
        self._skew_s = 0.0  # by how much it is ahead of the time of day, as is written down
        self._keep()

    def steady_s(self) -> float:
        """Return the time that nobody sets; see `Clock`."""
        steady_s = self.monotonic_s() + self._ahead_s
        if abs(steady_s - self.now_s() - self._skew_s) > JUMP_S:
            self._keep()
        return steady_s

    def _kept_ahead_s(self) -> float:
        since_boot_s = self.now_s() - self.monotonic_s()
        try:
            kept = json.loads(self._path.read_bytes())
            return float(
                kept["ahead_s"] if kept["boot_id"] == self._boot_id else since_boot_s + kept["skew_s"]
            )
        except FileNotFoundError:
            return since_boot_s
        except (OSError, ValueError, TypeError, KeyError) as exc:
            log.warning("%s cannot be read, so times to live go by the time of day: %s", self._path, exc)
            return since_boot_s

    def _keep(self) -> None:
        self._skew_s = self.monotonic_s() + self._ahead_s - self.now_s()
        kept = {"boot_id": self._boot_id, "ahead_s": self._ahead_s, "skew_s": self._skew_s}
        try:
            write_private_file(self._path, json.dumps(kept).encode(), durable=False)
        except EdgeError as exc:  # messages wait all the same; after a restart some may expire too early
            log.warning("how long messages have waited may be forgotten: %s", exc)
