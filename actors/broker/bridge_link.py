"""The connection of one bridge to the other broker: made, looked after, made again.

A part of BridgesActor, on its thread. The session (messaging/mqtt/client_session.py) outlives connections and
knows what was said over them; this knows where the other broker is, as whom to connect, and when.

Source: spec sheet broker.md sections 7.3 and 7.4
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from actors.ports.bridges import BridgeAccess, BridgeSettings, Line, Lines
from actors.ports.connections import Transport
from messaging import sas
from messaging.clock import Clock
from messaging.envelope import Secret
from messaging.errors import AuthError, EdgeError, StoreError
from messaging.identity import Identity
from messaging.mqtt.client_session import ClientSession, Received
from messaging.mqtt.packets import Connect, ReturnCode

log = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 60.0
SHORTEST_LIFE_S: Final = 1.0  # of a connection after which the next one is tried at once
TOKEN_LIFE_S: Final = 3600
RENEW_BEFORE_S: Final = 300
_REFUSALS: Final = {
    ReturnCode.UNACCEPTABLE_PROTOCOL_VERSION: "it does not speak MQTT 3.1.1",
    ReturnCode.IDENTIFIER_REJECTED: "it does not take the client id {0!r}; set client_id in its settings",
    ReturnCode.SERVER_UNAVAILABLE: "it is not available now",
    ReturnCode.BAD_USER_NAME_OR_PASSWORD: "it does not take user name or password; correct its settings",
    ReturnCode.NOT_AUTHORIZED: "it does not let {0!r} connect; correct user name and password in its "
    "settings, or its access rules",
}


def backoff_s(failures: int) -> float:
    """Return how long to wait before connecting again after so many failures in a row: 0, 1, 2, 4 … 60 s."""
    return 0.0 if failures == 0 else min(2.0 ** min(failures - 1, 10), LONGEST_WAIT_S)


class LinkHost(Protocol):
    """What the connection of a bridge asks of its actor."""

    @property
    def clock(self) -> Clock:
        """What time it is."""
        ...

    def ask_key(self, endpoint: str, identity: str, was_refused: bool) -> None:
        """Answer with `key_known` or `key_unknown`."""
        ...

    def tick_soon(self, endpoint: str) -> None:
        """Call `tick` after what is being done."""
        ...


class LinkOwner(Protocol):
    """What the bridge is told."""

    def has_settings(self, is_so: bool) -> None:
        """The settings have the other broker, or do not: said at each attempt to connect."""
        ...

    def came_up(self) -> None:
        """The other broker has accepted the connection."""
        ...

    def handle(self, received: Received) -> None:
        """This has come; raises StoreError when it could not be kept, which ends the connection."""
        ...

    def went_down(self) -> None:
        """There is no connection any more; what was not acknowledged comes again."""
        ...

    def save_held(self, held: dict[str, bool]) -> None:
        """Keep which filters the other broker may know; raises StoreError."""
        ...


class BridgeLink:
    """Implements LineHandler."""

    def __init__(
        self,
        endpoint: str,
        session: ClientSession,
        host: LinkHost,
        owner: LinkOwner,
        lines: Lines,
        settings: BridgeSettings,
    ) -> None:
        """Connect with the first tick."""
        self._endpoint = endpoint
        self._session = session
        self._host = host
        self._owner = owner
        self._lines = lines
        self._settings = settings
        self.status = "waiting"
        self.error = ""  # why it is not connected, or was not able to do something
        self.up_since_s: float | None = None  # seconds since 1970-01-01 UTC
        self._access: BridgeAccess | None = None
        self._password: Secret | None = None
        self._line: Line | None = None
        self._transport: Transport | None = None
        self._is_reading = True
        self._is_asking_key = False
        self._was_refused = False
        self._failures = 0
        self._try_at_s = 0.0  # monotonic, as are the others
        self._up_s = 0.0
        self._renew_at_s: float | None = None

    @property
    def address(self) -> str:
        """Host and port of the other broker; "" when the settings do not say."""
        return "" if self._access is None else self._access.address

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to write to."""
        return self._transport is not None

    # what the bridge does

    def tick(self) -> None:
        """Look after the connection, each second."""
        now_s = self._host.clock.monotonic_s()
        if self._transport is not None:
            problem = self._session.tick(now_s, self._is_reading)
            if problem:
                self.end(problem)
            elif self._renew_at_s is not None and now_s >= self._renew_at_s:
                self.leave()  # with a new token at once
                self._begin()
            else:
                self.write()
        elif self._line is None and not self._is_asking_key and now_s >= self._try_at_s:
            self._begin()

    def write(self) -> None:
        """Send what the session has to say; filters that the other broker learns are on disk before."""
        if self._transport is None:
            return
        held = self._session.held_if_changed()
        if held is not None:
            try:
                self._owner.save_held(held)
            except StoreError as exc:
                self.end(str(exc))
                return
        self._transport.write(self._session.data_to_send(self._host.clock.monotonic_s()))

    def read(self, is_wanted: bool) -> None:
        """Read what comes, or let the other broker wait."""
        if self._transport is not None and self._is_reading is not is_wanted:
            self._is_reading = is_wanted
            if is_wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def end(self, reason: str) -> None:
        """Cut the connection off and make another one, after a while."""
        line, self._line = self._line, None
        if line is not None:
            line.abandon()
        self._lost(reason)

    def leave(self) -> None:
        """Say goodbye, if there is anybody; nothing is tried before the next tick."""
        self._session.disconnect()
        self.write()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        elif self._line is not None:
            self._line.abandon()
        self._line = None
        self._is_asking_key = False
        self._down()

    # making a connection

    def _begin(self) -> None:
        try:
            self._access = self._settings.access(self._endpoint)
        except EdgeError as exc:
            self._access = None
            self._wait(str(exc))
            self.status = "no settings"
            self._owner.has_settings(self._settings.names(self._endpoint))
            return
        self._owner.has_settings(True)
        self.status = "connecting"
        if self._access.signs_as:
            self._is_asking_key = True
            self._host.ask_key(self._endpoint, self._access.signs_as, self._was_refused)
        else:
            self._connect(self._access, self._access.password)

    def key_known(self, key: Secret) -> None:
        """This is the key of the identity as which the settings say to connect."""
        access = self._access
        if not self._is_asking_key or access is None:
            return
        self._is_asking_key = False
        try:
            decoded = sas.decode_key(key.reveal().decode("ascii", "replace"))
        except AuthError as exc:
            self._wait(f"the key of '{access.signs_as}' cannot be used: {exc}")
            return
        audience = sas.audience_of(access.audience_host, Identity.parse(access.signs_as))
        expires_s = int(self._host.clock.now_s()) + TOKEN_LIFE_S
        self._connect(access, Secret(sas.make_token(audience, decoded, expires_s).encode()))

    def key_unknown(self, reason: str) -> None:
        """There is no key, for now."""
        if self._is_asking_key:
            self._is_asking_key = False
            self._wait(reason)

    def _connect(self, access: BridgeAccess, password: Secret | None) -> None:
        self._password = password
        self._line = self._lines.connect(access, self)

    # what the connection tells

    def opened(self, transport: Transport) -> None:
        """TCP and TLS are there: introduce ourselves."""
        assert self._access is not None
        access, password = self._access, self._password
        self._transport = transport
        self._is_reading = True
        connect = Connect(
            access.client_id,
            clean_session=False,
            keep_alive_s=access.keep_alive_s,
            user_name=access.user_name,
            password=None if password is None else password.reveal(),
        )
        self._session.connect(connect, self._host.clock.monotonic_s())
        self.write()

    def received(self, data: bytes) -> None:
        """Bytes came from the other broker."""
        if self._transport is None:
            return
        received = self._session.receive(data, self._host.clock.monotonic_s())
        if received.answer is not None:
            self._answered(received.answer)
        if self._transport is None:
            return
        try:
            self._owner.handle(received)
        except StoreError as exc:
            self.end(str(exc))
            return
        if received.offence:
            self.end(f"it broke the protocol: {received.offence}")

    def closed(self, reason: str) -> None:
        """The connection is gone, or could not be made."""
        self._line = None
        self._lost(reason)

    def _answered(self, answer: ReturnCode) -> None:
        assert self._access is not None
        if answer is not ReturnCode.ACCEPTED:
            self._was_refused = True
            reason = _REFUSALS[answer].format(self._access.client_id)
            self.end(f"refused with return code {answer:d}: {reason}")
            return
        self._was_refused = False
        self._failures = 0
        self._up_s = self._host.clock.monotonic_s()
        self.up_since_s = self._host.clock.now_s()
        self._renew_at_s = self._up_s + TOKEN_LIFE_S - RENEW_BEFORE_S if self._access.signs_as else None
        self.status = "connected"
        self.error = ""
        log.info("bridge '%s': connected to %s", self._endpoint, self.address)
        self._owner.came_up()

    # its end

    def _lost(self, reason: str) -> None:
        is_short = self.up_since_s is not None and (
            self._host.clock.monotonic_s() - self._up_s < SHORTEST_LIFE_S
        )
        if is_short:  # two that fight for one client id would otherwise do nothing else
            self._failures = max(self._failures, 1)
        self._down()
        self._wait(reason)

    def _down(self) -> None:
        self._transport = None
        self._session.lost()
        self.up_since_s = self._renew_at_s = None
        self.status = "waiting"
        self._owner.went_down()

    def _wait(self, reason: str) -> None:
        wait_s = backoff_s(self._failures)
        self._failures += 1
        self._try_at_s = self._host.clock.monotonic_s() + wait_s
        self.status = "waiting"
        if reason != self.error:
            where = f"{self.address}: " if self.address else ""
            log.warning("bridge '%s': %s%s", self._endpoint, where, reason)
        self.error = reason
        if wait_s == 0.0:
            self._host.tick_soon(self._endpoint)
