"""What modern clients are told of changes of their groups.

The first change of a group is told at once. Those that follow within a second are told together at
its end, or before the next message to the group: so nobody gets a message to members of whom they
have not been told. The notice says who changed what, and who is a member now. A client that was
granted `roles` hears of roles, too; any other gets what it would get if there were none.

Everything here runs in turns of the store (`store.py`), which never overlap.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from jelly.messages import Event, system
from jelly.notifier import CallAt, Notifier, RecentlyTold
from jelly.roles import GroupRoles, Role, roles_in

MAX_CHANGES = 100
"""At most this many changes are in one notice, the oldest. The members in it are right all the
same."""


class Change(NamedTuple):
    """Who changed what: `user` added or removed `member`."""

    user: str
    member: str
    is_added: bool


class RoleChange(NamedTuple):
    """Who gave whom which role: `user` gave it to `member`."""

    user: str
    member: str
    role: Role


class _Changes:
    """The oldest changes of a group, as a notice tells them."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        self.has_more = False

    def add(self, change: dict[str, str]) -> None:
        if len(self.told) < MAX_CHANGES:
            self.told.append(change)
        else:
            self.has_more = True


class _News:
    """What some users are told of a group."""

    def __init__(self) -> None:
        self.all = _Changes()
        self.of_members = _Changes()  # for clients that know no roles
        self.is_passed_on = False
        self.group = GroupRoles(())

    def add(self, group: GroupRoles, change: Change | RoleChange) -> None:
        self.group = group
        if isinstance(change, RoleChange):
            self.all.add({"user": change.user, "member": change.member, "role": change.role})
            self.is_passed_on |= change.role is Role.OWNER
            return
        told = {"user": change.user, "added" if change.is_added else "removed": change.member}
        self.all.add(told)
        self.of_members.add(told)


class _Untold:
    """The changes of a group that wait."""

    def __init__(self) -> None:
        self.of_members = _News()
        self.of_others = _News()
        """What those are told who are no members any more: of what came after the first of them has
        gone, only who else has gone."""
        self.others: dict[str, None] = {}  # those, in order

    def add(self, group: GroupRoles, change: Change | RoleChange) -> None:
        self.of_members.add(group, change)
        is_removal = isinstance(change, Change) and not change.is_added
        if not self.others:
            self.of_others.add(group, change)
        elif is_removal:
            members, admins = self.of_others.group
            left = GroupRoles(_without(change.member, members), _without(change.member, admins))
            self.of_others.add(left, change)
        if is_removal:
            self.others[change.member] = None
        else:
            self.others.pop(change.member, None)


class GroupNotices:
    """Tells the members of groups what has changed."""

    def __init__(self, notifier: Notifier, call_at: CallAt, clock: Callable[[], float] = time.monotonic) -> None:
        """`call_at` must call a function at a time, in a turn of the store."""
        self._notifier = notifier
        self._call_at = call_at
        self._recent = RecentlyTold(clock)
        self.untold: dict[str, _Untold] = {}
        """For each group with changes that wait: these."""

    def changed(self, group: str, now: GroupRoles, change: Change | RoleChange) -> None:
        """A member was added or removed, or has another role."""
        untold = self.untold.get(group)
        if untold is not None:
            untold.add(now, change)
            return
        untold = self.untold[group] = _Untold()
        untold.add(now, change)
        wait_until = self._recent.wait_until(group)
        if wait_until is None:
            self._tell(group)
        else:
            self._call_at(wait_until, partial(self._tell_if, group, untold))

    def disbanded(self, group: str, members: Sequence[str]) -> None:
        """A group was disbanded: tell its last members, and those whose removal waits."""
        untold = self.untold.pop(group, None)
        users = dict.fromkeys([*members, *(untold.others if untold else ())])
        self._notifier.tell(users, system(Event.GROUP_DISBANDED, group=group))

    def tell_before(self, message: Any, receivers: Sequence[str]) -> None:  # noqa: ARG002 - all members are told
        """A message is about to be pushed: if it goes to a group, tell first what has changed."""
        if message.is_group and message.receiver in self.untold:
            self._tell(message.receiver)

    def _tell_if(self, group: str, untold: _Untold) -> None:
        if self.untold.get(group) is untold:  # else it was told before a message, or disbanded
            self._tell(group)

    def _tell(self, group: str) -> None:
        untold = self.untold.pop(group)
        self._recent.note(group)
        self._tell_users(untold.of_members.group.members, group, untold.of_members)
        if untold.others:
            self._tell_users(list(untold.others), group, untold.of_others)

    def _tell_users(self, users: Sequence[str], group: str, news: _News) -> None:
        members, admins = news.group
        frame = _group_changed(group, members, news.all, roles=roles_in(members, admins))
        self._notifier.tell(users, frame, granted="roles")
        if news.of_members.told or news.is_passed_on:  # in the latter case, the members have another order
            frame = _group_changed(group, members, news.of_members)
            self._notifier.tell(users, frame, missing="roles")


def _without(member: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name != member)


def _group_changed(group: str, members: Sequence[str], changes: _Changes, **values: Any) -> bytes:
    if changes.has_more:
        values["more"] = True
    return system(Event.GROUP_CHANGED, group=group, members=members, changes=changes.told, **values)
