"""The bridges of the hub's broker to other brokers: one for each endpoint of the deployment.

Understands: SetBridges, BrokerDelivery, PublishedToBroker, ActorRestarted of the broker; Access of the
             identities; RequestFailed, DeadlinePassed; ListBridges; BridgesTick, FlushDue, BridgeDue
Tells:       the broker (JoinBroker, DeliveryTaken, PublishToBroker, LeaveBroker), hub/identities (GetAccess),
             hub/client (BridgesReport)
Started by:  HubRootActor, on an event loop of its own: each batch is synced to disk here, which nobody else
             shall wait for

A bridge that is in no deployment any more forwards what waits, ends its subscriptions, and is forgotten.

Source: spec sheet broker.md section 7
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any, Final

from actors.addresses import BROKER, HUB_CLIENT, IDENTITIES
from actors.broker.bridge import Bridge
from actors.broker.bridge_messages import (
    Bridges,
    BridgesReport,
    BrokerDelivery,
    DeliveryTaken,
    JoinBroker,
    LeaveBroker,
    ListBridges,
    PublishedToBroker,
    PublishToBroker,
    SetBridges,
    client_id_of,
    parts,
    specs_in,
)
from actors.hub.identity_messages import Access, GetAccess
from actors.kernel.base import EdgeActor
from actors.metrics.broker_metrics import Stands
from actors.ports.bridges import BridgePorts, BridgeStore
from messaging.broker.bridges import Bridge as BridgeSpec
from messaging.errors import StoreError
from messaging.kinds import message
from messaging.lifecycle import ActorRestarted, DeadlinePassed, RequestFailed, Watch
from messaging.mqtt.packets import Publish

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
FLUSH_S: Final = 0.05
KEY_LIMIT_S: Final = 20.0
PUBLISH_LIMIT_S: Final = 20.0
TIDY_TICKS: Final = 30
_joins = itertools.count(1)  # of this process: a restarted actor is another participant


@message
class BridgesTick:
    """Timer: look after all bridges."""


@message
class FlushDue:
    """Timer: forget on disk what bridges have forwarded."""


@message
class BridgeDue:
    """Timer: this bridge has something to do at once."""

    endpoint: str


class BridgesActor(EdgeActor):
    """Has one Bridge for each endpoint, and carries what they say; implements their Host."""

    def __init__(
        self,
        device_id: str,
        ports: BridgePorts,
        *,
        specs: Sequence[BridgeSpec] = (),
        stands: Stands | None = None,
    ) -> None:
        """Keep what is needed, and the bridges of the deployment when the hub started.

        In `stands` it says what they stand at; None: nobody wants to know.
        """
        self._device_id = device_id
        self._ports = ports
        self._specs = tuple(specs)
        self._stands = stands
        self._store: BridgeStore | None = None
        self._bridges: dict[str, Bridge] = {}
        self._endpoints: dict[str, str] = {}  # client id at the local broker → endpoint
        self._number = 0
        self._keys_asked: dict[int, str] = {}  # correlation id → endpoint
        self._published: dict[int, str] = {}  # the same
        self._is_flushing = False
        self._ticks = 0
        self._reported: BridgesReport | None = None

    # life

    def on_start(self) -> None:
        self._number = next(_joins)
        self._store = self._ports.open_store()
        self.tell(BROKER, Watch())
        left = [BridgeSpec(endpoint) for endpoint in self._kept.endpoints()]
        known = {spec.endpoint for spec in self._specs}
        self._set((*self._specs, *(spec for spec in left if spec.endpoint not in known)))
        self.set_timer(TICK_S, BridgesTick())

    def on_stop(self) -> None:
        for bridge in self._bridges.values():
            bridge.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def describe(self) -> dict[str, Any]:
        return {"bridges": [bridge.shown() for bridge in self._bridges.values()]}

    def on_actor_restarted(self, message: ActorRestarted) -> None:
        if message.address == BROKER:
            self._number = next(_joins)
            self._published.clear()
            for bridge in self._bridges.values():
                bridge.local_broker_restarted()

    @property
    def _kept(self) -> BridgeStore:
        assert self._store is not None
        return self._store

    # which bridges there are

    def on_set_bridges(self, message: SetBridges) -> None:
        self._specs = specs_in(message)
        wanted = {spec.endpoint for spec in self._specs}
        gone = [BridgeSpec(endpoint) for endpoint in self._bridges if endpoint not in wanted]
        self._set((*self._specs, *gone))

    def _set(self, specs: Sequence[BridgeSpec]) -> None:
        for spec in specs:
            bridge = self._bridges.get(spec.endpoint)
            if bridge is None and not spec.rules and spec.endpoint not in self._kept.endpoints():
                continue
            if bridge is None:
                self._endpoints[client_id_of(self._device_id, spec.endpoint)] = spec.endpoint
                bridge = self._bridges[spec.endpoint] = Bridge(
                    spec.endpoint, self, self._kept, self._ports.lines, self._ports.settings
                )
            bridge.set_rules(spec.rules)
            self._due(spec.endpoint)

    def _forget(self, bridge: Bridge) -> None:
        bridge.close()
        waiting = self._kept.forget(bridge.endpoint)
        level = logging.WARNING if waiting else logging.INFO
        log.log(level, "bridge '%s': ended, with %d messages that nobody waits for", bridge.endpoint, waiting)
        client_id = client_id_of(self._device_id, bridge.endpoint)
        self.tell(BROKER, LeaveBroker(client_id))
        del self._bridges[bridge.endpoint], self._endpoints[client_id]

    # time

    def on_bridges_tick(self, message: BridgesTick) -> None:
        self.set_timer(TICK_S, BridgesTick())
        for endpoint in list(self._bridges):
            self._due(endpoint)
        self._report()
        if self._stands is not None:
            self._stands.bridges = tuple(bridge.stand() for bridge in self._bridges.values())
        self._ticks += 1
        if self._ticks % TIDY_TICKS == 0:
            try:
                self._kept.tidy()
            except StoreError as exc:
                log.warning("%s", exc)

    def _report(self) -> None:
        """Have in the hub's twin how the bridges are, when that has changed."""
        report = BridgesReport(
            tuple(
                (endpoint, bridge.status, bridge.connected_since or "", bridge.error)
                for endpoint, bridge in self._bridges.items()
            )
        )
        if report != self._reported:
            self._reported = report
            self.tell(HUB_CLIENT, report)

    def on_bridge_due(self, message: BridgeDue) -> None:
        self._due(message.endpoint)

    def _due(self, endpoint: str) -> None:
        bridge = self._bridges.get(endpoint)
        if bridge is None:
            return
        bridge.tick()
        if bridge.is_over:
            self._forget(bridge)

    def on_flush_due(self, message: FlushDue) -> None:
        self._is_flushing = False
        for bridge in self._bridges.values():
            bridge.flush()

    # what the broker and the identities say

    def on_broker_delivery(self, message: BrokerDelivery) -> None:
        endpoint = self._endpoints.get(message.client_id)
        if endpoint is not None and message.number == self._number:
            self._bridges[endpoint].arrived_locally(
                [
                    Publish(topic, payload, qos, retain=retain)
                    for topic, payload, qos, retain in message.messages
                ]
            )

    def on_published_to_broker(self, message: PublishedToBroker) -> None:
        endpoint = self._published.pop(self.envelope.correlation_id, None)
        if endpoint in self._bridges:
            self._bridges[endpoint].published_locally(message.count)

    def on_access(self, message: Access) -> None:
        bridge = self._bridges.get(self._keys_asked.pop(self.envelope.correlation_id, ""))
        if bridge is not None:
            bridge.key_known(message.key)

    def on_request_failed(self, message: RequestFailed) -> None:
        self._failed(self.envelope.correlation_id, message.reason)

    def on_deadline_passed(self, message: DeadlinePassed) -> None:
        self._failed(message.correlation_id, f"{message.address} does not answer")

    def _failed(self, correlation_id: int, reason: str) -> None:
        bridge = self._bridges.get(self._keys_asked.pop(correlation_id, ""))
        if bridge is not None:
            bridge.key_unknown(reason)
        endpoint = self._published.get(correlation_id)
        bridge = self._bridges.get(endpoint or "")
        # All that is under way is published again: later answers to it mean nothing any more.
        self._published = {asked: its for asked, its in self._published.items() if its != endpoint}
        if bridge is not None:
            log.warning("bridge '%s': what came in is published again: %s", bridge.endpoint, reason)
            bridge.publish_again()

    def on_list_bridges(self, message: ListBridges) -> None:
        self.reply(Bridges(tuple(bridge.shown() for bridge in self._bridges.values())))

    # Host

    def subscribe_locally(self, endpoint: str, filters: Sequence[str]) -> None:
        self.tell(BROKER, JoinBroker(client_id_of(self._device_id, endpoint), self._number, tuple(filters)))

    def publish_locally(self, endpoint: str, messages: Sequence[Publish]) -> None:
        client_id = client_id_of(self._device_id, endpoint)
        for part in parts((one.topic, one.payload, one.qos, one.retain) for one in messages):
            asked = PublishToBroker(client_id, part)
            self._published[self.request(BROKER, asked, PUBLISH_LIMIT_S)] = endpoint

    def acknowledge_locally(self, endpoint: str, count: int) -> None:
        client_id = client_id_of(self._device_id, endpoint)
        self.tell(BROKER, DeliveryTaken(client_id, self._number, count))

    def ask_key(self, endpoint: str, identity: str, was_refused: bool) -> None:
        asked = self.request(IDENTITIES, GetAccess(identity, was_refused), KEY_LIMIT_S)
        self._keys_asked[asked] = endpoint

    def flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self.set_timer(FLUSH_S, FlushDue())

    def tick_soon(self, endpoint: str) -> None:
        self.context.tell_self(BridgeDue(endpoint))
