from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from actors.hub.identity import HubIdentity
from messaging.envelope import Secret
from messaging.errors import ConfigError
from runtime.agent.security import EdgeSecurity
from runtime.home import Home
from runtime.machine import process_table
from runtime.modules.environment import EdgeNames
from runtime.upstream.provisioning import Provisioned
from runtime.upstream.scope_file import ScopeFile
from tests.runtime.client_certificates import make_signer

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


@pytest.fixture
def security(run_dir: Path) -> Iterator[EdgeSecurity]:
    made = make(run_dir)
    yield made
    made.close()


def make(
    run_dir: Path,
    image_of: Callable[[str], str | None] = lambda name: None,
    trusted_pem: str = "",
    provisioned: Provisioned | None = None,
) -> EdgeSecurity:
    return EdgeSecurity(
        Home(run_dir / "home"),
        run_dir,
        names=EdgeNames("edge1", "hub.example", "localhost"),
        server_names=("localhost", "edgeHub"),
        process_of=lambda name: None,
        trusted_pem=trusted_pem,
        image_of=image_of,
        now_s=lambda: NOW_S,
        provisioned=provisioned,
    )


def test_a_module_gets_an_identity_and_a_socket_of_its_own(security: EdgeSecurity, run_dir: Path) -> None:
    access = security.ensure_module("sensor", NOW_S)

    assert access.workload_uri == f"unix://{run_dir}/w/sensor/workload.sock"
    assert (run_dir / "w" / "sensor" / "workload.sock").is_socket()
    assert security.ensure_module("sensor", NOW_S + 1) == access
    assert [identity.id for identity in security.identities().identities] == [
        "edge1", "edge1/$edgeAgent", "edge1/$edgeHub", "edge1/sensor",
    ]  # fmt: skip


def test_a_module_runs_by_hand_while_a_process_lives(security: EdgeSecurity, run_dir: Path) -> None:
    access = security.ensure_module("sensor", NOW_S)
    with subprocess.Popen(["sleep", "1000"]) as process:
        stat = process_table.read_stat(process.pid)
        assert stat is not None

        opened = security.open_debug("sensor", process.pid, stat.start_ticks)

        path = Path(opened.environment["IOTEDGE_WORKLOADURI"].removeprefix("unix://"))
        assert (path.is_socket(), path.parent.parent) == (True, run_dir / "d")
        assert path.stat().st_mode & 0o777 == 0o600
        assert opened.environment["IOTEDGE_MODULEGENERATIONID"] == access.generation_id
        assert opened.environment["IOTEDGE_DEVICEID"] == "edge1"
        assert Path(opened.ca_file).read_text().startswith("-----BEGIN CERTIFICATE-----")
        with pytest.raises(ConfigError, match=f"process {process.pid}, .* has ended"):
            security.open_debug("sensor", process.pid, stat.start_ticks + 1)
        process.kill()
    with pytest.raises(ConfigError, match="there is no identity of module 'pump'"):
        security.open_debug("pump", os.getpid(), 0)


def test_a_module_that_is_forgotten_has_no_identity_and_no_socket(
    security: EdgeSecurity, run_dir: Path
) -> None:
    before = security.ensure_module("sensor", NOW_S)

    security.forget_module("sensor")
    security.forget_module("never-there")
    security.forget_module("edgeHub")

    assert [identity.id for identity in security.identities().identities] == [
        "edge1",
        "edge1/$edgeAgent",
        "edge1/$edgeHub",
    ]
    assert not (run_dir / "w" / "sensor").exists()
    assert security.ensure_module("sensor", NOW_S).generation_id != before.generation_id


def test_identities_are_the_same_for_the_next_agent(security: EdgeSecurity, run_dir: Path) -> None:
    security.ensure_module("sensor", NOW_S)
    before = security.identities()

    assert make(run_dir).identities() == before


def test_a_device_is_made_once_and_found_again(security: EdgeSecurity) -> None:
    made = security.create_device("leaf1", "sas", (), NOW_S)

    assert security.device("leaf1") == made
    *_, leaf = security.identities().identities
    assert (leaf.id, leaf.keys, leaf.enabled) == ("leaf1", (made.primary_key, made.secondary_key), True)
    with pytest.raises(ConfigError, match="'leaf1' exists already"):
        security.create_device("leaf1", "sas", (), NOW_S)


def test_the_hub_is_told_types_scopes_and_the_authorities_to_trust(run_dir: Path) -> None:
    root = make_signer("root").certificate
    security = make(run_dir, trusted_pem=root.public_bytes(Encoding.PEM).decode())
    security.ensure_module("sensor", NOW_S)
    security.create_device("leaf1", "selfSigned", ("a" * 64,), NOW_S)

    known = security.identities()

    edge, *_, module, leaf = known.identities
    assert edge.device_scope.startswith("ms-azure-iot-edge://edge1-")
    assert (module.device_scope, module.parent_scopes, len(module.keys)) == ("", (), 2)
    assert (leaf.auth_type, leaf.keys, leaf.thumbprints) == ("selfSigned", (), ("A" * 64,))
    assert (leaf.device_scope, leaf.parent_scopes) == (edge.device_scope, (edge.device_scope,))
    edge_ca, trusted = known.authorities
    assert x509.load_der_x509_certificate(edge_ca).subject.rfc4514_string() == "CN=aziot-edge CA edge1"
    assert trusted == root.public_bytes(Encoding.DER)


def test_the_edge_itself_is_no_device_behind_it(security: EdgeSecurity) -> None:
    assert security.device("edge1") is None
    assert security.device("nobody") is None


def test_keys_do_not_show_themselves(security: EdgeSecurity) -> None:
    assert repr(security.identities().identities[0].keys[0]) == "Secret(***)"
    assert isinstance(security.create_device("leaf1", "sas", (), NOW_S).primary_key, Secret)


def test_certificates_are_renewed_when_due_and_only_then(security: EdgeSecurity) -> None:
    first = security.certificate_file.read_bytes()
    assert NOW_S + 20 * DAY_S < security.renew_at_s() < NOW_S + 30 * DAY_S
    assert not security.renew_certificates(NOW_S + 1)
    due_s = security.renew_at_s() + 1

    assert security.renew_certificates(due_s)

    assert security.certificate_file.read_bytes() != first
    assert security.renew_at_s() > due_s


def test_whoever_asks_is_told_which_modules_are_containers(run_dir: Path) -> None:
    security = make(run_dir, image_of={"pump": "pump:1"}.get)
    for name in ("pump", "sensor", "edgeHub"):
        security.note_module(name, "running", NOW_S, None)

    told = [(module.name, module.type, module.image) for module in security.states()]

    assert told == [("edgeHub", "docker", ""), ("pump", "docker", "pump:1"), ("sensor", "process", "")]
    security.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]"], ids=["empty", "cut off", "something else"])
def test_who_is_known_is_not_all_when_the_list_of_the_cloud_is_damaged(
    run_dir: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    linked = Provisioned("hub.example", "edge1", Secret(b"a2V5"))
    scope = Home(run_dir / "home").scope
    scope.parent.mkdir()
    ScopeFile(scope).replace(NOW_S, [HubIdentity("leaf")])
    first = make(run_dir, provisioned=linked)
    assert first.identities().is_whole
    first.close()
    scope.write_bytes(content)

    second = make(run_dir, provisioned=linked)

    assert not second.identities().is_whole
    assert "the hub's copy counts until the cloud answers" in caplog.text
    second.close()
