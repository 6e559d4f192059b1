"""The agent's hold on the IoT Hub stand-in that it runs for itself: address, sockets, what is put into it.

The stand-in is a process beside the hub (iothub/embedded.py), supervised like a module. Its home is
HOME/cloud, so that `edge-actors cloud …` works on it. It listens on an address of its own, 127.0.0.2 or the
next one that is free, on port 8883, and for REST on 443 or, without the permission, 8443; for AMQP on 5671,
unless another program has that port. HOME/cloud.json keeps the address: it is the stand-in's host name.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import structs
from msgspec.structs import replace

from messaging.connection_string import ConnectionString
from messaging.errors import EnvironmentFault
from messaging.identity import Identity
from runtime.config.listen_addresses import ListenAddress
from runtime.config.settings import Settings
from runtime.home import Home
from runtime.iothub.cloud_home import CloudHome
from runtime.net import amqp_engine, listening_sockets, socket_handover
from runtime.net.listening_sockets import Use, address_of
from runtime.run_directory import EMBEDDED_CLOUD
from runtime.storage.atomic_file import write_private_file
from runtime.upstream.provisioning import Provisioned, from_connection_string

log = logging.getLogger(__name__)

MQTT_PORT: Final = 8883  # device SDKs know no other
AMQP_PORT: Final = 5671  # likewise
HTTPS_PORTS: Final = (443, 8443)
FIRST_ADDRESS: Final = ipaddress.IPv4Address("127.0.0.2")
MOST_ADDRESSES: Final = 250
TAKE_LIMIT_S: Final = 2.0
START_LIMIT_S: Final = 20.0
_HERE: Final = Path(__file__).resolve().parents[1]
_INSTALLED: Final = _HERE / "samples"  # from a wheel; in a checkout they stand where a reader looks for them
SAMPLES: Final = _INSTALLED if _INSTALLED.is_dir() else _HERE.parent / "scripts" / "samples"
SAMPLE: Final = SAMPLES / "deployment.json"
LOOK_S: Final = 0.01


class Kept(msgspec.Struct, frozen=True, rename="camel"):
    """What HOME/cloud.json says."""

    address: str
    https_port: int
    folder_is_ours: bool  # HOME/cloud was made for this edge and goes with it
    in_use: bool = True  # False: the edge was linked to another IoT Hub since


def embedded_cloud(settings: Settings, provisioned: Provisioned | None) -> EmbeddedCloud | None:
    """Return the stand-in of an edge that nobody has given another IoT Hub, now or earlier.

    Raises:
        EnvironmentFault: what the home says of it makes no sense.
    """
    home = Home(settings.home)
    kept = read_kept(home)
    is_given = settings.connection_string is not None or bool(settings.dps_id_scope)
    if not is_given and (provisioned is None or (kept is not None and kept.in_use)):
        return EmbeddedCloud(home, kept)
    if kept is not None and kept.in_use:
        log.warning(
            "the IoT Hub that this edge ran for itself is not started any more; what it knows stays in %s",
            CloudHome.in_home(home.path).path,
        )
        write_private_file(home.cloud_address, msgspec.json.encode(structs.replace(kept, in_use=False)))
    return None


class EmbeddedCloud:
    """One per run of the agent. The main thread prepares it; `for_process` is called by any."""

    def __init__(self, home: Home, kept: Kept | None) -> None:
        """Keep what is needed; `kept` is what the home says of an earlier run."""
        self._home = home
        self._place = CloudHome.in_home(home.path)
        self._sockets: list[tuple[Use, socket.socket]] = []
        self._kept = kept
        self._is_new = False
        self.device_is_new = False  # it was made in this run
        self.beside: Callable[[], Sequence[socket.socket]] = lambda: ()  # the sockets of our hub

    @property
    def host_name(self) -> str:
        """What the stand-in is called: its address. `prepare` chose it."""
        assert self._kept is not None
        return self._kept.address

    @property
    def https_port(self) -> int:
        """Where its REST is."""
        assert self._kept is not None
        return self._kept.https_port

    @property
    def ca_file(self) -> Path:
        """What clients have to trust; there once it serves."""
        return self._place.ca

    def sockets(self) -> Sequence[socket.socket]:
        """Return what is held of the sockets."""
        return [listener for _, listener in self._sockets]

    def prepare(self, run_dir: Path) -> None:
        """Have an address with its sockets. A stand-in that outlived its agent gives its own back.

        Args:
            run_dir: Of the edge, where its hub offers its sockets if it outlived the agent.

        Raises:
            EnvironmentFault: there is none to be had, or a stand-in that is not ours runs on this home.
        """
        if self._lives() and self._take_back():
            return
        before = self._kept
        of_hub = socket_handover.take_offered(run_dir) or []
        try:
            self._bind(of_hub)
        finally:
            for listener in of_hub:
                listener.close()
        assert self._kept is not None
        self._is_new = before != self._kept
        if before is not None and before.address != self._kept.address:
            log.warning(
                "the IoT Hub of this edge moves from %s to %s, because %s has that address; what names it by "
                "the old one, such as connection strings of devices, needs the new one",
                before.address,
                self._kept.address,
                listening_sockets.holder_of(ListenAddress(before.address, MQTT_PORT)),
            )

    def keep_address(self) -> None:
        """Write the address down; the home exists.

        Raises:
            EnvironmentFault: the home cannot be written.
        """
        if self._is_new:
            write_private_file(self._home.cloud_address, msgspec.json.encode(self._kept))

    def for_process(self) -> tuple[Mapping[str, str], tuple[int, ...]]:
        """Return environment and descriptors for the process; sockets that were lost are bound again.

        Raises:
            EnvironmentFault: another process has the address meanwhile.
        """
        if not self._sockets:
            assert self._kept is not None
            wanted = [
                ListenAddress(self.host_name, MQTT_PORT),
                ListenAddress(self.host_name, self.https_port),
            ]
            beside = self.beside()
            bound = listening_sockets.bind(wanted, beside=beside)
            self._sockets = list(zip((Use.MQTT, Use.WEB), bound, strict=True))
            self._sockets += self._bind_amqp(self.host_name, beside)
        return listening_sockets.to_environment(self._sockets)

    def close(self) -> None:
        """Close what we hold; a stand-in that lives has its own."""
        for _, listener in self._sockets:
            listener.close()
        self._sockets = []

    def remove_run_directory(self) -> None:
        """Leave nothing of a stand-in that has ended in the run directory."""
        if self._place.lock().holder() is None:
            self._place.run.remove()

    def identity(
        self, device_id: str, known: Provisioned | None, has_ended: Callable[[], bool]
    ) -> Provisioned:
        """Return as which device the edge is known there. The first time the device is made; that waits.

        Raises:
            EdgeError: as `edge_device`.
        """
        if known is not None and known.host_name == self.host_name and self._place.database.exists():
            return replace(known, https_port=self.https_port)
        parts = self.edge_device(device_id, has_ended)
        return from_connection_string(parts, self.https_port, self.ca_file.read_text("ascii"))

    @property
    def first_deployment(self) -> Path | None:
        """What a stand-in that is yet to be made is given for the edge."""
        return SAMPLE if SAMPLE.exists() and not self._place.database.exists() else None

    # what is put into it

    def edge_device(self, device_id: str, has_ended: Callable[[], bool]) -> ConnectionString:
        """Make the edge device unless it is there; return its connection string.

        Waits until the stand-in serves. `has_ended` says whether its process has ended meanwhile.

        Raises:
            EnvironmentFault: it did not start; its log says why.
            ConfigError: there is a device of this id that is no edge device, or has no key.
        """
        from runtime.iothub import owner

        cloud = self._wait(has_ended)
        path = owner.device_path(device_id)
        try:
            device = cloud.call("GET", path)
        except owner.Refused as exc:
            if exc.name != "DeviceNotFound":
                raise
            wanted = {"deviceId": device_id, "capabilities": {"iotEdge": True}}
            device = cloud.call("PUT", path, wanted)
            self.device_is_new = True
            log.info("edge device %s was made in the IoT Hub of this edge", device_id)
        key = (device["authentication"]["symmetricKey"] or {}).get("primaryKey")
        if not key or not device["capabilities"].get("iotEdge"):
            raise EnvironmentFault(
                f"device '{device_id}' of the IoT Hub on {self._home.path} is no edge device with keys; "
                f"delete it with `edge-actors cloud device delete {device_id}`, or set EDGE_ACTORS_DEVICE_ID"
            )
        return ConnectionString(self.host_name, Identity(device_id), key)

    def deploy(self, device_id: str, file: Path, has_ended: Callable[[], bool]) -> None:
        """Give the edge device the deployment in a file, as `edge-actors cloud deploy` does. Waits.

        Raises:
            EdgeError: the stand-in does not answer, or refuses it.
        """
        from runtime.iothub.edge_manifest import content_of
        from runtime.iothub.owner import device_path

        content = content_of(json.loads(file.read_bytes().decode("utf-8-sig")), file)
        path = f"{device_path(device_id)}/applyConfigurationContent"
        self._wait(has_ended).call("POST", path, content)

    # helpers

    def _take_back(self) -> bool:
        taken = socket_handover.take(self._place.run.path, TAKE_LIMIT_S, lambda: False)
        if taken is None or self._kept is None:
            return False
        by_port = {address_of(listener).port: listener for listener in taken}
        uses = ((Use.MQTT, MQTT_PORT), (Use.WEB, self._kept.https_port), (Use.AMQP, AMQP_PORT))
        self._sockets = [(use, by_port[port]) for use, port in uses if port in by_port]
        return {Use.MQTT, Use.WEB} <= {use for use, _ in self._sockets}

    def _lives(self) -> bool:
        """Tell whether a stand-in of ours runs; refuse another one."""
        holder = self._place.lock().holder()
        if holder is None:
            return False
        if not holder.command.endswith(EMBEDDED_CLOUD):
            raise EnvironmentFault(
                f"an IoT Hub stand-in that this edge did not start (pid {holder.pid}) runs on home "
                f"{self._home.path}; end it, and the edge runs one on the same data; or choose another --home"
            )
        return True

    def _bind(self, beside: Sequence[socket.socket]) -> None:
        ours = self._kept.folder_is_ours if self._kept else not self._place.path.exists()
        error: EnvironmentFault | None = None
        for address in self._candidates():
            try:
                mqtt = listening_sockets.bind([ListenAddress(address, MQTT_PORT)], beside=beside)
            except EnvironmentFault as exc:
                error = error or exc
                continue
            https = self._bind_https(address, beside)
            if https:
                self._sockets = [(Use.MQTT, mqtt[0]), (Use.WEB, https[0])]
                self._sockets += self._bind_amqp(address, beside)
                self._kept = Kept(address, address_of(https[0]).port, ours)
                return
            mqtt[0].close()
        raise EnvironmentFault(
            f"no address is free for the IoT Hub that the edge runs for itself: {error}; or link the edge to "
            "another IoT Hub"
        ) from error

    def _candidates(self) -> Iterator[str]:
        if self._kept is not None:
            yield self._kept.address
        for number in range(MOST_ADDRESSES):
            yield str(FIRST_ADDRESS + number)

    def _bind_amqp(self, address: str, beside: Sequence[socket.socket]) -> list[tuple[Use, socket.socket]]:
        """Return the socket for AMQP. Who has that port has it on all addresses: another one is no help."""
        if not amqp_engine.is_installed():
            return []
        try:
            bound = listening_sockets.bind([ListenAddress(address, AMQP_PORT)], beside=beside)
        except EnvironmentFault:
            wanted = ListenAddress(address, AMQP_PORT)
            holder = listening_sockets.holder_of(wanted)
            log.warning("the IoT Hub of this edge speaks no AMQP: %s has %s", holder, wanted)
            return []
        return [(Use.AMQP, bound[0])]

    def _bind_https(self, address: str, beside: Sequence[socket.socket]) -> list[socket.socket]:
        kept = () if self._kept is None else (self._kept.https_port,)
        for port in (*kept, *HTTPS_PORTS):
            try:
                return listening_sockets.bind([ListenAddress(address, port)], beside=beside)
            except EnvironmentFault:
                continue  # not permitted, or somebody has it on all addresses
        return []

    def _wait(self, has_ended: Callable[[], bool]) -> Any:
        """Return the line to the stand-in as soon as it serves."""
        from runtime.iothub.owner import Cloud

        ends_s = time.monotonic() + START_LIMIT_S
        while not has_ended() and time.monotonic() < ends_s:
            with suppress(EnvironmentFault):  # it has not said yet where it listens
                cloud = Cloud(self._home.path, start_limit_s=0.0)
                if cloud.serving.host_name == self.host_name and cloud.answers():
                    return cloud
            time.sleep(LOOK_S)  # between two looks at what another process writes
        raise EnvironmentFault(
            f"the IoT Hub that the edge runs for itself did not start; see {self._home.log_of('edgeCloud')}"
        )


def read_kept(home: Home) -> Kept | None:
    """Return what the home says of its stand-in, None when it never had one.

    Raises:
        EnvironmentFault: it makes no sense.
    """
    try:
        return msgspec.json.decode(home.cloud_address.read_bytes(), type=Kept)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError) as exc:
        raise EnvironmentFault(f"{home.cloud_address} cannot be read: {exc}; remove it") from exc
