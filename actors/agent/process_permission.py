"""Which command lines may run as process modules: a deployment that names one executes code on this machine.

Whoever starts an edge with a local manifest could run its commands himself. A manifest from elsewhere may
only ask for what the device's own settings allow.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import Enum, auto

from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import ProcessSettings
from messaging.errors import DeploymentError

ANYTHING_MORE = "*"


class Origin(Enum):
    """Where a deployment comes from."""

    LOCAL = auto()  # a file named on the command line of this machine
    CLOUD = auto()


def allowed(command: Sequence[str], origin: Origin, allow: Sequence[Sequence[str]]) -> bool:
    """Tell whether a deployment from `origin` may run `command` as a process.

    Args:
        command: Program and arguments.
        origin: Where the deployment comes from.
        allow: The device's setting: command lines, equal word for word; a last word `*` allows any further
            words. Programs stand there with their absolute path, so that no PATH of a deployment matters.
    """
    if origin is Origin.LOCAL:
        return True
    return any(_matches(tuple(command), tuple(entry)) for entry in allow)


def check(deployment: Deployment, origin: Origin, allow: Sequence[Sequence[str]]) -> None:
    """Refuse a deployment that asks for a process it may not run.

    Raises:
        DeploymentError: with code 400; names module and command, and the way out.
    """
    for name, module in deployment.modules.items():
        settings = module.settings
        if isinstance(settings, ProcessSettings) and not allowed(settings.command, origin, allow):
            raise DeploymentError(
                f"module '{name}': this device does not allow the command {shlex.join(settings.command)!r}; "
                "a process module comes from a local file with --deployment, or its command is allowed by "
                "process_modules.allow in the settings of the device"
            )


def _matches(command: tuple[str, ...], entry: tuple[str, ...]) -> bool:
    if entry[-1:] == (ANYTHING_MORE,) and len(entry) > 1:
        return command[: len(entry) - 1] == entry[:-1]
    return command == entry and bool(entry)
