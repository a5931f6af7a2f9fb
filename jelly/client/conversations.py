"""The list of one's conversations, in the server's answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEATURE = "read"


@dataclass(frozen=True)
class LastMessage:
    """The newest message of a conversation."""

    id: int
    """The server's number for the message. Later messages have greater ids."""
    sender: str
    content: str
    """What it says; if that is long, the first 100 characters."""
    time: int
    """When it was written, by the sender's clock: milliseconds since 1970."""
    stored: int | None = None
    """When the server stored it, by the server's clock: milliseconds since 1970; None if the server
    does not know."""


@dataclass(frozen=True)
class Conversation:
    """A conversation with a person or in a group, from `JellyClient.conversations`."""

    name: str
    """The person, or the group."""
    is_group: bool
    last: LastMessage
    unread: int
    """How many messages of others are not read: those up to `last`, so not what arrives later. The
    server counts up to 100."""
    read: int
    """The id up to which you have read (`JellyClient.mark_read`); 0 if you have not."""


def parse_conversations(values: Mapping[str, Any]) -> tuple[Conversation, ...]:
    """Return what an answer lists, that with the newest message first.

    Raises LookupError or TypeError if the answer is malformed.
    """
    found = [_parse(each) for each in values["conversations"]]
    return tuple(sorted(found, key=lambda each: -each.last.id))


def _parse(values: Mapping[str, Any]) -> Conversation:
    last, is_group = values["last"], "groupName" in values
    message = LastMessage(int(last["id"]), last["sender"], last["content"], int(last["time"]), last.get("stored"))
    name = values["groupName" if is_group else "person"]
    return Conversation(name, is_group, message, int(values["unread"]), int(values["read"]))
