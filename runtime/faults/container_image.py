"""Images for scripts with containers, made on the spot: no registry is needed, or one that never answers."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Final

from runtime.faults.edge import RunFailed

SLEEPER: Final = "sleeper"  # of this machine's `sleep`
SLOW: Final = "slow"  # of a registry that takes connections and says nothing
REPOSITORY: Final = "edge-actors-faults"
TAG: Final = "1"
COMMAND: Final = '["/sleep", "100000"]'


def make_sleeper() -> str:
    """Return the name of the image, after making it unless the engine has it."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    name = f"{REPOSITORY}:{TAG}"
    try:
        client = docker.from_env()
        try:
            client.images.get(name)
        except ImageNotFound:
            changes = [f"CMD {COMMAND}"]
            client.api.import_image_from_data(_root_file_system(), REPOSITORY, TAG, changes)
        finally:
            client.close()
    except DockerException as exc:
        raise RunFailed(f"the image of a container cannot be made: {exc}") from exc
    return name


def _root_file_system() -> bytes:
    """Return a tar with `sleep` and the libraries that it is linked with."""
    program = shutil.which("sleep")
    if program is None:
        raise RunFailed("there is no program `sleep` on this machine")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    libraries = [Path(word) for word in listed.split() if word.startswith("/")]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(Path(program).resolve(), "sleep")
        for library in libraries:
            tar.add(library.resolve(), str(library).lstrip("/"))
    return out.getvalue()


class SlowRegistry:
    """`with SlowRegistry() as registry`: connections are taken and nothing is said, until it lets go."""

    def __init__(self) -> None:
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._waiting: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> SlowRegistry:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.let_go()

    @property
    def image(self) -> str:
        """The name of an image that it would have."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}/{SLOW}:{TAG}"

    def let_go(self) -> None:
        """End all connections: whoever waits is told that there is nothing."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.asked += 1
                self._waiting.append(accepted)
