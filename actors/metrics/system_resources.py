"""What this machine and its modules take up, as it was found at one moment."""

from __future__ import annotations

from msgspec import Struct


class Disk(Struct, frozen=True):
    """A file system."""

    name: str
    file_system: str
    file_type: str
    total_bytes: int
    available_bytes: int


class ModuleResources(Struct, frozen=True):
    """Of one module; None where it is not known."""

    name: str
    cpu_percent: float | None = None  # since the look before, of the whole machine
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    network_in_bytes: int | None = None
    network_out_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_write_bytes: int | None = None


class Resources(Struct, frozen=True):
    """All of it."""

    host_uptime_s: float
    agent_uptime_s: float
    host_cpu_percent: float | None
    host_used_bytes: int
    host_total_bytes: int
    disks: tuple[Disk, ...]
    modules: tuple[ModuleResources, ...]
