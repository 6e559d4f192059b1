"""`edge-actors cloud connection-string`: with what services, devices and modules connect."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options
from runtime.cli.output import print_json


@click.command("connection-string")
@click.option(
    "--policy",
    metavar="NAME",
    help="Of this shared access policy.  [default: iothubowner; with --events: service]",
)
@click.option("--events", is_flag=True, help="For SDKs of Event Hubs, which read what devices send.")
@click.option("--device", metavar="DEVICE", help="Of this device, not of a service.")
@click.option("--module", metavar="MODULE", help="Of this module of the device.")
@common_options
def connection_string(
    policy: str | None, events: bool, device: str | None, module: str | None, home: Path, as_json: bool
) -> None:
    """Show the connection string of a service, a device or a module. It holds a key.

    --json also says which CA clients have to trust, and the id scope for the provisioning service.
    """
    from messaging.errors import AuthError, ConfigError
    from runtime.cli.cloud.device import connection_string as string_of
    from runtime.iothub.owner import Cloud, device_path
    from runtime.iothub.policies import OWNER, SERVICE

    if device is not None and (policy is not None or events):
        asked = "--events" if policy is None else "--policy"
        raise ConfigError(f"{asked} is for services and --device for a device; take one of them")
    if device is None and module is not None:
        raise ConfigError("--module needs --device, the device that the module belongs to")
    cloud = Cloud(home)
    if device is not None:
        text = string_of(cloud, cloud.get(device_path(device, module)))
    else:
        try:
            if events:
                text = cloud.policies.events_connection_string(cloud.serving.host_name, policy or SERVICE)
            else:
                text = cloud.policies.connection_string(cloud.serving.service_host, policy or OWNER)
        except AuthError as exc:
            raise ConfigError(f"--policy: {exc}") from exc
    if as_json:
        values = {"connectionString": text, "caFile": str(cloud.ca_file), "idScope": cloud.serving.id_scope}
        print_json(values)
    else:
        click.echo(text)
