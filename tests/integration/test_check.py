"""`edge-actors check` with an edge that runs, that is stopped, and with homes that are broken."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.docker.engine import HOME_LABEL
from runtime.docker.network import network_name
from tests.integration.cloud_program import CloudProgram
from tests.integration.container_edge import ContainerEdge
from tests.integration.containers import container
from tests.integration.edge_process import EdgeProcess
from tests.integration.edge_program import EdgeProgram
from tests.runtime.module_processes import lives

if TYPE_CHECKING:
    from docker import APIClient

SLEEP = ("sleep", "1000")


class TimeServer:
    """Tells a time that is `ahead_s` from ours; RFC 4330."""

    def __init__(self, ahead_s: float) -> None:
        import struct
        import time

        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

        def serve() -> None:
            while True:
                asked, peer = self._socket.recvfrom(256)
                if len(asked) < 48:
                    return
                now = int((time.time() + ahead_s + 2_208_988_800) * 2**32)
                self._socket.sendto(struct.pack("!4B3I4Q", 0x24, 1, 0, 0, 0, 0, 0, 0, 0, now, now), peer)

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            host, port = self.address.split(":")
            last.sendto(b"", (host, int(port)))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def clock() -> Iterator[TimeServer]:
    server = TimeServer(0.0)
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path_factory.mktemp("checked") / "home")
    edge.start()
    edge.wait_for_message()
    yield edge
    edge.close()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path / "home")
    yield edge
    edge.close()


def results(edge: EdgeProgram, *arguments: str) -> tuple[int, dict[str, Any], dict[str, list[str]]]:
    """Return exit code, results by id, and details by id."""
    done = edge.run("check", "-o", "json", *arguments)
    found = json.loads(done.stdout)
    assert set(found) == {"additional_info", "checks"}
    return (
        done.returncode,
        {name: one["result"]["result"] for name, one in found["checks"].items()},
        {name: one["result"].get("details", []) for name, one in found["checks"].items()},
    )


def test_an_edge_that_runs_has_no_errors(shared: EdgeProgram, clock: TimeServer) -> None:
    code, found, details = results(shared, "--ntp-server", clock.address)

    assert (code, [name for name, result in found.items() if result in ("error", "fatal")]) == (0, []), (
        details
    )
    good = [
        "aziot-edged-config-well-formed",
        "edge-home",
        "hostname",
        "host-local-time",
        "edge-identities",
        "certs-read",
        "certs-match-private-keys",
        "edge-ca-expiry",
        "edge-hub-certificate-expiry",
        "connect-management-uri",
        "aziot-edge-version",
        "edge-modules-running",
        "edge-hub-ports",
        "edge-messages-accounted",
        "host-resolve-iothub",
        "host-connect-iothub-https",
        "edge-cloud-identity",
    ]
    assert {name: found[name] for name in good} == dict.fromkeys(good, "ok"), details
    assert found["host-connect-iothub-mqtt"] == "skipped"
    assert "not required" in details["host-connect-iothub-mqtt"][0]
    assert found["container-connect-upstream-amqp"] == "ignored"


def test_json_has_the_shape_of_the_reference(shared: EdgeProgram) -> None:
    found = json.loads(shared.run("check", "--json", "--dont-run", "host-local-time").stdout)

    about = found["additional_info"]
    assert {"aziot_edged_version", "now", "os", "system_info"} <= set(about)
    assert set(about["os"]) == {"id", "version_id", "arch", "bitness"}
    assert about["system_info"]["disks"][0]["total_space"] > 0
    expiry = found["checks"]["edge-ca-expiry"]
    assert expiry["result"] == {"result": "ok"}
    assert 89 < expiry["additional_info"]["days_left"] <= 90
    assert found["checks"]["host-local-time"]["result"]["result"] == "ignored"


def test_text_is_what_operators_know(shared: EdgeProgram, clock: TimeServer) -> None:
    done = shared.run("check", "--ntp-server", clock.address)

    lines = done.stdout.splitlines()
    assert done.returncode == 0
    at = lines.index("Configuration checks")
    assert lines[at - 1] == ""
    assert lines[at + 1] == "-" * len("Configuration checks")
    assert "√ settings are well-formed - OK" in lines
    assert any(line.endswith("check(s) succeeded.") for line in lines)
    assert not any("Skipped" in line for line in lines)
    verbose = shared.run("check", "--verbose", "--ntp-server", clock.address).stdout
    assert "- IoT Hub can be reached by MQTT - Skipped" in verbose


@pytest.mark.parametrize(
    ("ahead_s", "result"), [(20.0, "warning"), (-20.0, "warning"), (400.0, "error"), (1.0, "ok")]
)
def test_a_clock_that_is_wrong_is_told_by_a_time_server(
    ahead_s: float, result: str, shared: EdgeProgram
) -> None:
    server = TimeServer(ahead_s)
    try:
        code, found, details = results(shared, "--ntp-server", server.address)
    finally:
        server.close()

    assert found["host-local-time"] == result
    assert code == (1 if result == "error" else 0)
    if result != "ok":
        assert "timedatectl set-ntp true" in details["host-local-time"][0]


def test_warnings_are_errors_when_wanted(shared: EdgeProgram) -> None:
    server = TimeServer(20.0)
    try:
        code, found, _ = results(shared, "--ntp-server", server.address, "--warnings-as-errors")
    finally:
        server.close()

    assert (code, found["host-local-time"]) == (1, "error")


def test_an_unknown_check_gets_the_nearest_id(shared: EdgeProgram) -> None:
    done = shared.run("check", "--dont-run", "host-local-tim")

    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --dont-run: there is no check 'host-local-tim'; did you mean 'host-local-time'?"
    )


def test_the_list_names_every_check(shared: EdgeProgram) -> None:
    listed = shared.json("check-list")

    assert [row["id"] for row in listed] == list(json.loads(shared.run("check", "--json").stdout)["checks"])
    assert len({row["id"] for row in listed}) == len(listed)
    assert shared.run("check-list").stdout.splitlines()[0].split() == ["CATEGORY", "ID", "DESCRIPTION"]


def test_a_module_that_fails_and_a_hub_that_is_stopped_are_told(edge: EdgeProgram) -> None:
    edge.start()
    edge.run("stop", "edgeHub")

    code, found, details = results(edge, "--dont-run", "host-local-time")

    assert code == 1
    assert (found["edge-hub-ports"], found["edge-cloud-identity"]) == ("error", "error")
    assert "`edge-actors explain edgeHub`" in details["edge-hub-ports"][0]


def test_an_edge_that_is_stopped_is_looked_at_all_the_same(edge: EdgeProgram, clock: TimeServer) -> None:
    edge.run_for_a_message()

    code, found, details = results(edge, "--ntp-server", clock.address)

    assert code == 0, details
    assert found["connect-management-uri"] == "warning"
    assert "edge-actors run --home" in details["connect-management-uri"][0]
    assert (found["aziot-edge-version"], found["edge-modules-running"]) == ("skipped", "skipped")
    good = ("edge-identities", "certs-match-private-keys", "edge-hub-ports", "edge-messages-accounted")
    assert {found[name] for name in good} == {"ok"}, details


def test_an_edge_that_died_is_an_error_with_what_it_left(edge: EdgeProgram) -> None:
    edge.start()
    assert edge.process is not None
    edge.process.kill()
    edge.wait()

    code, found, details = results(edge, "--dont-run", "host-local-time")

    assert (code, found["connect-management-uri"]) == (1, "error")
    assert "its modules go on without it" in details["connect-management-uri"][0]
    assert found["edge-hub-ports"] == "skipped"


def test_a_port_that_somebody_else_has_is_told_with_his_name(edge: EdgeProgram) -> None:
    with socket.socket() as taken:
        taken.bind((edge.address, 8883))
        taken.listen()
        code, found, details = results(edge, "--dont-run", "host-local-time")

    assert (code, found["edge-hub-ports"]) == (1, "error")
    assert f"pid {os.getpid()}" in details["edge-hub-ports"][0]
    assert details["edge-hub-ports"][0].endswith("choose another port with --listen")


@pytest.mark.parametrize("port", [9600, 9601])
def test_a_port_of_metrics_that_somebody_else_has_is_told_with_his_name(edge: EdgeProgram, port: int) -> None:
    with socket.socket() as taken:
        with suppress(OSError):  # another edge of this machine has it, which will do as well
            taken.bind(("127.0.0.1", port))
            taken.listen()
        code, found, details = results(edge, "--dont-run", "host-local-time")

    assert (code, found["edge-metrics-ports"]) == (0, "warning")
    assert f"port {port} is in use (pid " in "".join(details["edge-metrics-ports"])


@pytest.mark.slow
def test_an_edge_that_hangs_is_an_error(edge: EdgeProgram) -> None:
    edge.start()
    assert edge.process is not None
    edge.process.send_signal(signal.SIGSTOP)
    try:
        code, found, _ = results(edge, "--dont-run", "host-local-time")
    finally:
        edge.process.send_signal(signal.SIGCONT)

    assert (code, found["connect-management-uri"]) == (1, "error")


def damage(home: Path, what: str) -> None:
    keys, ca = home / "keys.json", home / "certificates" / "edge-ca.pem"
    match what:
        case "keys damaged":
            keys.write_bytes(keys.read_bytes()[:-40])
        case "keys open":
            keys.chmod(0o644)
        case "home open":
            home.chmod(0o755)
        case "ca gone to pieces":
            ca.write_text("nonsense")
        case "key of another":
            server = home / "certificates" / "hub-server.pem"
            text = server.read_text()
            own_key = ca.read_text()
            own_key = own_key[: own_key.index("-----BEGIN CERTIFICATE-----")]
            server.write_text(own_key + text[text.index("-----BEGIN CERTIFICATE-----") :])
        case "device of another":
            (home / "device.json").write_text('{"deviceId": "another"}')
        case "device.json damaged":
            (home / "device.json").write_text("{")
        case "database damaged":
            database = home / "hub.db"
            database.write_bytes(b"nonsense" * 1000)
        case "provisioned damaged":
            (home / "provisioned.json").write_text("{")
        case "hub.json damaged":
            (home / "hub.json").write_text("{")
        case "cloud.json damaged":
            (home / "cloud.json").write_text("{")


@pytest.mark.parametrize(
    ("what", "check", "result", "told"),
    [
        ("keys damaged", "edge-identities", "error", "restore"),
        ("keys open", "edge-home", "error", "chmod 600"),
        ("home open", "edge-home", "error", "chmod go-rw"),
        ("ca gone to pieces", "certs-read", "error", "restore it from a backup, or remove it"),
        (
            "key of another",
            "certs-match-private-keys",
            "error",
            "does not belong to its certificate; restore",
        ),
        ("device of another", "edge-identities", "error", "this home names several devices"),
        ("device.json damaged", "aziot-edged-config-well-formed", "error", "write the id of this device"),
        ("database damaged", "edge-messages-accounted", "error", "damaged"),
        ("provisioned damaged", "edge-identities", "error", "give the connection string once more"),
        ("hub.json damaged", "edge-hub-ports", "ok", "is free"),
        ("cloud.json damaged", "host-resolve-iothub", "error", "remove it"),
    ],
)
def test_a_broken_home_is_told_with_the_way_out(
    what: str, check: str, result: str, told: str, stopped_home: Path, tmp_path: Path
) -> None:
    import shutil

    home = tmp_path / "home"
    shutil.copytree(stopped_home, home)
    home.chmod(0o700)
    config = home / "hub.json"
    config.write_text(config.read_text().replace(str(stopped_home), str(home)))
    damage(home, what)
    edge = EdgeProgram(home)

    done = edge.run("check", "--json", "--dont-run", "host-local-time")

    found = json.loads(done.stdout)["checks"]
    assert done.returncode == (1 if result == "error" else 0), found
    assert found[check]["result"]["result"] == result, found[check]
    assert told in json.dumps(found[check])
    assert "this check failed itself" not in done.stdout
    for one in found.values():  # every failed check says what to do
        for detail in one["result"].get("details", []) if one["result"]["result"] == "error" else []:
            assert any(mark in detail for mark in ("`", ";", ":")), detail


@pytest.fixture(scope="module")
def stopped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stopped") / "home"
    edge = EdgeProgram(home)
    edge.run_for_a_message()
    return home


def test_a_home_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    code, found, details = results(EdgeProgram(tmp_path / "home"), "--dont-run", "host-local-time")

    assert (code, found["edge-home"]) == (1, "error")
    assert "choose another with --home" in details["edge-home"][0]


def test_settings_that_are_wrong_leave_the_rest_to_be_looked_at(edge: EdgeProgram) -> None:
    edge.environment["EDGE_ACTORS_LOG_LEVEL"] = "loud"

    code, found, details = results(edge, "--dont-run", "host-local-time")

    assert (code, found["aziot-edged-config-well-formed"]) == (1, "error")
    assert "EDGE_ACTORS_LOG_LEVEL: 'loud' is not allowed" in details["aziot-edged-config-well-formed"][0]
    assert found["hostname"] == "skipped"
    assert found["edge-disk-space"] == "ok"


def test_an_iothub_that_nobody_knows_is_told(edge: EdgeProgram) -> None:
    code, found, details = results(
        edge, "--iothub-hostname", "no-such-hub.invalid", "--dont-run", "host-local-time"
    )

    assert (code, found["host-resolve-iothub"]) == (1, "error")
    assert "no-such-hub.invalid" in details["host-resolve-iothub"][0]
    assert found["host-connect-iothub-amqp"] == "skipped"


def test_an_iot_hub_elsewhere_is_asked_itself_while_the_edge_is_stopped(
    edge: EdgeProgram, clock: TimeServer, tmp_path: Path
) -> None:
    with CloudProgram() as cloud:
        file = tmp_path / "connection-string"
        file.write_text(cloud.do("device", "create", "line-7", "--edge"))
        edge.environment |= {"EDGE_ACTORS_CLOUD_CA": str(cloud.ca_file), "EDGE_ACTORS_DEVICE_ID": "line-7"}
        edge.start("--connection-string-file", str(file))
        edge.run("down")
        edge.wait()

        code, found, details = results(edge, "--ntp-server", clock.address)

        assert code == 0, details
        reached = ("host-resolve-iothub", "host-connect-iothub-https", "edge-cloud-identity")
        assert {found[name] for name in reached} == {"ok"}, details
        # Without a time server the IoT Hub tells the time.
        assert results(edge, "--ntp-server", "127.0.0.1:9")[1]["host-local-time"] == "ok"

        cloud.do("device", "disable", "line-7")
        code, found, details = results(edge, "--ntp-server", clock.address)
        assert (code, found["edge-cloud-identity"]) == (1, "error")
        assert "whether device 'line-7' is enabled" in details["edge-cloud-identity"][0]

        edge.environment.pop("EDGE_ACTORS_CLOUD_CA")
        kept = edge.home / "provisioned.json"
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"caPem": ""}))
        _, found, details = results(edge, "--ntp-server", clock.address)
        assert found["host-connect-iothub-https"] == "error"
        assert "its certificate is not trusted" in details["host-connect-iothub-https"][0]
        assert found["edge-cloud-identity"] == "skipped"

    code, found, details = results(edge, "--ntp-server", clock.address)
    assert (code, found["host-connect-iothub-https"]) == (1, "error")
    assert "see to the firewall" in details["host-connect-iothub-https"][0]


def test_the_provisioning_service_is_asked_for(edge: EdgeProgram, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I=")
    key.chmod(0o600)
    with CloudProgram() as cloud:
        edge.environment |= {
            "EDGE_ACTORS_CLOUD_CA": str(cloud.ca_file),
            "EDGE_ACTORS_DPS_ENDPOINT": cloud.address,
            "EDGE_ACTORS_DPS_ID_SCOPE": "0ne00000001",
            "EDGE_ACTORS_DPS_REGISTRATION_ID": "line-7",
            "EDGE_ACTORS_DPS_KEY_FILE": str(key),
        }
        _, found, details = results(edge, "--dont-run", "host-local-time")
        assert found["host-connect-dps-endpoint"] == "ok", details
        edge.environment["EDGE_ACTORS_DPS_ENDPOINT"] = f"{cloud.address}:9"
        code, found, details = results(edge, "--dont-run", "host-local-time")

    assert (code, found["host-connect-dps-endpoint"]) == (1, "error")
    assert f"{cloud.address} port 9:" in details["host-connect-dps-endpoint"][0]


# --- containers ---


@pytest.fixture
def containers(docker_image: str) -> Iterator[ContainerEdge]:
    from docker import APIClient

    client: APIClient = APIClient(version="auto")
    edge = ContainerEdge(client)
    edge.deploy({"pump": container(docker_image, *SLEEP)})
    edge.start()
    edge.wait_for(edgeHub="running", pump="running")
    yield edge
    edge.close()
    client.close()


def check_containers(edge: EdgeProcess, *arguments: str) -> dict[str, Any]:
    import subprocess
    import sys

    done = subprocess.run(
        [
            sys.executable,
            *("-m", "runtime.cli.main", "check", "--home", str(edge.home), "--json"),
            *("--dont-run", "host-local-time", *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    found: dict[str, Any] = json.loads(done.stdout)["checks"]
    return found


@pytest.mark.docker
def test_the_hub_is_reached_from_inside_a_container(
    containers: ContainerEdge, tmp_path: Path, docker_image: str
) -> None:
    config = tmp_path / "daemon.json"
    config.write_text('{"dns": ["192.0.2.1"]}')

    found = check_containers(containers, "--container-engine-config-file", str(config))

    names = (
        "container-engine-uri",
        "container-engine-version",
        "container-engine-dns",
        "container-engine-logrotate",
        "container-local-time",
        "container-connect-hub-mqtt",
    )
    assert {name: found[name]["result"]["result"] for name in names} == dict.fromkeys(names, "ok"), found
    gateway = found["container-connect-hub-mqtt"]["additional_info"]["address"]
    assert gateway.endswith(":8883")
    home_id = containers.run.path.name
    # Nothing of it is left, neither container nor image.
    listed = containers.client.containers(all=True, filters={"label": f"{HOME_LABEL}={home_id}"})
    assert len(listed) == 1
    assert containers.client.images(name="edge-actors-check") == []
    with_image = check_containers(containers, "--diagnostics-image-name", docker_image)
    assert with_image["container-connect-hub-mqtt"]["result"]["result"] == "ok", with_image


@pytest.mark.docker
def test_a_firewall_between_containers_and_hub_is_told_with_the_rule_that_opens_it(
    containers: ContainerEdge, tmp_path: Path
) -> None:
    import subprocess

    network = containers.client.inspect_network(network_name(containers.run.path.name))
    gateway = network["IPAM"]["Config"][0]["Gateway"]
    rule = ["-p", "tcp", "-d", gateway, "--dport", "8883", "-j", "REJECT"]
    added = subprocess.run(["iptables", "-I", "INPUT", *rule], capture_output=True, check=False)
    if added.returncode != 0:
        pytest.skip(f"no firewall can be set here: {added.stderr.decode()}")
    try:
        found = check_containers(containers)
    finally:
        subprocess.run(["iptables", "-D", "INPUT", *rule], check=True)

    one = found["container-connect-hub-mqtt"]["result"]
    assert one["result"] == "error"
    assert "iptables -I INPUT" in one["details"][0]


@pytest.mark.docker
def test_settings_of_the_engine_that_are_no_json_are_an_error(
    containers: ContainerEdge, tmp_path: Path
) -> None:
    config = tmp_path / "daemon.json"
    config.write_text("{")

    found = check_containers(containers, "--container-engine-config-file", str(config))

    assert found["container-engine-dns"]["result"]["result"] == "error"
    assert found["container-engine-logrotate"]["result"]["result"] == "error"
    missing = check_containers(containers, "--container-engine-config-file", str(tmp_path / "none"))
    assert missing["container-engine-dns"]["result"]["result"] == "warning"


def test_an_engine_that_is_needed_and_away_is_an_error(edge: EdgeProgram) -> None:
    edge.home.mkdir(mode=0o700)
    (edge.home / "containers.json").write_text("{}")
    edge.environment["DOCKER_HOST"] = f"unix://{edge.home}/no.sock"

    code, found, details = results(edge, "--dont-run", "host-local-time")

    assert (code, found["container-engine-uri"]) == (1, "error")
    assert "there is no Docker Engine at" in details["container-engine-uri"][0]
    assert {found[name] for name in ("container-engine-dns", "container-local-time")} == {"skipped"}
    assert lives(os.getpid())
