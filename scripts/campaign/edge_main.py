"""The command line of an edge whose hub is the campaign's: `python -m scripts.campaign.edge_main run …`."""

from __future__ import annotations

import runtime.edge_modules
from runtime.cli.main import main

if __name__ == "__main__":
    runtime.edge_modules.HUB_PROGRAM = "scripts.campaign.hub_main"  # type: ignore[misc]
    main()
