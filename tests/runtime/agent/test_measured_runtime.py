"""What is counted of what a module runtime is asked to do. Source: spec sheet observability.md section 3."""

from __future__ import annotations

from dataclasses import replace

from actors.manifest.deployment import parse_deployment
from actors.manifest.module_spec import EDGE_CLOUD, ModuleSpec, ProcessSettings
from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.registry import Registry
from actors.ports.modules import ModuleAccess
from messaging.clock import ManualClock, SystemClock
from runtime.agent.measured_runtime import MeasuredRuntime
from tests.actors.manifests import manifest_text
from tests.fakes.module_runtime import FakeModuleRuntime

MODULE = ModuleSpec("m", ProcessSettings(("true",)), version="1.2")


def counts(metrics: AgentMetrics) -> dict[tuple[str, ...], float]:
    return {
        (family.name + sample.suffix, *(text for _, text in sample.labels)): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def test_starts_and_stops_are_counted_with_name_and_version() -> None:
    metrics = AgentMetrics(Registry(SystemClock()))
    runtime = MeasuredRuntime(FakeModuleRuntime(ManualClock()), metrics)

    runtime.start(MODULE, ModuleAccess(), lambda end: None)
    runtime.stop("m", 1.0)

    found = counts(metrics)
    assert found["edgeAgent_module_start_total", "m", "1.2", "True"] == 1
    assert found["edgeAgent_module_stop_total", "m", "1.2", "True"] == 1
    assert found["edgeAgent_command_latency_seconds_count", "start", "True"] == 1
    assert found["edgeAgent_command_latency_seconds_count", "stop", "True"] == 1


def test_the_version_of_the_hub_is_that_of_the_manifest() -> None:
    metrics = AgentMetrics(Registry(SystemClock()))
    hub = parse_deployment(manifest_text(), "file").edge_hub
    assert hub is not None

    runtime = MeasuredRuntime(FakeModuleRuntime(ManualClock()), metrics)
    runtime.start(replace(hub, version="1.5+0123456789abcdef"), ModuleAccess(), lambda end: None)

    assert counts(metrics)["edgeAgent_module_start_total", "edgeHub", "1.5", "True"] == 1


def test_the_stand_in_is_no_module_of_the_deployment_and_is_not_counted() -> None:
    metrics = AgentMetrics(Registry(SystemClock()))
    runtime = MeasuredRuntime(FakeModuleRuntime(ManualClock()), metrics)

    runtime.start(replace(MODULE, name=EDGE_CLOUD), ModuleAccess(), lambda end: None)
    runtime.stop(EDGE_CLOUD, 1.0)

    assert counts(metrics) == {}
