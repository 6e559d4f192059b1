"""Which registry an image comes from, and how to sign in there. Source: spec sheet agent.md section 4.4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

DOCKER_HUB: Final = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class RegistryCredential:
    """An account at a registry."""

    address: str
    username: str
    password: str = field(repr=False)


def registry_of(image: str) -> str | None:
    """Return the address under which credentials name the registry of an image; None when it names none.

    A first part without `.` and `:` is a name at Docker Hub, also `localhost`.
    """
    host, slash, _ = image.partition("/")
    if not slash:
        return None
    return host if "." in host or ":" in host else DOCKER_HUB


def credential_for(image: str, credentials: Iterable[RegistryCredential]) -> RegistryCredential | None:
    """Return the first credential for the registry of an image, None when there is none."""
    registry = registry_of(image)
    if registry is None:
        return None
    return next((one for one in credentials if one.address.strip().casefold() == registry.casefold()), None)
