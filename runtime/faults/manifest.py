"""The deployment of the edge of a fault script: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runtime.faults.scenario import BYSTANDERS, UPSTREAM, ModuleOfEdge, Scenario

SLEEPER: Final = ("sleep", "100000")


def manifest_of(scenario: Scenario, images: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of the deployment file; `images` are those that were made for the run."""
    edge = scenario.edge
    # Clients of the load are deployed as stopped modules, which gives them an identity and no process.
    played = (*scenario.load.publisher_names, *scenario.load.consumers)
    modules = {name: _process(SLEEPER, "stopped") for name in played}
    modules |= {name: _process(SLEEPER, "running") for name in BYSTANDERS}
    modules |= {name: _module(module, images) for name, module in edge.modules.items()}
    system = {"type": "docker", "status": "running", "restartPolicy": "always"}
    hub = {**system, "settings": {"image": "faults/edgeHub:none"}}
    hub_env = dict(edge.hub_env)
    if hub_env:
        hub["env"] = {name: {"value": value} for name, value in hub_env.items()}
    store: dict[str, Any] = {"timeToLiveSecs": edge.ttl_s}
    if edge.most_bytes:
        store["storeLimits"] = {"maxSizeBytes": edge.most_bytes}
    return {
        "modulesContent": {
            "$edgeAgent": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "runtime": {"type": "docker", "settings": {"minDockerVersion": "v1.25"}},
                    "systemModules": {
                        "edgeAgent": {**system, "settings": {"image": "faults/edgeAgent:none"}},
                        "edgeHub": hub,
                    },
                    "modules": modules,
                }
            },
            "$edgeHub": {
                "properties.desired": {
                    "schemaVersion": "1.1",
                    "routes": _routes(scenario),
                    "storeAndForwardConfiguration": store,
                }
            },
        }
    }


def _process(command: tuple[str, ...], status: str, restart: str = "always") -> dict[str, Any]:
    settings = {"command": list(command)}
    return {"type": "process", "status": status, "restartPolicy": restart, "settings": settings}


def _module(module: ModuleOfEdge, images: Mapping[str, str]) -> dict[str, Any]:
    if not module.image:
        return _process(module.command, "running", module.restart)
    settings = {"image": images.get(module.image, module.image)}
    return {"type": "docker", "status": "running", "restartPolicy": module.restart, "settings": settings}


def _routes(scenario: Scenario) -> dict[str, Any]:
    """Return each route once for each publisher; the input of a consumer has the name of the route."""
    found: dict[str, Any] = {}
    for name, route in scenario.edge.routes.items():
        form: dict[str, Any] = {}
        if route.priority is not None:
            form["priority"] = route.priority
        if route.ttl_s:
            form["timeToLiveSecs"] = route.ttl_s
        sink = (
            UPSTREAM if route.into == UPSTREAM else f'BrokeredEndpoint("/modules/{route.into}/inputs/{name}")'
        )
        for publisher in scenario.load.publisher_names:
            # Who publishes over AMQP is a client as a device would be, which knows no outputs.
            source = "*" if scenario.load.over == "amqp" else f"outputs/{route.output}"
            text = f"FROM /messages/modules/{publisher}/{source} INTO {sink}"
            found[f"{name}-{publisher}"] = {"route": text, **form} if form else text
    return found
