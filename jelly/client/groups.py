"""Groups: their members and roles, and how one becomes a member."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from jelly.client.connection_manager import ConnectionManager
from jelly.client.contacts import FEATURE as CONTACTS
from jelly.client.contacts import parse_invitations
from jelly.client.values import nothing, text
from jelly.codec import Type

ADMIN = "admin"


@dataclass(frozen=True)
class Group:
    """A group that you are a member of."""

    name: str
    members: tuple[str, ...]
    """The names of the members, the owner first."""
    admins: tuple[str, ...] = ()
    """Those who may add members, and remove plain ones, as the owner may. Empty if the server knows
    no roles (an older one, or the original one)."""

    @property
    def owner(self) -> str:
        """The user who may do everything in the group: its creator, until they pass it on."""
        return self.members[0]

    @property
    def creator(self) -> str:
        """The same as `owner`, for programs that were written before groups could be passed on."""
        return self.members[0]


@dataclass(frozen=True)
class Invite:
    """The result of `JellyClient.invite`."""

    code: str = field(repr=False)
    """What others need to join (`JellyClient.join`), or to register. Give it to nobody else."""
    expires: int
    """Until when it is valid: milliseconds since 1970."""


class GroupOperations:
    """What a client does with groups."""

    _manager: ConnectionManager

    def create_group(self, group: str) -> "Future[None]":
        """Create a group. You are its owner and first member.

        Rejected with `group_exists`, `invalid_group_name`.

        >>> client.create_group("choir").result(timeout=5)
        """
        return self._manager.request(Type.CREATE_GROUP, {"groupName": group}, nothing)

    def disband_group(self, group: str) -> "Future[None]":
        """Disband a group that you own. Rejected with `no_such_group`, `not_group_creator`.

        >>> client.disband_group("team").result(timeout=5)
        """
        return self._manager.request(Type.DISBAND_GROUP, {"groupName": group}, nothing)

    def add_member(self, group: str, member: str) -> "Future[bool]":
        """Add a user to a group that you own, or are an admin of; or ask that user first.

        The result is True if the user is a member now, and False if the user was invited. (A client
        without the feature `contacts` is not told: the result is True.) `remove_member` withdraws
        an invitation. Rejected with `no_such_group`, `not_group_creator`, `no_such_user`,
        `already_member`, `not_accepted`, `limit_reached`.

        >>> client.add_member("team", "carol").result(timeout=5)
        True
        """
        values = {"groupName": group, "member": member}
        return self._manager.request(Type.ADD_MEMBER, values, lambda found: found.get("pending") is not True)

    def answer_group(self, group: str, accept: bool = True) -> "Future[None]":
        """Become a member of a group to which you are invited, or decline that.

        Rejected with `not_asked`, `limit_reached`; with `unknown_type` unless the server grants
        `contacts` to this client (`Receiver.on_invitation`).

        >>> client.answer_group("club2", accept=True).result(timeout=5)
        """
        values = {"groupName": group, "accept": accept}
        return self._manager.request(Type.ANSWER_GROUP, values, nothing, feature=CONTACTS)

    def invitations(self) -> "Future[dict[str, str]]":
        """List the groups to which you are invited, each with the user who invites you: at most
        100, the newest first. Rejected like `answer_group`.

        >>> client.invitations().result(timeout=5)
        {'club2': 'carol'}
        """
        return self._manager.request(Type.OWN_GROUPS, {}, parse_invitations, feature=CONTACTS, list_key="groups")

    def remove_member(self, group: str, member: str) -> "Future[None]":
        """Remove a member from a group that you own, or a plain member if you are an admin.

        (To leave a group, call `leave_group`.) Rejected with `no_such_group`, `not_group_creator`,
        `not_a_member`.

        >>> client.remove_member("team", "bob").result(timeout=5)
        """
        return self._manager.request(Type.REMOVE_MEMBER, {"groupName": group, "member": member}, nothing)

    def leave_group(self, group: str) -> "Future[None]":
        """Leave a group.

        Rejected with `not_a_member`; with `creator_cannot_leave` if you own it: pass it on first
        (`set_role`), or disband it.

        >>> client.leave_group("club").result(timeout=5)
        """
        return self.remove_member(group, self._manager.username or "")

    def set_role(self, group: str, member: str, role: str) -> "Future[None]":
        """Make a member of a group that you own an `admin`, a plain `member`, or the `owner`.

        Admins add members, and remove plain ones. There is one owner: with `owner` you pass the
        group on, stay in it as an admin, and may leave it then. As an admin you may make yourself a
        `member`. A member who has the role already keeps it.

        Rejected with `no_such_group`, `not_group_creator`, `not_a_member`; with
        `creator_cannot_leave` if you would take the role from yourself as the owner; with
        `limit_reached` if the new owner owns 100 groups; with `malformed_body` for another role;
        with `unknown_type` if the server knows no roles.

        >>> client.set_role("team", "bob", "admin").result(timeout=5)
        """
        values = {"groupName": group, "member": member, "role": role}
        return self._manager.request(Type.SET_ROLE, values, nothing, feature="roles")

    def invite(self, group: str | None = None, *, uses: int = 1, hours: int = 24) -> "Future[Invite]":
        """Make a code with which others join a group that you may add members to.

        Without `group` it is good for an account, where the server wants an invitation for one. It
        can be used `uses` times (at most 100), for `hours` (at most 720). Rejected with
        `no_such_group`, `not_group_creator`, `registration_closed`; with `limit_reached` if 20 of
        your invitations are valid; with `unknown_type` if the server has no invitations.

        >>> code = client.invite("team", uses=5).result(timeout=5).code
        """
        values = {"groupName": group, "uses": uses, "hours": hours}
        return self._manager.request(Type.INVITE, values, _invite, feature="invites")

    def join(self, code: str) -> "Future[str]":
        """Join the group of an invitation; the result is the name of the group.

        Rejected with `invalid_invite`, `already_member`, `limit_reached`.

        >>> client.join(code).result(timeout=5)
        'crew'
        """
        return self._manager.request(
            Type.JOIN, {"code": code}, lambda values: text(values["groupName"]), feature="invites"
        )

    def list_groups(self) -> "Future[dict[str, Group]]":
        """List the groups that you are a member of. The result maps each name to its `Group`.

        >>> client.list_groups().result(timeout=5)["team"].members
        ('alice', 'bob')
        """
        return self._manager.request(Type.OWN_GROUPS, {}, _groups, list_key="groups")


def _groups(values: Mapping[str, Any]) -> dict[str, Group]:
    roles = values.get("roles", {})
    return {
        name: Group(name, tuple(members), _admins_among(members, roles.get(name, {})))
        for name, members in values.get("groups", {}).items()
    }


def _admins_among(members: Iterable[str], roles: Mapping[str, object]) -> tuple[str, ...]:
    """Return those of the members who are admins, in their order.

    `roles`: what the server says of this group. Raises AttributeError if that is no object.
    """
    return tuple(member for member in members if roles.get(member) == ADMIN)


def _invite(values: Mapping[str, Any]) -> Invite:
    return Invite(str(values["code"]), int(values["expires"]))
