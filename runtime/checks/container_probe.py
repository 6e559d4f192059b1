"""Looks at the world from inside a container of this edge, without an image from anywhere.

The container has an empty image, and this machine's own Python with its libraries, read-only. It stands on
the network of the edge as modules do, has no rights, and is gone afterwards.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from messaging.errors import EnvironmentFault
from runtime.docker.engine import HOME_LABEL

if TYPE_CHECKING:  # heavy
    from docker import APIClient

REPOSITORY: Final = "edge-actors-check"
RUN_LIMIT_S: Final = 60
LONGEST_SAID: Final = 500
# What a program of this machine needs of it.
_FOLDERS: Final = ("/usr", "/lib", "/lib64", "/bin")
_FILES: Final = ("/etc/ld.so.cache",)
_PROGRAM: Final = """
import json, socket, ssl, sys, time
asked = json.loads(sys.argv[1])
found = {"time_s": time.time(), "problems": {}}
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(cadata=asked["ca_pem"])
for port in asked["ports"]:
    problem = ""
    try:
        with socket.create_connection((asked["host"], port), 5.0) as connection:
            context.wrap_socket(connection, server_hostname=asked["host"]).close()
    except OSError as exc:
        problem = getattr(exc, "verify_message", "") or exc.strerror or str(exc)
    found["problems"][port] = problem
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Probed:
    """What was seen from inside. `problems` says by port why the hub is not to be had, "" when it is."""

    time_s: float
    problems: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What to look at: the hub under a name, at an address of this machine."""

    host: str
    address: str
    ports: Sequence[int]
    ca_pem: str


def probe(client: APIClient, home_id: str, network: str, image: str, question: Question) -> Probed:
    """Look at the hub and the clock from inside a container.

    Args:
        client: Of the engine.
        home_id: Of the edge.
        network: On which the container stands.
        image: One with `python3`; "" for an empty one, made for this and removed again.
        question: What to look at.

    Raises:
        EnvironmentFault: the container did not get that far; says why.
    """
    asked = {"host": question.host, "ports": list(question.ports), "ca_pem": question.ca_pem}
    arguments = ["-I", "-S", "-c", _PROGRAM, json.dumps(asked)]
    with _image(client, home_id, image) as name:
        host = client.create_host_config(
            network_mode=network,
            extra_hosts={question.host: question.address},
            binds=[] if image else [f"{path}:{path}:ro" for path in _needed()],
            cap_drop=["ALL"],
            read_only=not image,
        )
        program = "python3" if image else os.path.realpath(sys.executable)
        made = client.create_container(
            name, entrypoint=[program], command=arguments, host_config=host, labels={HOME_LABEL: home_id}
        )
        try:
            client.start(made["Id"])
            code = client.wait(made["Id"], timeout=RUN_LIMIT_S)["StatusCode"]
            said = client.logs(made["Id"], stdout=True, stderr=code != 0).decode("utf-8", "replace")
        finally:
            client.remove_container(made["Id"], force=True, v=True)
    try:
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        problems = {int(port): str(problem) for port, problem in found["problems"].items()}
        return Probed(float(found["time_s"]), problems)
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        words = " ".join(said.split())[-LONGEST_SAID:]
        raise EnvironmentFault(f"Python does not run in the container (code {code}): {words}") from exc


@contextmanager
def _image(client: APIClient, home_id: str, image: str) -> Iterator[str]:
    """Hand out the name of the image to use; what was made for this goes again."""
    from docker.errors import APIError, ImageNotFound

    if image:
        try:
            client.inspect_image(image)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            client.pull(image)
        yield image
        return
    name = f"{REPOSITORY}:{home_id}"
    client.import_image_from_data(_empty(), REPOSITORY, home_id)
    try:
        yield name
    finally:
        try:
            client.remove_image(name, force=True)
        except APIError as exc:
            if exc.status_code != 404:  # another check on this home had it too
                raise


def _empty() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return buffer.getvalue()


def _needed() -> list[str]:
    """Return the folders and files of this machine that its Python needs."""
    base = os.path.realpath(sys.base_prefix)
    folders = [folder for folder in _FOLDERS if Path(folder).is_dir()]
    if not any(base == folder or base.startswith(f"{folder}/") for folder in folders):
        folders.append(base)
    return [*folders, *(path for path in _FILES if Path(path).exists())]
