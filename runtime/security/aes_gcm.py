"""AES-256-GCM with IVs of 1 to 128 bytes, as the workload API takes them.

The `cryptography` package takes none below 8; for those, which no client is known to send, the first counter
block and the tag are worked out here.

Source: NIST SP 800-38D sections 6.4, 7.1 and 7.2
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Final

from messaging.errors import AuthError

TAG_BYTES: Final = 16
_BLOCK_BYTES: Final = 16
_LEAST_IV_BYTES: Final = 8  # of the package
_REDUCTION: Final = 0xE1 << 120  # x^128 + x^7 + x^2 + x + 1, bits reversed; section 6.3
_COUNTER_END: Final = 1 << 32


def encrypt(key: bytes, iv: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Return the ciphertext with its tag behind it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(iv) >= _LEAST_IV_BYTES:
        return AESGCM(key).encrypt(iv, plaintext, associated)
    gcm = _Gcm(key, iv)
    ciphertext = gcm.crypt(plaintext)
    return ciphertext + gcm.tag(ciphertext, associated)


def decrypt(key: bytes, iv: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Return the plaintext of what `encrypt` returned.

    Raises:
        AuthError: it was made with something else, or altered.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(iv) >= _LEAST_IV_BYTES:
        try:
            return AESGCM(key).decrypt(iv, sealed, associated)
        except InvalidTag as exc:
            raise AuthError("the tag does not fit") from exc
    gcm = _Gcm(key, iv)
    ciphertext, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    if len(sealed) < TAG_BYTES or not hmac.compare_digest(gcm.tag(ciphertext, associated), tag):
        raise AuthError("the tag does not fit")
    return gcm.crypt(ciphertext)


class _Gcm:
    """One message under one key and IV; right for any length of IV but 12."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._key = key
        self._times_h = _multiples(int.from_bytes(self._block(0)))
        self._first = self._hash(_padded(iv) + (8 * len(iv)).to_bytes(_BLOCK_BYTES))  # J0

    def crypt(self, data: bytes) -> bytes:
        return b"".join(self._counted(self._first + 1, data))

    def tag(self, ciphertext: bytes, associated: bytes) -> bytes:
        lengths = (8 * len(associated)).to_bytes(8) + (8 * len(ciphertext)).to_bytes(8)
        hashed = self._hash(_padded(associated) + _padded(ciphertext) + lengths)
        return b"".join(self._counted(self._first, hashed.to_bytes(_BLOCK_BYTES)))

    def _block(self, number: int) -> bytes:
        """Return one block through AES."""
        return self._counted_from(number, bytes(_BLOCK_BYTES))

    def _counted_from(self, first: int, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        mode = modes.CTR(first.to_bytes(_BLOCK_BYTES))
        return Cipher(algorithms.AES(self._key), mode).encryptor().update(data)

    def _counted(self, first: int, data: bytes) -> Iterator[bytes]:
        """Yield `data` in counter mode. GCM counts in the last 32 bits alone, the package in all 128."""
        fixed, counter = self._first // _COUNTER_END * _COUNTER_END, first % _COUNTER_END
        while data:
            until_wrap = (_COUNTER_END - counter) * _BLOCK_BYTES
            yield self._counted_from(fixed + counter, data[:until_wrap])
            data, counter = data[until_wrap:], 0

    def _hash(self, blocks: bytes) -> int:
        """Return GHASH, section 6.4; eight bits at a time."""
        times_h, value = self._times_h, 0
        for at in range(0, len(blocks), _BLOCK_BYTES):
            value ^= int.from_bytes(blocks[at : at + _BLOCK_BYTES])
            product = 0
            for byte in reversed(value.to_bytes(_BLOCK_BYTES)):
                product = product >> 8 ^ _REDUCED[product & 0xFF] ^ times_h[byte]
            value = product
        return value


def _doubled(value: int) -> int:
    """Return a polynomial times x."""
    return value >> 1 ^ (_REDUCTION if value & 1 else 0)


def _multiples(h: int) -> list[int]:
    """Return h times each polynomial of one byte, whose highest bit is x^0."""
    multiples = [0] * 256
    bit = 0x80
    while bit:
        multiples[bit] = h
        h, bit = _doubled(h), bit >> 1
    for byte in range(256):
        lowest = byte & -byte
        multiples[byte] = multiples[lowest] ^ multiples[byte ^ lowest] if byte != lowest else multiples[byte]
    return multiples


def _reduced(byte: int) -> int:
    for _ in range(8):
        byte = _doubled(byte)
    return byte


_REDUCED: Final = [_reduced(byte) for byte in range(256)]  # what is left of a byte that is shifted out


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK_BYTES)
