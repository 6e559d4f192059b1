"""The ledger in the message database, kept by its owner and read by anybody.

The running counts live in memory and are written with each transaction that changed them; what waits is
never among them but counted from the queue.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgpack
from msgspec import Struct, field

from actors.hub.c2d_queues import FORMER_DEVICES, is_c2d_queue
from actors.store.stored import MAX_SEQ, EndpointLedger, Epoch, Ledger, Totals, priority_of
from messaging.errors import StoreError
from messaging.upstream_queues import UPSTREAM, UPSTREAM_QUEUES
from runtime.storage import message_schema
from runtime.storage.message_queues import POSITION_BITS
from runtime.storage.sqlite_tables import SharedTable

EPOCH = "epoch"  # the row of the ledger that tells when it began anew, there after a salvage
MAX_ENDPOINT_NUMBER = (1 << 63 - POSITION_BITS) - 1
SEQ_BITS = MAX_SEQ.bit_length()
FOLD_AT = 1000  # queues, from which on the empty ones of senders and devices are closed


class Account(Struct):
    """The running counts of one endpoint."""

    number: int
    accepted: int = 0
    delivered: int = 0
    expired: int = 0
    dropped: int = 0
    dropped_by_reason: dict[str, int] = field(default_factory=dict)

    @property
    def first_key(self) -> int:
        """The lowest key that a row of this endpoint can have in the queue."""
        return self.number << POSITION_BITS

    @property
    def last_key(self) -> int:
        """The highest one."""
        return (self.number + 1 << POSITION_BITS) - 1

    @property
    def is_settled(self) -> bool:
        """By its counts nothing waits."""
        return self.accepted == self.delivered + self.expired + self.dropped

    def drop(self, reason: str, count: int) -> None:
        """Count messages that were given up."""
        self.dropped += count
        self.dropped_by_reason[reason] = self.dropped_by_reason.get(reason, 0) + count

    def add(self, other: Account) -> None:
        """Take over the counts of another."""
        self.accepted += other.accepted
        self.delivered += other.delivered
        self.expired += other.expired
        for reason, count in other.dropped_by_reason.items():
            self.drop(reason, count)

    def row(self) -> dict[str, Any]:
        """Return the arguments that make an equal account."""
        return {
            "number": self.number,
            "accepted": self.accepted,
            "delivered": self.delivered,
            "expired": self.expired,
            "dropped": self.dropped,
            "dropped_by_reason": self.dropped_by_reason,
        }

    def pending(self, connection: sqlite3.Connection) -> int:
        """Count what waits for this endpoint in the queue."""
        count: int
        (count,) = connection.execute(
            "SELECT ifnull(sum(count), 0) FROM queue WHERE key BETWEEN ? AND ?",
            (self.first_key, self.last_key),
        ).fetchone()
        return count


class Accounts:
    """All running counts: one Account for each queue, the totals, the next sequence number.

    Senders and devices come and go, each with a queue of its own. When there are many, the counts of those
    that are empty are added to an account that they have in common, and their numbers are given again.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._numbers = SharedTable(connection, path, "endpoints")
        self._ledger = SharedTable(connection, path, "ledger")
        self._touched: set[str] = set()
        self._accounts: dict[str, Account] = {}
        self._saved: dict[str, int] = {}
        self._epoch = Epoch()
        self._free: list[int] = []  # numbers below the highest that no queue has
        self._fold_at = FOLD_AT  # so many queues
        self.next_seq = 1
        self.received = 0
        self.unrouted = 0
        self.routed = 0

    def load(self) -> None:
        """Take everything from the tables, at the start and after a transaction was undone."""
        rows = dict(self._ledger.items())
        self._saved = rows.get("total", {})
        self.next_seq = self._saved.get("next_seq", 1)
        self.received = self._saved.get("received", 0)
        self.unrouted = self._saved.get("unrouted", 0)
        self.routed = self._saved.get("routed", 0)
        self._accounts = {
            endpoint_id: Account(**rows.get(str(number), {"number": number}))
            for endpoint_id, number in self._numbers.items()
        }
        taken = {account.number for account in self._accounts.values()}
        self._free = [number for number in range(max(taken, default=0), 0, -1) if number not in taken]
        self._fold_at = FOLD_AT
        self._epoch = Epoch(**rows.get(EPOCH, {}))
        self._touched.clear()

    def save(self) -> None:
        """Write what changed, as a part of the open transaction; a sweep that found nothing costs no sync."""
        rows: dict[str, dict[str, Any]] = {}
        for account in (self._accounts[endpoint_id] for endpoint_id in self._touched):
            rows[str(account.number)] = account.row()
        total = {
            "next_seq": self.next_seq,
            "received": self.received,
            "unrouted": self.unrouted,
            "routed": self.routed,
        }
        if total != self._saved:
            rows["total"] = self._saved = total
        if rows:
            self._write(rows)
        self._touched.clear()

    def _write(self, rows: dict[str, dict[str, Any]]) -> None:
        """Write rows of the ledger. Mostly they are there: replacing them would write the index anew, too."""
        values = [(msgpack.packb(row), key) for key, row in rows.items()]
        there = self._connection.executemany("UPDATE ledger SET value = ? WHERE key = ?", values).rowcount
        if there < len(rows):
            self._ledger.update(rows)

    def find(self, endpoint_id: str) -> Account | None:
        """Return the account of an endpoint, None when nothing was ever sent to it."""
        return self._accounts.get(endpoint_id)

    def change(self, endpoint_id: str) -> Account:
        """Return the account of an endpoint, opened if there is none, for counts that `save` will write."""
        account = self._accounts.get(endpoint_id)
        if account is None:
            if len(self._accounts) >= self._fold_at:
                self._fold()
            account = self._open(endpoint_id)
        self._touched.add(endpoint_id)
        return account

    def _open(self, endpoint_id: str) -> Account:
        number = self._free.pop() if self._free else len(self._accounts) + 1
        if number > MAX_ENDPOINT_NUMBER:
            raise StoreError(
                f"message database {self._path}: endpoint {endpoint_id!r} is one too many, messages wait for "
                f"{MAX_ENDPOINT_NUMBER} already; let some be delivered, or move the file away to start empty"
            )
        account = self._accounts[endpoint_id] = Account(number)
        self._numbers[endpoint_id] = number
        return account

    def _fold(self) -> None:
        """Close the accounts of empty queues, as a part of the open transaction."""
        closed: list[tuple[str, str, Account]] = []
        for queue_id, account in self._accounts.items():
            common_id = common_account(queue_id)
            # What this transaction has changed may not be in the queue yet.
            if common_id is None or queue_id in self._touched or not account.is_settled:
                continue
            if account.pending(self._connection) == 0:
                closed.append((queue_id, common_id, account))
        for queue_id, common_id, account in closed:
            common = self._accounts.get(common_id)
            if common is None:
                common = self._open(common_id)
            common.add(account)
            self._touched.add(common_id)
            del self._accounts[queue_id]
            self._free.append(account.number)
        run = self._connection.executemany
        run("DELETE FROM endpoints WHERE key = ?", [(queue_id,) for queue_id, _, _ in closed])
        run("DELETE FROM ledger WHERE key = ?", [(str(account.number),) for _, _, account in closed])
        # Those that are not empty are looked at again when there are twice as many.
        self._fold_at = max(FOLD_AT, 2 * len(self._accounts))

    def all(self) -> list[tuple[str, Account]]:
        """Return all endpoints with their accounts."""
        return list(self._accounts.items())

    def names(self) -> dict[int, str]:
        """Return the endpoints by their numbers."""
        return {account.number: endpoint_id for endpoint_id, account in self._accounts.items()}

    def snapshot(self) -> Ledger:
        """Return the counts together with what waits at this moment."""
        waiting: dict[int, dict[int, int]] = {}
        lanes = f"SELECT key >> {SEQ_BITS}, sum(count) FROM queue GROUP BY 1"
        for lane, count in self._connection.execute(lanes):
            position = (lane << SEQ_BITS) & ((1 << POSITION_BITS) - 1)
            waiting.setdefault(lane >> (POSITION_BITS - SEQ_BITS), {})[priority_of(position)] = count
        return Ledger(
            self._totals(),
            {
                endpoint_id: EndpointLedger(
                    accepted=account.accepted,
                    delivered=account.delivered,
                    expired=account.expired,
                    dropped=account.dropped,
                    dropped_by_reason=dict(account.dropped_by_reason),
                    pending=sum(waiting.get(account.number, {}).values()),
                    pending_by_priority=waiting.get(account.number, {}),
                )
                for endpoint_id, account in self._accounts.items()
            },
            self._epoch,
        )

    def _totals(self) -> Totals:
        return Totals(self.received, self.unrouted, self.routed)


def common_account(queue_id: str) -> str | None:
    """Return the account that takes over the counts of a queue when it is closed; None: it never is."""
    if queue_id.startswith(UPSTREAM_QUEUES):
        return UPSTREAM
    return FORMER_DEVICES if is_c2d_queue(queue_id) and queue_id != FORMER_DEVICES else None


def read_ledger(path: Path) -> Ledger:
    """Return the ledger of the database at `path`, whether its edge is running, stopped, or was killed.

    For other processes than the owner's: one read transaction, nothing is written.

    Raises:
        StoreError: There is no database, or it cannot be read.
    """
    for place in (path, message_schema.salvaged_of(path)):
        try:
            if place.exists():
                return _read_at(place)
        except StoreError:
            if place.exists():
                raise
    if path.exists():  # meanwhile a salvaged one has taken its place
        return _read_at(path)
    raise StoreError(
        f"message database {path}: there is none; the first run of an edge with this home makes it"
    )


def _read_at(path: Path) -> Ledger:
    log = path.with_name(path.name + "-wal")
    # Without a log the owner has stopped in good order. SQLite is then told that nothing will change, or it
    # would leave an empty log behind. Should an edge start meanwhile, its log gives that away: read again.
    if not log.exists():
        try:
            found = _read(path, "mode=rw&immutable=1")  # or SQLite would make what was moved meanwhile
        except StoreError:
            if not log.exists():
                raise
        else:
            if not log.exists():
                return found
    return _read(path, "mode=ro")


def _read(path: Path, how: str) -> Ledger:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
        try:
            connection.execute("BEGIN")
            version = message_schema.version_of(connection, path)
            if version == 0:  # an edge is about to make it
                return Ledger(Totals(), {})
            if version < len(message_schema.MIGRATIONS):
                raise StoreError(
                    f"message database {path}: made by an older release; start the edge once to migrate it"
                )
            accounts = Accounts(connection, path)
            accounts.load()
            return accounts.snapshot()
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise message_schema.translated(exc, path, "read the ledger") from exc
