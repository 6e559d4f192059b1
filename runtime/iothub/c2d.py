"""Cloud-to-device messages: a queue per device, locks, expiry; feedback is left for senders who want it.

A message that was passed on is locked for a minute: acknowledged in that time it is gone, else it is passed
on again. A lost connection gives its locks back at once. Locks are in memory, messages on disk.

Source: spec sheets hub-protocols.md sections 7.4 and 7.7, security-daemon.md section 4.7
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import Struct

from messaging import system_properties as names
from messaging.clock import Clock
from messaging.identity import Identity
from messaging.time_text import iso_utc
from runtime.iothub import feedback, identities, refusals
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.records import Ack, C2dMessage, Feedback, Grant, Outcome
from runtime.iothub.sessions import Sessions

QUEUE_DEPTH: Final = 50
LARGEST_BYTES: Final = 64 * 1024  # body, names and values of properties
TTL_S: Final = 3600.0
LOCK_S: Final = 60.0
MOST_DELIVERIES: Final = 10

_TELLS: Mapping[Outcome, tuple[Ack, ...]] = {
    "Success": ("positive", "full"),
    "Expired": ("negative", "full"),
    "DeliveryCountExceeded": ("negative", "full"),
    "Rejected": ("negative", "full"),
    "Purged": ("negative", "full"),
}


class _Locked(Struct, frozen=True):
    device_id: str
    sequence_number: int
    until_s: float


class C2dQueues:
    """The queues of all devices; runs in the loop, its jobs in the thread of the database."""

    def __init__(self, db: CloudDb, clock: Clock, sessions: Sessions) -> None:
        self._db = db
        self._clock = clock
        self._sessions = sessions
        self._locks: dict[str, _Locked] = {}
        self._locked: set[int] = set()

    async def send(
        self,
        device_id: str,
        body: bytes,
        properties: Mapping[str, str | None],
        system_properties: Mapping[str, str | None],
        ack: Ack,
        expires_s: float | None,
    ) -> C2dMessage:
        """Queue a message; see `IotHub.send_c2d`."""
        now_s = self._clock.now_s()
        message_id = system_properties.get(names.MESSAGE_ID) or str(uuid.uuid4())
        stamped = {
            **system_properties,
            names.MESSAGE_ID: message_id,
            names.TO: f"/devices/{device_id}/messages/devicebound",
        }
        if ack != "none":
            stamped[names.ACK] = ack
        if expires_s is not None:
            stamped[names.EXPIRY] = iso_utc(expires_s)
        message = C2dMessage(
            message_id,
            dict(properties),
            stamped,
            body,
            enqueued_s=now_s,
            expires_s=now_s + TTL_S if expires_s is None else expires_s,
            ack=ack,
        )
        _check_size(message)

        def enqueue(connection: sqlite3.Connection) -> C2dMessage:
            device = identities.get(connection, Identity(device_id))
            (waiting,) = connection.execute(
                "SELECT count(*) FROM c2d WHERE device_id = ? AND expires_s > ?", (device_id, now_s)
            ).fetchone()
            if waiting >= QUEUE_DEPTH:
                raise refusals.queue_full(device_id, QUEUE_DEPTH)
            data = msgspec.msgpack.encode((device.generation_id, message))
            cursor = connection.execute(
                "INSERT INTO c2d (device_id, expires_s, delivery_count, data) VALUES (?, ?, 0, ?)",
                (device_id, message.expires_s, data),
            )
            return replace(message, sequence_number=cursor.lastrowid or 0)

        return await self._db.run(enqueue, lambda _: self.deliver(Identity(device_id)))

    def deliver(self, identity: Identity) -> None:
        """Pass on what waits for a device, if it listens. Nothing ever waits for a module."""
        device_id = identity.device_id
        found = self._sessions.find(identity)
        if identity.module_id is None and found is not None and found.features.c2d:
            now_s = self._clock.now_s()
            future = self._db.run(
                lambda connection: _waiting(connection, device_id, now_s),
                lambda messages: self._pass_on(device_id, messages),
            )
            future.add_done_callback(_look_away)

    def _pass_on(self, device_id: str, messages: Sequence[C2dMessage]) -> None:
        found = self._sessions.find(Identity(device_id))
        if found is None or not found.features.c2d:
            return
        for message in messages:
            if message.sequence_number in self._locked:
                continue
            lock = str(uuid.uuid4())
            self._locked.add(message.sequence_number)
            self._locks[lock] = _Locked(device_id, message.sequence_number, self._clock.now_s() + LOCK_S)
            found.session.c2d(message, lock)

    def settle(self, grant: Grant, lock: str, outcome: Outcome) -> Coroutine[Any, Any, None]:
        """The device took (`Success`) or refused (`Rejected`) a message.

        The lock is taken at once, so that a device that is gone before this runs does not give it back.
        """
        return self._settle(self._settled(grant, lock), outcome)

    async def _settle(self, locked: _Locked | None, outcome: Outcome) -> None:
        if locked is None:
            return
        now_s = self._clock.now_s()
        future = self._db.run(
            lambda connection: _take_out(connection, "seq = ?", (locked.sequence_number,), outcome, now_s)
        )
        # Until it is off the disk, whoever has just read the queue must not pass it on.
        future.add_done_callback(lambda _: self._locked.discard(locked.sequence_number))
        await future

    def abandon(self, grant: Grant, lock: str) -> Coroutine[Any, Any, None]:
        """The device wants the message later. The lock is taken at once, as by `settle`."""
        return self._abandon(grant, self._settled(grant, lock))

    async def _abandon(self, grant: Grant, locked: _Locked | None) -> None:
        if locked is None:
            return
        self._locked.discard(locked.sequence_number)
        now_s = self._clock.now_s()

        def count(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE c2d SET delivery_count = delivery_count + 1 WHERE seq = ?", (locked.sequence_number,)
            )
            too_often = (locked.sequence_number, MOST_DELIVERIES)
            _take_out(
                connection, "seq = ? AND delivery_count >= ?", too_often, "DeliveryCountExceeded", now_s
            )

        await self._db.run(count, lambda _: self.deliver(grant.identity))

    def release(self, identity: Identity) -> None:
        """The device is gone: what it had not acknowledged waits again."""
        if identity.module_id is not None:
            return
        device_id = identity.device_id
        for lock in [lock for lock, locked in self._locks.items() if locked.device_id == device_id]:
            self._locked.discard(self._locks.pop(lock).sequence_number)

    async def purge(self, device_id: str) -> int:
        """Empty the queue of a device and return how many messages that were."""
        now_s = self._clock.now_s()

        def empty(connection: sqlite3.Connection) -> int:
            identities.get(connection, Identity(device_id))
            return _take_out(connection, "device_id = ?", (device_id,), "Purged", now_s)

        return await self._db.run(empty, lambda _: self.release(Identity(device_id)))

    async def sweep(self) -> None:
        """Give up what expired, pass on again what was not acknowledged in time."""
        now_s = self._clock.now_s()

        late = [lock for lock, locked in self._locks.items() if locked.until_s <= now_s]
        devices = {self._locks[lock].device_id for lock in late}
        for lock in late:
            self._locked.discard(self._locks.pop(lock).sequence_number)
        await self._db.run(
            lambda connection: _take_out(connection, "expires_s <= ?", (now_s,), "Expired", now_s)
        )
        for device_id in devices:
            self.deliver(Identity(device_id))

    def _settled(self, grant: Grant, lock: str) -> _Locked | None:
        locked = self._locks.get(lock)
        if locked is None or grant.identity != Identity(locked.device_id):
            return None
        return self._locks.pop(lock)


def count_waiting(connection: sqlite3.Connection, device_id: str) -> int:
    """Return how many messages wait for a device."""
    (count,) = connection.execute("SELECT count(*) FROM c2d WHERE device_id = ?", (device_id,)).fetchone()
    return int(count)


def _waiting(connection: sqlite3.Connection, device_id: str, now_s: float) -> list[C2dMessage]:
    rows = connection.execute(
        "SELECT seq, delivery_count, data FROM c2d WHERE device_id = ? AND expires_s > ? ORDER BY seq",
        (device_id, now_s),
    ).fetchall()
    return [_decode(data, seq, count)[1] for seq, count, data in rows]


def _take_out(
    connection: sqlite3.Connection,
    where: str,
    parameters: tuple[object, ...],
    outcome: Outcome,
    now_s: float,
) -> int:
    """Delete messages, leave feedback where it is wanted, and return how many messages those were."""
    rows = connection.execute(
        f"SELECT seq, device_id, delivery_count, data FROM c2d WHERE {where}", parameters
    ).fetchall()
    for seq, device_id, count, data in rows:
        generation_id, message = _decode(data, seq, count)
        if message.ack in _TELLS[outcome]:
            feedback.leave(connection, Feedback(message.message_id, device_id, generation_id, outcome, now_s))
    connection.executemany("DELETE FROM c2d WHERE seq = ?", [(seq,) for seq, *_ in rows])
    return len(rows)


def _decode(data: bytes, seq: int, delivery_count: int) -> tuple[str, C2dMessage]:
    generation_id, message = msgspec.msgpack.decode(data, type=tuple[str, C2dMessage])
    return generation_id, replace(message, sequence_number=seq, delivery_count=delivery_count)


def _check_size(message: C2dMessage) -> None:
    properties = (*message.properties.items(), *message.system_properties.items())
    size = len(message.body) + sum(len(name) + len(value or "") for name, value in properties)
    if size > LARGEST_BYTES:
        raise refusals.too_large(
            f"the message is {size} bytes with its properties, more than {LARGEST_BYTES}"
        )


def _look_away(future: asyncio.Future[list[C2dMessage]]) -> None:
    if not future.cancelled():
        future.exception()  # the messages stay where they are; a broken database shows elsewhere
