"""scripts/azure-smoke, which is for people with a real IoT Hub, holds against the stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cloud_program import ROOT, CloudProgram
from tests.integration.node_sdk import need_port

LIMIT_S = 180.0


@pytest.mark.slow
def test_all_steps_hold_against_the_stand_in(tmp_path: Path) -> None:
    pytest.importorskip("uamqp", reason="azure-iot-hub needs uamqp, of which there is no wheel here")
    with CloudProgram() as cloud:
        need_port(cloud.address, 1)  # the SDK needs 443
        cloud.run("device", "create", "--edge", "smoke")
        device, service = tmp_path / "device", tmp_path / "service"
        device.write_text(cloud.run("connection-string", "--device", "smoke").stdout)
        service.write_text(cloud.run("connection-string").stdout)

        done = subprocess.run(
            [sys.executable, "-m", "scripts.smoke.azure", device, service, "--ca", cloud.ca_file],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("held")]
    assert steps == [f"held      {step}" for step in ("link", "telemetry", "twin", "method", "c2d")]
