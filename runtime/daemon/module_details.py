"""How a module is doing, in the form in which both HTTP APIs of the security daemon tell it.

Source: spec sheet security-daemon.md section 2.2
"""

from __future__ import annotations

from msgspec import Struct


class ModuleState(Struct, frozen=True):
    """What is told about a module. Times are ISO 8601 text in UTC."""

    name: str
    type: str  # "docker" or "process"
    image: str
    status: str  # running, stopped, failed, dead or unknown
    started_utc: str | None = None
    exited_utc: str | None = None
    exit_code: int | None = None
    image_id: str = ""  # the engine's; "" for a process, or when it was never made


def module_details(module: ModuleState) -> dict[str, object]:
    """Return a module as `GET /modules` and `GET /modules/{m}` show it."""
    status: dict[str, object] = {"runtimeStatus": {"status": module.status}}
    if module.started_utc is not None:
        status["startTime"] = module.started_utc
    if module.exited_utc is not None and module.exit_code is not None:
        status["exitStatus"] = {"exitTime": module.exited_utc, "statusCode": str(module.exit_code)}
    settings: dict[str, object] = {"image": module.image, "createOptions": {}}
    if module.image_id:
        settings["imageHash"] = module.image_id
    return {
        "id": "id",
        "name": module.name,
        "type": module.type,
        "config": {"settings": settings, "env": []},
        "status": status,
    }
