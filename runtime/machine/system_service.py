"""The edge that the Debian package installs: a service of the system with a user of its own.

Root asks it by the same commands, and does so as that user: what a command makes in the home then has the
right owner, and root follows no link that somebody put there.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final

USER: Final = "edge-actors"
HOME: Final = Path("/var/lib/edge-actors")  # StateDirectory= of the unit
# RuntimeDirectory= of the unit; /run/edge-actors is root's, for edges that root runs by hand.
RUN: Final = Path("/run/edge-actors-service")


def is_user(uid: int) -> bool:
    """Tell whether this is the user of the service."""
    try:
        return pwd.getpwnam(USER).pw_uid == uid
    except KeyError:
        return False


def become_owner(home: Path) -> None:
    """Go on as the user of the service, if we are root and the home is that user's. For good."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.stat(home).st_uid
    except OSError:
        return  # there is no home, or no way to it: the command tells
    if owner == 0 or not is_user(owner):
        return
    account = pwd.getpwuid(owner)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(owner, owner, owner)
    os.environ |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        os.environ.pop(name, None)  # root's
