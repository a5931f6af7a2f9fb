"""Groups: CREATE_GROUP, DISBAND_GROUP, ADD_MEMBER, ANSWER_GROUP, REMOVE_MEMBER, SET_ROLE,
OWN_GROUPS.

Who may do what is decided here, by the roles that are stored (`roles.py`). Messages to a group are
in `message_service.py`, what its members are told in `group_notices.py`, and the groups in memory
in `groups.py`. How a long list is read and cut is in `lists.py`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jelly import contacts_dao, invitations, invite_dao, lists, roles
from jelly.accounts import check_new_name
from jelly.codec import Type
from jelly.contact_notices import ContactNotices
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.group_notices import Change, GroupNotices, RoleChange
from jelly.groups import GroupCache
from jelly.memberships import load_group, managed_group, own_group
from jelly.messages import SUCCESS, response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, Outcome, Unfinished, Write
from jelly.policy import Policy
from jelly.requests import AddMember, AnswerGroup, CreateGroup, DisbandGroup, OwnGroups, RemoveMember, SetRole
from jelly.roles import GroupRoles, Role
from jelly.sessions import Session
from jelly.trusted_clock import TrustedClock

MAX_MEMBERS = 1000
"""At most this many members are in a group."""
MAX_OWN_GROUPS = 200
"""At most this many groups does one user own."""
MAX_GIVEN_GROUPS = 100
"""At most this many groups does a user own after one was passed on to them. They are not asked, so
others must not use up all that they may own."""
MAX_INVITED_A_DAY = 100
"""At most this many users somebody invites in a day (of UTC)."""
MAX_INVITATIONS = 100
"""At most this many open invitations a user is shown, the newest."""
MAX_GROUPS_JOINED = 1000
"""At most this many groups have a user as a member."""

NO_GROUP = GroupRoles(())
"""What there is before a group is created, and after it is disbanded."""


class GroupChange(NamedTuple):
    """What a request has changed in a group."""

    before: Sequence[str]
    """The members before it."""
    now: GroupRoles
    what: Change | RoleChange | None = None
    """None if the group is created or disbanded."""


class Invitation(NamedTuple):
    """`user` has asked `member` to become one of `group`."""

    user: str
    group: str
    member: str


class GroupService:
    """The requests about groups and their members."""

    def __init__(
        self,
        policy: Policy,
        group_notices: GroupNotices,
        contact_notices: ContactNotices,
        groups: GroupCache,
        reading: Reading,
        cut_log: lists.CutLog,
        clock: TrustedClock,
    ) -> None:
        self._policy = policy
        self._contact_notices = contact_notices
        self._clock = clock
        self._group_notices = group_notices
        self._groups = groups
        self._reading = reading
        self._cut_log = cut_log

    def create_group(self, session: Session, request: CreateGroup) -> Outcome:
        """Create a group. Its creator is its first member, and its owner."""
        username, name = request
        check_new_name(name, ErrorCode.INVALID_GROUP_NAME)

        def in_transaction(dao: Dao) -> GroupChange:
            if dao.is_group_name_taken(name):
                raise Refused(ErrorCode.GROUP_EXISTS)
            if dao.count_own_groups(username) >= MAX_OWN_GROUPS:
                raise Refused(ErrorCode.LIMIT_REACHED, f"You own {MAX_OWN_GROUPS} groups, the most possible.")
            dao.add_group(name, username)
            return GroupChange((), GroupRoles((username,)))

        return self._group_write(Type.CREATE_GROUP, name, in_transaction)

    def disband_group(self, session: Session, request: DisbandGroup) -> Outcome:
        """End a group and free its name. Messages in the inboxes of its members still arrive."""
        username, name = request

        def in_transaction(dao: Dao) -> GroupChange:
            group = own_group(dao, name, username)
            end_group(dao, name, group)
            return GroupChange(group.members, NO_GROUP)

        return self._group_write(Type.DISBAND_GROUP, name, in_transaction)

    def add_member(self, session: Session, request: AddMember) -> Outcome:
        """Add a user to a group that the sender of the request owns, or is an admin of; or ask that
        user first.
        """
        username, name, member = request
        is_asked = False  # in the last transaction that was tried

        def in_transaction(dao: Dao) -> GroupChange | Invitation | None:
            nonlocal is_asked
            group = managed_group(dao, name, username)
            found = contacts_dao.acquaintance(dao, member, username) if is_valid_name(member) else None
            if found is None:
                raise Refused(ErrorCode.NO_SUCH_USER)
            if member in group.members:
                raise Refused(ErrorCode.ALREADY_MEMBER)
            if found.has_blocked:
                raise Refused(ErrorCode.NOT_ACCEPTED)
            is_asked = contacts_dao.must_ask(found, self._policy.group_invitations)
            if is_asked and invitations.inviter(dao, member, name) is not None:
                return None
            check_room(dao, name, group, member)
            if is_asked:
                return self._invite(dao, username, name, member)
            return _join(dao, name, group, member, username)

        def answer() -> Answer:
            has_contacts = "contacts" in session.features
            return Answer(response(Type.ADD_MEMBER, {"pending": is_asked} if has_contacts else None))

        return self._group_write(Type.ADD_MEMBER, name, in_transaction, answer)

    def _invite(self, dao: Dao, username: str, name: str, member: str) -> "Invitation":
        """In a transaction: ask a user to become a member. Raises Refused beyond the limit."""
        now = int(self._clock.latest() * 1000)
        today = now // contacts_dao.DAY_MS
        invited_today = invitations.invited_on(dao, username, today)
        if invited_today >= MAX_INVITED_A_DAY:
            sentence = f"You have invited {MAX_INVITED_A_DAY} users today, the most possible."
            raise Refused(ErrorCode.LIMIT_REACHED, sentence)
        invitations.note_invited(dao, username, today, invited_today + 1)
        invitations.invite(dao, member, name, username, now)
        return Invitation(username, name, member)

    def answer_group(self, session: Session, request: AnswerGroup) -> Outcome:
        """Become a member of a group to which the user was invited, or decline that."""
        username, name, accepted = request

        def in_transaction(dao: Dao) -> GroupChange | None:
            inviter = invitations.inviter(dao, username, name) if is_valid_name(name) else None
            if inviter is None:
                raise Refused(ErrorCode.NOT_ASKED)
            if not accepted:
                invitations.remove(dao, username, name)
                return None
            group = load_group(dao, name)
            if username in group.members:  # in another way meanwhile
                invitations.remove(dao, username, name)
                return None
            check_room(dao, name, group, username, is_invited=True)
            return _join(dao, name, group, username, inviter)

        return self._group_write(Type.ANSWER_GROUP, name, in_transaction)

    def remove_member(self, session: Session, request: RemoveMember) -> Outcome:
        """Remove a member, or leave a group.

        The owner may remove all others, and an admin plain members. Each but the owner may leave.
        An invitation that has no answer is withdrawn, or declined.
        """
        username, name, member = request

        def in_transaction(dao: Dao) -> GroupChange | None:
            group = load_group(dao, name) if username == member else managed_group(dao, name, username)
            if member not in group.members:
                if is_valid_name(member) and invitations.inviter(dao, member, name) is not None:
                    invitations.remove(dao, member, name)
                    return None
                raise Refused(ErrorCode.NOT_A_MEMBER)
            if member == username == group.owner:
                raise Refused(ErrorCode.CREATOR_CANNOT_LEAVE)
            if username not in (member, group.owner) and group.may_manage(member):
                raise Refused(ErrorCode.NOT_GROUP_CREATOR, "Only the owner of the group may remove an admin.")
            dao.remove_member(name, member)
            if group.may_manage(member):
                invitations.remove_by(dao, name, member)
            now = GroupRoles(_without(member, group.members), _without(member, group.admins))
            return GroupChange(group.members, now, Change(username, member, is_added=False))

        return self._group_write(Type.REMOVE_MEMBER, name, in_transaction)

    def set_role(self, session: Session, request: SetRole) -> Outcome:
        """Give a member another role, or pass the group on. The owner may; an admin may step down.

        Who has the role already keeps it, and nobody is told.
        """
        username, name, member, wanted = request
        if wanted not in set(Role):
            raise Refused(ErrorCode.MALFORMED_BODY, "The 'role' must be owner, admin or member.")
        role = Role(wanted)

        def in_transaction(dao: Dao) -> GroupChange | None:
            steps_down = username == member and role is Role.MEMBER
            group = load_group(dao, name) if steps_down else own_group(dao, name, username)
            if member not in group.members:
                raise Refused(ErrorCode.NOT_A_MEMBER)
            if role is group.role_of(member):
                return None
            if member == group.owner:
                raise Refused(ErrorCode.CREATOR_CANNOT_LEAVE, "You own the group until you make another the owner.")
            if role is not Role.OWNER:
                roles.set_admin(dao, name, member, role is Role.ADMIN)
                if role is Role.MEMBER:
                    invitations.remove_by(dao, name, member)
            elif dao.count_own_groups(member) >= MAX_GIVEN_GROUPS:
                raise Refused(ErrorCode.LIMIT_REACHED, "The user owns too many groups to get another one.")
            else:
                roles.pass_on(dao, name, group.owner, member)
            return GroupChange(group.members, load_group(dao, name), RoleChange(username, member, role))

        return self._group_write(Type.SET_ROLE, name, in_transaction)

    def _group_write(
        self,
        type: Type,
        name: str,
        in_transaction: "Callable[[Dao], GroupChange | Invitation | None]",
        answer: Callable[[], Answer] | None = None,
    ) -> Write:
        """Return a write that updates the group cache and tells the members after its commit.

        `in_transaction` changes the database, and returns what has changed; None for nothing.
        `answer` is called after the commit; without it, the answer is an empty SUCCESS.
        """

        def write(dao: Dao) -> GroupChange | Invitation | None:
            change = in_transaction(dao)
            if isinstance(change, Invitation):
                dao.announce("contact", "invited", *change)
            elif change is not None:
                announce_group(dao, name, change)
            return change

        def after_commit(change: GroupChange | Invitation | None) -> Answer:
            if isinstance(change, Invitation):
                self._contact_notices.invited(*change)
            elif change is not None:
                self.group_changed(name, change)
            return Answer(SUCCESS[type]) if answer is None else answer()

        return Write(type, write, after_commit)

    def group_changed(self, name: str, change: GroupChange) -> None:
        """A committed change of a group: enter it into the cache, and tell the members who are
        online here.
        """
        self._groups.set_members(name, tuple(change.now.members))
        if not change.now.members:
            self._group_notices.disbanded(name, change.before)
        elif change.what is not None:
            self._group_notices.changed(name, change.now, change.what)

    def own_groups(self, session: Session, request: OwnGroups) -> Outcome:
        """Return the groups that the user is in, each with its members, the owner first.

        A client with the feature `pages` gets one page. Any other gets what fits into one frame.
        With the feature `roles`, the response says who are the owner and the admins; with
        `contacts`, to which groups the user is invited.
        """
        username, has_roles = request.username, "roles" in session.features
        more = {}
        if "contacts" in session.features and request.after is None:
            with self._reading() as dao:
                more["invited"] = invitations.invited(dao, username, MAX_INVITATIONS)
        if "pages" not in session.features:
            frame = lists.GroupsFrame(Type.OWN_GROUPS, username, has_roles, more)
            return Unfinished(lambda: self._add_groups(username, frame, lists.START))
        start = lists.START if request.after is None else lists.Place.parse(request.after)

        def read_page() -> Answer:
            with self._reading() as dao:
                groups, found, rest = lists.read_groups(dao, username, start, lists.piece_rows(session))
            values = {"username": username, "groups": groups, "roles": found if has_roles else None, **more}
            return Answer(response(Type.OWN_GROUPS, {**values, "more": rest is not None, "after": rest and str(rest)}))

        return Unfinished(read_page)

    def _add_groups(self, username: str, frame: lists.GroupsFrame, place: lists.Place) -> Outcome:
        """Append a piece of the list to the response, and return that if the list is complete."""
        with self._reading() as dao:
            piece = lists.read_groups(dao, username, place, lists.PIECE_ROWS)
        frame.add_groups(piece)
        rest = piece.rest
        if rest is not None and not frame.is_cut:
            return Unfinished(lambda: self._add_groups(username, frame, rest), lists.MAX_LIST)
        answer = Answer(frame.encode())
        if frame.is_cut:
            self._cut_log.report("groups", username, frame.count)
        return answer


def check_room(dao: Dao, name: str, group: GroupRoles, member: str, is_invited: bool = False) -> None:
    """Raise Refused if a group has no room for another member, or the user is in too many.

    Those who are invited have their places.
    """
    if len(group.members) + (0 if is_invited else invitations.count(dao, name)) >= MAX_MEMBERS:
        raise Refused(ErrorCode.LIMIT_REACHED, f"The group has {MAX_MEMBERS} members, the most possible.")
    if dao.count_groups_of(member) >= MAX_GROUPS_JOINED:
        raise Refused(ErrorCode.LIMIT_REACHED, f"The user is in {MAX_GROUPS_JOINED} groups, the most possible.")


def _join(dao: Dao, name: str, group: GroupRoles, member: str, adder: str) -> GroupChange:
    """In a transaction: make a user a member."""
    invitations.remove(dao, member, name)
    dao.add_member(name, member)
    now = GroupRoles((*group.members, member), group.admins)
    return GroupChange(group.members, now, Change(adder, member, is_added=True))


def end_group(dao: Dao, name: str, group: GroupRoles) -> None:
    """In a transaction: remove a group, and the ways into it. (Its name is free then, and those who
    were invited to this group must not come into another one.)
    """
    invitations.remove_of_group(dao, name)
    for manager in (group.owner, *group.admins):
        invite_dao.remove_of(dao, manager, name)
    dao.remove_group(name)


def announce_group(dao: Dao, name: str, change: GroupChange) -> None:
    """Tell the other nodes. (A node that knows no roles passes over what it does not know.)"""
    (members, admins), what = change.now, change.what
    if isinstance(what, RoleChange):
        dao.announce("role", name, members, what, admins)
    else:
        before = () if members else change.before
        dao.announce("group", name, before, members, () if what is None else (*what, admins))


def _without(member: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name != member)
