"""Support bundles of whole edges: what is in them, and what never is."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from actors.agent.reported import MASKED
from runtime.daemon.management_server import management_socket
from runtime.home import Home
from runtime.security.key_store import KeyStore
from runtime.upstream.provisioning import load
from tests.integration.container_edge import ContainerEdge
from tests.integration.containers import container
from tests.integration.edge_process import EdgeProcess, shell
from tests.integration.edge_program import EdgeProgram
from tests.integration.management import call
from tests.waiting import wait_until

if TYPE_CHECKING:
    from docker import APIClient

PASSWORD = "Corr3ct-Horse"
BRIDGE_PASSWORD = "far-away-battery"
STORAGE_KEY = "Zm9vYmFyMTIzNDU2Nzg5"
# What modules should not do, and do all the same.
TALK = (
    f"echo 'login with password={PASSWORD}';"
    f"echo 'upload to https://a.blob/c?sv=1&sig={STORAGE_KEY}&sp=w';"
    f"echo the other broker lets {BRIDGE_PASSWORD} in;"
    "echo an ordinary line; exec sleep 1000"
)


class Storage:
    """A storage account that keeps what is put there."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, dict[str, str], bytes]] = []
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                storage.puts.append((self.path, dict(self.headers), body))
                self.send_response(201)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/container?sv=1&sig={STORAGE_KEY}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def storage() -> Iterator[Storage]:
    made = Storage()
    yield made
    made.close()


def set_bridge(home: Path) -> None:
    """Have a password in the settings of bridges."""
    path = home / "bridges.toml"
    path.touch(0o600)
    path.write_text(f'[site]\naddress = "mqtts://far"\nuser_name = "u"\npassword = "{BRIDGE_PASSWORD}"\n')


@pytest.fixture(scope="module")
def shared() -> Iterator[EdgeProcess]:
    edge = EdgeProcess()
    talker = shell(TALK, env={"DB_PASSWORD": {"value": PASSWORD}, "RATE": {"value": "7"}})
    edge.deploy({"talker": talker})
    edge.start()
    edge.wait_for(edgeHub="running", talker="running")
    set_bridge(edge.home)
    yield edge
    edge.close()


def bundle(home: Path, *arguments: str) -> zipfile.ZipFile:
    """Return the bundle of a home, as the command writes it to standard output."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "runtime.cli.main",
            "support-bundle",
            "--home",
            str(home),
            "-o",
            "-",
            *arguments,
        ],
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(io.BytesIO(done.stdout))


def secrets_of(home: Path) -> list[bytes]:
    """Return every secret that the edge of a home keeps, as it would stand in a text."""
    found = load(Home(home))
    keys = [
        base64.b64encode(key)
        for one in KeyStore.open(Home(home).keys).identities()
        for key in (one.primary_key, one.secondary_key)
        if key
    ]
    device = [] if found is None else [found.device_key.reveal()]
    return [
        *keys,
        *device,
        *(secret.encode() for secret in (PASSWORD, BRIDGE_PASSWORD, STORAGE_KEY, "PRIVATE KEY")),
    ]


def assert_no_secrets(archive: zipfile.ZipFile, secrets: list[bytes]) -> None:
    assert len(secrets) > 5
    for name in archive.namelist():
        content = archive.read(name)
        for secret in secrets:
            assert secret not in content, (name, secret)


def test_a_bundle_of_an_edge_that_runs_has_all_and_no_secret(shared: EdgeProcess) -> None:
    archive = bundle(shared.home)

    names = set(archive.namelist())
    assert {
        "check.json",
        "system.json",
        "settings.json",
        "identities.json",
        "modules.json",
        "reported.json",
        "ledger.json",
        "upstream.json",
        "metrics/edgeHub.txt",
        "metrics/edgeAgent.txt",
        "logs/edgeHub_log.txt",
        "logs/talker_log.txt",
    } <= names
    assert {"logs/docker.txt", "logs/docker_err.txt"} & names
    assert_no_secrets(archive, secrets_of(shared.home))
    log = archive.read("logs/talker_log.txt").decode()
    assert log == (
        f"login with password={MASKED}\nupload to https://a.blob/c?sv=1&sig={MASKED}&sp=w\n"
        f"the other broker lets {MASKED} in\nan ordinary line\n"
    )
    reported: dict[str, Any] = json.loads(archive.read("reported.json"))
    env = reported["modules"]["talker"]["env"]
    assert (env["DB_PASSWORD"], env["RATE"]) == ({"value": MASKED}, {"value": "7"})
    check = json.loads(archive.read("check.json"))["checks"]
    assert check["connect-management-uri"]["result"]["result"] == "ok"
    assert json.loads(archive.read("ledger.json"))["total"]["received"] >= 0
    assert b"# TYPE edgehub_actor_handled_total counter" in archive.read("metrics/edgeHub.txt")
    assert b"edgeAgent_module_start_total{" in archive.read("metrics/edgeAgent.txt")


def test_logs_of_modules_are_left_out_when_wanted(shared: EdgeProcess) -> None:
    names = bundle(shared.home, "-e").namelist()

    assert "logs/edgeHub_log.txt" in names
    assert "logs/talker_log.txt" not in names


def test_the_management_api_gives_the_same(shared: EdgeProcess) -> None:
    path = management_socket(shared.run.path)

    status, content, headers = call(path, "GET", "/systeminfo/supportbundle?since=1h&edge_runtime_only=true")

    assert status == 200, content
    assert headers["content-encoding"] == "deflate"
    assert int(headers["content-length"]) == len(content)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert "check.json" in archive.namelist()
    assert_no_secrets(archive, secrets_of(shared.home))
    for wrong in ("since=yesterday", "edge_runtime_only=1"):
        assert call(path, "GET", f"/systeminfo/supportbundle?{wrong}")[0] == 400


def test_the_cloud_asks_for_a_bundle_and_gets_it(shared: EdgeProcess, storage: Storage) -> None:
    def method(name: str, **payload: Any) -> Any:
        done = subprocess.run(
            [
                sys.executable,
                *("-m", "runtime.cli.main", "cloud", "method", "--home", str(shared.home), "--json"),
                *(json.loads((shared.home / "device.json").read_text())["deviceId"], name),
                *("--module", "$edgeAgent", "--payload", json.dumps({"schemaVersion": "1.0"} | payload)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["status"] == 200, answer
        return answer["payload"]

    task = method("UploadSupportBundle", sasUrl=storage.url, since="1h")
    assert task["status"] == "Running"
    state: dict[str, Any] = {}

    def has_ended() -> bool:
        state.update(method("GetTaskStatus", correlationId=task["correlationId"]))
        return bool(state["status"] != "Running")

    wait_until(has_ended, "the bundle is there", 60.0)

    assert (state["status"], state["message"]) == ("Completed", "")
    [(path, headers, body)] = storage.puts
    name, _, query = path.partition("?")
    device_id = json.loads((shared.home / "device.json").read_text())["deviceId"]
    assert name.startswith(f"/container/{shared.iothub}/{device_id}/support-bundle-20")
    assert name.endswith(".zip")
    assert query == f"sv=1&sig={STORAGE_KEY}"
    assert headers["x-ms-blob-type"] == "BlockBlob"
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/zip", "zip")
    archive = zipfile.ZipFile(io.BytesIO(body))
    assert "logs/talker_log.txt" in archive.namelist()
    assert_no_secrets(archive, secrets_of(shared.home))
    assert STORAGE_KEY not in shared.log.read_text()

    failing = method("UploadSupportBundle", sasUrl="http://127.0.0.1:9/container?sig=x", edgeRuntimeOnly=True)
    assert failing["status"] == "Running"


def test_a_bundle_of_an_edge_that_is_stopped_says_what_is_missing(tmp_path: Path) -> None:
    edge = EdgeProgram(tmp_path / "home")
    try:
        edge.run_for_a_message()
        done = edge.run("support-bundle", "-o", str(tmp_path / "b.zip"), "--since", "2 hours")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{tmp_path}/b.zip (")
        assert (tmp_path / "b.zip").stat().st_mode & 0o777 == 0o600
        archive = zipfile.ZipFile(tmp_path / "b.zip")
    finally:
        edge.close()

    names = archive.namelist()
    assert {"ledger.json", "identities.json", "logs/edgeAgent_log.txt", "logs/sensor_log.txt"} <= set(names)
    assert b"no edge runs" in archive.read("modules_err.json")
    assert "modules.json" not in names


@pytest.mark.parametrize("what", ["missing", "a file", "damaged"])
def test_a_bundle_of_a_broken_home_is_made_all_the_same(what: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    if what == "a file":
        home.write_text("")
    elif what == "damaged":
        home.mkdir(mode=0o700)
        for name in ("keys.json", "provisioned.json", "hub.json", "device.json", "hub.db", "cloud.json"):
            (home / name).write_text("{nonsense")

    archive = bundle(home)

    assert "check.json" in archive.namelist()
    assert any(name.endswith("_err.json") for name in archive.namelist())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--since", "yesterday"), "--since 'yesterday' is no time; write"),
        (("--until", "x"), "--until 'x' is no time; write"),
        (("-o", "/no/such/folder/b.zip"), "No such file or directory"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_collected(
    arguments: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done = EdgeProgram(tmp_path / "home").run("support-bundle", *arguments)

    assert done.returncode == (1 if "/no" in arguments[1] else 2)
    assert told in done.stderr
    assert "collecting" not in done.stderr


@pytest.mark.docker
def test_what_the_engine_tells_is_there_without_secrets(docker_image: str) -> None:
    from docker import APIClient

    client: APIClient = APIClient(version="auto")
    edge = ContainerEdge(client)
    try:
        env = {"DB_PASSWORD": {"value": PASSWORD}}
        edge.deploy({"talker": container(docker_image, "sh", "-c", TALK, env=env)})
        edge.start()
        edge.wait_for(edgeHub="running", talker="running")
        set_bridge(edge.home)
        archive = bundle(edge.home)
        assert_no_secrets(archive, secrets_of(edge.home))
    finally:
        edge.close()
        client.close()

    names = archive.namelist()
    assert {"docker_info.json", "inspect/talker.json"} <= set(names)
    assert any(name.startswith("network/edge-actors-") for name in names)
    assert f"DB_PASSWORD={MASKED}" in json.loads(archive.read("inspect/talker.json"))["Config"]["Env"]
    assert b"an ordinary line\n" in archive.read("logs/talker_log.txt")
