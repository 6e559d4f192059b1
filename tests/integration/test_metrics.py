"""Metrics of a whole edge over HTTP and on the command line, and the quality telemetry that it sends.

Source: spec sheet observability.md sections 1, 4, 9 and 13
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from messaging.message import DIAGNOSTICS_TYPE
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.diagnostics import FILE
from tests.actors.manifests import AGENT as AGENT_PATH
from tests.actors.manifests import HUB as HUB_PATH
from tests.actors.manifests import manifest
from tests.integration.edge_process import LIMIT_S, ROOT, UP, EdgeProcess, free_port, shell
from tests.waiting import wait_for

COMMON = ("iothub", "edge_device", "instance_number")
IDLE = shell("exec sleep 1000")


@pytest.fixture
def edge() -> Iterator[EdgeProcess]:
    made = EdgeProcess()
    yield made
    made.close()


def deploy(edge: EdgeProcess, hub: dict[str, Any], agent: dict[str, Any], *changes: tuple[Any, Any]) -> None:
    """Write a deployment with variables of edgeHub and edgeAgent."""

    def env(variables: dict[str, Any]) -> dict[str, Any]:
        return {name: {"value": str(value)} for name, value in variables.items()}

    content = manifest(
        ((*AGENT_PATH, "modules"), {"idle": IDLE}),
        ((*HUB_PATH, "routes"), UP),
        ((*AGENT_PATH, "systemModules", "edgeHub", "env"), env(hub)),
        ((*AGENT_PATH, "systemModules", "edgeAgent", "env"), env(agent)),
        *changes,
    )
    edge.deployment.write_text(json.dumps(content))


def get(port: int, path: str = "/metrics", host: str = "", method: str = "GET") -> tuple[HTTPResponse, str]:
    """Ask once; raises OSError when nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response, text


def scrape(port: int, host: str = "") -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return samples by name, as Prometheus reads them."""
    response, text = get(port, host=host)
    assert response.status == 200, text
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def until(holds: Callable[[], Any], edge: EdgeProcess) -> Any:
    """Wait until something is true, and return it."""

    def found() -> Any:
        try:
            return holds() or None
        except OSError:
            return None

    return wait_for(found, edge.log.read_text, LIMIT_S)


def command(edge: EdgeProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", *words, "--home", str(edge.home)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=LIMIT_S,
    )


def started(
    edge: EdgeProcess, hub: dict[str, Any] | None = None, agent: dict[str, Any] | None = None
) -> tuple[int, int]:
    """Start the edge with metrics at free ports; return those of hub and agent."""
    ports = free_port(), free_port()
    deploy(edge, {"HttpSettings__metrics_port": ports[0], **(hub or {})}, {"port": ports[1], **(agent or {})})
    edge.start()
    edge.wait_for(edgeHub="running", idle="running")
    return ports


def test_hub_and_agent_tell_their_metrics_with_the_common_labels(edge: EdgeProcess) -> None:
    hub_port, agent_port = started(edge)

    hub = until(lambda: scrape(hub_port), edge)
    agent = scrape(agent_port)

    for samples in (*hub.values(), *agent.values()):
        for labels, _ in samples:
            assert tuple(labels)[:3] == COMMON
    assert {labels["actor"] for labels, _ in hub["edgehub_actor_handled_total"]} >= {"hub/store", "hub/mqtt"}
    assert {labels["term"]: value for labels, value in hub["edgehub_ledger_messages_total"]} == {
        "received": 0,
        "unrouted": 0,
        "routed": 0,
    }
    starts = {labels["module_name"]: value for labels, value in agent["edgeAgent_module_start_total"]}
    assert starts == {"edgeHub": 1, "idle": 1}
    [(about, value)] = agent["edgeAgent_metadata"]
    assert value == 0
    assert json.loads(about["host_information"])["operatingSystemType"] == "linux"
    assert json.loads(about["experimental_features"])["enabled"] is False


def test_the_hub_tells_how_its_mqtt_broker_is(edge: EdgeProcess) -> None:
    hub_port, agent_port = free_port(), free_port()
    news = {"direction": "out", "topic": "news/#"}
    broker = {"authorizations": [], "bridges": [{"endpoint": "site", "settings": [news]}]}
    schema, section = ((*HUB_PATH, "schemaVersion"), "1.2"), ((*HUB_PATH, "mqttBroker"), broker)
    deploy(edge, {"HttpSettings__metrics_port": hub_port}, {"port": agent_port}, schema, section)
    edge.start()
    edge.wait_for(edgeHub="running", idle="running")

    def with_bridges() -> dict[str, list[tuple[dict[str, str], float]]] | None:
        its = scrape(hub_port)
        return its if "edgehub_broker_bridge_connected" in its else None

    found = until(with_bridges, edge)

    assert {labels["qos"]: value for labels, value in found["edgehub_broker_messages_received_total"]} == {
        "0": 0,
        "1": 0,
        "2": 0,
    }
    [(labels, value)] = found["edgehub_broker_bridge_connected"]
    assert tuple(labels) == (*COMMON, "endpoint")
    assert (labels["endpoint"], value) == ("site", 0)
    told = command(edge, "metrics", "edgehub_broker_*")
    assert "edgehub_broker_retained_messages: Messages that are retained" in told.stdout


def test_a_container_that_asks_edgeagent_at_the_port_of_the_hub_gets_the_agents(edge: EdgeProcess) -> None:
    hub_port, _ = started(edge)
    until(lambda: scrape(hub_port), edge)

    by_name = scrape(hub_port, host="edgeAgent:9600")

    assert "edgeAgent_metadata" in by_name
    assert not any(name.startswith("edgehub_") for name in by_name)
    assert "edgeAgent_metadata" not in scrape(hub_port, host="edgeHub:9600")


def test_without_an_agent_who_asks_for_its_metrics_is_told_so(edge: EdgeProcess) -> None:
    hub_port, _ = started(edge)
    until(lambda: scrape(hub_port), edge)
    edge.kill_agent()

    response, text = get(hub_port, host="edgeAgent:9600")

    assert response.status == 503
    assert "the metrics of edgeAgent cannot be had" in text
    assert "edgehub_actor_handled_total" in scrape(hub_port)


def test_a_restarted_hub_begins_a_new_instance_at_zero(edge: EdgeProcess) -> None:
    hub_port, _ = started(edge)
    before = until(lambda: scrape(hub_port), edge)
    pid = edge.modules()["edgeHub"]["pid"]

    os.kill(pid, signal.SIGKILL)
    edge.wait_for_another_hub(pid)
    after = scrape(hub_port)

    def instances(found: dict[str, list[tuple[dict[str, str], float]]]) -> set[str]:
        return {labels["instance_number"] for samples in found.values() for labels, _ in samples}

    assert len(instances(before)) == len(instances(after)) == 1
    assert instances(before) != instances(after)
    starts = {labels["module_name"]: value for labels, value in scrape_agent(edge, "start_total")}
    assert starts["edgeHub"] == 2


def scrape_agent(edge: EdgeProcess, ending: str) -> list[tuple[dict[str, str], float]]:
    told = json.loads(command(edge, "metrics", f"module_{ending}", "--json").stdout)
    return [(sample["labels"], sample["value"]) for family in told for sample in family["samples"]]


@pytest.mark.parametrize(
    ("path", "method", "status", "words"),
    [
        ("/metrics/", "GET", 200, "edgehub_"),
        ("/metrics?x=1", "GET", 200, "edgehub_"),
        ("/metrics", "HEAD", 200, ""),
        ("/", "GET", 404, "there is nothing at '/'; metrics are at /metrics"),
        ("/metrics", "POST", 405, "POST is not for metrics; GET is"),
    ],
)
def test_other_requests_are_answered_with_words(path: str, method: str, status: int, words: str) -> None:
    edge = EdgeProcess()
    try:
        hub_port, _ = started(edge)
        until(lambda: scrape(hub_port), edge)

        response, text = get(hub_port, path, method=method)
    finally:
        edge.close()

    assert response.status == status
    assert words in text


def test_nobody_listens_where_metrics_are_switched_off(edge: EdgeProcess) -> None:
    hub, agent = {"Metrics__Listener__MetricsEnabled": "false"}, {"MetricsEnabled": "false"}
    ports = started(edge, hub, agent)

    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
    told = command(edge, "metrics")
    assert (told.returncode, told.stdout) == (0, "no metrics: they are switched off in the deployment\n")


def test_metrics_are_on_loopback_and_on_no_other_address(edge: EdgeProcess) -> None:
    ports = started(edge)
    until(lambda: scrape(ports[0]), edge)

    with open("/proc/net/tcp", encoding="ascii") as table:
        listening = [row.split()[1] for row in table if row.split()[3] == "0A"]
    parts = [row.split(":") for row in listening]
    assert {address for address, port in parts if int(port, 16) in ports} == {"0100007F"}


def test_a_port_that_is_taken_is_told_with_its_holder_and_the_edge_runs(edge: EdgeProcess) -> None:
    with socket.socket() as one, socket.socket() as other:
        for holder in (one, other):
            holder.bind(("127.0.0.1", 0))
            holder.listen()
        hub_port, agent_port = one.getsockname()[1], other.getsockname()[1]
        deploy(edge, {"HttpSettings__metrics_port": hub_port}, {"port": agent_port})
        edge.start()
        edge.wait_for(edgeHub="running", idle="running")
        told = command(edge, "metrics", "edgehub_actor_handled_total")
        checked = command(edge, "check", "--json", "--dont-run", "host-local-time")

    found = json.loads(checked.stdout)["checks"]["edge-metrics-ports"]["result"]
    assert found["result"] == "warning"
    for text, who, port in zip(
        found["details"], ("edgeHub", "edgeAgent"), (hub_port, agent_port), strict=True
    ):
        assert text.startswith(
            f"metrics of {who}: cannot listen on 127.0.0.1:{port}: port {port} is in use (pid "
        )
    log = edge.log.read_text()
    assert (
        "no metrics of edgeHub over HTTP there, only with `edge-actors metrics`: cannot listen on "
        f"127.0.0.1:{hub_port}: port {hub_port} is in use (pid {os.getpid()}, "
    ) in log
    assert "or choose another port with HttpSettings__metrics_port of edgeHub in the deployment" in log
    assert (
        "no metrics of edgeAgent over HTTP there, only with `edge-actors metrics`: cannot listen on "
        f"127.0.0.1:{agent_port}: port {agent_port} is in use (pid {os.getpid()}, "
    ) in log
    assert "or choose another port with the variable port of edgeAgent in the deployment" in log
    assert told.returncode == 0, told.stderr


def test_the_check_knows_where_hub_and_agent_tell_their_metrics(edge: EdgeProcess) -> None:
    hub_port, agent_port = free_port(), free_port()
    deploy(edge, {"HttpSettings__metrics_port": hub_port}, {"port": agent_port})
    edge.start()
    edge.wait_for(edgeHub="running", idle="running")

    checked = command(edge, "check", "--json", "--dont-run", "host-local-time")

    found = json.loads(checked.stdout)["checks"]["edge-metrics-ports"]
    assert found["result"] == {"result": "ok"}
    assert found["additional_info"] == {
        "edgeHub": f"http://127.0.0.1:{hub_port}",
        "edgeAgent": f"http://127.0.0.1:{agent_port}",
    }


def test_a_setting_that_is_not_allowed_is_told_and_its_default_applies(edge: EdgeProcess) -> None:
    deploy(edge, {}, {"port": "many", "MetricScrapeInterval": "soon"})
    edge.start()
    edge.wait_for(idle="running")

    log = edge.log.read_text()
    assert (
        "its variable 'port': 'many' is not allowed; allowed: a whole number from 1 to 65535. "
        "The default applies: 9601"
    ) in log
    assert "'soon' is not allowed; allowed: a time from 00:00:01 to 365.00:00:00" in log


def test_the_command_shows_the_same_in_words_as_json_and_raw(edge: EdgeProcess) -> None:
    hub_port, _ = started(edge)
    until(lambda: scrape(hub_port), edge)

    words = command(edge, "metrics")
    raw = command(edge, "metrics", "--raw")
    values = json.loads(command(edge, "metrics", "ledger_messages_total", "--json").stdout)
    unknown = command(edge, "metrics", "frobnicated_total")

    assert words.returncode == raw.returncode == 0, words.stderr
    assert "edgeAgent_module_start_total: Starts of modules\n  1  module_name edgeHub" in words.stdout
    assert "ACTOR " in words.stdout
    names = {family.name for family in text_string_to_metric_families(raw.stdout)}
    assert {"edgeAgent_metadata", "edgehub_actor_handled"} <= names
    [family] = values
    assert (family["name"], family["type"]) == ("edgehub_ledger_messages_total", "counter")
    assert {sample["labels"]["term"] for sample in family["samples"]} == {"received", "unrouted", "routed"}
    assert unknown.returncode == 1
    assert unknown.stderr == (
        "error: no metric 'frobnicated_total' so far; a metric is there from its first use on\n"
    )


@pytest.mark.slow
def test_without_a_hub_the_command_shows_the_agents_and_says_what_is_missing(edge: EdgeProcess) -> None:
    started(edge)
    stopped = command(edge, "stop", "edgeHub")

    told = command(edge, "metrics", "module_stop_total")

    assert stopped.returncode == 0, stopped.stderr
    assert "  1  module_name edgeHub" in told.stdout
    assert "error: the metrics of edgeHub are missing: " in told.stderr
    assert told.returncode == 1


def quality_of(edge: EdgeProcess) -> list[dict[str, Any]]:
    try:
        text = (CloudHome.in_home(edge.home).path / FILE).read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def test_the_quality_telemetry_reaches_the_cloud_and_no_reader_of_messages(edge: EdgeProcess) -> None:
    started(edge, agent={"MetricScrapeInterval": "00:00:01", "MetricUploadInterval": "00:00:02"})

    [first, *_] = until(lambda: quality_of(edge), edge)

    assert first["contentType"] == DIAGNOSTICS_TYPE
    assert first["properties"] == {}
    assert first["identity"].endswith("/$edgeAgent")
    body = base64.b64decode(first["body"])
    assert b"edgeAgent_" in body
    assert b"instance_number" in body
    for word in (b'iothub"', b"edge_device", b"ms_telemetry", b"idle"):
        assert word not in body
    readable = edge.home / "upstream.jsonl"
    assert not readable.exists() or DIAGNOSTICS_TYPE not in readable.read_text()


def test_port_and_path_of_a_new_deployment_are_taken_and_the_hub_lives_on(edge: EdgeProcess) -> None:
    hub_port, before = started(edge)
    until(lambda: scrape(before), edge)
    edge.kill_agent()
    after = free_port()
    deploy(edge, {"HttpSettings__metrics_port": hub_port}, {"port": after, "suffix": "/edge/numbers"})

    edge.start()
    edge.wait_for(edgeHub="running", idle="running")

    response, text = until(lambda: get(after, "/edge/numbers"), edge)
    assert response.status == 200
    assert "edgeAgent_metadata" in text
