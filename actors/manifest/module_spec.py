"""What a deployment says about one module, and the words for how a module is doing.

Values only; parsed in deployment.py, compared in planner.py, acted upon by the supervisors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

EDGE_AGENT = "edgeAgent"
EDGE_HUB = "edgeHub"
EDGE_CLOUD = "edgeCloud"  # the IoT Hub stand-in that the edge runs for itself; in no deployment

# "No order given": such a module starts after all that have one. Source: spec sheet agent.md section 1.2.
LAST_STARTUP_ORDER = 4_294_967_295


class RestartPolicy(StrEnum):
    NEVER = "never"
    ON_FAILURE = "on-failure"
    ON_UNHEALTHY = "on-unhealthy"
    ALWAYS = "always"


class ImagePullPolicy(StrEnum):
    ON_CREATE = "on-create"
    NEVER = "never"


class DesiredStatus(StrEnum):
    """What a deployment may ask of a module. With `unknown` the module is left as it is."""

    RUNNING = "running"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


class ModuleStatus(StrEnum):
    """How a module is doing: the values of `runtimeStatus`. Source: spec sheet agent.md section 1.6.

    `downloading` is ours: the reference shows nothing while it pulls an image.
    """

    UNKNOWN = "unknown"
    DOWNLOADING = "downloading"
    BACKOFF = "backoff"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    FAILED = "failed"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """A module that is a container.

    `create_options` is the JSON text of Docker's create request, chunks joined, without blanks; `digest` pins
    the image, "" when any of its name will do.
    """

    image: str
    create_options: str = field(default="{}", repr=False)  # its Env often holds passwords
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """A module that is a process of this machine.

    Relative paths are as written; the module runtime reads them from the folder of the deployment file.
    """

    command: tuple[str, ...]
    working_directory: str | None = None


@dataclass(frozen=True, slots=True)
class BuiltInSettings:
    """edgeAgent and edgeHub: they are parts of this program, so the image is only repeated in reports."""

    image: str = ""
    create_options: str = field(default="{}", repr=False)


@dataclass(frozen=True, slots=True)
class StandInSettings:
    """The IoT Hub stand-in that the edge runs for itself."""

    address: str


ModuleSettings = DockerSettings | ProcessSettings | BuiltInSettings | StandInSettings


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """One module as the deployment wants it. Defaults as in spec sheet agent.md section 1.2."""

    name: str
    settings: ModuleSettings
    status: DesiredStatus = DesiredStatus.RUNNING
    restart_policy: RestartPolicy = RestartPolicy.ON_UNHEALTHY
    image_pull_policy: ImagePullPolicy = ImagePullPolicy.ON_CREATE
    startup_order: int = LAST_STARTUP_ORDER
    version: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # values are often secrets

    @property
    def type(self) -> str:
        """The manifest's word for the module runtime: `docker` or `process`."""
        return "process" if isinstance(self.settings, ProcessSettings) else "docker"


def applied_fields(module: ModuleSpec) -> dict[str, Any]:
    """Return what makes a running instance outdated when it changes, under the manifest's names.

    Everything but `status`, which only starts and stops. That a new restart policy or start order replaces
    the instance is the reference's rule (spec sheet agent.md section 2.2); people use `version` to force it.
    Image and createOptions of edgeAgent and edgeHub have no effect here, so they are left out.
    """
    fields: dict[str, Any] = {
        "type": module.type,
        "version": module.version,
        "restartPolicy": module.restart_policy.value,
        "imagePullPolicy": module.image_pull_policy.value,
        "startupOrder": module.startup_order,
        "env": dict(module.env),
    }
    match module.settings:
        case DockerSettings(image=image, create_options=text, digest=digest):
            fields["settings.image"] = image
            fields["settings.createOptions"] = json.loads(text)
            if digest:  # absent where it was before there were digests: an update of us replaces nothing
                fields["settings.digest"] = digest
        case ProcessSettings(command=command, working_directory=folder):
            fields["settings.command"] = list(command)
            fields["settings.workingDirectory"] = folder
        case StandInSettings(address=address):
            fields["settings.address"] = address
    return fields


def spec_hash(module: ModuleSpec) -> str:
    """Return 64 hex digits that change exactly when the module has to be replaced.

    The same in every run and on every machine: SHA-256 over JSON with sorted keys.
    """
    return _hash({"name": module.name} | applied_fields(module))


def part_hashes(module: ModuleSpec) -> dict[str, str]:
    """Return a hash of each of the applied fields: what changed can be said without keeping secrets."""
    fields = applied_fields(module)
    return {name: _hash({name: value})[:16] for name, value in fields.items() if value is not None}


def twin_hash(desired: Mapping[str, Any]) -> str:
    """Return 64 hex digits that change exactly when desired properties do."""
    return _hash(desired)


def _hash(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
