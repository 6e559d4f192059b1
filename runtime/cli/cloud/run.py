"""`edge-actors cloud run`: the IoT Hub stand-in in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from runtime.cli.options import common_options

PORT = click.IntRange(0, 65535)


@click.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="The IP address to listen on; may be given several times.  [default: 127.0.0.2]",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="What clients call it; the first is its name in connection strings. Each has to resolve to an "
    "address it listens on.  [default: the address]",
)
@click.option("--mqtt-port", type=PORT, default=8883, help="Device SDKs know no other.", show_default=True)
@click.option("--amqp-port", type=PORT, default=5671, help="Most SDKs know no other.", show_default=True)
@click.option("--https-port", type=PORT, default=443, help="Most SDKs know no other.", show_default=True)
@common_options
def run(
    listen: tuple[str, ...],
    hosts: tuple[str, ...],
    mqtt_port: int,
    amqp_port: int,
    https_port: int,
    home: Path,
    as_json: bool,
) -> int:
    """Run an IoT Hub for devices, modules and services on this machine, until Ctrl-C or SIGTERM.

    MQTT over TLS on port 8883, AMQP on 5671; REST, provisioning (DPS), MQTT and AMQP over WebSocket on port
    443. Clients have to trust the CA in HOME/cloud/ca.pem, which counts for this hub's names alone. The log
    goes to stdout, with --json as objects, and to HOME/cloud/logs/cloud.log.
    """
    import os

    from actors.manifest.module_spec import EDGE_CLOUD
    from runtime.cli.log_setup import log_to
    from runtime.config.reader import read_one
    from runtime.home import Home
    from runtime.iothub.cloud_home import CloudHome
    from runtime.iothub.cloud_settings import read_cloud_settings
    from runtime.logs.lines import JSON

    levels, log_format = (read_one(name, os.environ) for name in ("log_level", "log_format"))
    settings = read_cloud_settings(listen, hosts, mqtt_port, amqp_port, https_port)
    place = CloudHome.in_home(home)
    log_to(
        place.log,
        EDGE_CLOUD,
        levels,
        log_format=JSON if as_json else log_format,
        console=True,
        level_file=Home(home).log_levels,
    )
    from runtime.iothub.cloud_process import run_cloud

    return run_cloud(place, settings)
