"""Twins: what may stand in one, how a patch is merged, and the bookkeeping of versions and times.

A section is the tags, the desired or the reported properties: a JSON object of an application. Its `$version`
and `$metadata` are kept beside it and never come from outside. All functions leave their arguments alone.

Source: spec sheets hub-protocols.md section 7.6, security-daemon.md section 4.6
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

from messaging.errors import IotHubError
from messaging.text import quoted
from messaging.time_text import iso_utc

SectionName = Literal["tags", "desired", "reported"]
Json = dict[str, Any]

DEEPEST: Final = 10  # objects inside each other below the section; the value inside the tenth does not count
LONGEST_KEY_BYTES: Final = 1024
LONGEST_TEXT_BYTES: Final = 4096
LARGEST_BYTES: Final[Mapping[SectionName, int]] = {
    "tags": 8 * 1024,
    "desired": 32 * 1024,
    "reported": 32 * 1024,
}
SMALLEST_INTEGER: Final = -(2**52)
LARGEST_INTEGER: Final = 2**52 - 1
OWN_MEMBERS: Final = ("$version", "$metadata")

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f .$]")


class Section(Struct, frozen=True):
    """Values with their version and, for properties, when each was last set."""

    values: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    version: int = 1

    def shown(self) -> Json:
        """Return the values with `$metadata` and `$version`, as the service side shows them."""
        return {**self.values, "$metadata": self.metadata, "$version": self.version}

    def told(self) -> Json:
        """Return the values with `$version`, as a device gets them."""
        return {**self.values, "$version": self.version}


def new_section(now_s: float) -> Section:
    """Return the section of a new twin: empty, version 1."""
    return Section({}, {"$lastUpdated": iso_utc(now_s)}, 1)


def checked_patch(name: SectionName, patch: object) -> Json:
    """Return `patch` when it may be merged into a section; null in it removes.

    Raises:
        IotHubError: 400 it is no object, or a key, value or depth in it is not allowed.
    """
    if not isinstance(patch, dict):
        raise _refused(name, f"a JSON object is needed, not {_kind(patch)}")
    _check_object(name, patch, 1, "")
    return patch


def without_own_members(values: object) -> object:
    """Return a section without `$version` and `$metadata`.

    Services read a twin, change it and send all of it back; IoT Hub passes over what is its own.
    """
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if key not in OWN_MEMBERS}


def merge(values: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """Return `values` with `patch` merged in: objects member by member, null removes, the rest replaces.

    Source: RFC 7396
    """
    merged = dict(values)
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        elif isinstance(change, dict):
            old = merged.get(key)
            merged[key] = merge(old if isinstance(old, dict) else {}, change)
        else:
            merged[key] = change
    return merged


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """Return the patch that makes `new` out of `old`: `merge(old, difference(old, new)) == new`."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if key in old and isinstance(before, dict) and isinstance(value, dict):
            inner = difference(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or not _same(before, value):
            patch[key] = value
    return patch


def patched(name: SectionName, section: Section, patch: object, now_s: float) -> Section:
    """Return the section after a patch: merged, one version later, with the times of what it named.

    Raises:
        IotHubError: 400 the patch is not allowed, or the section would be too large.
    """
    allowed = checked_patch(name, patch)
    values = merge(section.values, allowed)
    _check_size(name, values)
    version = section.version + 1
    stamp = _stamp(name, now_s, version)
    return Section(values, _stamped(section.metadata, allowed, values, stamp), version)


def replaced(name: SectionName, section: Section, values: object, now_s: float) -> Section:
    """Return the section with other values; members that are null are left out.

    Raises:
        IotHubError: as `patched`.
    """
    whole = merge({}, checked_patch(name, values))
    _check_size(name, whole)
    version = section.version + 1
    stamp = _stamp(name, now_s, version)
    return Section(whole, _stamped({}, whole, whole, stamp), version)


def size_bytes(values: Mapping[str, Any]) -> int:
    """Return what counts against the limit of a section: its JSON without blanks."""
    return len(msgspec.json.encode(values))


def _stamp(name: SectionName, now_s: float, version: int) -> Json:
    stamp: Json = {"$lastUpdated": iso_utc(now_s)}
    if name == "desired":
        stamp["$lastUpdatedVersion"] = version
    return stamp


def _stamped(metadata: Mapping[str, Any], patch: Mapping[str, Any], values: Json, stamp: Json) -> Json:
    """Return the metadata of `values`: what the patch named carries the stamp, the rest what it had."""
    stamped: Json = {key: old for key, old in metadata.items() if key in values or key.startswith("$")}
    stamped.update(stamp)
    for key, change in patch.items():
        if key not in values:
            continue
        if isinstance(change, dict):
            stamped[key] = _stamped(metadata.get(key, {}), change, values[key], stamp)
        else:
            stamped[key] = dict(stamp)
    return stamped


def _check_size(name: SectionName, values: Json) -> None:
    size = size_bytes(values)
    if size > LARGEST_BYTES[name]:
        raise _refused(name, f"{size} bytes; at most {LARGEST_BYTES[name]} are allowed")


def _check_object(name: SectionName, members: Mapping[object, Any], depth: int, path: str) -> None:
    for key, value in members.items():
        if not isinstance(key, str):
            raise _refused(name, f"the key {quoted(str(key))} is not a text")
        _check_key(name, key)
        _check_value(name, value, depth, f"{path}.{key}" if path else key)


def _check_key(name: SectionName, key: str) -> None:
    if not key:
        raise _refused(name, "a key is empty")
    if len(_utf8(name, key)) > LONGEST_KEY_BYTES:
        raise _refused(name, f"the key {quoted(key)} is longer than {LONGEST_KEY_BYTES} bytes")
    if _FORBIDDEN.search(key):
        raise _refused(
            name, f"the key {quoted(key)} has a blank, a control character, '.' or '$'; choose another"
        )


def _check_value(name: SectionName, value: object, depth: int, path: str) -> None:
    if isinstance(value, dict):
        _check_depth(name, depth, path)
        _check_object(name, value, depth + 1, path)
    elif isinstance(value, list):
        _check_array(name, value, depth, path)
    elif isinstance(value, str):
        if len(_utf8(name, value)) > LONGEST_TEXT_BYTES:
            raise _refused(name, f"the text at {quoted(path)} is longer than {LONGEST_TEXT_BYTES} bytes")
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            raise _refused(
                name, f"the integer at {quoted(path)} is not in {SMALLEST_INTEGER} to {LARGEST_INTEGER}"
            )
    elif not isinstance(value, float) or not math.isfinite(value):
        raise _refused(name, f"the value at {quoted(path)} is not a value of JSON")


def _check_array(name: SectionName, elements: list[Any], depth: int, path: str) -> None:
    for element in elements:
        if element is None:
            raise _refused(name, f"the array at {quoted(path)} has a null; leave it out")
        if isinstance(element, list):
            _check_depth(name, depth, path)
            _check_array(name, element, depth + 1, path)
        else:
            _check_value(name, element, depth, path)


def _check_depth(name: SectionName, depth: int, path: str) -> None:
    if depth > DEEPEST:
        raise _refused(name, f"nested deeper than {DEEPEST} levels at {quoted(path)}")


def _utf8(name: SectionName, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise _refused(name, f"{quoted(text)} has half of a surrogate pair") from exc


def _same(a: object, b: object) -> bool:
    # To Python 1 == 1.0 == True, to JSON they are three values; inside arrays, too.
    return msgspec.json.encode(a) == msgspec.json.encode(b)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a truth value", str: "a text", list: "an array"}.get(type(value), "a number")


def _refused(name: SectionName, reason: str) -> IotHubError:
    where = "tags" if name == "tags" else f"{name} properties"
    return IotHubError(400004, "ArgumentInvalid", f"{where}: {reason}")
