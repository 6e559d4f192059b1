from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from actors.metrics.agent_metrics import AgentMetrics
from actors.metrics.registry import Registry
from messaging.clock import SystemClock
from runtime.machine import look as machine_look
from runtime.machine.look import MachineLook

LIMIT_S = 10.0


def look(cgroups: Path = machine_look.CGROUPS) -> MachineLook:
    return MachineLook(AgentMetrics(Registry(SystemClock())), time.time() - 60, cgroups)


def test_the_machine_has_more_than_is_used_of_it() -> None:
    found = look().look([])

    assert 0 < found.host_used_bytes < found.host_total_bytes
    assert found.host_uptime_s > 0
    assert 60 <= found.agent_uptime_s < 120
    assert found.disks
    assert all(0 <= disk.available_bytes <= disk.total_bytes for disk in found.disks)
    assert {disk.file_type for disk in found.disks} <= {"SSD", "HDD", "Unknown"}


def test_the_share_of_the_processors_is_that_since_the_look_before() -> None:
    machine = look()

    first = machine.look([("edgeAgent", os.getpid())])
    ends_s = time.process_time() + 0.05
    while time.process_time() < ends_s:
        pass
    second = machine.look([("edgeAgent", os.getpid())])

    assert first.host_cpu_percent is None
    assert first.modules[0].cpu_percent is None
    share = second.modules[0].cpu_percent
    assert share is not None
    assert 0 < share <= 100
    assert second.host_cpu_percent is not None


def test_a_process_that_is_gone_takes_up_nothing_and_breaks_nothing() -> None:
    [module] = look().look([("gone", 2**22 + 1)]).modules

    assert module.memory_bytes == 0


def test_of_a_cgroup_of_its_own_memory_is_told_without_what_can_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "docker" / "abc"
    group.mkdir(parents=True)
    for name, text in {
        "memory.current": "5000\n",
        "memory.stat": "anon 1000\ninactive_file 2000\n",
        "memory.max": "max\n",
        "pids.current": "4\n",
        "cpu.stat": "usage_usec 1000000\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n",
    }.items():
        (group / name).write_text(text)
    ours = os.getpid()
    monkeypatch.setattr(machine_look, "_cgroup_of", lambda pid: "/" if pid == ours else "/docker/abc")

    found = look(tmp_path).look([("m", os.getppid())])

    [module] = found.modules
    assert (module.memory_bytes, module.pids) == (3000, 4)
    assert module.memory_limit_bytes == found.host_total_bytes
    assert (module.disk_read_bytes, module.disk_write_bytes) == (11, 22)
    assert module.network_in_bytes is not None


def test_a_look_in_a_thread_of_its_own_is_counted() -> None:
    metrics = AgentMetrics(Registry(SystemClock()))
    MachineLook(metrics, time.time()).look_soon([("edgeAgent", os.getpid())])

    for thread in threading.enumerate():
        if thread.name == "machine":
            thread.join(LIMIT_S)

    names = {family.name for family in metrics.registry.collect()}
    assert {"edgeAgent_host_uptime_seconds", "edgeAgent_used_memory_bytes"} <= names
