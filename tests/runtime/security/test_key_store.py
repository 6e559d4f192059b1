"""Identities and keys: what they are, that they last, and what a damaged file leads to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from actors.hub.identity import AuthType
from messaging.errors import AuthError, ConfigError, EnvironmentFault
from runtime.security.key_content import Identity
from runtime.security.key_store import KeyStore

NOW_S = 1_790_000_000.0
IV = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "identities.json"


@pytest.fixture
def keys(path: Path) -> KeyStore:
    return KeyStore.ensure(path, "edge1", NOW_S)


def _ids(keys: KeyStore) -> list[tuple[str, str | None]]:
    return [(identity.device_id, identity.module_id) for identity in keys.identities()]


def test_a_new_store_holds_the_device_and_the_two_modules_of_the_edge(keys: KeyStore) -> None:
    assert _ids(keys) == [("edge1", None), ("edge1", "$edgeAgent"), ("edge1", "$edgeHub")]
    assert {identity.status for identity in keys.identities()} == {"enabled"}


def test_identities_and_keys_are_the_same_after_a_restart(path: Path, keys: KeyStore) -> None:
    keys.ensure_module("tempSensor", NOW_S)
    keys.create_device("leaf1", NOW_S)
    sealed = keys.encrypt("m1", "G", IV, b"text")

    again = KeyStore.ensure(path, "edge1", NOW_S + 1)

    assert again.identities() == keys.identities()
    assert again.decrypt("m1", "G", IV, sealed) == b"text"


def test_module_keys_are_derived_from_the_master_key(path: Path, keys: KeyStore) -> None:
    module = keys.ensure_module("$edgeHub", NOW_S)
    master = json.loads(path.read_bytes())["content"]["module_master_key"]

    expected = [
        hmac.digest(base64.b64decode(master), f"$edgeHub:{module.generation_id}:{which}".encode(), "sha256")
        for which in ("primary", "secondary")
    ]

    assert [module.primary_key, module.secondary_key] == expected


def test_a_module_that_exists_keeps_its_identity(path: Path, keys: KeyStore) -> None:
    first = keys.ensure_module("m1", NOW_S)
    written = path.stat().st_mtime_ns

    assert keys.ensure_module("m1", NOW_S + 60) == first
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize("later_s", [60, 0, -1e9], ids=["later", "at once", "with the clock set back"])
def test_a_module_made_again_gets_another_generation_and_other_keys(keys: KeyStore, later_s: float) -> None:
    first = keys.ensure_module("m1", NOW_S)

    keys.remove_module("m1")
    second = keys.ensure_module("m1", NOW_S + later_s)

    assert int(second.generation_id) > int(first.generation_id)
    assert second.primary_key not in (first.primary_key, first.secondary_key)


def test_a_removed_module_can_sign_no_more(keys: KeyStore) -> None:
    keys.ensure_module("m1", NOW_S)

    keys.remove_module("m1")
    keys.remove_module("m1")

    assert not keys.has_module("m1")
    with pytest.raises(AuthError, match="module 'm1' has no identity"):
        keys.sign("m1", b"data")


@pytest.mark.parametrize("module_id", ["$edgeAgent", "$edgeHub"])
def test_the_modules_of_the_edge_itself_cannot_be_removed(keys: KeyStore, module_id: str) -> None:
    with pytest.raises(ConfigError, match="part of the edge itself"):
        keys.remove_module(module_id)


def test_a_signature_is_the_hmac_under_the_primary_key(keys: KeyStore) -> None:
    module = keys.ensure_module("m1", NOW_S)

    assert keys.sign("m1", b"data") == hmac.digest(module.primary_key, b"data", "sha256")


def test_leaf_devices_get_random_keys_of_their_own(keys: KeyStore) -> None:
    leaves = [keys.create_device(f"leaf{number}", NOW_S) for number in range(3)]

    all_keys = [key for leaf in leaves for key in (leaf.primary_key, leaf.secondary_key)]
    assert {len(key) for key in all_keys} == {32}
    assert len(set(all_keys)) == 6
    assert len({leaf.generation_id for leaf in leaves}) == 3


@pytest.mark.parametrize("device_id", ["leaf1", "edge1"], ids=["a leaf device", "the edge itself"])
def test_a_device_id_is_taken_once(keys: KeyStore, device_id: str) -> None:
    keys.create_device("leaf1", NOW_S)
    before = keys.identities()

    with pytest.raises(ConfigError, match=f"device '{device_id}' exists already"):
        keys.create_device(device_id, NOW_S)

    assert keys.identities() == before


@pytest.mark.parametrize("text", ["", "a b", "a/b", "ä", "a" * 129, "a\n"])
def test_an_id_that_iot_hub_forbids_is_refused(tmp_path: Path, keys: KeyStore, text: str) -> None:
    for make in (
        lambda: keys.create_device(text, NOW_S),
        lambda: keys.ensure_module(text, NOW_S),
        lambda: KeyStore.ensure(tmp_path / "other", text, NOW_S),
    ):
        with pytest.raises(ConfigError, match="cannot be the id of a"):
            make()


def test_the_store_of_another_device_is_refused(path: Path, keys: KeyStore) -> None:
    with pytest.raises(ConfigError, match=r"of device 'edge1', not of 'edge2'; .* another home"):
        KeyStore.ensure(path, "edge2", NOW_S)


def test_a_home_that_was_never_run_says_so(path: Path) -> None:
    with pytest.raises(ConfigError, match="has not been run yet"):
        KeyStore.open(path)


def test_the_file_is_for_its_owner_alone(path: Path, keys: KeyStore) -> None:
    keys.create_device("leaf1", NOW_S)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == [path.name]


def test_keys_are_not_shown(keys: KeyStore) -> None:
    identity = keys.create_device("leaf1", NOW_S)

    shown = (
        f"device_id='leaf1', module_id=None, generation_id='{identity.generation_id}', status='enabled', "
        "auth_type='sas', thumbprints=()"
    )
    assert repr(identity) == f"Identity({shown})"
    assert "key" not in repr(keys._content).lower()


def test_a_change_that_cannot_be_written_did_not_happen(path: Path, keys: KeyStore) -> None:
    before = keys.identities()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (16, hard)
    )  # every write stops after 16 bytes, like a full disk
    try:
        with pytest.raises(EnvironmentFault, match=r"cannot write '.*identities\.json': "):
            keys.create_device("leaf1", NOW_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert keys.identities() == before
    assert KeyStore.open(path).identities() == before


def test_a_rest_of_a_write_that_power_cut_short_does_no_harm(path: Path, keys: KeyStore) -> None:
    path.with_name(f".{path.name}.new").write_bytes(b"half a fi")

    leaf = keys.create_device("leaf1", NOW_S)

    assert leaf in KeyStore.open(path).identities()
    assert os.listdir(path.parent) == [path.name]


def test_a_file_cut_short_anywhere_is_called_damaged(path: Path, keys: KeyStore) -> None:
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="restore the file from a backup"):
            KeyStore.open(path)


def test_a_file_with_one_altered_bit_is_called_damaged_or_reads_the_same(path: Path, keys: KeyStore) -> None:
    whole = path.read_bytes()
    before = keys.identities()
    outcomes = set()

    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        path.write_bytes(altered)
        try:
            outcomes.add(KeyStore.open(path).identities() == before)
        except ConfigError as error:
            outcomes.add("damaged" in str(error) or "newer version" in str(error))

    assert outcomes == {True}


def _newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":3', b'"version":4'))


def _other_shape(path: Path) -> None:
    content = b'{"device_id":5}'
    checksum = hashlib.sha256(content).hexdigest().encode()
    path.write_bytes(b'{"version":1,"sha256":"' + checksum + b'","content":' + content + b"}")


def _binary(path: Path) -> None:
    path.write_bytes(os.urandom(300))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_newer, "written by a newer version .* upgrade"),
        (_other_shape, "are damaged .* restore"),
        (_binary, "are damaged .* restore"),
        (_folder, "Is a directory; repair"),
    ],
    ids=["newer version", "another shape", "random bytes", "a folder instead"],
)
def test_a_file_that_is_not_ours_is_named_and_left_alone(
    path: Path, keys: KeyStore, damage: Callable[[Path], None], message: str
) -> None:
    damage(path)

    for read in (lambda: KeyStore.open(path), lambda: KeyStore.ensure(path, "edge1", NOW_S)):
        with pytest.raises(ConfigError, match=f"{path}.*{message}"):
            read()


def test_a_file_of_version_1_is_read_and_written_anew_with_the_next_change(path: Path) -> None:
    """As it was written before devices could have certificates."""
    device = {"generation_id": "1", "status": "enabled"}
    device |= {
        f"{which}_key": base64.b64encode(which.encode()).decode() for which in ("primary", "secondary")
    }
    content = {
        "device_id": "edge1",
        "device": device,
        "module_master_key": "bQ==",
        "encryption_key": "ZQ==",
        "last_generation": 7,
        "modules": {"m1": {"generation_id": "3", "status": "enabled"}},
        "leaf_devices": {"leaf1": device},
    }
    raw = json.dumps(content).encode()
    path.parent.mkdir(parents=True)
    checksum = hashlib.sha256(raw).hexdigest().encode()
    path.write_bytes(b'{"version":1,"sha256":"' + checksum + b'","content":' + raw + b"}")

    keys = KeyStore.ensure(path, "edge1", NOW_S)
    before = keys.identities()
    keys.create_device("leaf2", NOW_S, "certificateAuthority")

    assert before[-1] == Identity("leaf1", None, "1", "enabled", b"primary", b"secondary", "sas", ())
    assert json.loads(path.read_bytes())["version"] == 3
    assert KeyStore.open(path).identities()[:-1] == before


SHA1, SHA256 = "A" * 40, "0" * 64


@pytest.mark.parametrize(
    ("auth_type", "given", "kept"),
    [
        pytest.param("selfSigned", (SHA1.lower(), SHA256), (SHA1, SHA256), id="primary and secondary"),
        pytest.param("selfSigned", (":".join(["aa"] * 20),), (SHA1,), id="as openssl shows it"),
        pytest.param("certificateAuthority", (), (), id="CA"),
        pytest.param("none", (), (), id="none"),
    ],
)
def test_a_device_with_a_certificate_has_no_keys_and_lasts(
    path: Path, keys: KeyStore, auth_type: AuthType, given: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    made = keys.create_device("leaf1", NOW_S, auth_type, given)

    assert (made.primary_key, made.auth_type, made.thumbprints) == (b"", auth_type, kept)
    assert KeyStore.open(path).identities()[-1] == made


@pytest.mark.parametrize(
    ("auth_type", "given", "message"),
    [
        pytest.param("selfSigned", (), "one or two thumbprints, not 0", id="without"),
        pytest.param("selfSigned", (SHA1,) * 3, "one or two thumbprints, not 3", id="three"),
        pytest.param("selfSigned", ("xyz",), r"40 \(SHA-1\) or 64 \(SHA-256\) hex digits", id="none"),
        pytest.param("selfSigned", ("G" * 40,), "hex digits", id="not hex"),
        pytest.param("sas", (SHA1,), "for self-signed certificates alone", id="with keys"),
    ],
)
def test_a_device_without_what_it_is_to_prove_itself_with_is_not_made(
    keys: KeyStore, auth_type: AuthType, given: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"device 'leaf1'.*{message}"):
        keys.create_device("leaf1", NOW_S, auth_type, given)


def test_a_leaf_device_is_disabled_enabled_and_deleted(path: Path, keys: KeyStore) -> None:
    made = keys.create_device("leaf1", NOW_S)

    keys.enable_device("leaf1", False)
    disabled = KeyStore.open(path).identities()[-1]
    keys.enable_device("leaf1", True)
    enabled = keys.identities()[-1]
    keys.delete_device("leaf1")
    again = keys.create_device("leaf1", NOW_S)

    assert (disabled.status, disabled.primary_key, enabled) == ("disabled", made.primary_key, made)
    assert int(again.generation_id) > int(made.generation_id)
    assert again.primary_key != made.primary_key


@pytest.mark.parametrize(
    ("device_id", "message"),
    [("leaf2", "no leaf device 'leaf2'.* 'leaf1'"), ("edge1", "this edge itself"), ("m1", "identity list")],
)
def test_only_a_leaf_device_is_disabled_or_deleted(keys: KeyStore, device_id: str, message: str) -> None:
    keys.create_device("leaf1", NOW_S)
    keys.ensure_module("m1", NOW_S)
    before = keys.identities()

    for change in (lambda: keys.enable_device(device_id, False), lambda: keys.delete_device(device_id)):
        with pytest.raises(ConfigError, match=message):
            change()
    assert keys.identities() == before


def test_a_sealed_text_opens_with_the_same_module_generation_and_iv(keys: KeyStore) -> None:
    sealed = keys.encrypt("m1", "G", IV, b"secret text")

    assert sealed[:1] == b"\x02"
    assert len(sealed) == len(b"secret text") + 17
    assert keys.decrypt("m1", "G", IV, sealed) == b"secret text"


@pytest.mark.parametrize(
    ("module_id", "generation_id", "iv", "flip"),
    [("m2", "G", IV, None), ("m1", "H", IV, None), ("m1", "G", IV[::-1], None)]
    + [("m1", "G", IV, position) for position in (0, 1, 5, -1)],
    ids=["module", "generation", "IV", "version", "first byte", "middle", "tag"],
)
def test_a_sealed_text_does_not_open_with_anything_else(
    keys: KeyStore, module_id: str, generation_id: str, iv: bytes, flip: int | None
) -> None:
    sealed = bytearray(keys.encrypt("m1", "G", IV, b"secret text"))
    if flip is not None:
        sealed[flip] ^= 4

    with pytest.raises(AuthError):
        keys.decrypt(module_id, generation_id, iv, bytes(sealed))


@pytest.mark.parametrize("sealed", [b"", b"\x02", b"\x01", b"\x02short"])
def test_a_sealed_text_that_is_too_short_does_not_open(keys: KeyStore, sealed: bytes) -> None:
    with pytest.raises(AuthError):
        keys.decrypt("m1", "G", IV, sealed)


def test_the_older_order_of_a_sealed_text_opens_too(path: Path, keys: KeyStore) -> None:
    key = base64.b64decode(json.loads(path.read_bytes())["content"]["encryption_key"])
    sealed = AESGCM(key).encrypt(IV, b"secret text", b"m1G")

    assert keys.decrypt("m1", "G", IV, b"\x01" + sealed[-16:] + sealed[:-16]) == b"secret text"


def test_an_identity_of_a_module_names_its_device(keys: KeyStore) -> None:
    module: Identity = keys.ensure_module("m1", NOW_S)

    assert (module.device_id, module.module_id) == (keys.device_id, "m1")
