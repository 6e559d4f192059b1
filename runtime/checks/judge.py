"""What is good, doubtful and wrong: the decisions of the checks as pure functions.

Source: spec sheets security-daemon.md section 6.3, observability.md section 10.2
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from runtime.checks.outcome import Outcome, error, ok, warning
from runtime.security.renewal import DEFAULT_THRESHOLD, Threshold

CLOCK_WARNING_S: Final = 10.0
CLOCK_ERROR_S: Final = 300.0  # from here on IoT Hub refuses tokens
EXPIRY_WARNING_S: Final = 7 * 86_400.0
OLDEST_ENGINE_API: Final = (1, 25)  # `minDockerVersion` of the manifests that there are
TRIED_ENGINE_API: Final = (1, 41)  # Docker Engine 20.10, the one of Debian 11 and Ubuntu 20.04
OVERDUE_S: Final = 86_400.0  # renewal is tried again hourly
LONGEST_COMMON_NAME: Final = 64  # ub-common-name, RFC 5280 appendix A.1
SPACE_ERROR_BYTES: Final = 16 << 20  # twice the reserve of the message database
SPACE_WARNING_BYTES: Final = 1 << 30
SPACE_WARNING_PERCENT: Final = 10.0
SLOW_SYNC_S: Final = 0.5
_VERSION: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})+")
_LABEL: Final = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # RFC 1035 section 2.3.1
_ROTATED: Final = ("json-file", "local")  # the edge sets limits for these, see docker/request.py
_READABLE: Final = (*_ROTATED, "journald")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_OF_CONTAINER: Final = ("overlay", "aufs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_UNSAFE_OPTIONS: Final = ("nobarrier", "barrier=0")
_CLEANED: Final = ("/tmp", "/var/tmp")


def judge_clock(offset_s: float, source: str) -> Outcome:
    """Judge how far the clock of this machine is ahead of another one (behind: negative)."""
    info = {"offset_s": round(offset_s, 3), "source": source}
    way = "ahead of" if offset_s > 0 else "behind"
    told = f"the clock of this machine is {abs(offset_s):.0f} s {way} that of {source}"
    way_out = "set it, and keep it right: `sudo timedatectl set-ntp true`"
    if abs(offset_s) >= CLOCK_ERROR_S:
        return error(f"{told}, and tokens are refused for that; {way_out}", **info)
    if abs(offset_s) >= CLOCK_WARNING_S:
        return warning(f"{told}; {way_out}", **info)
    return ok(**info)


def judge_expiry(
    what: str,
    not_before_s: float,
    not_after_s: float,
    now_s: float,
    renewal: str,
    is_running: bool,
    threshold: Threshold = DEFAULT_THRESHOLD,
) -> Outcome:
    """Judge how long a certificate is still good.

    Args:
        what: It, with its file.
        not_before_s: From when it counts; seconds since 1970-01-01 UTC, as the others.
        not_after_s: Until when.
        now_s: Now.
        renewal: How somebody gets another one; "" when the edge renews it itself.
        is_running: Whether the edge runs, and so could.
        threshold: When it is renewed.
    """
    days = (not_after_s - now_s) / 86_400.0
    info = {"days_left": round(days, 1)}
    way_out = renewal or (
        "see why it is not renewed: `edge-actors logs edgeAgent`"
        if is_running
        else "the next start of the edge renews it: `edge-actors run`"
    )
    if now_s < not_before_s:
        return error(f"{what} does not count yet: is the clock of this machine right? Else {way_out}", **info)
    if days <= 0:
        told = f"{what} expired {-days:.0f} days ago; {way_out}"
        return error(told, **info) if renewal or is_running else warning(told, **info)
    if renewal and not_after_s - now_s < EXPIRY_WARNING_S:
        return warning(f"{what} expires in {days:.0f} days; {way_out}", **info)
    due_s = threshold.time_s(not_before_s, not_after_s)
    if not renewal and is_running and now_s > due_s + OVERDUE_S:
        return warning(f"{what} should be renewed by now, and expires in {days:.0f} days; {way_out}", **info)
    return ok(**info)


def judge_host_name(name: str, machine: str, is_local: bool, resolves_to_us: bool | None) -> Outcome:
    """Judge the name under which clients reach the edge.

    Args:
        name: That one.
        machine: What the machine is called.
        is_local: Whether only programs of this machine can connect.
        resolves_to_us: Whether it is known as an address of this machine; None when it is not known at all.
    """
    info = {"hostname": name}
    if _is_address(name) or (is_local and name == "localhost"):
        return ok(**info)
    known = name.casefold() == machine.casefold() or name.casefold().startswith(f"{machine.casefold()}.")
    way_out = "set hostname to a name of this machine, or make the name known to its network"
    if not known and resolves_to_us is not True:
        why = "means another machine" if resolves_to_us is False else "is not known here"
        return error(
            f"clients are to reach this edge as {name!r}, but that name {why}, and this machine is called "
            f"{machine!r}; {way_out}",
            **info,
        )
    if len(name) > LONGEST_COMMON_NAME:
        told = f"is longer than the {LONGEST_COMMON_NAME} characters that a certificate has for it"
        return warning(f"the host name {name!r} {told}; choose a shorter one", **info)
    if not all(_LABEL.fullmatch(label) for label in name.rstrip(".").split(".")):
        told = "is no name by RFC 1035 (letters, digits and hyphens, each part beginning with a letter)"
        return warning(f"the host name {name!r} {told}; some clients refuse it", **info)
    return ok(**info)


def judge_space(path: str, free_bytes: int, total_bytes: int, free_files: int | None) -> Outcome:
    """Judge the room on the disk of a folder; `free_files` is None where files are not counted."""
    percent = 100.0 * free_bytes / max(1, total_bytes)
    info = {path: {"available_space": free_bytes, "total_space": total_bytes}}
    way_out = "free some, or move the home or hub.storage_folder to a larger disk"
    if free_files == 0:
        return error(f"{path}: its file system takes no more files (inodes); remove some", **info)
    if free_bytes < SPACE_ERROR_BYTES:
        told = f"{path}: {_mib(free_bytes)} are free, and new messages are refused soon"
        return error(f"{told}; {way_out}", **info)
    if free_bytes < SPACE_WARNING_BYTES and percent < SPACE_WARNING_PERCENT:
        return warning(f"{path}: {_mib(free_bytes)} are free, {percent:.0f} %; {way_out}", **info)
    return ok(**info)


def judge_storage(what: str, path: str, kind: str, options: Sequence[str]) -> Outcome:
    """Judge whether what is written to a folder is still there after a reboot and a power cut."""
    info = {"path": path, "file_system": kind}
    move = "put it on a disk: --home, or the setting hub.storage_folder for messages"
    if kind in _IN_MEMORY:
        return warning(f"{what} in {path} is in memory ({kind}) and gone at a reboot; {move}", **info)
    if kind in _OF_CONTAINER:
        told = f"{what} in {path} is part of a container's own file system ({kind}) and gone with it"
        return warning(f"{told}; mount a volume or folder there", **info)
    if kind in _REMOTE:
        told = f"{what} in {path} is on another machine ({kind}), where a power cut may damage it"
        return warning(f"{told}; {move}", **info)
    if any(path == folder or path.startswith(f"{folder}/") for folder in _CLEANED):
        told = f"{what} in {path} is where the system removes old files by itself"
        return warning(f"{told}; {move}", **info)
    unsafe = [option for option in options if option in _UNSAFE_OPTIONS]
    if unsafe:
        told = f"{what} in {path}: its file system is mounted with {unsafe[0]}, so a power cut may lose it"
        return warning(f"{told}; take the option out of /etc/fstab", **info)
    return ok(**info)


def judge_sync(path: str, median_s: float) -> Outcome:
    """Judge how long the disk takes until it has something for sure: each acknowledgement waits for that."""
    info = {"sync_ms": round(median_s * 1000, 2)}
    if median_s > SLOW_SYNC_S:
        told = f"{path}: the disk takes {median_s:.1f} s to have something for sure, so messages are slow"
        return warning(
            f"{told}; see what else writes to it, or whether it is about to fail (`dmesg`)", **info
        )
    return ok(**info)


def read_engine_config(text: str | None, path: str) -> dict[str, Any] | Outcome:
    """Return the settings of the engine; none without a file. An outcome when they make no sense."""
    if text is None or not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as exc:
        return error(f"{path} is no JSON ({exc}); repair it, or Docker does not start again")
    if not isinstance(found, dict):
        return error(f"{path} is no JSON object; repair it, or Docker does not start again")
    return found


def judge_engine_version(version: str, api_version: str) -> Outcome:
    """Judge whether the container engine is new enough.

    Args:
        version: Of the engine; vendors have numbers of their own.
        api_version: The newest that it speaks.
    """
    info = {"docker_version": version, "api_version": api_version}
    spoken = _numbers(api_version)
    way_out = "install a newer one: `sudo apt-get install docker.io`"
    if spoken and spoken < OLDEST_ENGINE_API:
        oldest = ".".join(map(str, OLDEST_ENGINE_API))
        told = f"Docker Engine {version} speaks API {api_version}, and {oldest} is needed"
        return error(f"{told}; {way_out}", **info)
    if spoken and spoken < TRIED_ENGINE_API:
        return warning(f"Docker Engine {version} is older than those this was tried with; {way_out}", **info)
    return ok(**info)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if _VERSION.fullmatch(version) else ()


def judge_container_clock(offset_s: float) -> Outcome:
    """Judge by how much the clock in containers is ahead of that of this machine, in seconds.

    Source: observability.md section 10.2
    """
    info = {"offset_s": round(offset_s, 1)}
    if abs(offset_s) < CLOCK_WARNING_S:
        return ok(**info)
    told = f"the clock in containers differs from that of this machine by {offset_s:.0f} s"
    return error(f"{told}; restart the machine that Docker Engine runs on", **info)


def judge_dns(config: Mapping[str, Any], path: str) -> Outcome:
    """Judge whether containers are told whom to ask for names."""
    dns = config.get("dns")
    if isinstance(dns, list) and dns:
        return ok(dns=dns)
    told = "containers ask the name servers of this machine, or public ones where that has a local one"
    return warning(
        f'{told}; to name them, put {{"dns": ["ADDRESS"]}} into {path} and restart Docker', dns=None
    )


def judge_log_rotation(config: Mapping[str, Any], driver: str, path: str) -> Outcome:
    """Judge whether the logs of containers can be read, and do not fill the disk.

    Args:
        config: The file of the engine.
        driver: What the engine itself says that it uses.
        path: Of the file.
    """
    info = {"log-driver": driver, "log-opts": config.get("log-opts")}
    if driver in _READABLE:
        return ok(**info)  # modules get max-size and max-file of ours where that is needed
    told = f"the engine's log driver {driver!r} keeps nothing that `edge-actors logs` could show"
    return warning(
        f'{told}; put {{"log-driver": "local"}} into {path} and restart Docker, or name a driver in '
        "LogConfig of the modules",
        **info,
    )


def judge_modules(modules: Sequence[Mapping[str, Any]]) -> Outcome:
    """Judge how modules are doing, as the agent lists them."""
    info = {module["name"]: module["status"] for module in modules}
    bad = [
        module
        for module in modules
        if module["desired"] == "running" and module["status"] not in ("running", "downloading")
    ]
    if not bad:
        return ok(**info)
    details = [
        f"{module['name']} is {module['status']}: {module['description']}; "
        f"`edge-actors explain {module['name']}` says why, and what to do"
        for module in bad
    ]
    if any(module["name"] == "edgeHub" for module in bad):
        return error(*details, **info)
    return warning(*details, **info)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _mib(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB"
