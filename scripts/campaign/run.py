"""Runs fault scripts one after the other, from files and from the grammar, and counts what they showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from messaging.errors import ConfigError
from messaging.nearest import did_you_mean
from runtime.faults import needs, report, schema
from runtime.faults.bundle import Outcome, run_in_folder
from runtime.faults.scenario import Scenario
from scripts.campaign import grammar

FOLDER: Final = Path(__file__).parent / "scenarios"
KILLS: Final = ("kill", "reboot")  # faults that count deaths by SIGKILL
CUT: Final = "power cut"
DAY: Final = "day"
RANDOM: Final = "random"
SCENARIOS: Final = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
KNOWN: Final = (*SCENARIOS, RANDOM, DAY)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A script that is to run."""

    name: str
    seed: int
    text: str


@dataclass(frozen=True, slots=True)
class Ran:
    """One script and how it went."""

    scenario: Scenario
    outcome: Outcome

    @property
    def kills(self) -> int:
        """How many processes died by SIGKILL."""
        return self._counted(*KILLS)

    @property
    def cuts(self) -> int:
        """How often the power failed, with the moments at which it might have as well."""
        return self._counted(CUT) + self.outcome.findings.moments

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


def wanted(
    words: Sequence[str], seed: int, scripts: int, kills: int | None = None, cuts: int | None = None
) -> list[Wanted]:
    """Return the scripts of a campaign.

    Args:
        words: Scenarios beside this file, files, `random`, `day`.
        seed: Of scenarios and day; of the first random script, whose others follow it one by one.
        scripts: How many random ones.
        kills: Of each scenario that kills; None: as its file says.
        cuts: Of each scenario that cuts the power, its moments among them; None: as its file says.

    Raises:
        ConfigError: a word is none of these, or a file is no script.
    """
    found: list[Wanted] = []
    for word in words:
        if word == RANDOM:
            numbers = range(seed, seed + scripts)
            found += [Wanted(f"{RANDOM}-{number}", number, grammar.script(number)) for number in numbers]
        elif word == DAY:
            found.append(Wanted(f"{DAY}-{seed}", seed, grammar.day(seed)))
        else:
            path = FOLDER / f"{word}.yaml" if word in SCENARIOS else Path(word)
            if not path.exists():
                hint = did_you_mean(word, KNOWN) or f"; there are {', '.join(KNOWN)}"
                raise ConfigError(f"scenario {word!r}: neither one of ours nor a file{hint}")
            schema.load(path)  # so that what is wrong in it is told with its own lines
            found.append(Wanted(path.stem, seed, scaled(path.read_text(encoding="utf-8"), kills, cuts)))
    return found


def scaled(text: str, kills: int | None, cuts: int | None) -> str:
    """Return a script with another number of kills or cuts in each step that has them again and again.

    Cuts are spread over lives of the hub as in the script, and over at least one.
    """
    content = yaml.safe_load(text)
    for step in content["steps"]:
        if step["fault"] == "kill" and kills is not None and "times" in step:
            step["times"] = kills
        elif step["fault"] == CUT and cuts is not None and "times" in step:
            step["times"] = max(1, round(cuts / (1 + step.get("moments", 0))))
            step["moments"] = -(-cuts // step["times"]) - 1
    return grammar.as_yaml(content)


def run(script: Wanted, folder: Path, *, keep: bool) -> Ran | str:
    """Run a script; returns why not, where this machine cannot do its faults.

    Args:
        script: What to run.
        folder: Where it is written to.
        keep: Whether home and logs stay there, even when it went well.
    """
    path = folder / f"{script.name}.yaml"
    path.write_text(script.text, encoding="utf-8")
    scenario = schema.load(path)
    lacking = needs.missing(scenario.needs)
    return lacking or Ran(
        scenario, run_in_folder(scenario, script.seed, folder / script.name if keep else None)
    )
