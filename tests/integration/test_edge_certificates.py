"""An edge whose device proves itself with a certificate: to the provisioning service, then to its IoT Hub."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.addresses import SECURITY
from actors.agent.security import RenewalDue
from messaging.client import Client
from runtime.cli.running import refresh_scope
from runtime.run_directory import RunDirectory
from runtime.security.certificates import CaPlan, ensure_edge_ca
from tests.integration.cloud_program import CloudProgram
from tests.integration.device_certificates import KeyPair, issue
from tests.integration.edge_program import EdgeProgram
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def cloud() -> Iterator[CloudProgram]:
    with CloudProgram() as program:
        yield program


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path / "home")
    yield edge
    edge.close()


def written(pair: KeyPair, folder: Path, name: str, *above: KeyPair) -> tuple[Path, Path]:
    cert, key = pair.write(folder, name, *above)
    key.chmod(0o600)
    return cert, key


def serving(cloud: CloudProgram) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cloud.home / "cloud" / "serving.json").read_text())
    return found


def dps_config(cloud: CloudProgram, files: tuple[Path, Path], registration_id: str = "") -> str:
    named = f'registration_id = "{registration_id}"\n' if registration_id else ""
    return f"""
[provisioning]
source = "dps"
global_endpoint = "https://{cloud.address}:{serving(cloud)["httpsPort"]}"
id_scope = "{serving(cloud)["idScope"]}"

[provisioning.attestation]
method = "x509"
{named}identity_cert = "file://{files[0]}"
identity_pk = "file://{files[1]}"

[cloud]
ca = "{cloud.ca_file}"
https_port = {serving(cloud)["httpsPort"]}
"""


def start_with(edge: EdgeProgram, tmp_path: Path, text: str) -> None:
    source = tmp_path / "config.toml"
    source.write_text(text)
    done = edge.run("config", "apply", "-c", str(source))
    assert done.returncode == 0, done.stderr
    edge.environment.pop("EDGE_ACTORS_DEVICE_ID", None)
    edge.start()


def link(edge: EdgeProgram) -> dict[str, Any]:
    found: dict[str, Any] = edge.json("upstream", "status")
    return found


def modules_in_cloud(cloud: CloudProgram, device_id: str) -> set[str]:
    listed = cloud.ask("query", f"SELECT * FROM devices.modules WHERE deviceId = '{device_id}'")
    return {module["moduleId"] for module in listed}


@pytest.mark.parametrize("kind", ["individual", "group"])
def test_a_certificate_proves_the_edge_to_the_provisioning_service_and_to_the_hub(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path, kind: str
) -> None:
    if kind == "group":
        root = issue("plant root", is_ca=True)
        pair, above = issue("gw-g", root), (root,)
        (tmp_path / "root.pem").write_text(root.pem)
        cloud.do("enrollment", "create", "plant", "--group", "--edge", "--x509", str(tmp_path / "root.pem"))
    else:
        pair, above = issue("gw-i"), ()
        (tmp_path / "own.pem").write_text(pair.pem)
        cloud.do("enrollment", "create", "gw-i", "--edge", "--x509", str(tmp_path / "own.pem"))
    device_id = f"gw-{kind[0]}"

    start_with(edge, tmp_path, dps_config(cloud, written(pair, tmp_path, "id", *above)))

    wait_until(lambda: link(edge)["device"]["state"] == "linked", "the registry takes the certificate")
    wait_until(lambda: link(edge)["up"], "the hub is linked, too")
    assert link(edge)["device"]["deviceId"] == device_id
    # The identities of its modules were made there by the certificate alone: no key of the device exists.
    assert modules_in_cloud(cloud, device_id) >= {"$edgeAgent", "$edgeHub", "sensor", "filter"}
    shown = cloud.ask("device", "show", device_id)
    assert shown["authentication"]["type"] == "selfSigned"
    assert json.loads((edge.home / "provisioned.json").read_text())["deviceKey"] == ""


def test_another_certificate_is_used_without_a_restart_and_a_bad_one_stops_nothing(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path
) -> None:
    first, second = issue("gw-r"), issue("gw-r")
    files = [tmp_path / "first.pem", tmp_path / "second.pem"]
    for path, pair in zip(files, (first, second), strict=True):
        path.write_text(pair.pem)
    cloud.do(
        "enrollment", "create", "gw-r", "--edge", *(part for path in files for part in ("--x509", str(path)))
    )
    cert, _ = written(first, tmp_path, "id")
    start_with(edge, tmp_path, dps_config(cloud, (cert, cert.with_suffix(".key"))))
    wait_until(lambda: link(edge)["device"]["state"] == "linked", "the edge is linked")

    cert.write_text(second.pem)  # its key is to come
    refresh_scope(edge.home)

    said = "the certificate of this device cannot be used (KEY_VALUES_MISMATCH)"
    wait_until(lambda: said in link(edge)["device"]["reason"], "it is told")
    edge.stop()
    edge.start()  # what is local goes on, also after a power cut
    assert "does not belong to the first certificate" in edge.output.read_text()
    written(second, tmp_path, "id")
    refresh_scope(edge.home)
    wait_until(lambda: link(edge)["device"]["state"] == "linked", "the edge is linked with the new one")


def test_an_edge_by_hand_with_a_certificate_is_linked(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path
) -> None:
    pair = issue("gw-m")
    (tmp_path / "own.pem").write_text(pair.pem)
    cloud.do("device", "create", "gw-m", "--edge", "--x509", str(tmp_path / "own.pem"))
    cert, key = written(pair, tmp_path, "id")

    start_with(
        edge,
        tmp_path,
        f"""
[provisioning]
source = "manual"
iothub_hostname = "{cloud.address}"
device_id = "gw-m"

[provisioning.authentication]
method = "x509"
identity_cert = "file://{cert}"
identity_pk = "file://{key}"

[cloud]
ca = "file://{cloud.ca_file}"
https_port = {serving(cloud)["httpsPort"]}
""",
    )

    wait_until(lambda: link(edge)["device"]["state"] == "linked", "the registry takes the certificate")
    assert link(edge)["device"]["deviceId"] == "gw-m"


def test_a_certificate_that_is_not_enrolled_is_refused_with_the_way_out(
    edge: EdgeProgram, cloud: CloudProgram, tmp_path: Path
) -> None:
    cert, key = written(issue("gw-x"), tmp_path, "id")
    source = tmp_path / "config.toml"
    source.write_text(dps_config(cloud, (cert, key)))
    assert edge.run("config", "apply", "-c", str(source)).returncode == 0
    edge.environment.pop("EDGE_ACTORS_DEVICE_ID", None)

    refused = edge.run("run")

    assert refused.returncode == 2
    assert "refuses registration 'gw-x'" in refused.stderr
    assert "registration_id and the certificate with the enrollment" in refused.stderr
    assert not (edge.home / "provisioned.json").exists()


# the edge CA


def served_by(edge: EdgeProgram, root: KeyPair) -> str:
    """Return the issuer of what the hub shows to a client that trusts nothing but this root."""
    context = ssl.create_default_context(cadata=root.pem)
    with (
        socket.create_connection((edge.address, 8883), 10) as connected,
        context.wrap_socket(connected, server_hostname=edge.address) as secured,
    ):
        shown = secured.getpeercert() or {}
    return str(dict(part[0] for part in shown["issuer"])["commonName"])


def delivered(edge: EdgeProgram) -> int:
    entries = edge.json("ledger")["endpoints"].values()
    return sum(entry["delivered"] for entry in entries)


def look_at_certificates(edge: EdgeProgram) -> None:
    """Have the edge do at once what it does each minute."""
    with Client.outside(RunDirectory.of(edge.home).path) as client:
        client.tell(SECURITY, RenewalDue())


def test_an_edge_ca_from_files_signs_for_the_hub_and_is_exchanged_while_the_edge_runs(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    root, other_root = issue("plant root", is_ca=True), issue("plant root 2", is_ca=True)
    first = issue("edge CA of gw", root, is_ca=True)
    second = issue("edge CA of gw 2", other_root, is_ca=True)
    cert, key = written(first, tmp_path, "ca", root)
    start_with(edge, tmp_path, f'[edge_ca]\ncert = "file://{cert}"\npk = "file://{key}"\n')
    wait_until(lambda: delivered(edge) > 0, "modules trust it, and messages flow")
    assert served_by(edge, root) == "edge CA of gw"
    hub, sensor = (edge.modules()[name]["pid"] for name in ("edgeHub", "sensor"))

    written(second, tmp_path, "ca", other_root)
    look_at_certificates(edge)

    wait_until(lambda: edge.modules()["sensor"]["pid"] not in (0, None, sensor), "modules are started again")
    assert served_by(edge, other_root) == "edge CA of gw 2"
    assert edge.modules()["edgeHub"]["pid"] == hub
    before = delivered(edge)
    wait_until(lambda: delivered(edge) > before, "messages flow again")
    shown = {(one["use"], one["positionInChain"]): one for one in edge.json("cert", "show")}
    assert shown["edge CA", 0]["subject"] == "CN=edge CA of gw 2"
    assert shown["edge CA", 1]["subject"] == "CN=plant root 2"
    assert shown["hub", 0]["issuer"] == "CN=edge CA of gw 2"
    assert edge.address in shown["hub", 0]["names"]
    assert shown["edge CA", 0]["daysLeft"] == 29
    assert "edge CA of gw 2" in edge.run("cert", "show").stdout
    assert edge.run("cert", "show", "--pem").stdout == second.pem + other_root.pem


def test_files_that_went_wrong_while_the_edge_runs_are_told_and_the_hub_goes_on(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    root = issue("plant root", is_ca=True)
    cert, key = written(root, tmp_path, "ca")
    start_with(edge, tmp_path, f'[edge_ca]\ncert = "{cert}"\npk = "{key}"\n')

    cert.write_text(issue("other", is_ca=True).pem)
    look_at_certificates(edge)

    said = "certificates cannot be renewed, tried again in an hour"
    wait_until(lambda: said in edge.output.read_text(), "it is told")
    assert "does not belong to the first certificate" in edge.output.read_text()
    assert served_by(edge, root) == "plant root"


@pytest.mark.slow
def test_an_edge_ca_of_its_own_that_is_due_is_renewed_while_the_edge_runs(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    start_with(edge, tmp_path, "[edge_ca]\nexpiry_days = 60\ncommon_name = 'CA of gw'\n")
    hub, sensor = (edge.modules()[name]["pid"] for name in ("edgeHub", "sensor"))
    [made] = [one for one in edge.json("cert", "show") if one["use"] == "edge CA"]
    assert (made["subject"], made["daysLeft"]) == ("CN=CA of gw", 59)
    # As if 59 days had passed: 80 % of its life are over.
    plan = CaPlan("CA of gw", 60)
    old = ensure_edge_ca(tmp_path / "old", "edge1", time.time() - 59 * 86_400, plan)
    (edge.home / "certificates" / "edge-ca.pem").write_bytes(old.path.read_bytes())

    look_at_certificates(edge)

    wait_until(lambda: edge.modules()["sensor"]["pid"] not in (0, None, sensor), "modules are started again")
    [renewed] = [one for one in edge.json("cert", "show") if one["use"] == "edge CA"]
    assert renewed["daysLeft"] == 59
    assert renewed["thumbprint"] not in (made["thumbprint"], "")
    pem = edge.run("cert", "show", "--pem").stdout
    context = ssl.create_default_context(cadata=pem)
    with (
        socket.create_connection((edge.address, 8883), 10) as connected,
        context.wrap_socket(connected, server_hostname=edge.address),
    ):
        assert edge.modules()["edgeHub"]["pid"] == hub
    before = delivered(edge)
    wait_until(lambda: delivered(edge) > before, "messages flow again")


# an edge that runs


def test_apply_has_an_edge_that_runs_start_anew_in_the_same_process(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    start_with(edge, tmp_path, 'log_level = "info"\n')
    assert edge.process is not None
    assert " [actors." not in edge.output.read_text()
    sensor = edge.modules()["sensor"]["pid"]
    source = tmp_path / "config.toml"

    source.write_text('log_level = "debug"\n[modules]\nstop_grace_s = 4\n')
    assert edge.json("config", "apply", "-c", str(source))["edgeStartsAnew"]

    def is_back() -> bool:
        pid = edge.modules().get("sensor", {}).get("pid")
        return pid not in (0, None, sensor)

    wait_until(is_back, "its modules are back")
    assert edge.process.poll() is None
    assert "starting anew with other settings" in edge.output.read_text()
    assert " [actors." in edge.output.read_text()  # at debug, lines name who wrote them
    assert not edge.json("config", "apply", "-c", str(source))["edgeStartsAnew"]  # it is in force already


def test_settings_that_are_wrong_for_the_edge_that_runs_leave_it_alone(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    edge.environment["EDGE_ACTORS_STOP_GRACE_S"] = "5"
    start_with(edge, tmp_path, "[modules]\nstop_grace_s = 3\n")
    sensor = edge.modules()["sensor"]["pid"]
    source = tmp_path / "config.toml"
    source.write_text("[modules]\nstop_grace_s = -3\n")

    refused = edge.run("config", "apply", "-c", str(source))

    assert refused.returncode == 2
    assert f"{source}:2: modules.stop_grace_s = -3 is not allowed" in refused.stderr
    assert edge.modules()["sensor"]["pid"] == sensor
    assert "stop_grace_s = 3" in (edge.home / "config.toml").read_text()


def test_what_the_edge_that_runs_refuses_is_not_in_force_afterwards(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    edge.environment["EDGE_ACTORS_EDGE_CA_EXPIRY_DAYS"] = "30"
    start_with(edge, tmp_path, "[modules]\nstop_grace_s = 3\n")
    sensor = edge.modules()["sensor"]["pid"]
    del edge.environment["EDGE_ACTORS_EDGE_CA_EXPIRY_DAYS"]  # who applies knows nothing of it
    cert, key = written(issue("plant root", is_ca=True), tmp_path, "ca")
    source = tmp_path / "config.toml"
    source.write_text(f'[edge_ca]\ncert = "{cert}"\npk = "{key}"\n')

    refused = edge.run("config", "apply", "-c", str(source))

    assert refused.returncode == 2
    assert "it goes on with its old settings" in refused.stderr
    assert "EDGE_ACTORS_EDGE_CA_EXPIRY_DAYS is for an edge CA that the edge makes itself" in refused.stderr
    assert edge.modules()["sensor"]["pid"] == sensor
    assert (edge.home / "config.toml").read_text() == "[modules]\nstop_grace_s = 3\n"
