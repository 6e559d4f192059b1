"""A registry with a password on this machine: Debian's docker-registry."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.integration.edge_process import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import APIClient

USER: Final = "ann"
PASSWORD: Final = "hush"
# bcrypt of that, the only form that the registry takes
_HTPASSWD: Final = "ann:$2b$04$abcdefghijklmnopqrstuuppZFpU9n.F.R29ic//YRPBUgRHbgy9m\n"
_CONFIG: Final = """version: 0.1
storage:
  filesystem:
    rootdirectory: {folder}/data
http:
  addr: {address}
{tls}auth:
  htpasswd:
    realm: test
    path: {folder}/htpasswd
"""
START_LIMIT_S: Final = 20.0


def why_no_registry() -> str | None:
    """Return why tests with such a registry cannot run here, None when they can."""
    if shutil.which("docker-registry") is None:
        return "docker-registry is not installed: apt-get install docker-registry"
    return None


class PrivateRegistry:
    """On 127.0.0.1 engines speak plain HTTP to it; elsewhere it has a certificate, signed by itself."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ea-registry-"))
        self.port = free_port()
        self.address = f"{host}:{self.port}"
        self.certificate = ""  # PEM, where it has one
        (self._folder / "htpasswd").write_text(_HTPASSWD)
        tls = "" if host == "127.0.0.1" else self._certified(host)
        config = _CONFIG.format(folder=self._folder, address=self.address, tls=tls)
        (self._folder / "config.yml").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = self._folder / "registry.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(self._folder / "config.yml")], stdout=out, stderr=out
            )
        started = self._process

        def answers() -> bool:
            assert started.poll() is None, log.read_text()
            return self._answers()

        wait_until(answers, log.read_text, START_LIMIT_S)

    def stop(self) -> None:
        """End it; what was pushed stays for the next start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def push(self, client: APIClient, image: str, name: str) -> str:
        """Push an image of the engine under a name; returns the whole name. The engine forgets that name."""
        whole = f"{self.address}/{name}"
        client.tag(image, whole)
        account = {"username": USER, "password": PASSWORD}
        for line in client.push(whole, stream=True, decode=True, auth_config=account):
            assert "error" not in line, line
        client.remove_image(whole)
        return whole

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _certified(self, host: str) -> str:
        from tests.integration.device_certificates import issue

        pair = issue("registry", is_ca=True, address=host)
        self.certificate = pair.pem
        chain, key = pair.write(self._folder, "server")
        return f"  tls:\n    certificate: {chain}\n    key: {key}\n"

    def _answers(self) -> bool:
        scheme = "http"
        context = None
        if self.certificate:
            scheme, context = "https", ssl.create_default_context(cadata=self.certificate)
        try:
            urllib.request.urlopen(f"{scheme}://{self.address}/v2/", timeout=1, context=context)
        except urllib.error.HTTPError as exc:
            return exc.code == 401
        except OSError:
            return False
        return True


def another_image(client: APIClient, image: str, mark: str) -> str:
    """Return the id of an image that does the same and is another one."""
    made = client.create_container(image, ["true"], labels={"edge-actors-test": mark})
    committed = client.commit(made["Id"], changes=[f"LABEL mark={mark}"])
    client.remove_container(made["Id"])
    return str(committed["Id"])
