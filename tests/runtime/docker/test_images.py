from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from actors.manifest.module_spec import DockerSettings, ImagePullPolicy, ModuleSpec
from actors.manifest.registries import RegistryCredential
from messaging.errors import ConfigError, ImageRefused
from runtime.docker.image_use import ImageUse
from runtime.docker.images import ContainerImages, pull_image

A, B, C = (f"sha256:{digit * 64}" for digit in "abc")
IMAGE = "reg.io/pump:1"
PUMP = ModuleSpec("pump", DockerSettings(IMAGE))
NEVER = ModuleSpec("pump", DockerSettings(IMAGE), image_pull_policy=ImagePullPolicy.NEVER)
ACCOUNT = RegistryCredential("reg.io", "ann", "hush")


class FakeClient:
    """An engine with one image at most, and a registry that may have another one of that name."""

    def __init__(self, local: str = "", registry: str = "", lines: tuple[dict[str, Any], ...] = ()) -> None:
        self.local = local  # digest of the image here, "" for none; its id is the same
        self.registry = registry  # digest of the image there, "" when it does not answer
        self.lines = lines  # what a pull says
        self.from_registry = True  # whether the image here was pulled
        self.architecture = ""
        self.pulled: list[Any] = []  # with which account each time
        self.asked: list[Any] = []

    def inspect_image(self, name: str) -> dict[str, Any]:
        from docker.errors import ImageNotFound

        if not self.local:
            raise ImageNotFound("no such image")
        digests = [f"reg.io/pump@{self.local}"] if self.from_registry else []
        return {"Id": self.local, "RepoDigests": digests, "Architecture": self.architecture}

    def inspect_distribution(self, name: str, *, auth_config: Any) -> dict[str, Any]:
        self.asked.append(auth_config)
        if not self.registry:
            raise ConnectionError("connection refused")
        return {"Descriptor": {"digest": self.registry}}

    def pull(self, image: str, *, stream: bool, decode: bool, auth_config: Any) -> list[dict[str, Any]]:
        assert stream
        assert decode
        self.pulled.append(auth_config)
        if self.registry:
            self.local = self.registry
            return list(self.lines)
        return [{"error": "dial tcp: connection\nrefused", "errorDetail": {}}]


@pytest.fixture
def images(tmp_path: Path) -> ContainerImages:
    return ContainerImages(ImageUse(tmp_path / "images.json"))


def have(images: ContainerImages, client: FakeClient, module: ModuleSpec = PUMP) -> str:
    return str(images.have(client, module, lambda _: None)["Id"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("local", "registry", "from_registry", "module", "runs", "pulls"),
    [
        ("", A, True, PUMP, A, 1),
        (A, A, True, PUMP, A, 0),
        (A, B, True, PUMP, B, 1),
        (A, "", True, PUMP, A, 0),
        (A, B, False, PUMP, A, 0),
        (A, B, True, NEVER, A, 0),
    ],
    ids=[
        "not here",
        "here, and the newest",
        "the registry has another",
        "the registry is away",
        "made on this machine",
        "never to be pulled",
    ],
)
def test_the_image_of_a_new_container_follows_the_pull_policy(
    images: ContainerImages,
    local: str,
    registry: str,
    from_registry: bool,
    module: ModuleSpec,
    runs: str,
    pulls: int,
) -> None:
    client = FakeClient(local, registry)
    client.from_registry = from_registry

    assert (have(images, client, module), len(client.pulled)) == (runs, pulls)


@pytest.mark.parametrize(
    ("local", "registry", "digest", "runs"),
    [(A, "", A, True), (A, B, B, True), (A, B, C, False), (A, "", B, False), ("", A, B, False)],
    ids=[
        "the right one",
        "the right one is fetched",
        "the registry's is wrong too",
        "offline",
        "pulled, wrong",
    ],
)
def test_an_image_with_another_digest_is_refused(
    images: ContainerImages, local: str, registry: str, digest: str, runs: bool
) -> None:
    client = FakeClient(local, registry)
    pinned = ModuleSpec("pump", DockerSettings(IMAGE, digest=digest))

    if runs:
        assert have(images, client, pinned) == digest
        return
    with pytest.raises(ImageRefused, match=f"pins {digest}"):
        have(images, client, pinned)


def test_the_account_of_the_registry_is_used_for_questions_and_pulls(images: ContainerImages) -> None:
    client = FakeClient(A, B)
    images.credentials = (ACCOUNT,)

    have(images, client)

    account = {"username": "ann", "password": "hush", "serveraddress": "reg.io"}
    assert (client.asked, client.pulled) == ([account], [account])


def test_a_registry_is_asked_once_a_minute_at_most(images: ContainerImages) -> None:
    client = FakeClient(A, A)

    have(images, client)
    have(images, client)

    assert len(client.asked) == 1


def test_an_image_for_another_cpu_is_refused_with_both_names(images: ContainerImages) -> None:
    client = FakeClient(A, A)
    client.architecture = "s390x"

    with pytest.raises(ConfigError, match="is for another CPU: s390x, and this machine is "):
        have(images, client)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is about this CPU")
def test_an_image_for_an_older_cpu_of_the_family_runs(images: ContainerImages) -> None:
    client = FakeClient(A, A)
    client.architecture = "386"

    assert have(images, client) == A


@pytest.mark.parametrize(
    ("local", "current"), [(A, True), (B, False), ("", True)], ids=["same", "another by now", "name gone"]
)
def test_a_container_is_made_anew_when_its_name_means_another_image_by_now(
    images: ContainerImages, local: str, current: bool
) -> None:
    assert images.is_current(FakeClient(local), DockerSettings(IMAGE), A) is current  # type: ignore[arg-type]


def test_the_digest_of_a_container_is_compared_before_each_start(images: ContainerImages) -> None:
    with pytest.raises(ImageRefused):
        images.is_current(FakeClient(A), DockerSettings(IMAGE, digest=B), A)  # type: ignore[arg-type]


def test_what_was_pulled_is_remembered_and_what_was_here_is_not(tmp_path: Path) -> None:
    use = ImageUse(tmp_path / "images.json")
    images = ContainerImages(use)

    have(images, FakeClient(A, A))
    have(images, FakeClient("", B))

    assert {key: one.names for key, one in use.read().pulled.items()} == {B: [IMAGE]}


def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
    return {"status": "Downloading", "id": layer, "progressDetail": {"current": current, "total": total}}


def test_a_pull_says_how_far_it_is_over_all_layers() -> None:
    said: list[str] = []
    client = FakeClient(
        registry=A,
        lines=(
            {"status": "Pulling from pump", "id": "1"},
            downloading("a", 1_000_000, 4_000_000),
            downloading("b", 500_000, 6_000_000),
            downloading("a", 4_000_000, 4_000_000),
            {"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 9}},
            {"status": "Pull complete", "id": "a", "progressDetail": {}},
        ),
    )

    pull_image(client, PUMP, said.append)  # type: ignore[arg-type]

    pulling = f"image '{IMAGE}' is being pulled"
    assert said == [
        pulling,
        f"{pulling}: 1.0 of 4.0 MB",
        f"{pulling}: 1.5 of 10.0 MB",
        f"{pulling}: 4.5 of 10.0 MB",
    ]


def test_a_pull_that_breaks_off_is_told_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        pull_image(FakeClient(), PUMP, lambda _: None)  # type: ignore[arg-type]

    assert str(caught.value) == (
        f"module 'pump': image '{IMAGE}' could not be pulled: registry reg.io does not answer; see to it or "
        "to the network, and the pull is tried again; the engine says: dial tcp: connection refused"
    )


def test_an_image_that_is_never_to_be_pulled_is_not() -> None:
    client = FakeClient()

    with pytest.raises(ConfigError, match="imagePullPolicy is 'never'; pull it"):
        pull_image(client, NEVER, lambda _: None)  # type: ignore[arg-type]

    assert client.pulled == []
