"""The hub process with a database that cannot take the body `poison`; arguments as of runtime.hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from actors.store.stored import Segment
from runtime.hub import main
from runtime.storage.message_db import MessageDb
from tests.fakes.file_cloud import file_cloud

POISON = b"poison"


class PickyMessageDb(MessageDb):
    """Fails at one message, whatever the batch it comes in, and not for want of a disk."""

    def append(self, segments: Sequence[Segment], now_s: float) -> int:
        if any(body == POISON for segment in segments for _, body in segment.entries):
            raise ValueError("no place for this in any table")
        return super().append(segments, now_s)


if __name__ == "__main__":
    sys.exit(main(PickyMessageDb.open, file_cloud))
