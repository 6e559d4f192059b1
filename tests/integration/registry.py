"""A registry on this machine with one image, which it hands out when the test says so."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from docker import APIClient

LIMIT_S: Final = 30.0
MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG: Final = "application/vnd.docker.container.image.v1+json"
LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves a copy of an image that the engine has, with one layer more, under a name that it has not.

    Source: Docker Registry HTTP API V2, image manifest version 2 schema 2
    """

    def __init__(self, client: APIClient, copied: str) -> None:
        archive = tarfile.open(fileobj=io.BytesIO(b"".join(client.get_image(copied))))  # noqa: SIM115
        with archive:
            [entry] = json.loads(_content(archive, "manifest.json"))
            layers = [_content(archive, name) for name in entry["Layers"]]
            config = json.loads(_content(archive, entry["Config"]))
        layers.append(_one_more_layer())
        config["rootfs"]["diff_ids"].append(_digest(layers[-1]))
        config["history"] = [{"created_by": "tests"} for _ in layers]
        described = json.dumps(config).encode()
        self._layers = {_digest(layer): layer for layer in layers}
        self._others = {_digest(described): described}
        self._manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _described(CONFIG, described),
                "layers": [_described(LAYER, layer) for layer in layers],
            }
        ).encode()
        self._may_go_on = threading.Event()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self)

            def do_HEAD(self) -> None:
                registry._answer(self)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        # Docker speaks plain HTTP to registries at 127.0.0.1.
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.image = f"127.0.0.1:{self._server.server_port}/pump:1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def go_on(self) -> None:
        """Hand out the layers."""
        self._may_go_on.set()

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._may_go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        last = request.path.rpartition("/")[2]
        body, kind = self._others.get(last, b"{}"), "application/octet-stream"
        if last in self._layers:
            self._may_go_on.wait(LIMIT_S)
            body = self._layers[last]
        elif "/manifests/" in request.path:
            body, kind = self._manifest, MANIFEST
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        if kind == MANIFEST:
            request.send_header("Docker-Content-Digest", _digest(body))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


def _one_more_layer() -> bytes:
    """Return a layer that no engine can have, so that it has to be fetched."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(f"unique-{uuid.uuid4()}"))
    return buffer.getvalue()


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    assert found is not None
    return found.read()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _described(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}
