"""`python -m scripts.campaign [SCENARIO …] [--kills N] [--cuts N] [--seed S] [--keep FOLDER] [--json FILE]`.

And `python -m scripts.campaign mutants [NAME …] [--table]`.

Exit code 1: a promise was broken. 3: it was not, but a control was not caught either, so nothing is proven.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from messaging.nearest import did_you_mean
from runtime.faults import recording
from scripts.campaign import mutants
from scripts.campaign import scenario as scenarios
from scripts.campaign.books import Findings
from scripts.campaign.run import run
from scripts.campaign.scenario import BadScenario, PowerCut, Scenario

KEPT: Final = 0
BROKEN: Final = 1
USAGE: Final = 2
VOID: Final = 3


def main(words: Sequence[str] | None = None) -> int:
    """Run the campaign that a command line asks for; returns the exit code."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["mutants"]:
        return mutants.main(words[1:])
    known = ", ".join(scenarios.names())
    parser = argparse.ArgumentParser(prog="scripts.campaign", description="faults under load")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{known}, or a file; default: all")
    parser.add_argument(
        "--kills", type=_positive, help="of each scenario that kills; default: as its file says"
    )
    parser.add_argument("--cuts", type=_positive, help="disks after a power cut; default: as the file says")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--keep", type=Path, help="empty folder for homes and logs, kept")
    parser.add_argument("--json", type=Path, help="file for the report")
    arguments = parser.parse_args(words)
    try:
        wanted = [
            scaled(scenarios.load(_path(name)), arguments.kills, arguments.cuts)
            for name in arguments.scenarios or scenarios.names()
        ]
    except BadScenario as exc:
        print(f"error: {exc}", file=sys.stderr)
        return USAGE
    if arguments.keep and arguments.keep.exists() and any(arguments.keep.iterdir()):
        print(f"error: --keep {arguments.keep}: not empty; name a new folder", file=sys.stderr)
        return USAGE
    reason = recording.why_impossible() if any(one.is_power_cut for one in wanted) else ""
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        return USAGE
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="ea-campaign-") as temporary:
        report = Report(seed)
        for scenario in wanted:
            for number, control in enumerate((*scenario.controls, None)):
                folder = (arguments.keep or Path(temporary)) / f"{scenario.name}-{number}"
                folder.mkdir(parents=True)
                findings = run(scenario, seed, folder, control)
                print(findings.text(scenario.expect), flush=True)
                report.add(scenario, findings)
    print(report.verdict())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.json(), indent=1) + "\n")
    return report.exit_code


def scaled(scenario: Scenario, kills: int | None, cuts: int | None) -> Scenario:
    """Return a scenario with another number of faults; controls stay as they are.

    Cuts are spread over lives of the hub as in the file, and over at least one.
    """
    step = scenario.step
    if isinstance(step.fault, PowerCut):
        if cuts is not None:
            lives = max(1, round(cuts / step.fault.images))
            fault = dataclasses.replace(step.fault, images=-(-cuts // lives))
            step = dataclasses.replace(step, times=lives, fault=fault)
    elif kills is not None:
        step = dataclasses.replace(step, times=kills)
    return dataclasses.replace(scenario, step=step)


class Report:
    """All runs of one campaign."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._runs: list[tuple[Scenario, Findings]] = []

    def add(self, scenario: Scenario, findings: Findings) -> None:
        """Take in a run of a scenario, or of one of its controls."""
        self._runs.append((scenario, findings))

    @property
    def exit_code(self) -> int:
        if any(
            findings.problems(scenario.expect) for scenario, findings in self._runs if not findings.defect
        ):
            return BROKEN
        return KEPT if all(f.is_caught for _, f in self._runs if f.defect) else VOID

    def verdict(self) -> str:
        """Return one line."""
        runs = [findings for _, findings in self._runs if not findings.defect]
        faults = sum(sum(f.faults.values()) for f in runs if not f.images)
        images = sum(f.images for f in runs)
        told = sum(f.acknowledged for f in runs)
        counts = f"{faults} kills, {images} power cuts, {told} messages acknowledged"
        if self.exit_code == BROKEN:
            return f"BROKEN: {counts}; see the problems above; again with --seed {self.seed}"
        if self.exit_code == VOID:
            missed = ", ".join(
                f"{f.scenario} with {f.defect}" for _, f in self._runs if f.defect and not f.lost
            )
            return f"VOID: {counts}, and no problem; but no loss was seen either in {missed}"
        return f"KEPT: {counts}, 0 lost; each control was caught losing"

    def json(self) -> dict[str, Any]:
        """Return everything, for a program."""
        return {
            "seed": self.seed,
            "verdict": {KEPT: "kept", BROKEN: "broken", VOID: "void"}[self.exit_code],
            "system": {
                "kernel": platform.release(),
                "python": platform.python_version(),
                "sqlite": sqlite3.sqlite_version,
            },
            "runs": [findings.json(scenario.expect) for scenario, findings in self._runs],
        }


def _path(name: str) -> Path:
    known = scenarios.names()
    if name in known:
        return scenarios.FOLDER / f"{name}.yaml"
    if not Path(name).exists():
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise BadScenario(f"scenario {name!r}: neither one of ours nor a file{hint}")
    return Path(name)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1; name the scenarios to leave others out")
    return number


if __name__ == "__main__":
    sys.exit(main())
