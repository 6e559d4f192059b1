"""Whether AMQP can be had here: its engine comes as source, and not every machine has a C compiler."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Final

WAY_OUT: Final = (
    "python-qpid-proton is not installed here; with a C compiler and Python's headers, `scripts/setup` or "
    "`pip install 'edge-actors[amqp]'` adds it"
)


@cache
def is_installed() -> bool:
    """Tell whether the engine is here, without loading it."""
    return find_spec("cproton_ffi") is not None
