"""What stands where in the home of the stand-in, which is the folder `cloud` in the home of an edge.

cloud.db       registry, twins, messages, enrollments
policies.json  the accounts of services with their keys, the owner's among them
certificates/  the stand-in's own CA and its server certificate
ca.pem         the certificate of that CA, which clients have to trust
quality-telemetry.jsonl  the newest of what edges tell about how they run, see diagnostics.py
upstream.position  how far the copy of telemetry got, see telemetry_file.py
serving.json   where the last run listened, for the command line
logs/          the log of the process
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from messaging.errors import EnvironmentFault
from runtime.home import CLOUD as CLOUD_FOLDER
from runtime.run_directory import CLOUD, Lock, RunDirectory
from runtime.storage.atomic_file import write_private_file

SOCKET: Final = "rest.sock"  # in the run directory


class Serving(msgspec.Struct, frozen=True, rename="camel"):
    """What a running stand-in says of itself."""

    host_name: str
    mqtt: list[str]  # addresses with ports
    https: list[str]  # likewise; empty without the permission to listen on that port
    https_port: int
    id_scope: str
    amqp: list[str] = []  # addresses with ports

    @property
    def service_host(self) -> str:
        """The host of service connection strings: with a port where it is not the usual one."""
        return self.host_name if self.https_port == 443 else f"{self.host_name}:{self.https_port}"


class CloudHome(Struct, frozen=True):
    """The paths in one home. Values only: nothing is created here."""

    path: Path

    @classmethod
    def in_home(cls, home: Path) -> CloudHome:
        """Return the stand-in's folder in the home that `--home` names."""
        return cls(home / CLOUD_FOLDER)

    @property
    def database(self) -> Path:
        return self.path / "cloud.db"

    @property
    def certificates(self) -> Path:
        return self.path / "certificates"

    @property
    def ca(self) -> Path:
        return self.path / "ca.pem"

    @property
    def policies(self) -> Path:
        return self.path / "policies.json"

    @property
    def log(self) -> Path:
        return self.path / "logs" / "cloud.log"

    @property
    def serving(self) -> Path:
        return self.path / "serving.json"

    @property
    def run(self) -> RunDirectory:
        return RunDirectory.of(self.path)

    @property
    def socket(self) -> Path:
        """Where the command line reaches REST, whatever ports the stand-in has."""
        return self.run.path / SOCKET

    def lock(self) -> Lock:
        """Return the lock that a running stand-in has."""
        return Lock(self.run, CLOUD)

    def say_serving(self, serving: Serving) -> None:
        """Write down where this run listens.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        write_private_file(self.serving, msgspec.json.format(msgspec.json.encode(serving), indent=1))

    def read_serving(self) -> Serving:
        """Return where the running stand-in listens.

        Raises:
            EnvironmentFault: it has not said so yet.
        """
        try:
            return msgspec.json.decode(self.serving.read_bytes(), type=Serving)
        except (OSError, msgspec.DecodeError) as exc:
            raise EnvironmentFault(
                f"{self.serving} does not say where the stand-in listens; it may be starting: try again"
            ) from exc
