"""What may stand in config.toml: the keys of our settings, and those of the reference that mean nothing here.

Source: spec sheet security-daemon.md sections 5.1 and 5.4
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from runtime.config.settings import NAMES, about

SETTING_OF: Final[Mapping[str, str]] = MappingProxyType(
    {key: name for name in NAMES for key in about(name).keys}
)
# Checked against what else is given, and no settings of their own.
CHOICES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "provisioning.source": ("manual", "dps", "none"),
        "provisioning.attestation.method": ("symmetric_key", "x509"),
        "provisioning.authentication.method": ("sas", "x509"),
        "edge_ca.method": ("self_signed",),
    }
)
REGISTRIES: Final = "registry_credentials"
REGISTRY_KEYS: Final = ("address", "username", "password", "password_file")

_FIXED: Final = "limits and waits of this kind are fixed here"
_ONE_PROGRAM: Final = "agent, hub and security daemon are one program here"
_NO_PARENT: Final = (
    "this edge connects to the IoT Hub itself, not to a parent edge; for a bridge to the broker of a parent, "
    'name it as address of ["$upstream"] in bridges.toml'
)
_FILES_ONLY: Final = "keys are files here; name certificate and key with their paths"
# By key, or by the table that it is in. Keys below that are ours count as ours.
REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "parent_hostname": _NO_PARENT,
        "local_gateway_hostname": _NO_PARENT,
        "imported_master_encryption_key": "the keys of another runtime cannot be taken over",
        "cert_issuance": "certificates come from files or are made by the edge: see edge_ca.cert",
        "tpm": _FILES_ONLY,
        "aziot_keys": _FILES_ONLY,
        "preloaded_keys": _FILES_ONLY,
        "preloaded_certs": _FILES_ONLY,
        "edge_ca.urls": "certificates come from files or are made by the edge: see edge_ca.cert",
        "edge_ca.subject": "of the subject the common name alone is taken: edge_ca.common_name",
        "moby_runtime.uri": "the engine is found by DOCKER_HOST in the environment of the edge",
    }
)
NO_EFFECT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "additional_info": "nothing is added to what `systeminfo` says",
        "iotedge_max_requests": _FIXED,
        "aziot_max_requests": _FIXED,
        "cloud_timeout_sec": _FIXED,
        "cloud_retries": _FIXED,
        "prefer_module_identity_cache": "identities are always on this disk",
        "agent": _ONE_PROGRAM,
        "connect": "sockets have their places in the run directory",
        "listen": "sockets have their places in the run directory; of the hub see hub.listen",
        "watchdog": "parts that fail are restarted for ever",
        "edge_ca.auto_renew.retry": "a renewal that failed is tried again each hour",
        "moby_runtime": "each edge makes a network of its own",
        "aziot_edged": _ONE_PROGRAM,
    }
)


def all_keys() -> tuple[str, ...]:
    """Return every key that has a meaning here."""
    return (*SETTING_OF, *CHOICES, REGISTRIES)


def all_names() -> tuple[str, ...]:
    """Return the keys and the tables that they are in, for hints."""
    tables = {key.rpartition(".")[0] for key in all_keys()}
    return (*all_keys(), *sorted(tables - {""}))


def foreign(key: str, among: Mapping[str, str]) -> str | None:
    """Return what `among` says of a key or of a table that it is in, None for nothing."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        found = among.get(".".join(parts[:end]))
        if found is not None:
            return found
    return None
