"""A terminal for documents: what is typed runs in one shell after the other, as it would for a reader."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.documents import Block, fits
from tests.integration.edge_program import ROOT
from tests.integration.sdk_clients import loopback_address

LIMIT_S = 30.0
LOOK_AGAIN_S = 0.5


class Terminal:
    """One shell. `type` types commands and returns what they printed; `close` ends it and what it runs."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], shell: Sequence[str | Path] = ("sh",)
    ) -> None:
        self._shell = subprocess.Popen(
            shell,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._keyboard = self._shell.stdin
        self._screen = self._shell.stdout
        os.set_blocking(self._screen.fileno(), False)

    def start(self, commands: str) -> None:
        """Type commands that do not end, such as `edge-actors run`."""
        self._keyboard.write(commands.encode())
        self._keyboard.flush()

    def type(self, commands: str, limit_s: float = LIMIT_S) -> str:
        """Type commands, wait until they have ended, and return what they printed; each has to succeed.

        The shell keeps what they set, such as its folder and variables.
        """
        # One that fails ends the shell, which says so as its last word.
        script = f"set -e; trap 'echo @END@ $?' EXIT\n{commands}\nset +e; trap - EXIT; echo @END@ 0"
        status, printed = self._run(script, limit_s)
        assert status == 0, f"failed:\n{commands}\n{printed}"
        return printed

    def follow(self, block: Block, commands: str | None = None, limit_s: float = LIMIT_S) -> str:
        """Type a block as its document says it, and compare what it prints; return that.

        `: again` is typed until it prints what is shown, `: until Ctrl-C` is ended when it has, and
        `: fails` has to fail.

        Args:
            block: What is typed, and what it shall print.
            commands: The text of the block, where something of it had to be filled in.
            limit_s: For how long it is typed again, and how long one time may take.
        """
        commands = block.text if commands is None else commands
        if block.how == "until Ctrl-C":
            return self._interrupt(block, commands, limit_s)
        if block.how == "fails":
            status, printed = self._run(f"(set -e\n{commands}\n); echo @END@ $?", limit_s)
            assert status, f"did not fail:\n{commands}\n{printed}"
            assert block.shown is None or fits(block.shown, printed), _differs(block, printed)
            return printed
        if block.how != "again":
            printed = self.type(commands, limit_s)
            assert block.shown is None or fits(block.shown, printed), _differs(block, printed)
            return printed
        assert block.shown is not None, f"{block.place} does not say until when it is typed again"
        deadline_s = time.monotonic() + limit_s
        while True:
            status, printed = self._run(f"(set -e\n{commands}\n); echo @END@ $?", limit_s)
            if status == 0 and fits(block.shown, printed):
                return printed
            assert time.monotonic() < deadline_s, _differs(block, printed)
            time.sleep(LOOK_AGAIN_S)  # between two looks at what other processes do

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._keyboard.close()
        self._screen.close()

    def _run(self, script: str, limit_s: float) -> tuple[int, str]:
        """Run a script that prints `@END@` and a number at its end; return that, and what else it printed."""
        end = f"ended-{secrets.token_hex(8)}"
        self.start(f"{{ {script.replace('@END@', end)}; }} </dev/null\n")
        printed = b""
        deadline_s = time.monotonic() + limit_s
        while True:
            before, found, after = printed.partition(end.encode())
            if found and after.endswith(b"\n"):
                return int(after), before.decode()
            late = time.monotonic() >= deadline_s
            assert not late, f"not ended within {limit_s:g} s:\n{script}\n{printed.decode()}"
            if select.select([self._screen], [], [], 1)[0]:
                read = os.read(self._screen.fileno(), 65536)
                assert read, f"the shell has ended:\n{script}\n{printed.decode()}"
                printed += read

    def _interrupt(self, block: Block, commands: str, limit_s: float) -> str:
        """Run commands in a process of their own until they have printed what is shown, then type Ctrl-C."""
        assert block.shown is not None, f"{block.place} does not say until when it runs"
        environment = dict(entry.split("=", 1) for entry in self.type("env -0").rstrip("\0\n").split("\0"))
        with tempfile.TemporaryFile() as screen:
            process = subprocess.Popen(
                ["sh", "-ec", commands],
                cwd=self.type("pwd").rstrip("\n"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
            )

            def printed() -> str:
                return os.pread(screen.fileno(), 1 << 20, 0).decode()

            deadline_s = time.monotonic() + limit_s
            try:
                while not fits(block.shown, printed()):
                    assert process.poll() is None, _differs(block, printed())
                    assert time.monotonic() < deadline_s, _differs(block, printed())
                    time.sleep(0.1)  # between two looks at what another process prints
            finally:
                _type_ctrl_c(process)
            return printed()


class Reader:
    """Somebody at two terminals: the first one runs what does not end, all else is typed into the second.

    Other edges of this machine have 127.0.0.1, so theirs has another address of loopback.
    """

    def __init__(
        self, start: Path, home: Path, folder: Path, shell: Sequence[str | Path] = ("sh",), **environment: str
    ) -> None:
        """Sit down.

        Args:
            start: The folder of the first terminal.
            home: The user's home, and the folder of the second terminal.
            folder: Where files are saved to.
            shell: What runs in the terminals.
            environment: More variables.
        """
        address = loopback_address()
        ours = ("EDGE_ACTORS", "PYTHON")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "HOME": str(home),
            "EDGE_ACTORS_LISTEN": address,
            "EDGE_ACTORS_HOSTNAME": address,
            **environment,
        }
        self.folder = folder
        self.first = Terminal(start, self.environment, shell)
        self.second = Terminal(home, self.environment, shell)
        self.now = self.first

    def follow(self, blocks: Iterable[Block]) -> None:
        """Do what a document says, block by block."""
        for block in blocks:
            if block.language != "sh":
                (self.folder / block.how).write_text(block.text)
            elif block.how == "in the background":
                self.first.start(block.text)
                self.now = self.second
            elif block.how.startswith("PID of "):
                pid = self._pid(block.how.removeprefix("PID of "))
                self.now.follow(block, block.text.replace("PID", str(pid)))
            else:
                self.now.follow(block)

    def _pid(self, module: str) -> int:
        listed = json.loads(self.second.type("edge-actors list --json"))
        return int(next(row["pid"] for row in listed if row["name"] == module))

    def close(self, *homes: Path) -> None:
        """Leave, and end the edges of these homes, however far it came."""
        for home in homes:
            environment = {**self.environment, "PYTHONPATH": str(ROOT), "EDGE_ACTORS_HOME": str(home)}
            down = [sys.executable, "-m", "runtime.cli.main", "down", "--purge"]
            subprocess.run(down, env=environment, check=False, capture_output=True, timeout=60)
        self.first.close()
        self.second.close()


def programs(folder: Path) -> str:
    """Make a folder with `edge-actors` of this checkout and `python3` with the SDK; returns it as PATH.

    Root's settings are in that folder, too, and not in /etc.
    """
    folder.mkdir(parents=True)
    (folder / "edge_actors_here.py").write_text(
        "import sys\nfrom pathlib import Path\n\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from runtime.config import apply as config_apply\n\n"
        f"config_apply.SYSTEM_FILE = Path({str(folder / 'etc' / 'config.toml')!r})\n"
        "from runtime.cli.main import main\n\nmain()\n"
    )
    for name, argument in (("edge-actors", f"{folder}/edge_actors_here.py"), ("python3", "")):
        (folder / name).write_text(
            f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} {argument} "$@"\n'
        )
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def _type_ctrl_c(process: subprocess.Popen[bytes]) -> None:
    """End a process group as a reader does, who types it again when nothing happens.

    Python loses the one that comes while it tidies up (it is "ignored in" a destructor then).
    """
    for limit_s in (10.0, 10.0, LIMIT_S):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(limit_s)
            return
        except subprocess.TimeoutExpired:
            continue
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("Ctrl-C does not end it")


def _differs(block: Block, printed: str) -> str:
    return f"{block.place} shows\n{block.shown}\nand this was printed:\n{printed}"
