"""What the Debian package is made from, as far as that can be judged without making it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.machine import system_service

ROOT = Path(__file__).parents[2]
FILES = ROOT / "scripts" / "debian"
UNIT = FILES / "edge-actors.service"
SHELL = [FILES / "postinst", FILES / "prerm", FILES / "postrm", ROOT / "scripts" / "deb"]
MOST_EXPOSED = 25  # tenths, of 100; up to 30 `systemd-analyze security` calls it OK


def settings(unit: Path = UNIT) -> dict[str, str]:
    """Return what the unit says of the service, the last of each name."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return dict(parser["Service"])


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_are_good_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is missing; install it: apt-get install shellcheck")

    done = subprocess.run(["shellcheck", "-s", "sh", script], capture_output=True, text=True, check=False)

    assert done.stdout == ""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing; install it: apt-get install systemd")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"}
    )


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    program = settings()["ExecStart"].split()[0]
    here.write_text(UNIT.read_text().replace(program, "/bin/true"))  # it is not installed on this machine

    done = analyze("verify", "--man=no", str(here))

    assert UNIT.name not in done.stderr, done.stderr


def test_the_service_is_no_more_exposed_than_its_work_demands() -> None:
    done = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", str(UNIT))

    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_unit_and_the_program_agree_on_user_and_folders() -> None:
    unit = settings()

    assert unit["User"] == system_service.USER
    assert Path("/var/lib", unit["StateDirectory"]) == system_service.HOME
    assert Path("/run", unit["RuntimeDirectory"]) == system_service.RUN


def test_modules_outlive_an_agent_that_was_killed() -> None:
    unit = settings()

    assert unit["KillMode"] == "process"
    assert unit["RuntimeDirectoryPreserve"] == "yes", "the next agent would not find what it is to take over"
    assert unit["OOMPolicy"] == "continue", "a module without memory would end all the others"


def test_every_tool_that_makes_the_package_has_an_exact_version() -> None:
    lines = [line for line in (FILES / "tools.txt").read_text().splitlines() if not line.startswith("#")]

    assert lines
    assert [line for line in lines if not re.fullmatch(r"[a-z]+==[0-9.]+", line)] == []


def test_purging_removes_what_the_package_and_the_service_made() -> None:
    purge = (FILES / "postrm").read_text().partition("purge)")[2]

    for path in (system_service.HOME, system_service.RUN, Path("/etc/edge-actors")):
        assert str(path) in purge
    assert f"userdel {system_service.USER}" in purge
