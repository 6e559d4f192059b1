"""What stands where in the home of an edge.

config.toml       the settings, as they were applied
bridges.toml      other MQTT brokers, and as whom to connect to them; its user makes it
device.json       the id of the device
provisioned.json  which device it is at which IoT Hub, with the key
scope.json        what the IoT Hub says of the devices and modules in its scope, with their keys
place             a checksum of machine and path, to notice a copy
keys.json         identities and keys
certificates/     edge CA, the hub's certificate, and what the cloud is trusted by
deployment.sealed the last good deployment from the cloud, encrypted
hub.json          what the hub has to know before it serves
hub.db            messages, queues and the ledger, unless a storage folder is named
hub.db-reserve    space for delivering with a full disk
hub.db-clock      how far the time that nobody sets is from the time of day, for times to live
hub.db-quarantine-…/  a database that was damaged
broker.db         what the MQTT broker keeps for its clients, and bridge.db for its bridges; beside hub.db
twins.db          twins of the clients
identities.copy   the hub's copy of the identities
cloud.json        the address of the IoT Hub stand-in that the edge runs for itself
upstream.jsonl    the telemetry that this stand-in took; upstream.off switches the link to the cloud off
modules/          how each module fared, for the next start of the agent
containers.json   there once the edge has made containers: their network
images.json       which images were pulled for modules, and when each was last used
module-data/      when the edge is root: a folder for each process module, its own, and where its $HOME is
availability/     when the agent was last known to run
quality/          what the metrics stood at, until the quality telemetry is sent
logs/             a log for each module and each process of the edge; levels in it: what `log-level` set
cloud/            of the IoT Hub stand-in: see iothub/cloud_home.py
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from pathlib import Path

from msgspec import Struct

MODULE_DATA = "module-data"
CLOUD = "cloud"  # the IoT Hub stand-in's home: closed to others; removed with ours if it was made for us
CLOUD_ADDRESS = "cloud.json"
CONFIG = "config.toml"
BRIDGES = "bridges.toml"  # its user makes it; nobody else has a use for it
BROKER_FILES = ("broker.db", "bridge.db")  # beside the message database, where the deployment has a broker
# Every name the edge makes in its home; a test runs an edge and finds no other.
_OWN = (
    CONFIG,
    BRIDGES,
    "device.json",
    "provisioned.json",
    "scope.json",
    "place",
    "keys.json",
    "certificates",
    "deployment.sealed",
    "hub.json",
    "hub.db",
    "hub.db-*",
    *(f"{name}{ending}" for name in BROKER_FILES for ending in ("", "-*")),
    "twins.db",
    "twins.db-*",
    "identities.copy",
    CLOUD_ADDRESS,
    "upstream.*",
    "modules",
    "containers.json",
    "images.json",
    MODULE_DATA,
    "availability",
    "quality",
    "logs",
    ".*.new",  # being written when the power went
    "*.new",
)
_AGENT_LOG = "edge-actors"


class Home(Struct, frozen=True):
    """The paths in one home. Values only: nothing is created here."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def bridges(self) -> Path:
        return self.path / BRIDGES

    @property
    def provisioned(self) -> Path:
        return self.path / "provisioned.json"

    @property
    def scope(self) -> Path:
        return self.path / "scope.json"

    @property
    def keys(self) -> Path:
        return self.path / "keys.json"

    @property
    def certificates(self) -> Path:
        return self.path / "certificates"

    @property
    def cloud_ca(self) -> Path:
        return self.certificates / "cloud-ca.pem"

    @property
    def hub_config(self) -> Path:
        return self.path / "hub.json"

    @property
    def last_deployment(self) -> Path:
        return self.path / "deployment.sealed"

    @property
    def modules(self) -> Path:
        return self.path / "modules"

    @property
    def containers(self) -> Path:
        return self.path / "containers.json"

    @property
    def availability(self) -> Path:
        return self.path / "availability"

    @property
    def quality(self) -> Path:
        return self.path / "quality"

    @property
    def module_data(self) -> Path:
        return self.path / MODULE_DATA

    @property
    def message_db(self) -> Path:
        return self.path / "hub.db"

    @property
    def cloud_address(self) -> Path:
        return self.path / CLOUD_ADDRESS

    @property
    def telemetry(self) -> Path:
        return self.path / "upstream.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def log_levels(self) -> Path:
        return self.logs / "levels"

    def log_of(self, name: str) -> Path:
        """Return the log file of a module, of edgeHub, or of edgeAgent, which is the edge's own."""
        return self.logs / f"{_AGENT_LOG if name == 'edgeAgent' else name}.log"

    def log_names(self) -> list[str]:
        """Return the modules and processes that have a log, sorted; also those no deployment has any more."""
        names = [path.stem for path in self.logs.glob("*.log")]
        return sorted("edgeAgent" if name == _AGENT_LOG else name for name in names)

    def foreign(self) -> list[str]:
        """Return the names of what stands here and is not ours, sorted."""
        return [
            entry.name for entry in self._entries() if not _is_own(entry.name) and not _is_closed_cloud(entry)
        ]

    def close_entries(self) -> None:
        """Leave what the edge made here to its owner alone, whatever the umask of an earlier run was.

        The home itself may have to let others pass, see modules/users.py.
        """
        for entry in self._entries():
            if not _is_own(entry.name) or entry.name == MODULE_DATA or entry.is_symlink():
                continue
            try:
                os.chmod(entry.path, entry.stat(follow_symlinks=False).st_mode & 0o777 & ~0o077)
            except FileNotFoundError:
                pass  # a hub that outlived its agent is at work here, and journals come and go

    def purge(self, with_cloud: bool = True) -> list[str] | None:
        """Delete everything the edge made here, and the home when it is empty then.

        A home may be a folder that holds other things, a user's own for example. The stand-in's folder goes
        `with_cloud`, if it was made for this edge.

        Returns:
            The names of what is not the edge's and was left; None when there was no home.
        """
        real = Path(os.path.realpath(self.path))
        try:
            entries = self._entries()
        except FileNotFoundError:
            return None
        foreign = []
        has_cloud = with_cloud and self._has_own_cloud()
        for entry in entries:
            if not _is_own(entry.name) and not (has_cloud and entry.name == CLOUD):
                foreign.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        if not foreign and os.access(real.parent, os.W_OK):  # else it is systemd's, and stays, empty
            real.rmdir()
            if self.path.is_symlink():
                self.path.unlink()
        return foreign

    def _has_own_cloud(self) -> bool:
        try:
            return bool(json.loads(self.cloud_address.read_bytes())["folderIsOurs"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _entries(self) -> list[os.DirEntry[str]]:
        return sorted(os.scandir(os.path.realpath(self.path)), key=lambda entry: entry.name)


def _is_own(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _OWN)


def _is_closed_cloud(entry: os.DirEntry[str]) -> bool:
    return (
        entry.name == CLOUD
        and entry.is_dir(follow_symlinks=False)
        and not entry.stat(follow_symlinks=False).st_mode & 0o077
    )
