"""Whose a topic is while the broker is on: at IoT Hub the client's own or another's, or one for the policy.

IoT Hub topics have two names, that which SDKs use and that of the reference's broker, `$edgehub/…`. A client
may use either for its own, without a rule. Those of others are for nobody else, whatever the rules say: who
sends a message is who is connected.

Source: spec sheet broker.md sections 3.2, 5.1 and 5.2
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from messaging.broker.policy import ClientOfBroker, Operation, Policy
from messaging.identity import Identity
from messaging.text import quoted
from messaging.topics import events_topic

_OF_THE_CLIENT: Final = ("$iothub/twin/", "$iothub/methods/")  # whoever that is
_OF_IDENTITIES: Final = re.compile(
    r"devices/([^/]+)(?:/modules/([^/]+))?/(?:messages/(?:events|devicebound)|inputs)(?:/.*)?"
    r"|devices/([^/]+)/modules/([^/]+)/#",
    re.DOTALL,
)

# In `$edgehub/` of the client: what comes behind its identity, and what SDKs call that.
_NATIVE: Final = {
    "twin/reported": "$iothub/twin/PATCH/properties/reported",
    "twin/get": "$iothub/twin/GET",
    "twin/res": "$iothub/twin/res",
    "twin/desired": "$iothub/twin/PATCH/properties/desired",
    "methods/post": "$iothub/methods/POST",
    "methods/res": "$iothub/methods/res",
}
_NATIVE_OF_IDENTITIES: Final = {
    "messages/events": "messages/events",
    "messages/c2d/post": "messages/devicebound",
}


class Place(Enum):
    """Where a topic or filter belongs."""

    OWN = auto()  # IoT Hub's, the client's own: needs no rule
    FOREIGN = auto()  # IoT Hub's, but not the client's: denied
    USER = auto()  # for the broker and its policy


def place_of(text: str, identity: Identity) -> Place:
    """Say where a valid topic or topic filter belongs that a client of this identity names."""
    if text.startswith("$"):
        if text.startswith(_OF_THE_CLIENT) or own_name(text, identity) != text:
            return Place.OWN
        return Place.FOREIGN if text.partition("/")[0] in ("$iothub", "$edgehub") else Place.USER
    if not text.startswith("devices/"):
        return Place.USER
    found = _OF_IDENTITIES.fullmatch(text)
    if found is None:
        return Place.USER
    named = (found[1] or found[3], found[2] or found[4])
    return Place.OWN if named == (identity.device_id, identity.module_id) else Place.FOREIGN


def own_name(text: str, identity: Identity) -> str:
    """Return the SDKs' name of a topic or filter that begins with `$edgehub/` and the client's own identity.

    Any other comes back as it is; so does one of those that the reference has no name for.
    """
    own = f"$edgehub/{identity}/"
    if not text.startswith(own):
        return text
    rest = text[len(own) :]
    for native, name in _NATIVE.items():
        if rest == native or rest.startswith(f"{native}/"):
            return name + rest[len(native) :]
    base = events_topic(identity).removesuffix("messages/events")
    for native, name in _NATIVE_OF_IDENTITIES.items():
        if rest == native or rest.startswith(f"{native}/"):
            return base + name + rest[len(native) :]
    _, is_input, name = rest.partition("/inputs/")  # in front of it is a token of the reference's own
    return f"{base}inputs/{name}" if is_input and identity.module_id is not None else text


def why_cut_off(policy: Policy, who: ClientOfBroker, filters: Iterable[str]) -> str:
    """Return why the session of a client must end under a policy that has changed, or "".

    Args:
        policy: The new one.
        who: The client, connected or not.
        filters: What it has subscribed to, IoT Hub topics included.
    """
    if not policy.may(who, Operation.CONNECT):
        return "the deployment does not let it connect any more"
    identity = Identity.parse(who.identity)
    for topic_filter in filters:
        if place_of(topic_filter, identity) is Place.USER and not policy.may(
            who, Operation.SUBSCRIBE, topic_filter
        ):
            return f"the deployment does not let it subscribe to {quoted(topic_filter)} any more"
    return ""
