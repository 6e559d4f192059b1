"""Who is who: the ids of devices and modules as IoT Hub writes them."""

from __future__ import annotations

import re

from msgspec import Struct

from messaging.errors import ConfigError
from messaging.text import quoted

LONGEST_ID = 128
EDGE_HUB = "$edgeHub"
EDGE_AGENT = "$edgeAgent"

# The identity registry of IoT Hub: ASCII letters and digits and these signs; `+` and `#` are left out because
# they are wildcards in MQTT, `/` because it separates a device from its module.
_ID = re.compile(r"[A-Za-z0-9\-.%_*?!(),:=@$']+", re.ASCII)


class Identity(Struct, frozen=True):
    """A device, or a module of a device; ids are case-sensitive.

    Raises:
        ConfigError: an id is empty, longer than 128 characters or has a character that IoT Hub refuses.
    """

    device_id: str
    module_id: str | None = None

    def __post_init__(self) -> None:
        _check_id("device", self.device_id)
        if self.module_id is not None:
            _check_id("module", self.module_id)

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read `D` or `D/M`, the form of an MQTT client id.

        Raises:
            ConfigError: more than one `/`, or an id that IoT Hub refuses.
        """
        device_id, slash, module_id = text.partition("/")
        return cls(device_id, module_id if slash else None)

    @classmethod
    def edge_hub(cls, device_id: str) -> Identity:
        """Return the identity under which the hub of an edge device talks to the cloud."""
        return cls(device_id, EDGE_HUB)

    @classmethod
    def edge_agent(cls, device_id: str) -> Identity:
        """Return the identity under which the agent of an edge device talks to the cloud."""
        return cls(device_id, EDGE_AGENT)

    @property
    def id(self) -> str:
        """`D` for a device, `D/M` for a module: client id of MQTT, name in logs, key in tables."""
        return self.device_id if self.module_id is None else f"{self.device_id}/{self.module_id}"

    def __str__(self) -> str:
        return self.id


def _check_id(kind: str, text: str) -> None:
    if not text:
        raise ConfigError(f"{kind} id is empty")
    if len(text) > LONGEST_ID:
        raise ConfigError(
            f"{kind} id {quoted(text)} has {len(text)} characters; at most {LONGEST_ID} are allowed"
        )
    if not _ID.fullmatch(text):
        raise ConfigError(
            f"{kind} id {quoted(text)} is not an id of IoT Hub; "
            "allowed are letters, digits and - . % _ * ? ! ( ) , : = @ $ '"
        )
