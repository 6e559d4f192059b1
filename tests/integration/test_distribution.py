"""What is published has in it what it needs, and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import blocks_of
from tests.integration import distribution
from tests.integration.distribution import Distribution
from tests.integration.edge_program import PROGRAM, ROOT, EdgeProgram
from tests.integration.terminal import Terminal
from tests.waiting import wait_until

pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    return distribution.make(tmp_path_factory.mktemp("distribution"))


def test_an_sdist_has_every_file_of_the_repository(made: Distribution) -> None:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    ours = {name for name in names if name and name != ".gitignore"}

    there = {str(path.relative_to(made.sdist)) for path in made.sdist.rglob("*") if path.is_file()}

    assert ours - there == set()
    assert (made.sdist / "scripts" / "run").stat().st_mode & 0o111


def test_tests_run_from_an_sdist(made: Distribution) -> None:
    tests = (
        "tests/messaging/test_sas.py",
        "tests/runtime/test_samples.py",
        "tests/actors/agent/test_planner.py",
    )

    done = subprocess.run(
        [PROGRAM[0], "-m", "pytest", "-q", *tests],
        cwd=made.sdist,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_a_wheel_has_our_packages_and_neither_tests_nor_scripts(made: Distribution) -> None:
    top = {path.name for path in made.wheel.iterdir() if not path.name.endswith(".dist-info")}

    assert top == {"actors", "edge_actors_testing", "messaging", "runtime"}


def test_a_wheel_is_installed_as_the_first_hour_says(made: Distribution, tmp_path: Path) -> None:
    """What it requires is that of the tests: pip would fetch the same from the index."""
    shutil.copy(made.wheel_file, tmp_path)
    install, look = blocks_of("wheel")
    pip = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    terminal = Terminal(tmp_path, {"PATH": path, "HOME": str(tmp_path), **pip})
    try:
        terminal.follow(install)
        (site,) = (tmp_path / "edge-actors").glob("lib/python*/site-packages")
        required = [folder for folder in sys.path if folder.endswith("site-packages")]
        (site / "required.pth").write_text("\n".join(required))
        terminal.follow(look)
        where = terminal.type(
            "command -v edge-actors && edge-actors/bin/python -P -c 'import runtime; print(runtime)'"
        )
    finally:
        terminal.close()

    assert str(tmp_path / "edge-actors" / "bin" / "edge-actors") in where
    assert str(site / "runtime") in where


def test_an_edge_from_a_wheel_runs_the_sample_with_nothing_else(made: Distribution, tmp_path: Path) -> None:
    edge = EdgeProgram(tmp_path / "home")
    edge.environment["PYTHONPATH"] = str(made.wheel)
    with open(edge.output, "ab") as output:
        edge.process = subprocess.Popen(
            [*PROGRAM, "run"], env=edge.environment, cwd=tmp_path, stdout=output, stderr=output
        )
    try:
        edge.wait_for_modules("running", {"edgeHub", "edgeCloud", "filter", "sensor"})
        told = edge.home / "upstream.jsonl"
        wait_until(lambda: told.exists() and told.stat().st_size > 0, "what the sample sends has arrived")
        where = subprocess.run(
            [PROGRAM[0], "-c", "import runtime; print(runtime.__file__)"],
            env=edge.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        edge.close()

    assert Path(where.strip()) == made.wheel / "runtime" / "__init__.py"
