"""The hub process with a clock that is wrong: `python -m tests.integration.wrong_clock_hub --home H …`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.wrong_clock import go_wrong

if __name__ == "__main__":
    go_wrong(Path(sys.argv[sys.argv.index("--home") + 1]))

    from runtime.hub import main

    sys.exit(main())
