"""Metrics of the agent process: looks at modules and machine now and then, and sends the quality telemetry.

Understands: ModulesDue, MachineDue, KeepMetricsDue, SendKeptDue, SendAgainDue; ModuleList; QualitySent,
             QualityLost; and what MetricsActor does
Tells:       agent/agent (ListModules), hub/metrics (TellMetrics), agent/link (SendQuality)
Started by:  AgentRootActor

The quality telemetry goes over the agent's own link, so no route and no customer sees it.

Source: spec sheet observability.md sections 3 and 4
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from actors.addresses import AGENT, METRICS
from actors.agent.link_messages import QualityLost, QualitySent, SendQuality
from actors.agent.module_list import ListModules, ModuleList
from actors.manifest.module_spec import EDGE_AGENT, EDGE_CLOUD
from actors.metrics import quality_telemetry
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.availability import Clocks, Seen, advance
from actors.metrics.metrics import Metrics, MetricsActor, MetricsGate, TellMetrics
from actors.metrics.quality_telemetry import Scrape
from actors.metrics.registry import Source
from messaging.errors import EdgeError
from messaging.exposition import Family, unpack
from messaging.kinds import message
from messaging.lifecycle import DeadlinePassed, RequestFailed

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0  # how often is seen which modules run
FIRST_POLL_S: Final = 60.0
CHECKPOINT_S: Final = 300.0
ASK_LIMIT_S: Final = 5.0
SEND_LIMIT_S: Final = 120.0


@message
class ModulesDue:
    """Timer: see which modules run."""


@message
class MachineDue:
    """Timer: look at memory, processors, disks."""


@message
class KeepMetricsDue:
    """Timer: keep what the metrics stand at."""


@message
class SendKeptDue:
    """Timer: send what was kept."""


@message
class SendAgainDue:
    """Timer: try again to send what could not be."""


class Checkpoint(Protocol):
    """When the agent was last known to run, through a restart."""

    def load(self) -> float | None:
        """Return the time in seconds since 1970-01-01 UTC; None after an orderly end."""
        ...

    def save(self, now_s: float) -> None:
        """The agent runs."""
        ...

    def remove(self) -> None:
        """It ends in order."""
        ...


class KeptScrapes(Protocol):
    """Scrapes that were not sent yet. Every method may raise EdgeError."""

    def add(self, scrape: Scrape) -> None:
        """Keep one."""
        ...

    def read(self, most: int) -> list[tuple[str, Scrape]]:
        """Return the oldest ones, each with its key."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Forget these."""
        ...


LookAtMachine = Callable[[Sequence[tuple[str, int]]], None]
"""Looks, in a thread of its own, at what the machine and these modules (name, pid) take up, and counts it."""


class AgentMetricsActor(MetricsActor):
    """Everything that is counted at intervals and not as it happens."""

    def __init__(
        self,
        metrics: AgentMetrics,
        gate: MetricsGate,
        sources: Sequence[Source],
        *,
        look_at_machine: LookAtMachine,
        checkpoint: Checkpoint,
        kept: KeptScrapes,
        link: str = "",
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Keep what is needed; `link` is the address of the agent's link, "" when there is no cloud."""
        super().__init__(metrics.registry, gate, sources)
        self._metrics = metrics
        self._look_at_machine = look_at_machine
        self._checkpoint = checkpoint
        self._kept = kept
        self._link = link
        self._draw = draw
        self._clocks: dict[str, Clocks] = {}
        self._seen_before: tuple[str, ...] = ()
        self._modules: tuple[dict[str, Any], ...] = ()
        self._looked_s = 0.0  # monotonic
        self._checkpoint_due_s = 0.0
        self._scraped: tuple[Family, ...] = ()  # of edgeAgent, while those of edgeHub are asked for
        self._asked_hub = 0
        self._upload: list[bytes] = []  # what is left to be sent of one upload …
        self._keys: list[str] = []  # … and of which scrapes it is made
        self._sending = 0
        self._tries = 0

    # life

    def on_start(self) -> None:
        super().on_start()
        last_s = self._checkpoint.load()
        if last_s is not None:
            self._clocks[EDGE_AGENT] = Clocks(0.0, max(0.0, self.clock.now_s() - last_s))
        environment = self._metrics.environment
        self.on_modules_due(ModulesDue())
        self.set_timer(min(FIRST_POLL_S, environment.performance_metrics_s), MachineDue())
        if self._link:
            self.set_timer(environment.metric_scrape_s, KeepMetricsDue())
            self.set_timer(environment.metric_upload_s * self._draw(), SendKeptDue())

    def on_stopping(self) -> None:
        self._checkpoint.remove()
        super().on_stopping()

    def describe(self) -> dict[str, Any]:
        environment = self._metrics.environment
        return {
            **super().describe(),
            "port": environment.metrics_port if environment.metrics_enabled else None,
            "quality_telemetry": bool(self._link) and environment.sends_quality_telemetry,
        }

    # modules and machine

    def on_modules_due(self, message: ModulesDue) -> None:
        self.set_timer(LOOK_S, ModulesDue())
        self.request(AGENT, ListModules(), ASK_LIMIT_S)
        now_s = self.clock.monotonic_s()
        if now_s >= self._checkpoint_due_s:
            self._checkpoint_due_s = now_s + CHECKPOINT_S
            self._checkpoint.save(self.clock.now_s())

    def on_module_list(self, message: ModuleList) -> None:
        self._modules = tuple(entry for entry in message.modules if entry["name"] != EDGE_CLOUD)
        seen = [Seen(entry["name"], entry["status"], entry["desired"]) for entry in self._modules]
        now_s = self.clock.monotonic_s()
        self._clocks = advance(self._clocks, seen, now_s - self._looked_s, self._seen_before)
        self._seen_before, self._looked_s = tuple(one.name for one in seen), now_s
        self._metrics.clocks(self._clocks)

    def on_machine_due(self, message: MachineDue) -> None:
        self.set_timer(self._metrics.environment.performance_metrics_s, MachineDue())
        if self._registry.is_on or self._sends:
            self._look_at_machine([(entry["name"], entry["pid"]) for entry in self._modules if entry["pid"]])

    # quality telemetry: keep

    @property
    def _sends(self) -> bool:
        return bool(self._link) and self._metrics.environment.sends_quality_telemetry

    def on_keep_metrics_due(self, message: KeepMetricsDue) -> None:
        self.set_timer(self._metrics.environment.metric_scrape_s, KeepMetricsDue())
        if self._sends:
            log.debug("quality telemetry: keeping what the metrics stand at")
            self._scraped = tuple(self._families())
            self._asked_hub = self.request(METRICS, TellMetrics(), ASK_LIMIT_S)

    def on_metrics(self, message: Metrics) -> None:
        if self.envelope.correlation_id == self._asked_hub:
            self._keep(unpack(message.packed))

    def _keep(self, of_hub: Sequence[Family]) -> None:
        self._asked_hub = 0
        points = quality_telemetry.points_of((*self._scraped, *of_hub))
        self._scraped = ()
        if points:
            try:
                self._kept.add(Scrape(self.clock.now_s(), points))
            except EdgeError as exc:
                log.warning("quality telemetry: metrics cannot be kept: %s", exc)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._not_answered(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._not_answered(message.correlation_id, f"{message.address} does not answer")

    def _not_answered(self, correlation_id: int, reason: str) -> None:
        if correlation_id == self._asked_hub:
            log.info("quality telemetry: the metrics of edgeHub are left out: %s", reason)
            self._keep(())
        elif correlation_id == self._sending:
            self._try_again(reason)

    # quality telemetry: send

    def on_send_kept_due(self, message: SendKeptDue) -> None:
        self.set_timer(self._metrics.environment.metric_upload_s, SendKeptDue())
        if self._upload:  # what is left of the upload before has its own time
            return
        try:
            found = self._kept.read(quality_telemetry.MOST_SCRAPES)
            oldest_s = self.clock.now_s() - self._metrics.environment.metric_max_upload_age_s
            old = [key for key, scrape in found if scrape.at_s < oldest_s]
            self._kept.remove(old)
            if not self._sends:
                return
            fresh = [(key, scrape) for key, scrape in found if scrape.at_s >= oldest_s]
            self._upload = quality_telemetry.bodies(
                quality_telemetry.series_of(scrape for _, scrape in fresh)
            )
            self._keys, self._tries = [key for key, _ in fresh], 0
        except EdgeError as exc:
            log.warning("quality telemetry: what was kept cannot be read: %s", exc)
            return
        if self._upload:
            self._send()
        else:
            self._forget()

    def _send(self) -> None:
        if not self._sends:  # switched off meanwhile
            self._upload = []
            return
        self._tries += 1
        self._sending = self.request(self._link, SendQuality(self._upload[0]), SEND_LIMIT_S)

    def on_quality_sent(self, message: QualitySent) -> None:
        if self.envelope.correlation_id != self._sending or not self._upload:
            return
        self._tries = 0
        del self._upload[0]
        if self._upload:
            self._send()
        else:
            log.info("quality telemetry: sent")
            self._forget()

    def on_quality_lost(self, message: QualityLost) -> None:
        if self.envelope.correlation_id != self._sending or not self._upload:
            return
        if message.may_pass:
            self._try_again(message.reason)
        else:
            log.warning("quality telemetry: not taken, and given up: %s", message.reason)
            self._forget()

    def _try_again(self, reason: str) -> None:
        self._sending = 0
        if self._tries >= quality_telemetry.MOST_TRIES:
            log.warning("quality telemetry: given up after %d tries: %s", self._tries, reason)
            self._forget()
            return
        wait_s = quality_telemetry.wait_s(self._tries, self._draw())
        log.info("quality telemetry: tried again in %.0f s: %s", wait_s, reason)
        self.set_timer(wait_s, SendAgainDue())

    def on_send_again_due(self, message: SendAgainDue) -> None:
        if self._upload and not self._sending:
            self._send()

    def _forget(self) -> None:
        keys, self._keys = self._keys, []
        self._upload, self._sending = [], 0
        try:
            self._kept.remove(keys)
        except EdgeError as exc:
            log.warning("quality telemetry: what was sent cannot be removed: %s", exc)
