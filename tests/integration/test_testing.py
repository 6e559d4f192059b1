"""The pytest fixtures, used by a project that has folders of its own under the names of our packages."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import blocks_of

FILES = {block.how: block.text for block in blocks_of("fixtures")}
THEIRS = ("runtime", "actors", "messaging")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the module and the test of the README, and with folders that are called like ours."""
    if importlib.util.find_spec("edge_actors_testing") is None:
        pytest.skip("edge-actors is not installed in this environment; scripts/setup installs it")
    for name in THEIRS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("NAME = 'theirs'\n")
    (tmp_path / "conftest.py").write_text(FILES["conftest.py"])
    (tmp_path / "doubler.py").write_text(FILES["doubler.py"])
    (tmp_path / "test_doubler.py").write_text(
        FILES["test_doubler.py"]
        + "\n\ndef test_theirs():\n"
        + "".join(f"    import {name}\n    assert {name}.NAME == 'theirs'\n" for name in THEIRS)
    )
    return tmp_path


def run_pytest(project: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(project), "."],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixtures_of_the_readme_work_beside_packages_of_the_same_names(project: Path) -> None:
    assert "3 passed" in run_pytest(project)


def test_a_module_that_says_nothing_fails_the_test_with_its_log(project: Path) -> None:
    (project / "test_doubler.py").write_text(
        "import sys\n"
        "def test_silent(edge):\n"
        "    module = edge.run_module('silent', [sys.executable, '-c', 'print(\"my last words\")'])\n"
        "    module.send('input1', {})\n"
        "    module.receive('out', timeout_s=1)\n"
    )

    told = run_pytest(project)

    assert "no message from output 'out' of silent within 1 s; its log:" in told
    assert "my last words" in told
    assert "1 failed" in told
