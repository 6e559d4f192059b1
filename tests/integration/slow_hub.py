"""The hub process with a disk that can be made slow: `python -m tests.integration.slow_hub --home H --run R`.

Each commit takes as many seconds longer as the file `commit_s` in the home says, none without that file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.hub import main
from runtime.storage.message_db import MessageDb
from tests.fakes.file_cloud import file_cloud


class SlowMessageDb(MessageDb):
    """Holds up each commit, as a worn memory card does."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            time.sleep(self._commit_s())

    def _commit_s(self) -> float:
        try:
            return float((self.path.parent / "commit_s").read_text())
        except FileNotFoundError:
            return 0.0


if __name__ == "__main__":
    sys.exit(main(SlowMessageDb.open, file_cloud))
