"""The tour of the README is walked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.run_directory import RunDirectory
from tests.documents import blocks_of
from tests.integration.edge_program import PROGRAM, SAMPLE, EdgeProgram
from tests.waiting import wait_until

HOME = "/tmp/my-edge"
WAYS = ("", "in the background", "Python")


class Walker:
    """Types what the README says into a shell, in a folder where scripts/run and .venv are this program."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "my-edge"
        self.edge = EdgeProgram(self.home)
        self.checkout = folder / "checkout"
        program = " ".join(PROGRAM)
        self._add("scripts/run", f'exec {program} run "$@"')
        (self.checkout / "scripts" / "samples").symlink_to(SAMPLE.parent)
        self._add(".venv/bin/edge-actors", f'exec {program} "$@"')

    def _add(self, name: str, command: str) -> None:
        path = self.checkout / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)

    def type(self, commands: str) -> str:
        """Run a block of commands with the home and a pid of this test; return what it printed."""
        commands = commands.replace(HOME, str(self.home))
        if " PID" in commands:
            commands = commands.replace(" PID", f" {self.edge.modules()['sensor']['pid']}")
        done = subprocess.run(
            ["sh", "-ec", commands],
            cwd=self.checkout,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (commands, done.stdout, done.stderr, self.edge.output.read_text())
        return done.stdout

    def start(self, command: str) -> None:
        """Run a block that does not end by itself, and wait until the sample's modules run."""
        command = command.replace(HOME, str(self.home))
        with open(self.edge.output, "ab") as output:
            self.edge.process = subprocess.Popen(
                ["sh", "-ec", f"exec env {command}"],
                cwd=self.checkout,
                env=self._environment(),
                stdout=output,
                stderr=output,
            )
        self.edge.wait_for_modules("running", {"edgeHub", "filter", "sensor"})

    def ledger(self) -> Any:
        return self.edge.json("ledger")

    def run_python(self, text: str) -> str:
        text = text.replace(HOME, str(self.home))
        done = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, check=True, timeout=90)
        return done.stdout.decode()

    def arrived(self) -> list[Any]:
        """Return the readings that the cloud has taken, in its order."""
        lines = (self.home / "upstream.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line)["Body"] for line in lines if line.endswith("\n")]

    def passed(self) -> int:
        """Return how many readings `filter` says that it has passed on."""
        answer = self.edge.json("cloud", "method", "my-edge", "count", "--module", "filter")
        return int(answer["payload"]["passed"])

    def _environment(self) -> dict[str, str]:
        path = f"{self.checkout}/.venv/bin:{os.environ['PATH']}"
        return {**self.edge.environment, "PATH": path}


@pytest.fixture
def walker(tmp_path: Path) -> Iterator[Walker]:
    walker = Walker(tmp_path)
    yield walker
    walker.edge.close()


def test_the_tour_can_be_walked(walker: Walker) -> None:
    tour = {how: [block.text for block in blocks_of("tour") if block.how == how] for how in WAYS}
    look, kill, be_the_cloud, away, device, end = tour[""]
    walker.start(tour["in the background"][0])
    wait_until(
        lambda: walker.ledger()["endpoints"].get("iothub", {}).get("delivered", 0) > 0, "a message upstream"
    )
    seen = walker.type(look)
    assert '"sequence"' in seen
    assert "received " in seen
    before = walker.edge.modules()["sensor"]["pid"]
    killed = walker.type(kill)
    assert "module sensor was killed by signal 9" in killed
    assert walker.edge.modules()["sensor"]["pid"] != before
    cloud = walker.type(be_the_cloud)
    assert "deployed to my-edge: $edgeAgent, $edgeHub" in cloud
    assert '"received"' in cloud
    wait_until(
        lambda: (
            walker.edge.json("cloud", "twin", "get", "my-edge", "--module", "filter")["properties"][
                "reported"
            ].get("threshold")
            == 15
        ),
        "the desired property is applied and reported",
    )
    walker.edge.wait_for_modules("running", {"filter", "sensor"})
    told = walker.type(away)
    assert "upstream is off" in told
    assert "upstream is on" in told
    unrouted = walker.ledger()["total"]["unrouted"]  # changes of reported properties
    assert "thermostat" in walker.type(device)
    assert walker.run_python(tour["Python"][0]) == "wake up\n"
    wait_until(
        lambda: walker.ledger()["total"]["unrouted"] > unrouted, "the message of the thermostat is counted"
    )
    walker.edge.run("stop", "sensor")
    passed = walker.passed()
    wait_until(lambda: walker.arrived()[-1]["filterSequence"] == passed, "all that was passed on arrives")
    runs: dict[str, dict[int, None]] = {}
    for body in walker.arrived():  # what was on its way as the link was taken away comes twice
        runs.setdefault(body["filterRun"], {})[body["filterSequence"]] = None
    for numbers in runs.values():  # the deployment from another folder has started `filter` again
        assert list(numbers) == list(range(1, len(numbers) + 1))
    assert passed > 60  # so many come while the link is away
    ledger = walker.ledger()
    assert ledger["total"]["received"] == ledger["total"]["unrouted"] + ledger["total"]["routed"]
    for row in ledger["endpoints"].values():
        assert row["accepted"] == row["delivered"] + row["expired"] + row["dropped"] + row["pending"]
    assert ledger["endpoints"]["iothub"]["delivered"] == sum(map(len, runs.values()))
    ended = walker.type(end)

    assert f"removed {walker.home}" in ended
    assert walker.edge.wait() == 0
    assert not walker.home.exists()
    assert not RunDirectory.of(walker.home).path.exists()
