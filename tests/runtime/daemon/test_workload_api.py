"""The workload API without a socket, rule by rule (spec sheet security-daemon.md sections 0.2, 0.3, 1)."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runtime.daemon.api import API_VERSIONS, Request
from runtime.daemon.caller import Caller, ModuleProcess
from runtime.daemon.module_details import ModuleState
from runtime.daemon.workload_api import WorkloadApi
from runtime.net.http_messages import Response
from runtime.security.certificates import EdgeCa, ensure_edge_ca
from runtime.security.key_store import KeyStore

NOW_S = 1_790_000_000.0
DAY_S = 86_400
V = "api-version=2018-06-28"
IV = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
SIGN = json.dumps({"keyId": "primary", "algo": "HMACSHA256", "data": "ZGF0YQ=="}).encode()
M1 = Caller(pid=101, uid=1, session_id=100, started_at_ticks=50, container_id=None)
STRANGER = Caller(pid=301, uid=0, session_id=300, started_at_ticks=60, container_id=None)

PROCESSES = {
    "m1": ModuleProcess(100, 100, 50),
    "m2": ModuleProcess(200, 200, 50),
    "edgeHub": ModuleProcess(100, 100, 50),
    "edgeAgent": ModuleProcess(100, 100, 50),
    "noIdentity": ModuleProcess(100, 100, 50),
}
MODULES = (
    ModuleState("m1", "process", "m1:1", "running", started_utc="2026-01-02T03:04:05Z"),
    ModuleState("m2", "docker", "m2:1", "failed", "2026-01-02T03:04:05Z", "2026-01-02T04:00:00Z", 3),
    ModuleState("m3", "docker", "m3:1", "stopped"),
)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> EdgeCa:
    return ensure_edge_ca(tmp_path_factory.mktemp("certificates"), "d1", NOW_S)


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    keys = KeyStore.ensure(tmp_path / "identities.json", "d1", NOW_S)
    keys.ensure_module("m1", NOW_S)
    return keys


class Asker:
    """Asks the API as one process by one socket, and reads the JSON of the reply."""

    def __init__(self, keys: KeyStore, ca: EdgeCa | None, trusted_pem: str = "") -> None:
        self.ca = ca
        self.now_s = NOW_S
        self.processes = dict(PROCESSES)
        self.api = WorkloadApi(
            hub_host="h",
            keys=keys,
            edge_ca=lambda: self.ca,
            process_of=self.processes.get,
            modules=lambda: MODULES,
            now_s=lambda: self.now_s,
            trusted_pem=trusted_pem,
        )

    def __call__(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        content_type: str | None = None,
        caller: Caller | None = M1,
        socket_module: str | None = None,
    ) -> tuple[int, Any]:
        if socket_module is None:  # the socket that fits the path
            parts = target.split("/")
            socket_module = parts[2].replace("%24", "").replace("$", "") if len(parts) > 3 else "m1"
        reply = self.api.handle(Request(socket_module, method, target, content_type, body), caller)
        return reply.status, json.loads(reply.body)


@pytest.fixture
def ask(keys: KeyStore, ca: EdgeCa) -> Asker:
    return Asker(keys, ca)


def test_the_trust_bundle_holds_the_certificates_of_the_user_behind_the_edge_ca(
    keys: KeyStore, ca: EdgeCa
) -> None:
    ask = Asker(keys, ca, trusted_pem="-----BEGIN CERTIFICATE-----…")

    assert ask("GET", f"/trust-bundle?{V}") == (
        200,
        {"certificate": f"{ca.certificate_pem}-----BEGIN CERTIFICATE-----…"},
    )


@pytest.mark.parametrize("version", sorted(API_VERSIONS))
def test_every_known_version_is_served(ask: Asker, ca: EdgeCa, version: str) -> None:
    assert len(API_VERSIONS) == 7
    assert ask("GET", f"/trust-bundle?api-version={version}") == (200, {"certificate": ca.certificate_pem})


@pytest.mark.parametrize(
    ("method", "target", "status", "message"),
    [
        ("GET", "/trust-bundle", 400, "api-version not specified"),
        ("GET", "/trust-bundle?", 400, "api-version not specified"),
        ("GET", "/trust-bundle?other=1", 400, "api-version not specified"),
        ("GET", "/trust-bundle?api-version=", 400, 'invalid api-version ""'),
        ("GET", "/trust-bundle?api-version=2021-05-11", 400, 'invalid api-version "2021-05-11"'),
        ("GET", "/nothing", 400, "api-version not specified"),
        ("GET", "/nothing?api-version=1", 400, 'invalid api-version "1"'),
        ("PUT", "/trust-bundle", 400, "api-version not specified"),
        ("GET", f"/nothing?{V}", 404, "not found"),
        ("GET", f"/?{V}", 404, "not found"),
        ("GET", f"//trust-bundle?{V}", 404, "not found"),
        ("GET", f"/trust-bundle/?{V}", 404, "not found"),
        ("GET", f"/trust-bundleX?{V}", 404, "not found"),
        ("POST", f"/modules/m1/genid/G/sign/?{V}", 404, "not found"),
        ("POST", f"/modules/m1/genid//sign?{V}", 404, "not found"),
        ("POST", f"/modules/m1/x/genid/G/sign?{V}", 404, "not found"),
        ("POST", f"/modules/%ff/genid/G/sign?{V}", 404, "not found"),
        ("POST", f"/modules/m%2F1/genid/G/sign?{V}", 404, "not found"),
        ("POST", f"/modules/m1?{V}", 404, "not found"),
        ("POST", f"/trust-bundle?{V}", 400, "method not allowed"),
        ("DELETE", f"/modules?{V}", 400, "method not allowed"),
        ("GET", f"/modules/m1/genid/G/sign?{V}", 400, "method not allowed"),
        ("PUT", f"/modules/m1/certificate/identity?{V}", 400, "method not allowed"),
        ("PATCH", f"/manifest-trust-bundle?{V}", 400, "method not allowed"),
    ],
)
def test_versions_paths_and_methods_are_refused_as_clients_expect(
    ask: Asker, method: str, target: str, status: int, message: str
) -> None:
    assert ask(method, target, SIGN) == (status, {"message": message})


@pytest.mark.parametrize("target", ["/trust-bundle?api-version=2018%2D06-28", f"/trust-bundle?x=1&{V}&y"])
def test_the_query_is_decoded_and_other_parameters_are_ignored(ask: Asker, target: str) -> None:
    assert ask("GET", target)[0] == 200


@pytest.mark.parametrize("name", ["sign", "encrypt", "decrypt", "certificate/server"])
@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", None, 400),
        (b"", "application/json", 400),
        (SIGN, "text/plain", 400),
        (SIGN, "", 400),
        (SIGN, "application/jsonp", 400),
        (b"{", None, 422),
        (b"\xff", None, 422),
        (b"null", None, 422),
        (b"[]", None, 422),
        (b"{}", None, 422),
        (b"{} {}", None, 422),
        (
            b'{"data":5,"plaintext":5,"ciphertext":5,"commonName":5,"initializationVector":"AAAA"}',
            None,
            422,
        ),
        (b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", None, 422),
        (b"[" * 60_000, None, 422),
    ],
    ids=[
        "empty",
        "empty JSON",
        "text/plain",
        "empty content type",
        "another content type",
        "cut",
        "not UTF-8",
        "null",
        "array",
        "members missing",
        "two values",
        "numbers for texts",
        "nested deeply",
        "nested deeply and cut",
    ],
)
def test_a_body_that_is_missing_or_wrong_is_told_apart(
    ask: Asker, name: str, body: bytes, content_type: str | None, status: int
) -> None:
    got, reply = ask("POST", f"/modules/m1/genid/G/{name}?{V}", body, content_type)

    assert got == status
    assert list(reply) == ["message"]


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/json; charset=utf-8", "Application/JSON;x=y"]
)
def test_a_body_without_content_type_is_json_and_parameters_do_not_matter(
    ask: Asker, content_type: str | None
) -> None:
    assert ask("POST", f"/modules/m1/genid/G/sign?{V}", SIGN, content_type)[0] == 200


def test_the_digest_is_the_hmac_under_the_primary_key(ask: Asker, keys: KeyStore) -> None:
    primary = next(identity.primary_key for identity in keys.identities() if identity.module_id == "m1")

    status, reply = ask("POST", f"/modules/m1/genid/G/sign?{V}", SIGN)

    assert status == 200
    assert base64.b64decode(reply["digest"]) == hmac.digest(primary, b"data", "sha256")


def test_a_made_up_generation_id_signs_the_same(ask: Asker) -> None:
    first = ask("POST", f"/modules/m1/genid/G/sign?{V}", SIGN)

    assert ask("POST", f"/modules/m1/genid/made-up/sign?{V}", SIGN) == first


def test_a_module_id_may_be_percent_encoded(ask: Asker) -> None:
    plain = ask("POST", f"/modules/$edgeAgent/genid/G/sign?{V}", SIGN)

    assert plain[0] == 200
    assert ask("POST", f"/modules/%24edgeAgent/genid/G/sign?{V}", SIGN) == plain


PROTECTED = [
    ("/modules/m1/genid/G/sign", SIGN),
    ("/modules/m1/genid/G/encrypt", json.dumps({"plaintext": "", "initializationVector": IV}).encode()),
    ("/modules/m1/genid/G/decrypt", json.dumps({"ciphertext": "", "initializationVector": IV}).encode()),
    ("/modules/m1/certificate/identity", b""),
    ("/modules/m1/genid/G/certificate/server", b'{"commonName":"gw"}'),
]


@pytest.mark.parametrize(("path", "body"), PROTECTED, ids=[path for path, _ in PROTECTED])
@pytest.mark.parametrize(
    ("caller", "socket_module"),
    [(STRANGER, "m1"), (None, "m1"), (M1, "m2"), (M1, "edgeHub")],
    ids=["a foreign process", "a process that ended", "another socket", "the socket of the hub"],
)
def test_only_the_module_itself_is_served_and_only_by_its_own_socket(
    ask: Asker, path: str, body: bytes, caller: Caller | None, socket_module: str
) -> None:
    reply = ask("POST", f"{path}?{V}", body, caller=caller, socket_module=socket_module)

    assert reply == (403, {"message": "forbidden"})


def test_one_module_cannot_sign_as_another_by_either_socket(ask: Asker) -> None:
    for socket_module in ("m1", "m2"):
        reply = ask("POST", f"/modules/m2/genid/G/sign?{V}", SIGN, socket_module=socket_module)
        assert reply == (403, {"message": "forbidden"})


def test_a_module_that_was_stopped_is_refused(ask: Asker) -> None:
    del ask.processes["m1"]

    assert ask("POST", f"/modules/m1/genid/G/sign?{V}", SIGN) == (403, {"message": "forbidden"})


def test_the_trust_bundle_is_for_everybody(ask: Asker) -> None:
    for path in ("/trust-bundle", "/manifest-trust-bundle", "/modules"):
        assert ask("GET", f"{path}?{V}", caller=None)[0] == 200


def test_no_refusal_shows_what_was_sent(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    secret = "c2VjcmV0IQ="  # base64 that lacks its end
    body = json.dumps({"data": secret, "plaintext": secret, "initializationVector": secret}).encode()

    for name in ("sign", "encrypt"):
        for caller in (M1, STRANGER):
            _, reply = ask("POST", f"/modules/m1/genid/G/{name}?{V}", body, caller=caller)
            assert secret not in str(reply)
    assert secret not in caplog.text


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("sign", "data"),
        ("encrypt", "plaintext"),
        ("encrypt", "initializationVector"),
        ("decrypt", "ciphertext"),
        ("decrypt", "initializationVector"),
    ],
)
@pytest.mark.parametrize("text", ["%%%", "abc", "ä"])
def test_a_parameter_that_is_not_base64_is_named(ask: Asker, name: str, member: str, text: str) -> None:
    body = {"data": "", "plaintext": "", "ciphertext": "", "initializationVector": IV, member: text}

    reply = ask("POST", f"/modules/m1/genid/G/{name}?{V}", json.dumps(body).encode())

    assert reply == (400, {"message": f"invalid parameter: {member} is not base64"})


@pytest.mark.parametrize(
    ("length", "status"), [(0, 400), (1, 200), (7, 200), (8, 200), (12, 200), (128, 200), (129, 400)]
)
def test_the_length_of_an_iv_has_limits(ask: Asker, length: int, status: int) -> None:
    body = {"plaintext": "", "initializationVector": base64.b64encode(bytes(length)).decode()}

    assert ask("POST", f"/modules/m1/genid/G/encrypt?{V}", json.dumps(body).encode())[0] == status


def test_a_module_without_an_identity_is_told_so(ask: Asker) -> None:
    for path, body in PROTECTED:
        if "crypt" in path:
            continue  # one key for the whole device: no identity is asked for
        status, reply = ask("POST", f"{path.replace('m1', 'noIdentity')}?{V}", body)

        assert status == 500
        assert reply["message"].startswith("failed to get module identity for noIdentity: ")


def _post(ask: Asker, target: str, **body: str) -> tuple[int, Any]:
    return ask("POST", f"{target}?{V}", json.dumps(body).encode())


def test_what_was_encrypted_is_decrypted(ask: Asker) -> None:
    status, sealed = _post(ask, "/modules/m1/genid/G/encrypt", plaintext="dGV4dA==", initializationVector=IV)
    assert status == 200

    opened = _post(ask, "/modules/m1/genid/G/decrypt", initializationVector=IV, **sealed)

    assert opened == (200, {"plaintext": "dGV4dA=="})


@pytest.mark.parametrize(
    ("target", "iv"),
    [
        ("/modules/$edgeHub/genid/G/decrypt", IV),
        ("/modules/m1/genid/H/decrypt", IV),
        ("/modules/m1/genid/G/decrypt", base64.b64encode(bytes(32)).decode()),
    ],
    ids=["another module", "another generation id", "another IV"],
)
def test_a_text_sealed_for_another_purpose_stays_shut(ask: Asker, target: str, iv: str) -> None:
    _, sealed = _post(ask, "/modules/m1/genid/G/encrypt", plaintext="dGV4dA==", initializationVector=IV)

    assert _post(ask, target, initializationVector=iv, **sealed)[0] == 500


def _names(leaf: x509.Certificate) -> x509.SubjectAlternativeName:
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _checked_leaf(reply: Any, ca: EdgeCa) -> x509.Certificate:
    """Return the leaf of a certificate reply after checking key, chain and dates."""
    leaf, issuer = x509.load_pem_x509_certificates(reply["certificate"].encode())
    assert reply["privateKey"]["type"] == "key"
    assert reply["privateKey"]["bytes"].startswith("-----BEGIN PRIVATE KEY-----\n")
    assert load_pem_private_key(reply["privateKey"]["bytes"].encode(), None).public_key() == leaf.public_key()
    assert reply["certificate"].endswith(ca.certificate_pem)
    leaf.verify_directly_issued_by(issuer)
    assert reply["expiration"].endswith("+00:00")
    assert datetime.fromisoformat(reply["expiration"]) == leaf.not_valid_after_utc
    return leaf


@pytest.mark.parametrize(
    ("common_name", "dns", "ips"),
    [
        ("gw", ["gw", "edgeHub"], []),
        ("10.0.0.5", ["edgeHub"], ["10.0.0.5"]),
        ("g" * 64, ["g" * 64, "edgeHub"], []),
    ],
    ids=["name", "address", "64 characters"],
)
def test_a_server_certificate_is_for_the_common_name_and_the_module(
    ask: Asker, ca: EdgeCa, common_name: str, dns: list[str], ips: list[str]
) -> None:
    target = "/modules/%24edgeHub/genid/G/certificate/server"

    status, reply = _post(ask, target, commonName=common_name, expiration="2099-01-01T00:00:00Z")

    assert status == 201
    leaf = _checked_leaf(reply, ca)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [name.value for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [common_name]
    assert _names(leaf).get_values_for_type(x509.DNSName) == dns
    assert [str(ip) for ip in _names(leaf).get_values_for_type(x509.IPAddress)] == ips
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.not_valid_after_utc.timestamp() == NOW_S + 30 * DAY_S


def test_two_server_certificates_have_two_keys(ask: Asker) -> None:
    first, second = (_post(ask, "/modules/m1/genid/G/certificate/server", commonName="gw") for _ in range(2))

    assert first[1]["privateKey"] != second[1]["privateKey"]


def test_a_server_certificate_ends_with_the_edge_ca(ask: Asker, ca: EdgeCa) -> None:
    ask.now_s = ca.not_after_s - 3 * DAY_S

    _, reply = _post(ask, "/modules/m1/genid/G/certificate/server", commonName="gw")

    assert datetime.fromisoformat(reply["expiration"]).timestamp() == ca.not_after_s


@pytest.mark.parametrize("common_name", ["", "g" * 65, "ä" * 33, "münchen"])
def test_a_common_name_that_no_certificate_can_hold_fails(ask: Asker, common_name: str) -> None:
    assert _post(ask, "/modules/m1/genid/G/certificate/server", commonName=common_name)[0] == 500


@pytest.mark.parametrize("body", [b"", b"{}", b"not JSON"])
def test_an_identity_certificate_needs_no_body(ask: Asker, ca: EdgeCa, body: bytes) -> None:
    status, reply = ask("POST", f"/modules/m1/certificate/identity?{V}", body)

    assert status == 201
    leaf = _checked_leaf(reply, ca)
    assert leaf.subject.rfc4514_string() == "CN=m1"
    assert _names(leaf).get_values_for_type(x509.UniformResourceIdentifier) == [
        "azureiot://h/devices/d1/modules/m1"
    ]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


def test_without_an_edge_ca_there_is_no_trust_bundle_and_no_certificate(ask: Asker) -> None:
    ask.ca = None

    assert ask("GET", f"/trust-bundle?{V}") == (
        404,
        {"message": 'certificate "aziot-edged-trust-bundle" not found'},
    )
    for path, body in PROTECTED[3:]:
        assert ask("POST", f"{path}?{V}", body)[0] == 500


def test_an_edge_ca_that_expired_issues_nothing(ask: Asker, ca: EdgeCa) -> None:
    ask.now_s = ca.not_after_s

    status, reply = _post(ask, "/modules/m1/genid/G/certificate/server", commonName="gw")

    assert status == 500
    assert "expired on" in reply["message"]


def test_the_manifest_trust_bundle_is_empty(ask: Asker) -> None:
    assert ask("GET", f"/manifest-trust-bundle?{V}") == (200, {"certificate": ""})


@pytest.mark.parametrize("path", ["/modules", "/modules/"])
def test_modules_are_listed_with_times_and_exit_codes_where_known(ask: Asker, path: str) -> None:
    status, reply = ask("GET", f"{path}?{V}")

    assert status == 200
    assert reply["modules"][1] == {
        "id": "id",
        "name": "m2",
        "type": "docker",
        "config": {"settings": {"image": "m2:1", "createOptions": {}}, "env": []},
        "status": {
            "startTime": "2026-01-02T03:04:05Z",
            "exitStatus": {"exitTime": "2026-01-02T04:00:00Z", "statusCode": "3"},
            "runtimeStatus": {"status": "failed"},
        },
    }
    assert "exitStatus" not in reply["modules"][0]["status"]
    assert reply["modules"][2]["status"] == {"runtimeStatus": {"status": "stopped"}}


def test_a_reply_and_a_request_do_not_show_their_bodies(ask: Asker) -> None:
    request = Request("m1", "POST", f"/modules/m1/genid/G/sign?{V}", None, SIGN)
    handle: Callable[[Request, Caller | None], Response] = ask.api.handle

    assert "ZGF0YQ" not in repr(request)
    assert "digest" not in repr(handle(request, M1))
