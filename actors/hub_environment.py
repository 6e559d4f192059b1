"""Settings of the hub that a deployment gives as environment variables of `edgeHub`.

Names are compared without regard to case, as the reference does. Source: spec sheet observability.md
section 6.1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from messaging.errors import ConfigError
from messaging.text import quoted

MAX_CONNECTED_CLIENTS = "MaxConnectedClients"
CLIENT_CERT_AUTH_ENABLED = "ClientCertAuthEnabled"


@dataclass(frozen=True, slots=True)
class HubEnvironment:
    """What the hub obeys."""

    max_connected_clients: int | None = None  # None: as many as there are descriptors for
    client_cert_auth_enabled: bool = True


def parse_environment(environment: Mapping[str, str]) -> HubEnvironment:
    """Read the environment of `edgeHub` as the manifest has it.

    Raises:
        ConfigError: a value is not one that its variable takes.
    """
    given = {name.lower(): text.strip() for name, text in environment.items()}
    most, certificates = given.get(MAX_CONNECTED_CLIENTS.lower()), given.get(CLIENT_CERT_AUTH_ENABLED.lower())
    return HubEnvironment(
        None if not most else _count(MAX_CONNECTED_CLIENTS, most),
        True if not certificates else _switch(CLIENT_CERT_AUTH_ENABLED, certificates),
    )


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= 1_000_000:
        raise _error(name, text, "a number from 1 to 1000000")
    return int(text)


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise _error(name, text, "true or false")
    return text.lower() == "true"


def _error(name: str, text: str, allowed: str) -> ConfigError:
    return ConfigError(
        f"deployment: systemModules.edgeHub.env.{name} is {quoted(text)}; allowed: {allowed}, or leave it out"
    )
