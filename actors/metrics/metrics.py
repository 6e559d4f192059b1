"""Tells the metrics of its process: over HTTP to Prometheus, over the bus to whoever asks.

Understands: TellMetrics; Metrics, RequestFailed and DeadlinePassed of the other process; OtherWanted
Tells:       whoever asked (Metrics), the one of the other process (TellMetrics)
Started by:  the root of its process, on an event loop of its own: a scrape shall hold up nobody

Modules in containers look for both at port 9600, edgeHub's and edgeAgent's, and both names are one address
here. So the hub tells the agent's to whoever calls it `edgeAgent`.

Source: spec sheet observability.md sections 1 and 9
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from actors.kernel.base import EdgeActor
from actors.metrics.registry import Registry, Source
from messaging.exposition import Family, encode_text, pack, unpack
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, RequestFailed

OTHER_LIMIT_S: Final = 5.0


@message
class TellMetrics:
    """Tell what the metrics stand at. Answered with Metrics."""


@message
class Metrics:
    """Families as `messaging.exposition.unpack` reads them; none when metrics are switched off."""

    packed: bytes


@message
class OtherWanted:
    """To itself: somebody asks for the metrics of the other process."""


Answered = Callable[[int, bytes], None]
"""Takes HTTP status and body."""

Job = Callable[[], bytes]
"""Makes text of what the metrics stand at, which takes seconds when there are thousands of clients."""


class MetricsGate(Protocol):
    """Brings the requests of HTTP, on the event loop of the actor that opens it."""

    def open(self, scraped: Callable[[str, Answered], None]) -> None:
        """Call `scraped` for each request from now on, with the name of the host that it asks for."""
        ...

    def close(self) -> None:
        """Bring no more."""
        ...

    def work(self, job: Job, done: Callable[[bytes | None], None]) -> None:
        """Do a job in a thread, one at a time; `done` gets its result on the loop, None when it failed."""
        ...


class MetricsActor(EdgeActor):
    """Answers from the registry, and from what others keep and tell at that moment."""

    def __init__(
        self,
        registry: Registry,
        gate: MetricsGate,
        sources: Sequence[Source] = (),
        others: tuple[str, str] = ("", ""),
    ) -> None:
        """Take what to tell; `others` is a host name and the address of who answers for that."""
        self._registry = registry
        self._gate = gate
        self._sources = sources
        self._other_name, self._other = others
        self._wanted: list[Answered] = []  # who wants those of the other
        self._open: dict[int, Answered] = {}  # by correlation id of what the other was asked

    def on_start(self) -> None:
        self._gate.open(self.scraped)

    def on_stop(self) -> None:
        self._gate.close()

    def describe(self) -> dict[str, Any]:
        return {"on": self._registry.is_on}

    def scraped(self, host: str, answered: Answered) -> None:
        """Somebody asks over HTTP."""
        if self._other and host.casefold() == self._other_name.casefold():
            self._wanted.append(answered)
            self.context.tell_self(OtherWanted())  # what a socket calls has no turn to wait for a deadline
        else:
            self._gate.work(lambda: encode_text(self._families()), _answer(answered))

    def on_other_wanted(self, message: OtherWanted) -> None:
        wanted, self._wanted = self._wanted, []
        for answered in wanted:
            self._open[self.request(self._other, TellMetrics(), OTHER_LIMIT_S)] = answered

    def on_tell_metrics(self, message: TellMetrics) -> None:
        asked = self.envelope

        def done(packed: bytes | None) -> None:
            if packed is None:
                reason = "its metrics cannot be told; its log says why"
                self.reply(RequestFailed(asked.kind, self.address, reason), asked)
            else:
                self.reply(Metrics(packed), asked)

        self._gate.work(lambda: pack(self._families()), done)

    def on_metrics(self, message: Metrics) -> None:
        answered = self._open.pop(self.envelope.correlation_id, None)
        if answered is not None:
            self._gate.work(lambda: encode_text(unpack(message.packed)), _answer(answered))

    def on_request_failed(self, message: RequestFailed) -> None:
        self._failed(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._failed(message.correlation_id, f"it does not answer within {OTHER_LIMIT_S:g} s")

    def _failed(self, correlation_id: int, reason: str) -> None:
        answered = self._open.pop(correlation_id, None)
        if answered is not None:
            answered(503, f"the metrics of {self._other_name} cannot be had: {reason}\n".encode())

    def _families(self) -> Iterable[Family]:
        if not self._registry.is_on:
            return ()
        found = list(self._registry.collect())
        for source in self._sources:
            found += source()
        return [family for family in found if family.samples]


def _answer(answered: Answered) -> Callable[[bytes | None], None]:
    def done(text: bytes | None) -> None:
        if text is None:
            answered(500, b"the metrics cannot be told; the log says why\n")
        else:
            answered(200, text)

    return done
