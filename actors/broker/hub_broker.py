"""What the MQTT head, the broker's actor and bridges share: the topics of this hub, and who may use them.

All of them are on one event loop. It outlives their restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.addresses import BROKER
from messaging.kinds import message

if TYPE_CHECKING:
    from messaging.broker.config import BrokerConfig
    from messaging.broker.limits import Limits


@message
class WriteDue:
    """To the broker's actor: somebody waits until what has changed is on disk."""


@message
class WriteSoon:
    """To the broker's actor: something has changed, and nobody waits for it."""


@message
class PolicyChanged:
    """To the MQTT head: what clients may do has changed; whoever may not what it does is cut off.

    Answered with PolicyApplied.
    """


@message
class PolicyApplied:
    """It holds for all sessions now."""


@message
class SessionsEnded:
    """To the MQTT head: nobody has come for these sessions for so long that they are given up."""

    client_ids: tuple[str, ...]


class HubBroker:
    """The engine, and what the deployment says of it."""

    def __init__(self, config: BrokerConfig, limits: Limits) -> None:
        from messaging.broker.engine import Broker  # only where there is a broker

        self.config = config
        self.engine = Broker(limits)
        self._asked = False
        self._asked_soon = False
        self.is_loaded = False

    def ask_to_write(self, tell: Callable[[str, object], object]) -> None:
        """Have what has changed written; `tell` is that of the actor that has changed it."""
        journal = self.engine.journal
        if not journal.is_dirty:
            return
        if journal.is_awaited:
            if not self._asked:
                self._asked = True
                tell(BROKER, WriteDue())
        elif not self._asked and not self._asked_soon:
            self._asked_soon = True
            tell(BROKER, WriteSoon())

    def writing(self) -> None:
        """All that has changed so far is being written."""
        self._asked = self._asked_soon = False
