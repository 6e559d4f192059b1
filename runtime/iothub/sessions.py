"""Who is connected, what they listen for, and since when: in memory, with the times on disk.

Runs in the loop. The times are written behind what they tell of, with the next commit; a crash may lose the
last of them, and after a restart nobody is connected.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict

from msgspec import Struct

from messaging.clock import Clock
from messaging.identity import Identity
from runtime.iothub.cloud_db import CloudDb
from runtime.iothub.records import CutOff, DeviceSession, Features, Grant


class Connected(Struct):
    """One live connection."""

    grant: Grant
    session: DeviceSession
    features: Features


class LastSeen(Struct):
    """Times in seconds since 1970-01-01 UTC, 0 for never."""

    changed_s: float = 0.0  # connected or disconnected
    active_s: float = 0.0  # connected, disconnected, or sent something


class Sessions:
    """At most one connection per identity: a second one ends the first."""

    def __init__(self, db: CloudDb, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._connected: dict[Identity, Connected] = {}
        self._seen: dict[Identity, LastSeen] = {}
        self._waiting: defaultdict[Identity, list[asyncio.Future[None]]] = defaultdict(list)

    async def load(self) -> None:
        """Read the times of the last run."""
        rows = await self._db.run(
            lambda connection: connection.execute("SELECT * FROM connections").fetchall()
        )
        for device_id, module_id, changed_s, active_s in rows:
            self._seen[Identity(device_id, module_id or None)] = LastSeen(changed_s, active_s)

    def find(self, identity: Identity) -> Connected | None:
        """Return the connection of an identity."""
        return self._connected.get(identity)

    def all(self) -> list[Connected]:
        """Return all connections."""
        return list(self._connected.values())

    def seen(self, identity: Identity) -> LastSeen:
        """Return when an identity was seen last."""
        return self._seen.get(identity, LastSeen())

    def connected(self, grant: Grant, session: DeviceSession) -> None:
        """See `IotHub.connected`."""
        older = self._connected.get(grant.identity)
        self._connected[grant.identity] = Connected(grant, session, Features())
        self._changed(grant.identity)
        if older is not None:
            older.session.cut_off(CutOff.REPLACED)

    def features_changed(self, grant: Grant, session: DeviceSession, features: Features) -> bool:
        """Take what a client listens for; False when it is not the connection that counts."""
        found = self._connected.get(grant.identity)
        if found is None or found.session is not session:
            return False
        found.features = features
        if features.methods:
            for waiting in self._waiting.pop(grant.identity, ()):
                if not waiting.done():
                    waiting.set_result(None)
        return True

    def disconnected(self, grant: Grant, session: DeviceSession) -> bool:
        """Forget a connection; False when it is not the one that counts."""
        found = self._connected.get(grant.identity)
        if found is None or found.session is not session:
            return False
        del self._connected[grant.identity]
        self._changed(grant.identity)
        return True

    def cut_off(self, identity: Identity, why: CutOff) -> None:
        """End the connection of an identity, if there is one."""
        found = self._connected.pop(identity, None)
        if found is not None:
            self._changed(identity)
            found.session.cut_off(why)

    def forget(self, identity: Identity) -> None:
        """The identity is deleted."""
        self._seen.pop(identity, None)

    def active(self, identity: Identity) -> None:
        """The identity sent something."""
        seen = self._seen.get(identity)
        if seen is not None:
            seen.active_s = self._clock.now_s()

    async def methods_target(self, identity: Identity, timeout_s: float) -> Connected | None:
        """Return the connection when it listens for methods, waiting for that up to `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while True:
            found = self._connected.get(identity)
            if found is not None and found.features.methods:
                return found
            if loop.time() >= deadline_s:
                return None
            waiting: asyncio.Future[None] = loop.create_future()
            self._waiting[identity].append(waiting)
            try:
                async with asyncio.timeout_at(deadline_s):
                    await waiting  # who came may be gone again by now
            except TimeoutError:
                return None
            finally:
                self._stop_waiting(identity, waiting)

    def _stop_waiting(self, identity: Identity, waiting: asyncio.Future[None]) -> None:
        others = self._waiting.get(identity)
        if others is not None:
            if waiting in others:
                others.remove(waiting)
            if not others:
                del self._waiting[identity]

    def _changed(self, identity: Identity) -> None:
        now_s = self._clock.now_s()
        self._seen[identity] = LastSeen(now_s, now_s)
        row = (identity.device_id, identity.module_id or "", now_s, now_s)

        def save(connection: sqlite3.Connection) -> None:
            # Only for who is (still) registered: a deletion also ends the connection.
            connection.execute(
                "INSERT OR REPLACE INTO connections SELECT ?1, ?2, ?3, ?4 WHERE EXISTS "
                "(SELECT 1 FROM identities WHERE device_id = ?1 AND module_id = ?2)",
                row,
            )

        self._db.run(save).add_done_callback(_look_away)


def _look_away(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # the time of a connection is not worth an error; a full disk shows elsewhere
