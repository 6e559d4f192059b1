"""As whom the product connects to the cloud."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from messaging.identity import Identity
from messaging.message import Message
from messaging.topics import Feature
from messaging.username import UserName
from runtime.iothub.mqtt import login
from tests.fakes.cloud_observer import ObservedConnection
from tests.integration.cloud import ROOT
from tests.integration.cloud_worlds import StandInWorld, connect

LEAF = Identity("leaf")


@pytest.fixture
def world() -> Iterator[StandInWorld]:
    with StandInWorld() as stand_in:
        yield stand_in


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[UserName]:
    """User names that the stand-in reads."""
    names: list[UserName] = []
    parse = login.parse_user_name

    def parse_and_keep(text: str) -> UserName:
        names.append(parse(text))
        return names[-1]

    monkeypatch.setattr(login, "parse_user_name", parse_and_keep)
    return names


def test_the_hub_of_an_edge_speaks_for_a_device_that_has_no_key(
    world: StandInWorld, seen: list[UserName]
) -> None:
    world.cloud.create("edge", capabilities={"iotEdge": True})
    scope = world.cloud.call(world.cloud.hub.find(Identity("edge"))).device_scope
    x509 = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "A" * 40}}
    world.cloud.create("leaf", authentication=x509, parentScopes=[scope])
    edge_hub = Identity.edge_hub("edge")
    world.cloud.create(str(edge_hub), if_match="*", authentication={"type": "sas"})
    observer = ObservedConnection()
    access = replace(world.access(str(edge_hub)), identity=LEAF, signer=edge_hub)

    connection = world.connections.make(access, observer)
    connection.want(frozenset({Feature.C2D}))
    connection.open()
    observer.next("connected")
    connection.send(1, Message("/messages/", {}, {}, b"1"))
    connection.get_twin(2)

    assert {observer.next("done")[0], observer.next("done")[0]} == {1, 2}
    assert [each.body for each in world.taken("leaf")] == [b"1"]
    assert seen[-1].auth_chain == ("leaf", "edge")


def test_the_agent_and_the_hub_of_an_edge_are_modules_like_others(world: StandInWorld) -> None:
    world.cloud.create("edge", capabilities={"iotEdge": True})
    for client_id in ("edge/$edgeAgent", "edge/$edgeHub"):
        world.cloud.create(client_id, if_match="*", authentication={"type": "sas"})

        connection, observer = connect(world, client_id, want=frozenset({Feature.DESIRED_PROPERTIES}))
        connection.get_twin(1)
        assert observer.next("done")[0] == 1
        world.patch_desired(client_id, {"a": 1})

        assert observer.next("desired_changed")


def test_the_plug_and_play_model_is_announced(world: StandInWorld, seen: list[UserName]) -> None:
    observer = ObservedConnection()
    model = "dtmi:com:example:Thermostat;1"

    world.connections.make(replace(world.access("d1"), model_id=model), observer).open()
    observer.next("connected")

    assert seen[-1].model_id == model
    assert seen[-1].product.startswith("azure-iot-device-iothub-py/")


def test_the_sdk_is_not_loaded_before_a_connection_opens() -> None:
    program = (
        "import sys; from runtime.upstream.connections import UpstreamConnections\n"
        "UpstreamConnections().close()\n"
        "sys.exit(any(name in sys.modules for name in ('azure', 'cproton', 'paho', 'requests', 'asyncio')))"
    )

    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
