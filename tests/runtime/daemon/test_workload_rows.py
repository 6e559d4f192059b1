"""The test cases of the workload API, numbered as in the spec sheet security-daemon.md section 9.

Over the real sockets, with processes that play the modules; keys, certificates and server are those of an
edge. Elsewhere: 30 in test_workload_sdk.py, 31 in integration/test_edge_environment.py, 32 and 33 in
test_workload_server.py. 12 differs on purpose: the socket of a module serves no other.
"""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runtime.agent.security import EdgeSecurity
from runtime.daemon.api import API_VERSIONS
from runtime.daemon.caller import ModuleProcess
from runtime.home import Home
from runtime.modules.environment import EdgeNames
from runtime.security.certificates import ensure_edge_ca
from tests.runtime.module_processes import module_process

V = "api-version=2022-08-03"
IV = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
TEXT = base64.b64encode(b"some text").decode()
SIGN = json.dumps({"keyId": "primary", "algo": "HMACSHA256", "data": "ZGF0YQ=="})
DAY_S = 86_400

# Reads requests, a line of JSON each, and sends them as its own process.
PLAYER = """
import http.client, json, socket, sys
for line in sys.stdin:
    asked = json.loads(line)
    connection = http.client.HTTPConnection("h")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(asked["socket"])
    body = asked["body"].encode() if asked["body"] is not None else None
    connection.putrequest(asked["method"], asked["target"])
    for name, value in asked["headers"].items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    reply = connection.getresponse()
    told = {"status": reply.status, "type": reply.getheader("Content-Type"), "body": reply.read().decode()}
    print(json.dumps(told), flush=True)
"""


class Player:
    """A process in a session of its own that speaks HTTP over Unix sockets."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PLAYER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.process = module_process(self._process.pid)

    def ask(
        self, path: Path, method: str, target: str, body: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Return status and JSON of the reply."""
        asked = {"socket": str(path), "method": method, "target": target, "body": body, "headers": headers}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        assert told["type"] == "application/json"
        return told["status"], json.loads(told["body"])

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


class Edge:
    """The security part of an edge with device d1 at hub h, gateway gw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = time.time()
        self.processes: dict[str, ModuleProcess] = {}
        self.security = self._made()

    def restart(self) -> None:
        self.security.close()
        self.security = self._made()

    def socket_of(self, module: str) -> Path:
        return Path(self.security.ensure_module(module, self.now_s).workload_uri.removeprefix("unix://"))

    def primary_key(self, module_id: str) -> bytes:
        """Return the key with which the hub checks the tokens of a module."""
        known = {identity.id: identity.keys[0] for identity in self.security.identities().identities}
        return known[f"d1/{module_id}"].reveal()

    def _made(self) -> EdgeSecurity:
        return EdgeSecurity(
            Home(self.folder / "home"),
            self.folder,
            names=EdgeNames("d1", "h", "gw"),
            server_names=("gw", "edgeHub"),
            process_of=self.processes.get,
            now_s=lambda: self.now_s,
        )


@pytest.fixture(scope="module")
def players() -> Iterator[tuple[Player, Player]]:
    two = (Player(), Player())
    yield two
    for one in two:
        one.end()


@pytest.fixture
def edge(run_dir: Path, players: tuple[Player, Player]) -> Iterator[Edge]:
    edge = Edge(run_dir)
    for name in ("m1", "edgeHub", "edgeAgent"):
        edge.processes[name] = players[0].process
        edge.socket_of(name)
    edge.processes["m2"] = players[1].process
    yield edge
    edge.security.close()


Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def as_m1(edge: Edge, players: tuple[Player, Player]) -> Ask:
    """Ask as m1 by the socket of m1, or of the module that is named."""

    def ask(
        method: str, target: str, body: str | None = None, *, by: str = "m1", **headers: str
    ) -> tuple[int, Any]:
        return players[0].ask(edge.socket_of(by), method, target, body, **headers)

    return ask


def _trust(ask: Ask) -> str:
    return str(ask("GET", f"/trust-bundle?{V}")[1]["certificate"])


def _seal(ask: Ask, genid: str = "G", text: str = TEXT, iv: str = IV) -> tuple[int, Any]:
    body = json.dumps({"plaintext": text, "initializationVector": iv})
    return ask("POST", f"/modules/m1/genid/{genid}/encrypt?{V}", body)


def _open(ask: Ask, ciphertext: str, genid: str = "G", iv: str = IV) -> tuple[int, Any]:
    body = json.dumps({"ciphertext": ciphertext, "initializationVector": iv})
    return ask("POST", f"/modules/m1/genid/{genid}/decrypt?{V}", body)


def test_row_1_no_version(as_m1: Ask) -> None:
    assert as_m1("GET", "/trust-bundle") == (400, {"message": "api-version not specified"})


def test_row_2_version_of_the_description_that_the_server_rejects(as_m1: Ask) -> None:
    reply = as_m1("GET", "/trust-bundle?api-version=2021-05-11")

    assert reply == (400, {"message": 'invalid api-version "2021-05-11"'})


@pytest.mark.parametrize("version", sorted(API_VERSIONS))
def test_row_3_each_accepted_version(as_m1: Ask, edge: Edge, version: str) -> None:
    status, reply = as_m1("GET", f"/trust-bundle?api-version={version}")

    ca = ensure_edge_ca(edge.folder / "home" / "certificates", "d1", edge.now_s)
    assert status == 200
    assert ca.certificate_pem in reply["certificate"]


def test_row_6_unknown_path(as_m1: Ask) -> None:
    assert as_m1("GET", f"/nothing?{V}") == (404, {"message": "not found"})


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, SIGN, 200),
        ({}, '{"data":5}', 422),
        ({}, '{"data":"%%%"}', 400),
        ({}, None, 400),
        ({"Content-Length": "0"}, None, 400),
        ({"Content-Type": "text/plain"}, SIGN, 400),
    ],
    ids=["row 7", "row 8", "row 9", "row 10, no body", "row 10, empty body", "row 10, text"],
)
def test_bodies_of_sign(as_m1: Ask, headers: dict[str, str], body: str | None, status: int) -> None:
    got, reply = as_m1("POST", f"/modules/m1/genid/G/sign?{V}", body, **headers)

    assert got == status
    assert list(reply) == ["digest" if status == 200 else "message"]


def test_row_11_another_module_over_the_socket_of_the_first(
    edge: Edge, players: tuple[Player, Player]
) -> None:
    reply = players[1].ask(edge.socket_of("m1"), "POST", f"/modules/m1/genid/G/sign?{V}", SIGN)

    assert reply == (403, {"message": "forbidden"})


def test_row_12_the_module_over_the_socket_of_another_is_refused_here(as_m1: Ask) -> None:
    assert as_m1("POST", f"/modules/m1/genid/G/sign?{V}", SIGN, by="m2")[0] == 403


def test_row_13_a_shell_of_the_host(edge: Edge) -> None:
    shell = Player()  # under our own user, root where the tests run as root
    try:
        assert shell.ask(edge.socket_of("m1"), "POST", f"/modules/m1/genid/G/sign?{V}", SIGN)[0] == 403
    finally:
        shell.end()


def test_row_14_after_the_module_stopped(edge: Edge, as_m1: Ask) -> None:
    del edge.processes["m1"]

    assert as_m1("POST", f"/modules/m1/genid/G/sign?{V}", SIGN) == (403, {"message": "forbidden"})


def test_rows_15_and_16_any_genid_signs_with_the_primary_key(edge: Edge, as_m1: Ask) -> None:
    genid = edge.security.ensure_module("m1", edge.now_s).generation_id

    replies = [as_m1("POST", f"/modules/m1/genid/{name}/sign?{V}", SIGN) for name in (genid, "made-up")]

    digest = base64.b64encode(hmac.digest(edge.primary_key("m1"), b"data", "sha256")).decode()
    assert replies == [(200, {"digest": digest})] * 2


def test_row_17_encoded_and_plain_module_id(as_m1: Ask) -> None:
    replies = [
        as_m1("POST", f"/modules/{name}/genid/G/sign?{V}", SIGN, by="edgeAgent")
        for name in ("%24edgeAgent", "$edgeAgent")
    ]

    assert replies[0][0] == 200
    assert replies[0] == replies[1]


def test_row_18_a_module_made_again_has_another_generation_and_key(edge: Edge, as_m1: Ask) -> None:
    before = edge.security.ensure_module("m1", edge.now_s).generation_id
    old = as_m1("POST", f"/modules/m1/genid/G/sign?{V}", SIGN)

    edge.security.forget_module("m1")
    after = edge.security.ensure_module("m1", edge.now_s).generation_id

    assert before != after
    new = as_m1("POST", f"/modules/m1/genid/G/sign?{V}", SIGN)
    assert new[0] == old[0] == 200
    assert new != old


def test_row_19_encrypt_then_decrypt(as_m1: Ask) -> None:
    status, reply = _seal(as_m1)

    sealed = base64.b64decode(reply["ciphertext"])
    assert status == 200
    assert sealed[0] == 0x02
    assert len(sealed) == len(b"some text") + 17
    assert _open(as_m1, reply["ciphertext"]) == (200, {"plaintext": TEXT})


@pytest.mark.parametrize("what", ["genid", "IV", "one bit", "first byte", "cut"])
def test_row_20_what_does_not_fit_is_not_decrypted(as_m1: Ask, what: str) -> None:
    sealed = bytearray(base64.b64decode(_seal(as_m1)[1]["ciphertext"]))
    genid, iv = "G", IV
    match what:
        case "genid":
            genid = "H"
        case "IV":
            iv = base64.b64encode(bytes(32)).decode()
        case "one bit":
            sealed[5] ^= 1
        case "first byte":
            sealed[0] = 3
        case "cut":
            del sealed[-1]

    status, reply = _open(as_m1, base64.b64encode(sealed).decode(), genid, iv)

    assert status == 500
    assert list(reply) == ["message"]


def test_row_21_the_older_order_is_decrypted_too(as_m1: Ask) -> None:
    sealed = base64.b64decode(_seal(as_m1)[1]["ciphertext"])
    older = b"\x01" + sealed[-16:] + sealed[1:-16]

    assert _open(as_m1, base64.b64encode(older).decode()) == (200, {"plaintext": TEXT})


def test_row_22_decrypt_after_a_restart(edge: Edge, as_m1: Ask) -> None:
    _, reply = _seal(as_m1)

    edge.restart()

    assert _open(as_m1, reply["ciphertext"]) == (200, {"plaintext": TEXT})


def test_associated_data_is_module_and_genid_under_one_key_of_the_device(edge: Edge, as_m1: Ask) -> None:
    key = json.loads((edge.folder / "home" / "keys.json").read_bytes())["content"]["encryption_key"]
    body = json.dumps({"plaintext": TEXT, "initializationVector": IV})

    _, reply = as_m1("POST", f"/modules/%24edgeHub/genid/G/encrypt?{V}", body, by="edgeHub")

    sealed = base64.b64decode(reply["ciphertext"])[1:]
    opened = AESGCM(base64.b64decode(key)).decrypt(base64.b64decode(IV), sealed, b"$edgeHubG")
    assert opened == b"some text"


def _server_certificate(ask: Ask, **body: str) -> x509.Certificate:
    """Return the leaf for `$edgeHub` after checking status, key, chain and dates."""
    target = f"/modules/$edgeHub/genid/G/certificate/server?{V}"
    status, reply = ask("POST", target, json.dumps(body), by="edgeHub")

    assert status == 201
    leaf, issuer = x509.load_pem_x509_certificates(reply["certificate"].encode())
    assert issuer in x509.load_pem_x509_certificates(_trust(ask).encode())
    leaf.verify_directly_issued_by(issuer)
    assert reply["privateKey"]["bytes"].startswith("-----BEGIN PRIVATE KEY-----\n")  # PKCS#8
    assert load_pem_private_key(reply["privateKey"]["bytes"].encode(), None).public_key() == leaf.public_key()
    assert datetime.fromisoformat(reply["expiration"]) == leaf.not_valid_after_utc
    return leaf


def _names_of(leaf: x509.Certificate) -> tuple[list[str], list[str]]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns, ips = names.get_values_for_type(x509.DNSName), names.get_values_for_type(x509.IPAddress)
    return dns, [str(ip) for ip in ips]


def _usage(leaf: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_row_23_server_certificate_of_the_hub(edge: Edge, as_m1: Ask) -> None:
    leaf = _server_certificate(as_m1, commonName="gw")

    assert [name.value for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["gw"]
    assert _names_of(leaf) == (["gw", "edgeHub"], [])
    assert _usage(leaf) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.not_valid_after_utc.timestamp() <= edge.now_s + 30 * DAY_S


def test_row_24_server_certificate_for_an_address(as_m1: Ask) -> None:
    assert _names_of(_server_certificate(as_m1, commonName="10.0.0.5")) == (["edgeHub"], ["10.0.0.5"])


def test_row_25_the_wished_expiration_is_ignored(edge: Edge, as_m1: Ask) -> None:
    leaf = _server_certificate(as_m1, commonName="gw", expiration="2099-01-01T00:00:00Z")

    assert leaf.not_valid_after_utc.timestamp() == int(edge.now_s) + 30 * DAY_S


def test_row_26_no_certificate_outlives_the_edge_ca(edge: Edge, as_m1: Ask) -> None:
    ca = ensure_edge_ca(edge.folder / "home" / "certificates", "d1", edge.now_s)
    edge.now_s = ca.not_after_s - 3 * DAY_S

    leaf = _server_certificate(as_m1, commonName="gw")

    assert leaf.not_valid_after_utc.timestamp() == ca.not_after_s


def test_row_27_each_request_gets_a_key_of_its_own(as_m1: Ask) -> None:
    first, second = (_server_certificate(as_m1, commonName="gw") for _ in range(2))

    assert first.public_key() != second.public_key()


def test_row_28_identity_certificate(as_m1: Ask) -> None:
    status, reply = as_m1("POST", f"/modules/m1/certificate/identity?{V}")

    leaf = x509.load_pem_x509_certificates(reply["certificate"].encode())[0]
    assert status == 201
    assert leaf.subject.rfc4514_string() == "CN=m1"
    assert _usage(leaf) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "azureiot://h/devices/d1/modules/m1" in [name.value for name in names]


def test_row_29_no_manifest_trust_bundle(as_m1: Ask) -> None:
    assert as_m1("GET", f"/manifest-trust-bundle?{V}") == (200, {"certificate": ""})


def test_row_34_socket_of_a_removed_module_is_gone(edge: Edge) -> None:
    path = edge.socket_of("m2")

    edge.security.forget_module("m2")

    assert not path.exists()


def test_row_64_a_renewed_edge_ca_is_in_the_trust_bundle_and_issues(edge: Edge, as_m1: Ask) -> None:
    before = _trust(as_m1)
    edge.now_s += 80 * DAY_S

    assert edge.security.renew_certificates(edge.now_s)

    assert _trust(as_m1) != before
    _server_certificate(as_m1, commonName="gw")


@pytest.mark.parametrize(
    ("noted", "status", "exit_code"),
    [
        (("running", None), "running", None),
        (("stopped", 0), "stopped", "0"),
        (("failed", 3), "failed", "3"),
        (("backoff", 3), "failed", "3"),
        (("unhealthy", None), "running", None),
    ],
    ids=["running", "row 48, exit 0", "row 48, exit 3", "waits for its restart", "runs but is unhealthy"],
)
def test_modules_are_listed_as_the_management_api_does(
    edge: Edge, as_m1: Ask, noted: tuple[str, int | None], status: str, exit_code: str | None
) -> None:
    edge.security.note_module("m1", noted[0], edge.now_s, noted[1])

    [listed] = as_m1("GET", f"/modules?{V}")[1]["modules"]

    assert (listed["id"], listed["name"], listed["config"]["env"]) == ("id", "m1", [])
    assert listed["status"]["runtimeStatus"] == {"status": status}
    assert ("startTime" in listed["status"]) == (status == "running")
    assert listed["status"].get("exitStatus", {}).get("statusCode") == exit_code
