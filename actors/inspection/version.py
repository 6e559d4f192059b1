"""The version of what `edge-actors inspect` and an edge say to each other; each edge notes it."""

from __future__ import annotations

from typing import Final

PROTOCOL: Final = 2
