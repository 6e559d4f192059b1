from __future__ import annotations

import json
from typing import Any

import pytest

from actors.manifest.hub_ports import BoundPort, HubPorts, hub_ports

EVERYWHERE = BoundPort("0.0.0.0", 8883)


def ports(bindings: Any) -> HubPorts:
    return hub_ports(json.dumps({"HostConfig": {"PortBindings": bindings}}))


@pytest.mark.parametrize(
    ("bindings", "mqtt", "web"),
    [
        ({"8883/tcp": [{"HostPort": "8883"}]}, (EVERYWHERE,), None),
        ({"8883/tcp": [{"HostPort": "18883"}]}, (BoundPort("0.0.0.0", 18883),), None),
        ({"8883": [{"hostPort": 8883}]}, (EVERYWHERE,), None),
        ({"8883/tcp": [{"HostIp": "10.0.0.5", "HostPort": "8883"}]}, (BoundPort("10.0.0.5", 8883),), None),
        ({"8883/tcp": [{"HostIp": "::1", "HostPort": ""}]}, (BoundPort("::1", 8883),), None),
        ({"443/tcp": [{"HostPort": "8443"}]}, None, (BoundPort("0.0.0.0", 8443),)),
        ({"8883/tcp": [{"HostPort": "1"}, {"HostPort": "1"}]}, (BoundPort("0.0.0.0", 1),), None),
        ({"8883/tcp": []}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
    ids=[
        "as in the reference's manifests",
        "another port",
        "without protocol, other case, a number",
        "one address",
        "no port said",
        "the web front",
        "said twice",
        "no binding",
        "none",
        "null",
    ],
)
def test_bindings_of_the_hub_say_where_it_listens(
    bindings: Any, mqtt: tuple[BoundPort, ...] | None, web: tuple[BoundPort, ...] | None
) -> None:
    assert ports(bindings) == HubPorts(mqtt, web)


@pytest.mark.parametrize(
    ("bindings", "word"),
    [
        ({"1883/tcp": [{"HostPort": "1883"}]}, "1883/tcp"),
        ({"8883/tcp": [{"HostPort": "70000"}]}, "70000"),
        ({"8883/tcp": [{"HostIp": "gateway", "HostPort": "1"}]}, "gateway"),
    ],
)
def test_a_binding_that_makes_no_sense_is_named_and_left_out(bindings: Any, word: str) -> None:
    found = ports(bindings)

    assert (found.mqtt, found.web) == (None, None)
    [problem] = found.problems
    assert word in problem


def test_options_without_a_host_part_bind_nothing() -> None:
    assert hub_ports("{}") == HubPorts()


def test_a_binding_of_amqp_says_where_the_hub_speaks_that() -> None:
    found = ports({"5671/tcp": [{"HostPort": "15671"}]})

    assert found == HubPorts(amqp=(BoundPort("0.0.0.0", 15671),))
