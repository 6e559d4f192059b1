"""An image for tests, made from the Python that runs them: no registry is needed."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import azure.iot.device

from runtime.docker.engine import away_reason, engine_socket

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "edge-actors-test"
SAMPLES = "/samples"
PROGRAMS = ("sh", "sleep", "cat")
# What the device SDK imports, directly or not.
PACKAGES = (
    "azure",
    "paho",
    "requests",
    "requests_unixsocket",
    "urllib3",
    "certifi",
    "idna",
    "janus",
    "deprecation.py",
    "packaging",
    "typing_extensions.py",
    "socks.py",
    "sockshandler.py",
)
_LEFT_OUT = re.compile(
    r"/(__pycache__|test|tests|idlelib|tkinter|lib2to3|ensurepip|turtledemo|site-packages|dist-packages"
    r"|config-[^/]*|pydoc_data)(/|$)|\.(pyc|a)$"
)


def why_no_engine() -> str | None:
    """Return why tests with containers cannot run here, None when they can."""
    return away_reason(engine_socket(os.environ.get("DOCKER_HOST")))


def why_no_private_engine() -> str | None:
    """Return why a test cannot start a Docker Engine of its own, None when it can."""
    if os.geteuid() != 0:
        return "a Docker Engine of the test's own needs root"
    if shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        return "dockerd is not installed: apt-get install docker.io"
    return None


def image() -> str:
    """Return the name of the image, after making it unless the engine has it. Takes about 5 s once."""
    from docker import APIClient
    from docker.errors import ImageNotFound

    name = f"{REPOSITORY}:{_version()}"
    client = APIClient(os.environ.get("DOCKER_HOST"), version="auto", timeout=120)
    try:
        client.inspect_image(name)
    except ImageNotFound:
        repository, tag = name.split(":")
        folder = Path(sys._base_executable).parent  # type: ignore[attr-defined]
        changes = [f"ENV PATH={folder}:/usr/bin:/bin PYTHONPATH=/site PYTHONUNBUFFERED=1"]
        client.import_image_from_data(_root_file_system(), repository, tag, changes)
        client.inspect_image(name)
    finally:
        client.close()
    return name


def _version() -> str:
    digest = hashlib.sha256(f"{sys.version}{azure.iot.device.constant.VERSION}".encode())
    for path in (Path(__file__), *sorted((ROOT / "scripts" / "samples").iterdir())):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _root_file_system() -> bytes:
    """Return a tar of Python, its library, a shell, the device SDK and the samples."""
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    library = Path(sysconfig.get_path("stdlib"))
    site = Path(sysconfig.get_path("purelib"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for folder in ("tmp", "proc", "sys", "dev", "etc", "run", "var/run", "bin"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755 if folder != "tmp" else 0o1777
            tar.addfile(entry)
        programs = [Path(shutil.which(name) or name).resolve() for name in PROGRAMS]
        for name, program in zip(PROGRAMS, programs, strict=True):
            tar.add(program, f"bin/{name}")
        tar.add(python, str(python))
        for name in ("python3", "python3.11", "python"):
            link = tarfile.TarInfo(f"{python.parent}/{name}")
            if f"/{link.name.lstrip('/')}" != str(python):
                link.type, link.linkname = tarfile.SYMTYPE, str(python)
                tar.addfile(link)
        tar.add(library, str(library), filter=_wanted)
        modules = [str(path) for path in library.glob("lib-dynload/*.so")]
        for path in sorted(_libraries([str(python), *map(str, programs), *modules])):
            tar.add(os.path.realpath(path), path)
        for package in PACKAGES:
            if (site / package).exists():
                tar.add(site / package, f"/site/{package}", filter=_wanted)
        samples = ROOT / "scripts" / "samples"
        for sample in sorted(samples.glob("*.py")):
            tar.add(sample, f"{SAMPLES}/{sample.name}")
    return buffer.getvalue()


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _LEFT_OUT.search(f"/{entry.name}") else entry


def _libraries(programs: list[str]) -> set[str]:
    """Return the shared libraries that these programs load, the loader too."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(?:=> |^\s)(/\S+) \(0x", listed, re.MULTILINE))
