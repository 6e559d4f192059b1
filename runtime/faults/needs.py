"""What scripts need of the machine, and why this one may not have it: told before anything starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from messaging.errors import EnvironmentFault
from runtime.faults.scenario import Scenario


def missing(needs: Sequence[str]) -> str:
    """Return which needs of a scenario are not met here, with the way out; "" when it can run."""
    return "; ".join(reason for need in needs if (reason := _NEEDS[need]()))


def check_needs(scenario: Scenario) -> None:
    """Look whether a scenario can run here.

    Raises:
        EnvironmentFault: it cannot; says why.
    """
    reason = missing(scenario.needs)
    if reason:
        raise EnvironmentFault(f"{scenario.path}: skipped: {reason}")


def _root() -> str:
    if os.geteuid() != 0:
        return "a disk of its own needs root, who alone may mount one; run it as root"
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") and subprocess.run(probe, capture_output=True, check=False).returncode:
        return (
            "a disk of its own cannot be mounted, not even by root; is this a container without privileges?"
        )
    return ""


def _strace() -> str:
    """Look whether strace may attach to a process of ours that it has not started."""
    strace = shutil.which("strace")
    if strace is None:
        return "faults of the disk need strace; install it: apt-get install -y strace"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and scope.exists() and scope.read_text().strip() != "0":
        return "faults of the disk need to trace the hub; as root, or with kernel.yama.ptrace_scope = 0"
    done = subprocess.run([strace, "-qq", "-e", "trace=none", "true"], capture_output=True, check=False)
    return "strace may not trace here" if done.returncode else ""


def _docker() -> str:
    try:
        import docker
        from docker.errors import DockerException
    except ImportError:
        return "containers need the package docker"
    try:
        client = docker.from_env()
        client.ping()
        client.close()
    except DockerException as exc:
        return f"containers need a Docker Engine, and none answers: {exc}"
    return ""


def _amqp() -> str:
    from runtime.net import amqp_engine

    return "" if amqp_engine.is_installed() else amqp_engine.WAY_OUT


_NEEDS: Final[Mapping[str, Callable[[], str]]] = {
    "root": _root,
    "strace": _strace,
    "docker": _docker,
    "amqp": _amqp,
}
