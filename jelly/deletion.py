"""What goes after an account was deleted: its places in groups, and its rows in other tables.

That may be much, so it goes in slices. Each is a write of its own for the store, so that others are
served in between. The thread of the operator's commands asks for them (`operator_commands.py`).
"""

import time

from jelly import account_dao, roles
from jelly.dao import Dao
from jelly.group_notices import Change, RoleChange
from jelly.group_service import NO_GROUP, GroupChange, GroupService, announce_group, end_group
from jelly.memberships import load_group
from jelly.outcomes import Answer, Write
from jelly.roles import GroupRoles, Role

PURGE_DELAY = 10.0
"""Seconds after a deletion until the rest goes: what was under way to the user is stored then."""
GROUPS_AT_ONCE = 20
"""How many groups a slice leaves at most."""
ROWS_AT_ONCE = 500
"""How many rows of a table go in a slice at most."""


class Deletions:
    """Makes the writes that remove the rest of deleted accounts."""

    def __init__(self, groups: GroupService) -> None:
        self._groups = groups

    def next_user(self, dao: Dao) -> str | None:
        """Return a deleted user of whom something may be left; None if there is nobody."""
        return account_dao.unpurged(dao, int((time.time() - PURGE_DELAY) * 1000))

    def slice_of(self, username: str) -> Write:
        """Return the write of the next slice of a deleted user."""

        def in_transaction(dao: Dao) -> list[tuple[str, GroupChange]]:
            groups = dao.group_names(username, "", GROUPS_AT_ONCE)
            changes = [(name, change) for name in groups for change in _leave(dao, name, username)]
            if not changes and not account_dao.purge_slice(dao, username, ROWS_AT_ONCE):
                account_dao.note_purged(dao, username)
            for name, change in changes:
                announce_group(dao, name, change)
            return changes

        def after_commit(changes: list[tuple[str, GroupChange]]) -> Answer:
            for name, change in changes:
                self._groups.group_changed(name, change)
            return Answer(None)

        return Write(0, in_transaction, after_commit)


def _leave(dao: Dao, name: str, username: str) -> list[GroupChange]:
    """Take a user out of a group; return what has changed. A group of the user's own goes to its
    first admin, else to its oldest member; without any, it is disbanded.
    """
    group = load_group(dao, name)
    if len(group.members) == 1:
        end_group(dao, name, group)
        return [GroupChange(group.members, NO_GROUP)]
    changes = []
    if username == group.owner:
        heir = group.admins[0] if group.admins else group.members[1]
        roles.pass_on(dao, name, username, heir)
        members, group = group.members, load_group(dao, name)
        changes.append(GroupChange(members, group, RoleChange(username, heir, Role.OWNER)))
    dao.remove_member(name, username)
    now = GroupRoles(
        tuple(member for member in group.members if member != username),
        tuple(admin for admin in group.admins if admin != username),
    )
    return [*changes, GroupChange(group.members, now, Change(username, username, is_added=False))]
