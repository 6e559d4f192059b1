"""Has the image of a module on this machine before its container is made, and the right one.

`on-create` means: fetched when there is none, and for a new container again when its registry has another one
under that name meanwhile; a registry that is not to be had keeps nobody from running what is here. An image
that no registry ever gave (built or loaded on this machine) is not asked for. Starts and restarts of a
container ask nobody.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.manifest.image_digest import digest_problem, pinned_digests
from actors.manifest.module_spec import DockerSettings, ImagePullPolicy, ModuleSpec
from actors.manifest.registries import RegistryCredential, credential_for
from messaging.errors import ConfigError, ImageRefused
from runtime.docker.engine import explanation, in_background
from runtime.docker.image_use import ImageUse
from runtime.docker.pull_problems import pull_way_out

if TYPE_CHECKING:  # heavy
    from docker import APIClient

log = logging.getLogger(__name__)

MEGABYTE: Final = 1_000_000
ASK_LIMIT_S: Final = 2.0  # for a registry, when there is an image to go on with
FRESH_S: Final = 60.0  # for so long the answer of a registry is believed
BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
# What a CPU runs besides its own, and how the kernel calls it. Names as in GOARCH.
_RUNS_TOO: Final = {"amd64": ("386",), "arm64": ("arm",)}
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
_QEMU: Final = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}

Progress = Callable[[str], None]
Inspected = Mapping[str, Any]


class ContainerImages:
    """The images of one edge. Any thread may call; a call takes as long as a pull does."""

    def __init__(self, use: ImageUse) -> None:
        self._use = use
        self.credentials: tuple[RegistryCredential, ...] = ()  # of the deployment in force
        self._lock = threading.Lock()
        self._pulls: dict[str, threading.Lock] = {}
        self._asked: dict[str, float] = {}  # when its registry was asked, by image; monotonic seconds

    def have(
        self,
        client: APIClient,
        module: ModuleSpec,
        progress: Progress,
        credentials: Collection[RegistryCredential] | None = None,
    ) -> Inspected:
        """Return the image for a new container of a module, after fetching it when that is due.

        Args:
            client: Of the engine.
            module: Of type docker.
            progress: Told what takes its time, fit to be shown.
            credentials: Instead of those of the deployment in force.

        Raises:
            ConfigError: it is to be had nowhere, or is for another CPU; says why, and what to do.
            ImageRefused: it is not the one that the deployment pins.
        """
        settings = docker_settings(module)
        image = settings.image
        accounts = self.credentials if credentials is None else credentials
        credential = credential_for(image, accounts)
        may_pull = module.image_pull_policy is not ImagePullPolicy.NEVER
        local = inspect(client, image)
        if local is not None and (not may_pull or _is_settled(settings, local)):
            return self._checked(module, local)
        with self._one_at_a_time(image, progress):
            local = inspect(client, image)
            if local is None:
                self._pull(client, module, credential, progress)
            elif may_pull and self._is_to_be_replaced(client, settings, local, credential):
                try:
                    self._pull(client, module, credential, progress)
                except ConfigError as exc:
                    log.warning("%s; the image that is on this device is used", exc)
            found = inspect(client, image)
        if found is None:
            raise ConfigError(
                f"module '{module.name}': image '{image}' was pulled, and somebody removed it at once; "
                f"pull it again: `docker pull {image}`"
            )
        return self._checked(module, found)

    def _checked(self, module: ModuleSpec, found: Inspected) -> Inspected:
        """Return an image that a container of the module may be made from; see `have`."""
        settings = docker_settings(module)
        self.check(settings, found)
        _check_cpu(module.name, settings.image, found)
        self._use.note(str(found["Id"]))
        return found

    def is_current(self, client: APIClient, settings: DockerSettings, image_id: str) -> bool:
        """Return whether the image of a container is still what its name means on this device.

        Raises:
            ImageRefused: it is, and is not the one that the deployment pins.
        """
        local = inspect(client, settings.image)
        if local is not None and local["Id"] != image_id:
            return False
        if pinned_digests(settings):
            self.check(settings, local or inspect(client, image_id) or {"Id": image_id})
        return True

    def unused(self, image_id: str) -> None:
        """A container of an image is gone."""
        self._use.note(image_id)

    def check(self, settings: DockerSettings, image: Inspected) -> None:
        """Raise ImageRefused unless an image is the one that the deployment pins."""
        problem = _problem(settings, image)
        if problem:
            raise ImageRefused(problem)

    @contextmanager
    def _one_at_a_time(self, image: str, progress: Progress) -> Iterator[None]:
        """One pull of an image serves all modules that wait for it."""
        with self._lock:
            lock = self._pulls.setdefault(image, threading.Lock())
        if not lock.acquire(blocking=False):
            progress(f"image '{image}' is being fetched for another module")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _is_to_be_replaced(
        self,
        client: APIClient,
        settings: DockerSettings,
        local: Inspected,
        credential: RegistryCredential | None,
    ) -> bool:
        """Return whether it is not the one that is wanted, or its registry has another by now."""
        if _problem(settings, local):
            return True
        image = settings.image
        known = _digests(local)
        now_s = time.monotonic()
        with self._lock:
            fresh = now_s - self._asked.get(image, -FRESH_S) < FRESH_S
            self._asked[image] = now_s
        if fresh or _is_settled(settings, local):
            return False
        account = _account(credential)

        def ask() -> str:
            told = client.inspect_distribution(image, auth_config=account)  # type: ignore[no-untyped-call]
            return str(told["Descriptor"]["digest"])

        try:
            digest = in_background(f"registry of {image}", ask).result(ASK_LIMIT_S)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with the registry: there is an image
            log.info("image %s: its registry does not say if it is the newest: %s", image, exc or "no answer")
            return False
        return digest not in known

    def _pull(
        self, client: APIClient, module: ModuleSpec, credential: RegistryCredential | None, progress: Progress
    ) -> None:
        pull_image(client, module, progress, credential)
        image = docker_settings(module).image
        with self._lock:
            self._asked[image] = time.monotonic()
        found = inspect(client, image)
        if found is not None:
            self._use.note_pulled(str(found["Id"]), image)


def docker_settings(module: ModuleSpec) -> DockerSettings:
    """Return the settings of a module that is a container."""
    assert isinstance(module.settings, DockerSettings)
    return module.settings


def inspect(client: APIClient, image: str) -> dict[str, Any] | None:
    """Return what the engine knows of an image, None when it has none of that name or id."""
    from docker.errors import ImageNotFound

    try:
        found: dict[str, Any] = client.inspect_image(image)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    return found


def pull_image(
    client: APIClient, module: ModuleSpec, progress: Progress, credential: RegistryCredential | None = None
) -> None:
    """Pull the image of a module, unless its imagePullPolicy forbids that.

    Raises:
        ConfigError: it is to be had nowhere; says why, and what to do.
    """
    image = docker_settings(module).image
    missing = f"module '{module.name}': image '{image}' not found on this device"
    if module.image_pull_policy is ImagePullPolicy.NEVER:
        raise ConfigError(
            f"{missing}, and imagePullPolicy is 'never'; pull it (`docker pull {image}`), "
            "or fix settings.image in the deployment"
        )
    from docker.errors import APIError

    log.info("module %s: image %s is being pulled", module.name, image)
    progress(f"image '{image}' is being pulled")
    try:
        lines: Iterable[Mapping[str, Any]] = client.pull(
            image, stream=True, decode=True, auth_config=_account(credential)
        )
        said = _follow_pull(lines, image, progress)
    except APIError as exc:
        said = explanation(exc)
    if said:
        raise ConfigError(
            f"module '{module.name}': image '{image}' could not be pulled: "
            f"{pull_way_out(image, said, credential)}; the engine says: {said}"
        )
    log.info("module %s: image %s is there", module.name, image)


def _follow_pull(lines: Iterable[Mapping[str, Any]], image: str, progress: Progress) -> str:
    """Tell how far a pull is, line by line; return what went wrong, "" when nothing did.

    Source: Docker Engine API v1.41, POST /images/create
    """
    parts: dict[str, tuple[int, int]] = {}
    for line in lines:
        if "error" in line:
            return " ".join(str(line["error"]).split())
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            parts[str(line.get("id"))] = (int(detail["current"]), int(detail["total"]))
            done, total = (sum(column) / MEGABYTE for column in zip(*parts.values(), strict=True))
            progress(f"image '{image}' is being pulled: {done:.1f} of {total:.1f} MB")
    return ""


def _problem(settings: DockerSettings, image: Inspected) -> str:
    return digest_problem(settings, str(image["Id"]), image.get("RepoDigests") or ())


def _digests(image: Inspected) -> set[str]:
    """Return what registries call an image; nothing for one that was built or loaded on this machine."""
    return {one.rpartition("@")[2] for one in image.get("RepoDigests") or ()}


def _is_settled(settings: DockerSettings, local: Inspected) -> bool:
    """Return whether no registry can have another image for it than the one that is here."""
    return not _problem(settings, local) and ("@" in settings.image or not _digests(local))


def _account(credential: RegistryCredential | None) -> dict[str, str] | None:
    """Return what the engine wants to know of an account; None has it look where `docker login` wrote."""
    if credential is None:
        return None
    return {
        "username": credential.username,
        "password": credential.password,
        "serveraddress": credential.address,
    }


def _check_cpu(module: str, image: str, inspected: Inspected) -> None:
    """Raise ConfigError when this machine cannot run what is in an image."""
    its, ours = str(inspected.get("Architecture") or ""), _MACHINES.get(platform.machine(), "")
    if not its or not ours or its == ours or its in _RUNS_TOO.get(ours, ()):
        return
    if any(BINFMT.glob(f"qemu-{_QEMU.get(its, its)}*")):
        return  # emulated
    raise ConfigError(
        f"module '{module}': image '{image}' is for another CPU: {its}, and this machine is {ours}; build it "
        f"for {ours}, or fix settings.image in the deployment"
    )
