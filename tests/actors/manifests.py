"""A small valid manifest that tests change in one place."""

from __future__ import annotations

import copy
import json
from typing import Any

AGENT = ("modulesContent", "$edgeAgent", "properties.desired")
HUB = ("modulesContent", "$edgeHub", "properties.desired")
SENSOR = (*AGENT, "modules", "sensor")
AT_AGENT = "d.json: $.modulesContent.$edgeAgent['properties.desired']"
AT_HUB = "d.json: $.modulesContent.$edgeHub['properties.desired']"
AT_SENSOR = f"{AT_AGENT}.modules.sensor"
AT_PUMP = f"{AT_AGENT}.modules.pump"

REMOVED = object()

_VALID: dict[str, Any] = {
    "modulesContent": {
        "$edgeAgent": {
            "properties.desired": {
                "schemaVersion": "1.1",
                "runtime": {
                    "type": "docker",
                    "settings": {
                        "minDockerVersion": "v1.25",
                        "registryCredentials": {
                            "acr": {"address": "reg.example:5000", "username": "u", "password": "hush"}
                        },
                    },
                },
                "systemModules": {
                    "edgeAgent": {"type": "docker", "settings": {"image": "agent:1", "createOptions": "{}"}},
                    "edgeHub": {
                        "type": "docker",
                        "status": "running",
                        "restartPolicy": "always",
                        "startupOrder": 0,
                        "settings": {"image": "hub:1", "createOptions": "{}"},
                    },
                },
                "modules": {
                    "sensor": {
                        "type": "process",
                        "status": "running",
                        "restartPolicy": "always",
                        "startupOrder": 1,
                        "env": {"INTERVAL_S": {"value": 1.50}},
                        "settings": {"command": ["python3", "sensor.py"]},
                    },
                    "pump": {
                        "type": "docker",
                        "status": "stopped",
                        "settings": {"image": "reg.example:5000/pump", "createOptions": '{"Hostname": "p"}'},
                    },
                },
            }
        },
        "$edgeHub": {
            "properties.desired": {
                "schemaVersion": "1.1",
                "routes": {
                    "up": "FROM /messages/* INTO $upstream",
                    "hot": {
                        "route": "FROM /messages/modules/sensor/* INTO $upstream",
                        "priority": 0,
                        "timeToLiveSecs": 60,
                    },
                },
                "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
            }
        },
        "sensor": {"properties.desired": {"limits": {"high": 90.0}}},
    }
}


def manifest(*changes: tuple[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return the valid manifest with each (path, value) set, or taken out when the value is REMOVED."""
    root = copy.deepcopy(_VALID)
    for path, value in changes:
        target = root
        for key in path[:-1]:
            target = target[key]
        if value is REMOVED:
            del target[path[-1]]
        else:
            target[path[-1]] = value
    return root


def manifest_text(*changes: tuple[tuple[str, ...], Any]) -> str:
    return json.dumps(manifest(*changes))
