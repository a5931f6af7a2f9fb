"""Memberships: who belongs to a group, and what that allows, as the database says it.

`group_service.py` and `message_service.py` use this, within a transaction or with a Dao to read.
What the members of a group are told is in `group_notices.py`.
"""

from jelly.dao import Dao
from jelly.errors import ErrorCode, Refused
from jelly.names import is_valid_name


def load_group(dao: Dao, name: str) -> tuple[str, list[str]]:
    """Return the creator and the members of a group. Raises Refused if there is no such group."""
    group = dao.group(name) if is_valid_name(name) else None
    if group is None:
        raise Refused(ErrorCode.NO_SUCH_GROUP)
    return group


def members_of_own_group(dao: Dao, name: str, username: str) -> list[str]:
    """Return the members of a group. Raises Refused if `username` did not create it."""
    creator, members = load_group(dao, name)
    if creator != username:
        raise Refused(ErrorCode.NOT_GROUP_CREATOR)
    return members


def member_since(dao: Dao, group: str, username: str) -> int:
    """Return the first message id that a member may read. Raises Refused for anybody else."""
    load_group(dao, group)
    since = dao.member_since(group, username)
    if since is None:
        raise Refused(ErrorCode.NOT_A_MEMBER, "Only members may read the messages of the group.")
    return since
