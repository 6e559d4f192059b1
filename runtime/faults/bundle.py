"""The folder of a run: gone after a good one, a bundle after a failed one."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from messaging.errors import ConfigError
from runtime.faults.findings import Findings
from runtime.faults.guard import Guard
from runtime.faults.run import run
from runtime.faults.scenario import Scenario
from runtime.storage.atomic_file import make_private_folder, write_private_file

SEEDS: Final = 1_000_000
SECRETS: Final = ("keys.json", "provisioned.json", "scope.json", "identities.copy", "deployment.sealed")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went."""

    findings: Findings
    problems: tuple[str, ...]
    folder: Path | None  # what is left of it: the bundle


def run_in_folder(
    scenario: Scenario,
    seed: int | None,
    keep: Path | None,
    on_start: Callable[[int], None] = lambda seed: None,
) -> Outcome:
    """Run a scenario in a folder of its own.

    Args:
        scenario: What to run.
        seed: Makes the random choices of a run before; None draws another.
        keep: The folder, which is kept then; None: one that is kept when the run failed.
        on_start: Is told the seed.

    Raises:
        ConfigError: `keep` is there, and not an empty folder.
    """
    check_keep(keep)
    drawn = random.SystemRandom().randrange(SEEDS) if seed is None else seed
    on_start(drawn)
    folder = keep or Path(tempfile.mkdtemp(prefix=f"edge-actors-faults-{scenario.name}-"))
    make_private_folder(folder)
    with Guard(folder, keep=keep is not None):
        findings = run(scenario, drawn, folder)
    problems = tuple(findings.problems(scenario))
    if keep is None and not problems:
        shutil.rmtree(folder)
        return Outcome(findings, problems, None)
    shutil.copyfile(scenario.path, folder / "scenario.yaml")
    content = {"seed": drawn, "problems": problems, "ledger": findings.ledger, "details": findings.details}
    write_private_file(folder / "report.json", json.dumps(content, indent=1).encode() + b"\n")
    remove_secrets(folder)
    return Outcome(findings, problems, folder)


def check_keep(keep: Path | None) -> None:
    """Refuse a folder to keep things in that holds some already.

    Raises:
        ConfigError: it is there, and not an empty folder.
    """
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"--keep {keep}: it is not an empty folder; name a new one")


def remove_secrets(folder: Path) -> None:
    """Leave no keys in a bundle that somebody may send to somebody else."""
    for path in [
        path for path in folder.rglob("*") if path.name in SECRETS or path.suffix in (".pem", ".key")
    ]:
        path.unlink()
    (folder / "connection-string").unlink(missing_ok=True)
    for path in folder.rglob("policies.json"):
        path.unlink()
