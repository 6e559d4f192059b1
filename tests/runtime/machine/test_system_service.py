"""The edge of the Debian package, and root, who asks it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtime.machine import system_service
from runtime.run_directory import base_folder

# A user that every Debian has plays the one of the service.
PLAYER = "nobody"
BECOME = f"""
import os, pathlib, sys
from runtime.machine import system_service
system_service.USER = {PLAYER!r}
system_service.become_owner(pathlib.Path(sys.argv[1]))
print(os.getresuid(), os.getresgid(), os.getgroups() == [os.getgid()], os.environ.get("XDG_RUNTIME_DIR"))
"""
PURGE = f"""
import os, pathlib, sys
from runtime.home import Home
os.setresuid(*3 * [{pwd.getpwnam(PLAYER).pw_uid}])
print(Home(pathlib.Path(sys.argv[1])).purge())
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def become(home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BECOME, str(home)],
        env={**os.environ, "XDG_RUNTIME_DIR": "/run/user/0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@needs_root
def test_root_goes_on_as_the_user_of_the_service_on_its_home(home: Path) -> None:
    player = pwd.getpwnam(PLAYER)
    os.chown(home, player.pw_uid, player.pw_gid)

    uids, gids = (player.pw_uid,) * 3, (player.pw_gid,) * 3
    assert become(home) == f"{uids} {gids} True None"


@needs_root
@pytest.mark.parametrize("owner", [0, 12345], ids=["root", "somebody else"])
def test_root_stays_root_on_any_other_home(home: Path, owner: int) -> None:
    os.chown(home, owner, owner)

    assert become(home).startswith("(0, 0, 0) (0, 0, 0)")


@needs_root
def test_root_stays_root_when_there_is_no_home(home: Path) -> None:
    assert become(home / "none").startswith("(0, 0, 0)")


@needs_root
def test_the_service_has_a_run_directory_of_its_own_and_only_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_service, "RUN", tmp_path / "service")
    before = base_folder(12345, None)
    (tmp_path / "service").mkdir()
    os.chown(tmp_path / "service", 12345, 12345)

    assert before == Path("/tmp/edge-actors-12345")
    assert base_folder(12345, None) == tmp_path / "service"
    assert base_folder(12346, None) == Path("/tmp/edge-actors-12346")
    assert base_folder(0, None) == Path("/run/edge-actors")


@needs_root
def test_the_service_empties_a_home_that_it_cannot_remove() -> None:
    player = pwd.getpwnam(PLAYER)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        home = Path(folder) / "home"
        home.mkdir()
        (home / "device.json").touch()
        for path in (home, home / "device.json"):
            os.chown(path, player.pw_uid, player.pw_gid)

        done = subprocess.run(
            [sys.executable, "-c", PURGE, str(home)], capture_output=True, text=True, check=True
        )

        assert done.stdout == "[]\n"
        assert list(home.iterdir()) == []
