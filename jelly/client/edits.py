"""Edits of messages: what a program gets of its own ones, and of those of others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Edited:
    """The result of `JellyClient.edit` and `JellyClient.recall`: the server has stored it."""

    original: int
    """The `id` that you gave."""
    id: int | None = None
    """The server's number for the edit; None if the server does not tell it."""
    stored: int | None = None
    """When the server stored the edit, by the server's clock: milliseconds since 1970; None as
    above."""


@dataclass(frozen=True)
class EditEvent:
    """The author of a message that has reached you has changed it, or recalled it.

    In `Receiver.on_own_edit`, the author is you.
    """

    client: Any = field(repr=False, compare=False)
    """The `JellyClient` that received it."""
    sender: str
    content: str
    """The text now; empty if the message was recalled."""
    replaces: int
    """The `id` of the message, as in its own event and in the history."""
    group: str | None
    """The group that it was written to; None if it was written to a user."""
    time: int
    """When the message was written, by the sender's clock: milliseconds since 1970."""
    id: int | None = None
    """The server's number for the edit."""
    stored: int | None = None
    """When the server stored the edit, by the server's clock: milliseconds since 1970; None if the
    server does not tell it."""
    receiver: str = field(default="", compare=False)
    """The user or the group that it was written to."""

    @property
    def is_recalled(self) -> bool:
        """Whether the message is to be shown no more."""
        return not self.content


def edited(original: int, values: Mapping[str, Any]) -> Edited:
    """Return what a response says of one's own edit."""
    return Edited(original, values.get("id"), values.get("stored"))


def edit_event(client: object, is_group: bool, values: Mapping[str, Any]) -> EditEvent:
    """Return the event for the notice of an edit.

    Raises LookupError or TypeError if the notice is malformed.
    """
    texts = sender, receiver, content = values["sender"], values["receiver"], values["content"]
    numbers = replaces, time = values["replaces"], values["time"]
    if not (all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)):
        raise TypeError("a value is missing")
    group = receiver if is_group else None
    return EditEvent(client, sender, content, replaces, group, time, values.get("id"), values.get("stored"), receiver)
