"""The root of the hub process: starts its actors in order and stops them in reverse.

Understands: Welcome, CertificateChanged, and what every root does
Tells:       agent (Hello)
Started by:  the main program of the hub process
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from actors.addresses import (
    AGENT_PROCESS,
    AMQP,
    BRIDGES,
    HUB,
    IDENTITIES,
    METHODS,
    METRICS_OF_AGENT,
    MQTT,
    ROUTER,
    STORE,
    UPSTREAM,
)
from actors.broker.hub_broker import HubBroker
from actors.heads.connected_clients import ConnectedClients
from actors.heads.http_head import HttpGate, HttpHead
from actors.heads.mqtt_head import MqttHead
from actors.hub.config import CertificateChanged, HubConfig
from actors.hub.identities import IdentityActor, IdentityCopy
from actors.hub.methods import MethodActor
from actors.hub.own_client import HubClientActor
from actors.hub.router import KeptRoutes, RouterActor
from actors.hub.trail import RoutingTrail, StorageTrail
from actors.hub.twins import TwinActor
from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.root import RootActor
from actors.manifest.module_spec import EDGE_AGENT
from actors.metrics.broker_metrics import Stands
from actors.metrics.hub_metrics import HubMetrics
from actors.metrics.metrics import MetricsActor, MetricsGate
from actors.metrics.registry import Source
from actors.ports.connections import CheckCertificate, LinkSwitch, Listener
from actors.ports.storage import BrokerStore, MessageStore, TwinStore
from actors.store.append_guard import AppendGuard
from actors.store.store import StoreActor
from actors.upstream.connection import CloudConnections
from actors.upstream.switchboard import Where
from actors.upstream.upkeep import LinkLimits
from actors.upstream.upstream import UpstreamActor
from messaging.broker.config import BrokerConfig, BrokerSpec, compiled
from messaging.kinds import message
from messaging.lifecycle import Hello, Welcome
from messaging.version import VERSION

if TYPE_CHECKING:  # loaded where there is a broker
    from actors.ports.bridges import BridgePorts

log = logging.getLogger(__name__)

HELLO_S: Final = 1.0
# Store, router and heads exchange an envelope for every read of a socket: on one event loop they handle a
# third more messages than on threads of their own (figures in DESIGN.md).
FRONT: Final = "hub/front"
METRICS_LOOP: Final = "hub/metrics-loop"


@message
class HelloDue:
    """Timer: greet the agent again."""


class HubRootActor(RootActor):
    """Starts store, identities, router, upstream, twins, methods, the hub's own client and the heads."""

    def __init__(
        self,
        config: HubConfig,
        *,
        open_store: Callable[[], MessageStore],
        open_twins: Callable[[], TwinStore],
        identity_copy: IdentityCopy,
        check_certificate: CheckCertificate,
        agent_lives: Callable[[], bool],
        make_connections: Callable[[], CloudConnections],
        link_switch: LinkSwitch,
        cloud_ca_pem: Callable[[], str],
        mqtt_listener: Listener,
        amqp_listener: Listener,
        http_gate: HttpGate,
        open_broker_store: Callable[[], BrokerStore],
        bridge_ports: Callable[[], BridgePorts],
        load_certificate: Callable[[], bool],
        metrics: HubMetrics,
        metrics_gate: MetricsGate,
        metrics_sources: Sequence[Source] = (),
        stands: Stands | None = None,
        inspector: Callable[[], EdgeActor] | None = None,
        faults: Callable[[], EdgeActor] | None = None,
    ) -> None:
        """Keep what is needed; `load_certificate` returns whether it was another than before."""
        self._load_certificate = load_certificate
        self._known_agent = 0  # its incarnation
        guard = AppendGuard()
        routes = KeptRoutes(config.routes, config.ttl_s)
        routing_trail, storage_trail = RoutingTrail(), StorageTrail()
        heads = (MQTT, AMQP) if config.environment.amqp_enabled else (MQTT,)
        hosts = (config.iothub_hostname, *config.host_names)

        def store() -> StoreActor:
            return StoreActor(
                open_store,
                guard,
                storage_trail,
                drops_oldest=config.drops_oldest,
                cleanup_s=config.environment.message_cleanup_interval_s,
                metrics=metrics,
            )

        def identities() -> IdentityActor:
            return IdentityActor(
                identity_copy,
                hosts,
                heads,
                check_certificate,
                agent_lives,
                UPSTREAM,
                config.device_id,
                metrics,
            )

        def router() -> RouterActor:
            return RouterActor(config.device_id, STORE, routes, routing_trail, metrics)

        environment = config.environment

        def compile_broker(spec: BrokerSpec) -> BrokerConfig:
            return compiled(spec, iothub_hostname=config.iothub_hostname, edge_device_id=config.device_id)

        def hub_broker(spec: BrokerSpec) -> HubBroker:
            return HubBroker(compile_broker(spec), environment.broker_limits())

        connected = ConnectedClients(environment.max_connected_clients, metrics)
        limits = LinkLimits(
            config.cloud_connections,
            config.cloud_messages_per_s,
            environment.cloud_idle_timeout_s if environment.closes_idle_cloud_connections else None,
            environment.closes_cloud_connection_with_client,
            environment.cloud_operation_timeout_s,
        )

        def upstream() -> UpstreamActor:
            return UpstreamActor(
                make_connections,
                link_switch,
                Where(
                    config.iothub_hostname,
                    config.device_id,
                    cloud_ca_pem,
                    config.cloud_https_port,
                ),
                limits=limits,
                metrics=metrics,
            )

        broker = None if config.broker is None else hub_broker(config.broker)

        def broker_actor() -> EdgeActor:
            from actors.broker.broker import BrokerActor  # with its engine: only where it is used

            assert broker is not None
            return BrokerActor(config.device_id, broker, open_broker_store, compile_broker, stands)

        def bridges() -> EdgeActor:
            from actors.broker.bridges import BridgesActor  # likewise

            assert broker is not None
            return BridgesActor(
                config.device_id,
                bridge_ports(),
                specs=broker.config.bridges,
                stands=stands,
            )

        def mqtt() -> MqttHead:
            return MqttHead(
                mqtt_listener,
                config.device_id,
                environment=environment,
                connected=connected,
                broker=broker,
            )

        def amqp() -> EdgeActor:
            from actors.heads.amqp_head import AmqpHead  # with its engine: only where it is used

            return AmqpHead(
                amqp_listener,
                config.device_id,
                environment=environment,
                connected=connected,
            )

        def http() -> HttpHead:
            proxy_module_id = config.environment.api_proxy_module_id
            return HttpHead(http_gate, config.device_id, IDENTITIES, METHODS, proxy_module_id)

        def twins() -> TwinActor:
            return TwinActor(open_twins, ROUTER, UPSTREAM, config.device_id, config.twins, metrics)

        def hub_client() -> HubClientActor:
            return HubClientActor(
                config.device_id,
                report_s=environment.reported_properties_sync_s,
            )

        def told() -> MetricsActor:
            others = (EDGE_AGENT, METRICS_OF_AGENT)
            return MetricsActor(metrics.registry, metrics_gate, metrics_sources, others)

        super().__init__(
            (
                *([ChildSpec("faults", faults, exported=True)] if faults else []),
                ChildSpec("store", store, FRONT, exported=True),
                ChildSpec("identities", identities, exported=True),
                ChildSpec("router", router, FRONT, exported=True),
                ChildSpec("upstream", upstream, exported=True),
                ChildSpec("twins", twins, exported=True),
                ChildSpec("methods", lambda: MethodActor(metrics), FRONT, exported=True),
                ChildSpec("client", hub_client, exported=True),
                ChildSpec("http", http, FRONT, exported=True),
                *([ChildSpec("broker", broker_actor, FRONT, exported=True)] if broker is not None else []),
                ChildSpec("mqtt", mqtt, FRONT, exported=True),
                *([ChildSpec("bridges", bridges, BRIDGES, exported=True)] if broker is not None else []),
                *([ChildSpec("amqp", amqp, FRONT, exported=True)] if environment.amqp_enabled else []),
                ChildSpec("metrics", told, METRICS_LOOP, exported=True),
            ),
            inspector,
        )

    def all_started(self) -> None:
        self.on_hello_due(HelloDue())  # not before: whoever hears of this process may send to all its actors

    def on_hello_due(self, message: HelloDue) -> None:
        self._greet()
        self.set_timer(HELLO_S, HelloDue())

    def on_welcome(self, message: Welcome) -> None:
        super().on_welcome(message)
        if message.epoch != self._known_agent:
            self._known_agent = message.epoch
            self._greet()

    def on_certificate_changed(self, message: CertificateChanged) -> None:
        if self._load_certificate():
            log.info("server certificate loaded anew")

    def _greet(self) -> None:
        self.tell(AGENT_PROCESS, Hello(HUB, self.context.epoch, VERSION, self._known_agent))
