"""Puts a file into a container of a storage account, over the URL that gives the right to.

The URL is a secret: it stands in no error and in no log.

Source: learn.microsoft.com: rest/api/storageservices, Put Blob and Append Block
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Final
from urllib.parse import quote, urlsplit

from messaging.errors import EnvironmentFault

API_VERSION: Final = "2021-12-02"
BLOCK_BYTES: Final = 4 * 1024 * 1024  # the most that one Append Block takes
LIMIT_S: Final = 60.0
_WAITS_S: Final = (5.0, 20.0)  # before the second and third try
_DONE: Final = (200, 201)


@dataclass(frozen=True, slots=True)
class Content:
    """What to put there."""

    file: IO[bytes]
    content_type: str
    encoding: str = ""
    what: str = "the logs"  # for errors


def upload(
    sas_url: str,
    blob: str,
    content: Content,
    appended: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Upload a file from its beginning. Blocks.

    Args:
        sas_url: Of the container, with its signature.
        blob: Name in it; may have slashes.
        content: What to put there.
        appended: As an append blob, block by block and once; else as one block blob, with three tries.
        sleep: Waits between tries.

    Raises:
        EnvironmentFault: it is not there; says why, without the URL.
    """
    parts = urlsplit(sas_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EnvironmentFault("sasUrl is not the http or https URL of a container")
    path = f"{parts.path.rstrip('/')}/{quote(blob)}"
    query = f"?{parts.query}" if parts.query else ""
    headers = {"x-ms-version": API_VERSION, "Content-Type": content.content_type}
    if content.encoding:
        headers["Content-Encoding"] = content.encoding
    if appended:
        _put(sas_url, f"{path}{query}", headers | {"x-ms-blob-type": "AppendBlob"}, b"", content.what)
        content.file.seek(0)
        block_query = f"{query}&comp=appendblock" if query else "?comp=appendblock"
        while block := content.file.read(BLOCK_BYTES):
            _put(sas_url, f"{path}{block_query}", {"x-ms-version": API_VERSION}, block, content.what)
        return
    for wait_s in (*_WAITS_S, None):
        try:
            length = content.file.seek(0, os.SEEK_END)
            content.file.seek(0)
            sent = headers | {"x-ms-blob-type": "BlockBlob", "Content-Length": str(length)}
            _put(sas_url, f"{path}{query}", sent, content.file, content.what)
            return
        except EnvironmentFault:
            if wait_s is None:
                raise
            sleep(wait_s)


def _put(sas_url: str, target: str, headers: Mapping[str, str], body: bytes | IO[bytes], what: str) -> None:
    parts = urlsplit(sas_url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=LIMIT_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=LIMIT_S)
    try:
        connection.request("PUT", target, body, dict(headers))
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise EnvironmentFault(f"{what} cannot be brought to {host}: {exc}") from exc
    finally:
        connection.close()
    if response.status not in _DONE:
        raise EnvironmentFault(
            f"{host} refuses {what} with status {response.status}; the URL has to name a container and "
            "give the rights to create, add and write"
        )
