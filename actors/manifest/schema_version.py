"""Says which schemaVersion of a manifest is understood. Source: spec sheet agent.md section 1.4."""

from __future__ import annotations

import re

from actors.manifest.json_reader import JsonFloat, Node, shown

_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?")

# A part that is not written is lower than 0, so that 1.1 comes before 1.1.0 and 1.1.0.0 after it.
_NEWEST_AGENT = (1, 1, 0, -1)


def agent_schema_version(node: Node) -> str:
    """Return the version of `$edgeAgent`: 1.0 up to 1.1.0.

    Raises:
        DeploymentError: Code 412 for a version that is not supported, 400 for something else than a string.
    """
    text, version = _parse(node)
    if version is None or version[0] != 1 or version > _NEWEST_AGENT:
        raise _unsupported(node, "1.0 and 1.1")
    return text


def hub_schema_version(node: Node) -> tuple[str, int]:
    """Return the version of `$edgeHub` and its second part: 1.0 to 1.3, whatever follows.

    Raises:
        DeploymentError: As for `agent_schema_version`.
    """
    text, version = _parse(node)
    if version is None or version[0] != 1 or version[1] > 3:
        raise _unsupported(node, "1.0 to 1.3")
    return text, version[1]


def _parse(node: Node) -> tuple[str, tuple[int, ...] | None]:
    if isinstance(node.value, JsonFloat):
        raise node.error(f'expected a string, got a number; put it in quotes: "{node.value.text}"')
    text = node.text().strip()
    match = _VERSION.fullmatch(text)
    return text, None if match is None else tuple(
        -1 if part is None else int(part) for part in match.groups()
    )


def _unsupported(node: Node, supported: str) -> Exception:
    return node.error(
        f"schema version {shown(node.value)} is not supported; supported: {supported}", code=412
    )
