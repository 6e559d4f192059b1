from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.hub import config as hub_config
from actors.hub.config import RouteText
from actors.manifest.deployment import parse_deployment
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.upstream.protocol import DEFAULT
from messaging.errors import ConfigError
from runtime import edge
from runtime.agent.deployments import read_deployment
from runtime.agent.embedded_cloud import EmbeddedCloud, Kept
from runtime.agent.hub_settings import fixed_part, hub_listeners, hub_settings, upstream_protocol
from runtime.config.listen_addresses import ListenAddress, local_name
from runtime.config.reader import read_settings
from runtime.config.settings import Settings
from runtime.edge import run_edge
from runtime.net.listening_sockets import Use
from runtime.run_directory import RunDirectory
from tests.actors.manifests import AGENT, HUB, manifest_text

TTL = (*HUB, "storeAndForwardConfiguration", "timeToLiveSecs")


@pytest.mark.parametrize(
    ("listen", "gateway"),
    [
        (["127.0.0.1"], "localhost"),
        (["0.0.0.0"], "localhost"),
        (["10.0.0.5", "127.0.0.1"], "localhost"),
        (["10.0.0.5", "10.0.0.6"], "10.0.0.5"),
        (["127.0.0.2"], "127.0.0.2"),
        (["::1"], "::1"),
    ],
)
def test_processes_of_this_machine_reach_the_hub(listen: list[str], gateway: str) -> None:
    assert local_name(tuple(ListenAddress(host, 8883) for host in listen)) == gateway


@pytest.mark.parametrize(("manifest_ttl", "ttl_s"), [(7200, 7200), (0, 0), (-1, None)])
def test_the_hub_is_told_names_routes_and_times(tmp_path: Path, manifest_ttl: int, ttl_s: int | None) -> None:
    options = {
        "home": str(tmp_path),
        "listen": ["10.0.0.5", "[::1]"],
        "hostname": "gate",
        "device_id": "edge1",
    }
    settings = read_settings(options, {}, host_name="box")
    deployment = parse_deployment(manifest_text((TTL, manifest_ttl)), "d.json")

    config = hub_settings(settings, deployment, tmp_path / "server.pem")

    assert config.device_id == "edge1"
    assert config.host_names == ("gate", "localhost", "edgeHub", "10.0.0.5", "::1")
    assert config.routes == (
        RouteText("up", "FROM /messages/* INTO $upstream", 2_000_000_000, 0),
        RouteText("hot", "FROM /messages/modules/sensor/* INTO $upstream", 0, 60),
    )
    assert config.ttl_s == ttl_s
    assert hub_config.decode(hub_config.encode(config), "hub.json") == config


def test_rules_of_the_broker_reach_a_hub_that_lives_and_switching_it_replaces_the_hub(tmp_path: Path) -> None:
    settings = read_settings({"home": str(tmp_path)}, {}, host_name="box")
    schema, broker = ((*HUB, "schemaVersion"), "1.2"), (*HUB, "mqttBroker")
    allow = {"identities": ["d1"], "allow": [{"operations": ["mqtt:publish"], "resources": ["a/#"]}]}

    off, on, with_rules = (
        hub_settings(settings, parse_deployment(manifest_text(*changes), "d.json"), tmp_path / "server.pem")
        for changes in ((schema,), (schema, (broker, {})), (schema, (broker, {"authorizations": [allow]})))
    )

    assert off.broker is None
    assert with_rules.broker is not None
    assert hub_config.decode(hub_config.encode(with_rules), "hub.json") == with_rules
    assert fixed_part(on) == fixed_part(with_rules)
    assert fixed_part(on) != fixed_part(off)


@pytest.mark.parametrize(
    ("options", "listeners"),
    [
        (
            {},
            ["mqtts 127.0.0.1:8883", "amqps 127.0.0.1:5671 optional", "https 127.0.0.1:443 optional"],
        ),
        (
            {"listen": ["10.0.0.5:0", "[::1]", "10.0.0.5:1"], "plain_listen": "127.0.0.1"},
            [
                "mqtts 10.0.0.5:0",
                "mqtts [::1]:8883",
                "mqtts 10.0.0.5:1",
                "amqps 10.0.0.5:5671 optional",
                "amqps [::1]:5671 optional",
                "https 10.0.0.5:443 optional",
                "https [::1]:443 optional",
                "mqtt 127.0.0.1:1883",
            ],
        ),
        ({"listen": ["127.0.0.1:443"]}, ["mqtts 127.0.0.1:443", "amqps 127.0.0.1:5671 optional"]),
        ({"web_listen": "off", "amqp_listen": "off"}, ["mqtts 127.0.0.1:8883"]),
        (
            {"web_listen": "0.0.0.0,127.0.0.1:8443", "amqp_listen": "0.0.0.0,127.0.0.1:5672"},
            [
                "mqtts 127.0.0.1:8883",
                "amqps 0.0.0.0:5671",
                "amqps 127.0.0.1:5672",
                "https 0.0.0.0:443",
                "https 127.0.0.1:8443",
            ],
        ),
    ],
    ids=["default", "several", "MQTT has 443", "off", "given"],
)
def test_the_hub_listens_as_set_and_on_443_where_it_can(
    tmp_path: Path, options: dict[str, Any], listeners: list[str]
) -> None:
    settings = read_settings({"home": str(tmp_path), **options}, {}, host_name="box")

    assert [
        f"{one.use} {one.address}{' optional' if one.is_optional else ''}"
        for one in hub_listeners(settings, DEFAULTS)
        if one.use is not Use.METRICS
    ] == listeners


@pytest.mark.parametrize(
    ("environment", "options", "listeners"),
    [
        (
            HubEnvironment(mqtt_enabled=False),
            {"plain_listen": "127.0.0.1"},
            ["amqps 127.0.0.1:5671", "https 127.0.0.1:443", "metrics 127.0.0.1:9600"],
        ),
        (
            HubEnvironment(amqp_enabled=False, metrics_port=9700),
            {},
            ["mqtts 127.0.0.1:8883", "https 127.0.0.1:443", "metrics 127.0.0.1:9700"],
        ),
        (HubEnvironment(http_enabled=False), {}, ["mqtts 127.0.0.1:8883", "amqps 127.0.0.1:5671"]),
        (HubEnvironment(mqtt_enabled=False, amqp_enabled=False, http_enabled=False), {}, []),
        (
            HubEnvironment(http_port=8443, amqp_port=5672),
            {},
            [
                "mqtts 127.0.0.1:8883",
                "amqps 127.0.0.1:5672",
                "https 127.0.0.1:8443",
                "metrics 127.0.0.1:9600",
            ],
        ),
        (
            HubEnvironment(http_port=8443, amqp_port=5672, metrics_enabled=False),
            {"web_listen": "0.0.0.0:9443", "amqp_listen": "0.0.0.0:9671"},
            ["mqtts 127.0.0.1:8883", "amqps 0.0.0.0:9671", "https 0.0.0.0:9443"],
        ),
    ],
    ids=["no MQTT", "no AMQP", "no HTTP", "nothing", "ports", "the device's own go before"],
)
def test_the_hub_listens_as_its_deployment_says(
    tmp_path: Path, environment: HubEnvironment, options: dict[str, Any], listeners: list[str]
) -> None:
    settings = read_settings({"home": str(tmp_path), **options}, {}, host_name="box")

    assert [f"{one.use} {one.address}" for one in hub_listeners(settings, environment)] == listeners


def test_containers_are_told_the_iot_hub_of_the_edge_in_its_first_run_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def prepare(cloud: EmbeddedCloud, run_dir: Path) -> None:
        cloud._kept = Kept("127.0.0.9", 8443, folder_is_ours=True)

    told: list[tuple[str, int]] = []

    def container_runtime(settings: Settings, run: RunDirectory) -> None:
        told.append((settings.iothub_hostname, settings.cloud_https_port))
        raise Seen

    monkeypatch.setattr(EmbeddedCloud, "prepare", prepare)
    monkeypatch.setattr(edge, "container_runtime", container_runtime)
    deployment = tmp_path / "d.json"
    deployment.write_text(manifest_text())

    # A later run would take a container that was told another one for one made from something else.
    with pytest.raises(Seen):
        run_edge(read_settings({"home": str(tmp_path / "home")}, {}, host_name="box"), deployment)
    assert told == [("127.0.0.9", 8443)]


def test_a_deployment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"deployment '.*no\.json' cannot be read: No such file"):
        read_deployment(tmp_path / "no.json")


@pytest.mark.parametrize(
    ("of_device", "of_agent", "of_hub", "agent", "hub"),
    [
        pytest.param(None, None, None, DEFAULT, DEFAULT, id="nobody says"),
        pytest.param("amqp", None, None, "Amqp", "Amqp", id="the device"),
        pytest.param("amqp", "MqttWs", None, "MqttWs", "MqttWs", id="edgeAgent, for both"),
        pytest.param("amqp", None, "AMQPWS", "Amqp", "AmqpWs", id="edgeHub, for itself"),
        pytest.param("amqp", "MqttWs", "AmqpWs", "MqttWs", "AmqpWs", id="each for itself"),
        pytest.param("amqp", "Ampq", "Ampq", "Amqp", "Amqp", id="misspelled ones count as left out"),
        pytest.param("amqp", " ", "", "Amqp", "Amqp", id="so do blank ones"),
    ],
)
def test_the_deployment_says_how_agent_and_hub_speak_to_the_cloud_else_the_device(
    tmp_path: Path, of_device: str | None, of_agent: str | None, of_hub: str | None, agent: str, hub: str
) -> None:
    given = {} if of_device is None else {"EDGE_ACTORS_UPSTREAM_PROTOCOL": of_device}
    settings = read_settings({"home": str(tmp_path)}, given, host_name="box")
    changes = [
        ((*AGENT, "systemModules", name, "env"), {"UpstreamProtocol": {"value": value}})
        for name, value in (("edgeAgent", of_agent), ("edgeHub", of_hub))
        if value is not None
    ]
    deployment = parse_deployment(manifest_text(*changes), "d.json")

    assert upstream_protocol(settings, deployment) == agent
    assert hub_settings(settings, deployment, tmp_path / "server.pem").cloud_protocol == hub
    assert any("'UpstreamProtocol' is 'Ampq'" in line for line in deployment.warnings) is (of_agent == "Ampq")
