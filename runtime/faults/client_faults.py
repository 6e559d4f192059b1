"""Faults of clients, and of others that pretend to be one of them."""

from __future__ import annotations

import os
import ssl
import time
from typing import Final

from messaging.mqtt.client_session import ClientSession
from messaging.mqtt.packets import ReturnCode
from runtime.faults.clients import READ_BYTES, Account
from runtime.faults.edge import LIMIT_S
from runtime.faults.scene import Fault

BETWEEN_S: Final = 0.3


class StallClient(Fault):
    """A client reads and writes nothing and stays connected."""

    def begin(self, nth: int) -> float | None:
        client = self.scene.client(self.values["client"])
        self.scene.edge.wait_for(lambda: client.is_connected, f"{client.name} is connected")
        client.stall(True)
        self.count += 1
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        self.finish()
        return None

    def finish(self) -> None:
        self.scene.client(self.values["client"]).stall(False)


class DropClient(Fault):
    """The connection of a client breaks, and it makes another."""

    politely = False

    def begin(self, nth: int) -> float | None:
        client = self.scene.client(self.values["client"])
        self._connections = client.connections
        self.scene.edge.wait_for(lambda: client.is_connected, f"{client.name} is connected")
        client.break_off(politely=self.politely)
        self.scene.edge.wait_for(
            lambda: client.connections > self._connections, f"{client.name} is connected again"
        )
        self.count += 1
        return None


class RenewToken(DropClient):
    """A client says DISCONNECT and connects with another token."""

    politely = True


class SecondClient(Fault):
    """Another client connects with the same identity, and is taken over in its turn."""

    def begin(self, nth: int) -> float | None:
        self._left: int = self.values["count"]
        return 0.0

    def go_on(self) -> float | None:
        client = self.scene.client(self.values["client"])
        before = client.connections
        with connect(client.account) as (answer, _):
            if answer is ReturnCode.ACCEPTED:
                self.scene.edge.wait_for(
                    lambda: client.connections > before, f"{client.name} takes its identity back"
                )
                self.count += 1
        self._left -= 1
        return BETWEEN_S if self._left else None


class WrongKey(Fault):
    """Somebody connects as a client, with another key."""

    def begin(self, nth: int) -> float | None:
        account = self.scene.client(self.values["client"]).account
        for _ in range(self.values["count"]):
            with connect(account, key=os.urandom(32)) as (answer, _secured):
                if answer in (ReturnCode.BAD_USER_NAME_OR_PASSWORD, ReturnCode.NOT_AUTHORIZED):
                    self.count += 1
                elif answer is ReturnCode.ACCEPTED:
                    self.scene.findings.failures.append(
                        f"somebody with a wrong key was let in as {account.identity}"
                    )
        return None


class connect:  # noqa: N801 - used as a function
    """`with connect(account) as (answer, socket)`: one CONNECT and what the hub says; None: nothing."""

    def __init__(self, account: Account, key: bytes | None = None) -> None:
        self._account = account
        self._key = key

    def __enter__(self) -> tuple[ReturnCode | None, ssl.SSLSocket]:
        ends_s = time.monotonic() + LIMIT_S
        while True:
            try:
                self._socket = self._account.open()
                return self._ask(), self._socket
            except OSError:
                if time.monotonic() > ends_s:
                    raise

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _ask(self) -> ReturnCode | None:
        session = ClientSession()
        session.connect(self._account.connect(clean_session=False, key=self._key), time.monotonic())
        self._socket.settimeout(LIMIT_S)
        self._socket.sendall(session.data_to_send(time.monotonic()))
        while data := self._socket.recv(READ_BYTES):
            received = session.receive(data, time.monotonic())
            if received.answer is not None:
                return received.answer
        return None
