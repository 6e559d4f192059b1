"""The other end of NOTIFY_SOCKET."""

from __future__ import annotations

import socket

LIMIT_S = 20.0


class FakeSystemd:
    """Hears what a service tells."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(LIMIT_S)

    def next(self) -> list[str]:
        """Return the lines that are told next."""
        return self._socket.recv(4096).decode().split("\n")

    def next_with(self, line: str) -> list[str]:
        """Return the lines that are told together with this one."""
        while line not in (told := self.next()):
            pass
        return told

    def is_silent_for(self, limit_s: float) -> bool:
        """Tell whether nothing is told for so long."""
        self._socket.settimeout(limit_s)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(LIMIT_S)
        return False

    def close(self) -> None:
        self._socket.close()
