"""Which class does which fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from runtime.faults import (
    call_faults,
    client_faults,
    container_faults,
    disk_faults,
    envelope_faults,
    link_faults,
    machine_faults,
    process_faults,
)
from runtime.faults.scenario import Step
from runtime.faults.scene import Fault, Scene

CLASSES: Final[Mapping[str, type[Fault]]] = {
    "kill": process_faults.Kill,
    "stop": process_faults.Stop,
    "reboot": process_faults.Reboot,
    "no memory": call_faults.NoMemory,
    "kill actor": envelope_faults.KillActor,
    "hang actor": envelope_faults.HangActor,
    "drop envelopes": envelope_faults.Drop,
    "delay envelopes": envelope_faults.Delay,
    "double envelopes": envelope_faults.Double,
    "reorder envelopes": envelope_faults.Reorder,
    "corrupt envelopes": envelope_faults.Corrupt,
    "cut link": link_faults.CutLink,
    "slow link": link_faults.SlowLink,
    "half-open link": link_faults.HalfOpenLink,
    "cloud answers": link_faults.CloudAnswers,
    "full disk": disk_faults.FullDisk,
    "slow sync": call_faults.SlowSync,
    "write error": call_faults.WriteError,
    "damage database": disk_faults.DamageDatabase,
    "power cut": machine_faults.PowerCut,
    "move clock": machine_faults.MoveClock,
    "expire certificate": machine_faults.ExpireCertificate,
    "renew certificate": machine_faults.RenewCertificate,
    "stop engine": machine_faults.StopEngine,
    "kill container": container_faults.KillContainer,
    "slow pull": container_faults.SlowPull,
    "stall client": client_faults.StallClient,
    "drop client": client_faults.DropClient,
    "renew token": client_faults.RenewToken,
    "second client": client_faults.SecondClient,
    "wrong key": client_faults.WrongKey,
}


def make_fault(scene: Scene, step: Step) -> Fault:
    """Return what a step does, for all its times."""
    return CLASSES[step.fault](scene, step.number, step.values)
