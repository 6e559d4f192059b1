"""The official service SDK of Node, unmodified, against the stand-in over REST (azure-iothub 1.16.6).

It ignores a port in HostName, so the stand-in listens on port 443 of an address of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging.identity import Identity
from tests.integration.cloud_server import CloudServer, cloud_server
from tests.integration.node_sdk import need_node, need_port, run_scene

ADDRESS = "127.0.0.2"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudServer]:
    need_node()
    need_port(ADDRESS, 443)
    with cloud_server(tmp_path, ADDRESS, 443) as server:
        yield server


def play(cloud: CloudServer, scene: str) -> Any:
    return run_scene("service.js", scene, cloud.ca_file, IOTHUB_CONNECTION_STRING=cloud.connection_string())


def test_devices_are_created_listed_updated_and_deleted(cloud: CloudServer) -> None:
    found = play(cloud, "devices")

    keys = found["created"]["authentication"]["symmetricKey"]
    assert len(base64.b64decode(keys["primaryKey"])) == 32
    assert found["twice"] == {"name": "DeviceAlreadyExistsError", "status": 409, "code": 409001}
    assert found["updated"]["status"] == found["read"]["status"] == "disabled"
    assert found["read"]["authentication"]["symmetricKey"] == keys
    assert found["listed"] == ["d1", "d2"]
    assert found["gone"] == {"name": "DeviceNotFoundError", "status": 404, "code": 404001}


def test_devices_are_created_updated_and_deleted_in_bulk(cloud: CloudServer) -> None:
    found = play(cloud, "bulk")

    assert all(found[step]["isSuccessful"] for step in ("added", "updated", "removed"))
    assert found["status"] == "disabled"
    assert found["left"] == ["b2"]


def test_modules_are_created_listed_updated_and_deleted(cloud: CloudServer) -> None:
    found = play(cloud, "modules")

    assert (found["added"]["managedBy"], found["updated"]["managedBy"]) == ("me", "you")
    assert found["updated"]["generationId"] == found["added"]["generationId"]
    assert found["listed"] == ["m1"]
    assert found["gone"]["status"] == 404


def test_twins_are_read_and_patched(cloud: CloudServer) -> None:
    found = play(cloud, "twins")

    assert found["version"] == 1
    assert found["tags"] == {"site": "a"}
    assert (found["desired"]["x"], found["desired"]["$version"]) == (1, 2)
    assert found["ofModule"]["y"] == 2
    assert found["stale"]["status"] == 412


def test_direct_methods_are_answered_or_refused(cloud: CloudServer) -> None:
    for identity in (Identity("answers"), Identity("answers", "m1"), Identity("away")):
        cloud.run(cloud.hub.put(identity, {}))
    cloud.answering_device("answers")
    cloud.answering_device("answers", "m1")

    found = play(cloud, "methods")

    assert found["called"] == {"status": 207, "payload": {"name": "ping", "payload": {"a": [1]}}}
    assert found["bare"] == {"status": 207, "payload": {"name": "bare", "payload": None}}
    assert found["away"] == {"name": "Error", "status": 404, "code": 404103}


def test_queries_come_in_pages(cloud: CloudServer) -> None:
    found = play(cloud, "queries")

    assert found["pages"] == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert found["raw"] == [{"id": "d3"}, {"id": "d4"}]


def test_configurations_are_created_updated_and_deleted(cloud: CloudServer) -> None:
    found = play(cloud, "configurations")

    assert (found["added"]["priority"], found["changed"]["priority"]) == (3, 5)
    assert found["changed"]["content"] == found["added"]["content"]
    assert found["listed"] == ["c1"]
    assert found["gone"]["status"] == 404


def test_content_is_applied_to_an_edge_device_alone(cloud: CloudServer) -> None:
    found = play(cloud, "content")

    assert found["modules"] == ["$edgeAgent", "$edgeHub", "sensor"]
    assert found["desired"]["interval"] == 5
    assert found["refused"]["status"] == 400


def test_statistics_count_devices(cloud: CloudServer) -> None:
    found = play(cloud, "statistics")

    assert found == {"totalDeviceCount": 1, "enabledDeviceCount": 1, "disabledDeviceCount": 0}
