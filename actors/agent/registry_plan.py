"""What has to be done in the registry of the cloud, so that it has the modules that are here. Pure.

Source: spec sheet security-daemon.md sections 4.2 to 4.4
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class CloudModule(Struct, frozen=True):
    """A module identity in the registry."""

    module_id: str
    generation_id: str
    keys: tuple[str, str]  # base64, "" where there is none


class LocalModule(Struct, frozen=True):
    """A module that has an identity here."""

    cloud_generation_id: str  # that it had in the registry when we looked last; "": was not there
    keys: tuple[str, str]  # base64


class RegistryPlan(Struct, frozen=True):
    """Module ids, in the order of the steps: deletes make room for what is created."""

    delete: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()  # were to be deleted, and are gone or somebody else's by now
    create: tuple[str, ...] = ()
    update: tuple[str, ...] = ()  # give them our keys


def plan(
    local: Mapping[str, LocalModule], deletes: Mapping[str, str], listed: Mapping[str, CloudModule]
) -> RegistryPlan:
    """Return the steps from `listed` to `local`.

    Args:
        local: The modules here.
        deletes: Modules that were here, with the generation id of the identity to be deleted. One that has
            another by now was made again by somebody, and is left alone.
        listed: The modules in the registry; those that were never here are left alone, too.
    """
    delete = tuple(
        name
        for name, generation_id in sorted(deletes.items())
        if name in listed and listed[name].generation_id == generation_id
    )
    left = {name: module for name, module in listed.items() if name not in delete}
    return RegistryPlan(
        delete,
        tuple(name for name in sorted(deletes) if name not in delete),
        tuple(name for name in sorted(local) if name not in left),
        tuple(
            name
            for name, module in sorted(local.items())
            if name in left
            and (left[name].keys != module.keys or left[name].generation_id != module.cloud_generation_id)
        ),
    )
