"""What createOptions may not ask for: never the home of the edge, rights over the machine where allowed.

Pure but for symbolic links, which are followed. What is unknown here is passed on, as everywhere.

Source: spec sheet agent.md section 4.3, privileges
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from messaging.errors import ConfigError
from runtime.docker import options

# With any of these a container is no more held by what a container is.
_ELEVATED: Final = (
    "Privileged",
    "CapAdd",
    "Devices",
    "DeviceCgroupRules",
    "DeviceRequests",
    "MaskedPaths",
    "ReadonlyPaths",
    "CgroupParent",
    "VolumesFrom",
)
_NAMESPACES: Final = ("NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode", "CgroupnsMode")
# The reference takes these from every container that may not be elevated, unless it names them in CapAdd.
_DROPPED: Final = ("CHOWN", "SETUID")


def take_elevated(host: dict[str, Any], engine_socket: str) -> tuple[str, ...]:
    """Take rights over this machine out of a HostConfig, in place; return what was taken."""
    added = {str(one).upper().removeprefix("CAP_") for one in options.get(host, "CapAdd") or ()}
    taken = [name for name in _ELEVATED if options.pop(host, name)]
    for name in _NAMESPACES:
        mode = str(options.get(host, name) or "")
        if mode == "host" or mode.startswith("container:"):
            options.pop(host, name)
            taken.append(f"{name} {mode}")
    for kind in ("Binds", "Mounts"):
        entries = options.get(host, kind) or ()
        kept = [one for one in entries if not _shows(_source(one), engine_socket)]
        if len(kept) < len(entries):
            options.pop(host, kind)
            host[kind] = kept
            taken.append(f"{kind} of the engine's socket")
    security = options.get(host, "SecurityOpt") or ()
    stricter = [one for one in security if str(one).startswith("no-new-privileges")]
    if len(stricter) < len(security):
        options.pop(host, "SecurityOpt")
        host["SecurityOpt"] = stricter
        taken.append("SecurityOpt")
    dropped = {str(one).upper().removeprefix("CAP_") for one in options.get(host, "CapDrop") or ()}
    options.append(host, "CapDrop", [one for one in _DROPPED if one not in added | dropped])
    return tuple(taken)


def refuse_home(module: str, host: Mapping[str, Any], home: Path) -> None:
    """See to it that a container does not get the keys and databases of the edge.

    Raises:
        ConfigError: the home, a part of it or a folder that it is in would be bound into the container.
    """
    for source in _sources(host):
        if _shows(source, str(home)) or _shows(str(home), source):
            raise ConfigError(
                f"module '{module}': its createOptions bind {source} into the container, and the home of "
                f"this edge, {home}, with its keys, would be visible there; bind a folder that has nothing "
                "to do with it, in HostConfig.Binds or Mounts"
            )


def _sources(host: Mapping[str, Any]) -> Iterator[str]:
    entries: Iterable[Any] = (*(options.get(host, "Binds") or ()), *(options.get(host, "Mounts") or ()))
    for entry in entries:
        source = _source(entry)
        if source:
            yield source


def _source(entry: Any) -> str:
    """Return the path of this machine that is bound, "" for a volume and for what makes no sense."""
    if isinstance(entry, str):
        source = entry.partition(":")[0]
        return source if source.startswith("/") else ""
    if not isinstance(entry, Mapping):
        return ""
    source = str(options.get(entry, "Source") or "")
    if str(options.get(entry, "Type") or "").casefold() == "bind":
        return source
    # A volume made on the spot of a folder of this machine.
    for name in ("VolumeOptions", "DriverConfig", "Options"):
        entry = options.get(entry, name)
        if not isinstance(entry, Mapping):
            return ""
    device = str(options.get(entry, "device") or "")
    return device if device.startswith("/") else ""


def _shows(source: str, path: str) -> bool:
    """Return whether a path is visible to whom a source is given: it is that, or lies in it."""
    if not source:
        return False
    whole, wanted = os.path.realpath(source), os.path.realpath(path)
    return wanted == whole or wanted.startswith(whole.rstrip("/") + "/")
