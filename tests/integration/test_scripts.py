"""`scripts/setup` and `scripts/run` on machines that lack something, with programs that play Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents import blocks_of

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "cat", "cksum", "head", "rm", "mkdir", "chmod", "id", "flock")

# Answers like Python as far as scripts/setup asks, and writes down what it was asked to do.
PLAYED_PYTHON = """#!/bin/sh
case "$*" in
*version_info*) {version} ;;
*"import venv"*) {has_venv} ;;
*Python.h*) {can_compile} ;;
"-m venv"*)
    for folder; do :; done
    mkdir -p "$folder/bin"
    cat "$0" >"$folder/bin/python"
    chmod +x "$folder/bin/python"
    echo "$*" >>"{log}" ;;
"-m pip"*)
    echo "$*" >>"{log}"
    {pip}
    printf '#!/bin/sh\\necho "PATH=$PATH"\\necho "$@"\\n' >"${{0%/*}}/edge-actors"
    chmod +x "${{0%/*}}/edge-actors" ;;
esac
"""


class Machine:
    """A checkout, a PATH with few programs, and what the played Python was asked to do."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "check out"  # with a blank, as people have them
        self.programs = folder / "programs"
        self.log = folder / "log"
        self.programs.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.programs / tool).symlink_to(found)
        (self.checkout / "scripts").mkdir(parents=True)
        (self.checkout / "tests" / "node").mkdir(parents=True)
        for name in (
            "setup.cfg",
            "scripts/setup",
            "scripts/run",
            "scripts/constraints.txt",
            "tests/node/package-lock.json",
        ):
            shutil.copy(ROOT / name, self.checkout / name)

    def add(
        self,
        name: str,
        *,
        version: str = "echo 3.11",
        has_venv: bool = True,
        can_compile: bool = True,
        pip: str = "",
    ) -> None:
        """Put a program that plays Python on PATH."""
        text = PLAYED_PYTHON.format(
            version=version,
            has_venv="exit 0" if has_venv else "exit 1",
            can_compile="exit 0" if can_compile else "exit 1",
            log=self.log,
            pip=pip,
        )
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def add_program(self, name: str) -> None:
        """Put a program that does nothing on PATH."""
        (self.programs / name).write_text("#!/bin/sh\n")
        (self.programs / name).chmod(0o755)

    def call(self, script: str, *arguments: str, ci: bool = False) -> subprocess.CompletedProcess[str]:
        """Call a script of the checkout from somewhere else."""
        return subprocess.run(
            [str(self.checkout / "scripts" / script), *arguments],
            cwd="/",
            env={"PATH": str(self.programs)} | ({"CI": "true"} if ci else {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


SUDO = "" if os.geteuid() == 0 else "sudo "


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        pytest.param(
            lambda m: None,
            [
                "error: Python 3.11 or newer is needed and no python3 was found; install it:",
                f"       {SUDO}apt-get install -y python3 python3-venv",
            ],
            id="no python",
        ),
        pytest.param(
            lambda m: m.add("python3", version="echo 3.9"),
            [
                "error: Python 3.11 or newer is needed, and python3 is Python 3.9; "
                "install a newer one beside it:",
                f"       {SUDO}apt-get install -y python3.11 python3.11-venv",
            ],
            id="too old",
        ),
        pytest.param(
            lambda m: m.add("python3", version="echo 2.7"),
            [
                "error: Python 3.11 or newer is needed, and python3 is Python 2.7; "
                "install a newer one beside it:",
                f"       {SUDO}apt-get install -y python3.11 python3.11-venv",
            ],
            id="much too old",
        ),
        pytest.param(
            lambda m: m.add("python3.12", version="echo 3.12", has_venv=False),
            [
                "error: {programs}/python3.12 (Python 3.12) cannot make virtual environments; "
                "install what it lacks:",
                f"       {SUDO}apt-get install -y python3.12-venv",
            ],
            id="no venv",
        ),
        pytest.param(
            lambda m: m.add("python3", pip="exit 1"),
            [
                "Setting up {checkout}/.venv with Python 3.11, once; this takes a minute or two.",
                "error: the packages could not be installed (see above); with a network connection, "
                "run it again",
            ],
            id="no network",
        ),
    ],
)
def test_what_is_missing_is_named_with_the_line_that_fixes_it(
    prepare: Callable[[Machine], None], told: list[str], machine: Machine
) -> None:
    machine.add_program("apt-get")
    prepare(machine)

    done = machine.call("run")

    expected = [line.format(programs=machine.programs, checkout=machine.checkout) for line in told]
    assert done.returncode == 1
    assert done.stderr.splitlines() == expected
    assert done.stdout == ""


def test_without_a_compiler_amqp_is_left_out_and_the_tests_do_not_start(machine: Machine) -> None:
    machine.add_program("apt-get")
    machine.add("python3.12", version="echo 3.12", can_compile=False)

    for_tests = machine.call("setup", "test")
    done = machine.call("run")

    install = f"{SUDO}apt-get install -y gcc libc6-dev python3.12-dev"
    assert (for_tests.returncode, done.returncode) == (1, 0)
    assert for_tests.stderr.splitlines() == [
        "error: The AMQP engine (python-qpid-proton) is compiled here, once; for that the C compiler",
        f"       or the headers of {machine.programs}/python3.12 (Python 3.12) are missing; install them:",
        f"       {install}",
    ]
    assert done.stderr.splitlines() == [
        "AMQP is left out: its engine is compiled, and the C compiler or the headers of "
        f"{machine.programs}/python3.12 are missing.",
        f"To have it too, type this, remove {machine.checkout}/.venv and run this script again:",
        f"    {install}",
        f"Setting up {machine.checkout}/.venv with Python 3.12, once; this takes a minute or two.",
    ]
    assert machine.asked()[-1].endswith(f"--editable {machine.checkout}")


def test_without_apt_the_package_is_named_all_the_same(machine: Machine) -> None:
    done = machine.call("run")

    assert done.returncode == 1
    assert done.stderr.endswith(
        "install the package python3 python3-venv with the package manager of this system\n"
    )


def test_a_newer_python_beside_an_old_or_broken_one_is_found(machine: Machine) -> None:
    machine.add("python3", version="echo 3.9")
    machine.add("python3.13", version="exit 127")  # a version manager's program without that version
    machine.add("python3.12", version="echo 3.12")

    done = machine.call("setup")

    assert done.returncode == 0
    assert "with Python 3.12" in done.stderr


def test_the_environment_is_made_once_and_an_edge_is_run_without_arguments(machine: Machine) -> None:
    machine.add("python3")

    first = machine.call("run")
    second = machine.call("run", "--for", "60", "--home", "some home")

    venv, install = machine.asked()
    assert venv == f"-m venv --clear {machine.checkout}/.venv"
    assert f"--constraint {machine.checkout}/scripts/constraints.txt" in install
    assert install.endswith(f"--editable {machine.checkout}[amqp]")
    assert first.stdout.splitlines()[1] == "run"
    assert second.stdout.splitlines()[1] == "run --for 60 --home some home"
    assert second.stderr == ""


@pytest.mark.parametrize("option", [("--deployment", "d.json"), ("--deployment=d.json",), ("--help",)])
def test_a_deployment_of_ones_own_is_passed_on(option: tuple[str, ...], machine: Machine) -> None:
    machine.add("python3")

    done = machine.call("run", "--for", "1", *option)

    assert done.stdout.splitlines()[1] == f"run --for 1 {' '.join(option)}"


def test_modules_find_the_python_of_the_environment_first(machine: Machine) -> None:
    machine.add("python3")

    path = machine.call("run").stdout.splitlines()[0]

    assert path == f"PATH={machine.checkout}/.venv/bin:{machine.programs}"


@pytest.mark.parametrize("file", ["setup.cfg", "scripts/constraints.txt"])
def test_a_change_of_requirements_brings_the_environment_up_to_date_in_place(
    file: str, machine: Machine
) -> None:
    machine.add("python3")
    machine.call("setup", "test")
    with open(machine.checkout / file, "a") as out:
        out.write("# changed\n")

    done = machine.call("setup")

    assert done.stderr == f"Bringing {machine.checkout}/.venv up to date.\n"
    commands = machine.asked()
    assert [command.split()[1] for command in commands] == ["venv", "pip", "pip"]
    assert commands[-1].endswith("[amqp,test]")  # what it had it keeps


def test_an_environment_that_was_moved_is_made_anew(machine: Machine) -> None:
    machine.add("python3")
    machine.call("setup")
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("elsewhere"))

    machine.call("setup")

    assert machine.asked()[2] == f"-m venv --clear {machine.checkout}/.venv"


def test_an_installation_that_failed_is_tried_again(machine: Machine) -> None:
    machine.add("python3", pip="exit 1")
    assert machine.call("setup").returncode == 1
    machine.add("python3")

    done = machine.call("setup")

    assert done.returncode == 0
    assert machine.call("setup").stderr == ""


def test_without_npm_the_setup_for_tests_says_what_to_type_and_goes_on(machine: Machine) -> None:
    machine.add("python3")
    machine.add_program("apt-get")

    done = machine.call("setup", "test")

    assert done.returncode == 0
    assert done.stderr.splitlines()[-2:] == [
        "Tests with the Node SDKs are skipped: there is no npm; to install it, type",
        f"    {SUDO}apt-get install -y nodejs npm",
    ]
    assert "npm" not in machine.call("setup").stderr


def test_the_node_sdks_are_installed_once_as_locked_and_without_their_scripts(machine: Machine) -> None:
    machine.add("python3")
    npm = machine.programs / "npm"
    npm.write_text(f'#!/bin/sh\necho "npm $*" >>"{machine.log}"\nmkdir -p "$2/node_modules"\n')
    npm.chmod(0o755)

    machine.call("setup", "test")
    machine.call("setup", "test")
    asked = [line for line in machine.asked() if line.startswith("npm")]
    with open(machine.checkout / "tests/node/package-lock.json", "a") as out:
        out.write("\n")
    machine.call("setup", "test")

    assert len(asked) == 1
    assert asked[0].startswith(f"npm --prefix {machine.checkout}/tests/node ci --ignore-scripts")
    assert len([line for line in machine.asked() if line.startswith("npm")]) == 2


def test_node_sdks_that_cannot_be_installed_stop_nobody_but_ci(machine: Machine) -> None:
    machine.add("python3")
    (machine.programs / "npm").write_text("#!/bin/sh\nexit 1\n")
    (machine.programs / "npm").chmod(0o755)

    done = machine.call("setup", "test")

    assert done.returncode == 0
    assert done.stderr.endswith("npm could not install them (see above).\n")
    assert machine.call("setup", "test", ci=True).returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can install packages without being asked")
def test_ci_gets_npm_installed_as_root(machine: Machine) -> None:
    machine.add("python3")
    apt_get = machine.programs / "apt-get"
    npm = f'#!/bin/sh\necho npm "$3" >>"{machine.log}"\nmkdir -p "$2/node_modules"\n'
    apt_get.write_text(
        f'#!/bin/sh\necho "apt-get $*" >>"{machine.log}"\n'
        f'cat >"{machine.programs}/npm" <<\'END\'\n{npm}END\nchmod +x "{machine.programs}/npm"\n'
    )
    apt_get.chmod(0o755)

    done = machine.call("setup", "test", ci=True)

    assert done.returncode == 0, done.stderr
    assert machine.asked()[-3:] == [
        "apt-get update -q",
        "apt-get install -y -q --no-install-recommends nodejs npm",
        "npm ci",
    ]


def test_the_two_commands_of_the_readme_are_these_scripts(machine: Machine) -> None:
    machine.add("python3")
    [block] = blocks_of("scripts")

    commands = [line.split()[0] for line in block.text.splitlines() if not line.startswith(" ")]

    assert commands == ["scripts/run", "scripts/test"]  # the second one is what runs this test
    assert all(os.access(ROOT / command, os.X_OK) for command in (*commands, "scripts/lint", "scripts/setup"))
    assert machine.call("run").stdout.splitlines()[1] == "run"
