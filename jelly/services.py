"""What each request does: one method each, and one table that says which.

A service gets the session and the typed request, and returns what is to happen next:

- an `Answer`: the response is ready;
- a `NewMessage` or a `Write`: the store thread writes it, and answers after its commit;
- a `CpuTask`: a hasher thread does this first, and comes back with one of the others.

or it raises `Refused`, and nothing was done. Services know sessions, groups and the store, and no sockets and
no threads; who calls them, and how what they return is carried on, is the business of `queue_dispatch.py`.
Identity always comes from the session: a name in the body is only compared with it.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jelly import messages, passwords
from jelly.codec import Frame, Sign, Type
from jelly.dao import MAX_ID, Dao, HistoryQuery, StoredMessage
from jelly.delivery import Delivery
from jelly.errors import ErrorCode, Refused
from jelly.groups import Group, GroupCache
from jelly.messages import PROFILE_LIMITS, SUCCESS, Event, is_valid_name, response, system
from jelly.outcomes import Answer, CpuTask, DelayedAnswer, NewMessage, Outcome, Write
from jelly.presence import Presence
from jelly.rate import RateLimit
from jelly.sessions import Session, Sessions, Window

MAX_FRIENDS = 1000
MAX_MEMBERS = 1000
MAX_GROUPS_CREATED = 200
MAX_GROUPS_JOINED = 1000
MAX_TOKENS = 32
MAX_KNOWN_USERS = 100_000
"""So many names are remembered as those of users."""
DEFAULT_PAGE, MAX_PAGE = 50, 100
"""How many messages a page of history has if nothing is said, and at most."""
PAGE_CHARACTERS = 128 * 1024
"""How many characters of content it has at most (but always one message)."""
READ_AT_A_TIME = 20
"""So many messages of a page are read together: they may be large, and not all be wanted."""
TAKEN_OVER = system(Event.TAKEN_OVER)


BEFORE_LOGIN = {Type.LOGIN, Type.REGISTER, Type.RECONNECT}

Friends = list[str] | None
"""A modern client's list of friends; None for a classic one, which is told nothing of them."""
Members = tuple[Sequence[str], tuple[str, ...]]
"""The members of a group before and after a change: no members mean no group."""

Reading = Callable[[], contextlib.AbstractContextManager[Dao]]
"""Gives the calling thread a Dao to read with; a worker leaves the running state meanwhile."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decides about accounts and messages."""

    password_cost: int = 14
    token_seconds: float = 7 * 86400.0
    message_rate: int = 0
    """Messages a second that one session may send; 0: any number."""
    keeps_history: bool = True


class Services:
    """All requests of the protocol but HEARTBEAT, which the reader handles."""

    def __init__(
        self,
        policy: Policy,
        sessions: Sessions,
        presence: Presence,
        groups: GroupCache,
        delivery: Delivery,
        reading: Reading,
        guard: passwords.LoginGuard,
    ) -> None:
        self._policy = policy
        self._sessions = sessions
        self._presence = presence
        self._groups = groups
        self._delivery = delivery
        self._reading = reading
        self._guard = guard
        self._known_users: set[str] = set()
        self._rate = RateLimit(policy.message_rate)
        # Compared with when there is no such user, so that a wrong name takes as long as a wrong password.
        self._nobody = passwords.hash_password("", policy.password_cost)
        self._table: Mapping[int, Callable[[Session, Any], Outcome]] = {
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

    def serve(self, session: Session, frame: Frame) -> Outcome:
        """What becomes of one frame. Raises nothing but StoreError, unless there is a bug."""
        try:
            service = self._service(session, frame)
            request = messages.parse_request(frame.type, frame.body)
            actor = request.actor
            if actor != session.user and session.user is not None and actor is not None:
                raise Refused(ErrorCode.NOT_YOURSELF)
            return service(session, request)
        except Refused as error:
            return self.refused(session, frame.type, error)

    def _service(self, session: Session, frame: Frame) -> Callable[[Session, Any], Outcome]:
        """The method for a frame. Raises Refused if the session may not ask for that now."""
        if frame.sign != Sign.REQUEST:
            raise Refused(ErrorCode.MALFORMED_FRAME, "Clients may send requests only: the sign must be 0x01.")
        service = self._table.get(frame.type)
        if service is None or (frame.type == Type.HISTORY and session.user is not None and session.window is None):
            raise Refused(ErrorCode.UNKNOWN_TYPE)  # HISTORY exists only for sessions that were granted "ack"
        if (session.user is None) != (frame.type in BEFORE_LOGIN):
            raise Refused(ErrorCode.NOT_LOGGED_IN if session.user is None else ErrorCode.ALREADY_LOGGED_IN)
        return service

    def refused(self, session: Session, type: int, error: Refused) -> Answer:
        """The answer to a request that was refused.

        A connection on which nobody has logged in has one chance, then it is closed; but a frame of a kind
        that we do not know, or that is no request at all, is only answered (as by the original).
        """
        stays = session.user is not None or error.code in (ErrorCode.UNKNOWN_TYPE, ErrorCode.MALFORMED_FRAME)
        return Answer(messages.refusal(type, error), close=not stays)

    # --- coming and going -------------------------------------------------------------------------------

    def register(self, session: Session, request: messages.Register) -> Outcome:
        """Create an account; the server closes afterwards, whatever came of it."""
        _check_name(request.username, ErrorCode.INVALID_USERNAME)
        _check_password(request.password)

        def write(dao: Dao) -> None:
            if dao.has_user(request.username):
                raise Refused(ErrorCode.USERNAME_TAKEN)
            dao.add_user(request.username, password_hash)

        password_hash = ""

        def slow() -> Write:
            nonlocal password_hash
            password_hash = passwords.hash_password(request.password, self._policy.password_cost)
            return _change(Type.REGISTER, write, {"username": request.username}, close=True)

        with self._reading() as dao:
            if dao.has_user(request.username):  # asked again when it is written; this spares the hash
                raise Refused(ErrorCode.USERNAME_TAKEN)
        return CpuTask(slow)

    def login(self, session: Session, request: messages.Login) -> Outcome:
        """Log in with the password: a new token, then what waited in the inbox."""
        username, address = request.username, session.address
        if not is_valid_name(username):
            return CpuTask(lambda: self._wrong_credentials(session))  # nobody's: nothing to guard, nor to remember
        if self._guard.is_locked(username, address):
            raise Refused(ErrorCode.TOO_MANY_ATTEMPTS)
        with self._reading() as dao:
            stored = dao.password_hash(username)

        def slow() -> Outcome:
            if self._guard.is_locked(username, address):  # those who waited with us may have filled the measure
                raise Refused(ErrorCode.TOO_MANY_ATTEMPTS)
            right = passwords.verify_password(request.password, stored or self._nobody)
            if stored is None or not right:
                answer = self.refused(session, Type.LOGIN, Refused(ErrorCode.WRONG_CREDENTIALS))
                seconds = self._guard.failed(username, address)
                return DelayedAnswer(answer, seconds) if seconds else answer
            self._guard.succeeded(username, address)
            return self._enter_with_new_token(session, request, stored)

        return CpuTask(slow)

    def _wrong_credentials(self, session: Session) -> Answer:
        """The answer for a name that nobody can have, in the time that any other takes."""
        passwords.verify_password("", self._nobody)
        return self.refused(session, Type.LOGIN, Refused(ErrorCode.WRONG_CREDENTIALS))

    def _enter_with_new_token(self, session: Session, request: messages.Login, password_hash: str) -> Write:
        username = request.username
        token = passwords.new_token()
        token_hash = passwords.hash_token(token)

        def write(dao: Dao) -> Friends:
            if dao.password_hash(username) != password_hash:  # changed while we were hashing
                raise Refused(ErrorCode.WRONG_CREDENTIALS)
            now = _now()
            expires = now + int(self._policy.token_seconds * 1000)
            dao.add_token(token_hash, username, expires, now, MAX_TOKENS)
            return _friends_to_watch(dao, request)

        def after(friends: Friends) -> Answer:
            features = self._enter(session, request, token_hash, friends)
            return Answer(response(Type.LOGIN, {"username": username, "token": token, "features": features}))

        return Write(Type.LOGIN, write, after)

    def reconnect(self, session: Session, request: messages.Reconnect) -> Outcome:
        """Log in again with a token, after the line was cut."""
        token_hash = passwords.hash_token(request.token)
        username = request.username

        def check(dao: Dao) -> None:
            if dao.token_owner(token_hash, _now()) != username:
                raise Refused(ErrorCode.INVALID_TOKEN)

        def write(dao: Dao) -> Friends:
            check(dao)
            return _friends_to_watch(dao, request)

        def after(friends: Friends) -> Answer:
            session.resumed = True
            features = self._enter(session, request, token_hash, friends)
            return Answer(response(Type.RECONNECT, {"username": username, "features": features}))

        with self._reading() as dao:
            check(dao)  # so that guesses do not reach the store thread, where it is checked once more
        return Write(Type.RECONNECT, write, after)

    def _enter(
        self, session: Session, request: messages.Login | messages.Reconnect, token_hash: str, friends: Friends
    ) -> list[str] | None:
        """Make a session the one of its user; return the features that a modern one is granted.

        On the store thread, so it falls between two messages.
        """
        features = _grant(session, request.features)
        session.token_hash = token_hash
        session.user = request.username
        old = self._sessions.attach(session)
        if old is not None:
            old.closing = True
            if old.is_modern:
                old.transport.finish(TAKEN_OVER)
            else:
                old.transport.close()
        if session.transport.is_closed:
            self._sessions.detach(session)  # the client has left meanwhile, and its reader found nobody to detach
        self._presence.entered(request.username, friends)
        self._delivery.begin(session)
        return features

    def logout(self, session: Session, request: messages.Logout) -> Outcome:
        """Revoke the token; the server closes without an answer."""
        hashes = {passwords.hash_token(request.token), session.token_hash}

        def write(dao: Dao) -> None:
            for token_hash in hashes:
                dao.remove_token(token_hash, request.username)

        def after(_: None) -> Answer:
            self._sessions.detach(session)  # offline now, however long the client takes to close
            self._presence.refresh(request.username)
            return Answer(None, close=True)

        return Write(Type.LOGOUT, write, after)

    # --- messages ---------------------------------------------------------------------------------------

    def person_message(self, session: Session, request: messages.PersonMessage) -> Outcome:
        """A message to one user, online or not."""
        receiver = request.receiver
        try:
            if self._policy.message_rate:
                self._check_rate(request.sender)
            if receiver not in self._known_users and not self._is_user(receiver):
                raise Refused(ErrorCode.NO_SUCH_USER)
        except Refused as error:
            return _refused_message(Type.PERSON_MESSAGE, request, error)
        return NewMessage(Type.PERSON_MESSAGE, *request)

    def group_message(self, session: Session, request: messages.GroupMessage) -> Outcome:
        """A message to all other members of a group."""
        sender = request.sender
        try:
            if self._policy.message_rate:
                self._check_rate(sender)
            group = self._group(request.receiver)
            if sender not in group.members:
                raise Refused(ErrorCode.NOT_A_MEMBER, "Only members may write to the group.")
        except Refused as error:
            return _refused_message(Type.GROUP_MESSAGE, request, error)

        return NewMessage(Type.GROUP_MESSAGE, *request, group=group)

    def ack(self, session: Session, request: messages.Ack) -> Outcome:
        """One that was written together with the login: nothing was sent yet that it could be about.

        (All others, but for malformed ones, are the reader's: see `connection.py`.)
        """
        return Answer(None)

    def history(self, session: Session, request: messages.History) -> Outcome:
        """A page of a conversation: what the user wrote, and what it has had already."""
        partner = request.person if request.groupName is None else request.groupName
        limit = DEFAULT_PAGE if request.limit is None else min(request.limit, MAX_PAGE)
        if partner is None or (request.person is not None and request.groupName is not None):
            raise Refused(ErrorCode.MALFORMED_BODY, "The body needs either 'person' or 'groupName'.")
        if limit < 1:
            raise Refused(ErrorCode.MALFORMED_BODY, "The 'limit' must be 1 or more.")
        before = MAX_ID if request.before is None else request.before
        is_group = request.groupName is not None
        if not is_group and not self._is_user(partner):
            raise Refused(ErrorCode.NO_SUCH_USER)
        # `sent_id` is read before the database is: what is sent meanwhile need not be in the page.
        page = HistoryQuery(request.username, is_group, partner, 0, before, session.sent_id)
        with self._reading() as dao:
            if is_group:
                page = page._replace(since=_member_since(dao, partner, request.username))
            found, more = _read_back(dao, page, limit) if self._policy.keeps_history else ([], False)
        past = [messages.past(m.sender, m.receiver, m.content, m.time, m.id) for m in found]
        return Answer(response(Type.HISTORY, {"username": request.username, "messages": past, "more": more}))

    def _check_rate(self, user: str) -> None:
        if not self._rate.takes(user):
            raise Refused(ErrorCode.RATE_LIMITED)

    # --- groups -----------------------------------------------------------------------------------------

    def create_group(self, session: Session, request: messages.CreateGroup) -> Outcome:
        """Found a group; whoever does is its first member."""
        username, name = request
        _check_name(name, ErrorCode.INVALID_GROUP_NAME)

        def write(dao: Dao) -> Members:
            if dao.group(name) is not None:
                raise Refused(ErrorCode.GROUP_EXISTS)
            if dao.count_created_groups(username) >= MAX_GROUPS_CREATED:
                raise Refused(ErrorCode.LIMIT_REACHED, f"One user may create {MAX_GROUPS_CREATED} groups.")
            dao.add_group(name, username)
            return (), (username,)

        return self._membership_change(Type.CREATE_GROUP, name, write)

    def disband_group(self, session: Session, request: messages.DisbandGroup) -> Outcome:
        """End a group; its name is free again. What its members have not read yet still reaches them."""
        username, name = request

        def write(dao: Dao) -> Members:
            members = _group_of_creator(dao, name, username)
            dao.remove_group(name)
            return members, ()

        return self._membership_change(Type.DISBAND_GROUP, name, write)

    def add_member(self, session: Session, request: messages.AddMember) -> Outcome:
        """Take a user into one's group."""
        username, name, member = request

        def write(dao: Dao) -> Members:
            members = _group_of_creator(dao, name, username)
            if not is_valid_name(member) or not dao.has_user(member):
                raise Refused(ErrorCode.NO_SUCH_USER)
            if member in members:
                raise Refused(ErrorCode.ALREADY_MEMBER)
            if len(members) >= MAX_MEMBERS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"A group may have {MAX_MEMBERS} members.")
            if dao.count_groups_of(member) >= MAX_GROUPS_JOINED:
                raise Refused(ErrorCode.LIMIT_REACHED, f"A user may be in {MAX_GROUPS_JOINED} groups.")
            dao.add_member(name, member)
            return members, (*members, member)

        return self._membership_change(Type.ADD_MEMBER, name, write)

    def remove_member(self, session: Session, request: messages.RemoveMember) -> Outcome:
        """Take a member out of one's group, or leave a group oneself."""
        username, name, member = request

        def write(dao: Dao) -> Members:
            creator, members = _group_in(dao, name)
            if username not in (creator, member):
                raise Refused(ErrorCode.NOT_GROUP_CREATOR)
            if member not in members:
                raise Refused(ErrorCode.NOT_A_MEMBER)
            if member == creator:
                raise Refused(ErrorCode.CREATOR_CANNOT_LEAVE)
            dao.remove_member(name, member)
            return members, tuple(other for other in members if other != member)

        return self._membership_change(Type.REMOVE_MEMBER, name, write)

    def own_groups(self, session: Session, request: messages.OwnGroups) -> Outcome:
        """The groups one is in, each with its members, the creator first."""
        with self._reading() as dao:
            groups = dao.groups_of(request.username)
        return Answer(response(Type.OWN_GROUPS, {"username": request.username, "groups": groups}))

    def _membership_change(self, type: Type, name: str, write: Callable[[Dao], Members]) -> Write:
        """A change whose `write` returns the members that the group had before, and those that it has afterwards."""

        def after(members: Members) -> Answer:
            before, now = members
            self._groups.set_members(name, now)
            if not now:
                self._sessions.tell(before, system(Event.GROUP_DISBANDED, group=name))
            elif before:
                self._sessions.tell({*before, *now}, system(Event.GROUP_CHANGED, group=name, members=now))
            return Answer(SUCCESS[type])

        return Write(type, write, after)

    def _group(self, name: str) -> Group:
        def load() -> list[str] | None:
            with self._reading() as dao:
                group = dao.group(name)
            return None if group is None else group[1]

        group = self._groups.get(name, load) if is_valid_name(name) else None
        if group is None:
            raise Refused(ErrorCode.NO_SUCH_GROUP)
        return group

    # --- friends and profiles ---------------------------------------------------------------------------

    def add_friend(self, session: Session, request: messages.AddFriend) -> Outcome:
        """Put a user on one's list."""
        username, friend = request

        def write(dao: Dao) -> None:
            if not is_valid_name(friend) or not dao.has_user(friend):
                raise Refused(ErrorCode.NO_SUCH_USER)
            if dao.is_friend(username, friend):
                raise Refused(ErrorCode.ALREADY_FRIENDS)
            if dao.count_friends(username) >= MAX_FRIENDS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"A list may have {MAX_FRIENDS} friends.")
            dao.add_friend(username, friend)

        def after(_: None) -> Answer:
            self._presence.add_friend(username, friend)
            return Answer(SUCCESS[Type.ADD_FRIEND])

        return Write(Type.ADD_FRIEND, write, after)

    def remove_friend(self, session: Session, request: messages.RemoveFriend) -> Outcome:
        """Take a user off one's list."""
        username, friend = request

        def write(dao: Dao) -> None:
            if not dao.is_friend(username, friend):
                raise Refused(ErrorCode.NOT_FRIENDS)
            dao.remove_friend(username, friend)

        def after(_: None) -> Answer:
            self._presence.remove_friend(username, friend)
            return Answer(SUCCESS[Type.REMOVE_FRIEND])

        return Write(Type.REMOVE_FRIEND, write, after)

    def all_friends(self, session: Session, request: messages.AllFriends) -> Outcome:
        """One's list, with who is online."""
        with self._reading() as dao:
            friends = dao.friends(request.username)

        def answer(is_online: Callable[[str], bool]) -> Answer:
            online = {friend: is_online(friend) for friend in friends}
            return Answer(response(Type.ALL_FRIENDS, {"username": request.username, "friends": online}))

        if not session.is_modern:
            return answer(lambda friend: self._sessions.get(friend) is not None)
        # Presence notices go on where this list ends. So it is made where they are, on the store thread, and of
        # what they told: else it might be older than a notice before it, or so new that no notice takes it back.
        return Write(Type.ALL_FRIENDS, lambda _: None, lambda _: answer(self._presence.was_told_online))

    def update_profile(self, session: Session, request: messages.UpdateProfile) -> Outcome:
        """Change what one says about oneself, or the password, which revokes every token."""
        values = {field: value for field in PROFILE_LIMITS if (value := getattr(request, field)) is not None}
        for field, value in values.items():
            if len(value) > PROFILE_LIMITS[field]:
                limit = PROFILE_LIMITS[field]
                raise Refused(ErrorCode.TOO_LONG, f"The field {field!r} may have {limit} characters.")

        def write(dao: Dao) -> None:
            if values:
                dao.update_user(request.username, values)
            if "password" in values:
                dao.remove_tokens(request.username)

        change = _change(Type.UPDATE_PROFILE, write)
        if request.password is None:
            return change if values else change.answer(None)
        password = request.password
        _check_password(password)

        def slow() -> Write:
            values["password"] = passwords.hash_password(password, self._policy.password_cost)
            return change

        return CpuTask(slow)

    def own_profile(self, session: Session, request: messages.OwnProfile) -> Outcome:
        """What one said about oneself."""
        return self._profile(Type.OWN_PROFILE, request.username)

    def friend_profile(self, session: Session, request: messages.FriendProfile) -> Outcome:
        """What a friend says about himself."""
        with self._reading() as dao:
            if not dao.is_friend(request.username, request.friend):
                raise Refused(ErrorCode.NOT_FRIENDS)
        return self._profile(Type.FRIEND_PROFILE, request.friend)

    def _profile(self, type: Type, username: str) -> Answer:
        with self._reading() as dao:
            profile = dao.profile(username)
        return Answer(response(type, {"username": username, **profile}))

    def _is_user(self, name: str) -> bool:
        """Whether there is a user of this name. Users are never deleted, so a yes may be remembered."""
        if name in self._known_users:
            return True
        if not is_valid_name(name):
            return False
        with self._reading() as dao:
            if not dao.has_user(name):
                return False
        if len(self._known_users) >= MAX_KNOWN_USERS:
            self._known_users.pop()  # any one: to forget all at once would have every sender wait for a query
        self._known_users.add(name)
        return True


def _change(
    type: Type, write: Callable[[Dao], None], values: Mapping[str, Any] | None = None, close: bool = False
) -> Write:
    """A change that is answered with SUCCESS and these values."""
    return Write(type, write, lambda _: Answer(response(type, values), close))


def _grant(session: Session, asked: Sequence[str] | None) -> list[str] | None:
    """Make a session modern if its client asked for features, be it for none; return those that it gets."""
    if asked is None:
        return None
    session.is_modern = True
    session.transport.stop_pacing()
    if "ack" not in asked:
        return []
    session.transport.stop_confirming()
    session.window = Window()
    return ["ack"]


def _friends_to_watch(dao: Dao, request: messages.Login | messages.Reconnect) -> Friends:
    return None if request.features is None else dao.friends(request.username)


def _check_name(name: str, code: ErrorCode) -> None:
    if not is_valid_name(name):
        raise Refused(code)


def _check_password(password: str) -> None:
    if not 1 <= len(password) <= messages.MAX_PASSWORD:
        raise Refused(ErrorCode.INVALID_PASSWORD)


def _refused_message(
    type: Type, request: messages.PersonMessage | messages.GroupMessage, refusal: Refused
) -> NewMessage:
    """A message that cannot be stored now. With a requestId it may have been stored before: the store thread knows."""
    if request.requestId is None:
        raise refusal
    sender, receiver, content, sent_at, request_id = request
    return NewMessage(type, sender, receiver, content, sent_at, request_id, refusal=refusal)


def _member_since(dao: Dao, group: str, username: str) -> int:
    _group_in(dao, group)
    since = dao.member_since(group, username)
    if since is None:
        raise Refused(ErrorCode.NOT_A_MEMBER, "Only members may read what was written to the group.")
    return since


def _read_back(dao: Dao, page: HistoryQuery, limit: int) -> tuple[list[StoredMessage], bool]:
    """The messages of a page, oldest first, and whether there are older ones."""
    found: list[StoredMessage] = []
    size = 0
    while True:
        some = dao.history_page(page, READ_AT_A_TIME)
        for message in some:
            size += len(message.content)
            if len(found) == limit or (found and size > PAGE_CHARACTERS):
                return found[::-1], True
            found.append(message)
        if len(some) < READ_AT_A_TIME:
            return found[::-1], False
        page = page._replace(before=some[-1].id)


def _group_in(dao: Dao, name: str) -> tuple[str, list[str]]:
    group = dao.group(name) if is_valid_name(name) else None
    if group is None:
        raise Refused(ErrorCode.NO_SUCH_GROUP)
    return group


def _group_of_creator(dao: Dao, name: str, username: str) -> list[str]:
    creator, members = _group_in(dao, name)
    if creator != username:
        raise Refused(ErrorCode.NOT_GROUP_CREATOR)
    return members


def _now() -> int:
    return int(time.time() * 1000)
