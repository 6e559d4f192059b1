"""A twin that the device, the cloud and two services change at once, some of it while the link is away."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.iothub.owner import Cloud, Refused, twin_path
from tests.actors.manifests import AGENT, manifest
from tests.integration.edge_program import EdgeProgram
from tests.waiting import wait_until

LEAF = "leaf"
LIMIT_S = 10.0


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    deployment = tmp_path / "deployment.json"
    deployment.write_text(json.dumps(manifest(((*AGENT, "modules"), {}))))
    made = EdgeProgram(tmp_path / "home")
    made.start_without_waiting(deployment=deployment)
    made.wait_for_modules("running", {"edgeHub"})
    made.run("identity", "create", LEAF, "--out", str(tmp_path / LEAF))
    wait_until(
        lambda: made.run("cloud", "device", "show", LEAF).returncode == 0, "the cloud knows it", LIMIT_S
    )
    yield made
    made.close()


@pytest.fixture
def device(edge: EdgeProgram, tmp_path: Path) -> Iterator[Any]:
    """The SDK as the leaf device; what is desired of it is put into `device.patches`."""
    from azure.iot.device import IoTHubDeviceClient

    client = IoTHubDeviceClient.create_from_connection_string(
        (tmp_path / LEAF / "connection-string.txt").read_text().strip(),
        server_verification_cert=(tmp_path / LEAF / "ca.pem").read_text(),
    )
    client.connect()
    client.patches = queue.Queue()
    client.on_twin_desired_properties_patch_received = client.patches.put
    yield client
    client.shutdown()


def plain(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if not name.startswith("$")}


def test_what_both_sides_changed_while_the_link_was_away_is_merged(edge: EdgeProgram, device: Any) -> None:
    cloud = Cloud(edge.home)

    def there(side: str) -> dict[str, Any]:
        return plain(cloud.get(twin_path(LEAF))["properties"][side])

    def desire(values: dict[str, Any], etag: str = "*") -> Any:
        patch = {"properties": {"desired": values}}
        return cloud.call("PATCH", twin_path(LEAF), patch, {"If-Match": etag})

    device.patch_twin_reported_properties({"mode": "auto", "pump": {"rpm": 100, "fault": "none"}})
    desire({"interval": 5, "limits": {"low": 1, "high": 9}})
    wait_until(lambda: there("reported").get("mode") == "auto", "it is reported", LIMIT_S)
    wait_until(lambda: plain(device.get_twin()["desired"]).get("interval") == 5, "it is desired", LIMIT_S)
    while not device.patches.empty():
        device.patches.get()
    edge.run("upstream", "off")

    device.patch_twin_reported_properties({"pump": {"rpm": 200}, "mode": "manual"})
    device.patch_twin_reported_properties({"pump": {"rpm": 300, "fault": None}, "door": "open"})
    desire({"interval": 10, "limits": {"high": 8}})
    seen = cloud.get(twin_path(LEAF))["etag"]
    desire({"interval": 15, "limits": {"low": None}}, seen)
    with pytest.raises(Refused) as refused:
        desire({"interval": 99}, seen)  # of a service that has not seen the change before
    assert refused.value.name == "PreconditionFailed"
    assert plain(device.get_twin()["desired"])["interval"] == 5
    edge.run("upstream", "on")

    assert plain(device.patches.get(timeout=LIMIT_S)) == {"interval": 15, "limits": {"low": None, "high": 8}}
    assert device.patches.empty()
    wanted = {"interval": 15, "limits": {"high": 8}}
    told = {"mode": "manual", "pump": {"rpm": 300}, "door": "open"}
    wait_until(lambda: there("reported") == told, "what was reported is there", LIMIT_S)
    here = device.get_twin()
    assert (plain(here["desired"]), plain(here["reported"])) == (wanted, told)
    assert there("desired") == wanted
    assert here["desired"]["$version"] == 4
