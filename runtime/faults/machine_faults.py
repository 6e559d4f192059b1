"""Faults of the machine: its power, its clock, its certificates, its container engine."""

from __future__ import annotations

import os
import random
import select
import shutil
import socket
import threading
from pathlib import Path
from typing import Final

from actors.addresses import SECURITY
from actors.agent.security import RenewalDue
from messaging.client import Client
from runtime.docker.engine import DEFAULT_SOCKET, engine_socket
from runtime.faults import moments
from runtime.faults.clock import seen_clock, set_clock
from runtime.faults.edge import LIMIT_S, RunFailed
from runtime.faults.hub_main import record_next_hub
from runtime.faults.power import RecordedDisk
from runtime.faults.recording import Reader
from runtime.faults.scene import Fault
from runtime.security import certificates
from runtime.security.key_store import KeyStore

OFF_S: Final = 0.2
DAY_S: Final = 86_400
READ_BYTES: Final = 64 * 1024


class PowerCut(Fault):
    """Everything dies; the disk of the hub keeps of what was not synced whatever it likes."""

    def prepare(self) -> None:
        # One for all steps that cut: each goes on with what the one before has left.
        self.scene.disk = RecordedDisk(self.scene.edge.home)
        record_next_hub(self.scene.edge.home, self._trace)

    @property
    def _trace(self) -> Path:
        return self.scene.folder / "trace"

    def begin(self, nth: int) -> float | None:
        scene, edge = self.scene, self.scene.edge
        edge.wait_until_well()
        if self.values["moments"]:  # a life in which nothing is stored shows nothing
            told = [len(publisher.told) for publisher in scene.publishers]
            edge.wait_for(
                lambda: all(len(p.told) > n for p, n in zip(scene.publishers, told, strict=True)),
                "each publisher is told that something is stored",
            )
        tracer = _tracer_of(edge.pid_of("edgeHub"))
        if not tracer:
            raise RunFailed(f"the hub is not recorded; may strace trace here? log: {edge.log}")
        handle = os.pidfd_open(tracer)
        edge.kill_agent()  # first: it would start the hub again
        edge.kill("edgeHub")
        ended = select.select([handle], [], [], LIMIT_S)[0]
        os.close(handle)
        if not ended:
            raise RunFailed(f"strace {tracer} did not end with the hub")
        edge.kill_everything()  # not before: the recorder has the mark of the edge, too
        chance = scene.chance("power", self.step, nth)
        assert scene.disk is not None
        self._replay(scene.disk, chance)
        scene.disk.put_down(scene.disk.after_cut(chance), chance)
        shutil.rmtree(edge.run.path, ignore_errors=True)  # /run is in memory
        self.count += 1
        self._trace.unlink()
        scene.disk = RecordedDisk(edge.home)
        return OFF_S

    def go_on(self) -> float | None:
        self.scene.edge.start()
        return None

    def _replay(self, disk: RecordedDisk, chance: random.Random) -> None:
        chosen: set[int] = set()
        if self.values["moments"]:
            with self._trace.open("rb") as lines:
                ended_s = [event.at_s for event in Reader(disk.home).events(lines)]
            told_s = [at_s for publisher in self.scene.publishers for at_s, _ in publisher.told]
            chosen = moments.choose(ended_s, told_s, self.values["moments"], chance)
        for place, at_s in enumerate(disk.replay(self._trace)):
            if place in chosen:
                moments.look_into(self.scene, disk.after_cut(chance), at_s, chance)


class MoveClock(Fault):
    """The clock of agent and hub is set."""

    def begin(self, nth: int) -> float | None:
        edge = self.scene.edge
        set_clock(edge.home, self.values["by"])
        pids = {pid for pid in (edge.agent_pid, edge.pid_of("edgeHub")) if pid is not None}
        edge.wait_for(lambda: pids <= seen_clock(edge.home, self.values["by"]), "agent and hub have seen it")
        self.count += len(pids)
        return self.lasts_s(nth) if self.values["for"] is not None else None

    def go_on(self) -> float | None:
        set_clock(self.scene.edge.home, 0.0)
        return None


class _CertificateFault(Fault):
    def replace(self, age_days: int, valid_days: int) -> Path:
        """Put another certificate of the hub in place, with the same names and from the same CA."""
        place = self.scene.edge.place
        now_s = self.scene.edge.now_s()
        device_id = KeyStore.open(place.keys).device_id
        ca = certificates.ensure_edge_ca(place.certificates, device_id, now_s)
        names = ("localhost",)
        current = certificates.ensure_server_certificate(place.certificates, names, ca, now_s)
        current.path.unlink()
        certificates.ensure_server_certificate(
            place.certificates, current.names, ca, now_s - age_days * DAY_S, valid_days
        )
        return current.path


class ExpireCertificate(_CertificateFault):
    """Agent and hub die; their certificate has run out when they start."""

    def begin(self, nth: int) -> float | None:
        edge = self.scene.edge
        edge.kill_agent()
        edge.kill("edgeHub")
        edge.wait_for(lambda: edge.pid_of("edgeHub") is None, "the hub is dead", with_agent=False)
        expired = self.replace(age_days=40, valid_days=30)
        before = expired.read_bytes()
        edge.start()
        edge.wait_for(lambda: expired.read_bytes() != before, "there is a new certificate")
        self.count += 1
        return None


class RenewCertificate(_CertificateFault):
    """The certificate is due: the agent issues another, and the hub takes it while it serves."""

    def begin(self, nth: int) -> float | None:
        edge = self.scene.edge
        due = self.replace(age_days=29, valid_days=30)
        before = due.read_bytes()
        with Client.outside(edge.run.path) as client:
            client.tell(SECURITY, RenewalDue())
        edge.wait_for(lambda: due.read_bytes() != before, "there is a new certificate")
        self.count += 1
        return None


class StopEngine(Fault):
    """The socket of the container engine is closed, as when the engine is stopped; its containers go on."""

    def prepare(self) -> None:
        self._gate = EngineGate(self.scene.folder / "engine.sock")
        self.scene.edge.set_variable("DOCKER_HOST", f"unix://{self._gate.path}")
        self._gate.open()
        self.scene.stack.callback(self._gate.close)

    def begin(self, nth: int) -> float | None:
        self._gate.close()
        return self.lasts_s(nth)

    def go_on(self) -> float | None:
        self.count += self._gate.cut
        self._gate.cut = 0
        self._gate.open()
        return None

    def finish(self) -> None:
        self._gate.open()  # for whoever takes the containers down


class EngineGate:
    """A socket in front of the engine's own, which can be closed: the engine is others' as well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut = 0  # connections that were ended
        self._engine = str(engine_socket(os.environ.get("DOCKER_HOST")) or DEFAULT_SOCKET)
        self._listener: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        if self._listener is not None:
            return
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        if self._listener is None:
            return
        self.path.unlink(missing_ok=True)
        listener, self._listener = self._listener, None
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.cut += 1
            for end in pair:
                _shut(end)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(self._engine)
            except OSError:
                near.close()
                continue
            pair = (near, far)
            with self._lock:
                self._pairs.append(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pass_on, args=(source, sink, pair), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        try:
            while data := source.recv(READ_BYTES):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in pair:
                _shut(end)
        with self._lock:
            if pair in self._pairs and source is pair[1]:
                self._pairs.remove(pair)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _tracer_of(pid: int | None) -> int:
    """Return who records a process, 0 for nobody."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("TracerPid:")), 0)
