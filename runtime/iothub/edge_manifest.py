"""A deployment manifest in the form in which an edge device is given it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from messaging.errors import ConfigError


def content_of(manifest: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return what `applyConfigurationContent` takes of the manifest that stands in `file`.

    Working folders of process modules become absolute: the twin of `$edgeAgent` is in no folder.

    Raises:
        ConfigError: it has no modulesContent.
    """
    content = manifest.get("content", manifest)  # as some tools wrap it
    if not isinstance(content, dict) or not isinstance(content.get("modulesContent"), dict):
        raise ConfigError(
            f"deployment '{file}' has no object modulesContent; it needs one with $edgeAgent and $edgeHub"
        )
    wanted = {name: content[name] for name in ("modulesContent", "deviceContent") if name in content}
    agent = _object(wanted["modulesContent"], "$edgeAgent", "properties.desired", "modules")
    for module in agent.values():
        if isinstance(module, dict) and module.get("type") == "process":
            settings = _object(module, "settings")
            folder = settings.get("workingDirectory")
            if settings and (folder is None or isinstance(folder, str)):
                settings["workingDirectory"] = working_folder(file.absolute().parent, folder)
    return wanted


def working_folder(start: Path, folder: str | None) -> str:
    """Return the working folder of a process module whose manifest stands in the folder `start`."""
    return os.path.normpath(start / (folder or "."))


def _object(value: Any, *keys: str) -> dict[str, Any]:
    """Return the object at the end of a path, an empty one if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
