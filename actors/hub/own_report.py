"""What `$edgeHub` reports of itself. Pure; HubClientActor sends it.

Source: spec sheet observability.md section 5.1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from messaging.time_text import iso_utc
from messaging.twin import Json
from messaging.version import VERSION

SCHEMA_VERSION: Final = "1.0"  # of the reported part; it has nothing to do with the desired one
MOST_CLIENTS_BYTES: Final = 24 * 1024  # of the 32 KiB of all reported properties
MOST_BRIDGES: Final = 10
LONGEST_ERROR: Final = 200  # characters of a bridge's
MOST_GONE: Final = 1000  # modules that are gone and remembered
PARSING: Final = "Error while parsing desired properties"  # the reference's words
LONGEST_DESCRIPTION: Final = 1000  # characters; a text of a twin may have 4096 bytes
_ENTRY_BYTES: Final = 130  # of an entry without its key: status and two times
_ESCAPED: Final = re.compile("[.$ #]")  # what keys of twins may not have


class ClientTimes(Struct):
    """One client; times in seconds since 1970-01-01 UTC."""

    head: str  # that serves it; "" when it is not connected
    connected_s: float
    disconnected_s: float | None = None

    def entry(self) -> Json:
        """Return what is reported of it."""
        entry: Json = {
            "status": "Connected" if self.head else "Disconnected",
            "lastConnectedTimeUtc": iso_utc(self.connected_s),
        }
        if self.disconnected_s is not None:
            entry["lastDisconnectedTimeUtc"] = iso_utc(self.disconnected_s)
        return entry


def client_key(identity: str) -> str:
    """Return an identity as a key of the map of clients."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", identity)


def client_entries(clients: Iterable[tuple[str, ClientTimes]]) -> tuple[Json, int]:
    """Return the map of clients, as many as fit, and how many were left out.

    Who is connected goes before who is not, modules before devices, and who came first before the others: so
    an entry stays while its client does.
    """

    def rank(known: tuple[str, ClientTimes]) -> tuple[bool, bool, float, str]:
        identity, times = known
        since_s = times.connected_s if times.head else -(times.disconnected_s or 0.0)
        return not times.head, "/" not in identity, since_s, identity

    entries: Json = {}
    left_bytes = MOST_CLIENTS_BYTES
    ranked = sorted(clients, key=rank)
    for count, (identity, times) in enumerate(ranked):
        key = client_key(identity)
        left_bytes -= len(key) + _ENTRY_BYTES
        if left_bytes < 0:
            return entries, len(ranked) - count
        entries[key] = times.entry()
    return entries, 0


def bridge_entries(bridges: Iterable[tuple[str, str, str, str]]) -> Json:
    """Return the map of bridges: (endpoint, status, connected since or "", error or "") each."""
    entries: Json = {}
    for endpoint, status, connected_since, error in list(bridges)[:MOST_BRIDGES]:
        entry: Json = {"status": status}
        if connected_since:
            entry["connectedTimeUtc"] = connected_since
        if error:
            entry["error"] = error[:LONGEST_ERROR]
        entries[client_key(endpoint)] = entry
    return entries


def hub_report(desired_version: int, bad_routes: Sequence[tuple[str, str]], problem: str = "") -> Json:
    """Return what is reported besides clients.

    Args:
        desired_version: Of the desired properties that came last.
        bad_routes: (name, problem) of those left out.
        problem: Why these desired properties are not in force at all; "" when they are.
    """
    text = ""
    if problem:
        text = f"{PARSING} - {problem}"
    elif bad_routes:
        causes = "; ".join(f"Error parsing route {name} - {problem}" for name, problem in bad_routes)
        names = ", ".join(name for name, _ in bad_routes)
        text = f"{PARSING} - left out: {names}. {causes}"
    if len(text) > LONGEST_DESCRIPTION:
        text = f"{text[: LONGEST_DESCRIPTION - 1]}…"
    return {
        "schemaVersion": SCHEMA_VERSION,
        "version": {"version": VERSION, "build": "", "commit": ""},
        "lastDesiredVersion": desired_version,
        "lastDesiredStatus": {"code": 400 if text else 200, "description": text},
    }
