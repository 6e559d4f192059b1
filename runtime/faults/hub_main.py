"""The hub process with a clock that can be set: `python -m runtime.faults.hub_main --home H …`."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.faults.clock import go_wrong

if __name__ == "__main__":
    go_wrong(Path(sys.argv[sys.argv.index("--home") + 1]))

    from runtime.hub import main

    sys.exit(main())
