"""The tokens that one AMQP connection to the cloud has shown, and those it shows again before they end.

A token counts for whoever is named in it. In scope mode that is `$edgeHub` for all its children, so it is
shown once for all of them. Links are not touched by a new token.

Source: spec sheet hub-protocols.md sections 3.2 and 7.8
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct, field

from actors.upstream.connection import CloudAccess, CloudFault, Fault
from messaging import sas
from messaging.amqp import cbs
from messaging.amqp.addresses import CBS_NODE
from messaging.amqp.codec import decode, encode
from messaging.errors import AuthError, RemoteProtocolError
from runtime.upstream import faults
from runtime.upstream.shared import token_of

if TYPE_CHECKING:
    from messaging.amqp.events import Outcome
    from messaging.amqp.link import Delivery, Link
    from runtime.upstream.amqp_line import Line

log = logging.getLogger(__name__)

RENEW_BEFORE_S: Final = 1200.0  # or when 85 % of the time is over, whichever is later
_LATEST_SHARE: Final = 0.15
_LEAST_BEFORE_S: Final = 2.0  # it is looked at once a second, and its answer takes a while
_ANSWERS: Final = 100  # that may be under way
_LEAST_PAUSE_S: Final = 1.0  # between two tries to renew


class Holder(Protocol):
    """Who needs a token: an identity on the line."""

    access: CloudAccess

    def token_taken(self) -> None: ...
    def token_refused(self, fault: CloudFault) -> None: ...


class _Token(Struct):
    """One that was shown; times are monotonic unless they are named otherwise."""

    access: CloudAccess
    holders: dict[Holder, None] = field(default_factory=dict)
    asked_s: float | None = None  # since then it waits to be shown, or for its answer
    message_id: str = ""  # with which it was shown last
    is_good: bool = False  # the cloud has taken it, or the one before it …
    is_doubtful: bool = False  # … but may have forgotten: it is shown again before it counts for anybody new
    shown_until_utc_s: float = 0.0  # of the one that was shown last
    good_until_utc_s: float = 0.0  # of the one that was taken last
    renew_utc_s: float = 0.0


class LineTokens:
    """Implements `LinkOwner` for the pair of links of `$cbs`."""

    def __init__(self, line: Line) -> None:
        """Attach the links; what is shown before there is credit waits for it."""
        self._line = line
        self._shared = line.shared
        self._tokens: dict[str, _Token] = {}  # by audience
        self._waiting: dict[str, None] = {}  # audiences, to be shown
        self._ids = itertools.count(1)
        self._sender = line.attach_sender(self, CBS_NODE, settled=False)
        line.attach_receiver(self, CBS_NODE, credit=_ANSWERS, settled=False)

    def claim(self, holder: Holder) -> None:
        """Show the token that proves `holder`, unless that has been done: ends in one of its calls."""
        access = holder.access
        audience = _audience(access)
        token = self._tokens.get(audience)
        if token is not None and token.access.key != access.key:
            token.access, token.is_good, token.asked_s = access, False, None  # others have an old key
        if token is None:
            token = self._tokens[audience] = _Token(access)
        token.holders[holder] = None
        if token.is_good and not token.is_doubtful:
            holder.token_taken()
        elif token.asked_s is None:
            self._show(audience, token)

    def release(self, holder: Holder, *, is_doubtful: bool = False) -> None:
        """Need it no longer; it is doubtful when the cloud has just refused its holder."""
        audience = _audience(holder.access)
        token = self._tokens.get(audience)
        if token is not None:
            token.holders.pop(holder, None)
            token.is_doubtful = token.is_doubtful or is_doubtful
            if not token.holders:
                del self._tokens[audience]
                self._waiting.pop(audience, None)

    def tick(self, now_s: float) -> None:
        """Renew what is about to end, and give up what is not answered."""
        now_utc_s = self._shared.clock.now_s()
        for audience, token in list(self._tokens.items()):
            if token.asked_s is not None:
                if now_s - token.asked_s > self._shared.times.open_s:
                    self._line.silent(self._shared.times.open_s)
                    return
            elif now_utc_s >= token.renew_utc_s:
                self._show(audience, token)

    def _show(self, audience: str, token: _Token) -> None:
        token.asked_s = time.monotonic()
        self._waiting[audience] = None
        self._send()

    def _send(self) -> None:
        while self._waiting and self._sender.credit > 0:
            audience = next(iter(self._waiting))
            del self._waiting[audience]
            token = self._tokens[audience]
            life_s = self._shared.times.token_life_s
            expires_s = int(self._shared.clock.now_s() + life_s)
            try:
                text = token_of(token.access, expires_s)
            except AuthError as exc:
                self._refuse(audience, token, CloudFault(Fault.UNAUTHORIZED, str(exc)))
                continue
            token.shown_until_utc_s = expires_s
            before_s = min(RENEW_BEFORE_S, max(_LATEST_SHARE * life_s, _LEAST_BEFORE_S))
            token.renew_utc_s = expires_s - before_s
            token.message_id = f"{next(self._ids)} {audience}"
            request = encode(cbs.put_token(audience, text, token.message_id))
            self._sender.send(request, b"%d" % next(self._ids), settled=False)
        self._line.has_more()

    def _answered(self, answer: cbs.CbsAnswer) -> None:
        _, _, audience = str(answer.correlation_id).partition(" ")
        token = self._tokens.get(audience)
        if token is None or token.asked_s is None or token.message_id != answer.correlation_id:
            return  # nobody needs it any more, or another is being shown
        token.asked_s = None
        if 200 <= answer.status < 300:
            token.is_good, token.is_doubtful = True, False
            token.good_until_utc_s = token.shown_until_utc_s
            for holder in list(token.holders):  # of no matter to those who had it before
                if holder in token.holders:
                    holder.token_taken()
            return
        who = str(token.access.signer or token.access.identity)
        fault = faults.of_token(answer.status, who, self._line.host_name, answer.description)
        left_s = token.good_until_utc_s - self._shared.clock.now_s()
        if token.is_good and fault.kind is not Fault.UNAUTHORIZED and left_s > 0:
            log.warning("upstream: %s; the token before it counts for %.0f s more", fault.reason, left_s)
            token.renew_utc_s = self._shared.clock.now_s() + max(_LEAST_PAUSE_S, left_s / 4)
            return
        self._refuse(audience, token, fault)

    def _refuse(self, audience: str, token: _Token, fault: CloudFault) -> None:
        self._tokens.pop(audience, None)
        for holder in list(token.holders):
            holder.token_refused(fault)

    # as the owner of the links

    def attached(self, link: Link) -> None:
        """See `credit_granted`."""

    def credit_granted(self, link: Link) -> None:
        self._send()

    def received(self, delivery: Delivery) -> None:
        link = delivery.link
        delivery.accept()
        if link.credit < _ANSWERS // 2:
            link.grant(_ANSWERS - link.credit)
        try:
            answer = cbs.parse_answer(decode(delivery.data))
        except RemoteProtocolError as exc:
            log.warning("'%s' answered a token with what cannot be read: %s", self._line.host_name, exc)
        else:
            self._answered(answer)

    def settled(self, delivery: Delivery, outcome: Outcome, condition: str, description: str) -> None:
        """That it took the request says nothing; its answer does."""

    def detached(self, link: Link, condition: str, description: str) -> None:
        self._line.lose(faults.of_close(self._line.host_name, condition, description))


def _audience(access: CloudAccess) -> str:
    return sas.audience_of(access.host_name, access.signer or access.identity)
