"""Reads the ledger for metrics, beside the store, which goes on meanwhile."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from actors.store.stored import Ledger
from messaging.errors import EdgeError
from runtime.storage.message_ledger import read_ledger

log = logging.getLogger(__name__)

SHARE: Final = 20  # one part in so many of the time may go into counting: long queues take long


class LedgerSource:
    """The ledger of a moment ago. Used by one thread."""

    def __init__(self, database: Path) -> None:
        """Take the message database."""
        self._database = database
        self._due_s = 0.0
        self._known: Ledger | None = None
        self._trouble = ""

    def read(self) -> Ledger | None:
        """Return the ledger; None while there is none that can be read, which the log has."""
        began_s = time.monotonic()
        if began_s < self._due_s:
            return self._known
        try:
            self._known = read_ledger(self._database)
            self._trouble = ""
        except EdgeError as exc:
            self._known = None
            if str(exc) != self._trouble:
                self._trouble = str(exc)
                log.warning("metrics have no queue lengths and no ledger: %s", exc)
        now_s = time.monotonic()
        self._due_s = now_s + (now_s - began_s) * SHARE
        return self._known
