"""Measures how soon a module that crashed runs again: process modules, or containers with `--containers`.

An edge runs some modules; each is killed once, because a module that crashes twice in a row waits on purpose.
A process tells the moment of its start by itself, a container's is the engine's word. Beside them the same
command started bare, and Docker's own start of the same container.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.bench.peer_edge import EdgePeer
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.processes import environment

LIMIT_S = 60.0
LOOK_S = 0.01
CALM_S = 1.0
BARE_STARTS = 5


class ModulesPeer(EdgePeer):
    """An edge that runs modules besides those that it only knows."""

    def __init__(self, parent: Path, modules: dict[str, dict[str, Any]]) -> None:
        super().__init__(parent, publishers=1)
        self._running = modules

    def _manifest(self) -> dict[str, Any]:
        manifest = super()._manifest()
        common = {"version": "1.0", "status": "running", "restartPolicy": "always"}
        desired = manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
        desired["modules"] |= {name: common | module for name, module in self._running.items()}
        return manifest


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something.

    Raises:
        PeerUnusable: it takes too long.
    """
    ends_s = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > ends_s:
            raise PeerUnusable(f"edge: {what} takes longer than {LIMIT_S:g} s")
        time.sleep(LOOK_S)


def process_restarts(parent: Path, count: int) -> dict[str, list[float]]:
    """Kill process modules; return the seconds to the start of each next one, and of a bare start."""
    folder = Path(tempfile.mkdtemp(prefix="bench-restarts-", dir=parent))
    folder.chmod(0o755)
    try:
        files = {f"crash{n}": folder / f"crash{n}" for n in range(count)}
        for file in files.values():
            file.touch()
            file.chmod(0o666)  # a module has a user of its own
        modules = {
            name: {"type": "process", "settings": {"command": command_of(file)}}
            for name, file in files.items()
        }
        bare_s = [_bare_start_s(folder / f"bare{n}") for n in range(BARE_STARTS)]
        with ModulesPeer(parent, modules) as peer:
            until(lambda: all(map(starts, files.values())), "the start of the modules")
            time.sleep(CALM_S)
            restart_s = []
            for name, file in files.items():
                [pid] = [
                    process.pid
                    for process in peer.processes()
                    if process.role == "module" and environment(process.pid).get("IOTEDGE_MODULEID") == name
                ]
                killed_s = time.time()
                os.kill(pid, signal.SIGKILL)
                until(lambda file=file: len(starts(file)) > 1, f"the next start of {name}")
                restart_s.append(starts(file)[1] - killed_s)
    finally:
        shutil.rmtree(folder)
    return {"restart_s": restart_s, "bare_s": bare_s}


def command_of(file: Path) -> list[str]:
    """Return a command that notes when it started, in ns since 1970, and stays."""
    return ["sh", "-c", f"date +%s%N >>'{file}'; exec sleep 3600"]


def starts(file: Path) -> list[float]:
    """Return when a command noted that it started, in s since 1970."""
    text = file.read_text() if file.exists() else ""
    return [int(line) / 1e9 for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _bare_start_s(file: Path) -> float:
    began_s = time.time()
    process = subprocess.Popen(command_of(file))
    try:
        until(lambda: bool(starts(file)), "a bare start")
    finally:
        process.kill()
        process.wait()
    return starts(file)[0] - began_s


def container_restarts(parent: Path, count: int) -> dict[str, list[float]]:
    """Kill containers; return the seconds to each next start, and of Docker's own start of one.

    Raises:
        PeerUnusable: no engine answers.
    """
    from docker import APIClient

    from runtime.docker.engine import HOME_LABEL, MODULE_LABEL
    from runtime.docker.leftovers import remove_containers
    from runtime.run_directory import RunDirectory
    from tests.docker_image import image, why_no_engine

    if reason := why_no_engine():
        raise PeerUnusable(reason)
    settings = {
        "image": image(),
        "createOptions": json.dumps({"Cmd": ["sleep", "3600"], "StopTimeout": 1}),
    }
    modules = {
        f"crash{n}": {"type": "docker", "imagePullPolicy": "never", "settings": settings}
        for n in range(count)
    }
    client = APIClient(os.environ.get("DOCKER_HOST"), version="auto")

    home_id = ""

    def state(name: str) -> dict[str, Any]:
        filters = {"label": [f"{HOME_LABEL}={home_id}", f"{MODULE_LABEL}={name}"]}
        found = client.containers(all=True, filters=filters)
        return client.inspect_container(found[0]["Id"]) if found else {}

    try:
        with ModulesPeer(parent, modules) as peer:
            home_id = RunDirectory.of(peer.home).path.name
            until(
                lambda: all(state(name).get("State", {}).get("Running") for name in modules),
                "the start of the containers",
            )
            time.sleep(CALM_S)
            restart_s = []
            for name in modules:
                before = state(name)
                killed_s = time.time()
                os.kill(before["State"]["Pid"], signal.SIGKILL)
                until(lambda name=name, before=before: _started_again(before, state(name)), f"{name} again")
                restart_s.append(started_at_s(state(name)) - killed_s)
        docker_s = docker_start_s(client, settings["image"], count)
    finally:
        client.close()
        if home_id:
            remove_containers(home_id)
    return {"restart_s": restart_s, "docker_s": docker_s}


def _started_again(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return bool(now and now["State"]["Running"] and now["State"]["StartedAt"] != before["State"]["StartedAt"])


def started_at_s(inspected: dict[str, Any]) -> float:
    """Return when a container started, in s since 1970: the engine writes nanoseconds."""
    seconds, _, rest = inspected["State"]["StartedAt"].rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{rest or 0}")


def docker_start_s(client: Any, image: str, count: int) -> list[float]:
    """Start one container of a kind again and again; return the seconds from each request to its start."""
    made = client.create_container(image, ["sleep", "3600"])
    try:
        found = []
        for _ in range(count):
            asked_s = time.time()
            client.start(made["Id"])
            found.append(started_at_s(client.inspect_container(made["Id"])) - asked_s)
            client.kill(made["Id"])
            client.wait(made["Id"])
    finally:
        client.remove_container(made["Id"], force=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/restarts", description=__doc__)
    parser.add_argument("--containers", action="store_true", help="containers rather than processes")
    parser.add_argument("--modules", type=int, default=5, help="how many, each killed once (default 5)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for the home; a real disk")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measure = container_restarts if arguments.containers else process_restarts
    try:
        found = measure(arguments.directory, arguments.modules)
    except PeerUnusable as error:
        print(f"scripts/bench/restarts: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(found))
        return 0
    for name, times_s in found.items():
        shown = ", ".join(f"{time_s:.3f}" for time_s in times_s)
        print(f"{name:10} {statistics.median(times_s):.3f} s, median of {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
