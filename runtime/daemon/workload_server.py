"""Serves the workload API on one Unix socket per module, in one thread of its own.

Each socket stands in a folder per module, `<folder>/<module>/workload.sock`, and that folder is what a
container mounts: a mounted socket *file* is dead once its owner binds anew. HTTP is parsed by h11; h11 and
asyncio take 5 MB and 30 ms to import, aiohttp 18 MB and 200 ms.

Source: spec sheet security-daemon.md sections 0.1, 0.3 and 1.2
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from messaging.errors import ConfigError, EnvironmentFault
from runtime.daemon.api import Request
from runtime.daemon.caller import Caller, Peer
from runtime.daemon.http_connection import HttpConnection, Limits
from runtime.net.http_messages import HttpRequest, Refusal, Response, error_response
from runtime.storage.atomic_file import make_private_folder

log = logging.getLogger(__name__)

SOCKET_NAME = "workload.sock"
SOCKET_MODE = 0o666  # who asks is told by the kernel, not by the mode
MODULE_FOLDER_MODE = 0o755  # a container may run under any uid; it can use its socket but not replace it
GROUP_SOCKET_MODE = 0o660  # of a module that has a group of its own: others do not even get so far
GROUP_FOLDER_MODE = 0o710
SOCKETS_FOLDER_MODE = 0o711
PATH_LIMIT_BYTES = 107  # sun_path less its closing zero, unix(7)

_ANSWER_LIMIT_S = 15.0  # for the thread to do what it is told; a stop takes as long as `Limits` let a request

Handle = Callable[[Request, Caller | None], Response]
Result = TypeVar("Result")


class WorkloadServer:
    """Opens and closes the sockets of modules.

    Any thread may call, except from inside `handle`, which runs in the server's own thread.
    """

    def __init__(self, folder: Path, handle: Handle, limits: Limits | None = None) -> None:
        """Take where the sockets go and what answers. The thread starts with the first socket."""
        self._folder = folder
        self._handle = handle
        self._limits = limits or Limits()
        self._changing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listeners: dict[str, _Listener] = {}
        self._debug: dict[int, _Listener] = {}  # by pidfd; for the server's thread alone

    def open(self, module: str, group: int | None = None) -> Path:
        """Start to serve a module and return the path of its socket. One that is open stays as it is.

        Whatever a former run or a container engine left at that path is replaced. The module's folder is
        kept: a running container may have it mounted.

        Args:
            module: Its name without a leading `$`: `edgeHub`, `tempSensor`.
            group: The group id that alone may connect (besides root), None for anybody.

        Raises:
            ConfigError: the name cannot be that of a folder, or the path is too long for a socket.
            EnvironmentFault: the socket cannot be made.
        """
        path = socket_path(self._folder, module)
        with self._changing:
            if module not in self._listeners:
                listener = _Listener(module, path, self._handle, self._limits)
                self._run(listener.start(_bind(module, path, group)))
                self._listeners[module] = listener
        return path

    def open_debug(self, module: str, folder: Path, pidfd: int) -> Path:
        """Serve a module by one more socket, in a new folder below `folder`, while a process lives.

        Whatever runs as our own user may speak in the module's name there; nobody else gets in.

        Args:
            module: Its name without a leading `$`.
            folder: Where the new folder goes.
            pidfd: Of the process; it is ours to close from here on.

        Raises:
            EnvironmentFault: the socket cannot be made.
        """
        with ExitStack() as undo:
            undo.callback(os.close, pidfd)
            make_private_folder(folder)
            try:
                path = Path(tempfile.mkdtemp(prefix="", dir=folder)) / SOCKET_NAME
                listening = _bind_private(path)
            except OSError as exc:
                raise EnvironmentFault(
                    f"module '{module}': cannot open a debug socket below '{folder}': {exc.strerror or exc}; "
                    "repair the owner and mode of the run directory"
                ) from exc
            with self._changing:
                listener = _Listener(module, path, self._handle, self._limits, uid=os.geteuid())
                self._run(self._start_debug(listener, listening, pidfd))
            undo.pop_all()
        return path

    def close(self, module: str) -> None:
        """Stop to serve a module and remove its socket and folder. Requests under way are answered first."""
        with self._changing:
            listener = self._listeners.pop(module, None)
            if listener is not None:
                self._run(listener.stop())
                _clear_or_warn(listener.path)
                _clear_or_warn(listener.path.parent)

    def close_all(self) -> None:
        """Stop to serve all modules and end the thread.

        The folders stay: a container that outlives us has them mounted, and the next `open` serves it again.
        """
        with self._changing:
            while self._listeners:
                _, listener = self._listeners.popitem()
                self._run(listener.stop())
                _clear_or_warn(listener.path)
            if self._loop is not None and self._thread is not None:
                self._run(self._end_all_debug())
                self._run(_other_tasks_ended())
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self._loop = self._thread = None

    async def _start_debug(self, listener: _Listener, listening: socket.socket, pidfd: int) -> None:
        await listener.start(listening)
        self._debug[pidfd] = listener
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, lambda: loop.create_task(self._end_debug(pidfd)))

    async def _end_debug(self, pidfd: int) -> None:
        listener = self._debug.pop(pidfd, None)
        if listener is None:
            return
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        shutil.rmtree(listener.path.parent, ignore_errors=True)
        await listener.stop()

    async def _end_all_debug(self) -> None:
        for pidfd in list(self._debug):
            await self._end_debug(pidfd)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="workload-api", daemon=True)
            self._thread.start()
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_LIMIT_S)
        except TimeoutError as exc:
            raise EnvironmentFault(
                f"the thread of the workload API did not answer for {_ANSWER_LIMIT_S:g} s; restart the edge"
            ) from exc


def socket_path(folder: Path, module: str) -> Path:
    """Return where the socket of a module stands.

    Raises:
        ConfigError: the name cannot be that of a folder, or the path is too long for a Unix socket.
    """
    if module in ("", ".", "..") or "/" in module or "\0" in module:
        raise ConfigError(f"module {module!r}: this name cannot be that of a folder; rename the module")
    path = folder / module / SOCKET_NAME
    length = len(os.fsencode(path))
    if length > PATH_LIMIT_BYTES:
        raise ConfigError(
            f"module '{module}': its workload socket would be '{path}', {length} bytes long, and a Unix "
            f"socket allows {PATH_LIMIT_BYTES}; shorten the module's name or the path of the run directory"
        )
    return path


class _Listener:
    """The socket of one module with its connections. Runs in the server's thread."""

    def __init__(
        self, module: str, path: Path, handle: Handle, limits: Limits, uid: int | None = None
    ) -> None:
        self.path = path
        self._module = module
        self._handle = handle
        self._limits = limits
        self._uid = uid
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._open_by_uid: Counter[int] = Counter()
        self._connections: dict[asyncio.Task[None], HttpConnection] = {}

    async def start(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._accept, sock=listening)

    async def stop(self) -> None:
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for http in self._connections.values():
            if http.idle:
                http.hang_up()
        if self._connections:  # each ends by itself within the limits for reading and for answering
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer.get_extra_info("socket"))
        try:
            if self._stopping:
                return
            if self._open_by_uid[peer.uid] >= self._limits.connections_per_uid:
                log.debug(
                    "workload socket of '%s': one connection of uid %d too many", self._module, peer.uid
                )
                return
            self._open_by_uid[peer.uid] += 1
            try:
                await self._serve(HttpConnection(reader, writer, self._limits), peer)
            finally:
                self._open_by_uid[peer.uid] -= 1
        finally:
            peer.close()
            writer.close()

    async def _serve(self, http: HttpConnection, peer: Peer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = http
        try:
            goes_on = True
            while goes_on and not self._stopping:
                try:
                    request = await http.next_request()
                    if request is None:
                        return
                    response = self._answer(request, peer)
                except Refusal as refusal:
                    response = error_response(refusal.status, refusal.message)
                goes_on = await http.answer(response)
        except (OSError, TimeoutError) as exc:
            log.debug("workload socket of '%s': process %d is gone: %s", self._module, peer.pid, exc)
        finally:
            del self._connections[task]

    def _answer(self, request: HttpRequest, peer: Peer) -> Response:
        asked = Request(
            self._module,
            request.method,
            request.target,
            request.header("content-type"),
            request.body,
            self._uid,
        )
        try:
            return self._handle(asked, peer.caller())
        except Exception:  # the thread serves all modules and outlives one bad request
            log.exception("workload API: a request of module '%s' failed", self._module)
            return error_response(500, "internal error")


def _bind(module: str, path: Path, group: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_module_folder(path.parent, group)
        _clear(path)
        listening.bind(os.fspath(path))
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(SOCKET_MODE if group is None else GROUP_SOCKET_MODE)
        listening.listen()
    except OSError as exc:
        listening.close()
        raise EnvironmentFault(
            f"module '{module}': cannot open its workload socket '{path}': {exc.strerror}; "
            "repair the owner and mode of the run directory, or remove what stands there"
        ) from exc
    return listening


def _bind_private(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fspath(path))
        path.chmod(0o600)
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def _make_module_folder(folder: Path, group: int | None) -> None:
    # A folder is kept, anything else (also a link that points elsewhere) gives way.
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    # Whatever the umask said.
    folder.parent.chmod(SOCKETS_FOLDER_MODE)
    os.chown(folder, -1, os.getegid() if group is None else group)
    folder.chmod(MODULE_FOLDER_MODE if group is None else GROUP_FOLDER_MODE)


async def _other_tasks_ended() -> None:
    # A connection that arrived with the stop may have its task still before it, which then ends at once.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)


def _clear_or_warn(path: Path) -> None:
    try:
        _clear(path)
    except OSError as exc:
        log.warning("cannot remove '%s': %s", path, exc.strerror)


def _clear(path: Path) -> None:
    """Remove a socket, a file, or the empty folder that a container engine made in its place."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        path.rmdir()
    else:
        path.unlink()
