"""Starts mosquitto on loopback ports with the settings that its throughput is compared under.

python -m scripts.bench.peer_mosquitto       prints version and configuration and serves until Ctrl-C
"""

import datetime
import ipaddress
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench.processes import EdgeProcess

START_LIMIT_S = 5
CONFIGURATION = """\
listener {plain_port} 127.0.0.1
listener {tls_port} 127.0.0.1
certfile {directory}/server.pem
keyfile {directory}/server.key
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages {in_flight}
max_queued_messages 0
connection_messages false
log_dest file {directory}/mosquitto.log
user {user}
"""


class PeerUnusable(Exception):
    """A peer cannot be measured here; the message says what to do about it."""


def configuration(plain_port: object, tls_port: object, directory: object, in_flight: int = 0) -> str:
    """Return what mosquitto is told; the ports and the directory are of one run."""
    user = pwd.getpwuid(os.geteuid()).pw_name  # started by root it would give the key file up otherwise
    return CONFIGURATION.format(
        plain_port=plain_port, tls_port=tls_port, directory=directory, in_flight=in_flight, user=user
    )


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, limit_s: float, address: str = "127.0.0.1") -> float:
    """Return the seconds until something listens on a port of a loopback address.

    Raises:
        PeerUnusable: the process ended first, or the time is over.
    """
    start_s = time.monotonic()
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            waited_s = time.monotonic() - start_s
            if process.poll() is not None:
                raise PeerUnusable(
                    f"ended with status {process.returncode} before port {port} answered"
                ) from None
            if waited_s > limit_s:
                raise PeerUnusable(f"port {port} does not answer after {limit_s} s") from None
            time.sleep(0.005)
        else:
            return time.monotonic() - start_s


def make_certificate(directory: Path) -> None:
    """Write a self-signed EC P-256 server certificate for localhost, and its key, into a directory."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = directory / "server.key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def publishers_of(count: int) -> list[dict[str, str]]:
    """Return so many publishers for the generator; their topics are as long as the hub's."""
    return [
        {"client_id": f"pub{n}", "topic": f"devices/bench-edge/modules/pub{n}/messages/events/%24.on=out1"}
        for n in range(1, count + 1)
    ]


class MosquittoPeer:
    """One mosquitto process in a temporary directory; a context manager."""

    name = "mosquitto"

    def __init__(self, in_flight: int = 0) -> None:
        """Find the program; `in_flight` messages may go to a client without its acknowledgement, 0: any."""
        self._in_flight = in_flight
        # Debian installs it into /usr/sbin, which is not on everybody's PATH.
        found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if not found:
            raise PeerUnusable("mosquitto is not installed; apt-get install mosquitto")
        self.program = found
        self.version = self._ask_version()
        self.configuration = ""

    def _ask_version(self) -> str:
        shown = subprocess.run([self.program, "-h"], capture_output=True, text=True, check=False).stdout
        return shown.splitlines()[0] if shown else "unknown version"

    def __enter__(self) -> "MosquittoPeer":
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-mosquitto-")
        self.directory = Path(self._temporary.name)
        self.ports = {"plain": free_port(), "tls": free_port()}
        make_certificate(self.directory)
        self.configuration = configuration(
            self.ports["plain"], self.ports["tls"], self.directory, self._in_flight
        )
        file = self.directory / "mosquitto.conf"
        file.write_text(self.configuration)
        self._process = subprocess.Popen(
            [self.program, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for port in self.ports.values():
                wait_for_port(port, self._process, START_LIMIT_S)
        except PeerUnusable as error:
            log = self.directory / "mosquitto.log"
            said = log.read_text().strip() if log.exists() else ""
            self.__exit__()
            raise PeerUnusable(f"mosquitto: {error}\n{said}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._temporary.cleanup()

    def processes(self) -> list[EdgeProcess]:
        return [EdgeProcess(self._process.pid, "broker", "mosquitto")]

    def load(
        self, transport: str, publishers: int, *, subscribers: int = 1, json: bool = False
    ) -> dict[str, Any]:
        """Return target, publishers and subscribers for the generator; topics as long as the hub's."""
        target = {"host": "127.0.0.1", "port": self.ports[transport]}
        if transport == "tls":
            target["ca_file"] = str(self.directory / "server.pem")
        return {
            "target": target,
            "publishers": publishers_of(publishers),
            "subscribers": [
                {"client_id": f"consumer{n}", "filters": ["devices/bench-edge/#"]} for n in range(subscribers)
            ],
        }


def main() -> int:
    try:
        with MosquittoPeer() as peer:
            print(f"{peer.version}\n{peer.configuration}", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except PeerUnusable as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
