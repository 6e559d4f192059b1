"""Devices and modules in the database. Every function is (part of) a job of `CloudDb`.

Source: spec sheet security-daemon.md sections 4.3, 4.5 and 4.6
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from messaging.identity import EDGE_HUB, Identity
from runtime.iothub import refusals, registry, twins
from runtime.iothub.records import Registered
from runtime.iothub.registry import SYSTEM_MODULES

_BELONGINGS = ("identities", "twins", "sessions", "connections")


class Change(Struct, frozen=True):
    """What a request did to an identity; None before is a creation, None after a deletion."""

    before: Registered | None
    after: Registered | None

    @property
    def cuts_off(self) -> bool:
        """Whether who is connected as this identity has to prove it anew."""
        if self.before is None or self.after is None:
            return True
        if self.after.status == "disabled":
            return True
        return self.before.authentication != self.after.authentication


def find(connection: sqlite3.Connection, identity: Identity) -> Registered | None:
    """Return a device or module, None when there is none."""
    row = connection.execute(
        "SELECT data FROM identities WHERE device_id = ? AND module_id = ?",
        (identity.device_id, identity.module_id or ""),
    ).fetchone()
    return None if row is None else _decode(row[0])


def get(connection: sqlite3.Connection, identity: Identity) -> Registered:
    """Return a device or module.

    Raises:
        IotHubError: 404001 the device is unknown, 404010 the module is.
    """
    found = find(connection, identity)
    if found is None:
        if identity.module_id is not None:
            get(connection, Identity(identity.device_id))
        raise refusals.unknown(identity)
    return found


def device_of(connection: sqlite3.Connection, identity: Identity) -> Registered:
    """Return the device that an identity is or belongs to.

    Raises:
        IotHubError: 404001 unknown.
    """
    return get(connection, Identity(identity.device_id))


def devices(connection: sqlite3.Connection, limit: int = -1) -> list[Registered]:
    """Return the first devices in order of their ids; below 0: all."""
    rows = connection.execute(
        "SELECT data FROM identities WHERE module_id = '' ORDER BY device_id LIMIT ?", (limit,)
    ).fetchall()
    return [_decode(data) for (data,) in rows]


def modules_of(connection: sqlite3.Connection, device_id: str) -> list[Registered]:
    """Return the modules of a device in order of their ids."""
    rows = connection.execute(
        "SELECT data FROM identities WHERE device_id = ? AND module_id <> '' ORDER BY module_id", (device_id,)
    ).fetchall()
    return [_decode(data) for (data,) in rows]


def children_of(connection: sqlite3.Connection, edge: Registered) -> list[Registered]:
    """Return the devices below an edge device in order of their ids."""
    rows = connection.execute(
        "SELECT data FROM identities WHERE parent = ? ORDER BY device_id", (edge.device_scope,)
    ).fetchall()
    return [_decode(data) for (data,) in rows]


def count_devices(connection: sqlite3.Connection) -> int:
    """Return how many devices there are."""
    (count,) = connection.execute("SELECT count(*) FROM identities WHERE module_id = ''").fetchone()
    return int(count)


def ids(connection: sqlite3.Connection, of_modules: bool, after: str) -> list[Identity]:
    """Return the identities of all devices, or of all modules, behind `D/` or `D/M`, in order."""
    device_id, _, module_id = after.partition("/")
    rows = connection.execute(
        "SELECT device_id, module_id FROM identities WHERE (module_id <> '') = ? "
        "AND (device_id, module_id) > (?, ?) ORDER BY device_id, module_id",
        (of_modules, device_id, module_id),
    ).fetchall()
    return [Identity(device_id, module_id or None) for device_id, module_id in rows]


def session_of(connection: sqlite3.Connection, identity: Identity) -> bytes | None:
    """Return what a protocol head keeps of a client."""
    row = connection.execute(
        "SELECT data FROM sessions WHERE device_id = ? AND module_id = ?",
        (identity.device_id, identity.module_id or ""),
    ).fetchone()
    return None if row is None else bytes(row[0])


def save_session(connection: sqlite3.Connection, identity: Identity, record: bytes | None) -> None:
    """Keep what a protocol head wants kept of a registered client; None forgets it."""
    ids_of_it = (identity.device_id, identity.module_id or "")
    if record is None:
        connection.execute("DELETE FROM sessions WHERE device_id = ? AND module_id = ?", ids_of_it)
    elif find(connection, identity) is not None:
        connection.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", (*ids_of_it, record))


def put(
    connection: sqlite3.Connection,
    identity: Identity,
    wanted: Mapping[str, Any],
    if_match: str | None,
    now_s: float,
) -> Change:
    """Create or update; see `IotHub.put`."""
    before = find(connection, identity)
    if before is None:
        if if_match is not None:
            get(connection, identity)  # says what is missing
        return _create(connection, identity, wanted, now_s)
    if if_match is None:
        raise refusals.exists(identity)
    registry.check_etag(f"'{identity}'", before.etag, if_match)
    after = registry.updated(before, wanted, now_s)
    if identity.module_id is None:
        after = _placed(connection, after, wanted)
        if after.is_edge and not before.is_edge:
            _create_system_modules(connection, after, now_s)
    _save(connection, after)
    return Change(before, after)


def delete(connection: sqlite3.Connection, identity: Identity, if_match: str | None) -> list[Change]:
    """Delete an identity and what belongs to it; return all that is gone with it."""
    before = get(connection, identity)
    registry.check_etag(f"'{identity}'", before.etag, if_match)
    if identity.module_id is not None:
        _delete_belongings(
            connection, "device_id = ? AND module_id = ?", (identity.device_id, identity.module_id)
        )
        return [Change(before, None)]
    gone = [before, *modules_of(connection, identity.device_id)]
    for child in children_of(connection, before) if before.is_edge else ():
        _save(connection, registry.with_parent(child, ""))
    _delete_belongings(connection, "device_id = ?", (identity.device_id,))
    connection.execute("DELETE FROM c2d WHERE device_id = ?", (identity.device_id,))
    return [Change(each, None) for each in gone]


def create_missing_modules(
    connection: sqlite3.Connection, device_id: str, module_ids: Sequence[str], now_s: float
) -> None:
    """Create the modules of a deployment that are not there yet."""
    for module_id in module_ids:
        identity = registry.identity_of(device_id, module_id)
        if find(connection, identity) is None:
            _create(connection, identity, {"managedBy": "IotEdge"}, now_s)


def chain_holds(connection: sqlite3.Connection, device_ids: Sequence[str]) -> bool:
    """Tell whether each device of a chain, from the target up, is a child of the next one."""
    for pair in itertools.pairwise(device_ids):
        child, parent = (find(connection, registry.identity_of(device_id)) for device_id in pair)
        if child is None or parent is None or parent.device_scope not in child.parent_scopes:
            return False
    return True


def ancestors(connection: sqlite3.Connection, device: Registered) -> Iterator[Registered]:
    """Yield the parent of a device, its parent and so on."""
    seen = {device.identity.device_id}
    while device.parent_scopes:
        parent = find(connection, Identity(registry.device_of_scope(device.parent_scopes[0])))
        if parent is None or parent.identity.device_id in seen:
            return
        seen.add(parent.identity.device_id)
        yield parent
        device = parent


def hubs_above(connection: sqlite3.Connection, identity: Identity) -> list[Registered]:
    """Return the `$edgeHub` modules that may speak for an identity: of the enabled edges it is below of."""
    device = find(connection, Identity(identity.device_id))
    if device is None:
        return []
    edges = [*([device] if device.is_edge else []), *ancestors(connection, device)]
    enabled = (edge.identity.device_id for edge in edges if edge.status == "enabled")
    hubs = (find(connection, Identity(device_id, EDGE_HUB)) for device_id in enabled)
    return [hub for hub in hubs if hub is not None and hub.identity != identity]


def _create(
    connection: sqlite3.Connection, identity: Identity, wanted: Mapping[str, Any], now_s: float
) -> Change:
    if identity.module_id is None:
        if count_devices(connection) >= registry.DEVICES:
            raise refusals.too_many_devices(registry.DEVICES)
    else:
        device_of(connection, identity)
        if len(modules_of(connection, identity.device_id)) >= registry.MODULES_PER_DEVICE:
            raise refusals.too_many_modules(identity.device_id, registry.MODULES_PER_DEVICE)
    fresh = registry.created(identity, wanted, now_s)
    if identity.module_id is None:
        fresh = _placed(connection, fresh, wanted)
    _save(connection, fresh)
    twins.create(connection, identity, now_s)
    if fresh.is_edge:
        _create_system_modules(connection, fresh, now_s)
    return Change(None, fresh)


def _create_system_modules(connection: sqlite3.Connection, edge: Registered, now_s: float) -> None:
    for module_id in SYSTEM_MODULES:
        module = registry.system_module(edge.identity.device_id, module_id, now_s)
        if find(connection, module.identity) is None:
            _save(connection, module)
            twins.create(connection, module.identity, now_s)


def _placed(connection: sqlite3.Connection, device: Registered, wanted: Mapping[str, Any]) -> Registered:
    """Return the device below the parent that a request names."""
    scope = registry.wanted_parent(device, wanted)
    if scope is None or scope == "" or scope in device.parent_scopes:
        return device if scope is None else registry.with_parent(device, scope)
    parent_id = registry.device_of_scope(scope)
    parent = find(connection, registry.identity_of(parent_id))
    if parent is None or parent.device_scope != scope or not parent.is_edge:
        raise refusals.invalid_scope(f"scope '{scope}' is not that of an edge device of this hub")
    above = [parent, *ancestors(connection, parent)]
    if any(edge.identity == device.identity for edge in above):
        raise refusals.invalid_scope(f"device '{device.identity}' would be below itself")
    if device.is_edge and len(above) >= registry.EDGE_LEVELS:
        raise refusals.invalid_scope(
            f"edge devices may stand below each other in {registry.EDGE_LEVELS} levels"
        )
    if len(children_of(connection, parent)) >= registry.CHILDREN_PER_EDGE:
        raise refusals.too_many_children(parent_id, registry.CHILDREN_PER_EDGE)
    return registry.with_parent(device, scope)


def _save(connection: sqlite3.Connection, registered: Registered) -> None:
    identity = registered.identity
    connection.execute(
        "INSERT OR REPLACE INTO identities VALUES (?, ?, ?, ?)",
        (
            identity.device_id,
            identity.module_id or "",
            registered.parent_scopes[0] if registered.parent_scopes else "",
            msgspec.msgpack.encode(registered),
        ),
    )


def _delete_belongings(connection: sqlite3.Connection, where: str, ids: tuple[str, ...]) -> None:
    for table in _BELONGINGS:
        connection.execute(f"DELETE FROM {table} WHERE {where}", ids)


def _decode(data: bytes) -> Registered:
    return msgspec.msgpack.decode(data, type=Registered)
