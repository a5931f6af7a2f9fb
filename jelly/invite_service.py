"""Invitations: INVITE, JOIN, and REGISTER with a code.

A code lets others join a group, or make an account where not everybody may. The database has only
its hash, as of a token.
"""

import hashlib
import secrets
from collections.abc import Callable

from jelly import account_dao, invitations, invite_dao
from jelly.account_service import AccountService, Entry
from jelly.codec import Type
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.group_notices import Change
from jelly.group_service import GroupChange, GroupService, announce_group, check_room
from jelly.invite_dao import Invite
from jelly.memberships import managed_group
from jelly.messages import response
from jelly.outcomes import Answer, Outcome, Write
from jelly.policy import Policy
from jelly.requests import CreateInvite, Join, Register
from jelly.roles import GroupRoles
from jelly.sessions import Session
from jelly.trusted_clock import TrustedClock

MAX_USES, MAX_HOURS = 100, 720
"""At most this often, and for so many hours, can an invitation be used."""
MAX_INVITES = 20
"""At most this many invitations of one user are valid."""
ALPHABET, CODE_LENGTH = "23456789abcdefghjkmnpqrstuvwxyz", 16
"""A code has 16 of these 31 characters, which nobody takes for one another: 79 bits."""
LONGEST_CODE = 64
"""At most this many characters are looked at of what somebody takes for a code."""


class InviteService:
    """The requests about invitations."""

    def __init__(
        self, policy: Policy, reading: Reading, clock: TrustedClock, groups: GroupService, accounts: AccountService
    ) -> None:
        self._policy = policy
        self._reading = reading
        self._clock = clock
        self._groups = groups
        self._accounts = accounts

    def invite(self, session: Session, request: CreateInvite) -> Outcome:
        """Make a code with which others join a group, or make an account."""
        username, uses, hours, group = request
        if not (1 <= uses <= MAX_USES and 1 <= hours <= MAX_HOURS):
            sentence = f"The 'uses' must be 1 to {MAX_USES}, and the 'hours' 1 to {MAX_HOURS}."
            raise Refused(ErrorCode.MALFORMED_BODY, sentence)
        if group is None and not self._policy.is_registration_open:
            raise Refused(ErrorCode.REGISTRATION_CLOSED)
        letters = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        code = "-".join(letters[start : start + 4] for start in range(0, CODE_LENGTH, 4))

        def in_transaction(dao: Dao) -> int:
            now = self._now()
            if group is not None:
                managed_group(dao, group, username)
            if invite_dao.count_of(dao, username, now) >= MAX_INVITES:
                raise Refused(ErrorCode.LIMIT_REACHED, f"You have {MAX_INVITES} invitations, the most possible.")
            expires = now + hours * 3_600_000
            invite_dao.add(dao, Invite(_hash(code), username, group or "", uses, expires))
            return expires

        return Write(
            Type.INVITE,
            in_transaction,
            lambda expires: Answer(response(Type.INVITE, {"code": code, "expires": expires})),
        )

    def join(self, session: Session, request: Join) -> Outcome:
        """Join the group of an invitation."""
        username, code = request

        def in_transaction(dao: Dao) -> tuple[str, GroupChange]:
            invite = self._find(dao, code)
            if not invite.group:
                raise Refused(ErrorCode.INVALID_INVITE, "This invitation is for a new account, not for a group.")
            group = self._group_to_join(dao, invite, username)
            invite_dao.use(dao, invite)
            return self._enter(dao, invite, group, username)

        def after_commit(joined: tuple[str, GroupChange]) -> Answer:
            self._groups.group_changed(*joined)
            return Answer(response(Type.JOIN, {"groupName": joined[0]}))

        return Write(Type.JOIN, in_transaction, after_commit)

    def register(self, session: Session, request: Register) -> Outcome:
        """Create an account, with an invitation where it is needed."""
        code = request.invite
        if code is None:
            if self._policy.needs_invite:
                raise Refused(ErrorCode.INVITE_NEEDED)
            return self._accounts.register(session, request)
        if self._policy.is_registration_open:
            with self._reading() as dao:
                self._find(dao, code)  # here, too: a password is not hashed for a code that was guessed

        def enter(dao: Dao) -> Callable[[], None]:
            invite = self._find(dao, code)
            group = self._group_to_join(dao, invite, request.username) if invite.group else None
            self._accounts.check_free(dao, request.username)  # from here on nothing is refused
            invite_dao.use(dao, invite)
            if group is None:
                return lambda: None
            joined = self._enter(dao, invite, group, request.username)
            return lambda: self._groups.group_changed(*joined)

        return self._accounts.register(session, request, Entry(enter))

    def _find(self, dao: Dao, code: str) -> Invite:
        """Return the invitation with a code. Raises Refused if it is not valid, or not any more."""
        invite = invite_dao.find(dao, _hash(code), self._now())
        if invite is None or not dao.has_user(invite.creator) or account_dao.is_disabled(dao, invite.creator):
            raise Refused(ErrorCode.INVALID_INVITE)
        return invite

    def _group_to_join(self, dao: Dao, invite: Invite, username: str) -> GroupRoles:
        """Return the group of an invitation. Raises Refused if a user cannot join it: also if who
        has invited may not add members any more.
        """
        try:
            group = managed_group(dao, invite.group, invite.creator)
        except Refused:
            raise Refused(ErrorCode.INVALID_INVITE) from None
        if username in group.members:
            raise Refused(ErrorCode.ALREADY_MEMBER)
        is_invited = invitations.inviter(dao, username, invite.group) is not None
        check_room(dao, invite.group, group, username, is_invited)
        return group

    def _enter(self, dao: Dao, invite: Invite, group: GroupRoles, username: str) -> tuple[str, GroupChange]:
        """Add a user to the group of an invitation; return what has changed."""
        invitations.remove(dao, username, invite.group)  # there may be one of the other kind
        dao.add_member(invite.group, username)
        now = GroupRoles((*group.members, username), group.admins)
        change = GroupChange(group.members, now, Change(invite.creator, username, is_added=True))
        announce_group(dao, invite.group, change)
        return invite.group, change

    def _now(self) -> int:
        return int(self._clock.latest() * 1000)


def _hash(code: str) -> str:
    """The hash of a code, however it was typed: in capitals, with or without hyphens."""
    letters = "".join(code[:LONGEST_CODE].lower().replace("-", " ").split())
    return hashlib.sha256(f"invite {letters}".encode()).hexdigest()
