"""The hub process of a fault script: `python -m runtime.faults.hub_main --home H --run R`.

It has a clock that can be set, and strace records it from its first system call on where a file beside the
home says so. The hub's own code is as it is for everybody.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from runtime.faults.clock import go_wrong

RECORD: Final = "record-hub"  # beside the home: where to
RECORDED: Final = "FAULTS_HUB_IS_RECORDED"


def record_next_hub(home: Path, trace: Path) -> None:
    """Have each hub of a home recorded that starts from now on."""
    home.with_name(RECORD).write_text(str(trace))


def main() -> int:
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    wanted = home.with_name(RECORD)
    if wanted.exists() and RECORDED not in os.environ:
        from runtime.faults import recording

        program = [sys.executable, "-m", "runtime.faults.hub_main", *sys.argv[1:]]
        command = recording.command(Path(wanted.read_text()), program)
        # No file work of uvloop by io_uring, where no system call shows it.
        os.execve(command[0], command, {**os.environ, RECORDED: "1", "UV_USE_IO_URING": "0"})
    go_wrong(home)

    from runtime.hub import main as hub_main  # when the clock is wrong already

    return hub_main()


if __name__ == "__main__":
    sys.exit(main())
