"""Roles: what a member may do in a group, as the database says it.

Each group has one owner: whoever has created it, until they pass it on. The owner makes members
admins, who add and remove members. The rules are in `group_service.py`; here are the SQL and what
it finds. Everything that writes runs in the store's transaction.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from jelly.dao import Dao

OWNER_POSITION = 0
"""The position of the owner among the members."""
ADMIN = 1
"""The role of an admin in the table of members."""


class Role(StrEnum):
    """The values of the key `role`. Part of the protocol: never rename one."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


class GroupRoles(NamedTuple):
    """Who is in a group, and who of them may do what."""

    members: Sequence[str]
    """The owner first."""
    admins: Sequence[str] = ()
    """In the order of the members."""

    @property
    def owner(self) -> str:
        return self.members[0]

    def role_of(self, member: str) -> Role:
        """Return the role of a member."""
        if member == self.owner:
            return Role.OWNER
        return Role.ADMIN if member in self.admins else Role.MEMBER

    def may_manage(self, user: str) -> bool:
        """Whether a user may add members, and remove plain ones."""
        return user == self.owner or user in self.admins


def roles_in(members: Sequence[str], admins: Sequence[str]) -> dict[str, Role]:
    """Return the value of the key `roles`: the owner and the admins, each with the role."""
    return {**dict.fromkeys(members[:1], Role.OWNER), **dict.fromkeys(admins, Role.ADMIN)}


def role_at(position: int, role: int) -> Role:
    """Return the role that a row of the table of members stands for."""
    if position == OWNER_POSITION:
        return Role.OWNER
    return Role.ADMIN if role == ADMIN else Role.MEMBER


def read_group(dao: Dao, name: str) -> GroupRoles | None:
    """Return the members of a group and its admins; None if there is no such group."""
    rows = dao.connection.query("SELECT username, role FROM members WHERE group_name = ? ORDER BY position", (name,))
    if not rows:
        return None
    return GroupRoles([member for member, _ in rows], [member for member, role in rows if role == ADMIN])


def set_admin(dao: Dao, group: str, member: str, is_admin: bool) -> None:
    """Make a member an admin, or a plain member."""
    role = ADMIN if is_admin else 0
    dao.connection.change("UPDATE members SET role = ? WHERE group_name = ? AND username = ?", (role, group, member))


def pass_on(dao: Dao, group: str, owner: str, member: str) -> None:
    """Make a member the owner. The one who was it becomes an admin, and takes that member's place
    in the order.
    """
    change, find = dao.connection.change, "SELECT position FROM members WHERE group_name = ? AND username = ?"
    [(position,)] = dao.connection.query(find, (group, member))
    put = "UPDATE members SET position = ?, role = ? WHERE group_name = ? AND username = ?"
    change(put, (OWNER_POSITION, 0, group, member))
    change(put, (position, ADMIN, group, owner))
    change("UPDATE chat_groups SET creator = ? WHERE name = ?", (member, group))
