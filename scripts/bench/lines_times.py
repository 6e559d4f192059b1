"""Lines of the report about time: start-up, a killed hub, modules that crash."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.measure_footprint import LEAF, SAMPLE, first_puback_s, puback_s
from scripts.bench.mqtt_link import Target
from scripts.bench.peer_edge import ROOT, EdgeRun
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from scripts.bench.plan import Plan, say
from scripts.bench.report import Bar, Line, Of, Sign

CONTAINER_LIMIT_S = 180


def start(plan: Plan) -> Iterator[Line]:
    """Yield exec → first PUBACK of the sample edge, then kill -9 of its hub → PUBACK, beside mosquitto."""
    started: list[float] = []
    back: list[float] = []
    theirs: list[float] = []
    theirs_back: list[float] = []
    directory = Path(tempfile.mkdtemp(prefix="bench-start-", dir=plan.directory))
    try:
        home, log = directory / "home", directory / "edge.log"
        with EdgeRun(SAMPLE, home, log) as run:
            run.wait("tls")
            made = run.ask("identity", "create", LEAF, "--out", str(directory))
            if made.returncode:
                raise PeerUnusable(f"edge: {made.stderr.strip()}{run.said()}")
            leaf = run.identity("show", LEAF)
            first_puback_s(run, leaf, directory / "ca.pem")
        for number in range(1, plan.rounds(5) + 1):
            with EdgeRun(SAMPLE, home, log) as run:
                started.append(first_puback_s(run, leaf, directory / "ca.pem"))
                time.sleep(plan.seconds(2.0))  # a hub is killed at work, not while its modules still start
                [hub] = [process.pid for process in run.processes() if process.role == "hub"]
                killed_s = time.monotonic()
                os.kill(hub, signal.SIGKILL)
                back.append(first_puback_s(run, leaf, directory / "ca.pem", killed_s))
            for times in (theirs, theirs_back):
                times.append(_mosquitto_start_s())
            say(f"start {number}: first PUBACK after {started[-1]:.2f} s, after the kill {back[-1]:.2f} s")
    finally:
        shutil.rmtree(directory)
    yield Line(
        "exec → first PUBACK",
        "s",
        tuple(started),
        "mosquitto",
        tuple(theirs),
        Bar(Of.FIGURE, Sign.BELOW, 1.5),
        "over TLS, of the sample deployment, whose modules start meanwhile",
    )
    yield Line(
        "kill -9 of the hub → PUBACK",
        "s",
        tuple(back),
        "mosquitto, started again at once",
        tuple(theirs_back),
    )


def _mosquitto_start_s() -> float:
    mosquitto = MosquittoPeer()
    began_s = time.monotonic()
    with mosquitto:
        load = mosquitto.load("tls", 1)
        return puback_s(Target(**load["target"]), load["publishers"][0], began_s)


def processes(plan: Plan) -> Iterator[Line]:
    """Yield kill -9 of a process module → its next start."""
    from scripts.bench.measure_restarts import process_restarts

    found = process_restarts(plan.directory, plan.some(5, 2))
    yield Line(
        "process module: kill -9 → new start",
        "s",
        tuple(found["restart_s"]),
        "the same command started bare",
        tuple(found["bare_s"]),
        Bar(Of.FIGURE, Sign.BELOW, 0.1),
    )


def containers(plan: Plan) -> Iterator[Line]:
    """Yield kill -9 of a container → its next start, with an engine that is there or started for it."""
    command = [str(ROOT / "scripts" / "with-docker"), sys.executable, "-m", "scripts.bench.measure_restarts"]
    command += ["--containers", "--json", "--modules", str(plan.some(5, 2))]
    command += ["--directory", str(plan.directory)]
    python = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": python, "PYTHONPATH": str(ROOT)}
    made = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=CONTAINER_LIMIT_S,
        check=False,
    )
    if made.returncode:
        raise PeerUnusable(made.stderr.strip().splitlines()[-1] if made.stderr.strip() else "no engine")
    found = json.loads(made.stdout)
    yield Line(
        "container: kill -9 → new start",
        "s",
        tuple(found["restart_s"]),
        "Docker's own start of the same container",
        tuple(found["docker_s"]),
        Bar(Of.FIGURE, Sign.BELOW, 0.4),
    )
