"""Fault scripts by the command line: the project's scenarios, what a failed run leaves, and bad input.

A few scenarios run here, one of each family of faults; all of them with `-m campaign`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.kernel.faults import FAULTS_OF, AddFault, FaultCounts
from messaging.client import Client, NobodyThere
from runtime.faults import guard, schema
from runtime.faults.needs import missing
from runtime.machine import process_table
from runtime.modules.process_runtime import RUN_MARKER
from runtime.run_directory import RunDirectory
from tests.integration.edge_program import EdgeProgram
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "scripts" / "faults").glob("*.yaml"))
SHORT = ("checkpoint-failure", "killed-actors", "reject")
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
    reason = missing(schema.load(path).needs)
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


@pytest.mark.parametrize(
    ("signal_", "code"),
    [pytest.param(signal.SIGKILL, -9, id="kill -9"), pytest.param(signal.SIGINT, 130, id="Ctrl-C")],
)
def test_a_run_that_is_broken_off_leaves_nothing(signal_: signal.Signals, code: int, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "faults" / "link-flaps.yaml"  # with a stand-in of its own
    runner = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli.main", "faults", "run", str(script)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever runs the tests
    )
    wait_until(lambda: any(tmp_path.glob("*/home/logs/edgeHub.log")), "the hub has started")
    (folder,) = tmp_path.iterdir()

    runner.send_signal(signal_)

    assert runner.wait(LIMIT_S) == code
    wait_until(lambda: not folder.exists(), "the folder is gone")
    assert process_table.find({guard.MARK: str(folder)}) == []
    assert process_table.find({RUN_MARKER: str(RunDirectory.of(folder / "home").path)}) == []
    assert not RunDirectory.of(folder / "home").path.exists()


def test_an_edge_that_cannot_start_is_told_with_its_reason(tmp_path: Path) -> None:
    script = tmp_path / "busy.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = (ROOT / "scripts" / "faults" / "hub-kill.yaml").read_text(encoding="utf-8")
        script.write_text(
            text.replace("edge:\n", f"edge:\n  settings: {{web_listen: '{address}'}}\n"), encoding="utf-8"
        )
        scratch = tmp_path / "scratch"
        scratch.mkdir()

        answer = run(script, scratch)

    assert any(
        f"the agent ends before it runs: error: cannot listen on {address}" in problem
        for problem in answer["problems"]
    ), answer["problems"]


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
