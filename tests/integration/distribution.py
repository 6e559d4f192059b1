"""Wheel and sdist as they are published, made from this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.edge_program import ROOT

TOOLS = ROOT / "scripts" / "debian" / "tools.txt"
MAKE = "import setuptools.build_meta as made, sys; print(made.build_{}(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What was made: an sdist from the checkout, and a wheel from that sdist; both unpacked."""

    sdist: Path
    wheel: Path
    wheel_file: Path


def need_checkout() -> None:
    """Skip where it cannot be told which files are ours."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, so it cannot be told which files are ours")


def copy_checkout(folder: Path) -> None:
    """Make a folder that is what a clone would be, with what is changed here and not committed yet."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    for name in names.decode().rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / name).chmod((ROOT / name).stat().st_mode)


def make(folder: Path) -> Distribution:
    """Make both, which takes some seconds and the network; skips where one is missing."""
    need_checkout()
    subprocess.run([sys.executable, "-m", "venv", folder / "tools"], check=True, timeout=60)
    python = folder / "tools" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", TOOLS]
    done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=90)
    if done.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip(f"what makes them cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr

    def build(kind: str, source: Path) -> Path:
        done = subprocess.run(
            [python, "-c", MAKE.format(kind), str(folder)],
            cwd=source,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return folder / done.stdout.splitlines()[-1]

    checkout = folder / "checkout"
    copy_checkout(checkout)
    with tarfile.open(build("sdist", checkout)) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    wheel_file = build("wheel", source)
    with zipfile.ZipFile(wheel_file) as archive:
        archive.extractall(folder / "wheel")
    return Distribution(source, folder / "wheel", wheel_file)
