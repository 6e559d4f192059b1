"""Reads the desired properties of `$edgeHub`: routes, how long messages are kept, the broker.

Routes stay text here: routing compiles them and leaves out a bad one, so none is an error of the manifest.

Source: spec sheets agent.md section 1.5, routing.md section 8.1, broker.md section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field

from actors.manifest.json_reader import Node, Source, load
from actors.manifest.schema_version import hub_schema_version
from messaging.broker.config import BrokerSpec

LOWEST_PRIORITY = 2_000_000_000
MAX_TIME_TO_LIVE_S = 4_294_967_295
FIRST_WITH_BROKER = 2  # schema version 1.2


class StoreFullPolicy(StrEnum):
    """What happens when new messages find no space: they are refused, or older ones make way."""

    REJECT = "reject"
    DROP_OLDEST = "drop-oldest"


class RouteSpec(Struct, frozen=True):
    """One route as written. 0 is the highest priority; a time to live of 0 means the common one."""

    text: str
    priority: int = LOWEST_PRIORITY
    time_to_live_s: int = 0


class HubSettings(Struct, frozen=True):
    """What `$edgeHub` desires. A negative time to live means that messages never expire."""

    schema_version: str = "1.1"
    routes: Mapping[str, RouteSpec] = field(default_factory=dict)
    time_to_live_s: int = 7200
    max_size_bytes: int | None = None  # None: what suits the disk
    when_full: StoreFullPolicy = StoreFullPolicy.REJECT
    broker: BrokerSpec | None = None  # None: there is none

    @property
    def ttl_s(self) -> int | None:
        """How long messages are kept whose route says nothing about it; None: for ever."""
        return None if self.time_to_live_s < 0 else self.time_to_live_s


def parse_hub(node: Node) -> HubSettings:
    """Read the desired properties of `$edgeHub`.

    Raises:
        DeploymentError: A field is missing or has a wrong type or range.
    """
    fields = node.properties(
        ("schemaVersion", "routes", "storeAndForwardConfiguration", "mqttBroker", "integrity")
    )
    version, minor = hub_schema_version(fields.need("schemaVersion", '"schemaVersion": "1.1"'))
    routes = fields.get("routes") if minor == 0 else fields.need("routes", '"routes": {}')
    store = fields.need(
        "storeAndForwardConfiguration", '"storeAndForwardConfiguration": {"timeToLiveSecs": 7200}'
    ).properties(("timeToLiveSecs", "storeLimits"))
    limits = store.get("storeLimits")
    # `whenFull` is ours: the reference refuses, and has a limit in memory alone (routing.md section 5.10).
    limit = None if limits is None else limits.properties(("maxSizeBytes", "whenFull"))
    size = None if limit is None else limit.get("maxSizeBytes")
    when_full = None if limit is None else limit.get("whenFull")
    broker = fields.get("mqttBroker")
    if broker is not None and minor < FIRST_WITH_BROKER:
        broker.warn('has no effect below schema version 1.2; write "schemaVersion": "1.2"')
        broker = None
    if (integrity := fields.get("integrity")) is not None:
        integrity.warn("has no effect: manifest signatures are not checked")
    return HubSettings(
        schema_version=version,
        routes={} if routes is None else _routes(routes),
        time_to_live_s=store.need("timeToLiveSecs", '"timeToLiveSecs": 7200').integer(-(2**31), 2**31 - 1),
        max_size_bytes=None if size is None else size.integer(1, 2**63 - 1),
        when_full=StoreFullPolicy.REJECT if when_full is None else when_full.choice(StoreFullPolicy),
        broker=None if broker is None else _broker(broker),
    )


def _broker(section: Node) -> BrokerSpec:
    from actors.manifest.broker_manifest import parse_broker  # only where there is a broker

    return parse_broker(section)


def parse_hub_desired(desired: bytes, version: int, warnings: list[str] | None = None) -> HubSettings:
    """Read the desired properties of `$edgeHub` as they come from its twin, JSON.

    Args:
        desired: Without `$version`.
        version: It.
        warnings: Gets what was noticed without being an error.

    Raises:
        DeploymentError: they are wrong or empty; the text names the version.
    """
    source = Source(f"$edgeHub, version {version}", [] if warnings is None else warnings)
    root = load(desired, source)
    if not root.value:
        raise root.error("the desired properties are empty; there are no routes", code=417)
    return parse_hub(root)


def _routes(node: Node) -> dict[str, RouteSpec]:
    routes: dict[str, RouteSpec] = {}
    for name, entry in node.entries():
        if not name.strip():
            raise entry.error("a route needs a name")
        route = _route(entry)
        if route.text.strip():
            routes[name] = route
        else:
            entry.warn("the route is empty and left out")
    return routes


def _route(node: Node) -> RouteSpec:
    if isinstance(node.value, dict):
        fields = node.properties(("route", "priority", "timeToLiveSecs"))
        priority, time_to_live = fields.get("priority"), fields.get("timeToLiveSecs")
        default = priority is None or priority.value == LOWEST_PRIORITY
        return RouteSpec(
            text=fields.text("route"),
            priority=LOWEST_PRIORITY if default or priority is None else priority.integer(0, 9),
            time_to_live_s=0 if time_to_live is None else time_to_live.integer(0, MAX_TIME_TO_LIVE_S),
        )
    if node.value is None:
        return RouteSpec("")
    return RouteSpec(node.text('a string such as "FROM /messages/* INTO $upstream", or an object'))
