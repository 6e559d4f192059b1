"""The metrics of edgeAgent, by what happens in it. Shared by the actors of the agent process.

Source: spec sheet observability.md section 3; what differs is said where it does
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from actors.manifest.agent_environment import DEFAULTS, AgentEnvironment
from actors.manifest.module_spec import EDGE_AGENT, EDGE_HUB
from actors.metrics.availability import Clocks
from actors.metrics.registry import Of, Registry
from actors.metrics.system_resources import ModuleResources, Resources
from messaging.clock import SystemClock

HOST: Final = "host"
_OF_RUNTIME: Final = frozenset((HOST, EDGE_AGENT, EDGE_HUB))  # these are part of the quality telemetry
_MOST_PERCENT: Final = 100.0  # a module's share above it is a mistake of whoever measured


def is_of_runtime(module: str) -> str:
    """Return the value of the label `ms_telemetry` of a module."""
    return str(module in _OF_RUNTIME)


class AgentMetrics:
    """What is counted in the agent. Any thread may call."""

    def __init__(self, registry: Registry) -> None:
        """Take where to count."""
        self.registry = registry
        self.environment = DEFAULTS
        counter, gauge = registry.counter, registry.gauge
        duration = registry.duration
        clocks = ("module_name", "ms_telemetry")
        self._running = gauge(
            "edgeAgent_total_time_running_correctly_seconds", "Time that modules ran as desired", clocks
        )
        self._expected = gauge(
            "edgeAgent_total_time_expected_running_seconds", "Time that modules should have run", clocks
        )
        module = ("module_name", "module_version")
        self._starts = counter("edgeAgent_module_start", "Starts of modules", module, ms="True")
        self._stops = counter("edgeAgent_module_stop", "Stops of modules", module, ms="True")
        self._prepared = counter(
            "edgeAgent_module_prepare_update", "Images fetched for modules", module, ms="True"
        )
        self._latency = duration(
            "edgeAgent_command_latency", "Time that a command to a module took", ("command",), ms="True"
        )
        self._syncs = counter("edgeAgent_iothub_syncs", "Desired properties had from the cloud", ms="True")
        self._bad_syncs = counter(
            "edgeAgent_unsuccessful_iothub_syncs", "Those that could not be had", ms="True"
        )
        self._deployment = duration(
            "edgeAgent_deployment_time", "From a deployment's arrival until it was rolled out", ms="True"
        )
        self._methods = counter(
            "edgeagent_direct_method_invocations_count", "Calls of methods", ("method_name",), plain=True
        )
        self._host_uptime = gauge(
            "edgeAgent_host_uptime_seconds", "Time since the machine started", ms="True"
        )
        self._uptime = gauge("edgeAgent_iotedged_uptime_seconds", "Time since the edge started", ms="True")
        disk = ("disk_name", "disk_filesystem", "disk_filetype")
        self._free_disk = gauge("edgeAgent_available_disk_space_bytes", "Free bytes", disk, ms="True")
        self._all_disk = gauge("edgeAgent_total_disk_space_bytes", "Bytes of the disk", disk, ms="True")
        self._memory = gauge("edgeAgent_used_memory_bytes", "Memory in use", clocks)
        self._all_memory = gauge("edgeAgent_total_memory_bytes", "Memory there is", clocks)
        self._cpu = registry.histogram("edgeAgent_used_cpu_percent", "Share of all processors", clocks)
        self._pids = gauge("edgeAgent_created_pids_total", "Processes", ("module_name",), ms="False")
        self._net_in = gauge(
            "edgeAgent_total_network_in_bytes", "Bytes received", ("module_name",), ms="False"
        )
        self._net_out = gauge("edgeAgent_total_network_out_bytes", "Bytes sent", ("module_name",), ms="False")
        self._disk_read = gauge("edgeAgent_total_disk_read_bytes", "Bytes read", ("module_name",), ms="False")
        self._disk_write = gauge(
            "edgeAgent_total_disk_write_bytes", "Bytes written", ("module_name",), ms="False"
        )
        about = ("edge_agent_version", "experimental_features", "host_information")
        self._metadata = gauge("edgeAgent_metadata", "What this edge is", about, ms="True")

    def configure(self, environment: AgentEnvironment) -> None:
        """Obey these settings from now on."""
        self.environment = environment
        self.registry.is_on = environment.metrics_enabled

    def is_edge(self, version: str, host: Mapping[str, str]) -> None:
        """Tell what this edge is, and on what it runs."""
        features = {"enabled": False, "disableCloudSubscriptions": False}
        self._metadata.set(0, (version, json.dumps(features), json.dumps(dict(host))))

    # modules

    def clocks(self, clocks: Mapping[str, Clocks]) -> None:
        """For how long modules have run and should have."""
        self._running.set_all({_of(name): each.running_s for name, each in clocks.items()})
        self._expected.set_all({_of(name): each.expected_s for name, each in clocks.items()})

    def started(self, name: str, version: str) -> None:
        """A module was started. Once for each start, as is documented; the reference counts `create` too."""
        self._starts.add((name, version))

    def stopped(self, name: str, version: str) -> None:
        """A module was stopped."""
        self._stops.add((name, version))

    def prepared(self, name: str, version: str) -> None:
        """What a module needs was asked for."""
        self._prepared.add((name, version))

    def command_took(self, command: str, seconds: float) -> None:
        """A command was carried out; the reference measures how long it takes to make up its mind."""
        self._latency.observe(seconds, (command,))

    def deployed(self, seconds: float) -> None:
        """A deployment was put in force."""
        self._deployment.observe(seconds)

    # the cloud

    def synced(self) -> None:
        """Desired properties were asked for, or came."""
        self._syncs.add()

    def not_synced(self) -> None:
        """They could not be had, or could not be used."""
        self._bad_syncs.add()

    def method_called(self, name: str) -> None:
        """A method of `$edgeAgent` was called, under the name as it is registered."""
        self._methods.add((name,))

    # the machine

    def resources(self, found: Resources) -> None:
        """Take what was found."""
        self._host_uptime.set(found.host_uptime_s)
        self._uptime.set(found.agent_uptime_s)
        disks = {(disk.name, disk.file_system, disk.file_type): disk for disk in found.disks}
        self._free_disk.set_all({of: disk.available_bytes for of, disk in disks.items()})
        self._all_disk.set_all({of: disk.total_bytes for of, disk in disks.items()})
        host = ModuleResources(HOST, found.host_cpu_percent, found.host_used_bytes, found.host_total_bytes)
        parts = (host, *found.modules)
        self._memory.set_all(_known({_of(each.name): each.memory_bytes for each in parts}))
        self._all_memory.set_all(_known({_of(each.name): each.memory_limit_bytes for each in parts}))
        for each in parts:
            percent = each.cpu_percent
            if percent is None or percent < 0 or (each.name != HOST and percent >= _MOST_PERCENT):
                continue
            if percent > 0 or each.name != HOST:
                self._cpu.observe(percent, _of(each.name))
        modules = found.modules
        self._pids.set_all(_known({(each.name,): each.pids for each in modules}))
        self._net_in.set_all(_known({(each.name,): each.network_in_bytes for each in modules}))
        self._net_out.set_all(_known({(each.name,): each.network_out_bytes for each in modules}))
        self._disk_read.set_all(_known({(each.name,): each.disk_read_bytes for each in modules}))
        self._disk_write.set_all(_known({(each.name,): each.disk_write_bytes for each in modules}))


def _of(name: str) -> Of:
    return name, is_of_runtime(name)


def _known(values: Mapping[Of, int | None]) -> dict[Of, float]:
    return {of: value for of, value in values.items() if value is not None}


OFF: Final = AgentMetrics(Registry(SystemClock(), is_on=False))
