"""Fault scripts by the command line: the project's scenarios, what a failed run leaves, and bad input.

A few scenarios run here, one of each family of faults; all of them with `-m campaign`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.faults import FAULTS_OF, AddFault, FaultCounts
from messaging.client import Client, NobodyThere
from runtime.faults import schema
from runtime.faults.needs import missing
from runtime.run_directory import RunDirectory
from tests.integration.edge_program import EdgeProgram

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "scripts" / "faults").glob("*.yaml"))
SHORT = ("agent-and-hub-kill", "checkpoint-failure", "killed-actors", "reject")
LIMIT_S = 240


def faults(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Call `edge-actors faults` with its temporary folders below `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "faults", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


def run(path: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    done = faults("run", str(path), "--json", *arguments, folder=folder)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if answer["problems"] else 0)
    return answer


def keeps_its_promise(path: Path, folder: Path) -> None:
    reason = missing(schema.load(path))
    if reason:
        pytest.skip(reason)

    answer = run(path, folder, "--seed", "7")

    assert answer["problems"] == [], answer
    assert all(count > 0 for count in answer["counts"].values())
    assert answer["acknowledged"] > 0
    assert answer["bundle"] is None
    assert not any(folder.iterdir()), "a good run leaves nothing"


@pytest.mark.parametrize("name", SHORT)
def test_the_edge_keeps_its_promise_while(name: str, tmp_path: Path) -> None:
    keeps_its_promise(ROOT / "scripts" / "faults" / f"{name}.yaml", tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("path", [path for path in SCENARIOS if path.stem not in SHORT], ids=lambda p: p.stem)
def test_the_edge_keeps_its_promise_in_each_other_scenario(path: Path, tmp_path: Path) -> None:
    keeps_its_promise(path, tmp_path)


def test_a_failed_run_leaves_a_bundle_without_keys_and_repeats_from_its_seed(tmp_path: Path) -> None:
    script = tmp_path / "impossible.yaml"
    script.write_text(
        """\
version: 1
about: Nobody recovers in no time.
edge:
  routes:
    all: {output: out, into: near}
load:
  rate: 50/s
  consumers: {near: always}
steps:
  - at: 100 ms ± 50 ms
    fault: kill
    who: hub
expect:
  lost: 0
  recovered: within 1 ms
""",
        encoding="utf-8",
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    done = faults("run", str(script), "--seed", "11", folder=scratch)

    assert done.returncode == 1
    assert "seed 11" in done.stdout
    assert "PROBLEM: recovered: after " in done.stdout
    assert f"again with `edge-actors faults run {script} --seed 11`" in done.stdout
    (bundle,) = scratch.iterdir()
    assert str(bundle) in done.stdout
    assert {"scenario.yaml", "report.json", "edge.log", "home"} <= {path.name for path in bundle.iterdir()}
    assert (bundle / "home" / "hub.db").exists()
    assert (bundle / "home" / "logs" / "edgeHub.log").exists()
    report = json.loads((bundle / "report.json").read_text())
    assert report["seed"] == 11
    assert report["ledger"]["total"]["received"] > 0
    assert not [path for path in bundle.rglob("*") if path.name == "keys.json" or path.suffix == ".pem"]


def test_a_script_that_is_wrong_is_refused_before_anything_starts(tmp_path: Path) -> None:
    script = tmp_path / "wrong.yaml"
    text = (ROOT / "scripts" / "faults" / "hub-kill.yaml").read_text(encoding="utf-8")
    script.write_text(text.replace("fault: kill", "fault: kil"), encoding="utf-8")
    line = 1 + next(n for n, row in enumerate(text.splitlines()) if "fault: kill" in row)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    done = faults("run", str(script), folder=scratch)

    assert done.returncode == 2
    assert f"{script}:{line}:12: 'kil' is not known; did you mean 'kill'?" in done.stderr
    assert not done.stdout
    assert not any(scratch.iterdir())


def test_without_pyyaml_it_is_told_what_to_install() -> None:
    program = "import sys; sys.modules['yaml'] = None; from runtime.cli.main import main; main()"
    script = str(ROOT / "scripts" / "faults" / "hub-kill.yaml")

    done = subprocess.run(
        [sys.executable, "-c", program, "faults", "check", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )

    assert done.returncode == 1
    assert "install it with `pip install 'edge-actors[faults]'`" in done.stderr


def test_what_this_machine_lacks_is_told_and_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    script = ROOT / "scripts" / "faults" / "engine-restart.yaml"

    done = faults("run", str(script), folder=tmp_path)

    assert done.returncode == 1
    assert "skipped: containers need a Docker Engine, and none answers" in done.stderr
    assert not any(tmp_path.iterdir())


def test_an_edge_that_was_not_started_for_it_takes_no_faults(tmp_path: Path) -> None:
    edge = EdgeProgram(tmp_path / "home")
    try:
        edge.start()
        with Client.outside(RunDirectory.of(edge.home).path) as client:
            for address in FAULTS_OF.values():
                with pytest.raises(NobodyThere):
                    client.ask(address, AddFault(1, "drop"), FaultCounts)
    finally:
        edge.close()
