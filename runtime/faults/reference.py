"""The reference page of fault scripts, made of the tables of the format; FAULTS.md is this page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from runtime.faults import schema
from runtime.faults.expectation_table import EXPECTATIONS
from runtime.faults.fault_table import FAULTS, FaultKind
from runtime.faults.scenario import VERSION
from runtime.faults.yaml_reader import Field

INTRODUCTION = f"""\
# Fault scripts

`edge-actors faults run FILE` starts an edge of its own in a new folder, puts load on it, does what the script
wants in time, and compares everybody's books in the end. This page is made of the format itself, version
{VERSION}: `edge-actors faults reference` prints it. `scripts/faults/` has a script for each class of faults.

A script is YAML. A misspelled name, a wrong unit, an expectation that cannot be: told with line and column
before anything starts. All random choices come from the seed, which is printed; a failed run repeats with
`--seed`, and leaves a bundle with script, seed, logs, ledger and databases, without keys. Each fault counts
what proves that it happened; a run in which a count is 0 has failed. What this machine cannot do is told,
with exit code 1. What crashes several times in a row would wait longer and longer; here it is started at
once, unless its restart policy is another than `always`.
"""


PARTS: Final = (
    ("A script", schema.SCENARIO),
    ("edge", schema.EDGE),
    ("A route of the edge", schema.ROUTE),
    ("A module of the edge", schema.MODULE),
    ("load", schema.LOAD),
    ("A consumer that comes and goes", schema.PRESENCE),
    ("A step: one of `at`, `every` and `after`", schema.WHEN),
)


def tables() -> dict[str, Any]:
    """Return the same for a program."""
    return {
        "version": VERSION,
        "parts": {title: _rows(fields) for title, fields in PARTS},
        "faults": {
            kind.name: {"about": kind.about, "counts": kind.counts, "entries": _rows(kind.fields)}
            for kind in FAULTS.values()
        },
        "expectations": {
            kind.name: {"form": kind.form.looks, "about": kind.about} for kind in EXPECTATIONS.values()
        },
    }


def _rows(fields: Iterable[Field]) -> list[dict[str, Any]]:
    return [
        {"entry": field.name, "form": field.form.looks, "about": field.about, "needed": field.is_needed}
        for field in fields
    ]


def reference() -> str:
    """Return the page, in Markdown."""
    parts = [INTRODUCTION]
    parts += [f"\n## {title}\n\n{_table(fields)}" for title, fields in PARTS]
    parts.append("\n## Faults\n")
    parts += [_fault(kind) for kind in FAULTS.values()]
    parts.append("\n## Expectations\n\n| name | form | what has to hold |\n| --- | --- | --- |\n")
    parts += [f"| `{one.name}` | {one.form.looks} | {one.about} |\n" for one in EXPECTATIONS.values()]
    return "".join(parts)


def _fault(kind: FaultKind) -> str:
    needs = [f"needs {need}" for need in kind.needs]
    needs += ["needs `cloud: behind a line`"] * kind.needs_line + ["needs `disk`"] * kind.needs_disk
    text = f"\n### {kind.name}\n\n{kind.about[0].upper()}{kind.about[1:]}. Counts {kind.counts}"
    text += f"; {', '.join(needs)}.\n" if needs else ".\n"
    return f"{text}\n{_table(kind.fields)}" if kind.fields else text


def _table(fields: Iterable[Field]) -> str:
    lines = ["| entry | form | meaning | without it |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{field.name}` | {field.form.looks} | {field.about} | {_default(field)} |" for field in fields
    ]
    return "\n".join(lines) + "\n"


def _default(field: Field) -> str:
    if field.is_needed:
        return "needed"
    if field.default in (None, "", 0, {}, ("",)):
        return ""
    return f"`{field.default}`" if isinstance(field.default, str | int | float) else ""
