"""What is installed is ours alone: the three packages have short names that others could take as well."""

from __future__ import annotations

import configparser
import importlib.metadata
from pathlib import Path

import pytest

import actors
import messaging
import runtime

ROOT = Path(__file__).resolve().parents[1]
OURS = ("actors", "messaging", "runtime")


def test_no_other_distribution_brings_a_package_of_our_names() -> None:
    owners = importlib.metadata.packages_distributions()

    for name in OURS:
        assert set(owners.get(name, ())) <= {"edge-actors"}, f"{name} is also installed by {owners[name]}"


@pytest.mark.parametrize("package", [actors, messaging, runtime], ids=OURS)
def test_the_tests_run_against_this_checkout(package: object) -> None:
    assert Path(str(package.__file__)).parent.parent == ROOT  # type: ignore[attr-defined]


def test_every_requirement_has_a_lower_bound_and_an_exact_pin() -> None:
    wanted = [
        line.strip().partition(">=")
        for line in (ROOT / "setup.cfg").read_text().splitlines()
        if line.startswith("    ") and ">=" in line
    ]
    pinned = (ROOT / "scripts/constraints.txt").read_text().split()
    pins = {line.partition("==")[0].lower() for line in pinned}

    assert wanted
    assert all(bound for _, _, bound in wanted)
    assert [name for name, _, _ in wanted if name.lower() not in pins] == []


def test_every_package_of_ours_is_installed() -> None:
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg")
    listed = cfg["options"]["packages"].split()

    there = [
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in OURS
        for path in ROOT.glob(f"{name}/**/__init__.py")
    ]
    assert sorted(listed) == sorted([*there, "edge_actors_testing", "runtime.samples"])
