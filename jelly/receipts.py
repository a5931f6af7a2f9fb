"""Receipts: a sender is told that a message has reached its receiver, and that it was read.

Nothing of it is stored but how far somebody has read (`read_pointers.py`): who is offline, or slow
to read, is told nothing. A receipt says that its user is there. So it goes to those only who hear
of that anyway: between two people, if each of them has the other as a friend who has accepted
(`Presence.is_shown` decides that, as for who is typing); in a group, to its members. A user may
turn receipts off, and then neither sends nor gets any.

What a user reads on one device is told to the user's other ones, whether or not others may know it.

What was read is told in turns of the store, right after the commit, at other nodes by an event.
What was delivered is known at the receiver's node alone: while a message is on its way, its sender
is kept here, if the sender wants to know. Another node is told of it by a note, which may be lost.
"""

import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from jelly.conversations_dao import ConversationKey
from jelly.dao import Dao, StoredMessage
from jelly.delivery import Delivery
from jelly.messages import Event, system
from jelly.presence import Presence
from jelly.read_pointers import OwnRead, ReadPointers
from jelly.sessions import Session, Sessions

log = logging.getLogger("jelly.receipts")

FEATURE, DEVICES = "read", "devices"
MAX_MEMBERS_TOLD = 50
"""At most this many members has a group in which it is told who has read what."""
LAST_RECEIPTS = 5.0
"""Seconds for which they are remembered when the user has gone."""
MAX_UNDER_WAY = 1000
"""At most this many messages on their way to one user are remembered; of the oldest, nobody is
told."""


class ReadNotice(NamedTuple):
    """Somebody has read a conversation up to a message."""

    reader: str
    group: str
    """Empty between two people."""
    id: int
    receivers: Sequence[str]


def are_sent(dao: Dao, username: str) -> bool:
    """Whether a user sends receipts, and gets them."""
    return not dao.connection.query("SELECT 1 FROM users WHERE username = ? AND hides_read = 1", (username,))


class OtherNodes(Protocol):
    """What a node of a cluster knows and does (`cluster/node.py`)."""

    def elsewhere(self, users: Iterable[str]) -> Mapping[int, Sequence[str]]:
        """Return those of some users who are online at other nodes, by the number of the node."""

    def send_note(self, node: int, data: bytes) -> None:
        """Send something to another node, or lose it. Never wait, never raise an error."""


class Receipts:
    """Knows who wants receipts, and tells them."""

    def __init__(self, presence: Presence, sessions: Sessions) -> None:
        self._presence = presence
        self._sessions = sessions
        presence.on_offline = self.left
        self.nodes: OtherNodes | None = None
        """If the server is a node of a cluster."""
        self.wanted_by: set[str] = set()
        """The users who are online, here or elsewhere, with a client that wants receipts. Those
        who have gone are removed a moment later."""
        self.under_way: dict[str, deque[tuple[int, str]]] = {}
        """For a receiver, the ids of messages that were sent to its client, and their senders."""

    def attach(self, delivery: Delivery, read_pointers: ReadPointers) -> None:
        """Have these tell what happens."""
        delivery.wanted_by, delivery.on_sent = self.wanted_by, self.sent
        read_pointers.may_tell, read_pointers.prepare, read_pointers.tell = self.may_tell, self.prepare, self.tell_read
        read_pointers.prepare_own, read_pointers.tell_own = self.prepare_own, self.tell_own

    # --- who wants them ---------------------------------------------------------------------------

    def logged_in(self, session: Session) -> None:
        """In a turn of the store: a user has logged in."""
        user = session.user or ""
        if len(self._sessions.of(user, ())) == 1:
            self.under_way.pop(user, None)
        self.note_wish(user, _wants(session))

    def left(self, user: str) -> None:
        """A user may have gone. What was acknowledged last is still told."""
        if user in self.under_way or user in self.wanted_by:
            self._presence.call_in(LAST_RECEIPTS, partial(self._forget, user))

    def _forget(self, user: str) -> None:
        if not self._sessions.is_online(user):
            self.under_way.pop(user, None)
            self.wanted_by.discard(user)

    def note_wish(self, user: str, is_wanted: bool) -> None:
        """A user, here or elsewhere, wants receipts from now on, or not."""
        is_wanted = is_wanted or any(_wants(session) for session in self._sessions.of(user, ()))
        (self.wanted_by.add if is_wanted else self.wanted_by.discard)(user)

    def switched(self, user: str, are_sent: bool) -> None:
        """A user, here or elsewhere, has turned them on or off."""
        for session in self._sessions.of(user, ()):
            session.sends_receipts = are_sent and session.is_modern
        self.note_wish(user, are_sent)

    # --- what was delivered -----------------------------------------------------------------------

    def sent(self, message: StoredMessage, session: Session) -> None:
        """A message to a person is being sent to a session. Its sender is in `wanted_by`."""
        sender, receiver = message.sender, message.receiver
        if session.user != receiver:
            return  # another device of its sender
        if self._sessions.is_online(sender) and session.sends_receipts and self._may_know(receiver, sender):
            self.under_way.setdefault(receiver, deque(maxlen=MAX_UNDER_WAY)).append((message.id, sender))

    def delivered(self, delivered: Mapping[str, int]) -> None:
        """After the commit: all messages up to an id have reached these users."""
        for user in delivered.keys() & self.under_way.keys():
            messages = self.under_way[user]
            found: dict[str, int] = {}
            while messages and messages[0][0] <= delivered[user]:
                id, sender = messages.popleft()
                found[sender] = max(id, found.get(sender, 0))  # (a slower device may be sent older ones later)
            if not messages:
                del self.under_way[user]
            for sender, id in found.items():
                self._tell_delivered(user, sender, id)
                self._send_note(user, sender, id)

    def _send_note(self, user: str, sender: str, id: int) -> None:
        if self.nodes is None:
            return
        for node in self.nodes.elsewhere([sender]):
            note = {"delivered": id, "user": user, "to": sender}
            self.nodes.send_note(node, json.dumps(note, ensure_ascii=False).encode())

    def take_note(self, data: bytes) -> bool:
        """Tell what another node has sent. Returns whether it is a note of this kind."""
        try:
            note = json.loads(data)
            id, user, sender = int(note["delivered"]), str(note["user"]), str(note["to"])
        except (ValueError, LookupError, TypeError):
            return False
        self._tell_delivered(user, sender, id)
        return True

    def _tell_delivered(self, user: str, sender: str, id: int) -> None:
        if sender in self.wanted_by and self._may_know(user, sender):
            self._presence.notifier.tell([sender], system(Event.DELIVERED, user=user, id=id), FEATURE)

    # --- what was read ----------------------------------------------------------------------------

    def may_tell(self, session: Session, is_group: bool, partner: str) -> bool:
        """Whether it may be told what the user of a session has read. Any thread may ask. (The list
        of the other person is looked at by that person's own node.)
        """
        return session.sends_receipts and (is_group or self._presence.is_shown(partner, session.user or ""))

    def prepare(self, dao: Dao, moved: Mapping[ConversationKey, int]) -> list[ReadNotice]:
        """In the transaction: who is to be told of these pointers? Tells other nodes."""
        notices = []
        for (reader, is_group, partner), id in moved.items():
            receivers = self._members(dao, partner, reader) if is_group else [partner]
            if receivers and receivers != [reader]:
                notices.append(ReadNotice(reader, partner if is_group else "", id, receivers))
        elsewhere = [
            notice._replace(receivers=there)
            for notice in notices
            if (there := [user for user in notice.receivers if self._is_wanted_elsewhere(user)])
        ]
        if elsewhere:
            dao.announce("read", elsewhere)
        return notices

    def _is_wanted_elsewhere(self, user: str) -> bool:
        return user in self.wanted_by and self._sessions.is_elsewhere(user)

    def tell_read(self, notices: Iterable[ReadNotice]) -> None:
        """After the commit: tell those who are online here."""
        for reader, group, id, receivers in notices:
            values = {"user": reader, **({"group": group} if group else {}), "id": id}
            told = [user for user in receivers if user in self.wanted_by and (group or self._may_know(reader, user))]
            if told:
                self._presence.notifier.tell(told, system(Event.READ, **values), FEATURE)

    def prepare_own(self, dao: Dao, own: Sequence[OwnRead]) -> None:
        """In the transaction: tell other nodes what was read on a device, if its user is there."""
        elsewhere = [each for each in own if self._sessions.is_elsewhere(each.user)]
        if elsewhere:
            dao.announce("own_read", elsewhere)

    def tell_own(self, own: Iterable[OwnRead]) -> None:
        """After the commit: tell the other devices of the user that are online here."""
        for user, is_group, partner, id, device in own:
            others = [
                session
                for session in self._sessions.of(user, ())
                if session.device.name != device and {FEATURE, DEVICES} <= set(session.features)
            ]
            if others:
                notice = system(Event.OWN_READ, **{"group" if is_group else "user": partner}, id=id)
                self._presence.notifier.tell_sessions(others, notice)

    def _members(self, dao: Dao, group: str, reader: str) -> list[str]:
        rows = dao.connection.query(
            "SELECT username FROM members WHERE group_name = ? LIMIT ?", (group, MAX_MEMBERS_TOLD + 1)
        )
        return [] if len(rows) > MAX_MEMBERS_TOLD else [member for (member,) in rows if member != reader]

    def _may_know(self, user: str, other: str) -> bool:
        """Whether `other` may know that `user` is there, and `user` that `other` is, as far as this
        node knows it: each of the two is asked at the node where they are online.
        """
        is_shown, here = self._presence.is_shown, self._sessions.of
        return (not here(other) or is_shown(user, other)) and (not here(user) or is_shown(other, user))


def _wants(session: Session) -> bool:
    """Whether a client wants receipts, and its user sends some."""
    return session.sends_receipts and FEATURE in session.features
