"""Memberships: who belongs to a group, and what that allows, as the database says it.

`group_service.py` and `message_service.py` use this, within a transaction or with a Dao to read.
The roles of members are in `roles.py`. What the members of a group are told is in
`group_notices.py`.
"""

from jelly.dao import Dao
from jelly.errors import ErrorCode, Refused
from jelly.names import is_valid_name
from jelly.roles import GroupRoles, read_group


def load_group(dao: Dao, name: str) -> GroupRoles:
    """Return the members of a group and its admins. Raises Refused if there is no such group."""
    group = read_group(dao, name) if is_valid_name(name) else None
    if group is None:
        raise Refused(ErrorCode.NO_SUCH_GROUP)
    return group


def own_group(dao: Dao, name: str, username: str) -> GroupRoles:
    """Return a group that a user owns. Raises Refused if it is another's, or does not exist."""
    group = load_group(dao, name)
    if group.owner != username:
        raise Refused(ErrorCode.NOT_GROUP_CREATOR)
    return group


def managed_group(dao: Dao, name: str, username: str) -> GroupRoles:
    """Return a group that a user owns, or is an admin of. Raises Refused for any other."""
    group = load_group(dao, name)
    if not group.may_manage(username):
        raise Refused(ErrorCode.NOT_GROUP_CREATOR, "Only the owner of the group and its admins may do this.")
    return group


def member_since(dao: Dao, group: str, username: str) -> int:
    """Return the first message id that a member may read. Raises Refused for anybody else."""
    load_group(dao, group)
    since = dao.member_since(group, username)
    if since is None:
        raise Refused(ErrorCode.NOT_A_MEMBER, "Only members may read the messages of the group.")
    return since
