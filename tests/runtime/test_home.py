import os
from pathlib import Path

import pytest

from runtime.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    (made / "logs").mkdir(parents=True)
    (made / "certificates").mkdir()
    for name in (
        "device.json",
        "place",
        "hub.db",
        "hub.db-wal",
        "upstream.jsonl",
        "logs/sensor.log",
        "certificates/x.pem",
    ):
        (made / name).write_text("x")
    return made


def test_purge_removes_all_that_the_edge_made_and_the_home(home: Path) -> None:
    assert Home(home).purge() == []
    assert not home.exists()


def test_purge_keeps_what_is_not_the_edges_and_names_it(home: Path) -> None:
    (home / "thesis.tex").write_text("mine")
    (home / "photos").mkdir()

    assert Home(home).purge() == ["photos", "thesis.tex"]
    assert sorted(path.name for path in home.iterdir()) == ["photos", "thesis.tex"]


def test_purge_of_a_home_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert Home(tmp_path / "none").purge() is None


def test_purge_does_not_follow_links_out_of_the_home(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (home / "deployment.sealed").symlink_to(outside / "kept")
    (home / "logs" / "link").symlink_to(outside)

    assert Home(home).purge() == []
    assert (outside / "kept").read_text() == "kept"


def test_purge_of_a_linked_home_removes_folder_and_link(home: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(home)

    assert Home(link).purge() == []
    assert not link.is_symlink()
    assert not home.exists()


def test_logs_are_called_by_the_names_that_users_know(home: Path) -> None:
    (home / "logs" / "edge-actors.log").write_text("")
    (home / "logs" / "edge-actors.log.1").write_text("")

    assert Home(home).log_names() == ["edgeAgent", "sensor"]
    assert Home(home).log_of("edgeAgent") == home / "logs" / "edge-actors.log"
    assert Home(home).log_of("sensor") == home / "logs" / "sensor.log"


def test_a_home_that_was_never_run_has_no_logs(tmp_path: Path) -> None:
    assert Home(tmp_path / "none").log_names() == []


def test_what_the_edge_made_is_closed_to_others_and_nothing_else(home: Path) -> None:
    (home / "thesis.tex").write_text("mine")
    (home / "module-data").mkdir()
    for path in (home / "hub.db", home / "thesis.tex"):
        path.chmod(0o644)
    for path in (home / "logs", home / "module-data"):
        path.chmod(0o711)

    Home(home).close_entries()

    modes = {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}
    assert {name: f"{modes[name]:o}" for name in ("hub.db", "thesis.tex", "logs", "module-data")} == {
        "hub.db": "600",
        "thesis.tex": "644",
        "logs": "700",
        "module-data": "711",
    }
    assert Home(home).foreign() == ["thesis.tex"]


def test_a_file_that_goes_while_the_home_is_closed_is_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Home._entries

    def then_one_goes(self: Home) -> list[os.DirEntry[str]]:
        entries = listed(self)
        (home / "hub.db-wal").unlink()
        return entries

    monkeypatch.setattr(Home, "_entries", then_one_goes)
    (home / "hub.db").chmod(0o644)

    Home(home).close_entries()

    assert (home / "hub.db").stat().st_mode & 0o777 == 0o600


def test_the_home_of_the_stand_in_is_kept_and_nobody_elses_while_it_is_closed(home: Path) -> None:
    cloud = home / "cloud"
    cloud.mkdir(mode=0o700)

    closed = Home(home).foreign()
    cloud.chmod(0o755)
    opened = Home(home).foreign()

    assert (closed, opened) == ([], ["cloud"])
    assert Home(home).purge() == ["cloud"]
    assert cloud.is_dir()
