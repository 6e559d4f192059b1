"""Publishers and consumers of a load: they live through every failure of the hub, and keep their books.

Each is one MQTT session on a thread of its own, and connects again whenever it has to. What a publisher was
told to be stored is in `acknowledged`; what a consumer got is in its `Books`.
"""

from __future__ import annotations

import base64
import logging
import random
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Final

from messaging import sas, topics
from messaging.identity import Identity
from messaging.mqtt.client_session import ClientSession
from messaging.mqtt.packets import Connect, Publish, ReturnCode
from runtime.faults.books import Books
from runtime.faults.scenario import Presence
from runtime.faults.stamps import Key, body_of, key_in, output_of

log = logging.getLogger(__name__)

API_VERSION: Final = "2021-04-12"
TOKEN_S: Final = 3 * 365 * 86_400  # so that a clock may be a year wrong
RETRY_S: Final = 0.05
TURN_S: Final = 0.01
TICK_S: Final = 0.5
CONNECT_LIMIT_S: Final = 5.0
SILENCE_LIMIT_S: Final = 10.0  # of a hub that owes a PUBACK: then the client connects again
READ_BYTES: Final = 64 * 1024
MOST_AHEAD: Final = 500  # messages sent at once after an outage, in place of those that were not sent


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a client connects, and where."""

    identity: Identity
    key: bytes
    iothub: str
    address: tuple[str, int]
    server_name: str
    ca_file: str

    def connect(self, *, clean_session: bool, key: bytes | None = None) -> Connect:
        """Return a CONNECT with a new token; `key`: another than its own."""
        expires_s = int(time.time()) + TOKEN_S + random.SystemRandom().randrange(1000)
        token = sas.make_token(sas.audience_of(self.iothub, self.identity), key or self.key, expires_s)
        return Connect(
            self.identity.id,
            clean_session=clean_session,
            keep_alive_s=60,
            user_name=f"{self.iothub}/{self.identity.id}/?api-version={API_VERSION}",
            password=token.encode(),
        )

    def open(self, limit_s: float = CONNECT_LIMIT_S) -> ssl.SSLSocket:
        """Return a connection with TLS."""
        context = ssl.create_default_context(cafile=self.ca_file)
        plain = socket.create_connection(self.address, timeout=limit_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(plain, server_hostname=self.server_name)
        except BaseException:
            plain.close()
            raise


def account_in(connection_string: str, address: tuple[str, int], server_name: str, ca_file: str) -> Account:
    """Return the account that a connection string gives."""
    parts = dict(part.split("=", 1) for part in connection_string.split(";") if part)
    identity = Identity(parts["DeviceId"], parts.get("ModuleId"))
    key = base64.b64decode(parts["SharedAccessKey"])
    return Account(identity, key, parts["HostName"], address, server_name, ca_file)


class Client:
    """One connection after the other. `start`, later `stop`."""

    def __init__(self, name: str, account: Account, *, clean_session: bool) -> None:
        self.name = name
        self.account = account
        self.connections = 0
        self.nobody_listened = 0
        self.is_connected = False
        self.problems: list[str] = []
        self._clean_session = clean_session
        self._session = ClientSession()
        self._ended = threading.Event()
        self._stalled = threading.Event()
        self._break = threading.Event()
        self._politely = False
        self._thread = threading.Thread(target=self._run, name=f"load-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._stalled.clear()
        if self._thread.ident is not None:
            self._thread.join()

    def stall(self, on: bool) -> None:
        """Read and write nothing, or go on."""
        if on:
            self._stalled.set()
        else:
            self._stalled.clear()

    def break_off(self, *, politely: bool) -> None:
        """Have the connection end, without a word or with DISCONNECT, and another one made: a new token."""
        self._politely = politely
        self._break.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            if not self._is_wanted() or self._stalled.is_set():
                self._ended.wait(TURN_S)
                continue
            try:
                secured = self.account.open()
            except ConnectionRefusedError:
                self.nobody_listened += 1
                self._ended.wait(RETRY_S)
                continue
            except OSError:  # killed meanwhile, or nothing gets through
                self._ended.wait(RETRY_S)
                continue
            self._break.clear()
            try:
                self._talk(secured)
            except OSError:
                pass
            finally:
                self.is_connected = False
                self._session.lost()
                secured.close()
            self._ended.wait(RETRY_S)

    def _talk(self, secured: ssl.SSLSocket) -> None:
        secured.setblocking(False)
        session, now_s = self._session, time.monotonic
        session.connect(self.account.connect(clean_session=self._clean_session), now_s())
        unsent = b""
        ticked_s = heard_s = now_s()
        while not self._ended.is_set() and not self._break.is_set() and self._is_wanted():
            if self._stalled.is_set():
                self._ended.wait(TURN_S)
                heard_s = now_s()
                continue
            unsent += session.data_to_send(now_s())
            if unsent:
                try:
                    unsent = unsent[secured.send(unsent) :]
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
            if secured.pending() or select.select([secured], [], [], TURN_S)[0]:
                try:
                    data = secured.recv(READ_BYTES)
                except ssl.SSLWantReadError:
                    data = None
                if data == b"":
                    return
                if data:
                    heard_s = now_s()
                    if not self._take(data):
                        return
            if session.is_up:
                self._turn()
            if session.unacknowledged == 0 and session.is_up:
                heard_s = now_s()
            if now_s() - heard_s > SILENCE_LIMIT_S:
                return
            if now_s() - ticked_s > TICK_S:
                ticked_s = now_s()
                if session.tick(ticked_s):
                    return
        if session.is_up and (self._politely or not self._break.is_set()):
            session.disconnect()
            secured.settimeout(1.0)
            secured.sendall(unsent + session.data_to_send(now_s()))

    def _take(self, data: bytes) -> bool:
        """Take what was read; returns whether the connection is of use."""
        received = self._session.receive(data, time.monotonic())
        if received.offence:
            self.problems.append(f"{self.name}: the hub broke the protocol: {received.offence}")
            return False
        if received.answer is not None:
            if received.answer is not ReturnCode.ACCEPTED:
                return False
            self.connections += 1
            self.is_connected = True
            self._connected()
        self._took(received.taken)
        if received.arrived:
            self._arrived(received.arrived)
            self._session.acknowledge(received.arrived)
        return True

    def _is_wanted(self) -> bool:
        """Return whether to be connected now."""
        return True

    def _connected(self) -> None:
        """Note that a connection stands."""

    def _took(self, numbers: list[int]) -> None:
        """Note what the hub has acknowledged."""

    def _turn(self) -> None:
        """Do what is due; the connection stands."""

    def _arrived(self, messages: list[Publish]) -> None:
        """Note what came."""


class Publisher(Client):
    """Sends 1, 2, 3 … at a steady rate; after a reconnect again whatever was not acknowledged."""

    def __init__(
        self, name: str, account: Account, number: int, outputs: tuple[str, ...], rate_per_s: float, size: int
    ) -> None:
        super().__init__(name, account, clean_session=False)
        self.number = number
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.told: list[tuple[float, list[int]]] = []  # when, by the wall clock, and of what
        self.times_sent_again: dict[int, int] = {}
        base = topics.events_topic(account.identity)
        self._topics = [f"{base}/%24.on={output}" for output in outputs]
        self._size = size
        self._rate_per_s = rate_per_s
        self._unacknowledged: dict[int, None] = {}
        self._began_s = 0.0
        self._finishing = threading.Event()

    def finish(self) -> None:
        """Send nothing new any more."""
        self._finishing.set()

    @property
    def has_finished(self) -> bool:
        return self._finishing.is_set() and not self._unacknowledged

    def _connected(self) -> None:
        for sequence in self._unacknowledged:
            self.times_sent_again[sequence] = self.times_sent_again.get(sequence, 0) + 1

    def _took(self, numbers: list[int]) -> None:
        if numbers:
            self.told.append((time.time(), numbers))
        for sequence in numbers:
            self._unacknowledged.pop(sequence, None)
            self.acknowledged.add(sequence)

    def _turn(self) -> None:
        now_s = time.monotonic()
        due = self._due(now_s)
        while self.sent < due and self._session.room:
            sequence, output, body = self._next()
            self._session.send(sequence, Publish(self._topics[output], body, qos=1), now_s)

    def _due(self, now_s: float) -> int:
        """Return up to which number to send now: by the clock, but without a burst after an outage."""
        if self._finishing.is_set():
            return 0
        self._began_s = self._began_s or now_s
        due = int((now_s - self._began_s) * self._rate_per_s) + 1
        if due > self.sent + MOST_AHEAD:
            self._began_s += (due - self.sent - MOST_AHEAD) / self._rate_per_s
            due = self.sent + MOST_AHEAD
        return due

    def _next(self) -> tuple[int, int, bytes]:
        """Return number, output and body of the next message, which counts as sent."""
        self.sent += 1
        output = output_of(self.sent, len(self._topics))
        self._unacknowledged[self.sent] = None
        return self.sent, output, body_of(Key(self.number, output, self.sent), self._size)


class Consumer(Client):
    """Notes every message; the route is read from the name of the input."""

    def __init__(
        self,
        name: str,
        account: Account,
        presence: Presence | None,
        chance: random.Random,
        books: type[Books] = Books,
    ) -> None:
        super().__init__(name, account, clean_session=False)
        self.books: dict[str, Books] = {}  # by input, which is the route
        self._new_books = books
        self._presence = presence
        self._chance = chance
        self._is_there = True
        self._turns_at_s = 0.0
        self._prefix = f"devices/{account.identity.device_id}/modules/{account.identity.module_id}/inputs/"
        self._session.want([f"{self._prefix}#"], 0.0)

    def stay(self) -> None:
        """Be connected from now on."""
        self._is_there, self._presence = True, None

    def _is_wanted(self) -> bool:
        presence = self._presence
        if presence is not None and time.monotonic() >= self._turns_at_s:
            self._is_there = not self._is_there if self._turns_at_s else True
            spread = presence.there if self._is_there else presence.away
            self._turns_at_s = time.monotonic() + spread.draw(self._chance)
        return self._is_there

    def _connected(self) -> None:
        for books in self.books.values():
            books.reconnected()

    def _turn(self) -> None:
        """Only listens."""

    def _arrived(self, messages: list[Publish]) -> None:
        for message in messages:
            route = message.topic.removeprefix(self._prefix).partition("/")[0]
            books = self.books.setdefault(route, self._new_books())
            try:
                books.note(key_in(message.payload))
            except ValueError:
                books.damaged += 1
        now_s = time.time()  # before it is acknowledged: nobody can have known it earlier
        for books in self.books.values():
            books.mark(now_s)
