"""The stand-in of an edge: `python -m runtime.iothub.embedded --home H`, started by the agent like a module.

Its listening sockets are inherited and its name is its address. All telemetry that it takes is also written
to H/upstream.jsonl.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from actors.manifest.module_spec import EDGE_CLOUD
from messaging.errors import EdgeError
from runtime.exit_codes import WRONG_INPUT
from runtime.home import Home
from runtime.iothub.cloud_home import CloudHome
from runtime.iothub.cloud_process import CloudSockets, run_cloud
from runtime.iothub.cloud_settings import read_cloud_settings
from runtime.logs.setup import log_as_told
from runtime.machine.process_end import end_with
from runtime.net.listening_sockets import Use, address_of, from_environment
from runtime.net.socket_handover import SocketOffer

log = logging.getLogger("runtime.iothub.embedded")  # `__main__` where it runs


def run_embedded(home: Path) -> int:
    """Run until SIGTERM; returns the exit code."""
    inherited = from_environment(os.environ)
    place = CloudHome.in_home(home)
    place.run.prepare()
    offer = SocketOffer(place.run.path, [listener for _, listener in inherited])
    offer.open()
    mqtt, amqp, https = (
        [listener for its, listener in inherited if its is use] for use in (Use.MQTT, Use.AMQP, Use.WEB)
    )
    settings = read_cloud_settings([address_of(mqtt[0]).host], https_port=address_of(https[0]).port)
    try:
        return run_cloud(place, settings, CloudSockets(mqtt, amqp, https), Home(home).telemetry)
    finally:
        offer.close()


def main() -> int:
    """Read the command line of the process, and run it."""
    match sys.argv[1:]:  # from the agent alone, so no argparse
        case ["--home", home]:
            pass
        case _:
            print("usage: python -m runtime.iothub.embedded --home HOME", file=sys.stderr)
            return WRONG_INPUT
    log_as_told(EDGE_CLOUD, Home(Path(home)).log_levels)
    os.umask(0o077)
    try:
        return run_embedded(Path(home))
    except EdgeError as exc:
        log.error("%s", exc)
        return WRONG_INPUT


if __name__ == "__main__":
    end_with(main())
