"""What the documents tell a reader to type is typed, and prints what they show."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import Block, blocks_of
from tests.integration.cloud_program import CloudProgram
from tests.integration.device_certificates import issue
from tests.integration.edge_program import SAMPLE
from tests.integration.node_sdk import FOLDER as NODE_FOLDER
from tests.integration.node_sdk import need_node, need_port
from tests.integration.terminal import Reader, programs
from tests.waiting import wait_until

CLOUD = "/tmp/my-cloud"
KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder, who has the programs."""
    folder = tmp_path / "desk"
    folder.mkdir()
    reader = Reader(folder, folder, folder, PATH=programs(tmp_path / "bin"))
    yield reader
    reader.close(folder / "home")


def test_the_module_developers_guide_goes_as_it_is_written(desk: Reader) -> None:
    need_node()
    (desk.folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules")  # as `npm install` makes it

    desk.follow(blocks_of("modules"))

    assert not (desk.folder / "home").exists()


def test_the_operating_guide_and_what_the_readme_types_beside_an_edge_go_as_written(
    desk: Reader,
) -> None:
    for name in ("camera.pem", "next.pem"):
        (desk.folder / name).write_text(issue("camera").pem)
    shutil.copy(SAMPLE.parent / "filter.py", desk.folder)
    operating = blocks_of("operating")
    stopped = next(number for number, block in enumerate(operating) if "edge-actors down" in block.text)

    desk.follow(operating[:stopped])
    desk.follow(blocks_of("beside-an-edge"))
    desk.follow(operating[stopped:])

    devices = desk.second.type("edge-actors identity list")
    assert [line.split()[::3] for line in devices.splitlines() if "leaf device" in line] == [
        ["camera", "selfSigned"],
        ["pump", "certificateAuthority"],
    ]
    assert "BEGIN CERTIFICATE" in (desk.folder / "edge-ca.pem").read_text()


def test_an_edge_is_watched_as_the_page_on_the_inspector_and_the_readme_say(desk: Reader) -> None:
    *page, end = blocks_of("inspector")

    desk.follow(page)
    desk.follow(blocks_of("watching"))
    desk.follow([end])

    assert stat.S_IMODE((desk.folder / "hour.jsonl").stat().st_mode) == 0o600


def test_the_fault_script_of_the_readme_is_kept(desk: Reader) -> None:
    pytest.importorskip("yaml", reason="fault scripts need PyYAML")

    script, run = blocks_of("faults")
    desk.follow([script])
    desk.second.follow(run, limit_s=120.0)


@pytest.mark.parametrize("block", blocks_of("config"), ids=lambda block: block.place)
def test_a_first_file_of_settings_is_written_checked_and_applied(block: Block, desk: Reader) -> None:
    text = f"HostName=hub.azure-devices.net;DeviceId=line-7;SharedAccessKey={KEY}\n"
    for name in ("line-7.txt", "connection-string.txt"):
        (desk.folder / name).write_text(text)
    desk.second.type("export EDGE_ACTORS_HOME=$PWD/home")

    shown = desk.second.type(block.text)

    assert "hub.azure-devices.net" in shown
    assert KEY not in shown


def test_the_iot_hub_on_this_machine_serves_what_the_readme_types(desk: Reader, tmp_path: Path) -> None:
    pytest.importorskip("azure.iot.hub", reason="the service SDK has no wheel for this Python")
    home = desk.folder / "cloud"
    (desk.folder / "twin.json").write_text('{"tags": {"site": "north"}}')

    def here(block: Block) -> Block:
        text = block.text.replace(CLOUD, str(home))
        if block.how == "in the background":
            text = text.replace("cloud run", f"cloud run --listen {desk.environment['EDGE_ACTORS_LISTEN']}")
        return Block(block.document, block.line, block.language, block.groups, block.how, text, block.shown)

    start, *others = [here(block) for block in blocks_of("cloud")]
    desk.first.start(start.text)
    serving = home / "cloud" / "serving.json"
    wait_until(serving.exists, "the IoT Hub serves")
    for block in others:
        if block.language == "sh":
            desk.second.follow(block)
        elif block.how == "device":
            run_python(desk, block.text)
        else:
            assert "21.5" in run_python(desk, block.text, until="21.5", certifi=home / "cloud" / "ca.pem")


def run_python(desk: Reader, text: str, until: str = "", certifi: Path | None = None) -> str:
    """Run a program of a document until it ends, or prints what is waited for; return what it printed."""
    environment = desk.environment | {"EDGE_ACTORS_HOME": str(desk.folder / "cloud"), "PYTHONUNBUFFERED": "1"}
    if certifi is not None:  # instead of `cat … >> $(python -m certifi)`, which would change this machine
        folder = desk.folder / "trust"
        folder.mkdir()
        (folder / "certifi.py").write_text(f"def where():\n    return {str(certifi)!r}\n")
        environment |= {"PYTHONPATH": str(folder), "REQUESTS_CA_BUNDLE": str(certifi)}
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=desk.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if until and until in line:
            process.kill()
    code = process.wait(30)
    assert code == 0 or (until and until in printed), printed
    return printed


def test_an_edge_is_linked_to_an_iot_hub_as_the_readme_says(desk: Reader, tmp_path: Path) -> None:
    """`az` is played by a program that does the same at the stand-in."""
    need_port("127.0.0.1", 443)
    bare = json.loads(SAMPLE.read_text())  # its process modules would not be allowed from a cloud
    bare["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"] = {}
    (desk.folder / "bare.json").write_text(json.dumps(bare))
    make, run, look = blocks_of("linked")
    with CloudProgram() as cloud:
        az = tmp_path / "bin" / "az"
        az.write_text(AZ.format(home=cloud.home, manifest=desk.folder / "bare.json"))
        az.chmod(0o755)
        for terminal in (desk.first, desk.second):
            terminal.type(f"export EDGE_ACTORS_HOME=$PWD/home EDGE_ACTORS_CLOUD_CA={cloud.ca_file}")

        desk.second.follow(make)
        desk.first.start(run.text)
        desk.second.follow(look)
        desk.second.type("edge-actors down")


AZ = """#!/bin/sh
export EDGE_ACTORS_HOME={home}
case "$*" in
*"connection-string show -n myhub -d line-7") edge-actors cloud connection-string --device line-7 ;;
*"create -n myhub -d line-7 --edge-enabled")
    edge-actors cloud device create line-7 --edge
    edge-actors cloud deploy line-7 {manifest} ;;
*) exit 2 ;;
esac
"""


@pytest.mark.docker
def test_the_image_of_the_guide_is_built_and_its_module_runs(
    docker_image: str, desk: Reader, tmp_path: Path
) -> None:
    """The test's own image plays that of Python, which would come from a registry; the SDK is in it."""
    file, build, module = blocks_of("container")
    [python] = [block for block in blocks_of("modules") if block.how == "counter.py"]
    (desk.folder / python.how).write_text(python.text)
    base, pip, *rest = file.text.splitlines(keepends=True)
    assert (base, pip) == ("FROM python:3.12-slim\n", "RUN pip install --no-cache-dir azure-iot-device\n")
    (desk.folder / file.how).write_text("".join((f"FROM {docker_image}\n", *rest)))
    manifest = json.loads(SAMPLE.read_text())
    agent = manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
    agent["modules"] = json.loads("{" + module.text + "}")
    (desk.folder / "deployment.json").write_text(json.dumps(manifest))
    if shutil.which("docker") is None:
        pytest.skip("there is an engine and no command `docker`")

    desk.second.follow(build)
    try:
        for terminal in (desk.first, desk.second):
            terminal.type("export EDGE_ACTORS_HOME=$PWD/home")
        desk.first.start("edge-actors run --deployment deployment.json\n")
        connected = Block(
            "", 0, "sh", (), "again", "edge-actors logs counter --tail 1", "counter: connected\n"
        )
        desk.second.follow(connected)
    finally:
        desk.second.type("edge-actors down --purge; docker image rm --force counter:1")
