"""From what the hub of an edge is made: its configuration, and on what it listens."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import msgspec

from actors.hub import config as hub_config
from actors.hub.config import HubConfig, route_texts
from actors.manifest.deployment import Deployment
from actors.manifest.hub_environment import HubEnvironment
from actors.manifest.hub_manifest import StoreFullPolicy
from actors.manifest.module_spec import DesiredStatus
from actors.upstream.protocol import UpstreamProtocol
from messaging.broker.config import BrokerSpec
from messaging.errors import EdgeError
from runtime.agent.hub_sockets import Wanted
from runtime.config.listen_addresses import amqp_addresses, metrics_addresses, web_addresses
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.net import amqp_engine
from runtime.net.listening_sockets import Use
from runtime.security.certificates import server_names
from runtime.storage.store_place import check_folder, chosen_folder, database_in

log = logging.getLogger(__name__)


def wants_hub(deployment: Deployment) -> bool:
    """Return whether a deployment wants the hub to run."""
    hub = deployment.edge_hub
    return hub is not None and hub.status is DesiredStatus.RUNNING


def upstream_protocol(settings: Settings, deployment: Deployment) -> UpstreamProtocol:
    """Return how the agent speaks to the cloud, and the hub, unless that is told otherwise."""
    return deployment.agent_protocol or settings.upstream_protocol


def hub_settings(settings: Settings, deployment: Deployment, certificate: Path) -> HubConfig:
    """Return what the hub process has to know."""
    hub = deployment.hub
    return HubConfig(
        device_id=settings.device_id,
        iothub_hostname=settings.iothub_hostname,
        cloud_ca_file=_cloud_ca_file(settings),
        cloud_https_port=settings.cloud_https_port,
        cloud_connections=settings.cloud_connections,
        cloud_protocol=deployment.hub_environment.values.upstream_protocol
        or upstream_protocol(settings, deployment),
        cloud_messages_per_s=settings.cloud_messages_per_s,
        host_names=names_of_server(settings),
        certificate_file=str(certificate),
        key_file=str(certificate),
        twins={module: dict(desired) for module, desired in deployment.twins.items()},
        routes=route_texts(hub),
        broker=hub.broker,
        bridge_settings=str(_bridge_settings(settings, hub.broker)),
        ttl_s=hub.ttl_s,
        environment=deployment.hub_environment.values,
        message_db=str(message_db_of(settings, deployment)),
        max_store_bytes=hub.max_size_bytes,
        drops_oldest=hub.when_full is StoreFullPolicy.DROP_OLDEST,
        allow_faults=settings.allow_faults,
    )


def fixed_part(config: HubConfig) -> bytes:
    """Return what of its configuration a hub cannot change while it lives.

    It is told of new routes, twins and rules of the broker; whether it has a broker is settled at its start.
    """
    broker = None if config.broker is None else BrokerSpec()
    return hub_config.encode(msgspec.structs.replace(config, routes=(), ttl_s=None, twins={}, broker=broker))


def hub_listeners(settings: Settings, environment: HubEnvironment) -> list[Wanted]:
    """Return on what the hub is to listen. A port that this device does not ask for may be missing."""
    mqtt = settings.listen if environment.mqtt_enabled else ()
    has_amqp = environment.amqp_enabled and amqp_engine.is_installed()
    amqp = amqp_addresses(settings, environment.amqp_port) if has_amqp else ()
    web = web_addresses(settings, environment.http_port) if environment.http_enabled else ()
    plain = [settings.plain_listen] if settings.plain_listen and environment.mqtt_enabled else []
    metrics = metrics_addresses(settings, environment.metrics_port) if environment.serves_metrics else ()
    by_use = (
        (Use.MQTT, mqtt),
        (Use.AMQP, amqp),
        (Use.WEB, web),
        (Use.PLAIN_MQTT, plain),
        (Use.METRICS, metrics),
    )
    asked_for = {
        Use.MQTT: True,
        Use.AMQP: "amqp_listen" in settings.given,
        Use.WEB: "web_listen" in settings.given,
        Use.PLAIN_MQTT: True,
        Use.METRICS: False,
    }
    return [
        Wanted(
            use,
            address,
            is_optional=not asked_for[use],
        )
        for use, addresses in by_use
        for address in addresses
    ]


def with_hub_version(settings: Settings, deployment: Deployment, config: HubConfig) -> Deployment:
    """Make configuration and addresses part of what the hub is made from: a change replaces it."""
    hub = deployment.edge_hub
    if hub is None:
        return deployment
    listeners = hub_listeners(settings, deployment.hub_environment.values)
    digest = hashlib.sha256(f"{listeners} ".encode() + fixed_part(config)).hexdigest()[:16]
    return replace(deployment, edge_hub=replace(hub, version=f"{hub.version}+{digest}"))


def message_db_of(settings: Settings, deployment: Deployment) -> Path:
    """Return where the hub keeps messages.

    Raises:
        EdgeError: the folder that is asked for cannot be used.
    """
    hub = deployment.edge_hub
    folder, origin = chosen_folder(settings.storage_folder, {} if hub is None else hub.env)
    if folder is not None:
        check_folder(folder, origin)
    return database_in(folder, Home(settings.home))


def names_of_server(settings: Settings) -> tuple[str, ...]:
    """Return the names and addresses under which clients may look for the hub."""
    addresses = (*settings.listen, *web_addresses(settings), *amqp_addresses(settings))
    return server_names(settings.hostname, (address.host for address in addresses))


def _bridge_settings(settings: Settings, broker: BrokerSpec | None) -> Path:
    """Return where the hub looks for other brokers; what is wrong there is said."""
    path = settings.bridge_settings or Home(settings.home).bridges
    if broker is not None and broker.bridges:
        from runtime.config.bridge_settings import OwnNames, check_bridge_settings

        try:
            check_bridge_settings(path, OwnNames(settings.device_id, settings.iothub_hostname))
        except EdgeError as exc:
            log.warning("a bridge will not connect: %s", exc)
    return path


def _cloud_ca_file(settings: Settings) -> str:
    path = Home(settings.home).cloud_ca
    return str(path) if path.exists() else ""
