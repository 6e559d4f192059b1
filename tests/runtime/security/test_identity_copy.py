"""The hub's copy of the identities: what it keeps, what it still reads, and what it makes of damage."""

from __future__ import annotations

import stat
from pathlib import Path

import msgpack
import pytest

from actors.hub.identity import HubIdentity, KnownIdentities
from messaging.envelope import Secret
from runtime.security.identity_copy import IdentityFile

KEYS = (Secret(b"first"), Secret(b"second"))
KNOWN = KnownIdentities(
    (
        HubIdentity("edge1", keys=KEYS, device_scope="ms-azure-iot-edge://edge1-1"),
        HubIdentity("edge1/m", keys=KEYS, enabled=False),
        HubIdentity(
            "leaf",
            "selfSigned",
            thumbprints=("A" * 40, "B" * 64),
            parent_scopes=("s1", "s2"),
            generation_id="7",
        ),
        HubIdentity("other", "certificateAuthority"),
        HubIdentity("nothing", "none"),
    ),
    (b"root", b"other root"),
    ("gone", "edge1/gone"),
)


def test_all_is_the_same_after_a_restart_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "identities.copy"

    IdentityFile(path).save(KNOWN)

    assert IdentityFile(path).load() == KNOWN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_copy_of_before_certificates_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "identities.copy"
    path.write_bytes(msgpack.packb([["edge1/m", b"first", b"second", True], ["off", b"a", b"b", False]]))

    assert IdentityFile(path).load() == KnownIdentities(
        (
            HubIdentity("edge1/m", keys=KEYS),
            HubIdentity("off", keys=(Secret(b"a"), Secret(b"b")), enabled=False),
        )
    )


def test_a_copy_of_before_generations_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "identities.copy"
    entry = ["leaf", "sas", [b"first", b"second"], [], True, "", ["s1"]]
    path.write_bytes(msgpack.packb({"identities": [entry], "authorities": [b"root"]}))

    known = KnownIdentities((HubIdentity("leaf", keys=KEYS, parent_scopes=("s1",)),), (b"root",))
    assert IdentityFile(path).load() == known


def test_without_a_copy_there_is_none(tmp_path: Path) -> None:
    assert IdentityFile(tmp_path / "identities.copy").load() is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1\xff\x00", id="no msgpack"),
        pytest.param(msgpack.packb(5), id="a number"),
        pytest.param(msgpack.packb({"identities": []}), id="half of it"),
        pytest.param(msgpack.packb({"identities": [["x"]], "authorities": []}), id="a short entry"),
        pytest.param(msgpack.packb([["x", b"first"]]), id="a short entry of before"),
    ],
)
def test_a_damaged_copy_counts_as_none_and_is_told(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "identities.copy"
    path.write_bytes(content)

    assert IdentityFile(path).load() is None
    assert f"{path} is damaged" in caplog.text
