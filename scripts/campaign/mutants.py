"""Deliberate defects in our own code, and the fault script that catches each of them.

A mutant is a patch in `patches/`, with a head that says what is wrong with it, which script of
`scripts/faults` catches it, from which seed, and how the problem begins that is told then: the name of the
expectation that is not met. It is applied to a copy of the sources, from which script and edge are run; so
the product has no place where a defect could be switched on.

A new one: change the code, `git diff > scripts/campaign/patches/NAME.patch`, take the change back, write the
head.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from messaging.errors import ConfigError
from messaging.nearest import did_you_mean

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(__file__).parent / "patches"
SOURCES: Final = ("actors", "messaging", "runtime", "scripts/faults")
HEAD: Final = ("Defect", "Scenario", "Seed", "Fails")
RUN_LIMIT_S: Final = 300.0
GIT: Final = ("git", "apply", "-p1", "--whitespace=nowarn")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect."""

    name: str
    defect: str
    scenario: str
    seed: int
    fails: str  # how the problem begins that is told of it
    patch: Path

    def is_told_by(self, problem: str) -> bool:
        """Return whether this is the problem that the mutant is to be caught by."""
        return problem.startswith(self.fails)


@dataclass(frozen=True, slots=True)
class Caught:
    """A script that was run with a mutant, or without any."""

    problems: tuple[str, ...]
    took_s: float


def load(name: str) -> Mutant:
    """Read a mutant.

    Raises:
        ConfigError: there is none of this name, or its head is not complete.
    """
    path = FOLDER / f"{name}.patch"
    if not path.exists():
        hint = did_you_mean(name, names()) or f"; there are {', '.join(names())}"
        raise ConfigError(f"mutant {name!r}: not known{hint}")
    head: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("--- "):
            break
        key, colon, value = line.partition(": ")
        if colon and key in HEAD:
            head[key] = value
        elif line.startswith("  "):
            head["Defect"] += f" {line.strip()}"
    missing = [key for key in HEAD if key not in head]
    if missing:
        raise ConfigError(f"{path}: its head lacks {', '.join(missing)}")
    return Mutant(name, head["Defect"], head["Scenario"], int(head["Seed"]), head["Fails"], path)


def names() -> tuple[str, ...]:
    """Return the names of all mutants."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.patch")))


def make_tree(folder: Path, mutant: Mutant | None) -> None:
    """Copy our sources into a folder, with a defect.

    Raises:
        ConfigError: the patch does not fit the sources any more.
    """
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name)
    if mutant is None:
        return
    done = subprocess.run(
        [*GIT, str(mutant.patch)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=_outside_of_git(),
        check=False,
    )
    if done.returncode:
        raise ConfigError(f"{mutant.patch}: does not fit the sources; make it anew: {done.stderr.strip()}")


def run(scenario: str, seed: int, mutant: Mutant | None) -> Caught:
    """Run a script of `scripts/faults` from a copy of our sources, which has the defect of a mutant."""
    with tempfile.TemporaryDirectory(prefix="ea-mutant-") as temporary:
        tree = Path(temporary) / "tree"
        make_tree(tree, mutant)
        command = [
            sys.executable,
            "-m",
            "runtime.cli.main",
            "faults",
            "run",
            f"scripts/faults/{scenario}.yaml",
        ]
        done = subprocess.run(
            [*command, "--seed", str(seed), "--json"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "TMPDIR": temporary},
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        try:
            found = json.loads(done.stdout)
        except ValueError:
            raise ConfigError(f"{scenario} could not be run: {done.stderr.strip()}") from None
        return Caught(tuple(found["problems"]), found["took_s"])


def table(mutants: Sequence[Mutant]) -> str:
    """Return the page of all mutants, in Markdown."""
    lines = [
        "# Mutants",
        "",
        "Deliberate defects in our code, each with the script of `scripts/faults` that catches it: kept",
        "without the defect, and failed with it, with a problem that begins as said in the last column.",
        "",
        "Made by `python -m scripts.campaign mutants --table` of the patches in `scripts/campaign/patches/`.",
        "Without `--table` it runs them, each after its script without a defect.",
        "",
        "| mutant | what is wrong with it | script | what fails |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{one.name}` | {one.defect} | `{one.scenario}` | {one.fails} |" for one in mutants]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Run mutants, or show their table; returns the exit code: 1 when one was not caught."""
    parser = argparse.ArgumentParser(
        prog="scripts.campaign mutants", description="defects that scripts must catch"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names())}; default: all")
    parser.add_argument("--table", action="store_true", help="show them, for tests/campaign/MUTANTS.md")
    arguments = parser.parse_args(words)
    try:
        mutants = [load(name) for name in arguments.names or names()]
        if arguments.table:
            print(table(mutants), end="")
            return 0
        verdicts = [_judge(mutant) for mutant in mutants]  # all of them, whatever the first shows
    except ConfigError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0 if all(verdicts) else 1


def _judge(mutant: Mutant) -> bool:
    """Run one with its script, and the script without it; say how that went."""
    sound = run(mutant.scenario, mutant.seed, None)
    broken = run(mutant.scenario, mutant.seed, mutant)
    told = [problem for problem in broken.problems if mutant.is_told_by(problem)]
    if sound.problems:
        verdict = f"VOID: {mutant.scenario} fails without it, too: {'; '.join(sound.problems)}"
    elif told:
        verdict = f"caught by {mutant.scenario}: {told[0]}"
    else:
        verdict = f"MISSED by {mutant.scenario}: {'; '.join(broken.problems) or 'no problem'}"
    print(f"{mutant.name}: {verdict} ({sound.took_s:.0f} s and {broken.took_s:.0f} s)", flush=True)
    return bool(told) and not sound.problems


def _outside_of_git() -> dict[str, str]:
    """Return an environment in which `git apply` takes the folder it stands in as it is."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return environment | {"GIT_CEILING_DIRECTORIES": tempfile.gettempdir()}
