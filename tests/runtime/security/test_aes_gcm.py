"""AES-GCM with short IVs: against OpenSSL's bytes, and the part made by hand against the package."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import AuthError
from runtime.security import aes_gcm
from runtime.security.aes_gcm import _Gcm

KEY = bytes(range(32))
TEXT = b"some text that is longer than a block"


@pytest.mark.parametrize(
    ("length", "sealed"),
    [
        (
            1,
            "1e114cadf6d0cda76e5a45ec218dff0ef79cd9e87b519fdd2957813b91fc2806ac907d790a"
            "c83ae2e1335a8d00648f487bc373f618",
        ),
        (
            4,
            "c6f3f080d239f80526412ccf2abcadd77815d3daa1176819b0b06a35be91f01e7bca6fc797"
            "9d8d06d6b47b71e57b4158c23ad4c936",
        ),
        (
            7,
            "e0b64eb0cdf7ff8316b9c200b15c528f68f119afa031f792ebcef043cf04ba88085b06e65d"
            "0a425a28a344cb2fcfb54c71abf13b83",
        ),
        (
            12,
            "907d4d707cd91a9015b45f899bd61a5f660e7497d951ce75e7597c1931b7ad5e13be07f1f8"
            "3893e366cd2871c10926c8c0b45db730",
        ),
    ],
)
def test_bytes_are_those_of_openssl(length: int, sealed: str) -> None:
    iv = bytes((7 * number + 1) % 256 for number in range(length))

    assert aes_gcm.encrypt(KEY, iv, TEXT, b"m1G").hex() == sealed
    assert aes_gcm.decrypt(KEY, iv, bytes.fromhex(sealed), b"m1G") == TEXT


@given(
    key=st.binary(min_size=32, max_size=32),
    iv=st.binary(min_size=8, max_size=128).filter(lambda iv: len(iv) != 12),
    plaintext=st.binary(max_size=200),
    associated=st.binary(max_size=60),
)
def test_what_is_made_by_hand_is_what_the_package_makes(
    key: bytes, iv: bytes, plaintext: bytes, associated: bytes
) -> None:
    gcm = _Gcm(key, iv)
    ciphertext = gcm.crypt(plaintext)

    assert ciphertext + gcm.tag(ciphertext, associated) == AESGCM(key).encrypt(iv, plaintext, associated)


def test_the_counter_wraps_in_its_last_32_bits() -> None:
    gcm = _Gcm(KEY, b"iv")
    gcm._first |= 0xFFFF_FFFE  # the counter after it is the last before the wrap

    first, second, third = (gcm.crypt(bytes(16 * blocks))[-16:] for blocks in (1, 2, 3))

    fixed = gcm._first >> 32 << 32
    assert [first, second, third] == [gcm._block(fixed + low) for low in (0xFFFF_FFFF, 0, 1)]


@given(iv=st.binary(min_size=1, max_size=16), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_altered_bit_is_noticed(iv: bytes, at: int, bit: int) -> None:
    sealed = bytearray(aes_gcm.encrypt(KEY, iv, TEXT, b"m1G"))
    sealed[at % len(sealed)] ^= 1 << bit

    with pytest.raises(AuthError):
        aes_gcm.decrypt(KEY, iv, bytes(sealed), b"m1G")


@pytest.mark.parametrize("length", [0, 1, 15])
def test_less_than_a_tag_does_not_open(length: int) -> None:
    with pytest.raises(AuthError):
        aes_gcm.decrypt(KEY, b"iv", bytes(length), b"m1G")
