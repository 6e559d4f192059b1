"""One twin as the hub keeps it: what the client sees, and what is known of the cloud's copy. Pure values.

Source: hub-protocols.md sections 1.12, 7.6
"""

from __future__ import annotations

import re
from typing import Any

import msgpack
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from messaging.errors import EnvelopeError, IotHubError
from messaging.text import quoted
from messaging.twin import Json, Section, difference, merge, new_section, patched, replaced

_FORMAT = 1
_FORBIDDEN_HERE = re.compile("#")  # besides what IoT Hub forbids


class TwinRecord(Struct, frozen=True):
    """The twin of one identity."""

    desired: Section
    reported: Section
    known: Json | None = None  # reported values that the cloud is known to have; None: it was never asked
    tried: Json | None = None  # those it has if the patch that is under way has arrived
    # Desired values that the client is known to have, null where that is in doubt; None: it never asked.
    told: Json | None = None

    @classmethod
    def new(cls, now_s: float) -> TwinRecord:
        """Return the twin of an identity that has none yet."""
        return cls(new_section(now_s), new_section(now_s))

    def encode(self) -> bytes:
        """Return the record as bytes."""
        sections = [
            (section.values, section.metadata, section.version) for section in (self.desired, self.reported)
        ]
        encoded: bytes = msgpack.packb((_FORMAT, *sections, self.known, self.tried, self.told))
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> TwinRecord:
        """Return the record that `encode` made these bytes of.

        Raises:
            EnvelopeError: They are something else.
        """
        try:
            number, desired, reported, known, tried, told = msgpack.unpackb(encoded)
            if number != _FORMAT:
                raise EnvelopeError(f"a twin has format {number}; this release knows {_FORMAT}")
            return cls(Section(*desired), Section(*reported), known, tried, told)
        except (ValueError, TypeError) as exc:
            raise EnvelopeError("a twin cannot be read") from exc

    def document(self) -> bytes:
        """Return what a client gets when it asks for its twin."""
        return msgspec.json.encode({"desired": self.desired.told(), "reported": self.reported.told()})

    def unsent(self) -> Json:
        """Return the patch that makes what the cloud is known to have into what is reported."""
        return difference(self.known or {}, self.reported.values)

    def with_reported(self, patch: object, now_s: float) -> TwinRecord:
        """Return the record after a client's patch.

        Raises:
            IotHubError: 400 the patch is not allowed.
        """
        after = patched("reported", self.reported, patch, now_s)
        _check_keys(patch)
        return replace(self, reported=after)

    def with_desired(self, values: object, now_s: float) -> TwinRecord:
        """Return the record with other desired properties; this same one when they are no others.

        Raises:
            IotHubError: 400 they are not allowed.
        """
        after = replaced("desired", self.desired, values, now_s)
        return replace(self, desired=after) if difference(self.desired.values, after.values) else self

    def with_cloud(self, desired: Json, reported: Json, now_s: float) -> TwinRecord:
        """Return the record after the cloud has told its copy, in which both sections have `$version`.

        Desired properties are the cloud's. Of the reported ones, what changed here since the cloud was last
        heard of is kept, on top of what the cloud has. Whether a patch of unknown fate has arrived shows in
        that it would change nothing any more.
        """
        wanted, version = _split(desired)
        has, reported_version = _split(reported)
        heard_of = self.known or {}
        if self.tried is not None and merge(has, difference(heard_of, self.tried)) == has:
            heard_of = self.tried
        ours = merge(has, difference(heard_of, self.reported.values))
        return TwinRecord(
            Section(wanted, self.desired.metadata, version),
            Section(ours, self.reported.metadata, max(self.reported.version, reported_version)),
            has,
            told=self.told,
        )

    def with_desired_patch(self, version: int, patch: Json) -> TwinRecord | None:
        """Return the record after a patch of the cloud; None when it does not follow on what is known."""
        if version != self.desired.version + 1:
            return None
        values, _ = _split(merge(self.desired.values, patch))
        return replace(self, desired=Section(values, self.desired.metadata, version))

    def with_told(self, values: Json) -> TwinRecord:
        """Return the record after the client has taken these desired values; this same one if it knew."""
        return self if self.told == values else replace(self, told=values)

    def with_sent(self) -> TwinRecord:
        """Return the record while the client is sent what it lacks of the desired values.

        Whether that arrives is not known until the client takes it, and never if the hub dies before: what it
        changes is sent again then, and what it removes removed again. This same one if nothing is in doubt.
        """
        if self.told is None:
            return self
        doubted = _doubted(self.told, difference(self.told, self.desired.values))
        return self if doubted == self.told else replace(self, told=doubted)

    def with_trial(self) -> TwinRecord:
        """Return the record while `unsent` is on its way."""
        return replace(self, tried=self.reported.values)

    def with_taken(self) -> TwinRecord:
        """Return the record after the cloud has taken what was on its way."""
        return replace(self, known=self.tried, tried=None)


def _doubted(known: Json, patch: Json) -> Json:
    """Return what is known with null wherever a patch that may have arrived changes it."""
    doubted = dict(known)
    for key, change in patch.items():
        before = known.get(key)
        if isinstance(change, dict) and change:
            doubted[key] = _doubted(before if isinstance(before, dict) else {}, change)
        else:
            doubted[key] = _nulls(before)
    return doubted


def _nulls(value: object) -> object:
    """Return null in the place of a value, of each one in an object: it may still have its members."""
    if not isinstance(value, dict) or not value:
        return None
    return {key: _nulls(member) for key, member in value.items()}


def _split(section: Json) -> tuple[Json, int]:
    """Return the application's members of a section, and its version."""
    version = section.get("$version", 0)
    values = {key: value for key, value in section.items() if not key.startswith("$")}
    return values, version if isinstance(version, int) else 0


def _check_keys(patch: Any) -> None:
    if isinstance(patch, dict):
        for key, value in patch.items():
            if _FORBIDDEN_HERE.search(key):
                raise IotHubError(
                    400004, "ArgumentInvalid", f"reported properties: the key {quoted(key)} has a '#'"
                )
            _check_keys(value)
    elif isinstance(patch, list):
        for element in patch:
            _check_keys(element)
