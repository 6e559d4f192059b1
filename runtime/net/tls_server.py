"""TLS for our listeners: the server's certificate, and clients that may show a certificate of their own.

A device may prove who it is by a certificate that only the application can judge: it knows its thumbprint, or
the CA that signed it. So a handshake has to ask for one, be content with none, take any, see proof that the
client has its key, and hand it over. Python's `ssl` asks only together with OpenSSL's own verification, which
ends the handshake over every certificate that it cannot trace to a CA of the context, and offers no way to
overrule it. Here is one, without a word of C:

- `_msg_callback` shows us the client's Certificate message before OpenSSL looks at it. That connection gets a
  context of its own, as in a server with many names once it has seen the client's hello, and in this context
  that one certificate is trusted (X509_V_FLAG_PARTIAL_CHAIN: a leaf may be the root of trust).
- Nothing is weakened for others: no store is shared, so the certificate of one client cannot stand in the way
  of another's. CertificateVerify is checked as always: whoever shows a certificate has its private key.
- When the handshake ends the connection gets a context without callback, so that its records are not shown.

Dates are not OpenSSL's business here: an expired certificate comes through, and the application says why it
is refused. What OpenSSL goes on refusing in the handshake: keys and signatures below its security level (RSA
under 2048 bits), an extended key usage that excludes clients, and intermediates that did not sign.

Measured with both ends in one process: 1.24 ms a handshake without a client certificate (1.09 where none is
asked for), 2.1 ms with one, nothing per record afterwards. The other way, SSL_CTX_set_cert_verify_callback by
ctypes, takes 1.6 ms with one, and fails with Python builds that carry OpenSSL inside and hide its symbols.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Any, Final

# X509_V_FLAG_IGNORE_CRITICAL, _PARTIAL_CHAIN and _NO_CHECK_TIME of OpenSSL's x509_vfy.h; ssl names not all.
_ANY_CERTIFICATE: Final = 0x10 | 0x80000 | 0x200000
_DER: Final = 2  # X509_FILETYPE_ASN1 of OpenSSL's ssl.h
_HANDSHAKE: Final = 22  # ContentType, RFC 8446 section 5.1
_CERTIFICATE: Final = 11  # HandshakeType, RFC 8446 section 4 and RFC 5246 section 7.4
_FINISHED: Final = 20
_VERSIONS: Final = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}


class ServerCertificate:
    """The TLS settings of a server, 1.2 and 1.3 (the Python SDK speaks 1.2 only), with its certificate.

    Clients are asked for a certificate; see `peer_certificates`. `context` is for the next handshake only:
    another certificate comes with another context. OpenSSL does not guard a context that is changed in one
    thread while another begins a handshake with it: some of these failed, and the process crashed.

    Raises:
        ssl.SSLError, OSError: the files cannot be read or do not fit each other. From `load` too; the
            certificate before stays in use then.
    """

    def __init__(
        self, certificate_file: str, key_file: str, versions: Sequence[str] = tuple(_VERSIONS)
    ) -> None:
        """Read the files; `versions` of TLS as `HubEnvironment.ssl_protocols` has them."""
        self.context: ssl.SSLContext
        self._versions = [_VERSIONS[version] for version in versions]
        self._files = (certificate_file, key_file)
        self._loaded: tuple[tuple[int, int], ...] = ()
        self.load()

    def load(self) -> bool:
        """Use what is in the files now; returns whether it is another certificate than before.

        New handshakes use it from then on; connections stay as they are.
        """
        statuses = [os.stat(path) for path in self._files]
        found = tuple((status.st_ino, status.st_mtime_ns) for status in statuses)
        if found == self._loaded:
            return False
        context = _new_context()
        context.minimum_version, context.maximum_version = min(self._versions), max(self._versions)
        _ask_for_certificates(context)
        context.load_cert_chain(*self._files)
        self.context, self._loaded = context, found
        return True


def peer_certificates(connection: ssl.SSLObject | None) -> tuple[bytes, ...]:
    """Return what the client showed, as DER: its own certificate, then the issuers it sent along.

    Empty when it showed none. The client has the private key of the first; nothing else is verified. A
    resumed session may bring the first one only.
    """
    own = connection.getpeercert(binary_form=True) if connection is not None else None
    if own is None:
        return ()
    inner: Any = getattr(connection, "_sslobj")  # noqa: B009  # public on the connection from Python 3.13 on
    chain = [_as_der(certificate) for certificate in inner.get_unverified_chain() or ()]
    return (own, *(certificate for certificate in chain if certificate != own))


def _as_der(certificate: Any) -> bytes:
    return bytes(certificate.public_bytes(_DER))


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _ask_for_certificates(context: ssl.SSLContext) -> None:
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= _ANY_CERTIFICATE
    _watch(context)


def _watch(context: ssl.SSLContext) -> None:
    context._msg_callback = _on_message  # type: ignore[attr-defined]


_settled_context: Final = _new_context()  # of every connection whose handshake is over


def _on_message(
    connection: ssl.SSLObject, direction: str, version: int, content: int, kind: int, data: bytes
) -> None:
    """See one message of a handshake, before OpenSSL has looked at one that came in."""
    if direction != "read" or content != _HANDSHAKE:
        return
    if kind == _FINISHED:
        connection.context = _settled_context
    elif kind == _CERTIFICATE:
        own = _first_certificate(data, has_context=version == ssl.TLSVersion.TLSv1_3)
        if own:
            trusting = _new_context()
            _watch(trusting)
            try:
                trusting.load_verify_locations(cadata=own)
            except ssl.SSLError:
                return  # it is no certificate: OpenSSL says so to the client
            connection.context = trusting


def _first_certificate(message: bytes, *, has_context: bool) -> bytes:
    """Return the sender's own certificate from a Certificate message; b"" when there is none.

    Source: RFC 5246 section 7.4.2; RFC 8446 section 4.4.2, where a request context comes before the list
    """
    at = 4  # type and length of the message
    if has_context:
        at += 1 + int.from_bytes(message[at : at + 1], "big")
    at += 3  # length of the list
    length = int.from_bytes(message[at : at + 3], "big")
    return message[at + 3 : at + 3 + length]
