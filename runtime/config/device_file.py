"""`HOME/device.json`: the id of the device that a home belongs to, kept from the first start on.

So a new host name does not make it another device.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from messaging.errors import ConfigError, EnvironmentFault
from runtime.config.texts import device_id as read_device_id

DEVICE_FILE: Final = "device.json"


def remember_device(home: Path, device_id: str) -> None:
    """Write `HOME/device.json` unless it is there. The home exists and is locked by the caller.

    Raises:
        OSError: The home cannot be written.
    """
    path = home / DEVICE_FILE
    if path.exists():
        return
    fresh = path.with_suffix(".new")
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump({"deviceId": device_id}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def kept_device_id(home: Path) -> str | None:
    """Return the id of the device that a home belongs to, None for a new one.

    Raises:
        ConfigError: what is kept makes no sense.
        EnvironmentFault: it cannot be read.
    """
    path = home / DEVICE_FILE
    try:
        return read_device_id(json.loads(path.read_text(encoding="utf-8"))["deviceId"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise EnvironmentFault(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError(
            f'{path}: not of the form {{"deviceId": "…"}}; write the id of this device into it again'
        ) from exc
