"""The services: one method for each request, and a table that maps request types to methods.

A service gets the session and the typed request. It returns what should happen next, as data:

- `Answer`: the response is ready.
- `NewMessage` or `Write`: the store writes it, and answers after the commit.
- `CpuTask`: a hasher thread runs it. It returns one of the other outcomes.
- `Unfinished`: the service goes on in a later turn, because others would wait for a long answer.

A service that refuses the request raises `Refused`; then nothing was done. Services know sessions,
groups and queries, but neither sockets nor threads. `queue_dispatch.py` calls the services and
carries out what they return. A service acts for the user who is logged in on the session. It only
compares the name in the body with that user.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from jelly import accounts, lists, messages, passwords
from jelly.accounts import check_new_name, check_password
from jelly.addresses import network_of
from jelly.codec import DEFAULT_MAX_BODY, LOGINS, Frame, Sign, Type
from jelly.dao import Dao, HistoryQuery, StoredMessage
from jelly.delivery import Delivery
from jelly.errors import ErrorCode, Refused
from jelly.group_notices import Change, GroupNotices
from jelly.groups import Group, GroupCache
from jelly.login_guard import Attempt, LoginGuard
from jelly.messages import PROFILE_LIMITS, SUCCESS, Event, response, system
from jelly.names import fold, is_valid_name
from jelly.outcomes import Answer, CpuTask, NewMessage, Outcome, Place, Unfinished, Write
from jelly.presence import Presence
from jelly.rate import HeldBack, RateLimit
from jelly.sessions import Session, Sessions, Window
from jelly.trusted_clock import MAX_ID, TrustedClock

MAX_FRIENDS = 1000
"""At most this many users are on a friend list."""
MAX_MEMBERS = 1000
"""At most this many members are in a group."""
MAX_GROUPS_CREATED = 200
"""At most this many groups exist that one user has created."""
MAX_GROUPS_JOINED = 1000
"""At most this many groups have a user as a member."""
MAX_TOKENS = 32
"""At most this many tokens of one user are valid; a new one replaces the oldest."""
MAX_KNOWN_ADDRESSES = 32
"""At most this many networks are remembered from which a user has logged in; a new one replaces the
one that was not used for longest."""
ADDRESS_PRECISION = 86_400_000
"""Milliseconds until a login from the same network is noted again: most logins write nothing."""
COST_SAMPLE = 2000
"""At most this many accounts are looked at to see what most hashes cost."""
MAX_RENEWED = 1000
"""At most this many renewed hashes are remembered: logins may be under way that verified the old
one."""
CHANGE_BURST = 1000
"""At most this many changes come at once from a user who was quiet before: so many members has the
largest group."""
MAX_KNOWN_USERS = 100_000
"""At most this many user names are cached."""
DEFAULT_PAGE, MAX_PAGE = 50, 100
"""How many messages a page of history has if the request has no limit, and at most."""
PAGE_CHARACTERS, SHORT_PAGE_CHARACTERS = 128 * 1024, 8 * 1024
"""At most this many characters of content are in a page of history: usually, and while memory for
answers is short. (One message always fits.)"""
ROWS_PER_QUERY = 20
"""At most this many messages of a page one query reads: few, because messages may be large."""
BYTES_PER_QUERY = 2 * 1024 * 1024
"""At most about this many bytes of messages one query reads, if more than one."""
FEATURES = ("ack", "pages")
"""What a client can ask for, in the order in which the response names what it is granted."""
CHANGES = (
    Type.CREATE_GROUP,
    Type.DISBAND_GROUP,
    Type.ADD_MEMBER,
    Type.REMOVE_MEMBER,
    Type.ADD_FRIEND,
    Type.REMOVE_FRIEND,
    Type.UPDATE_PROFILE,
)
"""The requests that `--change-rate` limits: many others may be told of them."""
TAKEN_OVER = system(Event.TAKEN_OVER)
PASSWORD_CHANGED = system(Event.PASSWORD_CHANGED)
NEEDS_OLD_PASSWORD = "To set a new password, send the old one, too: as 'oldPassword'."
OLD_PASSWORD_WRONG = "The old password is wrong: nothing was changed."

Friends = list[str] | None
"""The friend list of a modern client; None for a classic client, which gets no presence notices."""
MemberChange = tuple[Sequence[str], tuple[str, ...]]
"""The members of a group before and after a change. A group without members does not exist."""

Reading = Callable[[], contextlib.AbstractContextManager[Dao]]
"""Opens a Dao for queries on the calling thread. Another worker may run meanwhile."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator sets for accounts and messages."""

    password_cost: int = 14
    """The binary logarithm of scrypt's n."""
    token_seconds: float = 7 * 86400.0
    """Seconds until a token expires."""
    message_rate: int = 0
    """At most this many messages a second from one user; 0: any number."""
    message_burst: int = 1
    """At most this many messages at once from one user who was quiet before."""
    change_rate: int = 0
    """At most this many changes of groups, friends and the profile a second from one user; 0: any
    number."""
    keeps_history: bool = True
    """Whether delivered messages stay readable."""
    max_body: int = DEFAULT_MAX_BODY
    """Bytes that a message may have."""
    is_registration_open: bool = True
    """Whether anybody may make an account."""
    registration_rate: int = 0
    """At most this many accounts an hour are made from one address; 0: any number."""
    reserved_names: frozenset[str] = frozenset()
    """Names that nobody can register, folded."""


class _Newcomer(NamedTuple):
    """A session whose login is being written."""

    session: Session
    username: str
    token_hash: str
    is_classic: bool

    @property
    def is_pending(self) -> bool:
        """Whether the transaction of this login is still open: it has neither succeeded nor
        failed.
        """
        return self.session.user is None and not self.session.closing


class Services:
    """All requests of the protocol except HEARTBEAT, which the reader handles."""

    def __init__(
        self,
        policy: Policy,
        sessions: Sessions,
        presence: Presence,
        group_notices: GroupNotices,
        groups: GroupCache,
        delivery: Delivery,
        reading: Reading,
        guard: LoginGuard,
        clock: TrustedClock | None = None,
    ) -> None:
        """`clock`: by its time tokens expire."""
        self._policy = policy
        self._sessions = sessions
        self._presence = presence
        self._group_notices = group_notices
        self._groups = groups
        self._delivery = delivery
        self._reading = reading
        self._guard = guard
        self._clock = clock or TrustedClock(is_trusted=True)
        self._known_users: set[str] = set()
        # Only used in turns of the store: see _take_over.
        self._logging_in: dict[str, _Newcomer] = {}
        self._rate = RateLimit(policy.message_rate, policy.message_burst)
        self._change_rate = RateLimit(policy.change_rate, CHANGE_BURST)
        self._cut_log = lists.CutLog()
        self._registrations = RateLimit(policy.registration_rate / 3600, policy.registration_rate)
        self._try_acquire = self._rate.try_acquire if policy.message_rate else None
        # An unknown user's password is checked against this, so that a wrong name takes as long
        # as a wrong password, and nobody can find out by the clock which names exist. While
        # accounts have hashes of another cost than the settings say, it costs what most of them do.
        self._dummy_hash = passwords.impossible_hash(policy.password_cost)
        self._has_old_hashes = True
        self._knows_costs = False
        # Hashes that were replaced by ones of today's cost, and these. Only used in turns of the
        # store.
        self._renewed: OrderedDict[str, str] = OrderedDict()
        self._handlers: Mapping[int, Callable[[Session, Any], Outcome]] = {
            Type.LOGIN: self.login,
            Type.REGISTER: self.register,
            Type.LOGOUT: self.logout,
            Type.RECONNECT: self.reconnect,
            Type.PERSON_MESSAGE: self.person_message,
            Type.GROUP_MESSAGE: self.group_message,
            Type.CREATE_GROUP: self.create_group,
            Type.DISBAND_GROUP: self.disband_group,
            Type.ADD_MEMBER: self.add_member,
            Type.REMOVE_MEMBER: self.remove_member,
            Type.ADD_FRIEND: self.add_friend,
            Type.REMOVE_FRIEND: self.remove_friend,
            Type.ALL_FRIENDS: self.all_friends,
            Type.UPDATE_PROFILE: self.update_profile,
            Type.OWN_PROFILE: self.own_profile,
            Type.FRIEND_PROFILE: self.friend_profile,
            Type.OWN_GROUPS: self.own_groups,
            Type.ACK: self.ack,
            Type.HISTORY: self.history,
        }
        if policy.change_rate:
            for type in CHANGES:
                self._handlers[type] = partial(self._change, self._handlers[type])

    def serve(self, session: Session, frame: Frame) -> Outcome:
        """Run the service for a frame, and return its outcome; a refusal becomes an Answer.

        Raises StoreError if the database fails.
        """
        try:
            handler = self._handler(session, frame)
            request = messages.parse_request(frame.type, frame.body)
            actor = request.actor
            if actor != session.user and session.user is not None and actor is not None:
                raise Refused(ErrorCode.NOT_YOURSELF)
            return handler(session, request)
        except Refused as error:
            return self.refused(session, frame.type, error)

    def _handler(self, session: Session, frame: Frame) -> Callable[[Session, Any], Outcome]:
        """Return the service for a frame. Raises Refused if the session may not use it now."""
        if frame.sign != Sign.REQUEST:
            raise Refused(ErrorCode.MALFORMED_FRAME, "The sign of a client's frame must be 0x01 (a request).")
        handler = self._handlers.get(frame.type)
        if handler is None or (frame.type == Type.HISTORY and session.user is not None and session.window is None):
            raise Refused(ErrorCode.UNKNOWN_TYPE)  # HISTORY needs the feature "ack"
        if (session.user is None) != (frame.type in LOGINS):
            raise Refused(ErrorCode.NOT_LOGGED_IN if session.user is None else ErrorCode.ALREADY_LOGGED_IN)
        return handler

    def refused(self, session: Session, type: int, error: Refused) -> Answer:
        """Return the answer to a request that was refused.

        Before the login, a refusal closes the connection, except for a frame whose type is unknown
        or which is not a request: the original server keeps the connection open after those.
        """
        stays_open = session.user is not None or error.code in (ErrorCode.UNKNOWN_TYPE, ErrorCode.MALFORMED_FRAME)
        return Answer(messages.refusal(type, error, session.is_modern), close=not stays_open)

    def _change(self, handler: Callable[[Session, Any], Outcome], session: Session, request: Any) -> Outcome:
        """Run the service for a change, unless the user has made too many."""
        user = request.username
        if not self._change_rate.try_acquire(user):
            wait = self._change_rate.seconds_until_room(user)
            raise Refused(ErrorCode.RATE_LIMITED, "You make too many changes: wait a moment.", retry_after=wait)
        return handler(session, request)

    # --- accounts and logins ------------------------------------------------------------------

    def register(self, session: Session, request: messages.Register) -> Outcome:
        """Create an account. The connection closes afterwards, also if the request is refused."""
        if not self._policy.is_registration_open:
            raise Refused(ErrorCode.REGISTRATION_CLOSED)
        check_new_name(request.username, ErrorCode.INVALID_USERNAME)
        if fold(request.username) in self._policy.reserved_names:
            raise Refused(ErrorCode.NAME_RESERVED)
        check_password(request.password)

        def in_transaction(dao: Dao) -> None:
            accounts.add(dao, request.username, password_hash)

        password_hash = ""

        def hash_then_write() -> Write:
            nonlocal password_hash
            password_hash = passwords.hash_password(request.password, self._policy.password_cost)
            return _success_write(Type.REGISTER, in_transaction, {"username": request.username}, close=True)

        with self._reading() as dao:
            # `in_transaction` checks this again, but then the expensive hash has been computed.
            accounts.check_is_free(dao, request.username)
        # Only now: a user who tries names that are taken is not held up.
        if self._policy.registration_rate and not self._registrations.try_acquire(network_of(session.address)):
            raise Refused(ErrorCode.TOO_MANY_REGISTRATIONS)
        return CpuTask(hash_then_write, Place.REGISTRATION)

    def login(self, session: Session, request: messages.Login) -> Outcome:
        """Log in with the password: answer with a new token, then deliver the inbox."""
        username, network = request.username, network_of(session.address)
        _stop_pacing_if_modern(session, request)
        if not is_valid_name(username):
            # Nobody can have this name, so the guard need not remember it.
            return CpuTask(lambda: self._wrong_credentials(session), Place.LOGIN)
        with self._reading() as dao:
            stored, noted_at = dao.credentials(username, network)
            if not self._knows_costs:
                self._learn_costs(dao)
        is_known = noted_at is not None
        attempt = self._guard.attempt(username, network, is_known, exists=stored is not None)

        def verify() -> Outcome:
            refusal = self._check_guess(session, Type.LOGIN, attempt, request.password, stored)
            if refusal is not None or stored is None:
                return refusal or self._wrong_credentials(session)
            cost = self._policy.password_cost
            is_old = passwords.is_outdated(stored, cost)
            renewed = passwords.hash_password(request.password, cost) if is_old else None
            return self._issue_token(session, request, stored, renewed, noted_at)

        return CpuTask(verify, Place.KNOWN if is_known else Place.LOGIN, attempt)

    def too_many_attempts(self, session: Session, type: int) -> Answer:
        """Return the answer to a password that the guard has held back for too long."""
        return self.refused(session, type, Refused(ErrorCode.TOO_MANY_ATTEMPTS))

    def _check_guess(
        self, session: Session, type: Type, attempt: Attempt, password: str, stored: str | None
    ) -> Answer | None:
        """Check a password against a stored hash (None: there is no such user), on a hasher.

        Returns the answer to a wrong one, None if it is right.
        """
        right = passwords.verify_password(password, stored or self._dummy_hash)
        if stored is not None and right:
            attempt.succeed()
            return None
        attempt.fail()
        sentence = OLD_PASSWORD_WRONG if type == Type.UPDATE_PROFILE else ""
        return self.refused(session, type, Refused(ErrorCode.WRONG_CREDENTIALS, sentence))

    def _wrong_credentials(self, session: Session) -> Answer:
        """Refuse a name that nobody can have, in the same time as a wrong password."""
        passwords.verify_password("", self._dummy_hash)
        return self.refused(session, Type.LOGIN, Refused(ErrorCode.WRONG_CREDENTIALS))

    def _learn_costs(self, dao: Dao) -> None:
        """See what most password hashes cost."""
        self._knows_costs = True  # first: what is stored meanwhile makes the next login look again
        costs = dao.hash_costs(COST_SAMPLE)
        if costs:
            self._dummy_hash = passwords.impossible_hash(max(costs, key=costs.__getitem__))
        self._has_old_hashes = bool(costs.keys() - {self._policy.password_cost})

    def _is_current(self, dao: Dao, username: str, verified: str) -> bool:
        """Whether a user still has the password of a hash that was verified."""
        current = dao.password_hash(username)
        return current is not None and current in (verified, self._renewed.get(verified))

    def _renew(self, dao: Dao, username: str, verified: str, renewed: str | None) -> None:
        """Replace a hash of an old cost, which was verified. Raises Refused if the password was
        changed since.
        """
        if dao.password_hash(username) != verified:
            if not self._is_current(dao, username, verified):
                raise Refused(ErrorCode.WRONG_CREDENTIALS)
        elif renewed is not None:
            dao.update_user(username, {"password": renewed})
            self._renewed[verified] = renewed
            if len(self._renewed) > MAX_RENEWED:
                self._renewed.popitem(last=False)

    def _issue_token(
        self, session: Session, request: messages.Login, verified: str, renewed: str | None, noted_at: int | None
    ) -> Write:
        """Return the write that stores a new token; after its commit the user is logged in.

        `verified`: the hash that the password was checked against; `renewed`: one of today's cost
        to replace it, if it is an old one. `noted_at`: when a login from this network was last
        noted.
        """
        username = request.username
        token = passwords.new_token()
        token_hash = passwords.hash_token(token)

        def in_transaction(dao: Dao) -> Friends:
            self._renew(dao, username, verified, renewed)
            self._store_token(dao, token_hash, username)
            if request.features is not None:
                dao.note_modern_login(username)
            now = int(self._clock.latest() * 1000)
            if noted_at is None or noted_at <= now - ADDRESS_PRECISION:
                dao.remember_address(username, network_of(session.address), now, MAX_KNOWN_ADDRESSES)
            self._take_over(dao, _Newcomer(session, username, token_hash, request.features is None))
            return _load_friends(dao, request)

        def after_commit(friends: Friends) -> Answer:
            if self._has_old_hashes:
                self._knows_costs = False
            features = self._attach_session(session, request, token_hash, friends)
            return Answer(response(Type.LOGIN, {"username": username, "token": token, "features": features}))

        return Write(Type.LOGIN, in_transaction, after_commit, lambda _: self._end_revoked(username, token_hash))

    def _expiry_now(self) -> int:
        return int(self._clock.now() * 1000)

    def _store_token(self, dao: Dao, token_hash: str, username: str) -> None:
        expires = int((self._clock.latest() + self._policy.token_seconds) * 1000)
        dao.add_token(token_hash, username, expires, self._expiry_now(), MAX_TOKENS)

    def reconnect(self, session: Session, request: messages.Reconnect) -> Outcome:
        """Log in with a token, after the connection was lost."""
        token_hash = passwords.hash_token(request.token)
        username = request.username
        _stop_pacing_if_modern(session, request)

        def check(dao: Dao) -> None:
            if dao.token_owner(token_hash, self._expiry_now()) != username:
                raise Refused(ErrorCode.INVALID_TOKEN)

        def in_transaction(dao: Dao) -> Friends:
            check(dao)
            if is_first_modern:
                dao.note_modern_login(username)
            self._take_over(dao, _Newcomer(session, username, token_hash, request.features is None))
            return _load_friends(dao, request)

        def after_commit(friends: Friends) -> Answer:
            session.resumed = True
            features = self._attach_session(session, request, token_hash, friends)
            return Answer(response(Type.RECONNECT, {"username": username, "features": features}))

        with self._reading() as dao:
            check(dao)  # here, too, so that guessed tokens do not occupy the store
            is_first_modern = request.features is not None and not dao.has_been_modern(username)
        return Write(Type.RECONNECT, in_transaction, after_commit, lambda _: self._end_revoked(username, token_hash))

    def _take_over(self, dao: Dao, newcomer: "_Newcomer") -> None:
        """Revoke the token of a classic session that this login is about to take over.

        Nobody tells a classic client why its connection ends. So it comes back by its token at
        once, and would throw out the newer login, whose client would do the same, and so on for
        ever. A client that comes back by the same token has lost its connection, and keeps it.
        """
        logging_in, username = self._logging_in, newcomer.username
        # Logins in this transaction are not attached yet, so they are remembered here. Those of a
        # transaction that failed lie at the front.
        while logging_in and not (oldest := next(iter(logging_in.values()))).is_pending:
            del logging_in[oldest.username]
        before = logging_in.pop(username, None)
        logging_in[username] = newcomer
        if before is not None and before.is_pending:
            is_classic, token_hash = before.is_classic, before.token_hash
        elif (old := self._sessions.get(username)) is not None:
            is_classic, token_hash = not old.is_modern, old.token_hash
        else:
            return
        if is_classic and token_hash != newcomer.token_hash:
            dao.remove_token(token_hash, username)

    def _end_revoked(self, username: str, token_hash: str) -> None:
        """Close a classic session whose token `_take_over` has revoked, for a login that failed.

        (The commit of that login was in doubt for too long.) The session has no successor, but
        without its token it could not come back. So its client learns it now.
        """
        old = self._sessions.get(username)
        if old is not None and not old.is_modern and old.token_hash != token_hash:
            old.closing = True
            old.transport.close()

    def _attach_session(
        self, session: Session, request: messages.Login | messages.Reconnect, token_hash: str, friends: Friends
    ) -> list[str] | None:
        """Log a user in on a session; return the granted features (None for a classic client).

        It runs in a turn of the store, and turns never overlap. So no message is stored while it
        runs: each message is either in the inbox or pushed to this session.
        """
        self._logging_in.pop(request.username, None)
        features = _grant_features(session, request.features)
        session.token_hash = token_hash
        session.user = request.username
        old = self._sessions.attach(session)
        if old is not None:
            _end(old, TAKEN_OVER)
        if session.transport.is_closed:
            # The reader found no session to detach, because it saw the connection end before this.
            self._sessions.detach(session)
        self._presence.user_logged_in(request.username, friends)
        self._delivery.begin(session)
        return features

    def logout(self, session: Session, request: messages.Logout) -> Outcome:
        """Revoke the token of the request and of the session; close without a response."""
        hashes = {passwords.hash_token(request.token), session.token_hash}

        def in_transaction(dao: Dao) -> None:
            for token_hash in hashes:
                dao.remove_token(token_hash, request.username)

        def after_commit(_: None) -> Answer:
            self._sessions.detach(session)  # now: the client may take long to close
            self._presence.refresh(request.username)
            return Answer(None, close=True)

        def on_late_commit(_: None) -> None:
            after_commit(None)
            session.transport.close()

        return Write(Type.LOGOUT, in_transaction, after_commit, on_late_commit)

    # --- messages -----------------------------------------------------------------------------

    def person_message(self, session: Session, request: messages.PersonMessage) -> Outcome:
        """Send a message to one user, online or offline."""
        receiver = request.receiver
        try:
            if self._try_acquire and (session.held_back or not self._try_acquire(request.sender)):
                self._check_rate(session, request, request.sender)
            if receiver not in self._known_users and not self._is_user(receiver):
                raise Refused(ErrorCode.NO_SUCH_USER)
        except Refused as error:
            return _refused_message(Type.PERSON_MESSAGE, request, error)
        return NewMessage(Type.PERSON_MESSAGE, *request)

    def group_message(self, session: Session, request: messages.GroupMessage) -> Outcome:
        """Send a message to all other members of a group."""
        sender = request.sender
        try:
            if self._try_acquire and (session.held_back or not self._try_acquire(sender)):
                self._check_rate(session, request, sender)
            group = self._cached_group(request.receiver)
            if sender not in group.members:
                raise Refused(
                    ErrorCode.NOT_A_MEMBER, "Only members may write to the group: ask its creator to add you."
                )
        except Refused as error:
            return _refused_message(Type.GROUP_MESSAGE, request, error)

        return NewMessage(Type.GROUP_MESSAGE, *request, group=group)

    def ack(self, session: Session, request: messages.Ack) -> Outcome:
        """Ignore an ACK that came together with the login: no message has been sent yet.

        (The reader handles all later ACKs, except malformed ones: see `connection.py`.)
        """
        return Answer(None)

    def history(self, session: Session, request: messages.History) -> Outcome:
        """Return a page of a conversation: messages that the user wrote or was sent."""
        partner = request.person if request.groupName is None else request.groupName
        limit = DEFAULT_PAGE if request.limit is None else min(request.limit, MAX_PAGE)
        if partner is None or (request.person is not None and request.groupName is not None):
            raise Refused(ErrorCode.MALFORMED_BODY, "The body must have either 'person' or 'groupName', and not both.")
        if limit < 1:
            raise Refused(ErrorCode.MALFORMED_BODY, "The 'limit' must be 1 or more.")
        before = MAX_ID if request.before is None else request.before
        is_group = request.groupName is not None
        if not is_group and not self._is_user(partner):
            raise Refused(ErrorCode.NO_SUCH_USER)

        def read() -> Answer:
            return self._read_history(session, request, partner, before, limit)

        return Unfinished(read)

    def _read_history(
        self, session: Session, request: messages.History, partner: str, before: int, limit: int
    ) -> Answer:
        is_group = request.groupName is not None
        # Read `sent_id` before the query: messages that are sent meanwhile come as notices.
        page = HistoryQuery(request.username, is_group, partner, 0, before, session.sent_id)
        with self._reading() as dao:
            if is_group:
                page = page._replace(since=_member_since(dao, partner, request.username))
            found, more = self._read_page(dao, session, page, limit) if self._policy.keeps_history else ([], False)
        entries = [messages.history_entry(m.sender, m.receiver, m.content, m.time, m.id) for m in found]
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

    def _check_rate(
        self, session: Session, request: messages.PersonMessage | messages.GroupMessage, sender: str
    ) -> None:
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

    # --- groups -------------------------------------------------------------------------------

    def create_group(self, session: Session, request: messages.CreateGroup) -> Outcome:
        """Create a group. Its creator is its first member."""
        username, name = request
        check_new_name(name, ErrorCode.INVALID_GROUP_NAME)

        def in_transaction(dao: Dao) -> MemberChange:
            if dao.is_group_name_taken(name):
                raise Refused(ErrorCode.GROUP_EXISTS)
            if dao.count_created_groups(username) >= MAX_GROUPS_CREATED:
                raise Refused(
                    ErrorCode.LIMIT_REACHED, f"You have created {MAX_GROUPS_CREATED} groups, the most possible."
                )
            dao.add_group(name, username)
            return (), (username,)

        return self._membership_write(Type.CREATE_GROUP, name, in_transaction)

    def disband_group(self, session: Session, request: messages.DisbandGroup) -> Outcome:
        """End a group and free its name. Messages in the inboxes of its members still arrive."""
        username, name = request

        def in_transaction(dao: Dao) -> MemberChange:
            members = _members_of_own_group(dao, name, username)
            dao.remove_group(name)
            return members, ()

        return self._membership_write(Type.DISBAND_GROUP, name, in_transaction)

    def add_member(self, session: Session, request: messages.AddMember) -> Outcome:
        """Add a user to a group that the sender of the request has created."""
        username, name, member = request

        def in_transaction(dao: Dao) -> MemberChange:
            members = _members_of_own_group(dao, name, username)
            if not is_valid_name(member) or not dao.has_user(member):
                raise Refused(ErrorCode.NO_SUCH_USER)
            if member in members:
                raise Refused(ErrorCode.ALREADY_MEMBER)
            if len(members) >= MAX_MEMBERS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"The group has {MAX_MEMBERS} members, the most possible.")
            if dao.count_groups_of(member) >= MAX_GROUPS_JOINED:
                raise Refused(ErrorCode.LIMIT_REACHED, f"The user is in {MAX_GROUPS_JOINED} groups, the most possible.")
            dao.add_member(name, member)
            return members, (*members, member)

        change = Change(username, member, is_added=True)
        return self._membership_write(Type.ADD_MEMBER, name, in_transaction, change)

    def remove_member(self, session: Session, request: messages.RemoveMember) -> Outcome:
        """Remove a member (the creator may), or leave a group (each other member may)."""
        username, name, member = request

        def in_transaction(dao: Dao) -> MemberChange:
            creator, members = _load_group(dao, name)
            if username not in (creator, member):
                raise Refused(ErrorCode.NOT_GROUP_CREATOR)
            if member not in members:
                raise Refused(ErrorCode.NOT_A_MEMBER)
            if member == creator:
                raise Refused(ErrorCode.CREATOR_CANNOT_LEAVE)
            dao.remove_member(name, member)
            return members, tuple(other for other in members if other != member)

        change = Change(username, member, is_added=False)
        return self._membership_write(Type.REMOVE_MEMBER, name, in_transaction, change)

    def own_groups(self, session: Session, request: messages.OwnGroups) -> Outcome:
        """Return the groups that the user is in, each with its members, the creator first.

        A client with the feature `pages` gets one page. Any other gets what fits into one frame.
        """
        username = request.username
        if not session.has_pages:
            frame = lists.GroupsFrame(Type.OWN_GROUPS, username)
            return Unfinished(lambda: self._add_groups(username, frame, lists.START))
        start = lists.START if request.after is None else lists.Place.parse(request.after)

        def read_page() -> Answer:
            with self._reading() as dao:
                groups, rest = lists.read_groups(dao, username, start, _piece_rows(session))
            values = {"username": username, "groups": groups, "more": rest is not None, "after": rest and str(rest)}
            return Answer(response(Type.OWN_GROUPS, values))

        return Unfinished(read_page)

    def _add_groups(self, username: str, frame: lists.GroupsFrame, place: lists.Place) -> Outcome:
        """Append a piece of the list to the response, and return that if the list is complete."""
        with self._reading() as dao:
            groups, rest = lists.read_groups(dao, username, place, lists.PIECE_ROWS)
        frame.add_groups(groups)
        if rest is not None and not frame.is_cut:
            return Unfinished(lambda: self._add_groups(username, frame, rest), lists.MAX_LIST)
        answer = Answer(frame.encode())
        if frame.is_cut:
            self._cut_log.report("groups", username, frame.count)
        return answer

    def _membership_write(
        self, type: Type, name: str, in_transaction: Callable[[Dao], MemberChange], change: Change | None = None
    ) -> Write:
        """Return a write that updates the group cache and tells the members after its commit.

        `in_transaction` changes the database, and returns the members before and after the change.
        `change`: the one who is added or removed; None if the group is created or disbanded.
        """

        def after_commit(members: MemberChange) -> Answer:
            before, now = members
            self._groups.set_members(name, now)
            if not now:
                self._group_notices.disbanded(name, before)
            elif change is not None:
                self._group_notices.members_changed(name, now, change)
            return Answer(SUCCESS[type])

        return Write(type, in_transaction, after_commit)

    def _cached_group(self, name: str) -> Group:
        def load() -> list[str] | None:
            with self._reading() as dao:
                group = dao.group(name)
            return None if group is None else group[1]

        group = self._groups.get(name, load) if is_valid_name(name) else None
        if group is None:
            raise Refused(ErrorCode.NO_SUCH_GROUP)
        return group

    # --- friends and profiles -----------------------------------------------------------------

    def add_friend(self, session: Session, request: messages.AddFriend) -> Outcome:
        """Add a user to the friend list of the logged-in user (one-way)."""
        username, friend = request

        def in_transaction(dao: Dao) -> None:
            if not is_valid_name(friend) or not dao.has_user(friend):
                raise Refused(ErrorCode.NO_SUCH_USER)
            if dao.is_friend(username, friend):
                raise Refused(ErrorCode.ALREADY_FRIENDS)
            if dao.count_friends(username) >= MAX_FRIENDS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"You have {MAX_FRIENDS} friends, the most possible.")
            dao.add_friend(username, friend)

        def after_commit(_: None) -> Answer:
            self._presence.add_friend(username, friend)
            return Answer(SUCCESS[Type.ADD_FRIEND])

        return Write(Type.ADD_FRIEND, in_transaction, after_commit)

    def remove_friend(self, session: Session, request: messages.RemoveFriend) -> Outcome:
        """Remove a user from the friend list of the logged-in user."""
        username, friend = request

        def in_transaction(dao: Dao) -> None:
            if not dao.is_friend(username, friend):
                raise Refused(ErrorCode.NOT_FRIENDS)
            dao.remove_friend(username, friend)

        def after_commit(_: None) -> Answer:
            self._presence.remove_friend(username, friend)
            return Answer(SUCCESS[Type.REMOVE_FRIEND])

        return Write(Type.REMOVE_FRIEND, in_transaction, after_commit)

    def all_friends(self, session: Session, request: messages.AllFriends) -> Outcome:
        """Return the friend list, and for each friend whether they are online.

        A client with the feature `pages` gets one page. Any other gets what fits into one frame.
        """
        username = request.username
        if not session.has_pages:
            return Unfinished(lambda: self._gather_friends(session, username, [], ""))

        def read_page() -> Write:
            with self._reading() as dao:
                friends, rest = lists.read_friends(dao, username, request.after or "", _piece_rows(session))

            def answer() -> Answer:
                online = {friend: self._presence.is_announced_online(friend, username) for friend in friends}
                values = {"username": username, "friends": online, "more": rest is not None, "after": rest}
                return Answer(response(Type.ALL_FRIENDS, values))

            return _in_order_with_presence(answer)

        return Unfinished(read_page)

    def _gather_friends(self, session: Session, username: str, friends: list[str], after: str) -> Outcome:
        """Read a piece of the list, and return the response if the list is complete."""
        with self._reading() as dao:
            piece, rest = lists.read_friends(dao, username, after, lists.PIECE_ROWS)
        friends += piece
        if rest is not None and sum(map(len, friends)) < lists.MAX_LIST:
            return Unfinished(lambda: self._gather_friends(session, username, friends, rest), lists.MAX_LIST)

        def answer(is_online: Callable[[str], bool]) -> Answer:
            frame = lists.ListFrame(Type.ALL_FRIENDS, username, "friends")
            frame.add(lists.friend_entries(friends, map(is_online, friends)))
            if frame.is_cut:
                self._cut_log.report("friends", username, frame.count)
            return Answer(frame.encode())

        if not session.is_modern:
            return answer(lambda friend: self._sessions.get(friend) is not None)
        return _in_order_with_presence(
            lambda: answer(lambda friend: self._presence.is_announced_online(friend, username))
        )

    def update_profile(self, session: Session, request: messages.UpdateProfile) -> Outcome:
        """Change the user's profile or password. A new password revokes all the user's tokens."""
        values = {field: value for field in PROFILE_LIMITS if (value := getattr(request, field)) is not None}
        for field, value in values.items():
            if len(value) > PROFILE_LIMITS[field]:
                limit = PROFILE_LIMITS[field]
                raise Refused(ErrorCode.TOO_LONG, f"The field {field!r} may have at most {limit} characters.")

        def in_transaction(dao: Dao) -> None:
            if values:
                dao.update_user(request.username, values)

        if request.password is not None:
            return self._change_password(session, request, values)
        write = _success_write(Type.UPDATE_PROFILE, in_transaction)
        return write if values else write.answer(None)

    def _change_password(self, session: Session, request: messages.UpdateProfile, values: dict[str, str]) -> Outcome:
        """Set a new password, and these values of the profile; end the user's tokens and other
        sessions.

        A token opens a session without the password. So a session must know the old password, too,
        unless it may belong to a client that cannot send it.
        """
        username, password, old_password = request.username, request.password, request.oldPassword
        network = network_of(session.address)
        assert password is not None
        check_password(password)
        with self._reading() as dao:
            stored, noted_at = dao.credentials(username, network)
            needs_old = session.is_modern or (session.resumed and dao.has_been_modern(username))
        if old_password is None and needs_old:
            raise Refused(ErrorCode.WRONG_CREDENTIALS, NEEDS_OLD_PASSWORD)
        is_known = noted_at is not None
        attempt = None if old_password is None else self._guard.attempt(username, network, is_known, exists=True)
        token = passwords.new_token() if session.is_modern else None
        token_hash = None if token is None else passwords.hash_token(token)

        def in_transaction(dao: Dao) -> None:
            if old_password is not None and not (stored and self._is_current(dao, username, stored)):
                raise Refused(ErrorCode.WRONG_CREDENTIALS, OLD_PASSWORD_WRONG)
            dao.update_user(username, values)
            dao.remove_tokens(username)
            if token_hash is not None:
                self._store_token(dao, token_hash, username)

        def after_commit(_: None) -> Answer:
            if token_hash is not None:
                session.token_hash = token_hash
            self.end_sessions(username, PASSWORD_CHANGED, keep=session)
            return Answer(response(Type.UPDATE_PROFILE, None if token is None else {"token": token}))

        def verify_then_write() -> Outcome:
            if old_password is not None and attempt is not None:
                refusal = self._check_guess(session, Type.UPDATE_PROFILE, attempt, old_password, stored)
                if refusal is not None:
                    return refusal
            values["password"] = passwords.hash_password(password, self._policy.password_cost)
            return Write(Type.UPDATE_PROFILE, in_transaction, after_commit)

        return CpuTask(verify_then_write, Place.KNOWN, attempt)

    def end_sessions(self, user: str, closing_frame: bytes, keep: Session | None = None) -> None:
        """End all sessions of a user but one. Call it in a turn of the store.

        Modern clients get the closing frame, which says why.
        """
        for session in self._sessions.of(user):
            if session is not keep:
                _end(session, closing_frame)
                self._sessions.detach(session)
        self._presence.refresh(user)

    def own_profile(self, session: Session, request: messages.OwnProfile) -> Outcome:
        """Return the profile of the logged-in user."""
        return self._profile(Type.OWN_PROFILE, request.username)

    def friend_profile(self, session: Session, request: messages.FriendProfile) -> Outcome:
        """Return the profile of a user on the friend list."""
        with self._reading() as dao:
            if not dao.is_friend(request.username, request.friend):
                raise Refused(ErrorCode.NOT_FRIENDS)
        return self._profile(Type.FRIEND_PROFILE, request.friend)

    def _profile(self, type: Type, username: str) -> Answer:
        with self._reading() as dao:
            profile = dao.profile(username)
        return Answer(response(type, {"username": username, **profile}))

    def forget_users(self) -> None:
        """Ask the database for each user again: it may not know all of them any more."""
        self._known_users.clear()

    def _is_user(self, name: str) -> bool:
        """Whether there is a user of this name. Users are never deleted, so a yes is cached."""
        if name in self._known_users:
            return True
        if not is_valid_name(name):
            return False
        with self._reading() as dao:
            if not dao.has_user(name):
                return False
        if len(self._known_users) >= MAX_KNOWN_USERS:
            # One at a time: if all were dropped at once, every sender would wait for a query.
            # (Workers may do this at the same time, as each step here is safe by itself. The set
            # may then hold a name too many for each worker.)
            self._known_users.pop()
        self._known_users.add(name)
        return True


def _success_write(
    type: Type, in_transaction: Callable[[Dao], None], values: Mapping[str, Any] | None = None, close: bool = False
) -> Write:
    """Return a write that is answered with SUCCESS and these values."""
    return Write(type, in_transaction, lambda _: Answer(response(type, values), close))


def _in_order_with_presence(answer: Callable[[], Answer]) -> Write:
    """Return a write that makes a list of friends in a turn of the store, like presence notices.

    The notices continue where the list ends. So it is made from what was announced last. Otherwise
    the list might be older than a notice before it. Or it might be newer than what was announced:
    if the friend's state then changes back, no notice corrects the list.
    """
    return Write(Type.ALL_FRIENDS, lambda _: None, lambda _: answer())


def _piece_rows(session: Session) -> int:
    """At most this many names are in a page for a session now."""
    return lists.SHORT_PIECE_ROWS if session.transport.is_memory_short else lists.PIECE_ROWS


def _end(session: Session, closing_frame: bytes) -> None:
    """Serve nothing more on a session, and close its connection.

    A modern client gets the closing frame before. A classic one would not understand it.
    """
    session.closing = True
    if session.is_modern:
        session.transport.finish(closing_frame)
    else:
        session.transport.close()


def _grant_features(session: Session, asked: Sequence[str] | None) -> list[str] | None:
    """Make a session modern if its request has the key `features`; return the granted ones.

    `asked` is None for a classic client. An empty list makes a session modern, too.
    """
    if asked is None:
        return None
    session.is_modern = True
    session.has_pages = "pages" in asked
    if "ack" in asked:
        session.transport.stop_confirming()
        session.window = Window()
    return [feature for feature in FEATURES if feature in asked]


def _stop_pacing_if_modern(session: Session, request: messages.Login | messages.Reconnect) -> None:
    """Answer a modern client at once, also if its login is refused: it takes any split of the
    stream.
    """
    if request.features is not None:
        session.transport.stop_pacing()


def _load_friends(dao: Dao, request: messages.Login | messages.Reconnect) -> Friends:
    return None if request.features is None else dao.friends(request.username, "", MAX_FRIENDS)


def _refused_message(
    type: Type, request: messages.PersonMessage | messages.GroupMessage, refusal: Refused
) -> NewMessage:
    """Return a message that cannot be stored now, with the refusal. Without a requestId, raise it.

    A message with a requestId (an idempotency key) may have been stored before. The store
    checks that, and then answers SUCCESS to the repeat.
    """
    if request.requestId is None:
        raise refusal
    sender, receiver, content, sent_at, request_id = request
    return NewMessage(type, sender, receiver, content, sent_at, request_id, refusal=refusal)


def _member_since(dao: Dao, group: str, username: str) -> int:
    """Return the first message id that a member may read. Raises Refused for anybody else."""
    _load_group(dao, group)
    since = dao.member_since(group, username)
    if since is None:
        raise Refused(ErrorCode.NOT_A_MEMBER, "Only members may read the messages of the group.")
    return since


def _load_group(dao: Dao, name: str) -> tuple[str, list[str]]:
    """Return the creator and the members of a group. Raises Refused if there is no such group."""
    group = dao.group(name) if is_valid_name(name) else None
    if group is None:
        raise Refused(ErrorCode.NO_SUCH_GROUP)
    return group


def _members_of_own_group(dao: Dao, name: str, username: str) -> list[str]:
    """Return the members of a group. Raises Refused if `username` did not create it."""
    creator, members = _load_group(dao, name)
    if creator != username:
        raise Refused(ErrorCode.NOT_GROUP_CREATOR)
    return members
