"""Deliberate defects: each patch fits, each is caught by its script, and the page lists them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from messaging.errors import ConfigError
from runtime.faults import needs, schema
from scripts.campaign import mutants

PAGE = Path(__file__).with_name("MUTANTS.md")
QUICK = ("ack-before-commit", "in-flight-lost-at-take-over")  # run with every change


def lacking(mutant: mutants.Mutant) -> str:
    """Return what is lacking here to run the script of a mutant."""
    return needs.missing(schema.load(mutants.ROOT / "scripts" / "faults" / f"{mutant.scenario}.yaml").needs)


def test_there_are_enough_of_them() -> None:
    assert len(mutants.names()) >= 10


@pytest.mark.parametrize("name", mutants.names())
def test_a_mutant_fits_the_sources_and_is_caught_by_a_script_that_is_there(name: str, tmp_path: Path) -> None:
    mutant = mutants.load(name)

    mutants.make_tree(tmp_path, mutant)

    changed = [
        path.relative_to(tmp_path)
        for path in tmp_path.rglob("*.py")
        if path.read_bytes() != (mutants.ROOT / path.relative_to(tmp_path)).read_bytes()
    ]
    assert changed
    assert all(path.parts[0] in ("actors", "messaging", "runtime") for path in changed)
    for path in changed:
        ast.parse((tmp_path / path).read_text(encoding="utf-8"))
    assert (tmp_path / "scripts" / "faults" / f"{mutant.scenario}.yaml").exists()


def test_a_mutant_that_fits_no_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "--- a/actors/store/store.py\n+++ b/actors/store/store.py\n"
    patch = names + "@@ -1 +1 @@\n-what was never there\n+what is\n"
    head = "Defect: none\nScenario: hub-kill\nSeed: 1\nFails: lost\n"
    (tmp_path / "stale.patch").write_text(head + patch)
    monkeypatch.setattr(mutants, "FOLDER", tmp_path)

    with pytest.raises(ConfigError, match=r"stale\.patch: does not fit the sources; make it anew: error"):
        mutants.make_tree(tmp_path / "tree", mutants.load("stale"))


def test_a_mutant_without_a_head_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headless.patch").write_text("Defect: none\nSeed: 1\n--- a/x\n+++ b/x\n")
    monkeypatch.setattr(mutants, "FOLDER", tmp_path)

    with pytest.raises(ConfigError, match=r"headless\.patch: its head lacks Scenario, Fails"):
        mutants.load("headless")


def test_a_name_that_is_not_there_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["order-swaped"]) == 2
    assert "did you mean 'order-swapped'?" in capsys.readouterr().err


def test_the_page_lists_every_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--table"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_a_defect_is_caught(name: str) -> None:
    mutant = mutants.load(name)

    problems = mutants.run(mutant.scenario, mutant.seed, mutant).problems

    assert any(map(mutant.is_told_by, problems)), problems


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", mutants.names())
def test_a_script_is_kept_without_the_defect_and_fails_with_it(name: str) -> None:
    mutant = mutants.load(name)
    if reason := lacking(mutant):
        pytest.skip(reason)

    sound = mutants.run(mutant.scenario, mutant.seed, None).problems
    broken = mutants.run(mutant.scenario, mutant.seed, mutant).problems

    assert sound == ()
    assert any(map(mutant.is_told_by, broken)), broken
