"""Addresses: `process/actor[/actor…]`, for example `hub/store` or `agent/agent/tempSensor`.

The address is an actor's identity: it stays when the actor is restarted and when its process is.
"""

from __future__ import annotations

import hashlib

_SOCKET_NAME_CHARS = 40  # keeps run directory + name below the 107 bytes of a Unix socket path


def process_of(address: str) -> str:
    """Return the process part of an address."""
    return address.split("/", 1)[0]


def child_of(parent: str, name: str) -> str:
    """Return the address of the child `name` of `parent`. Root actors are called by their process alone."""
    return f"{parent}/{name}"


def socket_name(address: str) -> str:
    """Return the file name of the ipc socket of an exported mailbox; long addresses are shortened by hash."""
    name = address.replace("/", ".")
    if len(name) <= _SOCKET_NAME_CHARS and name.isascii():
        return name
    return (
        f"{name.encode('ascii', 'replace').decode()[:20]}.{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    )
