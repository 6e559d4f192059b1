"""The hub process as a campaign needs it: `python -m scripts.campaign.hub_main --home H --run R`.

A file beside the home says how: recorded by strace from its first system call on, or with a defect that the
campaign has to catch. The hub's own code is the same in any case; what breaks a promise is the database
connection that it is given. `PUBACK before commit`: a commit is said to be done at once, and done up to
DEFER_S later. `synchronous=OFF`: commits are written and not synced.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, Final

from runtime.faults import recording

PLAN: Final = "hub-plan.json"  # in the folder of the home
RECORDED: Final = "CAMPAIGN_RECORDED"
DEFER_S: Final = 0.1


def write_plan(folder: Path, *, defect: str = "", trace: Path | None = None) -> None:
    """Say how the hubs of the home in a folder run from now on."""
    plan = {"defect": defect, "trace": str(trace) if trace else ""}
    (folder / PLAN).write_text(json.dumps(plan))


class UnsyncedConnection(sqlite3.Connection):
    """Nothing is ever synced, whatever is asked for."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        cursor = super().execute(sql, *arguments)
        if "synchronous" in sql.lower():
            super().execute("PRAGMA synchronous=OFF")
        return cursor


class HastyConnection(sqlite3.Connection):
    """Says that a transaction is committed, and commits it with a later one."""

    _since_s: float | None = None  # since when a transaction has been open that is said to be committed
    _is_going_on: bool = False  # another one has begun in it; half of that must not be committed

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        word = sql.strip().partition(" ")[0].upper()
        if word in ("COMMIT", "END"):
            self._is_going_on = False
            if self._since_s is None:
                self._since_s = time.monotonic()
            return super().execute("SELECT 1")
        if word == "BEGIN" and self._since_s is not None:
            if time.monotonic() - self._since_s < DEFER_S:
                self._is_going_on = True
                return super().execute("SELECT 1")
            self._commit_now()
        elif word == "ROLLBACK":
            self._since_s = None
            self._is_going_on = False
        elif word == "PRAGMA" and not self._is_going_on:
            self._commit_now()
        return super().execute(sql, *arguments)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        self._commit_now()
        return super().executescript(sql)

    def _commit_now(self) -> None:
        if self._since_s is not None:
            self._since_s = None
            super().execute("COMMIT")


CONNECTIONS: Final[dict[str, type[sqlite3.Connection]]] = {
    "PUBACK before commit": HastyConnection,
    "synchronous=OFF": UnsyncedConnection,
}


def break_promise(defect: str) -> None:
    """From now on `sqlite3.connect` gives connections with a defect."""
    connect, factory = sqlite3.connect, CONNECTIONS[defect]

    def connect_broken(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **{**options, "factory": factory})

    sqlite3.connect = connect_broken  # type: ignore[assignment]


def main() -> int:
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    plan = json.loads((home.parent / PLAN).read_text())
    if plan["trace"] and RECORDED not in os.environ:
        program = [sys.executable, "-m", "scripts.campaign.hub_main", *sys.argv[1:]]
        command = recording.command(Path(plan["trace"]), program)
        # No file work of uvloop by io_uring, where no system call shows it.
        os.execve(command[0], command, {**os.environ, RECORDED: "1", "UV_USE_IO_URING": "0"})
    if plan["defect"]:
        break_promise(plan["defect"])
    from runtime.hub import main as hub_main  # the store's modules must find the broken connection

    return hub_main()


if __name__ == "__main__":
    sys.exit(main())
