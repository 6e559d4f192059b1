"""The version of this program: setup.cfg takes it from here, and the processes of an edge compare theirs."""

from typing import Final

VERSION: Final = "0.1.0"
