"""What a deployment says of the broker: as it travels to the hub, and as the hub uses it."""

from __future__ import annotations

from msgspec import Struct

from messaging.broker.bridges import Bridge
from messaging.broker.policy import Policy, Rule


class BrokerSpec(Struct, frozen=True):
    """The `mqttBroker` section of a deployment, checked. Without rules nobody may do anything."""

    rules: tuple[Rule, ...] = ()  # in the order in which they count
    bridges: tuple[Bridge, ...] = ()


class BrokerConfig(Struct, frozen=True):
    """The same, ready for use. Where there is none, the broker is off."""

    policy: Policy
    bridges: tuple[Bridge, ...]


def compiled(spec: BrokerSpec, *, iothub_hostname: str, edge_device_id: str) -> BrokerConfig:
    """Return what the hub of this edge device at this IoT Hub works with."""
    policy = Policy(spec.rules, iothub_hostname=iothub_hostname, edge_device_id=edge_device_id)
    return BrokerConfig(policy, spec.bridges)
