"""Groups: CREATE_GROUP, DISBAND_GROUP, ADD_MEMBER, REMOVE_MEMBER, OWN_GROUPS.

Messages to a group are in `message_service.py`, what its members are told in `group_notices.py`,
and the groups in memory in `groups.py`. How a long list is read and cut is in `lists.py`.
"""

from collections.abc import Callable, Sequence

from jelly import lists
from jelly.accounts import check_new_name
from jelly.codec import Type
from jelly.dao import Dao, Reading
from jelly.errors import ErrorCode, Refused
from jelly.group_notices import Change, GroupNotices
from jelly.groups import GroupCache
from jelly.memberships import load_group, members_of_own_group
from jelly.messages import SUCCESS, AddMember, CreateGroup, DisbandGroup, OwnGroups, RemoveMember, response
from jelly.names import is_valid_name
from jelly.outcomes import Answer, Outcome, Unfinished, Write
from jelly.sessions import Session

MAX_MEMBERS = 1000
"""At most this many members are in a group."""
MAX_GROUPS_CREATED = 200
"""At most this many groups exist that one user has created."""
MAX_GROUPS_JOINED = 1000
"""At most this many groups have a user as a member."""

MemberChange = tuple[Sequence[str], tuple[str, ...]]
"""The members of a group before and after a change. A group without members does not exist."""


class GroupService:
    """The requests about groups and their members."""

    def __init__(
        self, group_notices: GroupNotices, groups: GroupCache, reading: Reading, cut_log: lists.CutLog
    ) -> None:
        self._group_notices = group_notices
        self._groups = groups
        self._reading = reading
        self._cut_log = cut_log

    def create_group(self, session: Session, request: CreateGroup) -> Outcome:
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

    def disband_group(self, session: Session, request: DisbandGroup) -> Outcome:
        """End a group and free its name. Messages in the inboxes of its members still arrive."""
        username, name = request

        def in_transaction(dao: Dao) -> MemberChange:
            members = members_of_own_group(dao, name, username)
            dao.remove_group(name)
            return members, ()

        return self._membership_write(Type.DISBAND_GROUP, name, in_transaction)

    def add_member(self, session: Session, request: AddMember) -> Outcome:
        """Add a user to a group that the sender of the request has created."""
        username, name, member = request

        def in_transaction(dao: Dao) -> MemberChange:
            members = members_of_own_group(dao, name, username)
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

    def remove_member(self, session: Session, request: RemoveMember) -> Outcome:
        """Remove a member (the creator may), or leave a group (each other member may)."""
        username, name, member = request

        def in_transaction(dao: Dao) -> MemberChange:
            creator, members = load_group(dao, name)
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

    def _membership_write(
        self, type: Type, name: str, in_transaction: Callable[[Dao], MemberChange], change: Change | None = None
    ) -> Write:
        """Return a write that updates the group cache and tells the members after its commit.

        `in_transaction` changes the database, and returns the members before and after the change.
        `change`: the one who is added or removed; None if the group is created or disbanded.
        """

        def write(dao: Dao) -> MemberChange:
            before, now = in_transaction(dao)
            dao.announce("group", name, () if now else before, now, change or ())
            return before, now

        def after_commit(members: MemberChange) -> Answer:
            self.members_changed(name, *members, change)
            return Answer(SUCCESS[type])

        return Write(type, write, after_commit)

    def members_changed(self, name: str, before: Sequence[str], now: Sequence[str], change: Change | None) -> None:
        """A committed change of a group: enter it into the cache, and tell the members who are
        online here.
        """
        self._groups.set_members(name, tuple(now))
        if not now:
            self._group_notices.disbanded(name, before)
        elif change is not None:
            self._group_notices.members_changed(name, tuple(now), change)

    def own_groups(self, session: Session, request: OwnGroups) -> Outcome:
        """Return the groups that the user is in, each with its members, the creator first.

        A client with the feature `pages` gets one page. Any other gets what fits into one frame.
        """
        username = request.username
        if "pages" not in session.features:
            frame = lists.GroupsFrame(Type.OWN_GROUPS, username)
            return Unfinished(lambda: self._add_groups(username, frame, lists.START))
        start = lists.START if request.after is None else lists.Place.parse(request.after)

        def read_page() -> Answer:
            with self._reading() as dao:
                groups, rest = lists.read_groups(dao, username, start, lists.piece_rows(session))
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
