"""The last good deployment on disk."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from actors.agent.deployment_keeper import KeptDeployment
from actors.agent.process_permission import Origin
from messaging.errors import ConfigError, EnvironmentFault
from runtime.agent.deployments import choose
from runtime.agent.embedded_cloud import SAMPLE
from runtime.agent.last_deployment import LastDeployment
from runtime.config.reader import read_settings
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.security.key_store import KeyStore
from tests.actors.manifests import AGENT, manifest

MODULES = (*AGENT, "modules")
KEPT = KeptDeployment(7, b'{"modules": "secret"}', 3, b'{"routes": {}}')


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore.ensure(Home(tmp_path).keys, "edge1", 1_700_000_000.0)


@pytest.fixture
def last(tmp_path: Path, keys: KeyStore) -> LastDeployment:
    return LastDeployment(Home(tmp_path).last_deployment, keys)


def test_what_is_kept_is_read_by_the_next_start_and_by_nobody_else(
    tmp_path: Path, last: LastDeployment
) -> None:
    """Source: agent.md section 8, row 96."""
    last.keep(KEPT)

    again = LastDeployment(Home(tmp_path).last_deployment, KeyStore.open(Home(tmp_path).keys))
    assert again.load() == KEPT
    content = Home(tmp_path).last_deployment.read_bytes()
    assert b"secret" not in content
    assert b"routes" not in content
    assert stat.S_IMODE(Home(tmp_path).last_deployment.stat().st_mode) == 0o600


def test_the_same_deployment_looks_different_each_time(tmp_path: Path, last: LastDeployment) -> None:
    last.keep(KEPT)
    first = Home(tmp_path).last_deployment.read_bytes()
    last.keep(KEPT)

    assert Home(tmp_path).last_deployment.read_bytes() != first


def test_without_a_file_there_is_nothing(last: LastDeployment) -> None:
    assert last.load() is None


@pytest.mark.parametrize("at", [0, 1, 20, -1])
def test_a_file_that_was_altered_is_not_used_and_that_is_said(
    tmp_path: Path, last: LastDeployment, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: agent.md section 8, rows 40 and 95."""
    last.keep(KEPT)
    path = Home(tmp_path).last_deployment
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)

    assert last.load() is None
    assert "the edge waits for the cloud's deployment" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x01" + bytes(12)])
def test_a_file_that_was_cut_short_is_not_used(tmp_path: Path, last: LastDeployment, content: bytes) -> None:
    Home(tmp_path).last_deployment.write_bytes(content)

    assert last.load() is None


def test_a_file_of_another_edge_is_not_used(tmp_path: Path, last: LastDeployment) -> None:
    last.keep(KEPT)
    other = KeyStore.ensure(tmp_path / "other.json", "edge1", 1_700_000_000.0)

    assert LastDeployment(Home(tmp_path).last_deployment, other).load() is None


def test_a_file_that_cannot_be_written_is_a_fault_with_its_reason(keys: KeyStore, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"cannot write '.*deployment\.sealed'"):
        LastDeployment(tmp_path / "gone" / "deployment.sealed", keys).keep(KEPT)


# what an edge starts with


def settings(home: Path, **options: str) -> Settings:
    return read_settings({"home": str(home), **options}, {}, host_name="box")


def kept(*changes: tuple[tuple[str, ...], object]) -> KeptDeployment:
    contents = manifest(*changes)["modulesContent"]
    agent, hub = (json.dumps(contents[name]["properties.desired"]) for name in ("$edgeAgent", "$edgeHub"))
    return KeptDeployment(7, agent.encode(), 3, hub.encode())


def test_an_edge_without_a_file_starts_with_what_the_cloud_sent_last(
    tmp_path: Path, last: LastDeployment
) -> None:
    last.keep(kept((MODULES, {})))

    chosen = choose(settings(tmp_path), None, has_cloud=True)

    assert chosen.kept == kept((MODULES, {}))
    assert (chosen.file_name, chosen.folder) == ("", tmp_path)
    assert [*chosen.deployment.hub.routes] == ["up", "hot"]
    assert chosen.deployment.edge_hub is not None
    assert chosen.deployment.twins == {}


def test_what_this_device_does_not_allow_any_more_does_not_start(
    tmp_path: Path, last: LastDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    module = {"type": "process", "status": "running", "settings": {"command": ["/bin/rm"]}}
    last.keep(kept((MODULES, {"x": module})))

    chosen = choose(settings(tmp_path), None, has_cloud=True)

    assert (chosen.kept, dict(chosen.deployment.supervised)) == (None, {})
    assert "this device does not allow the command '/bin/rm'" in caplog.text


def test_an_edge_that_has_nothing_yet_waits(tmp_path: Path) -> None:
    chosen = choose(settings(tmp_path), None, has_cloud=True)

    assert dict(chosen.deployment.supervised) == {}
    assert (chosen.file_name, chosen.kept) == ("", None)


def test_an_edge_with_a_new_stand_in_starts_with_what_that_is_about_to_be_given(tmp_path: Path) -> None:
    chosen = choose(settings(tmp_path), None, has_cloud=True, origin=Origin.LOCAL, first=SAMPLE)

    assert set(chosen.deployment.modules) == {"filter", "sensor"}
    assert [*chosen.deployment.hub.routes]
    assert chosen.kept is not None
    assert chosen.kept.agent_version == 0  # the link tells which one it is in the twin


def test_an_edge_with_neither_a_file_nor_a_cloud_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a manifest with --deployment, or connect this edge"):
        choose(settings(tmp_path), None, has_cloud=False)
