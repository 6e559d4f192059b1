"""Runs scripts that were drawn from the grammar, one after the other, and counts what they showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from runtime.faults import needs, report, schema
from runtime.faults.bundle import Outcome, run_in_folder
from runtime.faults.scenario import Scenario
from scripts.campaign import grammar

KILLS: Final = ("kill", "reboot")  # faults that count deaths by SIGKILL
CUT: Final = "power cut"
DAY: Final = "day"
RANDOM: Final = "random"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One script and how it went."""

    scenario: Scenario
    outcome: Outcome

    @property
    def kills(self) -> int:
        """How many processes died by SIGKILL."""
        return self._counted(*KILLS)

    @property
    def cuts(self) -> int:
        """How often the power failed."""
        return self._counted(CUT)

    @property
    def is_void(self) -> bool:
        """Whether a fault never happened, and nothing else is wrong: it shows nothing."""
        return 0 < len(self.outcome.problems) == list(self.outcome.findings.counts.values()).count(0)

    @property
    def is_broken(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.outcome.problems) and not self.is_void

    def json(self) -> dict[str, Any]:
        """Return everything, for a program."""
        found = report.values(self.scenario, self.outcome)
        return {**found, "about": self.scenario.about, "kills": self.kills, "cuts": self.cuts}

    def text(self) -> str:
        """Return everything, for people; with the file that repeats it, when it failed."""
        folder = self.outcome.folder
        scenario = self.scenario if folder is None else replace(self.scenario, path=folder / "scenario.yaml")
        return f"{self.scenario.about}\n{report.text(scenario, self.outcome)}"

    def _counted(self, *faults: str) -> int:
        counts = self.outcome.findings.counts
        steps = [step for step in self.scenario.steps if step.fault in faults]
        return sum(counts.get(step.name or f"{step.number + 1} ({step.fault})", 0) for step in steps)


def scripts(words: Sequence[str], count: int, seed: int) -> dict[str, tuple[int, str]]:
    """Draw scripts; return their seeds and texts by name.

    Args:
        words: `random`, `day` or both.
        count: How many random ones.
        seed: Of the first; the others follow it one by one.
    """
    found = {}
    if RANDOM in words:
        found |= {
            f"{RANDOM}-{number}": (number, grammar.script(number)) for number in range(seed, seed + count)
        }
    if DAY in words:
        found[f"{DAY}-{seed}"] = seed, grammar.day(seed)
    return found


def run(name: str, seed: int, text: str, folder: Path, *, keep: bool) -> Drawn | str:
    """Run a script that was drawn; returns why not, where this machine cannot do its faults.

    Args:
        name: What it is called.
        seed: Of its random choices.
        text: The script.
        folder: Where it is written to.
        keep: Whether home and logs stay there, even when it went well.
    """
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    scenario = schema.load(path)
    lacking = needs.missing(scenario)
    return lacking or Drawn(scenario, run_in_folder(scenario, seed, folder / name if keep else None))
