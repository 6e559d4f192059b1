"""What tests of the hub's actors share: one actor in virtual time, and mailboxes around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.memory_system import MemorySystem
from actors.store.stored import DEFAULT_PRIORITY, Match
from messaging.bus import make_envelope
from messaging.envelope import Envelope
from messaging.kinds import kind_named

T = TypeVar("T")


class World:
    """Actors under test, started on one seeded thread; every other address is a mailbox to look into."""

    def __init__(self, *mailboxes: str, seed: int = 1) -> None:
        self.system = MemorySystem(seed)
        self.clock = self.system.clock
        self.dead_letters = self.system.bus.dead_letters
        self._takers = {address: self.system.mailbox(address) for address in mailboxes}
        self._seen: dict[str, list[Envelope]] = {address: [] for address in mailboxes}
        self._ids = iter(range(1, 1_000_000))

    def start(self, address: str, build: Callable[[], EdgeActor]) -> None:
        """Start an actor; `test` is its parent and hears of its restarts when it has a mailbox."""
        self.system.spawn(ChildSpec(address, build), address, "test" if "test" in self._takers else "")
        self.system.run()

    def turn(self, to: str, *messages: object, sender: str) -> list[int]:
        """Let the actor handle these requests in one turn; return their correlation ids."""
        cell = self.system.cells[to]
        ids = []
        for message in messages:
            ids.append(next(self._ids))
            cell.deliver(self.envelope(to, message, sender, ids[-1]))
            if cell.ended:
                break
        else:
            cell.turn_ended()
            cell.turn_over()
        self.system.run()
        return ids

    def envelope(self, to: str, message: object, sender: str, correlation_id: int) -> Envelope:
        now_s, deadline_s = self.clock.now_s(), self.clock.monotonic_s() + 20.0
        return make_envelope(message, to, sender, correlation_id, 0, correlation_id, now_s, deadline_s)

    def tell(self, to: str, message: object, sender: str, correlation_id: int = 0) -> None:
        """Send one message, and let everything come to rest."""
        self.system.bus.send(to, message, sender=sender, correlation_id=correlation_id)
        self.system.run()

    def letters(self, address: str) -> list[Envelope]:
        """Return and forget what has come into a mailbox."""
        self._seen[address] += self._takers[address]()
        letters, self._seen[address] = self._seen[address], []
        return letters

    def told(self, address: str, kind: type[T]) -> list[T]:
        """Return and forget the messages of one kind; others stay."""
        self._seen[address] += self._takers[address]()
        found = [letter for letter in self._seen[address] if letter.kind == kind.__name__]
        self._seen[address] = [letter for letter in self._seen[address] if letter.kind != kind.__name__]
        return [message_in(letter) for letter in found]

    def described(self, address: str) -> dict[str, Any]:
        """Return what an actor says of itself."""
        return self.system.cells[address]._behaviour.describe()


def message_in(envelope: Envelope) -> Any:
    kind = kind_named(envelope.kind)
    assert kind is not None
    return kind.build(*envelope.body)


def to(*endpoint_ids: str, priority: int = DEFAULT_PRIORITY, ttl_s: float | None = None) -> tuple[Match, ...]:
    return tuple(Match(endpoint_id, priority, ttl_s) for endpoint_id in endpoint_ids)
