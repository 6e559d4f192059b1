"""Client certificates in real handshakes: asked for, not required, any taken, handed over."""

from __future__ import annotations

import gc
import shutil
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from runtime.net.tls_server import ServerCertificate, peer_certificates
from runtime.security.certificate_issue import issue_server
from runtime.security.certificates import EdgeCa, ensure_edge_ca
from tests.runtime.client_certificates import SERVER_ONLY, ClientCertificate, make_client, make_signer

NOW_S = 1_790_000_000.0
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def ca(tmp_path: Path) -> EdgeCa:
    return ensure_edge_ca(tmp_path / "certificates", "edge1", NOW_S)


@pytest.fixture
def server(tmp_path: Path, ca: EdgeCa) -> ServerCertificate:
    issued = issue_server(ca, "localhost", ["localhost"], NOW_S)
    path = tmp_path / "server.pem"
    path.write_text(issued.private_key_pem + issued.chain_pem)
    return ServerCertificate(str(path), str(path))


def _client_context(ca: EdgeCa, version: ssl.TLSVersion, shown: ClientCertificate | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.certificate_pem)
    context.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME: the clock of the test stands elsewhere
    context.minimum_version = context.maximum_version = version
    if shown is not None:
        context.load_cert_chain(shown.certificate_file, shown.key_file)
    return context


class _Pair:
    """A server and a client whose bytes go from one's memory to the other's."""

    def __init__(
        self, server: ServerCertificate, client: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.context.wrap_bio(to_server, to_client, server_side=True)
        self.client = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)

    def shake_hands(self) -> None:
        """Raises ssl.SSLError when one of the two refuses."""
        left = [self.client, self.server]
        for _ in range(10):
            for side in list(left):
                try:
                    side.do_handshake()
                    left.remove(side)
                except ssl.SSLWantReadError:
                    pass
            if not left:
                return
        raise AssertionError("the handshake does not come to an end")

    def exchange(self, data: bytes) -> bytes:
        """Return what the client gets of what the server sends; a TLS 1.3 client learns its session."""
        self.client.write(data)
        self.server.write(self.server.read(len(data)))
        return self.client.read(len(data))


def _living_contexts() -> int:
    gc.collect()
    return sum(isinstance(one, ssl.SSLContext) for one in gc.get_objects())


def _device(folder: Path, kind: str) -> ClientCertificate | None:
    root = make_signer("some CA")
    match kind:
        case "none":
            return None
        case "self-signed":
            return make_client(folder, "d1")
        case "signed by a CA that nobody knows":
            return make_client(folder, "d1", signer=root)
        case "with its CA sent along":
            return make_client(folder, "d1", signer=root, sent_along=[root])
        case "expired":
            return make_client(folder, "d1", days=-5)
        case "with its expired CA sent along":
            old = make_signer("some CA", days=-5)
            return make_client(folder, "d1", signer=old, sent_along=[old])
    raise AssertionError(kind)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize(
    "kind",
    [
        "none",
        "self-signed",
        "signed by a CA that nobody knows",
        "with its CA sent along",
        "expired",
        "with its expired CA sent along",
    ],
)
def test_client_gets_through_and_the_application_gets_its_certificates(
    kind: str, version: ssl.TLSVersion, tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    shown = _device(tmp_path, kind)
    pair = _Pair(server, _client_context(ca, version, shown))

    pair.shake_hands()

    assert pair.exchange(b"hello") == b"hello"
    assert peer_certificates(pair.server) == (shown.ders if shown else ())


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_certificate_that_openssl_cannot_accept_ends_only_its_own_handshake(
    version: ssl.TLSVersion, tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    not_for_clients = make_client(tmp_path, "d1", usage=SERVER_ONLY)
    good = make_client(tmp_path, "d2")
    before = _Pair(server, _client_context(ca, version, good))

    with pytest.raises(ssl.SSLError):
        _Pair(server, _client_context(ca, version, not_for_clients)).shake_hands()
    before.shake_hands()

    assert peer_certificates(before.server) == good.ders


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_certificate_of_one_client_does_not_stand_in_the_way_of_another(
    version: ssl.TLSVersion, tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    root = make_signer("some CA")
    impostor = make_client(tmp_path, "some CA")  # calls itself as the CA does, with another key
    good = make_client(tmp_path, "d1", signer=root)

    for shown in (impostor, good):
        pair = _Pair(server, _client_context(ca, version, shown))
        pair.shake_hands()
        assert peer_certificates(pair.server) == shown.ders

    assert server.context.get_ca_certs() == []


def test_what_a_handshake_needed_is_gone_after_it(
    tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    context = _client_context(ca, ssl.TLSVersion.TLSv1_3, make_client(tmp_path, "d1"))
    pairs = [_Pair(server, context) for _ in range(5)]
    before = _living_contexts()

    for pair in pairs:
        pair.shake_hands()

    assert _living_contexts() == before
    assert all(pair.server.context._msg_callback is None for pair in pairs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_resumed_session_still_tells_the_certificate_of_the_client(
    version: ssl.TLSVersion, tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    shown = make_client(tmp_path, "d1")
    context = _client_context(ca, version, shown)
    first = _Pair(server, context)
    first.shake_hands()
    first.exchange(b"hello")

    second = _Pair(server, context, session=first.client.session)
    second.shake_hands()

    assert second.client.session_reused
    assert second.exchange(b"hello") == b"hello"
    assert peer_certificates(second.server) == shown.ders


def test_connection_without_tls_shows_no_certificate() -> None:
    assert peer_certificates(None) == ()


def test_new_certificate_in_the_files_is_for_new_handshakes(
    tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    client = _client_context(ca, ssl.TLSVersion.TLSv1_2, None)
    old = _Pair(server, client)
    old.shake_hands()
    issued = issue_server(ca, "localhost", ["localhost"], NOW_S)
    (tmp_path / "new.pem").write_text(issued.private_key_pem + issued.chain_pem)
    (tmp_path / "new.pem").replace(tmp_path / "server.pem")

    assert server.load()
    assert not server.load()
    new = _Pair(server, client)
    new.shake_hands()

    shown = [pair.client.getpeercert(binary_form=True) or b"" for pair in (old, new)]
    assert x509.load_der_x509_certificate(shown[1]) == x509.load_pem_x509_certificate(
        issued.chain_pem.encode()
    )
    assert shown[0] != shown[1]
    assert old.exchange(b"hello") == new.exchange(b"hello") == b"hello"


def test_handshakes_go_on_while_another_thread_replaces_the_certificate(
    tmp_path: Path, ca: EdgeCa, server: ServerCertificate
) -> None:
    """With one context for all, a few of these handshakes fail and the process crashes."""
    issued = issue_server(ca, "localhost", ["localhost"], NOW_S)
    (tmp_path / "other.pem").write_text(issued.private_key_pem + issued.chain_pem)
    shutil.copy(tmp_path / "server.pem", tmp_path / "first.pem")
    client = _client_context(ca, ssl.TLSVersion.TLSv1_2, None)
    loaded: list[bool] = []

    def replace() -> None:
        for number in range(300):
            shutil.copy(tmp_path / ("other.pem", "first.pem")[number % 2], tmp_path / "new.pem")
            (tmp_path / "new.pem").replace(tmp_path / "server.pem")
            loaded.append(server.load())

    replacing = threading.Thread(target=replace)
    replacing.start()
    while replacing.is_alive():
        _Pair(server, client).shake_hands()

    replacing.join()
    assert len(loaded) == 300
    assert all(loaded)
