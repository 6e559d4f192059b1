"""The workload API on real Unix sockets: limits, odd clients, opening and closing."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import ConfigError, EnvironmentFault
from runtime.daemon.api import Request
from runtime.daemon.caller import Caller
from runtime.daemon.http_connection import Limits
from runtime.daemon.workload_server import WorkloadServer, socket_path
from runtime.net.http_messages import Response, json_response
from tests.waiting import wait_until

WAIT_S = 10.0
GET = b"GET /x?y HTTP/1.1\r\nHost: h\r\n\r\n"
LAST_GET = b"GET /x?y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def echo(request: Request, caller: Caller | None) -> Response:
    """Answer with what was asked and by whom."""
    content = {
        "module": request.socket_module,
        "method": request.method,
        "target": request.target,
        "type": request.content_type,
        "size": len(request.body),
        "pid": None if caller is None else caller.pid,
        "uid": None if caller is None else caller.uid,
    }
    return json_response(200, content)


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: with a long test name its path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="ea-") as name:
        os.chmod(name, 0o755)
        yield Path(name) / "w"


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., WorkloadServer]]:
    """Make servers that are closed after the test."""
    servers: list[WorkloadServer] = []
    threads_before = set(threading.enumerate())

    def make(
        handle: Callable[[Request, Caller | None], Response] = echo, limits: Limits | None = None
    ) -> WorkloadServer:
        servers.append(WorkloadServer(folder, handle, limits))
        return servers[-1]

    yield make
    for server in servers:
        server.close_all()
    assert set(threading.enumerate()) <= threads_before


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(WAIT_S)
    connection.connect(str(path))
    return connection


def read_reply(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Read one reply and no more."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    if lines[0].startswith("http/1.1 100"):
        return 100, {}
    while len(body) < int(fields["content-length"]):
        body += _some(connection)
    assert fields["content-type"] == "application/json"
    return int(lines[0].split()[1]), json.loads(body)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError
    return data


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


def ask(path: Path, request: bytes = LAST_GET) -> tuple[int, dict[str, object]]:
    with connect(path) as connection:
        connection.sendall(request)
        return read_reply(connection)


def test_a_request_arrives_whole_and_with_its_caller(serve: Callable[..., WorkloadServer]) -> None:
    path = serve().open("m1")

    status, reply = ask(path, b"POST /a%24?b=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")

    assert status == 200
    assert reply == {
        "module": "m1",
        "method": "POST",
        "target": "/a%24?b=1",
        "type": None,
        "size": 5,
        "pid": os.getpid(),
        "uid": os.getuid(),
    }


def test_each_module_has_its_socket_in_a_folder_of_its_own(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    server = serve()

    paths = [server.open(module) for module in ("m1", "edgeHub")]

    assert paths == [folder / "m1" / "workload.sock", folder / "edgeHub" / "workload.sock"]
    assert [ask(path)[1]["module"] for path in paths] == ["m1", "edgeHub"]


def test_a_socket_that_is_open_stays_as_it_is(serve: Callable[..., WorkloadServer]) -> None:
    server = serve()
    path = server.open("m1")
    inode = path.stat().st_ino

    assert server.open("m1") == path
    assert path.stat().st_ino == inode


def test_several_requests_use_one_connection(serve: Callable[..., WorkloadServer]) -> None:
    with connect(serve().open("m1")) as connection:
        for _ in range(3):
            connection.sendall(GET)
            assert read_reply(connection)[0] == 200


def test_requests_sent_at_once_are_answered_in_order(serve: Callable[..., WorkloadServer]) -> None:
    with connect(serve().open("m1")) as connection:
        connection.sendall(GET.replace(b"/x", b"/1") + GET.replace(b"/x", b"/2") + LAST_GET)
        replies = read_all(connection)

    assert [replies.find(target) for target in (b'"/1?y"', b'"/2?y"', b'"/x?y"')] == sorted(
        replies.find(target) for target in (b'"/1?y"', b'"/2?y"', b'"/x?y"')
    )
    assert replies.count(b"HTTP/1.1 200") == 3


def test_a_request_that_comes_byte_by_byte_is_served(serve: Callable[..., WorkloadServer]) -> None:
    with connect(serve().open("m1")) as connection:
        for byte in LAST_GET:
            connection.sendall(bytes([byte]))
        assert read_reply(connection)[0] == 200


def test_a_chunked_body_is_put_together(serve: Callable[..., WorkloadServer]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

    status, reply = ask(serve().open("m1"), head + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")

    assert (status, reply["size"]) == (200, 7)


def test_a_client_that_waits_for_100_continue_gets_it(serve: Callable[..., WorkloadServer]) -> None:
    with connect(serve().open("m1")) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert read_reply(connection) == (100, {})
        connection.sendall(b"ab")
        assert read_reply(connection)[1]["size"] == 2


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n", b"200"),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", b"200"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc", b"400"),
    ],
    ids=[
        "HEAD",
        "CONNECT",
        "upgrade",
        "HTTP/1.0",
        "no host",
        "TLS",
        "length no number",
        "two lengths",
        "unknown encoding",
        "head too large",
        "cut short",
    ],
)
def test_an_odd_request_gets_its_status_and_the_server_lives(
    serve: Callable[..., WorkloadServer], request_bytes: bytes, status: bytes
) -> None:
    path = serve().open("m1")

    with connect(path) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        reply = read_all(connection)

    assert reply.startswith(b"HTTP/1.1 " + status + b" ")
    assert ask(path)[0] == 200


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1048577", b"Transfer-Encoding: chunked"],
    ids=["announced", "in chunks"],
)
def test_a_body_over_1_mib_is_refused_and_the_reply_can_be_read(
    serve: Callable[..., WorkloadServer], head: bytes
) -> None:
    path = serve().open("m1")
    body = b"x" * 1_048_577
    if b"chunked" in head:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)

    with connect(path) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        status, reply = read_reply(connection)

    assert (status, reply) == (413, {"message": "the request body is larger than 1048576 bytes"})


def test_a_body_of_1_mib_is_accepted(serve: Callable[..., WorkloadServer]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n"

    assert ask(serve().open("m1"), head + b"x" * 1_048_576)[1]["size"] == 1_048_576


@pytest.mark.parametrize(
    "part",
    [b"G", GET[:-2], b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"],
    ids=["one byte", "half a head", "half a body"],
)
def test_a_request_that_does_not_come_to_its_end_is_answered_408(
    serve: Callable[..., WorkloadServer], part: bytes
) -> None:
    with connect(serve(limits=Limits(read_s=0.2)).open("m1")) as connection:
        connection.sendall(part)
        status, reply = read_reply(connection)

    assert (status, reply) == (408, {"message": "the request was not complete within 0.2 s"})


def test_a_connection_that_asks_nothing_is_closed_without_a_reply(
    serve: Callable[..., WorkloadServer],
) -> None:
    with connect(serve(limits=Limits(silent_s=0.1)).open("m1")) as connection:
        assert read_all(connection) == b""


def test_a_connection_that_falls_silent_after_a_request_is_closed(
    serve: Callable[..., WorkloadServer],
) -> None:
    with connect(serve(limits=Limits(silent_s=1.0)).open("m1")) as connection:
        connection.sendall(GET)
        assert read_reply(connection)[0] == 200
        assert read_all(connection) == b""


def test_the_eleventh_connection_of_a_user_is_closed_until_one_of_the_ten_closes(
    serve: Callable[..., WorkloadServer],
) -> None:
    server = serve()
    path = server.open("m1")
    ten = [connect(path) for _ in range(10)]
    for connection in ten:
        connection.sendall(GET)
        assert read_reply(connection)[0] == 200

    with connect(path) as eleventh:
        assert read_all(eleventh) == b""
    assert ask(server.open("m2"))[0] == 200  # counted per socket

    ten[0].sendall(LAST_GET)
    assert read_reply(ten[0])[0] == 200
    assert read_all(ten[0]) == b""  # closed on the other side too, so its place is free
    assert ask(path)[0] == 200
    for connection in ten:
        connection.close()


def test_a_request_that_fails_is_answered_500_and_the_server_lives(
    serve: Callable[..., WorkloadServer], caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once(request: Request, caller: Caller | None) -> Response:
        if request.method == "POST":
            raise ZeroDivisionError("a mistake of ours")
        return echo(request, caller)

    path = serve(fail_once).open("m1")

    assert ask(path, b"POST / HTTP/1.1\r\nHost: h\r\n\r\n") == (500, {"message": "internal error"})
    assert ask(path)[0] == 200
    assert "a mistake of ours" in caplog.text


def _nothing(path: Path) -> None:
    return


def _stale_socket(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))


def _folder_at_socket(path: Path) -> None:
    path.mkdir(parents=True)


def _file_at_socket(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("")


def _file_at_folder(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("")


def _link_at_folder(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.symlink_to("/tmp")


def _private_folder(path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o700)


@pytest.mark.parametrize(
    "before",
    [
        _nothing,
        _stale_socket,
        _folder_at_socket,
        _file_at_socket,
        _file_at_folder,
        _link_at_folder,
        _private_folder,
    ],
    ids=lambda before: before.__name__.strip("_").replace("_", " "),
)
def test_whatever_stands_at_the_path_gives_way(
    serve: Callable[..., WorkloadServer], folder: Path, before: Callable[[Path], None]
) -> None:
    before(socket_path(folder, "m1"))
    umask = os.umask(0o077)
    try:
        path = serve().open("m1")
    finally:
        os.umask(umask)

    assert ask(path)[0] == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o755
    assert stat.S_ISDIR(path.parent.lstat().st_mode)


def test_a_folder_with_something_in_it_is_not_removed_but_named(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    path = socket_path(folder, "m1")
    (path / "data").mkdir(parents=True)

    with pytest.raises(
        EnvironmentFault, match=r"module 'm1': cannot open .*workload\.sock': Directory not empty"
    ):
        serve().open("m1")

    assert (path / "data").is_dir()


def test_a_run_directory_that_is_no_directory_is_named(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    folder.write_text("a file")

    with pytest.raises(EnvironmentFault, match=r"module 'm1': cannot open .*: Not a directory; repair"):
        serve().open("m1")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_run_directory_that_may_not_be_written_is_named(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    folder.mkdir(mode=0o755)
    nobody = pwd.getpwnam("nobody").pw_uid
    os.seteuid(nobody)
    try:
        with pytest.raises(EnvironmentFault, match=r"module 'm1': cannot open .*: Permission denied; repair"):
            serve().open("m1")
    finally:
        os.seteuid(0)


def test_a_path_of_107_bytes_works_and_one_more_is_refused_by_name(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    longest = "m" * (107 - len(str(folder)) - len("//workload.sock"))
    server = serve()

    assert ask(server.open(longest))[1]["module"] == longest

    with pytest.raises(ConfigError, match=rf"module '{longest}m': .* 108 bytes long, .* allows 107; shorten"):
        server.open(longest + "m")


@pytest.mark.parametrize("module", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_that_would_leave_the_folder_is_refused(
    serve: Callable[..., WorkloadServer], module: str
) -> None:
    with pytest.raises(ConfigError, match="cannot be that of a folder"):
        serve().open(module)


def test_closing_a_module_removes_its_socket_and_folder_and_leaves_the_others(
    serve: Callable[..., WorkloadServer], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    path, other = server.open("m1"), server.open("m2")

    with connect(path) as connection:
        connection.sendall(GET)
        assert read_reply(connection)[0] == 200
        server.close("m1")
        assert read_all(connection) == b""
    server.close("m1")

    assert os.listdir(folder) == ["m2"]
    assert ask(other)[0] == 200
    assert not caplog.records


def test_a_module_that_was_closed_can_be_opened_again(serve: Callable[..., WorkloadServer]) -> None:
    server = serve()
    server.open("m1")

    server.close("m1")

    assert ask(server.open("m1"))[0] == 200


def test_a_request_under_way_is_answered_before_its_module_is_closed(
    serve: Callable[..., WorkloadServer],
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(request: Request, caller: Caller | None) -> Response:
        entered.set()
        assert go_on.wait(WAIT_S)
        return echo(request, caller)

    server = serve(wait)
    path = server.open("m1")

    with connect(path) as connection, ThreadPoolExecutor() as pool:
        connection.sendall(GET)
        assert entered.wait(WAIT_S)
        closing = pool.submit(server.close, "m1")
        go_on.set()
        assert read_reply(connection)[0] == 200
        assert read_all(connection) == b""
        closing.result(WAIT_S)
    assert not path.exists()


def test_after_closing_all_the_folders_stay_for_the_next_run(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    server = serve()
    path = server.open("m1")
    inode = path.parent.stat().st_ino

    server.close_all()
    server.close_all()

    assert not path.exists()
    assert ask(server.open("m1"))[0] == 200
    assert path.parent.stat().st_ino == inode


def test_a_process_under_another_user_reaches_the_socket_but_cannot_replace_it(
    serve: Callable[..., WorkloadServer],
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    path = serve().open("m1")
    program = f"""
import os, socket
connection = socket.socket(socket.AF_UNIX)
connection.connect({str(path)!r})
connection.sendall({LAST_GET!r})
print(connection.makefile("rb").read().rpartition(b"\\r\\n")[2].decode())
try:
    os.unlink({str(path)!r})
except PermissionError:
    print("kept")
"""
    nobody = pwd.getpwnam("nobody").pw_uid

    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program], user=nobody, capture_output=True, text=True, check=True
    )

    reply, kept = done.stdout.splitlines()
    assert json.loads(reply)["uid"] == nobody
    assert kept == "kept"


def test_importing_the_server_does_not_load_heavy_packages() -> None:
    program = "import sys, runtime.daemon.workload_server, runtime.daemon.workload_api; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not {"aiohttp", "cryptography", "docker", "rich", "azure"} & set(done.stdout.split())


@pytest.fixture(scope="module")
def lasting_socket() -> Iterator[Path]:
    """Serve for many examples of one test."""
    with tempfile.TemporaryDirectory(prefix="ea-") as name:
        server = WorkloadServer(Path(name), echo)
        yield server.open("m1")
        server.close_all()


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda tail: GET + tail)))
def test_random_bytes_end_in_a_reply_or_a_closed_connection(lasting_socket: Path, data: bytes) -> None:
    with connect(lasting_socket) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        reply = read_all(connection)

    assert reply == b"" or reply.startswith(b"HTTP/1.1 ")
    assert ask(lasting_socket)[0] == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another group")
def test_the_socket_of_a_module_with_a_group_is_closed_to_others(
    serve: Callable[..., WorkloadServer],
) -> None:
    path = serve().open("m1", group=60_600)

    modes = [(at.stat().st_uid, at.stat().st_gid, at.stat().st_mode & 0o777) for at in (path, path.parent)]
    assert modes == [(0, 60_600, 0o660), (0, 60_600, 0o710)]
    assert path.parent.parent.stat().st_mode & 0o777 == 0o711


def exchange(path: Path) -> tuple[int, dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(path))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = client
        connection.request("GET", "/modules")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_a_debug_socket_serves_our_own_user_until_its_process_ends(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    asked: list[Request] = []

    def handle(request: Request, caller: Caller | None) -> Response:
        asked.append(request)
        return Response(200, b"{}")

    server = serve(handle)
    ordinary = server.open("m1")
    with subprocess.Popen(["sleep", "1000"]) as process:
        path = server.open_debug("m1", folder.parent / "d", os.pidfd_open(process.pid))
        assert exchange(path) == exchange(ordinary) == (200, {})
        process.kill()

    assert [(request.socket_module, request.socket_uid) for request in asked] == [
        ("m1", os.geteuid()),
        ("m1", None),
    ]
    wait_until(lambda: not path.parent.exists(), "the socket goes with its process", WAIT_S)
    assert exchange(ordinary) == (200, {})


def test_debug_sockets_end_with_the_server(serve: Callable[..., WorkloadServer], folder: Path) -> None:
    server = serve()
    paths = [server.open_debug("m1", folder.parent / "d", os.pidfd_open(os.getpid())) for _ in range(2)]

    server.close_all()

    assert paths[0] != paths[1]
    assert not any(path.parent.exists() for path in paths)


def test_a_debug_socket_that_cannot_be_made_is_told(
    serve: Callable[..., WorkloadServer], folder: Path
) -> None:
    (folder.parent / "d").write_text("")

    with pytest.raises(EnvironmentFault, match="cannot"):
        serve().open_debug("m1", folder.parent / "d", os.pidfd_open(os.getpid()))
