"""Runs the real hub process without an agent: a home with configuration, certificate and identities."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.hub import config as hub_config
from actors.hub.config import HubConfig, RouteText
from actors.hub.identity import HubIdentity, KnownIdentities
from actors.store.stored import Ledger
from messaging import sas
from messaging.envelope import Secret
from messaging.identity import Identity
from runtime.config.listen_addresses import parse_address
from runtime.net.listening_sockets import Use, bind, to_environment
from runtime.security.certificates import ensure_edge_ca, ensure_server_certificate, server_names
from runtime.security.identity_copy import IdentityFile
from runtime.storage.message_db import MessageDb
from tests.runtime.client_certificates import ClientCertificate
from tests.waiting import wait_for, wait_until

IOTHUB = "iothub.test.internal"
DEVICE = "edge1"
ROOT = Path(__file__).resolve().parents[2]
USES = (Use.MQTT, Use.AMQP, Use.WEB, Use.PLAIN_MQTT)


class HubProcess:
    """One hub process, its home and its listening sockets, which outlive it as they do under an agent.

    `with HubProcess(…) as hub` starts it and removes everything at the end.
    """

    def __init__(
        self,
        routes: Mapping[str, str],
        modules: Sequence[str] = (),
        devices: Sequence[str] = (),
        address: str = "127.0.0.1",
        port: int = 0,
        amqp_port: int = 0,
        web_port: int = 0,
        program: str = "tests.integration.file_hub",
        with_certificates: Sequence[tuple[HubIdentity, ClientCertificate]] = (),
        authorities: tuple[bytes, ...] = (),
        iothub: str = IOTHUB,
        cloud_keys: Mapping[str, bytes] | None = None,
        **settings: Any,
    ) -> None:
        """Make what the hub finds when it starts.

        Args:
            modules: Of the edge device; they get keys.
            devices: With keys as well.
            with_certificates: Devices with what they show.
            authorities: CA certificates that devices may be signed by, DER.
            iothub: The host name of the cloud.
            cloud_keys: Keys that the cloud knows, by identity; all others are made up.
        """
        self.certificates = {identity.id: shown for identity, shown in with_certificates}
        self._program = program
        self.home = Path(tempfile.mkdtemp(prefix="ea-home-"))
        self.run_dir = Path(tempfile.mkdtemp(prefix="ea-", dir="/tmp"))
        self.iothub = iothub
        names = (f"{DEVICE}/$edgeHub", *(f"{DEVICE}/{m}" for m in modules), *devices)
        self.keys = {name: os.urandom(32) for name in names} | dict(cloud_keys or {})
        now_s = time.time()
        ca = ensure_edge_ca(self.home, DEVICE, now_s)
        host_names = server_names("localhost", [address])
        certificate = ensure_server_certificate(self.home, host_names, ca, now_s)
        self.ca_file = self.home / "ca.pem"
        self.ca_file.write_text(ca.certificate_pem)
        self.sockets: list[socket.socket] = bind(
            parse_address(f"{host}:{number}")
            for host, number in (
                (address, port),
                (address, amqp_port),
                (address, web_port),
                ("127.0.0.1", 0),
            )
        )
        self.address = address
        self.port, self.amqp_port, self.web_port, self.plain_port = (s.getsockname()[1] for s in self.sockets)
        config = HubConfig(
            DEVICE,
            iothub,
            ("localhost", "edgeHub", address),
            str(certificate.path),
            str(certificate.path),
            tuple(RouteText(name, text, 2_000_000_000, 0) for name, text in routes.items()),
            None,
            **settings,
        )
        self.database = Path(config.message_db or self.home / "hub.db")
        (self.home / "hub.json").write_bytes(hub_config.encode(config))
        self.identities = KnownIdentities(
            (
                *(
                    HubIdentity(name, keys=(Secret(key), Secret(os.urandom(32))))
                    for name, key in self.keys.items()
                ),
                *(identity for identity, _ in with_certificates),
            ),
            authorities,
        )
        IdentityFile(self.home / "identities.copy").save(self.identities)
        self.log = self.home / "hub.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HubProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process; it serves a little later, and connections made before that wait."""
        environment, fds = to_environment(zip(USES, self.sockets, strict=True))
        command = [sys.executable, "-m", self._program, "--home", str(self.home), "--run", str(self.run_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                pass_fds=fds,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_for_log(self, text: str, count: int = 1, limit_s: float = 20.0) -> list[str]:
        """Wait until the log has so many lines with `text`, and return them."""

        def found() -> list[str] | None:
            lines = [line for line in self.log_lines() if text in line]
            return lines if len(lines) >= count else None

        return wait_for(found, lambda: f"{text!r} in:\n" + "\n".join(self.log_lines()), limit_s)

    def log_lines(self) -> list[str]:
        """Return the log so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def upstream(self, count: int, limit_s: float = 20.0) -> list[dict[str, Any]]:
        """Wait until so many messages have arrived upstream, and return all of them."""
        path = self.home / "upstream.jsonl"
        records: list[dict[str, Any]] = []

        def are_there() -> bool:
            nonlocal records
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            records = [json.loads(line) for line in lines if line.endswith("\n")]
            return len(records) >= count

        wait_until(are_there, lambda: f"{len(records)} of {count} messages upstream", limit_s)
        return records

    def numbers_upstream(self, last: int, module: str | None = None, limit_s: float = 20.0) -> list[int]:
        """Wait until this number of a module (or of the device) is upstream; return all, in order."""
        numbers: list[int] = []
        deadline_s = time.monotonic() + limit_s
        seen = 0
        while last not in numbers:
            records = self.upstream(seen + 1, deadline_s - time.monotonic())
            seen = len(records)
            numbers = [
                int(base64.b64decode(record["Body"]))
                for record in records
                if record["SystemProperties"].get("connectionModuleId") == module
            ]
        return numbers

    def ledger(self) -> Ledger:
        """Return the ledger of the stopped hub."""
        store = MessageDb.open(self.database)
        try:
            return store.ledger()
        finally:
            store.close()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, then wait for the end."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    def close(self) -> None:
        """Remove everything."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for listening in self.sockets:
            listening.close()
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def token(self, client_id: str, life_s: int = 3600) -> str:
        """Return a fresh token for an identity."""
        audience = sas.audience_of(self.iothub, Identity.parse(client_id))
        return sas.make_token(audience, self.keys[client_id], int(time.time()) + life_s)

    def user_name(self, client_id: str) -> str:
        """Return the MQTT user name of an identity."""
        return f"{self.iothub}/{client_id}/?api-version=2021-04-12"

    def connection_string(self, client_id: str) -> str:
        """Return the connection string of an identity, as `identity create` writes it."""
        identity = Identity.parse(client_id)
        module = f"ModuleId={identity.module_id};" if identity.module_id else ""
        key = base64.b64encode(self.keys[client_id]).decode()
        return (
            f"HostName={self.iothub};DeviceId={identity.device_id};{module}SharedAccessKey={key};"
            f"GatewayHostName={self.address}"
        )
