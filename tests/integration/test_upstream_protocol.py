"""How a whole edge speaks to its IoT Hub: seen at its sockets, chosen by the device and by the deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.manifests import AGENT as AGENT_PATH
from tests.integration.cloud_site import Site, code
from tests.waiting import wait_until

AGENT = (*AGENT_PATH, "systemModules", "edgeAgent", "env")
HUB = (*AGENT_PATH, "systemModules", "edgeHub", "env")
MQTT, AMQP, WEB = 8883, 5671, 443
_ESTABLISHED = "01"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def ports(site: Site, *, uses: set[int]) -> dict[int, int]:
    """Return how many connections to the IoT Hub there are, by port, once it is these ports."""
    address = site.cloud.address.split(".")
    wanted = "".join(f"{int(part):02X}" for part in reversed(address))

    def found() -> dict[int, int]:
        counts: dict[int, int] = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, _, remote, state = line.split()[:4]
            host, port = remote.split(":")
            if host == wanted and state == _ESTABLISHED:
                counts[int(port, 16)] = counts.get(int(port, 16), 0) + 1
        return {port: count for port, count in counts.items() if port in (MQTT, AMQP) or WEB in uses}

    wait_until(lambda: found().keys() == uses and sum(found().values()) >= 2, f"the edge uses {uses}")
    return found()


def test_unless_it_is_told_otherwise_an_edge_speaks_amqp_over_two_connections(site: Site) -> None:
    site.deploy({})

    site.start()

    assert ports(site, uses={AMQP}) == {AMQP: 2}
    site.wait_for_report(lambda told: code(told) == 200)


@pytest.mark.slow
def test_the_device_and_then_its_deployments_choose_how_the_edge_speaks(site: Site) -> None:
    site.deploy({})
    site.start(EDGE_ACTORS_UPSTREAM_PROTOCOL="Mqtt")
    ports(site, uses={MQTT})

    site.deploy({}, (AGENT, {"UpstreamProtocol": {"value": "amqp"}}))
    version = site.twin()["desired"]["$version"]
    ports(site, uses={AMQP})
    site.wait_for_report(lambda told: told.get("lastDesiredVersion") == version and code(told) == 200)

    site.deploy(
        {},
        (AGENT, {"UpstreamProtocol": {"value": "Mqtt"}}),
        (HUB, {"UpstreamProtocol": {"value": "Amqp"}}),
    )
    version = site.twin()["desired"]["$version"]
    assert ports(site, uses={MQTT, AMQP}).keys() == {MQTT, AMQP}
    site.wait_for_report(lambda told: told.get("lastDesiredVersion") == version and code(told) == 200)
