"""Which inputs of modules the connected clients listen on, and under which topic a message goes there.

Subscriptions of all clients stand in one tree; a policy decides which of them may get what. For module
inputs: a filter that IoT Hub knows as one for module messages, and only of the module's own client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from messaging.errors import EnvelopeError
from messaging.identity import Identity
from messaging.message import decode_header
from messaging.mqtt.filters import MAX_TEXT_BYTES, SubscriptionTree
from messaging.property_bag import encode_bag
from messaging.topics import Feature, classify_filter, module_input_topic

# Headers are chosen by senders, so the memory has to be bounded.
REMEMBERED_TOPICS: Final = 4096
LONGEST_REMEMBERED_BYTES: Final = 2048


class ModuleInputs:
    """The endpoints of modules, who subscribed to them, and the topics of their messages."""

    def __init__(self) -> None:
        self._by_client: dict[str, list[str]] = {}  # client id → endpoint ids
        self._inputs: dict[str, tuple[Identity, str]] = {}  # endpoint id → (module, input name)
        self._tree: SubscriptionTree[tuple[str, int]] = SubscriptionTree()
        self._topics: dict[tuple[str, bytes], bytes | None] = {}

    def set_endpoints(self, endpoints: Iterable[tuple[str, str, str]]) -> None:
        """Replace all endpoints, given as (endpoint id, client id, input name)."""
        self._by_client.clear()
        self._inputs.clear()
        self._topics.clear()
        for endpoint_id, client_id, input_name in endpoints:
            self._by_client.setdefault(client_id, []).append(endpoint_id)
            self._inputs[endpoint_id] = (Identity.parse(client_id), input_name)

    def subscribe(self, client_id: str, subscriptions: Mapping[str, int]) -> dict[str, int]:
        """Replace the subscriptions of a client (filter → QoS); return the endpoints they cover, with QoS."""
        self._tree.remove_all(client_id)
        for topic_filter, qos in subscriptions.items():
            if classify_filter(topic_filter) is Feature.MODULE_MESSAGES:
                self._tree.subscribe(topic_filter, client_id, (client_id, qos))
        covered: dict[str, int] = {}
        for endpoint_id in self._by_client.get(client_id, ()):
            granted = [
                qos for owner, qos in self._tree.match(self._any_topic(endpoint_id)) if owner == client_id
            ]
            if granted:
                covered[endpoint_id] = max(granted)
        return covered

    def remove(self, client_id: str) -> None:
        """The client has gone."""
        self._tree.remove_all(client_id)

    def topic_of(self, endpoint_id: str, header: bytes) -> bytes | None:
        """Return the topic under which a message with this header goes to an endpoint.

        None when there is none: the properties do not fit into a topic, or the header is damaged.
        """
        key = (endpoint_id, header)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._make_topic(endpoint_id, header)
            if len(header) <= LONGEST_REMEMBERED_BYTES:
                if len(self._topics) >= REMEMBERED_TOPICS:
                    self._topics.clear()
                self._topics[key] = topic
        return topic

    def _make_topic(self, endpoint_id: str, header: bytes) -> bytes | None:
        module, input_name = self._inputs[endpoint_id]
        try:
            message = decode_header(header, b"")
        except EnvelopeError:
            return None
        bag = encode_bag(message.properties, message.system_properties)
        topic = module_input_topic(module, input_name, bag).encode()
        return topic if len(topic) <= MAX_TEXT_BYTES else None

    def _any_topic(self, endpoint_id: str) -> str:
        """A topic like those of this endpoint: what stands in the bag makes no difference to a filter."""
        module, input_name = self._inputs[endpoint_id]
        return module_input_topic(module, input_name, "any")
