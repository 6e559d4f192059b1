"""`scripts/with-docker` on machines with and without an engine, with programs that play their parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "sleep", "rm", "mktemp", "tail")

# Answers as an engine does, and writes down that it was ended.
PLAYED_ENGINE = f"""#!{sys.executable}
import os, signal, socket, sys
def end(*_):
    open(os.environ["ENDED"], "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
engine = socket.socket(socket.AF_UNIX)
engine.bind(os.environ["DOCKER_HOST"].removeprefix("unix://"))
engine.listen()
while True:
    connection, _ = engine.accept()
    connection.recv(100)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nOK")
    connection.close()
"""


class Machine:
    """A PATH with few programs, and where its engine would be."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.ended = folder / "ended"
        self.log = folder / "log"
        self.socket = folder / "docker.sock"
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.programs / tool).symlink_to(found)
        (self.programs / "python").symlink_to(sys.executable)

    def add(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = (ROOT / "scripts" / "with-docker").read_text()
        script = script.replace(":/usr/sbin:/sbin", "")  # where this machine has its own
        return subprocess.run(
            ["sh", "-c", script, "with-docker", *arguments],
            env={
                "PATH": str(self.programs),
                "DOCKER_HOST": f"unix://{self.socket}",
                "ENDED": str(self.ended),
                "LOG": str(self.log),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def machine(run_dir: Path) -> Machine:
    made = Machine(run_dir)
    made.add("id", "#!/bin/sh\necho 0\n")
    made.add("tests", '#!/bin/sh\n[ -S "${DOCKER_HOST#unix://}" ] && echo with || echo without\nexit 7\n')
    return made


def test_without_an_engine_it_says_what_to_type_and_goes_on(machine: Machine) -> None:
    done = machine.call("tests")

    assert (done.stdout, done.returncode) == ("without\n", 7)
    assert "scripts/test --install-docker" in done.stderr


def test_an_engine_that_it_started_is_stopped_after_the_command(machine: Machine) -> None:
    machine.add("dockerd", PLAYED_ENGINE)

    done = machine.call("tests")

    assert (done.stdout, done.returncode) == ("with\n", 7), done.stderr
    assert machine.ended.exists()


def test_an_engine_that_ran_before_is_left_alone(machine: Machine) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{machine.socket}", "ENDED": str(machine.ended)}
    engine = subprocess.Popen([sys.executable, "-c", PLAYED_ENGINE], env=environment)
    try:
        while not machine.socket.exists():
            assert engine.poll() is None
        machine.add("dockerd", '#!/bin/sh\necho started >>"$LOG"\n')

        done = machine.call("tests")

        assert done.stdout == "with\n"
        assert not machine.log.exists()
        assert engine.poll() is None
    finally:
        engine.kill()
        engine.wait()


def test_it_is_installed_only_when_asked_for(machine: Machine) -> None:
    engine = machine.programs / "played"
    engine.write_text(PLAYED_ENGINE)
    machine.add("env", '#!/bin/sh\nshift\n"$@"\n')
    (machine.programs / "cp").symlink_to(shutil.which("cp") or "cp")
    (machine.programs / "chmod").symlink_to(shutil.which("chmod") or "chmod")
    target = machine.programs / "dockerd"
    copy = f"cp {engine} {target}; chmod +x {target}"
    machine.add("apt-get", f'#!/bin/sh\necho "$*" >>"$LOG"\ncase "$1" in install) {copy} ;; esac\n')

    done = machine.call("--install", "tests")

    assert (done.stdout, done.returncode) == ("with\n", 7), done.stderr
    assert "docker.io" in machine.log.read_text().splitlines()[1]


def test_an_engine_that_was_asked_for_and_does_not_start_is_an_error_with_its_last_words(
    machine: Machine,
) -> None:
    machine.add("dockerd", "#!/bin/sh\necho no cgroups here\nexit 1\n")

    done = machine.call("--install", "tests")

    assert done.returncode == 1
    assert "no cgroups here" in done.stderr
    assert done.stdout == ""
