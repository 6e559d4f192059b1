"""Whether the link to the cloud is wanted: it is, unless a file says otherwise."""

from __future__ import annotations

from pathlib import Path

from messaging.errors import EnvironmentFault


class LinkSwitchFile:
    """Implements `actors.ports.LinkSwitch`."""

    def __init__(self, path: Path) -> None:
        self._off = path

    def is_on(self) -> bool:
        """Return whether the file that switches off is not there."""
        return not self._off.exists()

    def switch(self, on: bool) -> None:
        """Remove the file, or make it.

        Raises:
            EnvironmentFault: the home cannot be written.
        """
        try:
            if on:
                self._off.unlink(missing_ok=True)
            else:
                self._off.touch(mode=0o600)
        except OSError as exc:
            raise EnvironmentFault(f"cannot write {self._off}: {exc.strerror}") from exc
