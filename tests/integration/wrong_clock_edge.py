"""`edge_main` with a clock that is wrong, in agent and hub (wrong_clock.py). Its IoT Hub has a right one."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.wrong_clock import go_wrong

if __name__ == "__main__":
    go_wrong(Path(sys.argv[1]))

    import runtime.edge_modules
    from tests.integration.edge_main import main

    runtime.edge_modules.HUB_PROGRAM = "tests.integration.wrong_clock_hub"  # type: ignore[misc]
    sys.exit(main())
