"""An edge whose connection string leads to no link: it says why, and goes on alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from messaging.connection_string import ConnectionString, format_connection_string
from messaging.identity import Identity
from tests.actors.manifests import AGENT, manifest
from tests.integration.cloud_program import CloudProgram
from tests.integration.edge_program import EdgeProgram
from tests.integration.sdk_clients import loopback_address
from tests.waiting import wait_until

WRONG_KEY = base64.b64encode(b"w" * 32).decode()
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def cloud() -> Iterator[CloudProgram]:
    with CloudProgram() as made:
        made.do("device", "create", "line-7", "--edge")
        yield made


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    made = EdgeProgram(tmp_path / "home")
    yield made
    made.close()


def link(edge: EdgeProgram) -> dict[str, Any]:
    found: dict[str, Any] = edge.json("upstream", "status")
    return found


@pytest.mark.parametrize(
    ("host", "device", "trusts", "state", "named"),
    [
        ("", "line-7", True, "unauthorized", "signed with a key that is not the identity's"),
        ("", "line-8", True, "unauthorized", "device 'line-8' is not registered"),
        ("no-such-hub.invalid", "line-7", True, "unreachable", "its name is not known here"),
        (loopback_address(), "line-7", True, "unreachable", "Connection refused"),
        ("", "line-7", False, "untrusted", "name its ca.pem with the setting cloud.ca"),
    ],
    ids=["wrong key", "no such device", "no such host", "another host", "untrusted certificate"],
)
@pytest.mark.slow
def test_what_is_wrong_is_named_without_the_key_and_what_is_local_goes_on(
    edge: EdgeProgram,
    cloud: CloudProgram,
    tmp_path: Path,
    host: str,
    device: str,
    trusts: bool,
    state: str,
    named: str,
) -> None:
    given, deployment = tmp_path / "string.txt", tmp_path / "deployment.json"
    text = format_connection_string(ConnectionString(host or cloud.address, Identity(device), WRONG_KEY))
    given.write_text(text)
    deployment.write_text(json.dumps(manifest(((*AGENT, "modules"), {}))))
    if trusts:
        edge.environment["EDGE_ACTORS_CLOUD_CA"] = str(cloud.ca_file)

    edge.start_without_waiting("--connection-string-file", str(given), deployment=deployment)
    edge.wait_for_modules("running", {"edgeHub"})

    wait_until(lambda: named in link(edge)["device"]["reason"], "it is told", LIMIT_S)
    wait_until(lambda: link(edge)["reason"] not in ("", "connecting"), "the hub tells it, too", LIMIT_S)
    found = link(edge)
    assert (found["device"]["state"], found["up"]) == (state, False)
    assert (host or cloud.address) in found["reason"]
    assert edge.modules()["edgeHub"]["status"] == "running"
    told = (
        edge.run("upstream", "status").stdout + edge.output.read_text() + edge.run("logs", "edgeHub").stdout
    )
    assert named in told
    assert WRONG_KEY not in told
