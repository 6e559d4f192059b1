"""Metrics as a module in a container gets them, the metrics-collector for example: with its defaults.

Source: spec sheet observability.md section 9.1
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.integration.container_edge import ContainerEdge
from tests.integration.containers import container
from tests.integration.edge_process import shell

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker

ENDPOINTS = "http://edgeHub:9600/metrics,http://edgeAgent:9600/metrics,http://edgeAgent:9601/metrics"
SCRAPE = """
import json, os, re, time, urllib.request
found = {}
for url in os.environ["MetricsEndpointsCSV"].split(","):
    while url not in found:
        try:
            text = urllib.request.urlopen(url, timeout=5).read().decode()
            found[url] = sorted({line.split("_")[0] for line in text.splitlines() if line[0] != "#"})
        except OSError as error:
            print(url, error, flush=True)
            time.sleep(0.2)
with open(os.environ["PIPE"], "w") as pipe:
    print(json.dumps(found), file=pipe)
time.sleep(1000)
"""


@pytest.fixture
def edge(docker_image: str) -> Iterator[ContainerEdge]:
    from docker import APIClient

    client: APIClient = APIClient(version="auto")
    made = ContainerEdge(client)
    yield made
    made.close()
    client.close()


def test_a_container_scrapes_hub_and_agent_where_the_collector_looks_for_them(
    edge: ContainerEdge, docker_image: str
) -> None:
    collector = container(docker_image, "python3", "-c", SCRAPE, host=edge.mount())
    collector["env"] = {"MetricsEndpointsCSV": {"value": ENDPOINTS}}
    edge.deploy({"collector": collector})
    edge.start()

    found = json.loads(edge.line(60.0))

    hub, by_name, by_port = ENDPOINTS.split(",")
    assert found[hub] == ["edgehub"]
    assert found[by_name] == found[by_port]
    assert "edgeAgent" in found[by_name]
    assert "edgehub" not in found[by_name]


def test_what_a_container_takes_up_is_told(edge: ContainerEdge, docker_image: str) -> None:
    from actors.metrics.agent_metrics import AgentMetrics
    from actors.metrics.registry import Registry
    from messaging.clock import SystemClock
    from runtime.machine.look import MachineLook

    edge.deploy({"busy": container(docker_image, "sleep", "1000"), "process": shell("exec sleep 1000")})
    edge.start()
    pids = {name: module["pid"] for name, module in edge.wait_for(busy="running", process="running").items()}
    look = MachineLook(AgentMetrics(Registry(SystemClock())), 0.0)

    modules = {one.name: one for one in look.look(list(pids.items())).modules}
    again = {one.name: one for one in look.look(list(pids.items())).modules}

    for name in ("busy", "process", "edgeHub", "edgeAgent"):
        memory = modules[name].memory_bytes
        assert memory is not None, name
        assert 0 < memory < 200_000_000
        assert modules[name].pids is not None
        assert again[name].cpu_percent is not None
    edge_hub, busy = modules["edgeHub"].memory_bytes, modules["busy"].memory_bytes
    assert edge_hub is not None
    assert busy is not None
    assert edge_hub > busy
