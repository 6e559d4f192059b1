"""`edge-actors cloud run` as a process: start, end, kill, ports, footprint; and the commands beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.iothub.cloud_home import CloudHome
from tests.integration.cloud_program import PROGRAM, ROOT, CloudProgram, is_root, pss_kib
from tests.integration.node_sdk import run_scene
from tests.integration.sdk_clients import loopback_address


@pytest.fixture(scope="module")
def cloud() -> Iterator[CloudProgram]:
    with CloudProgram() as program:
        yield program


def device_client(cloud: CloudProgram, connection_string: str) -> Any:
    from azure.iot.device import IoTHubDeviceClient

    return IoTHubDeviceClient.create_from_connection_string(
        connection_string, server_verification_cert=cloud.ca_pem
    )


# ---- the process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_it_ends_cleanly_and_leaves_nothing_in_the_run_directory(number: signal.Signals) -> None:
    with CloudProgram() as cloud:
        client = device_client(cloud, cloud.do("device", "create", "d"))
        client.connect()

        assert cloud.end(number) == 0

        client.shutdown()
        assert cloud.refused("device", "list") == (
            1,
            f"error: no IoT Hub runs on home {cloud.home}; "
            f"start one with `edge-actors cloud run --home {cloud.home}`",
        )
        assert not CloudHome.in_home(cloud.home).socket.exists()


def test_an_existing_home_is_served_within_a_second_and_takes_little_memory() -> None:
    with CloudProgram() as cloud:
        cloud.do("device", "create", "d")
        cloud.end()

        seconds = [cloud.start()]
        cloud.end()
        seconds.append(cloud.start())

        assert cloud.process is not None
        assert min(seconds) < 1.0
        assert pss_kib(cloud.process.pid) < 50 * 1024


def test_killed_it_is_there_again_with_all_it_has_acknowledged() -> None:
    with CloudProgram() as cloud:
        text = cloud.do("device", "create", "d")
        cloud.do("twin", "set", "d", "interval=5", "--tag", "site=north")
        cloud.do("enrollment", "create", "r")
        before = cloud.ask("enrollment", "show", "r", "--show-secrets"), cloud.ca_pem
        message = cloud.ask("send", "d", "wake up")["messageId"]
        client = device_client(cloud, text)
        client.connect()
        client.send_message("one")
        client.shutdown()

        cloud.kill()
        cloud.start()

        twin = cloud.ask("twin", "get", "d")
        assert (twin["properties"]["desired"]["interval"], twin["tags"]) == (5, {"site": "north"})
        assert (cloud.ask("enrollment", "show", "r", "--show-secrets"), cloud.ca_pem) == before
        assert "d  one" in cloud.do("monitor", "--all", "--for", "0")
        received = threading.Event()
        client = device_client(cloud, text)
        bodies: list[Any] = []
        client.on_message_received = lambda found: (bodies.append(found), received.set())
        client.connect()
        assert received.wait(20)
        client.shutdown()
        assert (bodies[0].data, bodies[0].message_id) == (b"wake up", message)


def test_a_second_one_on_the_same_home_is_refused_and_the_first_goes_on() -> None:
    with CloudProgram() as cloud:
        second = subprocess.run(
            cloud.command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )

        assert cloud.process is not None
        assert second.returncode == 1
        assert f"another IoT Hub stand-in (pid {cloud.process.pid}, started" in second.stderr
        assert f"runs on home {cloud.home}; end it with `kill {cloud.process.pid}`" in second.stderr
        assert cloud.ask("device", "list") == []


@pytest.mark.parametrize(
    ("port", "option"), [(8883, "--mqtt-port"), (5671, "--amqp-port"), (443, "--https-port")]
)
def test_a_port_in_use_names_its_holder(port: int, option: str) -> None:
    if port < 1024 and not is_root():
        pytest.skip("only root may take this port")
    address = loopback_address()
    with socket.create_server((address, port)), pytest.raises(AssertionError) as ended:
        CloudProgram(address=address).start()

    assert f"cannot listen on {address}:{port}: port {port} is in use (pid {os.getpid()}" in str(ended.value)
    assert option in str(ended.value)


def test_without_permission_for_443_it_serves_the_rest_and_says_how_to_permit_it() -> None:
    setpriv = shutil.which("setpriv")
    if not is_root() or setpriv is None:
        pytest.skip("root and setpriv are needed to run without a permission")
    if Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip() == "0":
        pytest.skip("every user may listen on every port here")
    without = (setpriv, "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    with CloudProgram(prefix=without) as cloud:
        lines = [line for line in cloud.printed() if "443" in line]
        assert len(lines) == 1
        assert "sudo sysctl net.ipv4.ip_unprivileged_port_start=443" in lines[0]
        client = device_client(cloud, cloud.do("device", "create", "d"))
        client.connect()
        client.shutdown()
        assert cloud.ask("device", "show", "d")["lastActivityTime"][:2] == "20"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--host", "hub.azure-devices.net"), "is a name of Azure"),
        (("--listen", "nowhere"), "is not an IP address"),
        (("--mqtt-port", "99999"), "0<=x<=65535"),
    ],
    ids=["azure", "address", "port"],
)
def test_bad_options_are_refused_before_anything_is_made(
    tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    command = [*PROGRAM, "run", "--home", str(tmp_path / "home"), *options]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert named in ended.stderr
    assert not (tmp_path / "home").exists()


def test_a_log_level_that_is_none_is_refused(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*PROGRAM, "run", "--home", str(tmp_path / "home")],
        cwd=ROOT,
        env={**os.environ, "EDGE_ACTORS_LOG_LEVEL": "loud"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: EDGE_ACTORS_LOG_LEVEL: 'loud' is not allowed")


def test_its_files_are_its_owners_alone_and_keys_are_in_no_log(cloud: CloudProgram) -> None:
    text = cloud.do("device", "create", "private")
    cloud.do("enrollment", "create", "private")
    secrets = [
        text.rpartition("SharedAccessKey=")[2],
        cloud.do("connection-string").rpartition("SharedAccessKey=")[2],
        cloud.ask("enrollment", "show", "private", "--show-secrets")["attestation"]["symmetricKey"][
            "primaryKey"
        ],
    ]

    files = [path for path in (cloud.home / "cloud").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((cloud.home / "cloud").stat().st_mode) == 0o700
    log = cloud.log.read_text()
    assert [secret for secret in secrets if secret in log] == []
    for arguments in (
        ("device", "list"),
        ("device", "show", "private"),
        ("enrollment", "list"),
        ("enrollment", "show", "private"),
    ):
        for as_json in ((), ("--json",)):
            shown = cloud.do(*arguments, *as_json)
            assert [secret for secret in secrets if secret in shown] == []


def test_a_database_that_is_none_ends_it_with_its_name() -> None:
    cloud = CloudProgram()
    (cloud.home / "cloud").mkdir(parents=True)
    (cloud.home / "cloud" / "cloud.db").write_bytes(b"no database" * 1000)
    try:
        with pytest.raises(AssertionError) as ended:
            cloud.start()
    finally:
        shutil.rmtree(cloud.home)

    assert "cloud.db" in str(ended.value)
    assert "this should not happen" not in str(ended.value)


# ---- the commands


def test_a_device_is_made_shown_and_deleted(cloud: CloudProgram) -> None:
    made = cloud.do("device", "create", "gate", "--edge")
    cloud.do("device", "create", "leaf", "--parent", "gate", "--disabled")

    rows = [line.split() for line in cloud.do("device", "list").splitlines()]
    assert made.startswith(f"HostName={cloud.address};DeviceId=gate;SharedAccessKey=")
    assert ["gate", "edge", "device", "enabled", "Disconnected", "sas"] in rows
    assert ["leaf", "device", "disabled", "Disconnected", "sas", "gate"] in rows
    assert cloud.do("connection-string", "--device", "gate") == made
    assert cloud.ask("device", "show", "gate")["modules"] == ["$edgeAgent", "$edgeHub"]
    assert cloud.do("device", "delete", "leaf") == "device leaf deleted"
    assert "leaf" not in cloud.do("device", "list")


@pytest.mark.slow
def test_what_is_wrong_is_named_with_the_way_out(cloud: CloudProgram, tmp_path: Path) -> None:
    cloud.do("device", "create", "thermostat")
    (tmp_path / "bad.json").write_text('{"modulesContent": }')
    (tmp_path / "empty.json").write_text("{}")

    told = {
        arguments: cloud.refused(*arguments)
        for arguments in (
            ("device", "create", "thermostat"),
            ("device", "create", "a b"),
            ("device", "create", "x", "--parent", "thermostat"),
            ("device", "create", "x", "--x509", "12:34"),
            ("device", "show", "thermostats"),
            ("device", "delete", "nobody"),
            ("deploy", "thermostat", str(tmp_path / "bad.json")),
            ("deploy", "thermostat", str(tmp_path / "empty.json")),
            ("deploy", "thermostat", str(tmp_path / "none.json")),
            ("twin", "get", "thermostat", "--module", "m"),
            ("twin", "set", "thermostat"),
            ("twin", "set", "thermostat", "a"),
            ("twin", "set", "thermostat", "a=1", "a.b=2"),
            ("twin", "set", "thermostat", "big=" + "9" * 20),
            ("query", "SELECT * FROM nowhere"),
            ("method", "thermostat", "reboot"),
            ("send", "nobody", "text"),
            ("send", "thermostat", "text", "--property", "x"),
            ("send", "thermostat", "text", "--ack", "maybe"),
            ("monitor", "--device", "nobody"),
            ("enrollment", "show", "nobody"),
            ("enrollment", "create", "bad id"),
            ("enrollment", "key", "nobody", "d"),
            ("connection-string", "--policy", "nobody"),
            ("connection-string", "--events", "--policy", "nobody"),
            ("connection-string", "--events", "--device", "thermostat"),
            ("devise", "list"),
        )
    }

    codes = {arguments: code for arguments, (code, _) in told.items()}
    assert {code for arguments, code in codes.items() if arguments[0] != "method"} == {2}
    assert codes["method", "thermostat", "reboot"] == 1
    for arguments, (_, text) in told.items():
        assert text.startswith("error: "), arguments
        assert "should not happen" not in text, arguments
        assert "Traceback" not in text, arguments
    assert told["device", "show", "thermostats"][1].endswith("did you mean 'thermostat'?")
    assert told["device", "delete", "nobody"][1].endswith("see `edge-actors cloud device list`")
    assert "line 1, column 20" in told["deploy", "thermostat", str(tmp_path / "bad.json")][1]
    assert "did you mean 'device'?" in told["devise", "list"][1]


def test_a_deployment_a_twin_and_a_query(cloud: CloudProgram, tmp_path: Path) -> None:
    cloud.do("device", "create", "edge-1", "--edge")
    content = {
        "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1"}},
        "$edgeHub": {"properties.desired": {"schemaVersion": "1.1"}},
        "sensor": {"properties.desired": {"interval": 5}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"content": {"modulesContent": content}}))

    assert cloud.do("deploy", "edge-1", str(tmp_path / "manifest.json")) == (
        "deployed to edge-1: $edgeAgent, $edgeHub, sensor"
    )
    cloud.do("twin", "set", "edge-1", "--tag", "site=north", "--tag", "floor=3")
    cloud.do("twin", "set", "edge-1", "--module", "sensor", "interval=", "place.room=lab", "on=true")

    twin = cloud.ask("twin", "get", "edge-1", "--module", "sensor")["properties"]["desired"]
    assert {name: value for name, value in twin.items() if name[0] != "$"} == {
        "place": {"room": "lab"},
        "on": True,
    }
    rows = cloud.ask("query", "SELECT * FROM devices WHERE tags.site = 'north' AND tags.floor = 3")
    assert [row["deviceId"] for row in rows] == ["edge-1"]
    shown = cloud.do("query", "SELECT deviceId, tags.floor AS floor FROM devices WHERE tags.floor > 2")
    assert [line.split() for line in shown.splitlines()] == [["DEVICEID", "FLOOR"], ["edge-1", "3"]]


def test_a_device_is_called_told_and_watched(cloud: CloudProgram) -> None:
    from azure.iot.device import Message, MethodResponse

    client = device_client(cloud, cloud.do("device", "create", "pump"))
    received: list[Any] = []
    arrived = threading.Event()

    def answer(request: Any) -> None:
        payload = {"got": request.payload}
        client.send_method_response(MethodResponse.create_from_method_request(request, 202, payload))

    client.on_method_request_received = answer
    client.on_message_received = lambda message: (received.append(message), arrived.set())
    client.connect()
    monitor = subprocess.Popen(
        [*PROGRAM, "monitor", "--device", "pump", "--properties", "--all", "--home", str(cloud.home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )

    result = cloud.ask("method", "pump", "open", "--payload", '{"percent": 50}')
    cloud.do("send", "pump", "hello", "--property", "kind=greeting", "--expiry", "60", "--ack", "full")
    assert arrived.wait(20)
    message = Message('{"pressure": 3}')
    message.custom_properties["unit"] = "bar"
    client.send_message(message)
    assert monitor.stdout is not None
    line = monitor.stdout.readline()
    monitor.send_signal(signal.SIGINT)

    assert result == {"status": 202, "payload": {"got": {"percent": 50}}}
    assert (received[0].data, received[0].custom_properties["kind"]) == (b"hello", "greeting")
    assert 'pump  {"pressure": 3}' in line
    assert line.rstrip().endswith("unit=bar")
    assert monitor.wait(20) == 0
    monitor.stdout.close()
    client.shutdown()


def test_a_certificate_of_a_file_is_its_thumbprint(cloud: CloudProgram, tmp_path: Path) -> None:
    from azure.iot.device import X509, IoTHubDeviceClient

    from tests.integration.device_certificates import issue

    cert_file, key_file = issue("held").write(tmp_path, "held")

    made = cloud.do("device", "create", "held", "--x509", str(cert_file))

    client = IoTHubDeviceClient.create_from_x509_certificate(
        X509(str(cert_file), str(key_file)), cloud.address, "held", server_verification_cert=cloud.ca_pem
    )
    client.connect()
    client.shutdown()
    assert made == f"HostName={cloud.address};DeviceId=held;x509=true"


def test_a_device_shows_a_certificate_of_a_registered_authority(cloud: CloudProgram, tmp_path: Path) -> None:
    from azure.iot.device import X509, IoTHubDeviceClient

    from tests.integration.device_certificates import issue

    root = issue("plant", is_ca=True)
    root_file, _ = root.write(tmp_path, "root")
    cert_file, key_file = issue("signed", root).write(tmp_path, "signed")
    cloud.do("device", "create", "signed", "--x509-ca")

    assert cloud.do("certificate", "create", "plant", str(root_file)) == (
        "devices may show certificates of 'plant'"
    )
    client = IoTHubDeviceClient.create_from_x509_certificate(
        X509(str(cert_file), str(key_file)), cloud.address, "signed", server_verification_cert=cloud.ca_pem
    )
    client.connect()
    client.shutdown()

    assert [one["commonName"] for one in cloud.ask("certificate", "list")] == ["plant"]
    assert cloud.refused("certificate", "create", "leaf", str(cert_file))[0] == 2
    assert cloud.do("certificate", "delete", "plant") == "certificate plant deleted"
    assert cloud.refused("certificate", "delete", "plant")[0] == 2


def test_service_sdks_connect_with_the_connection_string_that_is_shown(
    cloud: CloudProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "uamqp", reason="azure-iot-hub needs uamqp, of which there is no wheel for this Python"
    )
    from azure.iot.hub import IoTHubRegistryManager

    text = cloud.do("connection-string")
    cloud.do("device", "create", "seen-by-services")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cloud.ca_file))

    manager = IoTHubRegistryManager.from_connection_string(text)
    found = run_scene("service.js", "devices", cloud.ca_file, IOTHUB_CONNECTION_STRING=text)

    assert manager.get_device("seen-by-services").status == "enabled"
    assert found["created"]["authentication"]["symmetricKey"]["primaryKey"]


def test_an_sdk_of_event_hubs_reads_with_the_connection_string_that_is_shown(cloud: CloudProgram) -> None:
    pytest.importorskip("azure.eventhub", reason="azure-eventhub is not installed; type scripts/setup test")
    from azure.eventhub import EventHubConsumerClient

    client = EventHubConsumerClient.from_connection_string(
        cloud.do("connection-string", "--events"),
        consumer_group="$Default",
        connection_verify=str(cloud.ca_file),
    )

    with client:
        assert client.get_partition_ids() == ["0"]
