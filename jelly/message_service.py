"""Messages: PERSON_MESSAGE, GROUP_MESSAGE, EDIT, ACK, HISTORY.

A message is only accepted here: `store.py` stores it, and `delivery.py` brings it to its receivers.
How much may wait for one user is in `quotas.py`. Who is in a group is changed in
`group_service.py`.
"""

import time

from jelly import edits_dao
from jelly.codec import Type
from jelly.dao import Dao, HistoryQuery, Reading, StoredMessage
from jelly.delivery import Delivery, past_message
from jelly.errors import ErrorCode, Refused
from jelly.groups import Group, GroupCache
from jelly.known_users import KnownUsers
from jelly.memberships import member_since
from jelly.messages import response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, NewMessage, Outcome, Unfinished
from jelly.policy import Policy
from jelly.rate import HeldBack, RateLimit
from jelly.requests import Ack, Edit, GroupMessage, History, PersonMessage
from jelly.sessions import Session
from jelly.trusted_clock import MAX_ID

DEFAULT_PAGE, MAX_PAGE = 50, 100
"""How many messages a page of history has if the request has no limit, and at most."""
PAGE_CHARACTERS, SHORT_PAGE_CHARACTERS = 128 * 1024, 8 * 1024
"""At most this many characters of content are in a page of history: usually, and while memory for
answers is short. (One message always fits.)"""
ROWS_PER_QUERY = 20
"""At most this many messages of a page one query reads: few, because messages may be large."""
BYTES_PER_QUERY = 2 * 1024 * 1024
"""At most about this many bytes of messages one query reads, if more than one."""


class MessageService:
    """The requests that send, acknowledge and read messages."""

    def __init__(
        self, policy: Policy, groups: GroupCache, known_users: KnownUsers, delivery: Delivery, reading: Reading
    ) -> None:
        self._policy = policy
        self._delivery = delivery
        self._groups = groups
        self._known_users = known_users
        self._reading = reading
        self._rate = RateLimit(policy.message_rate, policy.message_burst)
        self._try_acquire = self._rate.try_acquire if policy.message_rate else None

    def person_message(self, session: Session, request: PersonMessage) -> Outcome:
        """Send a message to one user, online or offline."""
        receiver = request.receiver
        try:
            if self._try_acquire and (session.held_back or not self._try_acquire(request.sender)):
                self._check_rate(session, request, request.sender)
            if receiver not in self._known_users.names and not self._known_users.is_user(receiver):
                raise Refused(ErrorCode.NO_SUCH_USER)
        except Refused as error:
            return _refused_message(Type.PERSON_MESSAGE, request, error)
        return NewMessage(Type.PERSON_MESSAGE, *request)

    def group_message(self, session: Session, request: GroupMessage) -> Outcome:
        """Send a message to all other members of a group."""
        sender = request.sender
        try:
            if self._try_acquire and (session.held_back or not self._try_acquire(sender)):
                self._check_rate(session, request, sender)
            group = self.cached_group(request.receiver)
            if sender not in group.members and self._policy.is_node:  # added at another node a moment ago?
                group = self.cached_group(request.receiver, has_changed=True)
            if sender not in group.members:
                raise Refused(
                    ErrorCode.NOT_A_MEMBER, "Only members may write to the group: ask its creator to add you."
                )
        except Refused as error:
            return _refused_message(Type.GROUP_MESSAGE, request, error)

        return NewMessage(Type.GROUP_MESSAGE, *request, group=group)

    def edit(self, session: Session, request: Edit) -> Outcome:
        """Replace the text of an own message, or recall it with an empty text.

        An edit is a message to the same receiver, so it is refused where a message would be: hence
        the two calls. What only an edit is refused for is decided in the transaction (`edits.py`).
        """
        with self._reading() as dao:
            original = edits_dao.original(dao, request.id)
        sender, id, content, request_id = request
        outcome: Outcome
        if original is None or original.sender != sender:
            refusal = Refused(ErrorCode.NO_SUCH_MESSAGE)
            if request_id is None:
                raise refusal
            outcome = NewMessage(Type.EDIT, sender, "", content, 0, request_id, refusal=refusal)
        elif original.is_group:
            as_message = GroupMessage(sender, original.receiver, content, original.time, request_id)
            outcome = self.group_message(session, as_message)
        else:
            outcome = self.person_message(
                session, PersonMessage(sender, original.receiver, content, original.time, request_id)
            )
        assert isinstance(outcome, NewMessage)
        outcome.type, outcome.replaces = Type.EDIT, id
        return outcome

    def cached_group(self, name: str, has_changed: bool = False) -> Group:
        """Return the group of a name. Raises Refused if there is none.

        `has_changed`: another node may have changed it, so read it again.
        """

        def load() -> list[str] | None:
            with self._reading() as dao:
                group = dao.group(name)
            return None if group is None else group[1]

        find = self._groups.reload if has_changed else self._groups.get
        group = find(name, load) if is_valid_name(name) else None
        if group is None:
            raise Refused(ErrorCode.NO_SUCH_GROUP)
        return group

    def _check_rate(self, session: Session, request: PersonMessage | GroupMessage, sender: str) -> None:
        """Raise Refused for a message that is beyond the rate, or behind one that was.

        The common case is decided by the caller, which saves each message a call.
        """
        now, held_back = time.monotonic(), session.held_back
        if held_back and not held_back.holds(request.requestId, now) and self._rate.try_acquire(sender):
            session.held_back = None
            return
        if session.is_modern and request.requestId is not None:
            session.held_back = held_back or HeldBack()
            session.held_back.refused(request.requestId, now)
        raise Refused(ErrorCode.RATE_LIMITED, retry_after=self._rate.seconds_until_room(sender))

    def ack(self, session: Session, request: Ack) -> Outcome:
        """Ignore an ACK that came together with the login: no message has been sent yet.

        (The reader handles all later ACKs, except malformed ones: see `connection.py`.)
        """
        return Answer(None)

    def history(self, session: Session, request: History) -> Outcome:
        """Return a page of a conversation: messages that the user wrote or was sent."""
        partner = request.person if request.groupName is None else request.groupName
        limit = DEFAULT_PAGE if request.limit is None else min(request.limit, MAX_PAGE)
        if partner is None or (request.person is not None and request.groupName is not None):
            raise Refused(ErrorCode.MALFORMED_BODY, "The body must have either 'person' or 'groupName', and not both.")
        if limit < 1:
            raise Refused(ErrorCode.MALFORMED_BODY, "The 'limit' must be 1 or more.")
        before = MAX_ID if request.before is None else request.before
        is_group = request.groupName is not None
        if not is_group and not self._known_users.has_been_user(partner):
            raise Refused(ErrorCode.NO_SUCH_USER)

        def read() -> Answer:
            return self._read_history(session, request, partner, before, limit)

        return Unfinished(read)

    def _read_history(self, session: Session, request: History, partner: str, before: int, limit: int) -> Answer:
        is_group = request.groupName is not None
        # Read `sent_id` before the query: messages that are sent meanwhile come as notices.
        before = min(before, self._delivery.horizon + 1)  # what is above may be taken back by a crash
        page = HistoryQuery(
            request.username, is_group, partner, 0, before, session.sent_id, session.device.name or None
        )
        with self._reading() as dao:
            if is_group:
                page = page._replace(since=member_since(dao, partner, request.username))
            found, more = self._read_page(dao, session, page, limit) if self._policy.keeps_history else ([], False)
        entries = [past_message(message, session) for message in found]
        return Answer(response(Type.HISTORY, {"username": request.username, "messages": entries, "more": more}))

    def _read_page(
        self, dao: Dao, session: Session, page: HistoryQuery, limit: int
    ) -> tuple[list[StoredMessage], bool]:
        """Return the messages of a page, oldest first, and whether there are older ones."""
        found: list[StoredMessage] = []
        size = 0
        most = SHORT_PAGE_CHARACTERS if session.transport.is_memory_short else PAGE_CHARACTERS
        rows = max(1, min(ROWS_PER_QUERY, BYTES_PER_QUERY // self._policy.max_body))
        while True:
            some = dao.history_page(page, rows)
            for message in some:
                size += len(message.content)
                if len(found) == limit or (found and size > most):
                    return found[::-1], True
                found.append(message)
            if len(some) < rows:
                return found[::-1], False
            page = page._replace(before=some[-1].id)


def _refused_message(type: Type, request: PersonMessage | GroupMessage, refusal: Refused) -> NewMessage:
    """Return a message that cannot be stored now, with the refusal. Without a requestId, raise it.

    A message with a requestId (an idempotency key) may have been stored before. The store
    checks that, and then answers SUCCESS to the repeat.
    """
    if request.requestId is None:
        raise refusal
    sender, receiver, content, sent_at, request_id = request
    return NewMessage(type, sender, receiver, content, sent_at, request_id, refusal=refusal)
