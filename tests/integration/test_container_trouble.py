"""What goes wrong with containers: each is told with the way out, and the others run on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from actors.addresses import AGENT
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import StopModule
from runtime.cli.main import invoke
from tests.docker_image import why_no_private_engine
from tests.integration.container_edge import ContainerEdge, health_check, make_ill
from tests.integration.containers import PrivateEngine, container
from tests.integration.edge_process import EdgeProcess, shell
from tests.integration.registry import Registry

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker

SLEEP = ("sleep", "1000")
POLICIES = ("never", "on-failure", "on-unhealthy", "always")


@pytest.fixture
def edge(container_edge: ContainerEdge) -> ContainerEdge:
    return container_edge


def explained(edge: EdgeProcess, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `edge-actors explain` tells of a module."""
    assert invoke(["explain", name, "--home", str(edge.home)]) == 0
    return capsys.readouterr().out


# What each policy makes of each cause: the status that follows, and whether the module was started again.
TABLE = {
    "clean": {"never": "stopped", "on-failure": "stopped", "on-unhealthy": "stopped", "always": "again"},
    "crash": {"never": "failed", "on-failure": "again", "on-unhealthy": "again", "always": "again"},
    "killed": {"never": "failed", "on-failure": "again", "on-unhealthy": "again", "always": "again"},
    "removed": {"never": "failed", "on-failure": "again", "on-unhealthy": "again", "always": "again"},
    "ill": {"never": "unhealthy", "on-failure": "again", "on-unhealthy": "again", "always": "again"},
}


def test_each_policy_does_what_it_says_after_each_cause(
    edge: ContainerEdge, docker_image: str, engine_client: APIClient
) -> None:
    modules: dict[str, Any] = {}
    for cause, by_policy in TABLE.items():
        for policy in by_policy:
            module = container(docker_image, *SLEEP, restartPolicy=policy)
            if cause == "ill":
                module = health_check(docker_image, restartPolicy=policy)
            elif cause in ("clean", "crash"):
                code = 0 if cause == "clean" else 3
                # Ends in its first run alone: what it writes outlives a restart.
                script = f"test -e /ran && exec sleep 1000; echo >/ran; sleep 1; exit {code}"
                module = container(docker_image, "sh", "-c", script, restartPolicy=policy)
            modules[f"{cause}-{policy}"] = module
    edge.deploy(modules)
    edge.start(grace_s="1")
    edge.wait_until(lambda now: all(now[name]["since_s"] for name in modules))

    for policy in POLICIES:
        engine_client.kill(edge.containers()[f"killed-{policy}"]["Id"])
        engine_client.remove_container(edge.containers()[f"removed-{policy}"]["Id"], force=True)
        make_ill(edge, f"ill-{policy}")

    def is_as_it_says(now: dict[str, dict[str, Any]]) -> bool:
        for cause, by_policy in TABLE.items():
            for policy, expected in by_policy.items():
                module = now[f"{cause}-{policy}"]
                if expected == "again":
                    if (module["status"], module["restarts"]) != ("running", 1):
                        return False
                elif (module["status"], module["restarts"]) != (expected, 0):
                    return False
        return True

    edge.wait_until(is_as_it_says)


@pytest.mark.slow
def test_twenty_modules_are_started_at_once(edge: ContainerEdge, docker_image: str) -> None:
    names = [f"many{number}" for number in range(20)]
    edge.deploy({name: container(docker_image, *SLEEP) for name in names})

    edge.start()

    edge.wait_for(**dict.fromkeys(names, "running"))
    assert len(edge.containers()) == 20


def test_five_modules_with_local_images_are_deployed_without_a_registry(
    edge: ContainerEdge, docker_image: str
) -> None:
    names = [f"five{number}" for number in range(5)]
    edge.deploy({name: container(docker_image, *SLEEP) for name in names})
    began_s = time.monotonic()

    edge.start()
    edge.wait_for(**dict.fromkeys(names, "running"))

    # The aim is 4 s on an idle machine; what a busy one makes of it is no fault.
    print(f"five modules ran after {time.monotonic() - began_s:.2f} s, load {os.getloadavg()[0]:.0f}")


def test_a_crashed_module_is_back_at_once_while_another_image_is_pulled_slowly(
    edge: ContainerEdge, docker_image: str, engine_client: APIClient
) -> None:
    with Registry(engine_client, docker_image) as registry:
        edge.deploy({"slow": container(registry.image, *SLEEP), "pump": container(docker_image, *SLEEP)})
        edge.start()
        before = edge.wait_until(
            lambda now: now["pump"]["status"] == "running" and "being pulled" in now["slow"]["description"]
        )["pump"]["pid"]
        began_s = time.monotonic()
        engine_client.kill(edge.containers()["pump"]["Id"])
        edge.wait_until(lambda now: now["pump"]["pid"] not in (0, before))
        took_s = time.monotonic() - began_s
        assert "being pulled" in edge.modules()["slow"]["description"]
        registry.go_on()
        edge.wait_for(slow="running")
        engine_client.remove_image(registry.image, force=True)

    print(f"docker kill to running beside a pull: {took_s:.3f} s")
    assert took_s < 2.0  # 0.7 s on an idle machine


def test_want_of_memory_is_told(
    edge: ContainerEdge, docker_image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hungry = ("python3", "-c", "held = [bytearray(1 << 20) for _ in range(400)]")
    limit = {"Memory": 32 << 20, "MemorySwap": 32 << 20}
    edge.deploy({"hungry": container(docker_image, *hungry, host=limit, restartPolicy="never")})

    edge.start()

    listed = edge.wait_for(hungry="failed")["hungry"]
    assert listed["out_of_memory"]
    assert "killed for want of memory (HostConfig.Memory" in listed["description"]
    assert "HostConfig.Memory of its createOptions" in explained(edge, "hungry", capsys)


def test_a_folder_that_is_missing_and_the_home_are_not_bound(
    edge: ContainerEdge, docker_image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"Mounts": [{"Type": "bind", "Source": "/no/such/folder", "Target": "/x"}]}
    home = {"Binds": [f"{edge.home}:/x"]}
    edge.deploy(
        {
            "missing": container(docker_image, *SLEEP, host=missing),
            "curious": container(docker_image, *SLEEP, host=home),
            "pump": container(docker_image, *SLEEP),
        }
    )

    edge.start()

    edge.wait_for(pump="running")
    listed = edge.wait_for(missing="backoff", curious="backoff", pump="running")
    assert "/no/such/folder" in listed["missing"]["description"]
    assert "createOptions" in listed["missing"]["description"]
    assert "with its keys, would be visible" in listed["curious"]["description"]
    assert set(edge.containers()) == {"pump"}
    assert "bind a folder that has nothing to do with it" in explained(edge, "curious", capsys)


def test_rights_over_the_machine_are_left_out_where_the_device_says_so(
    edge: ContainerEdge,
    docker_image: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A machine that is a container itself often cannot give more than these.
    wanted = {"PidMode": "host", "IpcMode": "host", "Memory": 64 << 20}
    edge.deploy({"pump": container(docker_image, *SLEEP, host=wanted)})
    edge.start()
    before = edge.wait_for(pump="running")["pump"]["pid"]
    given = edge.inspect("pump")["HostConfig"]
    assert (given["PidMode"], given["IpcMode"]) == ("host", "host")

    wanted |= {"Privileged": True, "CapAdd": ["NET_ADMIN"]}
    edge.deploy({"pump": container(docker_image, *SLEEP, host=wanted)})
    monkeypatch.setenv("EDGE_ACTORS_ALLOW_ELEVATED_DOCKER_PERMISSIONS", "false")
    edge.started_again()
    edge.wait_until(lambda now: now["pump"]["pid"] not in (0, before))

    given = edge.inspect("pump")["HostConfig"]
    assert (given["Privileged"], given["CapAdd"], given["PidMode"]) == (False, None, "")
    assert given["Memory"] == 64 << 20
    told = explained(edge, "pump", capsys)
    assert "HostConfig.Privileged is left out: this device does not allow it" in told


def test_a_log_is_rotated_unless_the_deployment_says_otherwise(
    edge: ContainerEdge, docker_image: str
) -> None:
    own = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}}
    edge.deploy({"pump": container(docker_image, *SLEEP), "own": container(docker_image, *SLEEP, host=own)})

    edge.start()

    edge.wait_for(pump="running", own="running")
    assert edge.inspect("own")["HostConfig"]["LogConfig"] == own["LogConfig"]
    rotated = edge.inspect("pump")["HostConfig"]["LogConfig"]
    assert rotated["Config"] == {"max-size": "10m", "max-file": "3"}


def test_a_container_that_somebody_removed_comes_back(edge: ContainerEdge, docker_image: str) -> None:
    edge.deploy({"pump": container(docker_image, *SLEEP), "valve": container(docker_image, *SLEEP)})
    edge.start()
    edge.wait_for(pump="running", valve="running")
    before = edge.containers()["pump"]["Id"]

    subprocess.run(["docker", "rm", "-f", before], check=True, capture_output=True)

    edge.wait_for_containers(lambda now: now.get("pump", {}).get("Id") not in (None, before))
    edge.wait_for(pump="running", valve="running")


def test_an_image_for_another_cpu_is_told_and_not_started(
    edge: ContainerEdge, docker_image: str, engine_client: APIClient
) -> None:
    name = f"edge-actors-test-other-cpu:{uuid.uuid4().hex[:8]}"
    load_image_for(engine_client, "s390x", name)
    edge.deploy({"other": container(name, *SLEEP), "pump": container(docker_image, *SLEEP)})

    edge.start()

    listed = edge.wait_for(other="backoff", pump="running")
    engine_client.remove_image(name)
    assert f"image '{name}' is for another CPU: s390x" in listed["other"]["description"]


def load_image_for(engine_client: APIClient, architecture: str, name: str) -> None:
    """Load an empty image that is said to be for a CPU."""
    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    diff_id = f"sha256:{sha256(layer.getvalue()).hexdigest()}"
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = {"architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    for line in engine_client.load_image(archive.getvalue()):
        assert "error" not in line, line


def test_what_exits_for_ever_and_what_ignores_sigterm_are_explained(
    edge: ContainerEdge, docker_image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    edge.deploy(
        {
            "broken": container(docker_image, "sh", "-c", "echo no valve found; exit 3"),
            "stubborn": container(docker_image, *stubborn),
            "pump": container(docker_image, *SLEEP),
        }
    )
    edge.start(grace_s="1")
    edge.wait_until(lambda now: "crash 2 in a row" in now["broken"]["description"])
    edge.wait_for(stubborn="running", pump="running")

    told = explained(edge, "broken", capsys)
    for words in ("exit code 3", "next start", "no valve found", "edge-actors restart broken"):
        assert words in told

    edge.ask(AGENT, StopModule("stubborn"), ModuleReported, timeout_s=20.0)
    assert edge.modules()["pump"]["status"] == "running"
    assert "stopped" in explained(edge, "stubborn", capsys)
    assert "module stubborn did not end when asked with SIGTERM, and was killed" in edge.log.read_text()


def test_a_container_of_another_user_reaches_its_workload_socket(
    edge: ContainerEdge, docker_image: str
) -> None:
    ask = """
import http.client, os, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(os.environ["IOTEDGE_WORKLOADURI"].removeprefix("unix://"))
connection.request("GET", "/trust-bundle?api-version=2022-08-03")
print(os.getuid(), connection.getresponse().status)
"""
    module = container(docker_image, "python3", "-c", ask, restartPolicy="never")
    options = json.loads(module["settings"]["createOptions"]) | {"User": "1234:1234"}
    module["settings"]["createOptions"] = json.dumps(options)
    edge.deploy({"pump": module})

    edge.start()

    edge.wait_for(pump="stopped")
    assert edge.client.logs(edge.containers()["pump"]["Id"]) == b"1234 200\n"


def test_a_full_disk_during_a_pull_is_told_with_the_way_out(
    docker_image: str, engine_client: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = why_no_private_engine()
    if reason is not None:
        pytest.skip(reason)
    small = PrivateEngine()
    data = small.folder / "data"
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(data)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        small.close()
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.decode()}")
    edge = EdgeProcess()
    try:
        with Registry(engine_client, docker_image) as registry:
            registry.go_on()
            monkeypatch.setenv("DOCKER_HOST", small.host)
            small.start()
            edge.deploy({"pump": container(registry.image, *SLEEP), "sensor": shell("exec sleep 99")})
            edge.start()
            listed = edge.wait_until(
                lambda now: "pulled:" in now["pump"]["description"] and now["sensor"]["status"] == "running"
            )
        assert "the disk of Docker Engine is full" in listed["pump"]["description"]
        assert "docker system prune" in listed["pump"]["description"]
    finally:
        edge.close()
        if small.is_running:
            small.stop()
        subprocess.run(["umount", str(data)], check=False)
        small.close()
