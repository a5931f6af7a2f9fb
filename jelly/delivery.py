"""From the store to the receivers: what happens to a message once it is committed.

Everything here runs during a turn of the store, between two commits, so nothing needs a lock and
nothing can be skipped, doubled or overtaken. Each session is in one of two states:

- behind: its inbox holds messages that it was not sent yet. They are fed from the inbox in pages,
  oldest first, whenever it has room. New messages for it are only stored.
- caught up: it was sent everything. A new message is pushed to it right after its commit. When its
  transport is full, or too many messages are unacknowledged, it falls behind.

A session begins behind. This one mechanism serves the messages that waited for a login, the slow
receiver, the classic client whose frames are paced, and the modern one that is slow to acknowledge.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from jelly import messages
from jelly.codec import DEFAULT_MAX_BODY, Type
from jelly.dao import Dao, StoredMessage
from jelly.errors import log_failure
from jelly.messages import NoticeForm
from jelly.sessions import Notice, Response, Session, Sessions
from jelly.trusted_clock import MAX_ID, stored_at

log = logging.getLogger("jelly.delivery")

PAGE = 100
"""How many messages are read from an inbox at a time, if they are small."""
READ_BYTES = 8 * 1024 * 1024
"""At most about this many bytes of messages are read from an inbox at a time, if more than one."""
PAGE_BYTES = 128 * 1024
"""At most this many bytes of frames go to a transport as one page (but always one frame)."""
FEED_MESSAGES = 500
"""How many messages are sent in pages until the store writes again: it may wait for many pages."""
MAX_KNOWN = 100_000
"""Of at most this many users it is known how far they have been sent their messages."""


class LateNotices(Protocol):
    """Who tells others of changes, and not always at once."""

    @property
    def untold(self) -> Collection[str]:
        """The users or groups with changes that nobody was told yet."""

    def tell_before(self, message: StoredMessage, receivers: Sequence[str]) -> None:
        """A message is about to be pushed: tell first what must not come after it."""


class Delivery:
    """Sends committed messages to the sessions of their receivers."""

    def __init__(
        self, sessions: Sessions, late_notices: Sequence[LateNotices] = (), max_body: int = DEFAULT_MAX_BODY
    ) -> None:
        """`max_body`: bytes that a message may have."""
        self._sessions = sessions
        self._late_notices = late_notices
        self._pushed: dict[Session, list[Notice]] = {}
        self._most = max(1, min(PAGE, READ_BYTES // max_body))
        self._limit = self._most
        self._to_feed: dict[Session, None] = {}  # behind, and with room: an ordered set
        # For each user the last id that any session has been sent here; beyond what is not known.
        self._sent: dict[str, int] = {}
        self._unknown_upto = 0
        self.passed_over: list[tuple[Session, int]] = []
        """Edits that a session was not sent, because it was not granted the feature: the store
        takes them out of the inbox."""
        self.wanted_by: Collection[str] = ()
        """The senders who want to know when their messages have arrived (`receipts.py`)."""
        self.on_sent: Callable[[StoredMessage, Session], None] = lambda *_: None
        """Called with a message of theirs to a person that is being sent to a session."""
        self.horizon = MAX_ID
        """Messages up to this id are known to be on the disk. On a node, others store messages,
        too, and what can be read need not be synced: so no page goes beyond."""

    def push(self, message: StoredMessage, receivers: Sequence[str]) -> None:
        """Push a message that was just committed to its receivers who are online and caught up."""
        for late in self._late_notices:
            if late.untold:
                late.tell_before(message, receivers)
        is_for_some = message.replaces is not None or message.device is not None
        frames = [b""] * len(NoticeForm)
        for receiver in receivers:
            # Offline, there is none: the message stays in the receiver's inbox, and the next login
            # feeds it from there.
            for session in self._sessions.of(receiver, ()):
                if not session.caught_up:
                    continue  # behind: its pages will come to this message
                if is_for_some and not self._is_for(message, session):
                    continue
                form = session.notice_form
                frame = frames[form]
                if not frame:
                    frame = frames[form] = _notice(message, form)
                pushed = self._pushed.get(session)
                if pushed is None:
                    pushed = self._pushed[session] = []
                pushed.append(Notice(message.id, frame))
                if message.sender in self.wanted_by and not message.is_group:
                    self.on_sent(message, session)

    def flush(self, responses: dict[Session, list[Response]] | None = None) -> None:
        """Send what was pushed, and responses: everything for one session at once."""
        responses = responses or {}
        pushed, self._pushed = self._pushed, {}
        for session, notices in pushed.items():
            # Only now: a page of history leaves out what is still to come as a notice.
            session.sent_id = self._sent[session.user or ""] = notices[-1].id
            send_or_close(session, responses.pop(session, ()), notices)
            if not session.has_room:
                self._fall_behind(session)
        if len(self._sent) > MAX_KNOWN:
            self.may_have_sent(max(self._sent.values()))
        for session, answers in responses.items():
            send_or_close(session, answers)

    def _is_for(self, message: StoredMessage, session: Session) -> bool:
        """Whether a session gets a message that not all of them get: an edit, or a copy of what its
        user has written on another device.
        """
        if message.device is not None and message.sender == session.user:
            return session.device.name not in ("", message.device) and (
                message.replaces is None or "edit" in session.features
            )
        if message.replaces is not None and "edit" not in session.features:
            self.passed_over.append((session, message.id))
            return False
        return True

    def was_sent(self, user: str, id: int) -> bool:
        """Whether a message that waits for a user has been sent to a session of the user, and was
        not acknowledged. True also if that is not known: if another node may have done it, or this
        server before it was started.
        """
        return id <= max(self._sent.get(user, 0), self._unknown_upto) or self._sessions.is_elsewhere(user)

    def may_have_sent(self, upto: int, user: str | None = None) -> None:
        """Somebody else may have sent the messages up to an id: to one user, or to all."""
        if user is not None:
            self._sent[user] = max(upto, self._sent.get(user, 0))
            return
        self._unknown_upto = max(upto, self._unknown_upto)
        self._sent = {user: id for user, id in self._sent.items() if id > self._unknown_upto}

    def is_current(self, session: Session) -> bool:
        """Whether a session is the one of its user on its device."""
        return session.user is not None and session in self._sessions.of(session.user, ())

    def begin(self, session: Session, since: int = 0) -> None:
        """Start to deliver to a session that just logged in: behind, from the first message in its
        inbox above the id `since`.
        """
        session.caught_up = False
        session.sent_id = since
        self._to_feed[session] = None
        session.untold = session.is_modern

    def must_tell(self, user: str) -> None:
        """Have `feed` tell a user who is online what was left out of the inbox, as soon as there is
        room.

        Until then the sessions are behind, because those that are behind are looked at when they
        have room.
        """
        for session in self._sessions.of(user, ()):
            if session.is_modern:
                session.untold = True
                session.caught_up = False
                self._to_feed[session] = None

    def wants_more(self, session: Session) -> None:
        """Look at a session again that may have room now."""
        if not session.caught_up:
            self._to_feed[session] = None

    @property
    def has_work(self) -> bool:
        """Whether `feed` would do anything."""
        return bool(self._to_feed)

    def feed(self, dao: Dao, tell_missed: Callable[[Dao, Session], None]) -> None:
        """Send the sessions that are behind and have room their next pages, up to FEED_MESSAGES.

        The others are first the next time. `tell_missed` tells a session what it does not find in
        its inbox. Raises StoreError; then the session is as before.
        """
        fed = 0
        for session in list(self._to_feed):
            if fed >= FEED_MESSAGES:
                return
            if session.user is None or session.transport.is_closed or not self.is_current(session):
                del self._to_feed[session]  # it has ended: what it was not sent stays in the inbox
                continue
            if session.untold and session.transport.has_room:  # also if its client acknowledges nothing
                tell_missed(dao, session)
                session.untold = False
            if not session.has_room:
                del self._to_feed[session]  # its transport, or its reader with the next acknowledgement, asks again
                continue
            limit = self._limit
            waiting = dao.waiting(session.user, session.sent_id, limit, self.horizon, session.device.name or None)
            notices, count = self._page(session, waiting)
            if waiting:  # do not read many large messages to send two of them
                average = sum(len(message.content) for message in waiting) // len(waiting)
                self._limit = min(self._most, max(2, PAGE_BYTES // (average + 100)))
            fed += len(waiting) + 1
            self._to_feed[session] = self._to_feed.pop(session)  # now the last of all
            if waiting:
                session.sent_id = waiting[count - 1].id
            if notices:
                self.may_have_sent(session.sent_id, session.user)
                self._note_sent(waiting[:count], session)
                send_or_close(session, (), notices)
            if len(waiting) < limit and count == len(waiting):
                session.caught_up = True
                del self._to_feed[session]
                if not session.has_room:
                    self._fall_behind(session)
            elif not session.has_room:
                del self._to_feed[session]
                self._fall_behind(session)

    def _page(self, session: Session, waiting: Sequence[StoredMessage]) -> tuple[list[Notice], int]:
        """Return the notices of the next page, and how many of the messages are done with by it."""
        knows_edits = "edit" in session.features
        notices: list[Notice] = []
        size = 0
        for count, message in enumerate(waiting):
            if message.replaces is not None and not knows_edits:
                self.passed_over.append((session, message.id))
                continue
            frame = _notice(message, session.notice_form)
            size += len(frame)
            if notices and size > PAGE_BYTES:
                return notices, count
            notices.append(Notice(message.id, frame))
        return notices, len(waiting)

    def _note_sent(self, messages: Sequence[StoredMessage], session: Session) -> None:
        for message in messages:
            if message.sender in self.wanted_by and not message.is_group:
                self.on_sent(message, session)

    def all_fall_behind(self) -> None:
        """Have all sessions read pages: what should be pushed to them is not known."""
        for session in self._sessions:
            self._fall_behind(session)

    def _fall_behind(self, session: Session) -> None:
        session.caught_up = False
        # The reader and the transport ask for more when there is room, but only for a session that
        # is behind. If room has come since our look, nobody asked: so look again.
        if session.has_room:
            self._to_feed[session] = None


def past_message(message: StoredMessage, session: Session) -> dict[str, Any]:
    """Return a message as a page has it that a session asks for: the keys of a notice, and which
    edit was the last one, for a session that knows edits.
    """
    stored = stored_at(message.id) if session.notice_form is NoticeForm.WITH_TIME else None
    edited = message.edited if "edit" in session.features else None
    values = message.sender, message.receiver, message.content, message.time
    return messages.history_entry(*values, message.id, stored, edited)


def send_or_close(session: Session, responses: Sequence[Response], notices: Sequence[Notice] = ()) -> None:
    """Send frames; if that fails, which is a bug, close this connection and no other.

    (Its client would wait for an answer for ever, and miss a message until it comes again.)
    """
    try:
        if notices and session.window is not None:
            session.window.add(notices)  # first: the acknowledgement may arrive before we are back
        session.transport.send(responses, notices)
    except Exception as error:  # noqa: BLE001 - a bug: this request fails, the thread lives
        log_failure(log, error)
        session.transport.close()


def _notice(message: StoredMessage, form: NoticeForm) -> bytes:
    type = Type.GROUP_MESSAGE if message.is_group else Type.PERSON_MESSAGE
    id = None if form is NoticeForm.CLASSIC else message.id
    stored = stored_at(message.id) if form is NoticeForm.WITH_TIME else None
    values = message.sender, message.receiver, message.content, message.time
    return messages.notice(type, *values, id, stored, message.replaces)
