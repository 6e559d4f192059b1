"""Deployments: configurations as they are stored, and content as it is applied to one device.

Source: spec sheet security-daemon.md section 4.6
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from messaging import twin
from messaging.identity import Identity
from messaging.query import parse_condition
from messaging.text import quoted
from messaging.time_text import iso_utc
from messaging.twin import Json
from runtime.iothub import documents, identities, refusals, registry, twins
from runtime.iothub.documents import Document
from runtime.iothub.twins import DesiredChange

KIND: Final = "configuration"
MOST: Final = 100
DESIRED: Final = "properties.desired"

_ID = re.compile(r"[a-z0-9\-:+%_*!']{1,128}", re.ASCII)
# A member of a request, the type it has, and what stands there when the request lacks it.
_MEMBERS: dict[str, tuple[type, Any]] = {
    "schemaVersion": (str, "1.0"),
    "labels": (dict, {}),
    "content": (dict, {}),
    "targetCondition": (str, ""),
    "priority": (int, 0),
    "metrics": (dict, {"queries": {}, "results": {}}),
}


def put(
    connection: sqlite3.Connection,
    configuration_id: str,
    wanted: Mapping[str, Any],
    if_match: str | None,
    now_s: float,
) -> tuple[Document, bool]:
    """Create or update a configuration; return it, and whether it is new.

    Raises:
        IotHubError: 400004, 400402, 400403 a member; 404301 unknown; 409401 exists; 412001 another etag;
            413101 too many.
    """
    before = documents.get(connection, KIND, configuration_id)
    if before is None:
        if if_match is not None:
            raise refusals.unknown_configuration(configuration_id)
        if len(documents.all_of(connection, KIND)) >= MOST:
            raise refusals.too_many_configurations(MOST)
    elif if_match is None:
        raise refusals.configuration_exists(configuration_id)
    else:
        registry.check_etag(f"configuration '{configuration_id}'", before["etag"], if_match)
    after = _made(configuration_id, wanted, before, now_s)
    try:
        documents.save(connection, KIND, configuration_id, after)
    except (OverflowError, ValueError) as exc:  # JSON can say more than can be kept
        raise refusals.argument_invalid(
            "the configuration has an integer of more than 64 bits, or is nested too deeply"
        ) from exc
    return after, before is None


def get(connection: sqlite3.Connection, configuration_id: str) -> Document:
    """Return a configuration.

    Raises:
        IotHubError: 404301 unknown.
    """
    found = documents.get(connection, KIND, configuration_id)
    if found is None:
        raise refusals.unknown_configuration(configuration_id)
    return found


def delete(connection: sqlite3.Connection, configuration_id: str, if_match: str | None) -> None:
    """Delete a configuration.

    Raises:
        IotHubError: 404301 unknown; 412001 another etag.
    """
    found = get(connection, configuration_id)
    registry.check_etag(f"configuration '{configuration_id}'", found["etag"], if_match)
    documents.delete(connection, KIND, configuration_id)


def listed(connection: sqlite3.Connection, top: int) -> list[Document]:
    """Return at most `top` configurations, those of highest priority first."""
    found = sorted(documents.all_of(connection, KIND).values(), key=lambda each: -each["priority"])
    return found[:top]


def apply(
    connection: sqlite3.Connection, device_id: str, content: Mapping[str, Any], now_s: float
) -> list[tuple[Identity, DesiredChange]]:
    """Put content into the twins of one device and its modules; return whom to tell what.

    Modules that are missing are created, those not mentioned keep what they have.

    Raises:
        IotHubError: 400004 not an edge device, or a rule of twins; 400402 the content; 404001 unknown device;
            413003 too many modules.
    """
    device = identities.get(connection, Identity(device_id))
    of_modules = _section(content, "modulesContent")
    if of_modules and not device.is_edge:
        raise refusals.argument_invalid(
            f"device '{device_id}' is not an edge device; create it with capabilities.iotEdge"
        )
    identities.create_missing_modules(connection, device_id, list(of_modules), now_s)
    targets = [(Identity(device_id, module_id), changes) for module_id, changes in of_modules.items()]
    of_device = _section(content, "deviceContent")
    if of_device:
        targets.append((Identity(device_id), of_device))
    told = []
    for identity, changes in targets:
        before = twins.get(connection, identity).desired.values
        wanted = {"properties": {"desired": desired_after(before, changes, identity.id)}}
        _, change = twins.change(connection, identity, wanted, None, now_s, whole=True)
        if change is not None:
            told.append((identity, change))
    return told


def desired_after(before: Mapping[str, Any], changes: object, where: str) -> Json:
    """Return desired properties as the content for one twin makes them.

    `properties.desired` replaces all of them, `properties.desired.a.b` the sub-tree at `a.b`, in this order.

    Raises:
        IotHubError: 400402 another key, or a value that is not an object.
    """
    if not isinstance(changes, dict):
        raise refusals.bad_content(f"the content for '{where}' is not an object")
    after: Json = dict(before)
    for key in sorted(changes):
        path = key.split(".")
        if (key != DESIRED and not key.startswith(f"{DESIRED}.")) or "" in path:
            raise refusals.bad_content(
                f"the content for '{where}' has {quoted(key)}; allowed are '{DESIRED}' and '{DESIRED}.…'"
            )
        value = twin.without_own_members(changes[key])
        if len(path) == 2:
            if not isinstance(value, dict):
                raise refusals.bad_content(f"'{DESIRED}' of '{where}' is not an object")
            after = value
        else:
            after = _with_subtree(after, path[2:], value)
    return after


def check_content(content: Mapping[str, Any]) -> None:
    """Return when content could be applied.

    Raises:
        IotHubError: 400402 it could not.
    """
    for module_id, changes in _section(content, "modulesContent").items():
        desired_after({}, changes, module_id)
    for name in ("deviceContent", "moduleContent"):
        if content.get(name):
            desired_after({}, content[name], name)


def _with_subtree(values: Mapping[str, Any], path: list[str], value: object) -> Json:
    inner = values.get(path[0])
    if len(path) == 1:
        return {**values, path[0]: value}
    return {**values, path[0]: _with_subtree(inner if isinstance(inner, dict) else {}, path[1:], value)}


def _section(content: Mapping[str, Any], name: str) -> Json:
    section = content.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise refusals.bad_content(f"{name} is not an object")
    return section


def _made(
    configuration_id: str, wanted: Mapping[str, Any], before: Document | None, now_s: float
) -> Document:
    if not _ID.fullmatch(configuration_id):
        raise refusals.argument_invalid(
            f"configuration id {quoted(configuration_id)}: allowed are up to 128 small letters, digits and "
            "- : + % _ * ! '"
        )
    if wanted.get("id") not in (None, configuration_id):
        raise refusals.argument_invalid("id in the body is another than in the path")
    made: Document = {"id": configuration_id}
    for name, (kind, missing) in _MEMBERS.items():
        value = wanted.get(name)
        if value is None:
            value = missing if before is None else before[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise refusals.argument_invalid(f"{name} is not what it may be")
        made[name] = value
    if before is not None and made["content"] not in ({}, before["content"]):
        raise refusals.content_fixed(configuration_id)
    if before is not None:
        made["content"] = before["content"]
    check_content(made["content"])
    if made["targetCondition"] not in ("", "*"):
        parse_condition(made["targetCondition"])
    now = iso_utc(now_s)
    made["createdTimeUtc"] = now if before is None else before["createdTimeUtc"]
    made["lastUpdatedTimeUtc"] = now
    made["systemMetrics"] = {"results": {}, "queries": {}}
    made["etag"] = registry.new_etag()
    return made
