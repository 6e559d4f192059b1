"""The CA certificates that the user trusts besides the edge CA."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from messaging.errors import ConfigError
from runtime.config.reader import read_settings
from runtime.config.settings import Settings
from runtime.security.trust_bundle import certificates_in, ders, trusted_pem
from tests.runtime.client_certificates import make_signer


def settings(home: Path, text: str) -> Settings:
    return read_settings({"home": str(home)}, {"EDGE_ACTORS_TRUST_BUNDLE_CERT": text}, "gw")


@pytest.mark.parametrize("form", ["{}", "file://{}"], ids=["path", "URI as in the reference"])
def test_all_certificates_of_the_file_are_trusted_and_comments_are_left_out(
    tmp_path: Path, form: str
) -> None:
    roots = [make_signer(name).certificate for name in ("one", "two")]
    file = tmp_path / "my roots.pem"
    file.write_text("Größe: 1\n" + "".join(root.public_bytes(Encoding.PEM).decode() for root in roots))

    pem = trusted_pem(settings(tmp_path, form.format(file)))

    assert ders(pem) == tuple(root.public_bytes(Encoding.DER) for root in roots)
    assert pem.startswith("-----BEGIN CERTIFICATE-----\n")


def test_without_the_setting_nothing_else_is_trusted(tmp_path: Path) -> None:
    assert trusted_pem(read_settings({"home": str(tmp_path)}, {}, "gw")) == ""


def test_a_relative_path_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"EDGE_ACTORS_TRUST_BUNDLE_CERT: 'ca\.pem' is not allowed"):
        settings(tmp_path, "ca.pem")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read: No such file", id="no file"),
        pytest.param(b"", "there is no certificate in", id="empty"),
        pytest.param(b"\x30\x82\x01\xff", "openssl x509 -inform der", id="DER"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "damaged", id="damaged"
        ),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "no PEM", id="no base64"
        ),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAAAA\n", "there is no certificate in", id="a key"),
    ],
)
def test_a_file_that_holds_something_else_is_named_with_a_way_out(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=f"--x509: .*{message}"):
        certificates_in(file, "--x509")
