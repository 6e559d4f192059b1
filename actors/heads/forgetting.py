"""Forgets what was kept for an identity that is gone. Each head does: what its clients said stands before."""

from __future__ import annotations

import logging
from collections.abc import Callable

from actors.hub.client_services import IdentityForgotten, TwinForgotten
from actors.kernel.base import EdgeActor
from actors.store.messages import SessionSaved
from messaging.envelope import Envelope

log = logging.getLogger(__name__)


def when_forgotten(head: EdgeActor, identity: str, asked: Envelope) -> Callable[[object], None]:
    """Return what takes the answers of store and twins, and says that nothing is left after both."""
    kept = {SessionSaved, TwinForgotten}  # what says that a part of it is gone

    def forgotten(answer: object) -> None:
        if type(answer) not in kept:
            log.error("what was kept for %s, which is gone, is still there: %s", identity, answer)
            return
        kept.discard(type(answer))
        if not kept:
            head.reply(IdentityForgotten(identity), asked)

    return forgotten
