"""The first hour, followed word for word in a fresh folder, from a fresh clone of this repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.run_directory import RunDirectory
from tests.documents import blocks_of
from tests.integration.distribution import copy_checkout, need_checkout
from tests.integration.terminal import Reader


def make_venv(clone: Path) -> None:
    """Make the .venv of a clone as scripts/setup would, out of the packages that the tests have.

    What scripts/setup does itself, and what it asks of pip, is tested in test_scripts.py; here it finds that
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
    made_from = (clone / "setup.cfg").read_bytes() + (clone / "scripts" / "constraints.txt").read_bytes()
    summed = subprocess.run(["cksum"], input=made_from, stdout=subprocess.PIPE, check=True).stdout.decode()
    (venv / "stamp-").write_text(f"{clone}\n{summed}")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    need_checkout()
    clone, home = tmp_path / "edge-actors", tmp_path / "home"
    copy_checkout(clone)
    make_venv(clone)
    home.mkdir()
    reader = Reader(clone, home, home / "first-hour")
    yield reader
    reader.close(home / "first-hour" / "home")


def test_the_first_hour_goes_as_it_is_written(reader: Reader) -> None:
    run = RunDirectory.of(reader.folder / "home")

    reader.follow(blocks_of("first-hour-clone", "first-hour"))

    assert not reader.folder.exists()
    assert not run.path.exists()
