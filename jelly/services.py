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

The methods are in classes, one for each subject, in a file of its own: `login_service.py`,
`account_service.py`, `friend_service.py`, `group_service.py`, `message_service.py`,
`finding_service.py`, `typing_service.py`, `report_service.py`, `conversation_service.py`. The table
below calls them directly. This file has what holds for all requests: who may send which type now,
the rate of changes, and the answer to a refusal.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jelly import messages, requests
from jelly.account_service import AccountService
from jelly.block_service import BlockService
from jelly.blocks import Blocks
from jelly.codec import LOGINS, Frame, Sign, Type
from jelly.contact_notices import ContactNotices
from jelly.conversation_service import ConversationService
from jelly.dao import Reading
from jelly.deletion import Deletions
from jelly.delivery import Delivery
from jelly.devices import Devices
from jelly.errors import ErrorCode, Refused
from jelly.finding_service import FindingService
from jelly.friend_service import FriendService
from jelly.group_notices import GroupNotices
from jelly.group_service import GroupService
from jelly.groups import GroupCache
from jelly.invite_service import InviteService
from jelly.known_users import KnownUsers
from jelly.last_seen import LastSeen
from jelly.lists import CutLog
from jelly.login_guard import LoginGuard
from jelly.login_service import LoginService
from jelly.message_service import MessageService
from jelly.outcomes import Answer, Outcome
from jelly.own_account_service import OwnAccountService
from jelly.password_check import PasswordCheck
from jelly.policy import Policy
from jelly.presence import Presence
from jelly.rate import RateLimit
from jelly.read_pointers import ReadPointers
from jelly.receipts import Receipts
from jelly.report_service import ReportService
from jelly.session_lifecycle import SessionLifecycle
from jelly.sessions import Session, Sessions
from jelly.tokens import Renewals, Tokens
from jelly.trusted_clock import TrustedClock
from jelly.typing_service import TypingService

CHANGE_BURST = 1000
"""At most this many changes come at once from a user who was quiet before: so many members has the
largest group."""
CHANGES = (
    Type.CREATE_GROUP,
    Type.DISBAND_GROUP,
    Type.ADD_MEMBER,
    Type.REMOVE_MEMBER,
    Type.ADD_FRIEND,
    Type.REMOVE_FRIEND,
    Type.ANSWER_FRIEND,
    Type.ANSWER_GROUP,
    Type.BLOCK,
    Type.UPDATE_PROFILE,
    Type.INVITE,
    Type.JOIN,
    Type.SET_ROLE,
)
"""The requests that `--change-rate` limits: many others may be told of them."""

NEEDED_FEATURES: Mapping[int, str] = {
    Type.HISTORY: "ack",
    Type.ANSWER_FRIEND: "contacts",
    Type.ANSWER_GROUP: "contacts",
    Type.BLOCK: "block",
    Type.BLOCKED: "block",
    Type.READ: "read",
    Type.CONVERSATIONS: "read",
    Type.SEARCH: "search",
    Type.SET_ROLE: "roles",
    Type.FIND: "find",
    Type.TYPING: "typing",
    Type.REPORT: "report",
    Type.EDIT: "edit",
    Type.INVITE: "invites",
    Type.JOIN: "invites",
    Type.DELETE_ACCOUNT: "account",
    Type.LOGINS: "account",
    Type.END_LOGIN: "account",
}
"""Requests that only a client has which was granted a feature. For others they do not exist."""

Handler = Callable[[Session, Any], Outcome]
"""A service: it gets the session and the typed request, and returns what should happen next."""


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
        last_seen: LastSeen | None = None,
        read_pointers: ReadPointers | None = None,
        receipts: Receipts | None = None,
        devices: Devices | None = None,
    ) -> None:
        """`clock`: by its time tokens expire. `last_seen`: the ends of sessions that are not
        written yet.
        """
        clock = clock or TrustedClock(is_trusted=True)
        self.known_users = KnownUsers(reading)
        self.lifecycle = SessionLifecycle(sessions, presence, delivery, _withheld_features(policy))
        self.receipts = Receipts(presence, sessions) if receipts is None else receipts
        self.lifecycle.on_login = self.receipts.logged_in
        password_check = PasswordCheck(policy.password_cost)
        tokens = Tokens(policy.token_seconds, clock, policy.token_most_seconds)
        self.renewals = Renewals(tokens, sessions)
        cut_log = CutLog()
        self.devices = Devices(sessions) if devices is None else devices
        self.logins = LoginService(reading, guard, clock, password_check, tokens, self.lifecycle, self.devices)
        self.accounts = AccountService(
            policy,
            reading,
            guard,
            password_check,
            tokens,
            self.lifecycle,
            sessions,
            last_seen or LastSeen(),
            self.receipts,
        )
        self.blocks = Blocks()
        self.contact_notices = ContactNotices(presence.notifier, presence, self.blocks)
        self.blocking = BlockService(self.blocks, self.contact_notices, reading)
        self.friends = FriendService(policy, sessions, presence, self.contact_notices, reading, cut_log, clock)
        self.groups = GroupService(policy, group_notices, self.contact_notices, groups, reading, cut_log, clock)
        self.messages = MessageService(policy, groups, self.known_users, delivery, reading)
        self.finding = FindingService(policy, self.known_users, delivery, reading)
        self.typing = TypingService(presence, self.messages.cached_group)
        self.reports = ReportService(clock)
        read_pointers = ReadPointers() if read_pointers is None else read_pointers
        self.conversations = ConversationService(read_pointers, delivery, reading)
        self.own_account = OwnAccountService(
            reading, guard, clock, password_check, self.lifecycle, self.known_users, self.devices
        )
        self.deletions = Deletions(self.groups)
        self.invites = InviteService(policy, reading, clock, self.groups, self.accounts)
        self._change_rate = RateLimit(policy.change_rate, CHANGE_BURST)
        self._handlers: Mapping[int, Handler] = {
            Type.LOGIN: self.logins.login,
            Type.RECONNECT: self.logins.reconnect,
            Type.LOGOUT: self.logins.logout,
            Type.REGISTER: self.invites.register,
            Type.UPDATE_PROFILE: self.accounts.update_profile,
            Type.OWN_PROFILE: self.accounts.own_profile,
            Type.FRIEND_PROFILE: self.accounts.friend_profile,
            Type.ADD_FRIEND: self.friends.add_friend,
            Type.REMOVE_FRIEND: self.friends.remove_friend,
            Type.ANSWER_FRIEND: self.friends.answer_friend,
            Type.ANSWER_GROUP: self.groups.answer_group,
            Type.BLOCK: self.blocking.block,
            Type.BLOCKED: self.blocking.blocked,
            Type.ALL_FRIENDS: self.friends.all_friends,
            Type.CREATE_GROUP: self.groups.create_group,
            Type.DISBAND_GROUP: self.groups.disband_group,
            Type.ADD_MEMBER: self.groups.add_member,
            Type.REMOVE_MEMBER: self.groups.remove_member,
            Type.OWN_GROUPS: self.groups.own_groups,
            Type.SET_ROLE: self.groups.set_role,
            Type.PERSON_MESSAGE: self.messages.person_message,
            Type.GROUP_MESSAGE: self.messages.group_message,
            Type.ACK: self.messages.ack,
            Type.HISTORY: self.messages.history,
            Type.REPORT: self.reports.report,
            Type.READ: self.conversations.read,
            Type.CONVERSATIONS: self.conversations.conversations,
            Type.INVITE: self.invites.invite,
            Type.JOIN: self.invites.join,
            Type.DELETE_ACCOUNT: self.own_account.delete_account,
            Type.LOGINS: self.own_account.logins,
            Type.END_LOGIN: self.own_account.end_login,
            Type.FIND: self.finding.find,
            Type.SEARCH: self.finding.search,
            Type.TYPING: self.typing.typing,
            Type.EDIT: self.messages.edit,
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
            request = requests.parse_request(frame.type, frame.body)
            actor = None if frame.type in requests.NAMELESS else request[0]
            if actor != session.user and session.user is not None and actor is not None:
                raise Refused(ErrorCode.NOT_YOURSELF)
            return handler(session, request)
        except Refused as error:
            return self.refused(session, frame.type, error)

    def _handler(self, session: Session, frame: Frame) -> Handler:
        """Return the service for a frame. Raises Refused if the session may not use it now."""
        if frame.sign != Sign.REQUEST:
            raise Refused(ErrorCode.MALFORMED_FRAME, "The sign of a client's frame must be 0x01 (a request).")
        handler = self._handlers.get(frame.type)
        feature = NEEDED_FEATURES.get(frame.type)
        is_granted = feature is None or session.user is None or feature in session.features
        if handler is None or not is_granted:
            raise Refused(ErrorCode.UNKNOWN_TYPE)
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

    def too_many_attempts(self, session: Session, type: int) -> Answer:
        """Return the answer to a password that the guard has held back for too long."""
        return self.refused(session, type, Refused(ErrorCode.TOO_MANY_ATTEMPTS))

    def _change(self, handler: Handler, session: Session, request: Any) -> Outcome:
        """Run the service for a change, unless the user has made too many."""
        user = request.username
        if not self._change_rate.try_acquire(user):
            wait = self._change_rate.seconds_until_room(user)
            raise Refused(ErrorCode.RATE_LIMITED, "You make too many changes: wait a moment.", retry_after=wait)
        return handler(session, request)


def _withheld_features(policy: Policy) -> frozenset[str]:
    """The features that the operator does not want."""
    withheld = set() if policy.has_directory else {"find"}
    if not policy.keeps_history:  # nothing can be read that is not there
        withheld.add("read")
    return frozenset(withheld)
