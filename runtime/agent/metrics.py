"""The agent's metrics: what it counts, and where it tells them as the deployment wants."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence

from actors.agent.certificate_ends import CertificateLife, certificate_families
from actors.kernel.hosts import ThreadSystem
from actors.manifest.agent_environment import AgentEnvironment
from actors.metrics.actor_metrics import actor_families
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.agent_metrics_actor import AgentMetricsActor
from actors.metrics.registry import Registry
from messaging.clock import SystemClock
from messaging.version import VERSION
from runtime.agent.metrics_files import CheckpointFile, ScrapeFiles
from runtime.agent.metrics_sockets import AgentMetricsSockets
from runtime.config.listen_addresses import metrics_addresses
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.machine.look import MachineLook
from runtime.net.metrics_server import MetricsServer


class EdgeMetrics:
    """What is counted in the agent process (`counts`), its server and its sockets."""

    def __init__(self, settings: Settings, environment: AgentEnvironment) -> None:
        self._common = (
            ("iothub", settings.iothub_hostname),
            ("edge_device", settings.device_id),
            ("instance_number", str(uuid.uuid4())),
        )
        self.counts = AgentMetrics(
            Registry(
                SystemClock(),
                self._common,
                histogram_age_s=environment.metrics_histogram_max_age_s,
            )
        )
        self._server = MetricsServer()
        self._sockets = AgentMetricsSockets(self._server)

    def tell_as(self, settings: Settings, environment: AgentEnvironment) -> None:
        """Tell metrics where and as the deployment in force wants it."""
        self.counts.configure(environment)
        host = {"operatingSystemType": "linux", "architecture": os.uname().machine, "version": VERSION}
        self.counts.is_edge(VERSION, host)
        addresses = (
            metrics_addresses(settings, environment.metrics_port) if environment.metrics_enabled else ()
        )
        self._sockets.listen_on(addresses, f"/{environment.metrics_suffix}")

    def actor(
        self,
        home: Home,
        system: ThreadSystem,
        certificates: Callable[[], Sequence[CertificateLife]],
        began_s: float,
        link: str,
    ) -> AgentMetricsActor:
        """Return the behaviour that serves them and sends what the cloud is to have.

        Args:
            home: Of this edge.
            system: Whose actors are counted.
            certificates: Of this edge, as they are now.
            began_s: When it started, in seconds since 1970-01-01 UTC.
            link: Address of the link to the cloud; "" for none.
        """
        return AgentMetricsActor(
            self.counts,
            self._server,
            (
                lambda: actor_families("edgeAgent_", self._common, system.counts()),
                lambda: certificate_families(certificates(), self._common, time.time()),
            ),
            look_at_machine=MachineLook(self.counts, began_s).look_soon,
            checkpoint=CheckpointFile(home.availability),
            kept=ScrapeFiles(home.quality),
            link=link,
        )

    def close(self) -> None:
        """Tell them no more."""
        self._sockets.close()
