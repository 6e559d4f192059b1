"""How much of each measurement `scripts/bench/all` makes."""

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What all measurements are told."""

    directory: Path  # for homes; on a real disk
    quick: bool = False  # one short round of each

    def rounds(self, count: int) -> int:
        return 1 if self.quick else count

    def seconds(self, seconds: float) -> float:
        return min(seconds, 1.0) if self.quick else seconds

    def some(self, count: int, few: int) -> int:
        return few if self.quick else count


def say(text: str) -> None:
    """Tell who waits what is going on."""
    print(text, file=sys.stderr, flush=True)
