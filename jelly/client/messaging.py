"""Messages that a client sends, and those that it reads again."""

import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields
from typing import Any

from jelly.client import typing
from jelly.client.connection_manager import ConnectionManager
from jelly.client.conversations import FEATURE as READ_FEATURE
from jelly.client.conversations import Conversation, parse_conversations
from jelly.client.edits import Edited, edited
from jelly.client.values import Timed, number
from jelly.codec import Type
from jelly.errors import RequestError

MAX_REQUEST_ID = 36
"""At most this many characters are in an idempotency key."""


@dataclass(frozen=True)
class Sent:
    """The result of sending a message: the server has stored it safely for each receiver.

    The receivers may get it later.
    """

    receiver: str
    """The user or the group that you wrote to."""
    time: int
    """When you sent it, by the clock of this machine: milliseconds since 1970."""
    id: int | None = None
    """The server's number for the message, as its receivers get it. None if the server does not
    tell it (an older one, or the original one)."""
    stored: int | None = None
    """When the server stored it, by the server's clock: milliseconds since 1970; None as above. If
    you had sent it before, this is when it was stored first."""


@dataclass(frozen=True)
class PastMessage(Timed):
    """A message from `JellyClient.history`, `JellyClient.group_history` or `JellyClient.search`."""

    sender: str
    receiver: str
    """The user or the group that the sender wrote to."""
    content: str
    time: int
    """When it was written, by the sender's clock: milliseconds since 1970."""
    id: int
    """The server's number for the message, the same as in the event when it arrived. Later messages
    have greater ids."""
    stored: int | None = None
    """When the server stored it, by the server's clock: milliseconds since 1970; None if the server
    does not tell it."""
    group: str | None = None
    """From `search`: the group, if it was written to a group."""
    edited: int | None = None
    """If its author has changed it: the number of the last edit. An empty `content` means then that
    it was recalled."""


@dataclass(frozen=True)
class History:
    """One page of a conversation, or of what a search has found."""

    messages: tuple[PastMessage, ...]
    """The oldest first."""
    more: bool
    """Whether the server has older messages, or has not searched all of them. Get them with
    `before`."""
    before: int | None = None
    """The `before` with which to ask for the next page; None if there is no more."""


class MessageOperations:
    """What a client does with messages."""

    _manager: ConnectionManager
    _typing_pace: typing.TypingPace

    def send_message(self, receiver: str, content: str, *, request_id: str | None = None) -> "Future[Sent]":
        """Send a message to a user, online or not.

        The result means: the server has stored the message safely, and once, even if the connection
        was lost meanwhile. If you send more than the server takes, the client waits, and the result
        comes later. Rejected with `no_such_user`; with `not_accepted`, if the user has blocked you;
        with `inbox_full`, if too much waits for the user; with `limit_reached`, if too many of your
        messages wait for others; with `too_long`, before it is sent, if its body has more than
        `max_body` bytes.

        `request_id`: your own name for this message, of 1 to 36 characters. With the same one the
        same message is stored once within a week, however often you send it, also after a restart
        of your program; another message with it is rejected with `request_id_reused`. (The original
        server knows no such names.)

        >>> client.send_message("bob", "hello").result(timeout=5).receiver
        'bob'
        """
        return self._send(Type.PERSON_MESSAGE, receiver, content, request_id)

    def send_group_message(self, group: str, content: str, *, request_id: str | None = None) -> "Future[Sent]":
        """Send a message to all other members of a group.

        Rejected with `no_such_group`, `not_a_member`; otherwise as `send_message`.

        >>> client.send_group_message("team", "hello everybody").result(timeout=5).receiver
        'team'
        """
        return self._send(Type.GROUP_MESSAGE, group, content, request_id)

    def _send(self, type: Type, receiver: str, content: str, request_id: str | None) -> "Future[Sent]":
        if request_id is not None and not 1 <= len(request_id) <= MAX_REQUEST_ID:
            raise ValueError(f"a request_id has 1 to {MAX_REQUEST_ID} characters")
        now = int(time.time() * 1000)
        values = {"receiver": receiver, "content": content, "time": now}
        return self._manager.request(
            type,
            values,
            lambda found: Sent(receiver, now, number(found, "id"), number(found, "stored")),
            request_id=request_id,
        )

    def typing(self, person: str) -> None:
        """Tell a user that you are writing a message. Call it at every key, if you like.

        Nothing is stored or answered, and nothing is raised. At most one notice goes out in 3
        seconds, and only if you asked for the feature `typing` and the server granted it. The user
        is told if you are on each other's friend lists: as the system event `typing`, which also
        needs the feature. Show it for some 6 seconds, or until the message comes.

        >>> client.typing("bob")
        """
        self._tell_typing({"person": person})

    def group_typing(self, group: str) -> None:
        """Tell the members of a group that you are writing; otherwise as `typing`.

        In groups of more than 100 members nobody is told.

        >>> client.group_typing("team")
        """
        self._tell_typing({"groupName": group})

    def _tell_typing(self, values: Mapping[str, Any]) -> None:
        if self._typing_pace.is_due():
            with contextlib.suppress(RequestError):  # a name that no request can have
                self._manager.tell(Type.TYPING, values, typing.FEATURE)

    def edit(self, id: int, content: str) -> "Future[Edited]":
        """Change the text of a message that you have sent, within 15 minutes.

        `id`: the message, as in `Sent.id` or `PastMessage.id`. Who has got it is told
        (`Receiver.on_edit`, if the client of the receiver knows edits); everybody else gets the new
        text only. Rejected with `no_such_message`, if you have written no such message, or have
        recalled it; with `too_late`; with `unknown_type` if the server knows no edits; otherwise as
        the message itself would be.

        >>> sent = client.send_message("bob", "helo").result(timeout=5)
        >>> client.edit(sent.id, "hello").result(timeout=5).original == sent.id
        True
        """
        return self._manager.request(
            Type.EDIT, {"id": id, "content": content}, lambda values: edited(id, values), feature="edit"
        )

    def recall(self, id: int) -> "Future[Edited]":
        """Take back a message that you have sent, within 15 minutes: its text is erased.

        Otherwise as `edit`.

        >>> sent = client.send_message("bob", "oops").result(timeout=5)
        >>> client.recall(sent.id).result(timeout=5).original == sent.id
        True
        """
        return self.edit(id, "")

    def history(self, person: str, *, before: int | None = None, limit: int = 50) -> "Future[History]":
        """Read back the newest `limit` messages (at most 100) that you and a user exchanged.

        `before`: the id of a message; then the result has the messages before it. Messages that the
        server has not sent to this client yet are left out. Rejected with `no_such_user`; with
        `unknown_type` if the server keeps no history, like the original one.

        >>> client.history("bob").result(timeout=5)
        History(messages=(), more=False, before=None)
        """
        return self._history({"person": person, "before": before, "limit": limit})

    def group_history(self, group: str, *, before: int | None = None, limit: int = 50) -> "Future[History]":
        """Read back what was written to a group since you became a member; otherwise as `history`.

        Rejected with `no_such_group`, `not_a_member`.

        >>> client.group_history("team").result(timeout=5).more
        False
        """
        return self._history({"groupName": group, "before": before, "limit": limit})

    def _history(self, values: Mapping[str, Any]) -> "Future[History]":
        return self._manager.request(Type.HISTORY, values, _page, feature="ack")

    def conversations(self) -> "Future[tuple[Conversation, ...]]":
        """List your conversations, that with the newest message first: what came last, and what is
        unread.

        Messages that the server has not sent to this client yet are left out: they arrive later.
        Rejected with `unknown_type` if the server knows no such list.

        >>> client.conversations().result(timeout=5)
        ()
        """
        return self._manager.request(
            Type.CONVERSATIONS, {}, parse_conversations, feature=READ_FEATURE, list_key="conversations"
        )

    def mark_read(self, person: str, id: int) -> bool:
        """Say that you have read what a user and you have written, up to the message with this id.

        The server stores it: `conversations` of all your programs counts what is unread from there.
        Nothing is answered or raised. Returns whether it was sent: False without a connection, or
        if the server does not know how. Call it with the id of the last message that was shown.

        >>> client.mark_read("bob", 1838557699418115)
        True
        """
        return self._mark_read({"id": id, "person": person})

    def mark_group_read(self, group: str, id: int) -> bool:
        """Say that you have read what was written to a group; otherwise as `mark_read`.

        >>> client.mark_group_read("team", 1838557699418115)
        True
        """
        return self._mark_read({"id": id, "groupName": group})

    def _mark_read(self, values: Mapping[str, Any]) -> bool:
        try:
            return self._manager.tell(Type.READ, values, READ_FEATURE)
        except RequestError:  # a name that no request can have
            return False

    def search(
        self,
        text: str,
        *,
        person: str | None = None,
        group: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> "Future[History]":
        """Find the newest `limit` messages (at most 100) that contain a text, in either case.

        They are in the conversation with a user (`person`), in a `group`, or in all conversations
        and groups that you have. A request looks at about 20,000 messages: while the result has
        `more`, ask again with its `before`. Rejected with `no_such_user`, `no_such_group`,
        `not_a_member`; with `malformed_body` if the text is empty or has more than 100 characters;
        with `unknown_type` if the server cannot search.

        >>> client.search("lunch", person="bob").result(timeout=5)
        History(messages=(), more=False, before=None)
        """
        values = {"text": text, "person": person, "groupName": group, "before": before, "limit": limit}
        return self._manager.request(Type.SEARCH, values, _page, feature="search")


def _page(values: Mapping[str, Any]) -> History:
    messages = tuple(_past_message(message) for message in values["messages"])
    more, before = values.get("more") is True, number(values, "before")
    if more and before is None and messages:
        before = messages[0].id
    return History(messages, more, before)


def _past_message(values: Mapping[str, Any]) -> PastMessage:
    keys = [each.name for each in fields(PastMessage) if each.name not in ("stored", "group", "edited")]
    known: dict[str, Any] = {key: values[key] for key in keys}
    known.update((key, number(values, key)) for key in ("stored", "edited"))
    return PastMessage(**known, group=values.get("groupName"))
