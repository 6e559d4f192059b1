"""Joins and checks the createOptions of a container: JSON text inside JSON, often cut into chunks.

Source: spec sheet agent.md section 1.3.
"""

from __future__ import annotations

import json
import re
from typing import Any

from actors.manifest_json import Node, load_text, plain

MAX_CHUNKS = 100

_CHUNK_NAME = re.compile(r"createoptions([0-9]*)", re.IGNORECASE)
_SHAPES: dict[str, tuple[type, str]] = {
    "env": (list, "an array"),
    "exposedports": (dict, "an object"),
    "hostconfig": (dict, "an object"),
    "image": (str, "a string"),
    "labels": (dict, "an object"),
    "networkingconfig": (dict, "an object"),
}


def is_chunk(name: str) -> bool:
    """Tell whether a property of `settings` is createOptions or one of its numbered chunks."""
    return _CHUNK_NAME.fullmatch(name) is not None


def parse_create_options(settings: Node) -> str:
    """Return the createOptions of a module's `settings` as compact JSON text, `{}` when there are none.

    Raises:
        DeploymentError: A gap in the chunk numbers, text that is not a JSON object, or a property that Docker
            knows with a wrong type.
    """
    base, text_or_object = _joined(settings)
    options = load_text(text_or_object, base).value if isinstance(text_or_object, str) else text_or_object
    if options is None:
        return "{}"
    if not isinstance(options, dict):
        raise Node(options, base.path, base.source).expected("the JSON text of an object")
    for name, value in options.items():
        shape, what = _SHAPES.get(name.casefold(), (object, ""))
        if value is not None and not isinstance(value, shape):
            raise base.child(name, value).expected(what)
    return json.dumps(plain(options), separators=(",", ":"), ensure_ascii=False)


def _joined(settings: Node) -> tuple[Node, Any]:
    """Return the node to blame, and the joined text or the object that was given instead of text."""
    chunks: dict[int, Node] = {}
    for name, node in settings.entries():
        match = _CHUNK_NAME.fullmatch(name)
        if match is None:
            continue
        number = int(match[1][:9]) if match[1] else 0
        if match[1] and number == 0:
            raise node.error("chunks are numbered 01, 02, 03 …; the first has no number")
        if number in chunks:
            raise node.error(f"the same chunk is already given as '{chunks[number].path[-1]}'")
        chunks[number] = node
    if not chunks:
        return settings, None
    for expected, number in enumerate(sorted(chunks)):
        if number != expected:
            missing = "createOptions" if expected == 0 else f"createOptions{expected:02}"
            raise chunks[number].error(
                f"'{missing}' is missing before it; chunks are joined in order without a gap"
            )
    if len(chunks) > MAX_CHUNKS:
        raise chunks[MAX_CHUNKS].error(f"{len(chunks)} chunks; at most {MAX_CHUNKS} are allowed")
    base = chunks[0]
    if len(chunks) == 1 and (base.value is None or isinstance(base.value, dict)):
        return base, base.value
    text = "".join(chunks[number].text("a string of JSON text") for number in sorted(chunks))
    return base, text if text.strip() else None
