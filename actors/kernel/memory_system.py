"""All actors of a process on one thread, in an order drawn from a seed, under a clock that is moved by hand.

Ninety days of certificates pass in seconds, and every run repeats from its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.cell import ActorCell
from messaging.bus import MemoryBus
from messaging.clock import ManualClock
from messaging.envelope import Envelope, decode

MOST_STEPS: Final = 1_000_000  # more than this without rest is a loop between actors


class MemorySystem:
    """Spawns cells on a MemoryBus and runs them; implements the cells' System."""

    def __init__(self, seed: int = 0, process: str = "test") -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(process, self.clock, seed)
        self.cells: dict[str, ActorCell] = {}
        self._listeners: dict[str, list[Envelope]] = {}

    def spawn(self, spec: ChildSpec, address: str, parent: str) -> None:
        """Start one actor; see System."""
        self.bus.open(address)

        def end(reason: str) -> None:
            del self.cells[address]
            cell.announce_end(reason, self.bus.close(address))

        cell = ActorCell(address, parent, spec.build, self.bus, self, end)
        self.cells[address] = cell
        cell.start()

    def start(self, address: str, build: Callable[[], EdgeActor]) -> str:
        """Start a root actor."""
        self.spawn(ChildSpec(address, build), address, "")
        return address

    def mailbox(self, address: str) -> Callable[[], list[Envelope]]:
        """Open a mailbox without an actor; the function returns what has come in since it was last called."""
        self.bus.open(address)
        taken: list[Envelope] = []
        self._listeners[address] = taken

        def take() -> list[Envelope]:
            letters = list(taken)
            taken.clear()
            return letters

        return take

    def run(self) -> int:
        """Deliver until all is quiet; returns the number of deliveries. Timers wait for `advance`."""
        for step in range(MOST_STEPS):
            drawn = self.bus.draw()
            if drawn is None:
                return step
            address, frame = drawn
            if address in self._listeners:
                self._listeners[address].append(decode(frame))
                continue
            cell = self.cells[address]
            cell.receive(frame)
            if not cell.ended:
                cell.turn_ended()
            if not cell.ended:
                cell.turn_over()
        raise RuntimeError(f"{MOST_STEPS} deliveries and no rest: actors answer each other for ever")

    def advance(self, seconds: float) -> None:
        """Let time pass: every timer fires at its time, in order, with all deliveries in between."""
        self.run()
        end_s = self.clock.monotonic_s() + seconds
        while True:
            due = [(due_s, cell) for cell in self.cells.values() if (due_s := cell.next_due_s()) is not None]
            if not due:
                break
            due_s, cell = min(due, key=lambda pair: pair[0])
            if due_s > end_s:
                break
            self.clock.advance(max(0.0, due_s - self.clock.monotonic_s()))
            cell.run_due_timers()
            if not cell.ended:
                cell.turn_ended()
            if not cell.ended:
                cell.turn_over()
            self.run()
        self.clock.advance(max(0.0, end_s - self.clock.monotonic_s()))
