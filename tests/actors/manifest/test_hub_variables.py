"""The environment of edgeHub: what is obeyed, refused or passed over, and that the document says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from actors.manifest.agent_environment import VARIABLES as AGENT_VARIABLES
from actors.manifest.deployment import parse_deployment
from actors.manifest.environment_variables import Effect, Variable
from actors.manifest.hub_environment import DEFAULTS, HubEnvironment
from actors.manifest.hub_variables import VARIABLES, parse_environment
from actors.upstream.protocol import UpstreamProtocol
from tests.actors.manifests import AGENT, manifest_text

DOCUMENT = Path(__file__).parents[3] / "runtime" / "docs" / "SETTINGS.md"
EDGE_HUB = (*AGENT, "systemModules", "edgeHub")


def table_row(variable: Variable) -> str:
    """Return the row of the document for a variable."""
    here = variable.default_here if variable.default_here != variable.default else "the same"
    allowed = f" ({variable.kind.allowed})" if variable.kind.allowed else ""
    taken = f"{variable.here}{allowed}"
    return f"| `{variable.name}` | {variable.default} | {here or '–'} | **{variable.effect}**: {taken} |"


def test_the_document_has_a_true_row_for_each_variable_in_the_order_of_the_table() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]

    assert rows == [table_row(variable) for variable in (*VARIABLES, *AGENT_VARIABLES)]


def test_every_setting_of_the_hub_has_exactly_one_variable() -> None:
    set_by = [variable.field for variable in VARIABLES if variable.field]

    assert sorted(set_by) == sorted(field.name for field in fields(HubEnvironment))


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("MqttSettings__Enabled", "False", "mqtt_enabled", False),
        ("mqttsettings__enabled", "false", "mqtt_enabled", False),
        ("MqttSettings:Enabled", "false", "mqtt_enabled", False),
        ("HttpSettings__Enabled", " false ", "http_enabled", False),
        ("HttpSettings__Port", "8443", "http_port", 8443),
        ("AmqpSettings__Enabled", "false", "amqp_enabled", False),
        ("AmqpSettings__Port", "5672", "amqp_port", 5672),
        ("ClientCertAuthEnabled", "false", "client_cert_auth_enabled", False),
        ("SslProtocols", "tls1.2", "ssl_protocols", ("tls1.2",)),
        ("SslProtocols", "Tls13, TLS12", "ssl_protocols", ("tls1.2", "tls1.3")),
        ("MAXCONNECTEDCLIENTS", "2", "max_connected_clients", 2),
        ("MessageAckTimeoutSecs", "10", "message_ack_timeout_s", 10),
        ("MessageCleanupIntervalSecs", "1800", "message_cleanup_interval_s", 1800),
        ("ReportedPropertiesSyncFrequencySecs", "1", "reported_properties_sync_s", 1),
        ("RuntimeLogLevel", "Verbose", "log_level", "debug"),
        ("RuntimeLogLevel", "debug,foo=trace", "log_level", "debug"),
        ("RuntimeLogLevel", "information", "log_level", "info"),
        ("RuntimeLogLevel", "fatal", "log_level", "critical"),
        ("ShutdownWaitPeriod", "5", "shutdown_wait_s", 5),
        ("MqttSettings__MaxInboundMessageSize", "65536", "max_inbound_message_bytes", 65_536),
        (
            "MqttSettings__MaxPendingInboundAcknowledgements",
            "16",
            "max_pending_inbound_acknowledgements",
            16,
        ),
        ("MqttSettings__MaxPendingOutboundMessages", "10", "max_pending_outbound_messages", 10),
        ("MqttSettings__MaxOutboundRetransmissionCount", "2", "max_outbound_retransmissions", 2),
        ("MqttSettings__ConnectArrivalTimeout", "00:01:00", "connect_arrival_timeout_s", 60.0),
        ("MqttSettings__MaxKeepAliveTimeout", "1.00:00:00", "max_keep_alive_timeout_s", 86_400.0),
        ("MqttSettings__MaxKeepAliveTimeout", "00:00:30.5", "max_keep_alive_timeout_s", 30.0),
        ("CloudConnectionIdleTimeoutSecs", "60", "cloud_idle_timeout_s", 60),
        ("CloseCloudConnectionOnIdleTimeout", "false", "closes_idle_cloud_connections", False),
        ("CloseCloudConnectionOnDeviceDisconnect", "false", "closes_cloud_connection_with_client", False),
        ("CloudOperationTimeoutSecs", "40", "cloud_operation_timeout_s", 40),
        ("UpstreamProtocol", "amqpWS", "upstream_protocol", UpstreamProtocol.AMQP_WS),
        ("upstreamprotocol", "MQTT", "upstream_protocol", UpstreamProtocol.MQTT),
        ("MaxUpstreamBatchSize", "10", "upstream_batch_messages", 10),
        ("httpsettings__METRICS_PORT", "9700", "metrics_port", 9700),
        ("Metrics__Listener__MetricsEnabled", "False", "metrics_enabled", False),
        ("Metrics:Listener:MetricsHistogramMaxAge", "00:10:00", "metrics_histogram_max_age_s", 600.0),
    ],
)
def test_an_obeyed_variable_sets_its_value(name: str, text: str, field: str, value: Any) -> None:
    read = parse_environment({name: text})

    assert getattr(read.values, field) == value
    assert (read.problems, read.notes) == ((), ())


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "MaxConnectedClients",
            "many",
            "'many' is not allowed; allowed: a whole number from 1 to 1000000. "
            "The default applies: no limit but file descriptors and memory",
        ),
        (
            "HttpSettings__metrics_port",
            "70000",
            "'70000' is not allowed; allowed: a whole number from 1 to 65535. The default applies: 9600",
        ),
        (
            "Metrics__Listener__MetricsEnabled",
            "off",
            "'off' is not allowed; allowed: true or false. The default applies: true",
        ),
        (
            "MessageAckTimeoutSecs",
            "0",
            "'0' is not allowed; allowed: a whole number from 1 to 86400. The default applies: 30",
        ),
        ("MessageAckTimeoutSecs", "-1", "'-1' is not allowed"),
        ("MessageAckTimeoutSecs", "٣٠", "is not allowed"),
        ("MessageAckTimeoutSecs", "9" * 10_000, "is not allowed"),
        ("MessageCleanupIntervalSecs", "29", "allowed: a whole number from 30 to 86400"),
        ("MqttSettings__Enabled", "yes", "'yes' is not allowed; allowed: true or false"),
        ("RuntimeLogLevel", "warn", "'warn' is not allowed; allowed: verbose, debug, info, warning, error"),
        ("SslProtocols", "tls1.0,tls1.2", "older versions are broken"),
        ("SslProtocols", ",", "is not allowed"),
        ("MqttSettings__ConnectArrivalTimeout", "60", "allowed: a time from 00:00:01 to 01:00:00"),
        ("MqttSettings__ConnectArrivalTimeout", "00:61:00", "is not allowed"),
        ("MqttSettings__ConnectArrivalTimeout", "00:00:00", "is not allowed"),
        ("MqttSettings__MaxInboundMessageSize", "300000", "from 4096 to 262144"),
        ("MqttSettings__Enabeld", "false", "no such setting, so it has no effect; did you mean 'MqttSet"),
        ("Password", "hush", "edgeHub has no such setting, so it has no effect"),
        ("UsePersistentStorage", "false", "has no effect: what was acknowledged is on disk, always"),
        ("AuthenticationMode", "CloudAndScope", "has no effect: identities are judged by what this edge"),
        ("UpstreamProtocol", "Ampq", "'Ampq' is not allowed; allowed: Amqp, AmqpWs, Mqtt or MqttWs"),
        ("MaxUpstreamBatchSize", "0", "allowed: a whole number from 1 to 1000"),
        ("CloudOperationTimeoutSecs", "1", "allowed: a whole number from 5 to 3600"),
        ("Https_Proxy", "http://user:hush@proxy", "has no effect: the link to the cloud takes no proxy"),
    ],
)
def test_what_is_not_to_be_had_is_told_by_name_and_changes_nothing(
    name: str, text: str, problem: str
) -> None:
    """Source: agent.md section 8, row 66"""
    read = parse_environment({name: text})

    [(told, why)] = read.problems
    assert told == name
    assert problem in why
    assert "hush" not in why
    assert len(why) < 400
    assert read.values == DEFAULTS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AuthenticationMode", "Scope"),
        ("UsePersistentStorage", "True"),
        ("MaxConnectedClients", " "),
        ("StorageFolder", "/mnt/messages"),
    ],
)
def test_what_asks_for_what_is_so_anyway_is_no_problem(name: str, text: str) -> None:
    """Source: agent.md section 8, row 66"""
    assert parse_environment({name: text}) == parse_environment({})


def test_what_only_tunes_the_reference_is_a_note() -> None:
    read = parse_environment({"OptimizeForPerformance": "false"})

    assert read.notes == (("OptimizeForPerformance", "messages are in SQLite, not in RocksDB"),)
    assert read.problems == ()


def test_the_first_spelling_of_a_setting_counts_and_the_second_is_told() -> None:
    read = parse_environment({"MaxConnectedClients": "5", "maxconnectedclients": "6"})

    assert read.values.max_connected_clients == 5
    assert read.problems == (
        ("maxconnectedclients", "is the same setting as 'MaxConnectedClients', which counts"),
    )


def test_a_deployment_brings_the_environment_of_its_hub() -> None:
    env = {"MaxConnectedClients": {"value": 7}, "MqttSettings__Enabled": {"value": False}}
    deployment = parse_deployment(manifest_text(((*EDGE_HUB, "env"), env)), "d.json")

    assert deployment.hub_environment.values == HubEnvironment(mqtt_enabled=False, max_connected_clients=7)


def test_every_reason_says_something() -> None:
    for variable in VARIABLES:
        assert re.search(r"\w{3}", variable.here), variable.name
        assert (variable.effect is Effect.OBEYED) or not variable.field
