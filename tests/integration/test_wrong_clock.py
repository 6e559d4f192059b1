"""An edge whose clock is a day behind its IoT Hub's, and is set while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runtime.faults.clock import set_clock
from tests.integration.edge_process import ROOT, EdgeProcess
from tests.integration.sdk_clients import SDK_PORT, loopback_address
from tests.waiting import wait_until

DAY_S = 86400
LIMIT_S = 20.0
SENSOR = {
    "type": "process",
    "status": "running",
    "restartPolicy": "always",
    "settings": {
        "command": [sys.executable, "sensor.py"],
        "workingDirectory": str(ROOT / "scripts" / "samples"),
    },
}


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


def run(edge: EdgeProcess, *arguments: str) -> str:
    command = [sys.executable, "-m", "runtime.cli.main", *arguments, "--home", str(edge.home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def wait_for_link(edge: EdgeProcess, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    shown: dict[str, Any] = {}

    def is_so() -> bool:
        shown.clear()
        shown.update(json.loads(run(edge, "upstream", "status", "--json")))
        return holds(shown)

    wait_until(is_so, lambda: json.dumps(shown), LIMIT_S)
    return shown


def test_a_clock_that_is_a_day_behind_is_named_and_when_it_is_set_everything_goes_up(
    edge: EdgeProcess,
) -> None:
    edge.deploy({"sensor": SENSOR})
    address = loopback_address()
    settings = {"EDGE_ACTORS_DEVICE_ID": "edge1", "EDGE_ACTORS_HOSTNAME": address}
    edge.start(main="tests.integration.wrong_clock_edge", listen=f"{address}:{SDK_PORT}", **settings)
    edge.wait_for(edgeHub="running", sensor="running")
    wait_for_link(edge, lambda link: link["up"] and link["sent"] > 0)
    run(edge, "upstream", "off")

    set_clock(edge.home, -DAY_S)
    run(edge, "upstream", "on")

    wrong = wait_for_link(
        edge, lambda link: "clock of this machine" in link["reason"] and link["waiting"] > 1
    )
    assert "the clock of this machine is 24.0 hours behind the cloud's; set it" in wrong["reason"]
    assert {one["fault"] for one in wrong["identities"]} == {"clock"}
    assert edge.modules()["sensor"]["status"] == "running"
    hub_log = run(edge, "logs", "edgeHub")
    assert hub_log.count("upstream: 'edge1/$edgeHub': clock:") == 1

    set_clock(edge.home, 0)

    wait_for_link(edge, lambda link: link["up"] and not link["waiting"])
    endpoint = json.loads(run(edge, "ledger", "--json"))["endpoints"]["iothub"]
    assert endpoint["delivered"] > 2
    assert (endpoint["expired"], endpoint["dropped"]) == (0, 0)
