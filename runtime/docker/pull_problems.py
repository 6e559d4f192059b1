"""Why an image could not be pulled, and what to do, from what Docker Engine says of it. Pure."""

from __future__ import annotations

import re
from typing import Final

from actors.manifest.registries import DOCKER_HUB, RegistryCredential, registry_of

_REFUSED: Final = re.compile(
    r"no basic auth|unauthorized|authentication required|denied|401|403", re.IGNORECASE
)
_SPACE: Final = re.compile(r"no space left|disk quota", re.IGNORECASE)
_CPU: Final = re.compile(r"no matching manifest for (\S+)", re.IGNORECASE)
_PLAIN: Final = re.compile(r"server gave HTTP response to HTTPS client", re.IGNORECASE)
_UNTRUSTED: Final = re.compile(r"x509", re.IGNORECASE)
_AWAY: Final = re.compile(
    r"connection refused|no such host|timeout|timed out|deadline|unreachable|no route|lookup |EOF|reset by",
    re.IGNORECASE,
)
_UNKNOWN: Final = re.compile(r"manifest unknown|not found|name unknown|does not exist", re.IGNORECASE)


def pull_way_out(image: str, said: str, credential: RegistryCredential | None) -> str:
    """Return what to do about an image that could not be pulled.

    Args:
        image: Its name.
        said: By the engine, or by the registry through it.
        credential: With which it was tried, None without any.
    """
    found = registry_of(image)
    registry = "Docker Hub" if found in (None, DOCKER_HUB) else f"registry {found}"
    if _SPACE.search(said):
        return (
            "the disk of Docker Engine is full: remove what is not needed (`docker system prune`, "
            "`docker system df` shows what there is), and the pull is tried again"
        )
    cpu = _CPU.search(said)
    if cpu is not None:
        return (
            f"{registry} has it for other CPUs only, and this machine is {cpu[1].rstrip(',')}; build it for "
            "that too, or fix settings.image in the deployment"
        )
    if _UNTRUSTED.search(said):
        return (
            f"the certificate of {registry} is not trusted here; put its CA into "
            f"/etc/docker/certs.d/{found}/ca.crt"
        )
    if _PLAIN.search(said):
        return (
            f"{registry} speaks HTTP without TLS; give it a certificate, or list it under "
            "insecure-registries in /etc/docker/daemon.json"
        )
    if _REFUSED.search(said):
        place = (
            "runtime.settings.registryCredentials in the deployment, or [registry_credentials] in config.toml"
        )
        if credential is None:
            return f"{registry} wants an account for it; add one to {place}, or fix settings.image"
        return f"{registry} refuses user '{credential.username}'; fix user name and password in {place}"
    if _UNKNOWN.search(said):
        return f"{registry} does not have it; push it there, or fix settings.image in the deployment"
    if _AWAY.search(said):
        return f"{registry} does not answer; see to it or to the network, and the pull is tried again"
    return f"pull it (`docker pull {image}`), or fix settings.image in the deployment"
