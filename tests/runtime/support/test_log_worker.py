"""Logs of modules as the methods of `$edgeAgent` answer and upload them, to a server of the test."""

from __future__ import annotations

import base64
import gzip
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from actors.agent.log_query import MOST_ANSWERED, LogRequest, parse_request
from messaging.errors import EnvironmentFault
from runtime.home import Home
from runtime.support.blob_upload import Content, upload
from runtime.support.log_worker import ModuleLogWorker

LIMIT_S = 10.0
NOW_S = 1_714_557_600.0
LINES = "<6> 2024-05-01 09:59:00.000 +00:00 one\n<3> 2024-05-01 09:59:30.000 +00:00 two\nthree\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sensor.log").write_text(LINES)
    (tmp_path / "logs" / "other.log").write_text("x\n")
    return Home(tmp_path)


@pytest.fixture
def worker(home: Home) -> Iterator[ModuleLogWorker]:
    made = ModuleLogWorker(home, "hub.example", "dev1")
    yield made
    made.close()


def asked(needs_url: bool = False, **members: Any) -> LogRequest:
    payload = {"schemaVersion": "1.0", "items": {"id": "^sensor$"}} | members
    return parse_request(json.dumps(payload).encode(), NOW_S, needs_url)


def answer(worker: ModuleLogWorker, request: LogRequest) -> tuple[int, Any]:
    answers: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    worker.read(request, ["sensor", "other"], lambda status, payload: answers.put((status, payload)))
    status, payload = answers.get(timeout=LIMIT_S)
    return status, json.loads(payload)


@pytest.mark.parametrize("encoding", ["none", "gzip"])
@pytest.mark.parametrize("content_type", ["text", "json"])
def test_each_module_has_an_entry_in_the_form_asked_for(
    worker: ModuleLogWorker, encoding: str, content_type: str
) -> None:
    """Source: agent.md section 8, row 121."""
    status, [entry] = answer(worker, asked(encoding=encoding, contentType=content_type))

    assert status == 200
    assert [*entry] == ["id", "payloadBytes", "payload"]
    assert entry["id"] == "sensor"
    if encoding == "gzip":
        assert entry["payload"] is None
        payload = gzip.decompress(base64.b64decode(entry["payloadBytes"])).decode()
    else:
        assert entry["payloadBytes"] is None
        payload = entry["payload"]
    if content_type == "text":
        assert payload == LINES
    else:
        assert [(line["loglevel"], line["text"]) for line in json.loads(payload)] == [
            (6, "one"),
            (3, "two"),
            (6, "three"),
        ]


def test_filters_count(worker: ModuleLogWorker) -> None:
    items = {"id": "sensor", "filter": {"since": "45s", "loglevel": 3}}

    _, [entry] = answer(worker, asked(items=items, contentType="text"))

    assert entry["payload"] == "<3> 2024-05-01 09:59:30.000 +00:00 two\n"


def test_a_module_without_a_log_has_an_empty_one_and_none_at_all_an_empty_list(
    worker: ModuleLogWorker, home: Home
) -> None:
    home.log_of("sensor").unlink()

    assert answer(worker, asked()) == (200, [{"id": "sensor", "payloadBytes": None, "payload": "[]"}])
    assert answer(worker, asked(items={"id": "nobody"})) == (200, [])


@pytest.mark.parametrize(("characters", "status"), [(MOST_ANSWERED, 200), (MOST_ANSWERED + 1, 400)])
def test_more_than_fits_into_an_answer_is_refused(
    worker: ModuleLogWorker, home: Home, characters: int, status: int
) -> None:
    """Source: agent.md section 8, row 122."""
    line = "y" * 999 + "\n"
    text = line * (characters // 1000) + "y" * (characters % 1000)
    home.log_of("sensor").write_text(text)

    assert answer(worker, asked(contentType="text"))[0] == status
    assert answer(worker, asked(contentType="text", encoding="gzip"))[0] == 200


def test_an_expression_that_takes_for_ever_is_an_answer_and_holds_nobody_up(
    worker: ModuleLogWorker, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.support.log_worker.REGEX_LIMIT_S", 0.3)
    home.log_of("sensor").write_text("a" * 60 + "!" * 5 + "x" * 60 + "\n")
    items = {"id": "sensor", "filter": {"regex": r"(?:x+x+)+y|(?:(?:a|aa)+)+$"}}

    status, refused = answer(worker, asked(items=items))

    assert status == 400
    assert "takes too long" in refused["message"]


# uploads


class Storage:
    """A storage account, as far as it takes blobs."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, dict[str, str], bytes]] = []
        self.refuse = 0  # so many requests
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                refused, storage.refuse = storage.refuse > 0, max(0, storage.refuse - 1)
                storage.puts.append((self.path, dict(self.headers), body))
                self.send_response(503 if refused else 201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/container?sig=secret"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(LIMIT_S)
        self._server.server_close()


@pytest.fixture
def storage() -> Iterator[Storage]:
    made = Storage()
    yield made
    made.close()


def put(worker: ModuleLogWorker, request: LogRequest) -> str:
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    worker.upload(request, ["sensor", "other"], ends.put)
    return ends.get(timeout=LIMIT_S)


def test_json_is_one_block_blob(worker: ModuleLogWorker, storage: Storage) -> None:
    """Source: agent.md section 8, row 123."""
    problem = put(worker, asked(needs_url=True, sasUrl=storage.url, contentType="json"))

    [(path, headers, body)] = storage.puts
    assert problem == ""
    name, _, query = path.partition("?")
    assert name.startswith("/container/hub.example/dev1/sensor-20")
    assert name.endswith(".json")
    assert query == "sig=secret"
    assert (headers["x-ms-blob-type"], headers["Content-Type"]) == ("BlockBlob", "application/json")
    assert [line["text"] for line in json.loads(body)] == ["one", "two", "three"]


def test_text_is_an_append_blob(worker: ModuleLogWorker, storage: Storage) -> None:
    """Source: agent.md section 8, rows 120 and 123."""
    request = asked(needs_url=True, sasUrl=storage.url, contentType="text", encoding="gzip")

    assert put(worker, request) == ""

    (made, headers, empty), (appended, _, body) = storage.puts
    assert empty == b""
    assert (headers["x-ms-blob-type"], headers["Content-Encoding"]) == ("AppendBlob", "gzip")
    assert made.partition("?")[0].endswith(".log.gz")
    assert appended == f"{made}&comp=appendblock"
    assert gzip.decompress(body).decode() == LINES


def test_all_modules_are_uploaded_and_one_that_fails_fails_the_task(
    worker: ModuleLogWorker, storage: Storage
) -> None:
    """Source: agent.md section 8, row 111."""
    storage.refuse = 1
    request = asked(needs_url=True, sasUrl=storage.url, contentType="text", items={"id": "all"})

    problem = put(worker, request)

    assert "127.0.0.1 refuses the logs with status 503" in problem
    assert "secret" not in problem
    assert len(storage.puts) == 3  # the first was refused, the other module has its two


def test_json_is_tried_three_times(storage: Storage, tmp_path: Path) -> None:
    waits: list[float] = []
    file = (tmp_path / "x").open("w+b")
    storage.refuse = 2

    upload(storage.url, "b.json", Content(file, "application/json"), appended=False, sleep=waits.append)
    assert waits == [5.0, 20.0]

    storage.refuse = 3
    with pytest.raises(EnvironmentFault, match="status 503"):
        upload(storage.url, "b.json", Content(file, "application/json"), appended=False, sleep=waits.append)
    file.close()


@pytest.mark.parametrize("url", ["ftp://a/b", "nonsense", "http:///x"])
def test_an_url_that_is_none_is_refused_without_being_shown(
    worker: ModuleLogWorker, url: str, storage: Storage
) -> None:
    assert "is not the http or https URL" in put(worker, asked(needs_url=True, sasUrl=url))
