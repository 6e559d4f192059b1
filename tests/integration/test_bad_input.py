"""What a user can do wrong when starting an edge: exact message, exit code, and a home that is as it was."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.run_directory import RunDirectory
from tests.integration.edge_program import SAMPLE, EdgeProgram
from tests.integration.sdk_clients import loopback_address

DESIRED = "$.modulesContent.$edgeAgent['properties.desired']"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProgram]:
    edge = EdgeProgram(tmp_path / "home")
    yield edge
    edge.close()


def refused(edge: EdgeProgram, *arguments: str) -> tuple[int, str]:
    """Run the edge, which must not start; return exit code and message."""
    done = edge.run("run", *arguments)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not RunDirectory.of(edge.home).path.exists()
    return done.returncode, done.stderr.removeprefix("error: ").rstrip("\n")


def agent_of(manifest: Any) -> Any:
    return manifest["modulesContent"]["$edgeAgent"]["properties.desired"]


def hub_module_of(manifest: Any) -> Any:
    return agent_of(manifest)["systemModules"]["edgeHub"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda m: agent_of(m).update(schemaVersion="9.9"),
            f'{DESIRED}.schemaVersion: schema version "9.9" is not supported; supported: 1.0 and 1.1',
            id="schema version",
        ),
        pytest.param(
            lambda m: agent_of(m)["modules"]["filter"].pop("settings"),
            f'{DESIRED}.modules.filter: "settings" is missing',
            id="missing field",
        ),
        pytest.param(
            lambda m: agent_of(m)["modules"]["filter"].update(startupOrder="first"),
            f"{DESIRED}.modules.filter.startupOrder: expected a whole number from 0 to 4294967295, "
            'got "first"',
            id="mistyped field",
        ),
        pytest.param(
            lambda m: hub_module_of(m).update(status="runing"),
            f'{DESIRED}.systemModules.edgeHub.status: "runing" is not allowed; allowed: "running", '
            '"stopped", "unknown"; did you mean "running"?',
            id="unknown value",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_with_file_path_value_and_what_is_allowed(
    change: Callable[[Any], object], message: str, edge: EdgeProgram, tmp_path: Path
) -> None:
    manifest = json.loads(SAMPLE.read_text())
    change(manifest)
    file = tmp_path / "deployment.json"
    file.write_text(json.dumps(manifest))

    code, told = refused(edge, "--deployment", str(file))

    assert code == 2
    assert told.startswith(f"{file}: {message}")
    assert not edge.home.exists()


def test_a_manifest_that_is_not_json_is_refused_with_its_position(edge: EdgeProgram, tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    file.write_text('{"modulesContent": {,}}')

    code, told = refused(edge, "--deployment", str(file))

    assert (code, told.split(": Expecting")[0]) == (2, f"{file}: not JSON at line 1, column 21")
    assert not edge.home.exists()


def test_a_manifest_that_is_not_there_is_named(edge: EdgeProgram, tmp_path: Path) -> None:
    code, told = refused(edge, "--deployment", str(tmp_path / "none.json"))

    assert code == 2
    assert told == (
        f"deployment '{tmp_path}/none.json' cannot be read: No such file or directory; "
        "name a manifest with --deployment"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--listen", "localhost"), "--listen: 'localhost' is not allowed; allowed: ADDRESS[:PORT], such as"),
        (("--listen", "127.0.0.1:99999"), "--listen: '127.0.0.1:99999' is not allowed"),
        (("--home", ""), "--home: '' is not allowed; allowed: a path"),
        (("--for", "-1"), "invalid value for '--for': -1.0 is not in the range x>=0"),
    ],
)
def test_a_wrong_option_is_refused(arguments: tuple[str, ...], message: str, edge: EdgeProgram) -> None:
    code, told = refused(edge, "--deployment", str(SAMPLE), *arguments)

    assert code == 2
    assert told.startswith(message)
    assert not edge.home.exists()


def test_a_wrong_setting_in_the_environment_names_the_nearest(edge: EdgeProgram) -> None:
    edge.environment["EDGE_ACTORS_LOGLEVEL"] = "debug"

    code, told = refused(edge, "--deployment", str(SAMPLE))

    assert code == 2
    assert told == "EDGE_ACTORS_LOGLEVEL: no such setting; did you mean 'EDGE_ACTORS_LOG_LEVEL'?"


def test_a_port_in_use_names_its_holder(edge: EdgeProgram) -> None:
    with socket.create_server((edge.address, 8883)):
        code, told = refused(edge, "--deployment", str(SAMPLE))

    assert code == 1
    assert told.startswith(f"cannot listen on {edge.address}:8883: port 8883 is in use (pid {os.getpid()}, ")
    assert told.endswith("; stop that process, or choose another port with --listen")
    assert not edge.home.exists()


def test_an_address_of_another_machine_is_refused(edge: EdgeProgram) -> None:
    code, told = refused(edge, "--deployment", str(SAMPLE), "--listen", "192.0.2.1")

    assert code == 1
    assert told.startswith("cannot listen on 192.0.2.1:8883: 192.0.2.1 is not an address of this machine")


@pytest.mark.parametrize("below", ["", "/home"], ids=["the file", "below it"])
def test_a_home_that_is_a_file_is_refused_and_left_alone(edge: EdgeProgram, below: str) -> None:
    file = edge.home
    file.write_text("precious")
    edge.home = Path(f"{file}{below}")
    edge.environment["EDGE_ACTORS_HOME"] = str(edge.home)

    code, told = refused(edge, "--deployment", str(SAMPLE))

    assert (code, told) == (1, f"home {edge.home} is not a folder; choose another with --home")
    assert file.read_text() == "precious"
    file.unlink()


def test_a_home_that_cannot_be_written_is_refused(edge: EdgeProgram) -> None:
    edge.home = Path("/proc/edge-actors-home")  # not even root can make folders there
    edge.environment["EDGE_ACTORS_HOME"] = str(edge.home)

    code, told = refused(edge, "--deployment", str(SAMPLE))

    assert code == 1
    assert told.startswith(f"home {edge.home} cannot be created: ")
    assert told.endswith("; choose another folder with --home, or make it writable for this user")


def test_a_home_of_another_device_is_refused_and_left_alone(edge: EdgeProgram) -> None:
    edge.home.mkdir()
    (edge.home / "device.json").write_text('{"deviceId": "other"}')
    edge.environment["EDGE_ACTORS_DEVICE_ID"] = "mine"

    code, told = refused(edge, "--deployment", str(SAMPLE))

    assert code == 2
    assert f"the home {edge.home} belongs to device 'other'" in told
    assert [path.name for path in edge.home.iterdir()] == ["device.json"]


def test_a_home_longer_than_a_socket_path_works(tmp_path: Path) -> None:
    edge = EdgeProgram(tmp_path / ("long" * 50) / "home")
    edge.output = tmp_path / "output"
    try:
        edge.start()

        assert set(edge.modules()) == {"edgeAgent", "edgeCloud", "edgeHub", "filter", "sensor"}
    finally:
        edge.close()
    assert not edge.home.exists()


def test_a_second_edge_on_the_same_home_is_refused_and_the_first_runs_on(edge: EdgeProgram) -> None:
    edge.start()
    assert edge.process is not None
    pids = {name: module["pid"] for name, module in edge.modules().items()}

    done = edge.run("run", "--deployment", str(SAMPLE), "--listen", loopback_address())

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: another edge (pid {edge.process.pid}, started ")
    assert done.stderr.endswith(
        f") runs on home {edge.home}; stop it with `edge-actors down --home {edge.home}`\n"
    )
    assert {name: module["pid"] for name, module in edge.modules().items()} == pids


def test_what_is_wrong_with_one_route_or_module_leaves_the_rest_running(
    edge: EdgeProgram, tmp_path: Path
) -> None:
    manifest = json.loads(SAMPLE.read_text())
    hub = manifest["modulesContent"]["$edgeHub"]["properties.desired"]
    hub["routes"]["broken"] = "FROM /messages/* INTO $upstreem"
    agent_of(manifest)["modules"]["ghost"] = {
        **agent_of(manifest)["modules"]["filter"],
        "settings": {"command": ["no-such-program"]},
    }
    for sample in SAMPLE.parent.glob("*.py"):
        shutil.copy(sample, tmp_path)
    file = tmp_path / "deployment.json"
    file.write_text(json.dumps(manifest))
    edge.start_without_waiting(deployment=file)

    edge.wait_for_modules("running", {"edgeAgent", "edgeHub", "filter", "sensor"})

    ghost = edge.modules()["ghost"]
    assert ghost["status"] == "backoff"
    assert "command 'no-such-program' not found in PATH" in ghost["description"]
    routes = edge.json("routes")
    assert {route["name"] for route in routes["routes"]} == {"sensorToFilter", "filterToUpstream"}
    (left_out,) = routes["left_out"]
    assert left_out["name"] == "broken"
    assert left_out["problem"].startswith("line 1, column 23: ")
    assert (left_out["line"], left_out["column"]) == (1, 23)


def test_the_exit_code_reaches_the_shell() -> None:
    done = subprocess.run([sys.executable, "-m", "runtime.cli.main", "lst"], capture_output=True, check=False)

    assert done.returncode == 2
    assert done.stderr == b"error: there is no command 'lst'; did you mean 'list'?\n"
