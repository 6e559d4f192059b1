"""How a line of the log is written: as the reference writes it, or as one JSON object.

`<6> 2026-01-01 10:00:00.123 +00:00 [INF] - text`, from debug on with the part of the edge it comes from:
`… [DBG] [actors.upstream] - text`. The number is the priority of syslog, which journald takes as such. What a
line goes on with, a traceback for example, is indented, so that no text can pass for a line of its own.

Source: spec sheet observability.md section 8.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any, Final

TEXT: Final = "text"
JSON: Final = "json"
FORMATS: Final = (TEXT, JSON)

# Level: priority, tag. The reference has these words.
_TAGS: Final = {
    logging.CRITICAL: (0, "FTL"),
    logging.ERROR: (3, "ERR"),
    logging.WARNING: (4, "WRN"),
    logging.INFO: (6, "INF"),
    logging.DEBUG: (7, "DBG"),
}
_INDENT: Final = "\n    "
# Other control characters could move the cursor of a terminal, or hide what was before.
_SHOWN: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
# The last resort for the text of an error of a library; our own lines have none of these.
_SECRETS: Final = re.compile(
    r"(?i)((?:sig|signature|SharedAccessKey|AccountKey|password|passwd)=)[^\s&;,'\"]+"
    r"|(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


class LineFormatter(logging.Formatter):
    """One readable line; times in UTC with milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        priority, tag = _TAGS.get(record.levelno, (6, record.levelname[:3]))
        second = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        area = f" [{record.name}]" if _is_debugged(record) else ""
        text = without_secrets(super().format(record)).rstrip("\n").translate(_SHOWN)
        head = f"<{priority}> {second}.{int(record.msecs):03d} +00:00 [{tag}]{area} - "
        return head + text.replace("\n", _INDENT)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, process, logger, message, and traceback where there is one."""

    def __init__(self, process: str) -> None:
        """Take what this process is called: edgeAgent, edgeHub, …"""
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values: dict[str, Any] = {
            "at": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        if record.exc_info:
            values["traceback"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(values, ensure_ascii=False)


def without_secrets(text: str) -> str:
    """Return a text with the values of tokens, keys and passwords in it masked."""
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", text)


def _is_debugged(record: logging.LogRecord) -> bool:
    """Tell whether this part of the edge logs at debug; the name belongs to its lines then."""
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
