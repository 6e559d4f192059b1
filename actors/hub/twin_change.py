"""A change of reported properties as the message that `FROM /twinChangeNotifications` routes. Pure.

Source: spec sheet routing.md section 3.4
"""

from __future__ import annotations

from messaging import system_properties as names
from messaging.identity import Identity
from messaging.message import TWIN_CHANGE, encode_header, source_path
from messaging.time_text import iso_utc


def change_header(reporter: Identity, hub: Identity, now_s: float) -> bytes:
    """Return the header of the message, which the hub sends for the reporter; the patch is its body."""
    properties: dict[str, str | None] = {
        names.MESSAGE_TYPE: TWIN_CHANGE,
        names.MESSAGE_SCHEMA: TWIN_CHANGE,
        names.ENQUEUED_TIME: iso_utc(now_s),
        names.REPORTER_DEVICE_ID: reporter.device_id,
        names.CONNECTION_DEVICE_ID: hub.device_id,
        names.CONNECTION_MODULE_ID: hub.module_id,
    }
    if reporter.module_id is not None:
        properties[names.REPORTER_MODULE_ID] = reporter.module_id
    return encode_header(source_path(properties), {}, properties)
