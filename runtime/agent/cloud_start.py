"""The IoT Hub stand-in of an edge as a module of it: its first start, and the deployment in its twins."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

from actors.agent.restart_policy import RestartState
from actors.manifest.module_spec import (
    EDGE_CLOUD,
    DesiredStatus,
    ModuleSpec,
    RestartPolicy,
    StandInSettings,
    spec_hash,
)
from actors.ports.modules import ModuleAccess, ModuleRecord, ModuleRecords, ModuleRun
from messaging.errors import EdgeError
from messaging.version import VERSION
from runtime.agent.embedded_cloud import SAMPLE, EmbeddedCloud
from runtime.modules.runtimes import ModuleRuntimes
from runtime.upstream.provisioning import Provisioned

log = logging.getLogger(__name__)

KILL_LIMIT_S: Final = 5.0


def cloud_spec(cloud: EmbeddedCloud) -> ModuleSpec:
    """Return what its supervisor keeps running."""
    settings = StandInSettings(cloud.host_name)
    return ModuleSpec(EDGE_CLOUD, settings, restart_policy=RestartPolicy.ALWAYS, version=VERSION)


class CloudStart:
    """The first start of the stand-in in a run of an edge. Used by the main thread."""

    def __init__(
        self, cloud: EmbeddedCloud, device_id: str, modules: ModuleRuntimes, records: ModuleRecords
    ) -> None:
        """Keep what is needed; `device_id` is that of this edge."""
        self._cloud = cloud
        self._device_id = device_id
        self._modules = modules
        self._records = records
        self._ended = threading.Event()
        self._was_started = False

    def start(self, known: Provisioned | None, deployment: Path | None) -> Provisioned:
        """Have it run, with the identity of this edge in it, which is made the first time.

        Args:
            known: Who this edge was at its last start.
            deployment: A file that its twins are to show; None: what it has, the sample at first.

        Raises:
            EdgeError: it does not run, or does not know this edge.
        """
        cloud = self._cloud
        cloud.keep_address()
        spec = cloud_spec(cloud)
        record = self._records.load(EDGE_CLOUD)
        if record is None or record.spec_hash != spec_hash(spec):
            record = ModuleRecord(spec_hash(spec), spec.startup_order, spec.status, RestartState())
            self._records.save(EDGE_CLOUD, record, durable=False)
        found = self._modules.adopt(EDGE_CLOUD, lambda end: self._ended.set())
        if not isinstance(found, ModuleRun) and record.by_hand is not DesiredStatus.STOPPED:
            self._modules.start(spec, ModuleAccess(), lambda end: self._ended.set())
            self._was_started = True
        provisioned = cloud.identity(self._device_id, known, self._ended.is_set)
        if deployment is not None:
            threading.Thread(target=self._show, args=(deployment,)).start()
        elif cloud.device_is_new and SAMPLE.exists():
            cloud.deploy(self._device_id, SAMPLE, self._ended.is_set)
            log.info("the sample deployment %s was put into the IoT Hub of this edge", SAMPLE)
        return provisioned

    def take_back(self) -> None:
        """End it again, if it was started, when nothing else of the edge will be."""
        if self._was_started:
            self._modules.kill(EDGE_CLOUD)
            self._ended.wait(KILL_LIMIT_S)
            self._modules.remove(EDGE_CLOUD)
            self._cloud.remove_run_directory()

    def _show(self, deployment: Path) -> None:
        """In a thread, because nothing waits for it: have the twins in the stand-in say what a file says."""
        try:
            self._cloud.deploy(self._device_id, deployment, self._ended.is_set)
        except EdgeError as exc:
            log.warning("the IoT Hub of this edge does not show the deployment that runs: %s", exc)
