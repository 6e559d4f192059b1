"""Decides who may connect to the hub, with a copy of the identities on the hub's own disk.

Understands: Identities, Authenticate, GetAccess, IdentityForgotten, PeerUp, PeerDown
Tells:       whoever asked (Verdict, Access), agent/security (GetIdentities), heads (IdentityRevoked,
             ForgetIdentity), the cloud's actor (AccessChanged)
Started by:  HubRootActor; after a restart it reads its copy again
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from actors.addresses import AGENT_PROCESS, SECURITY
from actors.agent_hub_messages import GetIdentities, Identities
from actors.hub import identity_changes, verdicts
from actors.hub.client_services import ForgetIdentity, IdentityForgotten
from actors.hub.identity import CERTIFICATES, HubIdentity, KnownIdentities
from actors.hub.identity_messages import (
    ACCEPTED,
    NOT_AUTHORIZED,
    TRY_AGAIN,
    Access,
    AccessChanged,
    Authenticate,
    GetAccess,
    IdentityRevoked,
    Verdict,
)
from actors.kernel.base import EdgeActor
from actors.metrics.hub_metrics import OFF, HubMetrics
from actors.ports.connections import CheckCertificate
from messaging.envelope import Envelope, Secret
from messaging.errors import AuthError, EdgeError
from messaging.identity import Identity
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, PeerDown, PeerUp, RequestFailed

log = logging.getLogger(__name__)

AGENT_LIMIT_S: Final = 20.0  # how long a CONNECT waits for identities before it is told to try again
REFRESH_SPACING_S: Final = 120.0  # between two questions about one identity; hub-protocols.md section 5.3
MOST_ASKED_FOR: Final = (
    4096  # identities, most of them made up by somebody, whose last question is remembered
)
FORGET_AGAIN_S: Final = 2.0  # after a head, which may be starting, did not say that it has forgotten one


@message
class ForgetAgain:
    """Timer: somebody who is gone may not be forgotten yet."""


class _Waiting(Struct, frozen=True):
    """Somebody whose answer waits for the agent."""

    envelope: Envelope
    asked: Authenticate | GetAccess
    is_late: bool  # came after the question was put that is open: it may not be answered for him


class IdentityCopy(Protocol):
    """Where the copy lives. `runtime/` keeps it in a private file."""

    def load(self) -> KnownIdentities | None: ...

    def save(self, known: KnownIdentities) -> None:
        """Raises EdgeError when it cannot be written."""
        ...


class IdentityActor(EdgeActor):
    """Holds the identities.

    While the agent is up it has the last word: before somebody is refused it is asked whether things have
    changed, though not for each attempt of somebody who tries again and again. While there is none, the copy
    decides about whom it knows, and the others are told to try again. While there is one that was not heard
    of yet, or does not answer, the copy lets in and refuses nobody: keys may have changed since it was made.
    """

    def __init__(
        self,
        copy: IdentityCopy,
        hosts: Collection[str],
        heads: Collection[str],
        check_certificate: CheckCertificate,
        agent_lives: Callable[[], bool],
        cloud: str,
        device_id: str,
        metrics: HubMetrics = OFF,
    ) -> None:
        """Keep what is needed; `agent_lives` tells whether there is an agent process, heard of or not."""
        self._agent_lives = agent_lives
        self._metrics = metrics
        self._cloud = cloud
        self._own_id = Identity.edge_hub(device_id).id
        self._copy = copy
        self._hosts = frozenset(hosts)
        self._heads = tuple(heads)
        self._check_certificate = check_certificate
        self._known: KnownIdentities | None = None  # None: never loaded
        self._by_id: dict[str, HubIdentity] = {}
        self._agent_is_up = False
        self._waiting: list[_Waiting] = []
        self._asked: int = 0
        self._asked_for: dict[str, float] = {}  # identity → monotonic time; oldest first
        self._forgetting: dict[str, set[str]] = {}  # who is gone → heads that have not forgotten it yet
        self._forget_timer = False

    def on_start(self) -> None:
        stored = self._copy.load()
        if stored is not None:
            self._hold(stored)
            if stored.left:
                self._forgetting = {identity: set(self._heads) for identity in stored.left}
                self.set_timer(FORGET_AGAIN_S, ForgetAgain())  # until then the heads are there
                self._forget_timer = True
        self.context.watch_peer(AGENT_PROCESS)

    def on_peer_up(self, message: PeerUp) -> None:
        self._agent_is_up = True
        self._asked = 0  # whatever was asked before went to nobody, or to an agent that is gone
        self._asked_for.clear()
        self._ask_agent()

    def on_peer_down(self, message: PeerDown) -> None:
        self._agent_is_up = False

    def on_identities(self, message: Identities) -> None:
        before, by_id = self._known, self._by_id
        identities = tuple(HubIdentity(*entry) for entry in message.entries)
        if not message.is_whole:
            identities += identity_changes.others(by_id, identities)
        gone = identity_changes.gone(by_id, identities)
        left = tuple(dict.fromkeys((*(before.left if before else ()), *gone)))
        now = KnownIdentities(identities, tuple(message.authorities), left)
        self._hold(now)
        same_authorities = before is None or before.authorities == now.authorities
        for identity in identity_changes.cut_off(by_id, self._by_id, same_authorities):
            for head in self._heads:
                self.tell(head, IdentityRevoked(identity))
        self._forget(gone)  # before anybody of the same name is let in
        for identity in identity_changes.changed(by_id, self._by_id, self._own_id):
            self.tell(self._cloud, AccessChanged(identity))
        self._answer_waiting(answered=self.envelope.correlation_id == self._asked)
        if before != now:
            self._save(now)

    def on_authenticate(self, message: Authenticate) -> None:
        if self._is_left(message):
            self._waiting.append(_Waiting(self.envelope, message, is_late=True))
            return
        if self._known is not None:
            verdict = self._judge(message)
            if verdict.return_code == ACCEPTED or (
                self._has_last_word(message.identity) and not self._may_have_changed(message.identity)
            ):
                self._tell(verdict)
                return
        # It may have been made or changed a moment ago, or nothing is loaded yet.
        self._wait(message)

    def on_get_access(self, message: GetAccess) -> None:
        if self._is_left(message):
            self._waiting.append(_Waiting(self.envelope, message, is_late=True))
            return
        access, stands = self._answer(message)
        if stands or (self._known is not None and not self._may_have_changed(message.identity)):
            self.reply(access)
        else:
            self._wait(message)

    def on_identity_forgotten(self, message: IdentityForgotten) -> None:
        heads = self._forgetting.get(message.identity, set())
        heads.discard(self.envelope.sender)
        if heads or self._known is None or message.identity not in self._known.left:
            return
        self._forgetting.pop(message.identity, None)
        left = tuple(identity for identity in self._known.left if identity != message.identity)
        self._known = replace(self._known, left=left)
        self._save(self._known)
        log.info("%s is gone, and all that was kept for it", message.identity)
        self._answer_waiting(answered=False)

    def on_forget_again(self, message: ForgetAgain) -> None:
        self._forget_timer = False
        if self._known is not None:
            self._forget(self._known.left)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._agent_is_away(message.correlation_id)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._agent_is_away(self.envelope.correlation_id)

    def describe(self) -> dict[str, Any]:
        return {
            "identities": -1 if self._known is None else len(self._by_id),
            "waiting": len(self._waiting),
        }

    def _hold(self, known: KnownIdentities) -> None:
        self._known = known
        self._by_id = {identity.id: identity for identity in known.identities}

    def _forget(self, identities: Iterable[str]) -> None:
        """Have forgotten what is kept for those who are gone, so that nobody who gets their name has it."""
        for identity in identities:
            self._forgetting[identity] = set(self._heads)
            for head in self._heads:
                self.tell(head, ForgetIdentity(identity))
        if self._forgetting and not self._forget_timer:
            self._forget_timer = True
            self.set_timer(FORGET_AGAIN_S, ForgetAgain())

    def _save(self, known: KnownIdentities) -> None:
        try:
            self._copy.save(known)
        except EdgeError as exc:  # we go on with what we know; only a restart without an agent would miss it
            log.error("the copy of the identities is out of date: %s", exc)

    def _has_last_word(self, identity: str) -> bool:
        """Tell whether what is known here suffices to refuse an identity."""
        return self._agent_is_up or (identity in self._by_id and not self._agent_lives())

    def _may_have_changed(self, identity: str) -> bool:
        """Tell whether to ask the agent about an identity; if so, it counts as asked about."""
        now_s = self.clock.monotonic_s()
        if (
            not self._agent_is_up
            or now_s < self._asked_for.get(identity, -REFRESH_SPACING_S) + REFRESH_SPACING_S
        ):
            return False
        self._asked_for.pop(identity, None)
        self._asked_for[identity] = now_s
        if len(self._asked_for) > MOST_ASKED_FOR:
            del self._asked_for[next(iter(self._asked_for))]
        return True

    def _wait(self, asked: Authenticate | GetAccess) -> None:
        self._waiting.append(_Waiting(self.envelope, asked, is_late=self._asked != 0))
        self._ask_agent(refresh=self._known is not None)

    def _ask_agent(self, refresh: bool = False) -> None:
        if not self._asked:
            self._asked = self.request(SECURITY, GetIdentities(refresh), AGENT_LIMIT_S)

    def _agent_is_away(self, correlation_id: int) -> None:
        if correlation_id != self._asked:
            return
        self._asked = 0
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            identity = one.asked.identity
            self._asked_for.pop(identity, None)
            if isinstance(one.asked, GetAccess):
                self.reply(self._access(identity), one.envelope)
                continue
            reason = f"'{identity}' is not known yet or may have changed, and the agent does not answer"
            self.reply(Verdict(identity, TRY_AGAIN, reason), one.envelope)

    def _answer_waiting(self, answered: bool) -> None:
        """Answer who waits: what the agent tells by itself lets somebody in, its answer alone refuses."""
        if answered:
            self._asked = 0
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if self._is_left(one.asked):
                self._waiting.append(one)
                continue
            answer, is_final = self._answer(one.asked)
            if is_final or (answered and not one.is_late):
                self._tell(answer, one.envelope)
            else:
                self._waiting.append(replace(one, is_late=one.is_late and not answered))
        if any(not self._is_left(one.asked) for one in self._waiting):
            self._ask_agent(refresh=True)

    def _tell(self, answer: object, envelope: Envelope | None = None) -> None:
        if isinstance(answer, Verdict) and answer.return_code not in (ACCEPTED, TRY_AGAIN):
            self._metrics.refused(answer.identity)
        self.reply(answer, envelope)

    def _is_left(self, asked: Authenticate | GetAccess) -> bool:
        """Tell whether the last one of this name is not forgotten yet: nobody shall have what it left."""
        return asked.identity in self._forgetting

    def _answer(self, asked: Authenticate | GetAccess) -> tuple[object, bool]:
        """Return the answer from what is known, and whether nothing that the agent says would change it."""
        if isinstance(asked, GetAccess):
            access = self._access(asked.identity)
            return access, isinstance(access, Access) and not asked.was_refused
        verdict = self._judge(asked)
        return verdict, verdict.return_code == ACCEPTED

    def _access(self, identity: str) -> Access | RequestFailed:
        known, own = self._by_id.get(identity), self._by_id.get(self._own_id)
        if known is not None and known.enabled and known.keys:
            return Access(identity, _base64(known.keys[0]))
        if known is not None and known.enabled and known.auth_type in CERTIFICATES and own and own.keys:
            return Access(identity, _base64(own.keys[0]), own.id)
        if known is None:
            reason = f"'{identity}' is not known to this edge; make it a child of its device in the cloud"
        elif not known.enabled:
            device = identity.partition("/")[0]
            reason = (
                f"'{identity}' is disabled; `edge-actors identity enable {device}` changes it, or says where"
            )
        elif known.auth_type in CERTIFICATES:
            reason = (
                f"'{identity}' proves itself with a certificate, and only it has the key of that; the key of "
                f"'{self._own_id}', which speaks for it, is not known yet"
            )
        else:
            reason = f"'{identity}' has neither a key nor a certificate; give it one of them in the cloud"
        return RequestFailed(GetAccess.__name__, self.address, reason)

    def _judge(self, asked: Authenticate) -> Verdict:
        assert self._known is not None
        try:
            ends_s = verdicts.check(
                asked.identity,
                asked.token.reveal().decode("utf-8", "replace"),
                asked.certificates,
                self._by_id,
                hosts=self._hosts,
                authorities=self._known.authorities,
                check_certificate=self._check_certificate,
                auth_chain=asked.auth_chain,
                now_s=self.clock.now_s(),
            )
        except AuthError as exc:
            return Verdict(asked.identity, NOT_AUTHORIZED, str(exc))
        return Verdict(asked.identity, ACCEPTED, "", ends_s)


def _base64(key: Secret) -> Secret:
    return Secret(base64.b64encode(key.reveal()))
