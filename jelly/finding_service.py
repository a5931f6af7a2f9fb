"""Finding: FIND, for users, and SEARCH, for messages in one's own conversations.

A search reads many messages and returns few. So it is done in pieces, each in a turn of its lane
(`Unfinished`): others are served in between. The SQL is in `finding_dao.py`.
"""

from typing import Any

from jelly import finding_dao
from jelly.codec import Type
from jelly.dao import Dao, Reading, StoredMessage
from jelly.delivery import Delivery, past_message
from jelly.errors import ErrorCode, Refused
from jelly.finding_dao import Search
from jelly.known_users import KnownUsers
from jelly.memberships import member_since
from jelly.messages import response
from jelly.names import MAX_NAME
from jelly.outcomes import Answer, Outcome, Unfinished
from jelly.policy import Policy
from jelly.rate import RateLimit
from jelly.requests import Find, SearchMessages
from jelly.sessions import Session
from jelly.trusted_clock import MAX_ID

MAX_NAMES = 20
"""At most this many names are in an answer to FIND."""
FIND_RATE, FIND_BURST = 0.5, 20
"""How many times a second one user may FIND, and at once after a pause: nobody should copy the list
of all users in an hour."""
MAX_SEARCHED_TEXT = 100
"""At most this many characters are in a text to search for."""
DEFAULT_FOUND, MAX_FOUND = 50, 100
"""How many messages an answer has if the request has no limit, and at most."""
FOUND_CHARACTERS, SHORT_FOUND_CHARACTERS = 128 * 1024, 8 * 1024
"""At most this many characters of content are in an answer: usually, and while memory for answers
is short. (One message always fits.)"""
MAX_SEARCHED_ROWS, MAX_SEARCHED_CHARACTERS = 20_000, 32 * 1024 * 1024
"""After about so many rows, or so many characters, a search answers with what it has found."""
FIRST_ROWS, MOST_ROWS = 64, 1000
"""How many rows the first piece looks at, and a later one at most."""
CHARACTERS_AT_ONCE = 1024 * 1024
"""About this many characters a piece looks at: a few milliseconds."""
MATCHES_PER_QUERY = 20
"""At most this many messages one query returns: few, because messages may be large."""


class FindingService:
    """The requests that find something."""

    def __init__(self, policy: Policy, known_users: KnownUsers, delivery: Delivery, reading: Reading) -> None:
        self._policy = policy
        self._known_users = known_users
        self._delivery = delivery
        self._reading = reading
        self._find_rate = RateLimit(FIND_RATE, FIND_BURST)

    def find(self, session: Session, request: Find) -> Outcome:
        """Return the first users whose names begin with a prefix."""
        if not 1 <= len(request.prefix) <= MAX_NAME:
            raise Refused(ErrorCode.MALFORMED_BODY, f"The 'prefix' must have 1 to {MAX_NAME} characters.")
        if not self._find_rate.try_acquire(request.username):
            wait = self._find_rate.seconds_until_room(request.username)
            raise Refused(ErrorCode.RATE_LIMITED, "You look for users too often: wait a moment.", retry_after=wait)
        with self._reading() as dao:
            names = finding_dao.names_with_prefix(dao, request.prefix, MAX_NAMES + 1)
        values = {"username": request.username, "found": names[:MAX_NAMES], "more": len(names) > MAX_NAMES}
        return Answer(response(Type.FIND, values))

    def search(self, session: Session, request: SearchMessages) -> Outcome:
        """Return the newest messages with a text that the user wrote or was sent."""
        limit = DEFAULT_FOUND if request.limit is None else min(request.limit, MAX_FOUND)
        if request.person is not None and request.groupName is not None:
            raise Refused(ErrorCode.MALFORMED_BODY, "The body may have 'person' or 'groupName', and not both.")
        if limit < 1:
            raise Refused(ErrorCode.MALFORMED_BODY, "The 'limit' must be 1 or more.")
        if not request.text.strip() or len(request.text) > MAX_SEARCHED_TEXT or "\0" in request.text:
            sentence = f"The 'text' must have 1 to {MAX_SEARCHED_TEXT} characters, and not only spaces."
            raise Refused(ErrorCode.MALFORMED_BODY, sentence)
        if request.person is not None and not self._known_users.has_been_user(request.person):
            raise Refused(ErrorCode.NO_SUCH_USER)

        def begin() -> Outcome:
            # What is above the horizon may be taken back by a crash. `sent_id` is read before any
            # query: messages that are sent meanwhile come as notices.
            before = min(MAX_ID if request.before is None else request.before, self._delivery.horizon + 1)
            sent_id = session.sent_id
            with self._reading() as dao:
                since = 0 if request.groupName is None else member_since(dao, request.groupName, request.username)
                search = Search(
                    request.username, request.text, request.person, request.groupName, since, before, sent_id,
                    session.device.name or None, dao.indexed_id(),
                )  # fmt: skip
            walk = _Walk(session, search, limit, self._policy.max_body)
            return self._go_on(walk) if self._policy.keeps_history else walk.answer()

        return Unfinished(begin)

    def _go_on(self, walk: "_Walk") -> Outcome:
        """Look at one more piece, and answer if the search is complete."""
        with self._reading() as dao:
            is_complete = walk.look_at_piece(dao)
        return walk.answer() if is_complete else Unfinished(lambda: self._go_on(walk))


class _Walk:
    """One search under way: what it has found, and where it goes on."""

    def __init__(self, session: Session, search: Search, limit: int, max_body: int) -> None:
        self._session, self._search, self._limit = session, search, limit
        self._found: list[StoredMessage] = []  # the newest first
        self._found_characters = self._rows_seen = self._characters_seen = 0
        self._rows = max(1, min(FIRST_ROWS, CHARACTERS_AT_ONCE // max_body))
        self._more = False

    def look_at_piece(self, dao: Dao) -> bool:
        """Look at the next rows. Returns whether the search is complete."""
        search = self._search
        lowest, rows, characters = finding_dao.slice_end(dao, search, self._rows)
        if lowest is None:
            if search.is_in_history or search.is_everywhere:
                return True
            self._search = search._replace(before=min(search.before, search.indexed + 1))
            return False  # on to those that are indexed
        some = finding_dao.matches(dao, search, lowest, MATCHES_PER_QUERY)
        if not self._take(some):
            return True
        before = some[-1].id if len(some) == MATCHES_PER_QUERY else lowest
        self._search = search._replace(before=before)
        self._rows_seen += rows
        self._characters_seen += characters
        at_once = CHARACTERS_AT_ONCE * rows // (characters or 1)
        self._rows = max(1, min(MOST_ROWS, 4 * self._rows, at_once))
        self._more = self._rows_seen >= MAX_SEARCHED_ROWS or self._characters_seen >= MAX_SEARCHED_CHARACTERS
        return self._more

    def _take(self, some: list[StoredMessage]) -> bool:
        """Add what was found. Returns whether there is room for more."""
        most = SHORT_FOUND_CHARACTERS if self._session.transport.is_memory_short else FOUND_CHARACTERS
        for message in some:
            self._found_characters += len(message.content)
            if len(self._found) == self._limit or (self._found and self._found_characters > most):
                self._more = True
                self._search = self._search._replace(before=self._found[-1].id)
                return False
            self._found.append(message)
        return True

    def answer(self) -> Answer:
        """Return the response, with the oldest message first, as HISTORY has it."""
        values = {
            "username": self._search.reader,
            "messages": [_entry(message, self._session) for message in reversed(self._found)],
            "more": self._more,
            "before": self._search.before if self._more else None,
        }
        return Answer(response(Type.SEARCH, values))


def _entry(message: StoredMessage, session: Session) -> dict[str, Any]:
    """Return a message as HISTORY has it. One to a group says so: a user may have its name."""
    entry = past_message(message, session)
    return {**entry, "groupName": message.receiver} if message.is_group else entry
