"""Listens where the deployment wants the hub: at the PortBindings of edgeHub, unless a setting says else."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace

from actors.manifest.deployment import Deployment
from actors.manifest.hub_ports import hub_ports
from actors.manifest.module_spec import BuiltInSettings
from runtime.config.listen_addresses import ListenAddress, default_hostname
from runtime.config.settings import Settings

log = logging.getLogger(__name__)


def as_deployed(settings: Settings, deployment: Deployment, host_name: str | None = None) -> Settings:
    """Return the settings with the addresses that the deployment asks for; those that somebody set stay.

    Args:
        settings: As read, not as an earlier deployment changed them.
        deployment: What is wanted.
        host_name: The name of this host; asked of the system by default.
    """
    hub = deployment.edge_hub
    if hub is None or not isinstance(hub.settings, BuiltInSettings):
        return settings
    ports = hub_ports(hub.settings.create_options)
    for problem in ports.problems:
        log.warning("edgeHub: HostConfig.PortBindings of its createOptions: %s", problem)
    listen, web, amqp = settings.listen, settings.web_listen, settings.amqp_listen
    if ports.mqtt is not None and "listen" not in settings.given:
        listen = tuple(ListenAddress(bound.host, bound.port) for bound in ports.mqtt)
    if ports.web is not None and "web_listen" not in settings.given:
        web = tuple(ListenAddress(bound.host, bound.port) for bound in ports.web)
    if ports.amqp is not None and "amqp_listen" not in settings.given:
        amqp = tuple(ListenAddress(bound.host, bound.port) for bound in ports.amqp)
    hostname = settings.hostname
    if "hostname" not in settings.given:
        hostname = default_hostname(listen, socket.gethostname() if host_name is None else host_name)
    return replace(settings, listen=listen, web_listen=web, amqp_listen=amqp, hostname=hostname)
