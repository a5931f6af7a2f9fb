"""A message that a simulated client has written, and what became of it."""

from dataclasses import dataclass, field
from typing import Any


class Violation(BaseException):
    """Something happened that must not. Not an Exception: the server would catch it, log it and go
    on.
    """


@dataclass(eq=False)
class Sent:
    """A message that some client has written, and what became of it."""

    content: str
    sender: str
    receiver: str
    is_group: bool
    request_id: str | None
    body: bytes
    number: int
    """The place among the sender's messages."""
    device: Any
    other: "Sent | None" = None
    """The one whose requestId it takes, although its content is another one."""
    read_at: int | None = None
    """The tick at which the server read it first."""
    read_count: int = 0
    open_count: int = 0
    """How many copies of it the server has read and not answered."""
    is_shaken: bool = False
    """It was answered at least once with something else than SUCCESS, or given up: later ones may
    overtake it.
    """
    is_unsynced: bool = False
    """The sync of its commit has failed, and it has no answer yet."""
    is_acknowledged: bool = False
    was_refused: bool = False
    id: int | None = None
    """Its id while it is stored, and also after it was dropped as it should be."""
    receivers: set[str] = field(default_factory=set)
    stored_at: float = 0.0
    is_there: bool = False
    """Its row is in the table now."""
    original: "Sent | None" = None
    """The message that it edits."""
    is_recall: bool = False
    """It is an edit without a text; `content` is a name for it."""

    @property
    def is_refused(self) -> bool:
        """It was refused for good: no other copy of it is on its way through the server."""
        return self.was_refused and not self.open_count

    def __str__(self) -> str:
        return (
            f"{self.content.split()[0]} ({self.sender} to {self.receiver}, requestId {self.request_id}, id {self.id})"
        )
