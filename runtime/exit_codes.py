"""All exit codes of `edge-actors`, for scripts and service managers. README.md shows this table."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
WRONG_INPUT: Final = 2
CHANGES: Final = 3
PART_FAILED: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # as a shell reports a process that SIGINT ended
BROKEN_PIPE: Final = 141  # likewise SIGPIPE

MEANINGS: Final = (
    (DONE, "done; of `check`: no errors, of `system status`: nothing is down"),
    (FAILED, "it could not be done, or `check`, `ledger` or `system status` found something wrong"),
    (WRONG_INPUT, "what you wrote or set is wrong; nothing was changed"),
    (CHANGES, "of `plan`: the deployment would change something"),
    (
        PART_FAILED,
        "of `run`: a part of the edge failed for good; modules live on, for the next start",
    ),
    (INTERRUPTED, "ended with Ctrl-C; `run` ends in order and with 0"),
    (BROKEN_PIPE, "whoever read the output has gone"),
)
