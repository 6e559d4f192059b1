"""Joins and checks the createOptions of a container: JSON text inside JSON, often cut into chunks.

Source: spec sheet agent.md section 1.3.
"""

from __future__ import annotations

import json
import re
from typing import Any

from actors.manifest.json_reader import Node, load_text, plain

MAX_CHUNKS = 100

_CHUNK_NAME = re.compile(r"createoptions([0-9]*)", re.IGNORECASE)
_ARRAY, _OBJECT, _STRING = (list, "an array"), (dict, "an object"), (str, "a string")
_SHAPES: dict[str, tuple[type, str]] = {
    "env": _ARRAY,
    "exposedports": _OBJECT,
    "hostconfig": _OBJECT,
    "image": _STRING,
    "labels": _OBJECT,
    "networkingconfig": _OBJECT,
}
# Of what stands inside these: what is read or changed here before Docker gets to see it.
_INNER_SHAPES: dict[str, dict[str, tuple[type, str]]] = {
    "hostconfig": {
        "binds": _ARRAY,
        "capadd": _ARRAY,
        "capdrop": _ARRAY,
        "cgroupnsmode": _STRING,
        "devices": _ARRAY,
        "extrahosts": _ARRAY,
        "ipcmode": _STRING,
        "logconfig": _OBJECT,
        "mounts": _ARRAY,
        "networkmode": _STRING,
        "pidmode": _STRING,
        "portbindings": _OBJECT,
        "securityopt": _ARRAY,
        "usernsmode": _STRING,
        "utsmode": _STRING,
    },
    "networkingconfig": {"endpointsconfig": _OBJECT},
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
    _check_shapes(Node(options, base.path, base.source), _SHAPES)
    for name, value in options.items():
        if value is not None and name.casefold() in _INNER_SHAPES:
            _check_shapes(base.child(name, value), _INNER_SHAPES[name.casefold()])
    return json.dumps(plain(options), separators=(",", ":"), ensure_ascii=False)


def _check_shapes(options: Node, shapes: dict[str, tuple[type, str]]) -> None:
    for name, node in options.entries():
        shape, what = shapes.get(name.casefold(), (object, ""))
        if node.value is not None and not isinstance(node.value, shape):
            raise node.expected(what)


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
