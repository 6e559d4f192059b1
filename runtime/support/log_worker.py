"""Reads logs of modules for the methods of `$edgeAgent`; uploads them, and support bundles. In its threads.

Source: spec sheet agent.md sections 5.3 and 5.4
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import IO, Final

from actors.agent.log_query import (
    MOST_ANSWERED,
    REGEX_LIMIT_S,
    BundleRequest,
    ContentType,
    Encoding,
    LogFilter,
    LogLine,
    LogRequest,
    MethodRefused,
    Stopwatch,
    as_json,
    chosen,
    selected,
)
from messaging.errors import EdgeError
from runtime.docker.logs import stamped_lines
from runtime.home import Home
from runtime.logs import reader
from runtime.run_directory import RunDirectory
from runtime.support import blob_upload
from runtime.support.bundle_program import BundleQuery, make_bundle

log = logging.getLogger(__name__)

_THREADS: Final = 2
_IN_MEMORY_BYTES: Final = 1 << 20  # of what is uploaded; the rest waits in a file
_LONGEST_LINE_BYTES: Final = 64 * 1024


class ModuleLogWorker:
    """Implements `actors.agent.methods.LogWorker`."""

    def __init__(self, home: Home, host_name: str, device_id: str) -> None:
        """Take where the logs are, and the names that stand in what is answered."""
        self._home = home
        self._host_name = host_name
        self._device_id = device_id
        self._threads = ThreadPoolExecutor(_THREADS, "module-logs")

    def read(self, request: LogRequest, modules: Sequence[str], done: Callable[[int, bytes], None]) -> None:
        """Tell the status and the JSON that GetModuleLogs answers with; see LogWorker."""

        def work() -> None:
            try:
                done(200, self._answer(request, modules))
            except MethodRefused as exc:
                done(exc.status, _error(str(exc)))
            except (EdgeError, OSError) as exc:
                done(500, _error(str(exc)))

        self._threads.submit(_logged, work)

    def upload(self, request: LogRequest, modules: Sequence[str], done: Callable[[str], None]) -> None:
        """Upload what UploadModuleLogs asks for, and tell why that failed; see LogWorker."""

        def work() -> None:
            problems = []
            stopwatch = Stopwatch(REGEX_LIMIT_S)
            try:
                for name, wanted in chosen(request, modules, stopwatch):
                    try:
                        self._upload_one(request, name, wanted, stopwatch)
                    except (EdgeError, OSError) as exc:
                        problems.append(str(exc))
            except MethodRefused as exc:
                problems.append(str(exc))
            done(problems[0] if problems else "")

        self._threads.submit(_logged, work)

    def upload_bundle(self, request: BundleRequest, done: Callable[[str], None]) -> None:
        """Make a support bundle and upload it; see LogWorker."""

        def work() -> None:
            query = BundleQuery(request.since, request.until, request.runtime_only, self._host_name)
            try:
                with make_bundle(self._home.path, query) as file:
                    blob = f"{self._host_name}/{self._device_id}/support-bundle-{_now()}.zip"
                    content = blob_upload.Content(file, "application/zip", "zip", "the support bundle")
                    blob_upload.upload(request.sas_url, blob, content, appended=False)
            except (EdgeError, OSError) as exc:
                done(str(exc))
            else:
                done("")

        self._threads.submit(_logged, work)

    def close(self) -> None:
        """Begin nothing new; see LogWorker."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _answer(self, request: LogRequest, modules: Sequence[str]) -> bytes:
        stopwatch = Stopwatch(REGEX_LIMIT_S)
        entries, size = [], 0
        for name, wanted in chosen(request, modules, stopwatch):
            is_gzip = request.encoding is Encoding.GZIP
            parts: list[str] = []
            raw = 0
            for part in self._parts(request, name, wanted, stopwatch, cut=True):
                parts.append(part)
                raw += len(part)
                if not is_gzip and size + raw > MOST_ANSWERED:
                    raise _too_large()
            payload = "".join(parts)
            if is_gzip:
                packed = gzip.compress(payload.encode())
                size += len(packed)
                entry = {"id": name, "payloadBytes": base64.b64encode(packed).decode(), "payload": None}
            else:
                size += raw
                entry = {"id": name, "payloadBytes": None, "payload": payload}
            if size > MOST_ANSWERED:
                raise _too_large()
            entries.append(entry)
        return json.dumps(entries, ensure_ascii=False).encode()

    def _upload_one(self, request: LogRequest, name: str, wanted: LogFilter, stopwatch: Stopwatch) -> None:
        is_json, is_gzip = request.content_type is ContentType.JSON, request.encoding is Encoding.GZIP
        extension = ("json" if is_json else "log") + (".gz" if is_gzip else "")
        blob = f"{self._host_name}/{self._device_id}/{name}-{_now()}.{extension}"
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            self._write(request, name, wanted, stopwatch, file)
            content = blob_upload.Content(
                file,
                "application/json" if is_json else "text/plain",
                "gzip" if is_gzip else "",
            )
            blob_upload.upload(request.sas_url, blob, content, appended=not is_json)

    def _write(
        self, request: LogRequest, name: str, wanted: LogFilter, stopwatch: Stopwatch, file: IO[bytes]
    ) -> None:
        # In the reference a text is uploaded as it comes, so that its tail does not count in the end.
        cut = request.content_type is ContentType.JSON
        parts = self._parts(request, name, wanted, stopwatch, cut)
        if request.encoding is Encoding.GZIP:
            with gzip.GzipFile(fileobj=file, mode="wb") as packed:
                packed.writelines(part.encode() for part in parts)
        else:
            file.writelines(part.encode() for part in parts)

    def _parts(
        self, request: LogRequest, name: str, wanted: LogFilter, stopwatch: Stopwatch, cut: bool
    ) -> Iterator[str]:
        """Yield the text of one module piece by piece: JSON array or lines as they are."""
        found = selected(self._lines(name, wanted), wanted, stopwatch, cut)
        if request.content_type is ContentType.TEXT:
            for line, _ in found:
                yield line.payload
            return
        separator = "["
        for line, parsed in found:
            yield separator + as_json(line, parsed, self._host_name, self._device_id, name)
            separator = ","
        yield "]" if separator == "," else "[]"

    def _lines(self, name: str, wanted: LogFilter) -> Iterable[LogLine]:
        if self._home.containers.exists() and name not in ("edgeHub", "edgeAgent"):
            run = RunDirectory.of(self._home.path)
            lines = stamped_lines(run.path.name, name, wanted.since_s, wanted.until_s, _docker_tail(wanted))
            if lines is not None:
                return lines
        path = self._home.log_of(name)
        tail = None if wanted.since_s or wanted.until_s else wanted.tail
        return _file_lines(reader.read(path, tail)) if path.exists() else ()


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d--%H-%M-%S")


def _docker_tail(wanted: LogFilter) -> int | None:
    return None if wanted.since_s is not None and wanted.until_s is not None else wanted.tail


def _file_lines(blocks: Iterable[bytes]) -> Iterator[LogLine]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield LogLine(line.decode("utf-8", "replace") + "\n")
        if len(rest) > _LONGEST_LINE_BYTES:
            yield LogLine(rest.decode("utf-8", "replace") + "\n")
            rest = b""
    if rest:
        yield LogLine(rest.decode("utf-8", "replace"))


def _too_large() -> MethodRefused:
    return MethodRefused(
        400, f"the logs are larger than {MOST_ANSWERED}; ask for fewer lines with tail, since or gzip"
    )


def _error(reason: str) -> bytes:
    return json.dumps({"message": reason}, ensure_ascii=False).encode()


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("reading logs failed")
