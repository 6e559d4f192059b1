"""`edge_main` with a clock that is wrong in agent and hub (runtime.faults.clock), not in its IoT Hub."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.faults.clock import go_wrong

if __name__ == "__main__":
    go_wrong(Path(sys.argv[1]))

    import runtime.agent.modules
    from tests.integration.edge_main import main

    runtime.agent.modules.HUB_PROGRAM = "runtime.faults.hub_main"  # type: ignore[misc]
    sys.exit(main())
