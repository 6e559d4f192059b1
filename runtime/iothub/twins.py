"""Twins in the database. Every function is (part of) a job of `CloudDb`; the rules: messaging/twin.py."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from messaging import twin
from messaging.identity import Identity
from messaging.twin import Json, Section
from runtime.iothub import refusals, registry


class StoredTwin(Struct, frozen=True):
    """The three sections of a twin. `etag_number` counts changes from the service side, `version` all."""

    desired: Section
    reported: Section
    tags: Json = field(default_factory=dict)
    etag_number: int = 1
    version: int = 1

    @property
    def etag(self) -> str:
        """Without quotes, in the form of IoT Hub."""
        return base64.b64encode(self.etag_number.to_bytes(8, "big")).decode()


class DesiredChange(Struct, frozen=True):
    """What a connected device has to be told."""

    patch: Json
    version: int


def create(connection: sqlite3.Connection, identity: Identity, now_s: float) -> None:
    """Give a new identity its empty twin."""
    fresh = StoredTwin(twin.new_section(now_s), twin.new_section(now_s))
    connection.execute("INSERT INTO twins VALUES (?, ?, ?)", (*_key(identity), msgspec.msgpack.encode(fresh)))


def get(connection: sqlite3.Connection, identity: Identity) -> StoredTwin:
    """Return the twin of an identity.

    Raises:
        IotHubError: 404001 or 404010 unknown.
    """
    row = connection.execute(
        "SELECT data FROM twins WHERE device_id = ? AND module_id = ?", _key(identity)
    ).fetchone()
    if row is None:
        raise refusals.unknown(identity)
    return msgspec.msgpack.decode(row[0], type=StoredTwin)


def patch_reported(
    connection: sqlite3.Connection, identity: Identity, patch: object, now_s: float
) -> StoredTwin:
    """Merge what a device reports; see `IotHub.patch_reported`."""
    stored = get(connection, identity)
    reported = twin.patched("reported", stored.reported, patch, now_s)
    after = replace(stored, reported=reported, version=stored.version + 1)
    _save(connection, identity, after)
    return after


def change(
    connection: sqlite3.Connection,
    identity: Identity,
    wanted: Mapping[str, Any],
    if_match: str | None,
    now_s: float,
    whole: bool,
) -> tuple[StoredTwin, DesiredChange | None]:
    """Patch tags and desired properties, or replace them when `whole`; see `IotHub.patch_twin`."""
    stored = get(connection, identity)
    registry.check_etag(f"the twin of '{identity}'", stored.etag, if_match)
    tags, desired = stored.tags, stored.desired
    apply = twin.replaced if whole else twin.patched
    wanted_tags = wanted.get("tags")
    if wanted_tags is not None:
        tags = apply("tags", Section(tags), wanted_tags, now_s).values
    wanted_desired = _desired_of(wanted)
    told = None
    if wanted_desired is not None:
        desired = apply("desired", stored.desired, wanted_desired, now_s)
        patch = twin.difference(stored.desired.values, desired.values) if whole else wanted_desired
        told = DesiredChange(patch, desired.version)
    after = replace(
        stored,
        tags=tags,
        desired=desired,
        etag_number=stored.etag_number + 1,
        version=stored.version + 1,
    )
    _save(connection, identity, after)
    return after, told


def _desired_of(wanted: Mapping[str, Any]) -> Json | None:
    properties = wanted.get("properties")
    if properties is None:
        return None
    if not isinstance(properties, dict):
        raise refusals.argument_invalid("properties is not an object")
    desired = twin.without_own_members(properties.get("desired"))
    return None if desired is None else twin.checked_patch("desired", desired)


def _key(identity: Identity) -> tuple[str, str]:
    return identity.device_id, identity.module_id or ""


def _save(connection: sqlite3.Connection, identity: Identity, stored: StoredTwin) -> None:
    connection.execute(
        "UPDATE twins SET data = ? WHERE device_id = ? AND module_id = ?",
        (msgspec.msgpack.encode(stored), *_key(identity)),
    )
