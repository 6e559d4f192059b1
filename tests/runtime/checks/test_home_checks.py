"""Checks of settings and certificates of a home, where an edge need not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from runtime.checks.home_checks import (
    edge_ca_lasts,
    identity_certificate_lasts,
    keys_belong_to_certificates,
    settings_are_in_force,
    settings_are_well_formed,
)
from runtime.checks.outcome import Result
from runtime.checks.scene import Options, Scene
from runtime.config import apply
from runtime.security import certificate_issue


def scene_of(home: Path, **environment: str) -> Scene:
    scene = Scene(home, Options(environment={f"EDGE_ACTORS_{k.upper()}": v for k, v in environment.items()}))
    settings_are_well_formed(scene)
    return scene


def write_ca(folder: Path, valid_days: int) -> tuple[Path, Path]:
    """Write an edge CA as an operator supplies it: certificate and key apart."""
    issued = certificate_issue.issue_ca("site CA", time.time(), valid_days)
    cert, key = folder / "ca.pem", folder / "ca.key"
    cert.write_text(issued.chain_pem)
    key.write_text(issued.private_key_pem)
    key.chmod(0o600)
    return cert, key


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a user edits."""
    path = tmp_path / "config.toml"
    monkeypatch.setattr(apply, "default_file", lambda: path)
    return path


def test_a_file_that_is_not_in_force_is_told(tmp_path: Path, edited: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    assert settings_are_in_force(scene_of(home)).result is Result.IGNORED

    edited.write_text('log_level = "info"\n')
    found = settings_are_in_force(scene_of(home))
    assert found.result is Result.WARNING
    assert "`edge-actors config apply`" in found.details[0]

    apply.apply(edited, home, lambda: None)
    assert settings_are_in_force(scene_of(home)).result is Result.OK
    edited.write_text('log_level = "debug"\n')
    assert settings_are_in_force(scene_of(home)).result is Result.WARNING


def test_a_file_with_mistakes_is_an_error_that_tells_them_all(tmp_path: Path, edited: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('log_levl = "info"\nstop_grace_s = "x"\n')

    found = settings_are_well_formed(Scene(home, Options(environment={})))

    assert found.result is Result.ERROR
    assert len(found.details) == 2
    assert all("config.toml" in detail for detail in found.details)


@pytest.mark.parametrize(("valid_days", "result"), [(90, Result.OK), (5, Result.WARNING)])
def test_an_edge_ca_of_the_operator_is_told_seven_days_ahead(
    valid_days: int, result: Result, tmp_path: Path, edited: Path
) -> None:
    cert, key = write_ca(tmp_path, valid_days)
    scene = scene_of(tmp_path / "home", edge_ca_cert=str(cert), edge_ca_pk=str(key))

    found = edge_ca_lasts(scene)

    assert found.result is result, found
    assert (result is Result.OK) or f"put a new one with its key in the place of '{cert}'" in found.details[0]
    assert keys_belong_to_certificates(scene).result is Result.OK


def test_a_key_that_is_not_the_edge_cas_is_an_error_of_the_settings(tmp_path: Path, edited: Path) -> None:
    cert, key = write_ca(tmp_path, 90)
    other = certificate_issue.issue_ca("other", time.time(), 90)
    key.write_text(other.private_key_pem)
    environment = {"EDGE_ACTORS_EDGE_CA_CERT": str(cert), "EDGE_ACTORS_EDGE_CA_PK": str(key)}

    found = settings_are_well_formed(Scene(tmp_path / "home", Options(environment=environment)))

    assert found.result is Result.ERROR
    assert str(key) in found.details[0]


def test_a_device_with_a_key_has_no_certificate_that_could_expire(tmp_path: Path, edited: Path) -> None:
    assert identity_certificate_lasts(scene_of(tmp_path / "home")).result is Result.IGNORED


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the home to somebody else")
@pytest.mark.parametrize("command", ["check", "support-bundle", "system status", "system logs"])
def test_a_home_of_somebody_else_is_told_with_the_way_out(command: str, tmp_path: Path) -> None:
    """Root without the right to look everywhere stands for a user who is not the edge's."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)
    closed = "-dac_override,-dac_read_search"
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set", closed, "--inh-caps", closed),
            *(sys.executable, "-m", "runtime.cli.main", *command.split(), "--home", str(home)),
            *(("-o", str(tmp_path / "bundle.zip")) if command == "support-bundle" else ()),
            *(("--json",) if command == "check" else ()),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
        timeout=60,
    )

    if command == "support-bundle":
        assert done.returncode == 0, done.stderr
        checks = json.loads(zipfile.ZipFile(tmp_path / "bundle.zip").read("check.json"))["checks"]
    elif command == "check":
        assert done.returncode == 1
        checks = json.loads(done.stdout)["checks"]
    else:
        assert done.returncode == 1
        assert "Down - not running" in done.stdout or "has no logs" in done.stderr
        return
    [(name, found)] = checks.items()  # nothing after what is fatal
    assert (name, found["result"]["result"]) == ("aziot-edged-config-well-formed", "fatal")
    assert "run this as the user of the edge" in found["result"]["details"][0]
