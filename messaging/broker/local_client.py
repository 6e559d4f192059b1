"""A participant of the broker inside this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from messaging.broker.delivery import LocalOutlet, Outgoing
from messaging.broker.engine import Broker
from messaging.broker.journal import Then
from messaging.mqtt.packets import Publish


class LocalClient:
    """A participant inside this process, such as a bridge, with a session like any other.

    `deliver` gets what one batch brought, as a list, and must not block or raise. At QoS 1 a message counts
    as taken with `acknowledge`; before, at most `max_in_flight` are on their way.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        deliver: Callable[[list[Outgoing]], None],
        *,
        clean: bool,
        now_s: float,
        hold: Callable[[], None],
        release: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """Join as `name`, which no client can have. `changed` is called when something is to be written."""
        self._broker = broker
        self._changed = changed
        self._outlet = LocalOutlet(deliver, hold, release)
        self.session, self.was_known = broker.attach(name, self._outlet, clean=clean, now_s=now_s)
        self._end()

    def resume(self) -> None:
        """Be sent what a persistent session is owed. Once, after the subscriptions are made again."""
        self._broker.resume(self.session)
        self._end()

    def subscribe(self, topic_filter: str, qos: int, now_s: float) -> None:
        """Subscribe; those of a persistent session have to be made again after a restart of the process."""
        self._broker.subscribe(self.session, topic_filter, min(qos, 1), now_s)
        self._end()

    def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe."""
        self._broker.unsubscribe(self.session, topic_filter)
        self._end()

    def publish(
        self, messages: Sequence[Publish], now_s: float, monotonic_s: float, then: Then | None = None
    ) -> None:
        """Publish at QoS 0 or 1; `then` is called when it is on disk, as far as it has to be."""
        if self._broker.publish(messages, self.session, now_s, monotonic_s) and then is not None:
            self._broker.journal.when_written(then)
        elif then is not None:
            then("")
        self._end()

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """These messages are taken."""
        self.session.finished(packet_ids)
        self._end()

    def leave(self, now_s: float, *, for_good: bool = False) -> None:
        """Go; `for_good` ends the session, too."""
        if for_good:
            self._broker.drop(self.session)
        self._broker.detach(self.session, now_s)
        self._end()

    def _end(self) -> None:
        self._broker.flush()
        if self._broker.journal.is_dirty:
            self._changed()
