"""What the deployment says of the broker, told by the agent to a hub that lives.

Whether there is a broker at all is settled when the hub starts (`HubConfig.broker`): a deployment that
switches it on or off replaces the hub. Rules and bridges change while it runs.
"""

from __future__ import annotations

import msgspec

from messaging.broker.config import BrokerSpec
from messaging.kinds import message


@message
class SetBroker:
    """Let these rules and bridges be in force from now on. Answered with BrokerSet.

    The agent repeats them whenever it meets the hub, so mostly nothing changes.
    """

    spec: bytes  # a BrokerSpec; JSON


@message
class BrokerSet:
    """They are in force; who may no longer do what it does is cut off."""


def set_broker(spec: BrokerSpec) -> SetBroker:
    """Return the message that puts these rules and bridges in force."""
    return SetBroker(msgspec.json.encode(spec))


def spec_in(message: SetBroker) -> BrokerSpec:
    """Return the rules and bridges that a message puts in force."""
    return msgspec.json.decode(message.spec, type=BrokerSpec)
