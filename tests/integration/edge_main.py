"""Runs an edge as the command line does, without it: `python -m tests.integration.edge_main HOME …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from messaging.errors import EdgeError
from runtime.config.reader import read_settings
from runtime.edge import run_edge
from runtime.logs.levels import parse_levels
from runtime.logs.setup import log_to_stderr


def main() -> int:
    home, listen, deployment, for_s, grace_s = sys.argv[1:]
    try:
        settings = read_settings({"home": home, "listen": listen, "stop_grace_s": grace_s}, os.environ)
        log_to_stderr("edgeAgent", parse_levels(settings.log_level), settings.log_format)
        return run_edge(settings, Path(deployment) if deployment else None, float(for_s) if for_s else None)
    except EdgeError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
