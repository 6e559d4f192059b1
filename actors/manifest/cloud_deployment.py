"""Makes a deployment of what the cloud keeps: the desired properties of `$edgeAgent` and of `$edgeHub`.

Each stands in a twin of its own, with a version of its own. So the one can be wrong, or not known yet, and
the other goes into force all the same.

Source: spec sheet agent.md sections 1.4 and 6.4
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import msgspec

from actors.manifest.deployment import Deployment, parse_deployment
from actors.manifest.module_spec import BuiltInSettings, ModuleSpec

_NO_HUB: Final[dict[str, Any]] = {
    "schemaVersion": "1.1",
    "routes": {},
    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
}


def parse_agent(desired: bytes, version: int) -> Deployment:
    """Return the deployment that the desired properties of `$edgeAgent` describe, without routes.

    Raises:
        DeploymentError: as `parse_deployment`; the text names the version.
    """
    entries = {"$edgeAgent": msgspec.Raw(desired), "$edgeHub": _NO_HUB}
    contents = {name: {"properties.desired": properties} for name, properties in entries.items()}
    content = msgspec.json.encode({"modulesContent": contents})
    return replace(parse_deployment(content, f"deployment {version} from the cloud"), twins={})


def no_deployment() -> Deployment:
    """Return the deployment of an edge that has got none yet: nothing runs but itself."""
    empty = {"schemaVersion": "1.1", "runtime": {"type": "docker"}, "systemModules": {}, "modules": {}}
    deployment = parse_agent(msgspec.json.encode(empty), 0)
    return replace(deployment, edge_agent=ModuleSpec("edgeAgent", BuiltInSettings()), schema_version="")
