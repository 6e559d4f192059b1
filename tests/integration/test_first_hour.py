"""The first hour, followed word for word in a fresh folder, from a fresh clone of this repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import blocks_of
from tests.integration.distribution import copy_checkout, need_checkout
from tests.integration.edge_program import ROOT, loopback_address
from tests.integration.terminal import Terminal

GROUP = "first-hour"


class Reader:
    """A new user with two terminals: the first one runs the edge, all else is typed into the second."""

    def __init__(self, home: Path, clone: Path) -> None:
        address = loopback_address()  # other edges of this machine have 127.0.0.1
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EDGE_ACTORS", "PYTHON"))
        }
        self.environment = {
            **kept,
            "HOME": str(home),
            "EDGE_ACTORS_LISTEN": address,
            "EDGE_ACTORS_HOSTNAME": address,
        }
        self.folder = home / "first-hour"
        self.first = Terminal(clone, self.environment)
        self.second = Terminal(home, self.environment)
        self._now = self.first

    def follow(self) -> None:
        """Do what the document says, block by block."""
        for block in blocks_of(GROUP):
            if block.language != "sh":
                (self.folder / block.how).write_text(block.text)
            elif block.how == "in the background":
                self.first.start(block.text)
                self._now = self.second
            elif block.how.startswith("PID of "):
                pid = self._pid(block.how.removeprefix("PID of "))
                self._now.follow(block, block.text.replace("PID", str(pid)))
            else:
                self._now.follow(block)

    def _pid(self, module: str) -> int:
        listed = json.loads(self.second.type("edge-actors list --json"))
        return int(next(row["pid"] for row in listed if row["name"] == module))

    def close(self) -> None:
        """End what is left, however far it came."""
        environment = {
            **self.environment,
            "PYTHONPATH": str(ROOT),
            "EDGE_ACTORS_HOME": str(self.folder / "home"),
        }
        down = [sys.executable, "-m", "runtime.cli.main", "down", "--purge"]
        subprocess.run(down, env=environment, check=False, capture_output=True, timeout=60)
        self.first.close()
        self.second.close()


def make_venv(clone: Path) -> None:
    """Make the .venv of a clone as scripts/setup would, out of the packages that the tests have.

    What scripts/setup does itself, and with what it asks pip, is tested in test_scripts.py; here it finds that
    nothing is to be done.
    """
    venv = clone / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    (site,) = venv.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "clone.pth").write_text("\n".join([str(clone), *packages]) + "\n")
    program = venv / "bin" / "edge-actors"
    program.write_text(f"#!{venv}/bin/python\nfrom runtime.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    requirements = (clone / "setup.cfg").read_bytes() + (clone / "scripts" / "constraints.txt").read_bytes()
    summed = subprocess.run(["cksum"], input=requirements, stdout=subprocess.PIPE, check=True).stdout.decode()
    (venv / "stamp-").write_text(f"{clone}\n{summed}")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    need_checkout()
    clone = tmp_path / "edge-actors"
    copy_checkout(clone)
    make_venv(clone)
    home = tmp_path / "home"
    home.mkdir()
    reader = Reader(home, clone)
    yield reader
    reader.close()


def test_the_first_hour_goes_as_it_is_written(reader: Reader) -> None:
    before = set(os.listdir("/run/edge-actors")) if os.path.isdir("/run/edge-actors") else set()

    reader.follow()

    assert not reader.folder.exists()
    after = set(os.listdir("/run/edge-actors")) if os.path.isdir("/run/edge-actors") else set()
    assert after <= before
