from __future__ import annotations

from pathlib import Path

import pytest

from messaging.errors import EnvironmentFault
from runtime.home_place import FILE, came_from_elsewhere


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    made = tmp_path / "machine-id"
    made.write_text("a\n")
    return made


def test_a_home_that_stays_is_never_noticed(home: Path, machine: Path) -> None:
    assert [came_from_elsewhere(home, machine) for _ in range(3)] == [False, False, False]


def test_a_home_on_another_machine_is_noticed_once(home: Path, machine: Path) -> None:
    came_from_elsewhere(home, machine)
    machine.write_text("b\n")

    assert came_from_elsewhere(home, machine)
    assert not came_from_elsewhere(home, machine)


def test_a_home_in_another_folder_is_noticed_once(home: Path, machine: Path) -> None:
    came_from_elsewhere(home, machine)
    moved = home.rename(home.with_name("moved"))

    assert came_from_elsewhere(moved, machine)
    assert not came_from_elsewhere(moved, machine)


def test_a_home_under_another_name_of_the_same_folder_stays(home: Path, machine: Path) -> None:
    came_from_elsewhere(home, machine)
    link = home.with_name("link")
    link.symlink_to(home)

    assert not came_from_elsewhere(link, machine)


def test_a_machine_without_an_id_is_told_by_the_path_alone(home: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    assert not came_from_elsewhere(home, missing)
    assert not came_from_elsewhere(home, missing)


def test_the_machines_id_is_not_written_down(home: Path, machine: Path) -> None:
    machine.write_text("0123456789abcdef0123456789abcdef\n")

    came_from_elsewhere(home, machine)

    assert "0123456789abcdef" not in (home / FILE).read_text()


def test_a_home_that_cannot_be_written_is_told(home: Path, machine: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot write"):
        came_from_elsewhere(home / "missing", machine)
