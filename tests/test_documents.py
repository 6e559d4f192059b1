"""The documents say what is true: each block belongs to a test, and what they name is there."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from actors.manifest.deployment import parse_deployment
from actors.manifest.hub_variables import VARIABLES as HUB_VARIABLES
from runtime.cli.main import COMMANDS, cli, invoke
from runtime.config.bridge_settings import BridgeSettingsFile, OwnNames
from runtime.config.keys import all_keys
from runtime.config.settings import Settings, variable
from tests.documents import DOCS, DOCUMENTS, README, ROOT, Block, all_blocks, blocks_in, blocks_of, fits
from tests.integration.device_certificates import issue

# Which tests run the blocks of a group: a file below tests/ that asks for them by that name.
RUN_BY = {
    "beside-an-edge": "integration/test_documents.py",
    "bridges": "test_documents.py",
    "cloud": "integration/test_documents.py",
    "config": "integration/test_documents.py",
    "config-file": "test_documents.py",
    "container": "integration/test_documents.py",
    "debian": "integration/test_debian_machine.py",
    "debian-first-hour": "integration/test_debian_machine.py",
    "first-hour": "integration/test_first_hour.py",
    "first-hour-clone": "integration/test_first_hour.py",
    "faults": "integration/test_documents.py",
    "fixtures": "integration/test_testing.py",
    "inspector": "integration/test_documents.py",
    "linked": "integration/test_documents.py",
    "manifest": "test_documents.py",
    "modules": "integration/test_documents.py",
    "operating": "integration/test_documents.py",
    "scripts": "integration/test_scripts.py",
    "tour": "integration/test_readme.py",
    "watching": "integration/test_documents.py",
    "wheel": "integration/test_distribution.py",
}
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
SAMPLE = ROOT / "scripts" / "samples" / "deployment.json"
PACKAGES = ("actors", "messaging", "runtime")


# --- blocks ---


def test_every_block_of_code_is_run_by_a_test_that_asks_for_it() -> None:
    unknown = [block.place for block in all_blocks() if block.language and not block.groups]
    named = {group for block in all_blocks() for group in block.groups}

    assert unknown == [], "say in a comment in front of the block which tests run it: tests/documents.py"
    assert named == set(RUN_BY)
    for group, file in RUN_BY.items():
        assert re.search(rf'blocks_of\([^)]*"{group}"', (ROOT / "tests" / file).read_text()), (group, file)


def test_a_reader_is_told_the_name_of_each_file_to_save() -> None:
    for block in all_blocks():
        if re.fullmatch(r"[\w-]+\.(py|js|json|toml|conf|yaml)|Dockerfile", block.how):
            lines = (ROOT / block.document).read_text().splitlines()[: block.line]
            told = "\n".join([*lines[-8:-1], block.text.split("\n")[0]])
            assert block.how in told or "systemctl edit" in told, block.place


def test_blocks_have_their_group_their_way_and_what_is_shown() -> None:
    text = "a\n<!-- one, two: again -->\n```sh\nls\n```\n<!-- shown -->\n```\n…\n```\nb\n```\npicture\n```\n"

    first, second = blocks_in(text, "d.md")

    assert first == Block("d.md", 2, "sh", ("one", "two"), "again", "ls\n", "…\n")
    assert (second.groups, second.text, second.shown) == ((), "picture\n", None)


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a b\n", "a   b\n", True),
        ("a b\n", "a b\nc\n", False),
        ("a b\n", "x\na b\n", False),
        ("a … c\n", "a bb c\n", True),
        ("a … c\n", "a b\nb c\n", False),
        ("a\n…\nc\n", "a\nc\n", True),
        ("a\n…\nc\n", "a\nb\nb\nc\n", True),
        ("a\n…\nc\n", "a\nb\nd\n", False),
        ("a.b\n", "axb\n", False),
    ],
    ids=[
        "blanks",
        "more below",
        "more above",
        "within a line",
        "not over lines",
        "no line",
        "lines",
        "another",
        "a dot is a dot",
    ],
)
def test_what_is_shown_is_compared(shown: str, printed: str, expected: bool) -> None:
    assert fits(shown, printed) is expected


# --- manifests and settings ---


def at(manifest: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the object of a manifest that a document shows a part of."""
    content = manifest["modulesContent"]
    agent, hub = (content[name]["properties.desired"] for name in ("$edgeAgent", "$edgeHub"))
    places: dict[str, dict[str, Any]] = {
        "modulesContent": manifest,
        "modules": agent,
        "systemModules": agent,
        "$edgeHub": hub,
        "mqttBroker": hub,
    }
    found: dict[str, Any] = places[place]
    return found


def merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


@pytest.mark.parametrize("block", blocks_of("manifest"), ids=lambda block: block.place)
def test_a_part_of_a_manifest_is_right_in_its_place(block: Block) -> None:
    manifest = json.loads(SAMPLE.read_text())
    part = json.loads("{" + block.text.replace(", …", "") + "}")
    hub = manifest["modulesContent"]["$edgeHub"]["properties.desired"]
    if block.how in ("mqttBroker", "modules"):
        part = {block.how: part}
    if "mqttBroker" in part:
        hub["schemaVersion"] = "1.2"
        hub["mqttBroker"] = {"authorizations": []}

    merge(at(manifest, block.how), part)
    deployment = parse_deployment(json.dumps(manifest).encode(), block.place)

    assert deployment.warnings == ()


def test_bridges_carry_what_the_readme_says() -> None:
    manifest = json.loads(SAMPLE.read_text())
    [text] = [block.text for block in blocks_of("manifest") if block.how == "mqttBroker"]
    hub = manifest["modulesContent"]["$edgeHub"]["properties.desired"]
    hub |= {"schemaVersion": "1.2", "mqttBroker": json.loads("{" + text + "}")}

    broker = parse_deployment(json.dumps(manifest).encode(), "README.md").hub.broker

    assert broker is not None
    out, back = broker.bridges[0].rules
    assert out.destination("floor1/alerts/fire") == "plant/floor1/alerts/fire"
    assert back.destination("orders/7") == "plant/orders/7"


def test_the_settings_of_bridges_are_read(tmp_path: Path) -> None:
    [block] = blocks_of("bridges")
    text = re.sub(r"/etc/[\w/]*?([\w.-]+)\"", lambda found: f'{tmp_path}/{found[1]}"', block.text)
    for name in re.findall(rf"{tmp_path}/([\w.-]+)", text):
        (tmp_path / name).write_text(issue("somebody").pem)
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "bridges.toml"
    path.write_text(text)
    path.chmod(0o600)
    file = BridgeSettingsFile(path, OwnNames("edge1", "hub.test"))

    assert file.access("site").host == "broker.example"
    assert file.access("$upstream").host == "parent.example"


def test_every_block_of_settings_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, device = issue("edge CA", is_ca=True), issue("line-7")
    for name, text in (
        ("edge-ca.pem", authority.pem),
        ("edge-ca.key", authority.key_pem),
        ("device.pem", device.pem),
        ("device.key", device.key_pem),
        ("registry-password", "secret"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    for number, block in enumerate(blocks_of("config-file")):
        text = block.text.replace("SharedAccessKey=KEY", "SharedAccessKey=" + "A" * 43 + "=")
        path = tmp_path / f"{number}.toml"
        path.write_text(text.replace("HUB.azure", "hub.azure").replace("/etc/edge-actors", str(tmp_path)))
        path.chmod(0o600)

        code = invoke(["config", "check", "-c", str(path), "--home", str(tmp_path / "home")])

        assert code == 0, (block.place, capsys.readouterr())


# --- names ---


@pytest.mark.parametrize("name", NAMES)
def test_every_file_and_folder_that_is_named_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(
        r"(?<![\w/.-])((?:scripts|messaging|actors|runtime|tests)/(?:[\w/.-]*[\w/])?)(?!\.py::)", text
    )

    missing = [one for one in named if not (ROOT / one).exists() and not (ROOT / "tests" / one).exists()]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_that_a_design_names_is_there(package: str) -> None:
    text = (ROOT / package / "DESIGN.md").read_text()
    there = {
        path.name for folder in (*PACKAGES, "scripts", "tests") for path in (ROOT / folder).rglob("*.py")
    }

    named = set(re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", text))
    assert len(named) > 10
    assert named - there == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
        file, _, heading = target.partition("#")
        path = ((ROOT / name).parent / file).resolve() if file else ROOT / name
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in {_anchor(title) for title in titles}, target


def _anchor(title: str) -> str:
    """Return the name that a heading has in links."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_and_variable_that_is_named_is_one(name: str) -> None:
    text = (ROOT / name).read_text()
    known = {variable(field.name) for field in fields(Settings) if field.metadata}
    own = {"EDGE_ACTORS_HOME", "EDGE_ACTORS_CONFIG", "EDGE_ACTORS_RUN"}
    tables = "|".join({key.split(".")[0] for key in all_keys() if "." in key})

    assert set(re.findall(r"EDGE_ACTORS_[A-Z]\w*", text)) <= known | own
    if name != "runtime/docs/CONFIG.md":  # of which test_config_file.py is sure
        assert set(re.findall(rf"`((?:{tables})\.[\w.]+)(?:`| =)", text)) <= set(all_keys())


@pytest.mark.parametrize("name", NAMES)
def test_every_command_that_is_named_is_one(name: str) -> None:
    for words in re.findall(r"edge-actors ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)", (ROOT / name).read_text()):
        command, *rest = words.split()
        if command in ("and", "is", "as", "to", "with", "runs", "needs"):
            continue  # a sentence about the program
        assert command in COMMANDS, words
        group = cli.get_command(click.Context(cli), command)
        if isinstance(group, click.Group) and rest and rest[0] != "and":
            assert rest[0] in group.list_commands(click.Context(group)), words


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_that_is_named_is_one(name: str) -> None:
    named = set(re.findall(r"`(edge(?:hub|Agent|agent)_\w+)`", (ROOT / name).read_text()))
    known = literals()

    for metric in named:
        short = re.sub(r"^edge(?:hub|Agent|agent)_(?:broker_bridge_|broker_)?", "", metric)
        bare = re.sub(r"(?:_total|_seconds|_bytes_sum|_count|_sum)$", "", metric)
        assert {metric, bare, short, re.sub("_total$", "", short)} & known, metric


@cache
def literals() -> frozenset[str]:
    """Return the texts in the source of the three packages; what is filled in is `…`."""
    return frozenset(text for path in sources() for text in _texts(ast.parse(path.read_text())))


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[\d.]*[sdrgf]", "…", node.value)


def test_what_the_operating_guide_has_the_edge_say_is_what_it_says() -> None:
    table = (DOCS / "OPERATING.md").read_text().split("| the edge says | do |\n|---|---|\n")[1]
    said = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)

    assert len(said) > 15
    for message in said:
        parts = [part.strip() for part in message.split("…") if part.strip()]
        assert any(all(part in text for part in parts) for text in literals()), message


def test_every_promise_of_the_delivery_contract_names_a_test_that_exists() -> None:
    text = (DOCS / "DELIVERY.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    rows = [
        row
        for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)
        if not row.startswith(("| |", "|---", "| when"))
    ]

    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)
    assert [row for row in rows if "::" not in row and "disk itself is gone" not in row] == []


def test_every_command_is_told_in_the_readme() -> None:
    table = README.read_text().split("## Commands")[1].split("\n## ")[0]

    told = re.findall(
        r"`([a-z-]+)", "\n".join(row.split("|")[1] for row in re.findall(r"^\|.*", table, re.M))
    )
    assert set(COMMANDS) <= set(told)


def test_every_document_is_reached_from_the_readme() -> None:
    text = README.read_text()

    assert [path.name for path in DOCUMENTS[1:] if f"(runtime/docs/{path.name}" not in text] == []


def test_variables_that_the_table_of_compatibility_sends_elsewhere_are_there() -> None:
    settings = (DOCS / "SETTINGS.md").read_text()

    assert all(f"`{one.name}`" in settings for one in HUB_VARIABLES)
