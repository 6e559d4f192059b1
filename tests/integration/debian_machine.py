"""A clean Debian with systemd in a container: no network, its own processes, made by debootstrap."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter")
RELEASE = "bookworm"  # the oldest with a Python that will do; the package is made for one release
MIRROR = "http://deb.debian.org/debian"
# What the installer of Debian puts on every machine, and debootstrap on none of the smallest.
PACKAGES = "systemd,python3"
BOOT_LIMIT_S = 60.0
COMMAND_LIMIT_S = 120.0
# Where packages and services leave what is theirs, and not the package's.
NOT_OURS = ("./var/log/", "./var/lib/dpkg/", "./var/lib/systemd/", "./var/cache/", "./root/")


def why_not() -> str | None:
    """Return why there can be no such machine here, None when there can."""
    if os.geteuid() != 0:
        return "only root may make a Debian of its own"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing; install them: apt-get install debootstrap systemd-container"
    release = Path("/etc/os-release").read_text()
    if f"VERSION_CODENAME={RELEASE}" not in release:
        return f"the package is made for the Debian it is made on, and the test has {RELEASE}"
    return None


class DebianMachine:
    """`start` boots it; `run` runs a command of a shell in it as root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def make(self) -> None:
        """Make the file system, which takes most of a minute and the network."""
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            RELEASE,
            str(self.root),
            MIRROR,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:]
        # netcfg of the installer writes it; without it `localhost` is nobody's name.
        (self.root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")

    def start(self) -> None:
        """Boot it and wait until all has started."""
        command = ["systemd-nspawn", "--register=no", "--keep-unit", "--private-network", "--boot"]
        with open(self.root.with_suffix(".console"), "wb") as console:
            self._process = subprocess.Popen(
                [*command, "-D", self.root], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        self._wait_for(self._find_init, "its first process")
        self._wait_for(self._is_up, "all of it has started")
        # systemd-nspawn binds a file over it that it has deleted, which services with mounts of their own do
        # not see: they and we would not agree on which boot this is.
        self.run("umount /proc/sys/kernel/random/boot_id", check=False)

    @property
    def shell(self) -> tuple[str, ...]:
        """The shell of root in it, as a command that takes one more argument: a script."""
        namespaces = ("-m", "-u", "-i", "-n", "-p", "-C")
        environment = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
        return ("nsenter", "-t", str(self._init), *namespaces, *environment, "sh", "-c")

    def run(self, script: str, *, check: bool = True) -> str:
        """Run a command of a shell as root; returns what it printed, errors too."""
        done = subprocess.run(
            [*self.shell, f"cd /root; {script}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_LIMIT_S,
        )
        assert done.returncode == 0 or not check, f"{script}: {done.stdout}"
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.run(f"systemctl show -P {name} edge-actors")

    def processes(self) -> str:
        """Return the processes of an edge, "" when none is left."""
        return self.run("grep -l 'edge-actor[s]' /proc/[0-9]*/cmdline 2>/dev/null", check=False)

    def wait_until(self, script: str, limit_s: float = COMMAND_LIMIT_S) -> None:
        """Wait until a command succeeds."""
        self._wait_for(
            lambda: self.run(f"{script} >&2 && echo yes", check=False).endswith("yes"), script, limit_s
        )

    def files(self) -> set[str]:
        """Return what stands on its disk, without what every package leaves there."""
        found = self.run("cd / && find . -xdev").splitlines()
        return {name for name in found if not name.startswith(NOT_OURS)}

    def stop(self) -> None:
        """Switch it off."""
        if self._process is None:
            return
        if self._process.poll() is None and self._init:
            os.kill(self._init, signal.SIGRTMIN + 14)  # poweroff.target at once. Source: systemd(1), SIGNALS
        try:
            self._process.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _find_init(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.root.with_suffix(".console").read_text(errors="replace")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            if (
                Path(f"/proc/{child}/cmdline")
                .read_bytes()
                .startswith((b"/usr/lib/systemd/systemd", b"/lib/systemd"))
            ):
                self._init = int(child)
        return self._init != 0

    def _is_up(self) -> bool:
        return self.run("systemctl is-system-running", check=False) in ("running", "degraded")

    def _wait_for(self, is_so: Callable[[], bool], what: str, limit_s: float = BOOT_LIMIT_S) -> None:
        ends_s = time.monotonic() + limit_s
        while not is_so():
            if time.monotonic() >= ends_s:
                print(self.root.with_suffix(".console").read_text(errors="replace")[-2000:], file=sys.stderr)
                raise AssertionError(f"not within {limit_s:g} s: {what}")
            time.sleep(0.2)  # between two looks at another machine
