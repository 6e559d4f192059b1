"""A real hub with a broker and bridges, a real broker of somebody else, and a line between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from actors.addresses import BRIDGES, BROKER
from actors.broker.bridge_messages import Bridges, ListBridges
from actors.broker.settings import BrokerSet, set_broker
from actors.hub import config as hub_config
from actors.hub.identity import HubIdentity, KnownIdentities
from messaging.broker.bridges import Bridge, BridgeRule, Direction
from messaging.broker.config import BrokerSpec
from messaging.broker.policy import Operation, Rule
from messaging.client import Client, NobodyThere
from messaging.envelope import Secret
from runtime.security.identity_copy import IdentityFile
from tests.integration.hub_process import DEVICE, HubProcess
from tests.integration.mosquitto import Peer
from tests.waiting import wait_until

ALL = Rule(True, ("{{iot:identity}}",), tuple(Operation), ("#",))
SITE = "site"
LIMIT_S = 60.0
OUT, IN = Direction.OUT, Direction.IN


def broker_spec(*rules: BridgeRule, endpoint: str = SITE) -> BrokerSpec:
    """Return a broker at which everybody may do everything, with one bridge."""
    return BrokerSpec((ALL,), (Bridge(endpoint, tuple(rules)),) if rules else ())


def hub_with(*rules: BridgeRule, endpoint: str = SITE, **settings: Any) -> HubProcess:
    """Return a hub that is not started, with modules a and b."""
    return HubProcess({}, ("a", "b"), broker=broker_spec(*rules, endpoint=endpoint), **settings)


def set_access(hub: HubProcess, lines: Iterable[str], endpoint: str = SITE) -> None:
    """Write what the device knows of the other broker."""
    path = hub.home / "bridges.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join([f'["{endpoint}"]', *lines]) + "\n")


def set_rules(hub: HubProcess, *rules: BridgeRule, endpoint: str = SITE) -> None:
    """Put other rules in force, as the agent does."""
    with Client.outside(hub.run_dir) as agent:
        agent.ask(BROKER, set_broker(broker_spec(*rules, endpoint=endpoint)), BrokerSet, LIMIT_S)


def bridges(hub: HubProcess) -> dict[str, Any]:
    """Return what the hub tells of its bridges, by endpoint."""
    with Client.outside(hub.run_dir) as asker:
        told = asker.ask(BRIDGES, ListBridges(), Bridges, LIMIT_S)
    return {str(bridge["endpoint"]): bridge for bridge in told.bridges}


def wait_for_bridge(hub: HubProcess, endpoint: str = SITE, **wanted: Any) -> dict[str, Any]:
    """Wait until the hub tells this of a bridge: values, or functions that judge them; return all of it.

    One that is connected also has its subscriptions: what is published before them never comes.
    """
    if wanted.get("status") == "connected":
        wanted["unanswered"] = ()
    shown: dict[str, Any] = {}

    def is_told() -> bool:
        nonlocal shown
        try:
            shown = bridges(hub).get(endpoint, {})
        except NobodyThere:  # the hub starts
            shown = {}
        return bool(shown) and all(
            want(shown[name]) if callable(want) else shown[name] == want for name, want in wanted.items()
        )

    wait_until(is_told, lambda: f"{shown}\n" + "\n".join(hub.log_lines()[-20:]), LIMIT_S)
    return shown


def module(hub: HubProcess, name: str) -> Peer:
    """Return a module that is connected."""
    client_id = f"{DEVICE}/{name}"
    return Peer(hub.plain_port, client_id, hub.user_name(client_id), hub.token(client_id))


def make_child(hub: HubProcess, device_id: str, key: bytes) -> None:
    """Make the hub, which is not started, that of another device, with this key for its `$edgeHub`."""
    path = hub.home / "hub.json"
    config = hub_config.decode(path.read_bytes(), str(path))
    path.write_bytes(hub_config.encode(msgspec.structs.replace(config, device_id=device_id)))
    hub.keys = {name.replace(DEVICE, device_id, 1): its for name, its in hub.keys.items()}
    hub.keys[f"{device_id}/$edgeHub"] = key
    known = tuple(HubIdentity(name, keys=(Secret(its), Secret(its))) for name, its in hub.keys.items())
    IdentityFile(hub.home / "identities.copy").save(KnownIdentities(known, ()))
