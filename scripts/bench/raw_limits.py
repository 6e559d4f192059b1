"""What the disk of this machine allows, to read the durable figures of the same run by.

python -m scripts.bench.raw_limits [DIRECTORY]
"""

import os
import sys
import tempfile
import time
from pathlib import Path

WRITES = 200
BLOCK = b"\0" * 4096


def fdatasync_ms(directory: Path) -> dict[str, float]:
    """Return p50 and p99, in ms, of appending 4 KiB to a file and syncing it."""
    took_ns = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(WRITES):
            start_ns = time.perf_counter_ns()
            file.write(BLOCK)
            os.fdatasync(file.fileno())
            took_ns.append(time.perf_counter_ns() - start_ns)
    took_ns.sort()
    return {"p50": took_ns[WRITES // 2] / 1e6, "p99": took_ns[WRITES * 99 // 100] / 1e6}


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory; on tmpfs a sync costs nothing."""
    mounts = (line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines())
    around = {str(folder) for folder in (directory.resolve(), *directory.resolve().parents)}
    return max(((point, kind) for point, kind in mounts if point in around), key=lambda m: len(m[0]))[1]


def main() -> int:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    sync_ms = fdatasync_ms(directory)
    where = f"{directory} ({file_system(directory)})"
    print(f"{where}: fdatasync {sync_ms['p50']:.3f} ms p50, {sync_ms['p99']:.3f} ms p99")
    return 0


if __name__ == "__main__":
    sys.exit(main())
