"""Shared access policies: the accounts of services, with their keys in a private file of the home.

Source: spec sheet security-daemon.md section 4.6
        MicrosoftDocs/azure-docs: articles/iot-hub/iot-hub-dev-guide-sas.md
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from messaging import sas
from messaging.errors import AuthError, ConfigError
from messaging.text import quoted
from runtime.iothub import registry
from runtime.storage.atomic_file import write_private_file

OWNER: Final = "iothubowner"
SERVICE: Final = "service"
STREAM: Final = "events"  # the Event Hubs-compatible name of what devices send


class Permission(enum.Flag):
    """What a policy lets its bearer do."""

    REGISTRY_READ = enum.auto()
    REGISTRY_WRITE = enum.auto()
    SERVICE_CONNECT = enum.auto()
    DEVICE_CONNECT = enum.auto()


ALL: Final = ~Permission(0)

# The policies that every IoT Hub begins with.
_PERMISSIONS: Mapping[str, Permission] = {
    OWNER: ALL,
    SERVICE: Permission.SERVICE_CONNECT,
    "device": Permission.DEVICE_CONNECT,
    "registryRead": Permission.REGISTRY_READ,
    "registryReadWrite": Permission.REGISTRY_READ | Permission.REGISTRY_WRITE,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """One account. Keys are base64."""

    name: str
    permissions: Permission
    primary_key: str = field(repr=False)
    secondary_key: str = field(repr=False)

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """Both keys as bytes."""
        return sas.decode_key(self.primary_key), sas.decode_key(self.secondary_key)

    @property
    def event_hubs_keys(self) -> tuple[bytes, bytes]:
        """Both keys as clients of Event Hubs sign with them: the base64 text, not what it stands for."""
        return self.primary_key.encode(), self.secondary_key.encode()


class Policies(Struct, frozen=True):
    """All accounts of a hub, by name."""

    by_name: Mapping[str, Policy]

    @classmethod
    def load(cls, path: Path) -> Policies:
        """Read the file at `path`; one with random keys is made (0600) when there is none.

        Raises:
            ConfigError: the file cannot be read, or is damaged.
            EnvironmentFault: it cannot be written.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            keys = {name: (registry.new_key(), registry.new_key()) for name in _PERMISSIONS}
            write_private_file(path, msgspec.json.format(msgspec.json.encode(keys), indent=1))
        except OSError as exc:
            raise ConfigError(f"cannot read '{path}': {exc.strerror}; repair its owner and mode") from exc
        else:
            keys = _decode(path, content)
        return cls(
            {name: Policy(name, permissions, *keys[name]) for name, permissions in _PERMISSIONS.items()}
        )

    def find(self, name: str) -> Policy:
        """Return the policy that a token names.

        Raises:
            AuthError: there is no such policy.
        """
        found = self.by_name.get(name)
        if found is None:
            raise AuthError(
                f"there is no shared access policy {quoted(name)}; there are {', '.join(self.by_name)}"
            )
        return found

    def connection_string(self, host_name: str, name: str = OWNER) -> str:
        """Return what a service SDK takes. It holds a key: never log it."""
        policy = self.find(name)
        return f"HostName={host_name};SharedAccessKeyName={name};SharedAccessKey={policy.primary_key}"

    def events_connection_string(self, host_name: str, name: str = SERVICE) -> str:
        """Return what an SDK of Event Hubs takes to read the stream. It holds a key: never log it."""
        policy = self.find(name)
        return (
            f"Endpoint=sb://{host_name}/;SharedAccessKeyName={name};SharedAccessKey={policy.primary_key};"
            f"EntityPath={STREAM}"
        )


def _decode(path: Path, content: bytes) -> dict[str, tuple[str, str]]:
    try:
        keys = msgspec.json.decode(content, type=dict[str, tuple[str, str]])
        missing = [name for name in _PERMISSIONS if name not in keys]
        if missing:
            raise AuthError(f"{', '.join(missing)} missing")
        for pair in keys.values():
            for key in pair:
                sas.decode_key(key)
    except (msgspec.DecodeError, UnicodeDecodeError, AuthError) as exc:
        raise ConfigError(
            f"'{path}' is damaged ({exc}); restore it from a backup, "
            "or remove it to have new keys made (connection strings of services change then)"
        ) from exc
    return keys
