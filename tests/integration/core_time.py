"""How long processes of a test were ready to run and had no core: time that the machine took, not they."""

from __future__ import annotations

from pathlib import Path


def without_core_s(pid: int) -> float:
    """Return that time of the thread of a process that waited most. Source: proc(5), schedstat."""
    return max(thread_without_core_s(pid, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir())


def thread_without_core_s(pid: int, thread_id: int) -> float:
    """Return that time of one thread."""
    _, waited_ns, _ = Path(f"/proc/{pid}/task/{thread_id}/schedstat").read_text().split()
    return int(waited_ns) / 1e9
