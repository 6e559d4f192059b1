"""How the value of a setting is shown to people and programs; never a secret."""

from __future__ import annotations

import shlex
from datetime import time
from enum import Enum
from typing import Any, Final

from messaging.connection_string import ConnectionString
from runtime.config import texts
from runtime.config.settings import Settings, about
from runtime.security.renewal import Threshold

MASK: Final = "***"
# Their defaults are known only here and now.
_FOUND_OUT: Final = ("home", "device_id", "iothub_hostname", "hostname")


def shown(settings: Settings, name: str) -> str:
    """Return the value of a setting as its user would write it; without one what its default says."""
    value = getattr(settings, name)
    if isinstance(value, ConnectionString):
        proof = f"SharedAccessKey={MASK}" if value.shared_access_key else "x509=true"
        return f"HostName={value.host_name};DeviceId={value.identity.device_id};{proof}"
    described = about(name)
    if name not in settings.given and (name not in _FOUND_OUT or value in (None, "", ())):
        return described.default
    if described.is_secret:
        return MASK
    if described.read in (texts.span_s, texts.trial_s):
        return f"{value:g}s" if value else "off"
    return _text(value)


def _text(value: Any) -> str:
    match value:
        case None | ():
            return "off"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case time():
            return f"{value:%H:%M}"
        case range():
            return f"{value.start}-{value.stop - 1}"
        case Enum():
            return str(value.value)
        case Threshold():
            if value.percent:
                return f"{value.percent}%"
            return f"{value.before_end_s // 60}min"
        case (str(host), int(port)):  # of the provisioning service
            return host if port == 443 else f"{host}:{port}"
        case tuple():
            if all(isinstance(one, tuple) for one in value):
                return "; ".join(map(shlex.join, value))
            return ",".join(map(str, value))
    return str(value)
