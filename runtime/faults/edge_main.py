"""The command line of an edge with a clock that can be set: `python -m runtime.faults.edge_main run …`."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.faults.clock import go_wrong

if __name__ == "__main__":
    go_wrong(Path(sys.argv[sys.argv.index("--home") + 1]))

    import runtime.agent.modules
    from runtime.cli.main import main

    runtime.agent.modules.HUB_PROGRAM = "runtime.faults.hub_main"  # type: ignore[misc]
    main()
