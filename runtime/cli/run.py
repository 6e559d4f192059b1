"""`edge-actors run`: an edge in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from runtime.cli.options import common_options


@click.command()
@click.option(
    "--deployment",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The deployment manifest to run, whatever the cloud has.  [default: what the cloud has]",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS[:PORT]",
    help="Where clients connect with MQTT over TLS; may be given several times.  [default: 127.0.0.1:8883]",
)
@click.option(
    "--connection-string-file",
    metavar="FILE",
    help="Holds the connection string of this edge device at its IoT Hub; - for standard input. "
    "Needed once: the home keeps it.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="The settings.  [default: $EDGE_ACTORS_CONFIG, else HOME/config.toml, see `edge-actors config`]",
)
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Stop after that time, with exit code 0.  [default: at Ctrl-C or SIGTERM]",
)
@click.option(
    "--allow-faults",
    is_flag=True,
    help="Let `edge-actors inspect` send messages, and `edge-actors faults` disturb this edge: for tests.",
)
@common_options
def run(
    deployment: Path | None,
    listen: tuple[str, ...],
    connection_string_file: str | None,
    config: str | None,
    for_s: float | None,
    allow_faults: bool,
    home: Path,
    as_json: bool,
) -> NoReturn:
    """Run an edge: its modules, and the hub they and other clients connect to.

    Without a connection string it runs an IoT Hub for itself, too, with the sample deployment in it at first;
    `edge-actors cloud --help` tells what to do with that.

    On a terminal a picture shows modules and messages, and the log goes to HOME/logs/edge-actors.log alone;
    otherwise its lines are printed as well. With --json all logs of the edge consist of objects.
    """
    from dataclasses import replace

    from actors.manifest.module_spec import EDGE_AGENT
    from runtime.cli.log_setup import log_to
    from runtime.config.reader import read_settings
    from runtime.edge import ANEW, run_edge
    from runtime.home import Home
    from runtime.logs.lines import JSON
    from runtime.machine.process_end import end_with

    options = {
        "home": str(home),
        "listen": listen,
        "connection_string_file": connection_string_file,
        "config": config,
    }
    settings = read_settings(options, os.environ)
    settings = replace(settings, allow_faults=allow_faults)
    if as_json:
        settings = replace(settings, log_format=JSON)
    place = Home(home)
    draws = sys.stdout.isatty() and not as_json
    log_to(
        place.log_of(EDGE_AGENT),
        EDGE_AGENT,
        settings.log_level,
        log_format=settings.log_format,
        console=not draws,
        level_file=place.log_levels,
    )

    def read_again() -> object:
        return read_settings(options, os.environ)

    if draws:
        # Only here: a service without a terminal shall not pay for the libraries that draw.
        from runtime.cli.live import LivePicture

        with LivePicture(settings):
            code = run_edge(settings, deployment, for_s, read_again)
    else:
        code = run_edge(settings, deployment, for_s, read_again)
    if code == ANEW:
        # The same process for whoever supervises it, and nothing of the settings before is left in it.
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    end_with(code)
