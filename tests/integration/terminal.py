"""A terminal for documents: what is typed runs in one shell after the other, as it would for a reader."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.documents import Block, fits

LIMIT_S = 30.0
LOOK_AGAIN_S = 0.5


class Terminal:
    """One shell. `type` types a block and returns what it printed; `close` ends the shell and its children."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["sh"],
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
        self._screen = self._shell.stdout.fileno()
        os.set_blocking(self._screen, False)

    def start(self, commands: str) -> None:
        """Type commands that do not end, such as `edge-actors run`."""
        self._keyboard.write(commands.encode())
        self._keyboard.flush()

    def type(self, commands: str, limit_s: float = LIMIT_S) -> str:
        """Type commands, wait until they have ended, and return what they printed; each has to succeed.

        The shell keeps what they set, such as its folder and variables.
        """
        # One that fails ends the shell, which says so as its last word.
        status, printed = self._run(
            f"set -e; trap 'echo @END@ $?' EXIT\n{commands}\nset +e; trap - EXIT; echo @END@ 0", limit_s
        )
        assert status == 0, f"failed:\n{commands}\n{printed}"
        return printed

    def follow(self, block: Block, commands: str | None = None, limit_s: float = LIMIT_S) -> str:
        """Type a block, `: again` until it prints what its document shows; return what it printed.

        Args:
            block: What is typed, and what it shall print.
            commands: The text of the block, where something of it had to be filled in.
            limit_s: For how long it is typed again, and how long one time may take.
        """
        commands = block.text if commands is None else commands
        if block.how != "again":
            printed = self.type(commands, limit_s)
            fit = block.shown is None or fits(block.shown, printed)
            assert fit, f"{block.place} shows\n{block.shown}\nand this was printed:\n{printed}"
            return printed
        assert block.shown is not None, f"{block.place} does not say until when it is typed again"
        deadline_s = time.monotonic() + limit_s
        while True:
            status, printed = self._run(f"(set -e\n{commands}\n); echo @END@ $?", limit_s)
            if status == 0 and fits(block.shown, printed):
                return printed
            late = time.monotonic() >= deadline_s
            assert not late, f"{block.place} shows\n{block.shown}\nand this is printed:\n{printed}"
            time.sleep(LOOK_AGAIN_S)  # between two looks at what other processes do

    def _run(self, script: str, limit_s: float) -> tuple[int, str]:
        """Run a script that prints `@END@` and a number at its end; return the number and what else it printed."""
        end = f"ended-{secrets.token_hex(8)}"
        self.start(f"{{ {script.replace('@END@', end)}; }} </dev/null\n")
        printed = b""
        deadline_s = time.monotonic() + limit_s
        while True:
            before, found, after = printed.partition(end.encode())
            if found and after.endswith(b"\n"):
                return int(after), before.decode()
            assert time.monotonic() < deadline_s, (
                f"not ended within {limit_s:g} s:\n{script}\n{printed.decode()}"
            )
            if select.select([self._screen], [], [], 1)[0]:
                read = os.read(self._screen, 65536)
                assert read, f"the shell has ended:\n{script}\n{printed.decode()}"
                printed += read

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        if self._shell.poll() is None:
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._keyboard.close()
        os.close(self._screen)
