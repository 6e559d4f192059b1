"""What this machine is and how it is doing, in the words of the daemon of the reference.

Source: spec sheet security-daemon.md section 2.6; proc(5), os-release(5)
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from messaging.version import VERSION

CPU_SAMPLE_S: Final = 0.2
_OS_RELEASE: Final = {
    "ID": "operating_system",
    "VERSION_ID": "operating_system_version",
    "VARIANT_ID": "operating_system_variant",
    "BUILD_ID": "operating_system_build",
}
_DMI: Final = Path("/sys/class/dmi/id")
_KINDS: Final = {"0": "SSD", "1": "HDD"}
# Without blocks of their own on a disk.
PASSING_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "overlay", "aufs", "squashfs"})


class Mount(Struct, frozen=True):
    """A file system that is mounted."""

    device: str
    point: str
    kind: str  # ext4, tmpfs …
    options: tuple[str, ...]


def system_info(server_version: str = "") -> dict[str, Any]:
    """Return what `GET /systeminfo` tells; what is not known is left out.

    Args:
        server_version: Of Docker Engine.
    """
    uname = os.uname()
    release = _os_release()
    memory = _memory()
    found = {
        "osType": "Linux",
        "kernel_release": uname.release,
        "kernel_version": uname.version,
        **{name: release.get(key, "") for key, name in _OS_RELEASE.items()},
        "architecture": uname.machine,
        "cpus": os.cpu_count() or 1,
        "total_memory": memory.get("MemTotal", 0),
        "virtualized": _virtualized(),
        "product_name": _line(_DMI / "product_name") or _line(Path("/proc/device-tree/model")),
        "system_vendor": _line(_DMI / "sys_vendor"),
        "version": VERSION,
        "server_version": server_version,
        # A constant in the reference, too.
        "provisioning": {
            "type": "ProvisioningType",
            "dynamicReprovisioning": False,
            "alwaysReprovisionOnStartup": False,
        },
    }
    return {name: value for name, value in found.items() if value not in ("", 0)}


def system_resources(places: Iterable[Path], started_s: float, docker_stats: str) -> dict[str, Any]:
    """Return what `GET /systeminfo/resources` tells. Takes CPU_SAMPLE_S.

    Args:
        places: Whose disks are told even when no device of their own stands behind them.
        started_s: When this process was started; seconds since 1970-01-01 UTC.
        docker_stats: JSON text.
    """
    memory = memory_use()
    return {
        "host_uptime": int(host_uptime_s()),
        "process_uptime": int(max(0.0, time.time() - started_s)),
        "used_cpu": _used_cpu_percent(),
        "used_ram": memory["used_ram"],
        "total_ram": memory["total_ram"],
        "disks": disks(places),
        "docker_stats": docker_stats,
    }


def host_uptime_s() -> float:
    """Return for how long this machine has been up."""
    return float(_line(Path("/proc/uptime")).split()[0])


def memory_use() -> dict[str, int]:
    """Return how much memory and swap is used, and how much there is, in bytes."""
    memory = _memory()
    return {
        "used_ram": memory["MemTotal"] - memory.get("MemAvailable", memory.get("MemFree", 0)),
        "total_ram": memory["MemTotal"],
        "used_swap": memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        "total_swap": memory.get("SwapTotal", 0),
    }


def os_release() -> dict[str, str]:
    """Return id, version_id, arch and bitness of the operating system, as `check` tells them."""
    release = _os_release()
    return {
        "id": release.get("ID", ""),
        "version_id": release.get("VERSION_ID", ""),
        "arch": os.uname().machine,
        "bitness": platform.architecture()[0].removesuffix("bit"),
    }


def disks(places: Iterable[Path] = ()) -> list[dict[str, Any]]:
    """Return the disks of this machine, each once, and the file systems that these places are on."""
    found: dict[str, dict[str, Any]] = {}
    wanted = {mount.point for mount in map(mount_of, places) if mount is not None}
    for mount in mounts():
        is_disk = mount.device.startswith("/dev/") and mount.kind not in PASSING_FILE_SYSTEMS
        if mount.device in found or not (is_disk or mount.point in wanted):
            continue
        try:
            space = os.statvfs(mount.point)
        except OSError:
            continue
        found[mount.device] = {
            "name": mount.device,
            "available_space": space.f_bavail * space.f_frsize,
            "total_space": space.f_blocks * space.f_frsize,
            "file_system": mount.kind,
            "file_type": _kind_of(mount.point),
        }
    return list(found.values())


def mounts() -> list[Mount]:
    """Return what is mounted, the last first: it hides what was mounted there before."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    rows = [line.split(" ") for line in reversed(lines)]
    return [
        Mount(_unescaped(row[0]), _unescaped(row[1]), row[2], tuple(row[3].split(",")))
        for row in rows
        if len(row) >= 4
    ]


def mount_of(path: Path) -> Mount | None:
    """Return the file system that a path, or the next folder above it that is there, lies on."""
    while not path.exists() and path != path.parent:
        path = path.parent
    real = os.path.realpath(path)
    found = [one for one in mounts() if real == one.point or real.startswith(f"{one.point.rstrip('/')}/")]
    return max(found, key=lambda one: len(one.point), default=None)


def _unescaped(text: str) -> str:
    for escaped, plain in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(escaped, plain)
    return text


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _memory() -> dict[str, int]:
    """Return the lines of /proc/meminfo in bytes."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * (1024 if rest.endswith("kB") else 1)
    return found


def _used_cpu_percent() -> float:
    """Return how much of all processors was used in a moment, in percent."""
    busy_before, all_before = processor_ticks()
    time.sleep(CPU_SAMPLE_S)
    busy, total = processor_ticks()
    return round(100.0 * (busy - busy_before) / max(1, total - all_before), 2)


def processor_ticks() -> tuple[int, int]:
    """Return for how long all processors were busy since the start, and how long that is for all of them."""
    numbers = [int(text) for text in _line(Path("/proc/stat")).split()[1:9]]
    idle = numbers[3] + numbers[4]  # idle and waiting for a disk
    return sum(numbers) - idle, sum(numbers)


def _virtualized() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return "unknown"
    if " hypervisor" in flags or Path("/proc/xen").exists():
        return "yes"
    return "no" if os.uname().machine in ("x86_64", "i686") else "unknown"


def _kind_of(point: str) -> str:
    try:
        number = os.stat(point).st_dev
    except OSError:
        return "Unknown"
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    for folder in (device, device / ".."):  # a partition has its disk's queue
        kind = _KINDS.get(_line(folder / "queue/rotational"))
        if kind is not None:
            return kind
    return "Unknown"


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip("\0 \t")
    except OSError:
        return ""
