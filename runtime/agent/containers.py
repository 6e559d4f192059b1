"""What an edge needs for containers: what runs them, and an address at which they reach the hub."""

from __future__ import annotations

import logging
from dataclasses import replace

from actors.manifest.deployment import Deployment
from actors.manifest.module_spec import DockerSettings, ModuleSpec
from actors.ports.modules import ModuleAccess
from messaging.errors import EdgeError
from runtime.config.listen_addresses import MQTT_TLS_PORT, ListenAddress, local_name
from runtime.config.settings import Settings
from runtime.docker.image_collector import CollectionTimes
from runtime.docker.maker import ContainerNames
from runtime.docker.request import gateway_name
from runtime.docker.runtime import DockerRuntime
from runtime.home import Home
from runtime.modules.environment import EdgeNames, module_variables
from runtime.run_directory import RunDirectory

log = logging.getLogger(__name__)


def edge_names(settings: Settings) -> EdgeNames:
    """Return what modules are told of this edge."""
    return EdgeNames(settings.device_id, settings.iothub_hostname, local_name(settings.listen))


def container_runtime(settings: Settings, run: RunDirectory) -> DockerRuntime:
    """Return what runs containers; it asks nobody before there is one."""
    names = ContainerNames(
        run.path.name,
        settings.device_id,
        gateway_name(settings.hostname),
        run.home,
        settings.allow_elevated_docker_permissions,
    )
    told = edge_names(settings)

    def environment(module: ModuleSpec, access: ModuleAccess) -> dict[str, str]:
        return {**module.env, **module_variables(told, module.name, access)}

    collection = None
    if settings.image_gc_enabled:
        collection = CollectionTimes(
            settings.image_gc_interval, settings.image_gc_threshold, settings.image_gc_time
        )
    return DockerRuntime(
        names,
        Home(run.home).containers,
        environment=environment,
        collection=collection,
        own_credentials=settings.registry_credentials,
    )


def listening_for_containers(
    settings: Settings, deployment: Deployment, containers: DockerRuntime
) -> Settings:
    """Return the settings with the address at which containers look for the hub, when there are any."""
    if not any(isinstance(module.settings, DockerSettings) for module in deployment.modules.values()):
        return settings
    try:
        gateway = containers.gateway()
    except EdgeError as exc:
        log.error("no container can be started: %s", exc)
        return settings
    return with_gateway(settings, gateway)


def with_gateway(settings: Settings, gateway: str) -> Settings:
    """Return the settings with this address among those listened on; the same object when it is already."""
    if settings.bridge != gateway:
        settings = replace(settings, bridge=gateway)
    if any(one.port == MQTT_TLS_PORT and one.host in (gateway, "0.0.0.0") for one in settings.listen):
        return settings
    # Device SDKs know no other port, whatever port the others listen on.
    return replace(settings, listen=(*settings.listen, ListenAddress(gateway, MQTT_TLS_PORT)))
