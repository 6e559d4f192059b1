"""The variables by which a device SDK in a module finds its identity, the workload API and the hub.

Source: spec sheet security-daemon.md section 1.6
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from actors.ports.modules import ModuleAccess

API_VERSION: Final = "2022-08-03"


class EdgeNames(Struct, frozen=True):
    """What modules have to know of the edge they run on."""

    device_id: str
    iothub_hostname: str
    gateway_hostname: str  # under which a process of this machine reaches the hub


def module_variables(names: EdgeNames, module: str, access: ModuleAccess) -> dict[str, str]:
    """Return the IOTEDGE_… variables of a module that is a process of this machine."""
    return {
        "IOTEDGE_WORKLOADURI": access.workload_uri,
        "IOTEDGE_DEVICEID": names.device_id,
        "IOTEDGE_MODULEID": module,
        "IOTEDGE_MODULEGENERATIONID": access.generation_id,
        "IOTEDGE_IOTHUBHOSTNAME": names.iothub_hostname,
        "IOTEDGE_GATEWAYHOSTNAME": names.gateway_hostname,
        "IOTEDGE_AUTHSCHEME": "sasToken",
        "IOTEDGE_APIVERSION": API_VERSION,
    }
