"""What a campaign showed: its verdict, everything for a program, and a table of several of them."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from scripts.campaign.run import DAY, RANDOM, Ran

KEPT: Final = 0
BROKEN: Final = 1
VOID: Final = 3
FIGURES: Final = ("kills", "cuts", "acknowledged", "lost", "out_of_order", "unexplained")


class Report:
    """All runs of one campaign."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.date = datetime.now(UTC).strftime("%Y-%m-%d")
        self._ran: list[Ran] = []
        self._skipped: dict[str, str] = {}  # by name of a script: what this machine lacks for it
        self.last = ""  # run, in words

    def add(self, name: str, ran: Ran | str) -> None:
        """Take in a run, or why there was none."""
        if isinstance(ran, str):
            self._skipped[name] = ran
            self.last = f"{name}: skipped: {ran}"
        else:
            self._ran.append(ran)
            self.last = ran.text()

    @property
    def exit_code(self) -> int:
        if any(one.is_broken for one in self._ran):
            return BROKEN
        return VOID if any(one.is_void for one in self._ran) or not self._ran else KEPT

    def verdict(self) -> str:
        """Return one line."""
        kills, cuts = sum(one.kills for one in self._ran), sum(one.cuts for one in self._ran)
        told = sum(one.outcome.findings.acknowledged for one in self._ran)
        counts = f"{kills} kills, {cuts} power cuts, {len(self._ran)} scripts, {told} messages acknowledged"
        if self._skipped:
            counts += f" ({len(self._skipped)} scripts skipped)"
        if self.exit_code == BROKEN:
            return f"BROKEN: {counts}; see the problems above; again with --seed {self.seed}"
        if self.exit_code == VOID:
            missed = [f"a fault of {one.scenario.name} never happened" for one in self._ran if one.is_void]
            return f"VOID: {counts}, and no problem; but {', '.join(missed) or 'nothing ran'}"
        return f"KEPT: {counts}, 0 lost"

    def json(self) -> dict[str, Any]:
        """Return everything, for a program."""
        return {
            "date": self.date,
            "seed": self.seed,
            "verdict": {KEPT: "kept", BROKEN: "broken", VOID: "void"}[self.exit_code],
            "system": {
                "kernel": platform.release(),
                "python": platform.python_version(),
                "sqlite": sqlite3.sqlite_version,
            },
            "scripts": [ran.json() for ran in self._ran],
            "skipped": self._skipped,
        }


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the runs of several campaigns, as `Report.json` has them, in Markdown."""
    titles = ("date", "seed", "what", *FIGURES, "problems", "minutes")
    lines = [
        f"| {' | '.join(title.replace('_', ' ') for title in titles)} |",
        "|---" * len(titles) + "|",
    ]
    sums = [0] * (len(FIGURES) + 1)
    for report in reports:
        for name, scripts in _groups(report).items():
            numbers = [sum(script[figure] for script in scripts) for figure in FIGURES]
            numbers.append(sum(len(script["problems"]) for script in scripts))
            minutes = sum(script["took_s"] for script in scripts) / 60
            sums = [total + number for total, number in zip(sums, numbers, strict=True)]
            figures = " | ".join(f"{number:,}" for number in numbers)
            lines.append(f"| {report['date']} | {report['seed']} | {name} | {figures} | {minutes:.1f} |")
    lines.append(f"| | | together | {' | '.join(f'**{total:,}**' for total in sums)} | |")
    return "\n".join(lines) + "\n"


def _groups(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return what stands in one row each: scripts that were drawn are counted together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for script in report["scripts"]:
        word = script["scenario"].rpartition("-")[0]
        groups.setdefault(word if word in (RANDOM, DAY) else script["scenario"], []).append(script)
    return {
        f"{len(scripts)} × `{name}`" if name in (RANDOM, DAY) else f"`{name}`": scripts
        for name, scripts in groups.items()
    }
