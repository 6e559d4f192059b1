"""How a deployment becomes the work of supervisors: in which order, and on whose behalf each of them acts.

Pure. What a deployment changes is told by planner.py; here is what the supervisors are given.
"""

from __future__ import annotations

import hashlib

from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import EDGE_HUB, ModuleSpec, spec_hash
from actors.ports.modules import ModuleAccess


def start_groups(deployment: Deployment) -> list[tuple[str, ...]]:
    """Return the modules in groups to start one after the other: edgeHub, then by start order.

    edgeHub comes first whatever its order: the others are its clients.
    """
    orders: dict[int, list[str]] = {}
    for name, spec in deployment.modules.items():
        orders.setdefault(spec.startup_order, []).append(name)
    hub = [(EDGE_HUB,)] if deployment.edge_hub is not None else []
    return hub + [tuple(orders[order]) for order in sorted(orders)]


def order_of(spec: ModuleSpec, access: ModuleAccess, problem: str) -> str:
    """Return what tells one order to a supervisor from another: all that it is given.

    A supervisor whose order is no longer what the deployment says hands its module over to a new one.
    """
    parts = (spec_hash(spec), spec.status.value, access.generation_id, access.workload_uri, problem)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
