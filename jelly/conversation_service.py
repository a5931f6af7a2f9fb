"""Conversations: CONVERSATIONS, READ.

How far somebody has read is noted by the reader of the connection (`connection.py`), and written by
the store a moment later (`read_pointers.py`). The SQL is in `conversations_dao.py`.
"""

from typing import Any

from jelly import conversations_dao
from jelly.codec import Type
from jelly.conversations_dao import Conversation, Place, View
from jelly.dao import Reading
from jelly.delivery import Delivery
from jelly.errors import ErrorCode, Refused
from jelly.messages import response
from jelly.outcomes import Answer, Outcome, Unfinished
from jelly.read_pointers import ReadPointers
from jelly.requests import Conversations, Read
from jelly.sessions import Session
from jelly.trusted_clock import MAX_ID, stored_at

PAGE, SHORT_PAGE = 20, 5
"""At most this many conversations are in an answer: usually, and while memory for answers is short.
Each of them costs up to three queries."""
START = Place(False, "")


class ConversationService:
    """The requests about one's conversations."""

    def __init__(self, read_pointers: ReadPointers, delivery: Delivery, reading: Reading) -> None:
        self._read_pointers = read_pointers
        self._delivery = delivery
        self._reading = reading

    def read(self, session: Session, request: Read) -> Outcome:
        """Note how far the user has read a conversation, which came together with the login.

        (The reader handles all later ones, except malformed ones: see `connection.py`.)
        """
        is_group, partner = conversation_of(request)
        self._read_pointers.note(session, is_group, partner, request.id)
        return Answer(None)

    def conversations(self, session: Session, request: Conversations) -> Outcome:
        """Return the next conversations of the user, each with its last message."""
        start = START if request.after is None else _parse(request.after)

        def read_page() -> Answer:
            # In this order: what is noted may be written, and messages may be sent, while the
            # database is read. Then both are counted, or come as notices.
            noted, sent_id = self._read_pointers.noted_of(request.username), session.sent_id
            limit = SHORT_PAGE if session.transport.is_memory_short else PAGE
            with self._reading() as dao:
                view = View(
                    min(MAX_ID, self._delivery.horizon + 1), sent_id, session.device.name or None, dao.indexed_id()
                )
                keys = conversations_dao.names_behind(dao, request.username, start, view.indexed, limit + 1)
                more, keys = len(keys) > limit, keys[:limit]
                noted = {key: each for key, each in noted.items() if key in keys}
                found = conversations_dao.describe(dao, keys, view, conversations_dao.valid_readings(dao, noted))
            values = {
                "username": request.username,
                "conversations": [_entry(each) for each in found],
                "more": more,
                "after": f"{int(keys[-1].is_group)} {keys[-1].partner}" if more else None,
            }
            return Answer(response(Type.CONVERSATIONS, values))

        return Unfinished(read_page)


def conversation_of(request: Read) -> tuple[bool, str]:
    """Return whether it is about a group, and the name of that or of the person.

    Raises Refused unless it has exactly one of the two.
    """
    if request.person is not None and request.groupName is None:
        return False, request.person
    if request.groupName is not None and request.person is None:
        return True, request.groupName
    raise Refused(ErrorCode.MALFORMED_BODY, "The body must have either 'person' or 'groupName', and not both.")


def _parse(after: str) -> Place:
    """Read a place that a client has sent back. Raises Refused: `malformed_body`."""
    kind, _, name = after.partition(" ")
    if kind not in ("0", "1"):
        raise Refused(ErrorCode.MALFORMED_BODY, "The value 'after' must be one that the server has sent.")
    return Place(kind == "1", name)


def _entry(found: Conversation) -> dict[str, Any]:
    (_, is_group, partner), (id, sender, preview, time), unread, read = found
    last: dict[str, Any] = {"sender": sender, "content": preview, "time": time, "id": id}
    stored = stored_at(id)
    if stored is not None:
        last["stored"] = stored
    return {"groupName" if is_group else "person": partner, "last": last, "unread": unread, "read": read}
