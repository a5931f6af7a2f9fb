"""A file to which the chat writes what it shows, for /log."""

import os
from pathlib import Path

from jelly.chat.cells import sanitize, sanitize_lines
from jelly.chat.model import Conversation, Line, LineKind


class LogFile:
    """Appends lines to a file that only its owner can read. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(file, "ab", buffering=0)  # what is not written now is not tried again

    def write(self, conversation: Conversation, line: Line) -> None:
        """Append a line: when, in which conversation, by whom, what."""
        is_message = line.kind in (LineKind.OUTGOING, LineKind.INCOMING)
        sender = sanitize(line.sender) if is_message else "--"
        first, *others = sanitize_lines(line.shown)
        rows = [f"{line.at:%Y-%m-%d %H:%M} {conversation.title} {sender}: {first}", *(f"   {row}" for row in others)]
        self._file.write(("\n".join(rows) + "\n").encode("utf-8", "replace"))

    def close(self) -> None:
        """Write nothing more."""
        self._file.close()
