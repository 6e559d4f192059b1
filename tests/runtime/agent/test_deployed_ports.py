from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.manifest.deployment import parse_deployment
from runtime.agent.deployed_ports import as_deployed
from runtime.config.reader import read_settings
from tests.actors.manifests import AGENT, manifest_text

HUB_OPTIONS = (*AGENT, "systemModules", "edgeHub", "settings", "createOptions")
BOUND = {
    "8883/tcp": [{"HostPort": "18883"}],
    "443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8443"}],
    "5671/tcp": [{"HostPort": "15671"}],
}


@pytest.mark.parametrize(
    ("environment", "listen", "web", "hostname"),
    [
        ({}, ["0.0.0.0:18883"], ["127.0.0.1:8443"], "box"),
        ({"EDGE_ACTORS_LISTEN": "127.0.0.1:1"}, ["127.0.0.1:1"], ["127.0.0.1:8443"], "localhost"),
        ({"EDGE_ACTORS_WEB_LISTEN": "off"}, ["0.0.0.0:18883"], [], "box"),
        ({"EDGE_ACTORS_HOSTNAME": "gate"}, ["0.0.0.0:18883"], ["127.0.0.1:8443"], "gate"),
    ],
    ids=["nothing set", "listen set", "web switched off", "name set"],
)
def test_the_hub_listens_where_the_deployment_says_unless_this_device_is_set_otherwise(
    tmp_path: Path, environment: dict[str, str], listen: list[str], web: list[str], hostname: str
) -> None:
    settings = read_settings({"home": str(tmp_path)}, environment, host_name="box")
    options = json.dumps({"HostConfig": {"PortBindings": BOUND}})
    deployment = parse_deployment(manifest_text((HUB_OPTIONS, options)), "d.json")

    found = as_deployed(settings, deployment, host_name="box")

    assert [str(one) for one in found.listen] == listen
    assert [str(one) for one in found.web_listen or ()] == web
    assert found.hostname == hostname


def test_a_deployment_that_binds_nothing_changes_nothing(tmp_path: Path) -> None:
    settings = read_settings({"home": str(tmp_path)}, {}, host_name="box")

    assert as_deployed(settings, parse_deployment(manifest_text(), "d.json"), "box") == settings


@pytest.mark.parametrize(
    ("environment", "amqp"),
    [
        ({}, ["0.0.0.0:15671"]),
        ({"EDGE_ACTORS_AMQP_LISTEN": "127.0.0.1"}, ["127.0.0.1:5671"]),
        ({"EDGE_ACTORS_AMQP_LISTEN": "off"}, []),
    ],
    ids=["nothing set", "set", "switched off"],
)
def test_amqp_too_is_where_the_deployment_says_unless_this_device_is_set_otherwise(
    tmp_path: Path, environment: dict[str, str], amqp: list[str]
) -> None:
    settings = read_settings({"home": str(tmp_path)}, environment, host_name="box")
    options = json.dumps({"HostConfig": {"PortBindings": BOUND}})
    deployment = parse_deployment(manifest_text((HUB_OPTIONS, options)), "d.json")

    found = as_deployed(settings, deployment, host_name="box")

    assert [str(one) for one in found.amqp_listen or ()] == amqp
