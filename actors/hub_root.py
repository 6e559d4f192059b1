"""The root of the hub process: starts its actors in order and stops them in reverse.

Understands: Configure, ListRoutes (passed on)
Tells:       agent (Hello), agent/agent (RouteReport), hub/router (SetRoutes)
Started by:  the main program of the hub process
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from actors.append_guard import AppendGuard
from actors.base import ChildSpec, EdgeActor
from actors.hub_config import HubConfig, RouteReport
from actors.identities import IdentityActor, IdentityCopy
from actors.mqtt_head import MqttHead
from actors.ports import CloudLink, Listener, MessageStore
from actors.router import ListRoutes, RouterActor, Routes
from actors.store import StoreActor
from actors.upstream import UpstreamActor
from messaging.kinds import message
from messaging.lifecycle import DeadLetterList, Hello, ListDeadLetters, PeerUp, Welcome

log = logging.getLogger(__name__)

HUB: Final = "hub"
STORE: Final = "hub/store"
ROUTER: Final = "hub/router"
IDENTITIES: Final = "hub/identities"
UPSTREAM: Final = "hub/upstream"
MQTT: Final = "hub/mqtt"
AGENT: Final = "agent"
HELLO_S: Final = 1.0
# Store, router and heads exchange an envelope for every read of a socket: on one event loop they handle a
# third more messages than on threads of their own (figures in DESIGN.md).
FRONT: Final = "hub/front"


@message
class HelloDue:
    """Timer: greet the agent again."""


class HubRootActor(EdgeActor):
    """Starts store, identities, router, upstream and the protocol heads, in this order."""

    def __init__(
        self,
        config: HubConfig,
        *,
        open_store: Callable[[], MessageStore],
        identity_copy: IdentityCopy,
        make_link: Callable[[], CloudLink],
        make_mqtt_listener: Callable[[], Listener],
        process_epoch: int,
    ) -> None:
        self._config = config
        self._open_store = open_store
        self._identity_copy = identity_copy
        self._make_link = make_link
        self._make_mqtt_listener = make_mqtt_listener
        self._guard = AppendGuard()
        self._epoch = process_epoch

    def on_start(self) -> None:
        self.start_children(self._children())
        self.context.watch_peer(AGENT)
        self.on_hello_due(HelloDue())

    def on_hello_due(self, message: HelloDue) -> None:
        self.tell(AGENT, Hello(HUB, self._epoch))
        self.set_timer(HELLO_S, HelloDue())

    def on_welcome(self, message: Welcome) -> None:
        self.context.peer_seen(message.process, message.epoch)

    def on_peer_up(self, message: PeerUp) -> None:
        self.request(ROUTER, ListRoutes(), 5.0)

    def on_routes(self, message: Routes) -> None:
        self.tell("agent/agent", RouteReport(message.bad))

    def on_list_dead_letters(self, message: ListDeadLetters) -> None:
        self.reply(DeadLetterList(*self.context.dead_letters()))

    def _children(self) -> tuple[ChildSpec, ...]:
        config = self._config
        hosts = (config.iothub_hostname, *config.host_names)
        return (
            ChildSpec("store", lambda: StoreActor(self._open_store, self._guard), loop=FRONT, exported=True),
            ChildSpec(
                "identities", lambda: IdentityActor(self._identity_copy, hosts, (MQTT,)), exported=True
            ),
            ChildSpec(
                "router",
                lambda: RouterActor(config.device_id, STORE, config.routes, config.ttl_s),
                loop=FRONT,
                exported=True,
            ),
            ChildSpec("upstream", lambda: UpstreamActor(self._make_link(), STORE), exported=True),
            ChildSpec("mqtt", self._mqtt_head, loop=FRONT, exported=True),
        )

    def _mqtt_head(self) -> MqttHead:
        return MqttHead(
            self._make_mqtt_listener(),
            self._config.device_id,
            store=STORE,
            router=ROUTER,
            identities=IDENTITIES,
        )
