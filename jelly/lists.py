"""The lists of friends and groups: read in pieces, answered in pages.

A user may be in 1,000 groups of 1,000 members. To read and encode such a list at once would take
much memory, and keep the interpreter from everybody else for seconds. So one query reads at most
PIECE_ROWS names.

A client with the feature `pages` gets one piece, and asks for the next. Any other client gets the
whole list, as far as it fits into MAX_LIST. It is put together here, one piece a turn of the
client's lane, so that others are served in between.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring as quote
from typing import NamedTuple, Self

from jelly.codec import HEADER, MAGIC, Sign, Status
from jelly.dao import Dao
from jelly.errors import ErrorCode, Refused
from jelly.roles import Role, role_at
from jelly.sessions import Session
from jelly.strict_json import to_json

log = logging.getLogger("jelly.lists")

MAX_FRIENDS = 1000
"""At most this many users are on a friend list."""
PIECE_ROWS = 1000
"""At most this many names are read at a time."""
SHORT_PIECE_ROWS = 100
"""The same while memory for answers is short."""
GROUPS_AT_ONCE = 100
"""At most this many groups are in a page, and in the parameters of one query."""
MAX_LIST = 1024 * 1024
"""At most this many bytes are in the frame of a list."""
ROLES = b'},"roles":{'
"""What stands between the groups and their roles in a frame."""
REPORT_INTERVAL = 60.0
"""Seconds until the log says again that a list was cut."""


class Place(NamedTuple):
    """Where the rest of a list of groups begins: with this group, behind this member.

    `position` is the number that the member has in its group.
    """

    group: str = ""
    position: int = -1

    def __str__(self) -> str:
        """The place as a client sees it, who sends it back."""
        return f"{self.position} {self.group}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a place that a client has sent back. Raises Refused: `malformed_body`."""
        number, _, group = text.partition(" ")
        try:
            return cls(group, max(-1, min(int(number[:20]), 2**62)))
        except ValueError:
            raise Refused(ErrorCode.MALFORMED_BODY, "The value 'after' must be one that the server has sent.") from None


START = Place()


def piece_rows(session: Session) -> int:
    """At most this many names are in a page for a session now."""
    return SHORT_PIECE_ROWS if session.transport.is_memory_short else PIECE_ROWS


def read_friends(dao: Dao, username: str, after: str, rows: int) -> tuple[list[str], str | None]:
    """Return the names behind `after`, at most `rows`, and the last one if there are more."""
    names = dao.friends(username, after, rows + 1)
    return names[:rows], (names[rows - 1] if len(names) > rows else None)


class GroupsPiece(NamedTuple):
    """A part of a list of groups."""

    groups: dict[str, list[str]]
    """The members of each group, in their order."""
    roles: dict[str, dict[str, Role]]
    """Of each group: which of these members are the owner or an admin."""
    rest: Place | None
    """The place behind it; None if there are no more."""


def read_groups(dao: Dao, username: str, place: Place, rows: int) -> GroupsPiece:
    """Return groups from a place on, with their members.

    It reads about `rows` names: a group counts as one, and each member. So the first group may lack
    its first members, and the last group its last ones.
    """
    names = dao.group_names(username, place.group, GROUPS_AT_ONCE + 1)
    behind = names[GROUPS_AT_ONCE:]
    names = names[:GROUPS_AT_ONCE]
    position = place.position if names[:1] == [place.group] else START.position
    found: dict[str, list[str]] = {}
    roles: dict[str, dict[str, Role]] = {}
    count = 1  # the groups of one query: few, because one may fill the piece
    while names:
        members = dao.members_of(names[:count], position, rows + 1)
        for group, member, member_position, number in members[:rows]:
            found.setdefault(group, []).append(member)
            of_group = roles.setdefault(group, {})
            if (role := role_at(member_position, number)) is not Role.MEMBER:
                of_group[member] = role
        if len(members) > rows:
            last_group, _, last_position, _ = members[rows - 1]
            return GroupsPiece(found, roles, Place(last_group, last_position))
        rows -= len(members) + count
        names, position, count = names[count:], START.position, 4 * count
        if rows <= 0:
            break
    rest = names or behind
    return GroupsPiece(found, roles, Place(rest[0]) if rest else None)


class ListFrame:
    """The response to a client without pages, put together piece by piece.

    Raises nothing when it is full: then it is cut.
    """

    def __init__(self, type: int, username: str, key: str, more: Mapping[str, object] | None = None) -> None:
        """`more`: what stands behind the list, and is never cut."""
        self._type = type
        parts = [f",{quote(name)}:{to_json(value)}" for name, value in (more or {}).items()]
        self._end = f"}}{''.join(parts)}}}".encode()
        # One buffer that grows, not many parts: when lists of many clients are made at the same
        # time, the memory of the parts would stay with the process.
        self._frame = bytearray(HEADER.size)
        self._frame += f'{{"username":{quote(username)},"{key}":{{'.encode()
        self.count = 0
        """How many entries it has."""
        self.is_cut = False
        """Whether an entry did not fit. Then nothing behind it comes."""

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return MAX_LIST - len(self._frame) - len(self._end)

    def add(self, entries: Iterable[str]) -> None:
        """Append entries, each in JSON: as many as fit."""
        for entry in entries:
            data = f",{entry}".encode() if self.count else entry.encode()
            if self.is_cut or len(data) > self.room:
                self.is_cut = True
                return
            self._frame += data
            self.count += 1

    def encode(self) -> bytes:
        """Return the frame, and keep nothing."""
        self._frame += self._end
        HEADER.pack_into(
            self._frame, 0, MAGIC, Sign.RESPONSE, self._type, Status.SUCCESS, len(self._frame) - HEADER.size
        )
        frame = bytes(self._frame)
        self._frame.clear()
        return frame


class GroupsFrame(ListFrame):
    """The response with a list of groups. A group comes whole or not at all."""

    def __init__(
        self, type: int, username: str, has_roles: bool = False, more: Mapping[str, object] | None = None
    ) -> None:
        """`has_roles`: whether it says who are the owners and the admins."""
        super().__init__(type, username, "groups", more)
        self._has_roles = has_roles
        self._roles = bytearray()  # what stands in the key `roles`
        self._open: tuple[str, list[str]] | None = None  # a group whose last members may be missing
        self._open_roles: dict[str, Role] = {}

    @property
    def room(self) -> int:
        return super().room - (len(ROLES) + len(self._roles) if self._has_roles else 0)

    def add_groups(self, piece: GroupsPiece) -> None:
        """Append what `read_groups` has found. Its first group may go on with the last one."""
        for name, members in piece.groups.items():
            if self._open is not None and self._open[0] == name:
                self._open[1].extend(members)
            else:
                self._close_group()
                self._open = name, members
            self._open_roles.update(piece.roles[name])
        if self._open is not None and sum(map(len, self._open[1])) > self.room:
            self._close_group()  # it does not fit: read no more of it

    def encode(self) -> bytes:
        self._close_group()
        if self._has_roles:
            self._frame += ROLES + self._roles
        return super().encode()

    def _close_group(self) -> None:
        if self._open is None:
            return
        name, members = self._open
        size_before = len(self._roles)
        if self._has_roles:  # first, so that there is room for both or for neither
            roles = ",".join(f"{quote(member)}:{quote(role)}" for member, role in self._open_roles.items())
            self._roles += f"{',' if self._roles else ''}{quote(name)}:{{{roles}}}".encode()
        self.add([f"{quote(name)}:[{','.join(map(quote, members))}]"])
        if self.is_cut:
            del self._roles[size_before:]
        self._open = None
        self._open_roles.clear()


def friend_entries(friends: Sequence[str], is_online: Iterable[bool]) -> list[str]:
    """Return the entries of a list of friends, in JSON."""
    return [f"{quote(name)}:{'true' if online else 'false'}" for name, online in zip(friends, is_online, strict=True)]


class CutLog:
    """Says in the log that a list was cut: at most once a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reported_at = float("-inf")

    def report(self, what: str, username: str, count: int) -> None:
        """The list of `what` of a user was cut behind its first `count` entries."""
        now = time.monotonic()
        with self._lock:
            if now < self._reported_at + REPORT_INTERVAL:
                return
            self._reported_at = now
        log.warning(
            "the %s of %s do not fit into one answer, and the client takes no pages: it got the first %s",
            what,
            username,
            f"{count:,}",
        )
