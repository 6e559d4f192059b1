"""What a campaign showed: its verdict, everything for a program, and a table of several of them."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from scripts.campaign.books import Findings
from scripts.campaign.drawn import Drawn
from scripts.campaign.scenario import Scenario

KEPT: Final = 0
BROKEN: Final = 1
VOID: Final = 3


class Report:
    """All runs of one campaign."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.date = datetime.now(UTC).strftime("%Y-%m-%d")
        self._runs: list[tuple[Scenario, Findings]] = []
        self._drawn: list[Drawn] = []
        self._skipped: dict[str, str] = {}  # by name of a script: what this machine lacks for it
        self.last = ""  # of the scripts that were drawn, in words

    def add(self, scenario: Scenario, findings: Findings) -> None:
        """Take in a run of a scenario, or of one of its controls."""
        self._runs.append((scenario, findings))

    def add_drawn(self, name: str, drawn: Drawn | str) -> None:
        """Take in a run of a script from the grammar, or why there was none."""
        if isinstance(drawn, str):
            self._skipped[name] = drawn
            self.last = f"{name}: skipped: {drawn}"
        else:
            self._drawn.append(drawn)
            self.last = drawn.text()

    @property
    def exit_code(self) -> int:
        if any(one.is_broken for one in self._drawn):
            return BROKEN
        if any(
            findings.problems(scenario.expect) for scenario, findings in self._runs if not findings.defect
        ):
            return BROKEN
        void = any(one.is_void for one in self._drawn)
        return KEPT if not void and all(f.is_caught for _, f in self._runs if f.defect) else VOID

    def verdict(self) -> str:
        """Return one line."""
        runs = [findings for _, findings in self._runs if not findings.defect]
        kills = sum(sum(f.faults.values()) for f in runs if not f.images) + sum(d.kills for d in self._drawn)
        cuts = sum(f.images for f in runs) + sum(d.cuts for d in self._drawn)
        told = sum(f.acknowledged for f in runs) + sum(d.outcome.findings.acknowledged for d in self._drawn)
        counts = f"{kills} kills, {cuts} power cuts, {len(self._drawn)} scripts, {told} messages acknowledged"
        if self._skipped:
            counts += f" ({len(self._skipped)} scripts skipped)"
        if self.exit_code == BROKEN:
            return f"BROKEN: {counts}; see the problems above; again with --seed {self.seed}"
        if self.exit_code == VOID:
            missed = [
                f"no loss was seen in {f.scenario} with {f.defect}"
                for _, f in self._runs
                if f.defect and not f.lost
            ]
            missed += [f"a fault of {d.scenario.name} never happened" for d in self._drawn if d.is_void]
            return f"VOID: {counts}, and no problem; but {', '.join(missed)}"
        controls = "; each control was caught losing" if any(f.defect for _, f in self._runs) else ""
        return f"KEPT: {counts}, 0 lost{controls}"

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
            "runs": [findings.json(scenario.expect) for scenario, findings in self._runs],
            "scripts": [drawn.json() for drawn in self._drawn],
            "skipped": self._skipped,
        }


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the runs of several campaigns, as `Report.json` has them, in Markdown."""
    lines = [
        "| date | seed | what | kills | cuts | acknowledged | lost | out of order | problems | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    sums = [0] * 6
    for report in reports:
        for name, numbers, took_s in _rows(report):
            sums = [total + number for total, number in zip(sums, numbers, strict=True)]
            figures = " | ".join(f"{number:,}" for number in numbers)
            lines.append(f"| {report['date']} | {report['seed']} | {name} | {figures} | {took_s / 60:.1f} |")
    lines.append(f"| | | together | {' | '.join(f'**{total:,}**' for total in sums)} | |")
    return "\n".join(lines) + "\n"


def _rows(report: Mapping[str, Any]) -> list[tuple[str, list[int], float]]:
    """Return what stands in a row: what ran, the six figures, the seconds it took."""
    rows = []
    for run in report["runs"]:
        kills = 0 if run["images"] else sum(run["faults"].values())
        figures = [kills, run["images"], run["acknowledged"], run["lost"], run["out_of_order"]]
        if not run["defect"]:
            rows.append((f"`{run['scenario']}`", [*figures, len(run["problems"])], run["took_s"]))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for script in report["scripts"]:
        groups.setdefault(script["scenario"].partition("-")[0], []).append(script)
    for word, scripts in groups.items():
        names = ("kills", "cuts", "acknowledged", "lost", "out_of_order")
        figures = [sum(script[name] for script in scripts) for name in names]
        problems = sum(len(script["problems"]) for script in scripts)
        took_s = sum(script["took_s"] for script in scripts)
        rows.append((f"{len(scripts)} × `{word}`", [*figures, problems], took_s))
    return rows
