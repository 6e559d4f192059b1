"""Takes secrets out of what leaves the machine: logs, settings, deployments, what the container engine tells.

Three nets, one behind the other: what is known to be a secret of this edge, in every spelling in which it
travels; what looks like one wherever it stands; and values whose name says that they are. Too much is masked
rather than too little.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from actors.agent.reported import MASKED

SHORTEST_KNOWN: Final = 6  # a shorter one would be found in half of all words
_NAME: Final = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|connection_?string|signature|authorization"
    r"|(?:api|access|account|shared|private|primary|secondary|symmetric|encryption|master)[_-]?(?:access[_-]?)?key"
    r"|[_-]key|sas(?:[_-]?(?:url|token))?"
)
_SECRET_NAME: Final = re.compile(rf"(?:{_NAME})$|^(?:key|sig|auth)$|(?:{_NAME})[_-]", re.IGNORECASE)
_NAMED: Final = re.compile(
    rf"""((?:\\?["'])?(?<![A-Za-z0-9_.-])[A-Za-z0-9_.-]*(?:{_NAME})(?:\\?["'])?\s*(?:=|:)\s*(?:\\?["'])?)([^\s"'\\,;&}}\])]+)""",
    re.IGNORECASE,
)
# A text without any of these, in small letters, need not be searched for the pattern: most have none.
_NAME_MARKS: Final = (
    "pass", "pwd", "secret", "token", "credential", "connection", "signature", "authorization", "key", "sas",
)  # fmt: skip
_SHAPES: Final = (
    (("sharedaccesssignature",), re.compile(r"(SharedAccessSignature\s+)[^\s\"'\\]+()")),
    (("sig=",), re.compile(r"((?:\?|&|&amp;|\b)sig=)[^&\s\"'\\]+()", re.IGNORECASE)),
    (("bearer", "basic"), re.compile(r"((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}()", re.IGNORECASE)),
    (("://",), re.compile(r"([a-z][a-z0-9+.-]{0,30}://[^\s/:@\"']*:)[^\s/@\"']+(@)", re.IGNORECASE)),
    # a JSON web token
    (("eyj",), re.compile(r"()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+()")),
)
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/_-]|%2[BbFf]){16,}(?:=|%3[Dd]){0,2}")
_PLAIN_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")  # where nothing is written with %: faster
_KEY_BEGINS: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_ENDS: Final = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
_WHOLE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


class Redactor:
    """Masks texts and JSON values."""

    def __init__(self, known: Iterable[str | bytes]) -> None:
        """Take what is known to be a secret; bytes are looked for in base64 and in hexadecimal."""
        words: set[str] = set()
        for secret in known:
            if isinstance(secret, bytes):
                encoded = base64.b64encode(secret).decode()
                words |= {encoded, secret.hex(), encoded.replace("+", "-").replace("/", "_")}
            else:
                words.add(secret)
        words = {word for word in words if len(word) >= SHORTEST_KNOWN}
        # There may be thousands of keys: those that are found by their shape are looked up, not searched for.
        self._keys = {word.rstrip("=") for word in words if _BASE64.fullmatch(word)}
        others = words - {word for word in words if _BASE64.fullmatch(word)}
        spellings = sorted({form for word in others for form in (word, quote(word, safe=""))}, reverse=True)
        self._others = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if "PRIVATE KEY-----" in text:
            text = _WHOLE_KEY.sub(MASKED, text)
        if self._others is not None:
            text = self._others.sub(MASKED, text)
        if self._keys:
            text = (_BASE64 if "%" in text else _PLAIN_BASE64).sub(self._looked_up, text)
        small = text.lower()
        for marks, shape in _SHAPES:
            if any(mark in small for mark in marks):
                text = shape.sub(rf"\g<1>{MASKED}\g<2>", text)
        if any(mark in small for mark in _NAME_MARKS):
            text = _NAMED.sub(rf"\g<1>{MASKED}", text)
        return text

    def lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines of a log without secrets; a private key may go over several."""
        in_key = False
        for line in lines:
            text = line.decode("utf-8", "replace")
            if in_key:
                in_key = _KEY_ENDS.search(text) is None
                continue
            begins = _KEY_BEGINS.search(text)
            in_key = begins is not None and _KEY_ENDS.search(text, begins.end()) is None
            yield self.text(text).encode() + (b"\n" if in_key else b"")

    def value(self, value: Any, name: str = "") -> Any:
        """Return a JSON value without secrets; `name` is what it is called where it stands."""
        if isinstance(value, Mapping):
            if _SECRET_NAME.search(name) and set(value) == {"value"}:  # a variable of a manifest
                return {"value": MASKED}
            return {key: self.value(member, str(key)) for key, member in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(member, name) for member in value]
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "replace"))
        if not isinstance(value, str):
            return MASKED if value is not None and _SECRET_NAME.search(name) and name else value
        if name and value and _SECRET_NAME.search(name):
            return MASKED
        variable, equals, _ = value.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", variable) and _SECRET_NAME.search(variable):
            return f"{variable}={MASKED}"
        return self.text(value)

    def _looked_up(self, found: re.Match[str]) -> str:
        word = unquote(found[0]).rstrip("=")
        return MASKED if word in self._keys else found[0]
