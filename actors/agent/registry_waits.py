"""When the cloud is asked again, and what a user is told meanwhile. Pure.

Source: spec sheets security-daemon.md section 4.3 (throttled), hub-protocols.md section 5.4 (hourly)
"""

from __future__ import annotations

from typing import Final

from actors.upstream.connection import CloudFault, Fault

REFRESH_S: Final = 3600.0
PROBLEM_S: Final = 60.0  # when modules are missing there
THROTTLED_S: Final = (60.0, 120.0, 180.0, 300.0)
AWAY_S: Final = (3.0, 5.0, 10.0, 20.0, 40.0, 60.0)
USERS_S: Final = (10.0, 30.0, 60.0, 120.0, 300.0)  # somebody has to repair something first
JITTER: Final = 0.1  # so that many edges do not come back in the same second

_AWAY: Final = (Fault.UNREACHABLE, Fault.TIMEOUT)
_LATER: Final = (Fault.THROTTLED, Fault.QUOTA)


def wait_s(fault: CloudFault | None, failures: int, has_problems: bool, random: float) -> float:
    """Return how long to wait until the next try.

    Args:
        fault: What went wrong last, None for nothing.
        failures: Tries in a row that went wrong, this one included.
        has_problems: Whether it took all but some modules.
        random: From 0 to 1.
    """
    if fault is None:
        return PROBLEM_S if has_problems else REFRESH_S
    steps = THROTTLED_S if fault.kind in _LATER else AWAY_S if fault.kind in _AWAY else USERS_S
    return steps[min(failures, len(steps)) - 1] * (1 + JITTER * random)


def state_of(fault: CloudFault | None) -> str:
    """Return one word for how the edge and its IoT Hub stand."""
    if fault is None:
        return "linked"
    return "unknown device" if fault.status == 404 else fault.kind.value


def is_refusal(fault: CloudFault) -> bool:
    """Say whether the cloud does not take this device, or does not know it."""
    return fault.kind is Fault.UNAUTHORIZED or fault.status == 404


def explain(fault: CloudFault, device_id: str, host_name: str, is_own: bool = False) -> str:
    """Return what is wrong, and what the user can do about it.

    `is_own`: the IoT Hub is the one that the edge runs for itself, and a connection string would end that.
    """
    if is_own and is_refusal(fault):
        way_out = (
            f"`edge-actors cloud device enable {device_id}` lets it in again where it is disabled; where it "
            f"is gone `edge-actors cloud device create {device_id} --edge` makes it again; the edge "
            "takes its new key by itself"
        )
    elif fault.status == 404:
        way_out = (
            f"device '{device_id}' is not known at {host_name}: create it there as an edge device, and give "
            "its connection string with --connection-string-file"
        )
    elif fault.kind is Fault.UNAUTHORIZED:
        way_out = (
            f"see at {host_name} whether device '{device_id}' is enabled, and give its present connection "
            "string with --connection-string-file"
        )
    elif fault.kind is Fault.CLOCK and fault.status:
        way_out = "set the clock of this device"
    elif fault.kind in (*_AWAY, *_LATER):
        way_out = "it is tried again"
    else:
        return fault.reason
    return f"{fault.reason}; {way_out}"
