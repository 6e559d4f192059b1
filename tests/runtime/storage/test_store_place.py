"""Where messages are kept: a folder that was named is used or refused, never replaced."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.hub import config as hub_config
from actors.manifest.deployment import parse_deployment
from messaging.errors import ConfigError, EnvironmentFault
from runtime.agent.hub_settings import hub_settings
from runtime.config.reader import read_settings
from runtime.edge import run_edge
from runtime.home import Home
from runtime.storage.message_db import MessageDb
from runtime.storage.store_place import check_folder, chosen_folder, database_in, database_of, purge
from tests.actors.manifests import AGENT, HUB, manifest_text

EDGE_HUB_ENV = (*AGENT, "systemModules", "edgeHub", "env")


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        pytest.param(None, {}, None, id="the home"),
        pytest.param(None, {"StorageFolder": "/mnt/m"}, Path("/mnt/m"), id="of the deployment"),
        pytest.param(None, {"storagefolder": "/mnt/m"}, Path("/mnt/m"), id="in any case"),
        pytest.param(None, {"StorageFolder": ""}, None, id="empty"),
        pytest.param(Path("/data"), {"StorageFolder": "/mnt/m"}, Path("/data"), id="the device decides"),
    ],
)
def test_the_setting_goes_before_the_deployment_and_that_before_the_home(
    setting: Path | None, environment: dict[str, str], expected: Path | None
) -> None:
    assert chosen_folder(setting, environment)[0] == expected


def test_a_relative_storage_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="StorageFolder: 'data' is not an absolute path"):
        chosen_folder(None, {"StorageFolder": "data"})


def a_file(folder: Path) -> None:
    folder.write_text("")


def nothing(folder: Path) -> None:
    pass


def read_only(folder: Path) -> None:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a read-only file system")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(nothing, "does not exist", id="missing"),
        pytest.param(a_file, "is not a folder", id="a file"),
        pytest.param(read_only, "cannot be written: Read-only file system", id="read-only"),
    ],
)
def test_a_folder_that_cannot_hold_messages_is_refused_before_anything_runs(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    folder, home = tmp_path / "messages", tmp_path / "home"
    make(folder)
    deployment = tmp_path / "d.json"
    deployment.write_text(manifest_text((EDGE_HUB_ENV, {"StorageFolder": {"value": str(folder)}})))
    settings = read_settings({"home": str(home)}, {}, host_name="box")

    try:
        with pytest.raises(EnvironmentFault) as refused:
            run_edge(settings, deployment)
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)

    assert f"StorageFolder in the deployment names '{folder}', which {said}" in str(refused.value)
    assert "messages are kept nowhere else" in str(refused.value)
    assert not home.exists()


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folder(tmp_path, "the setting")

    assert list(tmp_path.iterdir()) == []


def test_the_hub_is_told_place_limit_and_policy(tmp_path: Path) -> None:
    limits = {"maxSizeBytes": 5_000_000, "whenFull": "dropOldest"}
    text = manifest_text(((*HUB, "storeAndForwardConfiguration", "storeLimits"), limits))
    environment = {"EDGE_ACTORS_STORAGE_FOLDER": str(tmp_path)}
    settings = read_settings({"home": str(tmp_path / "home")}, environment, host_name="box")

    config = hub_settings(settings, parse_deployment(text, "d.json"), tmp_path / "server.pem")

    assert config.message_db == str(tmp_path / "edgeHub/hub.db")
    assert (config.max_store_bytes, config.drops_oldest) == (5_000_000, True)


def test_commands_find_the_database_where_the_hub_was_told_to_keep_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    before = database_of(home)
    settings = read_settings({"home": str(home.path), "storage_folder": str(tmp_path)}, {}, host_name="box")
    config = hub_settings(settings, parse_deployment(manifest_text(), "d.json"), tmp_path / "server.pem")
    home.hub_config.write_bytes(hub_config.encode(config))

    assert before == home.message_db
    assert database_of(home) == tmp_path / "edgeHub/hub.db"


def test_purging_removes_the_database_from_a_storage_folder_and_nothing_else(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    database = database_in(tmp_path / "disk", home)
    database.parent.mkdir(parents=True)
    MessageDb.open(database).close()
    (database.parent / "hub.db-quarantine-1").mkdir()
    (database.parent / "hub.db-quarantine-1/hub.db").write_text("damaged")
    for name in ("broker.db", "broker.db-wal", "bridge.db"):
        (database.parent / name).write_text("what the broker and its bridges keep")
    (tmp_path / "disk/photo").write_text("mine")

    purge(database, home)

    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["photo"]
