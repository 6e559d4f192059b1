"""What one turn of the store writes, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgpack
from msgspec import Struct, field

from actors.hub.c2d_queues import queue_of
from actors.hub.own_expiry import with_own_expiry
from actors.ports.storage import MessageStore
from actors.store.messages import Append, DeleteSession, ForgetClient, SaveSession, Undeliverable
from actors.store.stored import Match, Segment, gathered, position_of, segments_of
from messaging.clock import Clock
from messaging.envelope import Envelope
from messaging.errors import StoreError
from messaging.kinds import kind_of

SLICE_MESSAGES: Final = 1000


class Turn(Struct):
    """What waits for the commit at the end of the turn."""

    appends: list[tuple[Envelope, Append]] = field(default_factory=list)
    delivered: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    poison: list[Undeliverable] = field(default_factory=list)
    sessions: list[tuple[Envelope, SaveSession | DeleteSession | ForgetClient]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.appends or self.delivered or self.poison or self.sessions)

    def put_off(self, other: Turn) -> None:
        """Take over what another turn would have forgotten."""
        for endpoint_id, ranges in other.delivered.items():
            self.delivered.setdefault(endpoint_id, []).extend(ranges)
        self.poison += other.poison
        other.delivered, other.poison = {}, []

    def has_only_one_append(self) -> bool:
        """Say whether it is a single batch and nothing else."""
        return len(self.appends) == 1 and not (self.delivered or self.poison or self.sessions)

    def one_by_one(self) -> list[Turn]:
        """Return each batch as a turn of its own, and then all the rest."""
        rest = Turn(delivered=self.delivered, poison=self.poison, sessions=self.sessions)
        return [*(Turn([append]) for append in self.appends), rest]


def write(store: MessageStore, turn: Turn, clock: Clock) -> tuple[int, list[Segment]]:
    """Write one transaction; return the sequence number of the first new message, and all new messages.

    The expiry that a sender gave is a time of day; times to live are kept by a clock that nobody sets. So one
    that was wrong at first, as after a boot without a network, lets nothing expire when it is set.

    Raises:
        StoreError: Nothing of it was written.
    """
    segments = gathered(
        [
            segment
            for _, append in turn.appends
            for segment in segments_of(with_own_expiry(append.headers, clock.now_s()), append.entries)  # type: ignore[arg-type]
        ]
    )
    with store.transaction():
        first = store.append(segments, clock.steady_s()) if segments else 0
        if turn.delivered:
            store.delivered(turn.delivered)
        for given_up in turn.poison:
            store.dropped(given_up.endpoint_id, given_up.ranges, "poison")
        for _, request in turn.sessions:
            if isinstance(request, SaveSession):
                store.save_session(request.identity, msgpack.packb(request.subscriptions))
                continue
            store.delete_session(request.identity)
            if isinstance(request, ForgetClient):
                queue = queue_of(request.identity)
                while store.drop_queue(queue, "removed", SLICE_MESSAGES) == SLICE_MESSAGES:
                    pass  # the cloud lets 50 wait
    return first, segments


def write_one_by_one(
    store: MessageStore,
    envelope: Envelope,
    message: Append,
    clock: Clock,
    is_poison: Callable[[Envelope, Exception], None],
) -> Iterator[tuple[int, list[Segment]]]:
    """Write each message of a batch in a transaction of its own; return what `write` does of each.

    In the place of one that cannot be stored goes an empty one, dropped as poison; `is_poison` is told of
    each. So the batch can be acknowledged, and its client does not send the poison for ever.

    Raises:
        StoreError: This message and those behind it were not written.
        Exception: Not even an empty message can be: it is not the messages.
    """
    for at, entry in enumerate(message.entries):
        alone = _single(message, at)
        try:
            written = write(store, Turn([(envelope, alone)]), clock)
        except StoreError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this message alone
            _write_in_its_place(store, message, entry, clock.steady_s())
            body = kind_of(Append).values(alone)
            is_poison(envelope._replace(correlation_id=0, body=body), exc)
        else:
            yield written


def _write_in_its_place(store: MessageStore, message: Append, entry: tuple[int, bytes], now_s: float) -> None:
    """Count a message that cannot be stored: accepted by each of its endpoints, and dropped as poison."""
    matches = tuple(Match(*match) for match in message.headers[entry[0]][1])
    with store.transaction():
        seq = store.append([Segment(matches, (b"",), ((0, b""),))], now_s)
        for endpoint_id, priority, _ in matches:
            position = position_of(priority, seq)
            store.dropped(endpoint_id, [(position, position)], "poison")


def _single(message: Append, at: int) -> Append:
    """Return one message of a batch as a batch of its own."""
    index, body = message.entries[at]
    header = message.headers[index]
    return Append(message.identity, message.epoch, message.index, (header,), ((0, body),))
