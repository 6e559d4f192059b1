"""Images of modules: a registry with a password, digests, preparation, garbage collection."""

from __future__ import annotations

import queue
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from actors.addresses import AGENT
from actors.agent.module_report import ModuleReported
from actors.agent.supervisor_messages import RestartModule
from actors.manifest.module_spec import DockerSettings, ImagePullPolicy, ModuleSpec
from actors.manifest.registries import RegistryCredential
from actors.ports.modules import Preparation
from runtime.cli.main import invoke
from runtime.docker.engine import DockerEngine
from runtime.docker.image_collector import CollectionTimes, ImageCollector
from runtime.docker.image_use import ImageUse
from runtime.docker.maker import ContainerNames
from runtime.docker.runtime import DockerRuntime
from tests.docker_image import why_no_private_engine
from tests.integration.container_edge import ContainerEdge
from tests.integration.containers import container
from tests.integration.edge_process import LIMIT_S, shell
from tests.integration.private_registry import (
    PASSWORD,
    USER,
    PrivateRegistry,
    another_image,
    why_no_registry,
)

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.docker

SLEEP = ("sleep", "1000")
EVERY_TIME_S = 0.0


@pytest.fixture
def edge(container_edge: ContainerEdge) -> ContainerEdge:
    return container_edge


@pytest.fixture
def registry(engine_client: APIClient) -> Iterator[PrivateRegistry]:
    reason = why_no_registry()
    if reason is not None:
        pytest.skip(reason)
    made = PrivateRegistry()
    made.start()
    yield made
    made.close()
    from docker.errors import APIError

    for found in engine_client.images():
        for name in found["RepoTags"] or ():
            if name.startswith(made.address):
                with suppress(APIError):  # a container that a failed test left
                    engine_client.remove_image(name, force=True)


@pytest.fixture
def pump(registry: PrivateRegistry, engine_client: APIClient, docker_image: str) -> str:
    """An image that only the registry has."""
    return registry.push(
        engine_client, another_image(engine_client, docker_image, uuid.uuid4().hex), "pump:1"
    )


def test_an_image_is_pulled_with_the_account_of_the_deployment(
    edge: ContainerEdge, registry: PrivateRegistry, pump: str
) -> None:
    edge.deploy({"pump": container(pump, *SLEEP)})
    edge.give_account(registry.address, USER, PASSWORD)

    edge.start()

    image_id = edge.wait_for(pump="running")["pump"]["image_id"]
    assert image_id == edge.inspect("pump")["Image"]
    assert PASSWORD not in edge.log.read_text()


@pytest.mark.parametrize(
    ("password", "words"),
    [("wrong", f"refuses user '{USER}'; fix user name and password"), (None, "wants an account for it")],
    ids=["wrong password", "no account"],
)
def test_who_may_not_pull_is_told_what_to_fix_and_the_others_run(
    edge: ContainerEdge,
    registry: PrivateRegistry,
    pump: str,
    docker_image: str,
    password: str | None,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edge.deploy(
        {
            "pump": container(pump, *SLEEP),
            "valve": container(docker_image, *SLEEP),
            "sensor": shell("exec sleep 99"),
        }
    )
    if password is not None:
        edge.give_account(registry.address, USER, password)

    edge.start()

    edge.wait_for(valve="running", sensor="running")
    said = edge.wait_until(lambda now: "pulled:" in now["pump"]["description"])["pump"]["description"]
    assert f"image '{pump}' could not be pulled: registry {registry.address} {words}" in said
    assert "registryCredentials in the deployment" in said
    assert invoke(["explain", "pump", "--home", str(edge.home)]) == 0
    told = capsys.readouterr().out
    assert words in told
    assert "wrong" not in told


@pytest.mark.parametrize(
    ("of_device", "of_deployment", "may_pull"),
    [(PASSWORD, None, True), ("wrong", PASSWORD, True), (PASSWORD, "wrong", False)],
    ids=["of the device alone", "a deployment's wins", "a deployment's wins when it is wrong, too"],
)
@pytest.mark.slow
def test_an_account_of_the_device_serves_registries_that_the_deployment_has_none_for(
    edge: ContainerEdge,
    registry: PrivateRegistry,
    pump: str,
    of_device: str,
    of_deployment: str | None,
    may_pull: bool,
) -> None:
    edge.deploy({"pump": container(pump, *SLEEP)})
    if of_deployment is not None:
        edge.give_account(registry.address, USER, of_deployment)
    edge.home.mkdir(mode=0o700, exist_ok=True)
    config = edge.home / "config.toml"
    config.touch(0o600)
    config.write_text(
        f"""[registry_credentials.plant]
address = "{registry.address}"
username = "{USER}"
password = "{of_device}"
"""
    )

    edge.start()

    if may_pull:
        edge.wait_for(pump="running")
    else:
        said = edge.wait_until(lambda now: "pulled:" in now["pump"]["description"])["pump"]["description"]
        assert "or [registry_credentials] in config.toml" in said
    assert PASSWORD not in edge.log.read_text()


def test_a_registry_whose_certificate_is_not_trusted_is_told_and_used_once_it_is(
    edge: ContainerEdge, engine_client: APIClient, docker_image: str
) -> None:
    reason = why_no_registry() or why_no_private_engine()
    if reason is not None:
        pytest.skip(reason)
    # On 127.0.0.1 an engine trusts anybody.
    [network] = engine_client.inspect_network("bridge")["IPAM"]["Config"]
    registry = PrivateRegistry(str(next(ip_network(network["Subnet"]).hosts())))
    trusted = Path("/etc/docker/certs.d") / registry.address
    try:
        registry.start()
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_text(registry.certificate)
        pump = registry.push(
            engine_client, another_image(engine_client, docker_image, uuid.uuid4().hex), "pump:1"
        )
        (trusted / "ca.crt").unlink()
        edge.deploy({"pump": container(pump, *SLEEP), "valve": container(docker_image, *SLEEP)})
        edge.give_account(registry.address, USER, PASSWORD)

        edge.start()

        edge.wait_for(valve="running")
        listed = edge.wait_until(lambda now: "pulled:" in now["pump"]["description"])
        assert f"put its CA into {trusted}/ca.crt" in listed["pump"]["description"]

        (trusted / "ca.crt").write_text(registry.certificate)
        edge.ask(AGENT, RestartModule("pump"), ModuleReported, timeout_s=LIMIT_S)
        edge.wait_for(pump="running")
    finally:
        registry.close()
        shutil.rmtree(trusted, ignore_errors=True)


@pytest.mark.slow
def test_a_registry_that_is_down_keeps_nobody_from_the_image_that_is_here(
    edge: ContainerEdge, registry: PrivateRegistry, pump: str
) -> None:
    edge.deploy({"pump": container(pump, *SLEEP)})
    edge.give_account(registry.address, USER, PASSWORD)
    edge.start()
    edge.wait_for(pump="running")
    before = edge.containers()["pump"]["Id"]
    registry.stop()
    edge.deploy({"pump": container(pump, *SLEEP, env={"RATE": {"value": 2}})})

    edge.started_again()

    edge.wait_for_containers(lambda now: "pump" in now and now["pump"]["Id"] != before)
    edge.wait_for(pump="running")


@pytest.mark.slow
def test_another_image_behind_the_same_name_is_fetched_for_a_new_container(
    edge: ContainerEdge, registry: PrivateRegistry, pump: str, engine_client: APIClient, docker_image: str
) -> None:
    edge.deploy({"pump": container(pump, *SLEEP)})
    edge.give_account(registry.address, USER, PASSWORD)
    edge.start()
    before = edge.wait_for(pump="running")["pump"]["image_id"]
    engine_client.tag(before, "edge-actors-test-kept:1")  # so that the push does not take it from the module
    newer = another_image(engine_client, docker_image, uuid.uuid4().hex)
    engine_client.tag(newer, pump, force=True)
    for line in engine_client.push(
        pump, stream=True, decode=True, auth_config={"username": USER, "password": PASSWORD}
    ):
        assert "error" not in line
    engine_client.tag(before, pump, force=True)
    edge.deploy({"pump": container(pump, *SLEEP, version="2")})
    edge.give_account(registry.address, USER, PASSWORD)

    edge.started_again()

    edge.wait_until(lambda now: now["pump"]["image_id"] == newer and now["pump"]["status"] == "running")
    engine_client.remove_image("edge-actors-test-kept:1")


def test_another_image_that_is_here_by_that_name_is_noticed_at_the_next_start(
    edge: ContainerEdge, engine_client: APIClient, docker_image: str
) -> None:
    name = f"edge-actors-test-moving:{uuid.uuid4().hex[:8]}"
    engine_client.tag(docker_image, name)
    edge.deploy({"pump": container(name, *SLEEP)})
    edge.start()
    edge.wait_for(pump="running")
    newer = another_image(engine_client, docker_image, uuid.uuid4().hex)
    engine_client.tag(newer, name, force=True)

    engine_client.kill(edge.containers()["pump"]["Id"])

    edge.wait_until(lambda now: now["pump"]["image_id"] == newer and now["pump"]["status"] == "running")
    engine_client.remove_image(name, force=True)


def test_an_image_with_another_digest_is_not_started_and_the_right_one_is(
    edge: ContainerEdge,
    registry: PrivateRegistry,
    pump: str,
    engine_client: APIClient,
    docker_image: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    account = {"username": USER, "password": PASSWORD}
    right = engine_client.inspect_distribution(pump, auth_config=account)["Descriptor"]["digest"]
    wrong = f"sha256:{'0' * 64}"
    modules = {
        "right": container(pump, *SLEEP),
        "wrong": container(pump, *SLEEP),
        "named": container(f"{pump.rpartition(':')[0]}@{right}", *SLEEP),
        "valve": container(docker_image, *SLEEP),
    }
    modules["right"]["settings"]["digest"] = right
    modules["wrong"]["settings"]["digest"] = wrong
    edge.deploy(modules)
    edge.give_account(registry.address, USER, PASSWORD)

    edge.start()

    listed = edge.wait_for(right="running", named="running", valve="running", wrong="failed")
    assert f"pins {wrong}" in listed["wrong"]["description"]
    assert "wrong" not in edge.containers()
    assert invoke(["explain", "wrong", "--home", str(edge.home)]) == 0
    assert "fix settings.digest or settings.image" in capsys.readouterr().out


# --- what the agent asks the module runtime for ---


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[DockerRuntime]:
    home_id = uuid.uuid4().hex[:8]
    names = ContainerNames(home_id, "test", "edgeHub", tmp_path)
    made = DockerRuntime(names, tmp_path / "containers.json", environment=lambda module, access: {})
    yield made
    made.close()


def prepared(
    containers: DockerRuntime, modules: list[ModuleSpec], account: RegistryCredential
) -> tuple[Preparation, list[str]]:
    """Return how a preparation ended, and what it said meanwhile."""
    told: queue.Queue[Preparation] = queue.Queue()
    containers.prepare(modules, [account], told.put)
    doing = []
    while True:
        one = told.get(timeout=LIMIT_S)
        if one.is_done:
            return one, doing
        doing.append(one.doing)


def test_everything_is_fetched_before_anything_is_switched(
    containers: DockerRuntime,
    registry: PrivateRegistry,
    pump: str,
    engine_client: APIClient,
    docker_image: str,
) -> None:
    modules = [
        ModuleSpec("pump", DockerSettings(pump)),
        ModuleSpec("twin", DockerSettings(pump)),
        ModuleSpec("valve", DockerSettings(docker_image)),
        ModuleSpec("gone", DockerSettings(f"{registry.address}/no-such:1")),
        ModuleSpec("never", DockerSettings("no-such:1"), image_pull_policy=ImagePullPolicy.NEVER),
    ]

    done, doing = prepared(containers, modules, RegistryCredential(registry.address, USER, PASSWORD))

    assert engine_client.inspect_image(pump)["Id"]
    assert set(done.problems) == {"gone", "never"}
    assert "does not have it" in done.problems["gone"]
    assert any(f"image '{pump}' is being pulled" in text for text in doing)
    assert done.outdated == frozenset()


def test_images_nobody_uses_go_and_those_of_this_and_the_previous_deployment_stay(
    tmp_path: Path,
    containers: DockerRuntime,
    registry: PrivateRegistry,
    engine_client: APIClient,
    docker_image: str,
) -> None:
    from docker.errors import ImageNotFound

    names = [
        registry.push(
            engine_client, another_image(engine_client, docker_image, uuid.uuid4().hex), f"{name}:1"
        )
        for name in ("old", "before", "now", "used", "theirs")
    ]
    old, before, now, used, theirs = names
    account = RegistryCredential(registry.address, USER, PASSWORD)
    by_name = {name: ModuleSpec("m", DockerSettings(name)) for name in names}
    for name in (old, before, now, used):
        done, _ = prepared(containers, [by_name[name]], account)
        assert done.problems == {}
    for line in engine_client.pull(
        theirs, stream=True, decode=True, auth_config={"username": USER, "password": PASSWORD}
    ):
        assert "error" not in line
    made = engine_client.create_container(used, ["sleep", "1"])
    for name in (old, before, now):
        containers.deployed([by_name[name]], [account])

    engine = DockerEngine("none", on_event=lambda _: None, on_away=lambda: None, on_back=lambda: None)
    use = ImageUse(tmp_path / "images.json")
    ImageCollector(engine, use, CollectionTimes(1.0, EVERY_TIME_S)).collect()
    engine.close()

    with pytest.raises(ImageNotFound):
        engine_client.inspect_image(old)
    for name in (before, now, used, theirs):
        assert engine_client.inspect_image(name)["Id"]
    engine_client.remove_container(made["Id"])
