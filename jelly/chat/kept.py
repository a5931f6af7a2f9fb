"""What a chat keeps on disk for its next start: drafts, messages that are not confirmed, and who is
ignored.

One small file for each user of a server (and each device), which only the owner can read. It is
written anew whenever a message is sent, before that, so that one that is sent again after a crash
has the same requestId: the server stores it once.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MAX_MESSAGES = 200
"""At most this many messages are kept, the newest."""


class KeptMessage(NamedTuple):
    """A message that was written and not confirmed. The names are those in the file."""

    to: str
    text: str
    time: float
    """When it was written: seconds since 1970."""
    requestId: str
    perhaps: bool
    """Whether the server may have it."""


class KeptTexts:
    """The file. Without a path, nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._seen: set[str] = set()  # the requestIds that this chat knows; another one may write others
        self._drafts_of: set[str] = set()
        self.error = ""
        """Why the file could not be written, or that there is none; empty if it was written."""
        self.is_used = path is not None
        self.ignored: set[str] = set()
        """Whose messages are not shown, as `/ignore` wants it."""

    def load(self) -> tuple[dict[str, str], list[KeptMessage]]:
        """Return the drafts, by conversation, and the messages, oldest first."""
        drafts, messages = self._read()
        self.ignored = self._read_ignored()
        self._seen.update(message.requestId for message in messages)
        self._drafts_of.update(drafts)
        return drafts, messages

    def save(self, drafts: Mapping[str, str], messages: Iterable[KeptMessage]) -> bool:
        """Keep this until the next time. Return whether it is safe."""
        if self._path is None:
            return False
        own = list(messages)[-MAX_MESSAGES:]
        self._seen.update(message.requestId for message in own)
        self._drafts_of.update(drafts)
        other_drafts, others = self._read()
        drafts = {**{to: text for to, text in other_drafts.items() if to not in self._drafts_of}, **drafts}
        try:
            self._write(drafts, [*(each for each in others if each.requestId not in self._seen), *own])
        except OSError as error:
            self.error = error.strerror or str(error)
            return False
        self.error = ""
        return True

    def _read(self) -> tuple[dict[str, str], list[KeptMessage]]:
        """Return what is in the file; what is damaged counts as empty."""
        if self._path is None:
            return {}, []
        try:
            found = json.loads(self._path.read_bytes())
            return {str(to): str(text) for to, text in found["drafts"].items()}, list(map(_message, found["messages"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}, []

    def _read_ignored(self) -> set[str]:
        try:
            found = json.loads(self._path.read_bytes()) if self._path else {}
            return {name for name in found["ignored"] if isinstance(name, str)}
        except (OSError, ValueError, LookupError, TypeError):
            return set()

    def _write(self, drafts: Mapping[str, str], messages: Sequence[KeptMessage]) -> None:
        assert self._path
        if not (drafts or messages or self.ignored):
            self._path.unlink(missing_ok=True)
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        values = {
            "drafts": dict(drafts),
            "messages": [message._asdict() for message in messages],
            "ignored": sorted(self.ignored),
        }
        file, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.stem)  # with mode 0600
        try:
            with os.fdopen(file, "w", encoding="ascii") as stream:
                json.dump(values, stream)
            Path(name).replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def _message(values: Mapping[str, Any]) -> KeptMessage:
    return KeptMessage(
        str(values["to"]),
        str(values["text"]),
        float(values["time"]),
        str(values["requestId"]),
        values["perhaps"] is True,
    )


def kept_texts_of(environment: Mapping[str, str], addresses: Iterable[str], user: str, device: str) -> KeptTexts:
    """Return the file of a user at a server, on a device."""
    home = Path(environment.get("XDG_STATE_HOME", ""))
    if not home.is_absolute():  # the rule for it
        home = Path.home() / ".local" / "state"
    key = json.dumps([sorted(addresses), user, device]).encode()
    return KeptTexts(home / "jelly" / f"chat-{hashlib.sha256(key).hexdigest()[:16]}.json")
