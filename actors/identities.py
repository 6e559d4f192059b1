"""Decides who may connect to the hub, with a copy of the identities on the hub's own disk.

Understands: Identities, Authenticate, PeerUp
Tells:       whoever asked (Verdict), agent/security (GetIdentities), heads (IdentityRevoked)
Started by:  HubRootActor; after a restart it reads its copy again
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from actors.base import EdgeActor
from messaging import sas
from messaging.envelope import Envelope, Secret
from messaging.errors import AuthError, EdgeError
from messaging.identity import Identity
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, PeerUp, RequestFailed

log = logging.getLogger(__name__)

AGENT: Final = "agent"
SECURITY: Final = "agent/security"
AGENT_LIMIT_S: Final = 20.0  # how long a CONNECT waits for identities before it is told to try again
ACCEPTED: Final = 0
TRY_AGAIN: Final = 3  # CONNACK: the client retries
NOT_AUTHORIZED: Final = 5  # CONNACK: SDK clients stop for good, so only for what is final


@message
class GetIdentities:
    """Tell all identities of this edge. Answered by the agent with Identities."""


@message
class Identities:
    """All identities that may connect, each as (id, primary key, secondary key, enabled). Replaces all."""

    entries: tuple[tuple[str, Secret, Secret, bool], ...]


@message
class Authenticate:
    """May a client be this identity? Answered with Verdict, at the latest after AGENT_LIMIT_S."""

    identity: str
    password: Secret


@message
class Verdict:
    """The return code for CONNACK, and for the log why it was refused."""

    identity: str
    return_code: int
    reason: str


@message
class IdentityRevoked:
    """This identity is gone, disabled or has other keys: end its connections."""

    identity: str


class IdentityCopy(Protocol):
    """Where the copy lives. `runtime/` keeps it in a private file."""

    def load(self) -> tuple[tuple[str, bytes, bytes, bool], ...] | None: ...

    def save(self, entries: tuple[tuple[str, bytes, bytes, bool], ...]) -> None:
        """Raises EdgeError when it cannot be written."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    keys: tuple[Secret, Secret]
    enabled: bool


class IdentityActor(EdgeActor):
    """Holds the identities; asks the agent again before it refuses one that it does not know."""

    def __init__(self, copy: IdentityCopy, hosts: Collection[str], heads: Collection[str]) -> None:
        self._copy = copy
        self._hosts = frozenset(hosts)
        self._heads = tuple(heads)
        self._known: dict[str, _Known] | None = None  # None: never loaded
        self._waiting: list[tuple[Envelope, Authenticate]] = []
        self._asked: int = 0

    def on_start(self) -> None:
        stored = self._copy.load()
        if stored is not None:
            self._known = {
                identity: _Known((Secret(primary), Secret(secondary)), enabled)
                for identity, primary, secondary, enabled in stored
            }
        self.context.watch_peer(AGENT)

    def on_peer_up(self, message: PeerUp) -> None:
        self._asked = 0  # whatever was asked before went to nobody, or to an agent that is gone
        self._ask_agent()

    def on_identities(self, message: Identities) -> None:
        before = self._known or {}
        self._known = {
            identity: _Known((primary, secondary), enabled)
            for identity, primary, secondary, enabled in message.entries
        }
        self._asked = 0
        for identity, known in before.items():
            if self._known.get(identity) != known:
                for head in self._heads:
                    self.tell(head, IdentityRevoked(identity))
        waiting, self._waiting = self._waiting, []
        for envelope, asked in waiting:
            self._answer(envelope, self._judge(asked))
        if before != self._known:
            self._save(message)

    def on_authenticate(self, message: Authenticate) -> None:
        if self._known is not None and message.identity in self._known:
            self._answer(self.envelope, self._judge(message))
            return
        # It may have been made a moment ago, or nothing is loaded yet: the agent has the last word.
        self._waiting.append((self.envelope, message))
        self._ask_agent()

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._agent_is_away(message.correlation_id)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._agent_is_away(self.envelope.correlation_id)

    def describe(self) -> dict[str, Any]:
        return {"identities": -1 if self._known is None else len(self._known), "waiting": len(self._waiting)}

    def _save(self, message: Identities) -> None:
        try:
            self._copy.save(
                tuple((i, first.reveal(), second.reveal(), on) for i, first, second, on in message.entries)
            )
        except EdgeError as exc:  # we go on with what we know; only a restart without an agent would miss it
            log.error("the copy of the identities is out of date: %s", exc)

    def _ask_agent(self) -> None:
        if not self._asked:
            self._asked = self.request(SECURITY, GetIdentities(), AGENT_LIMIT_S)

    def _agent_is_away(self, correlation_id: int) -> None:
        if correlation_id != self._asked:
            return
        self._asked = 0
        waiting, self._waiting = self._waiting, []
        for envelope, asked in waiting:
            reason = "the identities are not known yet, and the agent does not answer"
            self._answer(envelope, Verdict(asked.identity, TRY_AGAIN, reason))

    def _answer(self, envelope: Envelope, verdict: Verdict) -> None:
        self.reply(verdict, envelope)

    def _judge(self, asked: Authenticate) -> Verdict:
        assert self._known is not None
        identity = asked.identity
        known = self._known.get(identity)
        if known is None:
            return Verdict(identity, NOT_AUTHORIZED, f"identity '{identity}' is not known on this edge")
        if not known.enabled:
            return Verdict(identity, NOT_AUTHORIZED, f"identity '{identity}' is disabled")
        try:
            token = sas.parse_token(asked.password.reveal().decode("utf-8", "replace"))
            keys = [key.reveal() for key in known.keys]
            sas.check(token, keys, Identity.parse(identity), self._hosts, self.clock.now_s())
        except AuthError as exc:
            return Verdict(identity, NOT_AUTHORIZED, str(exc))
        return Verdict(identity, ACCEPTED, "")
