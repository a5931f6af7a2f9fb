"""Who is typing: TYPING.

A notice of it is worth something for a few seconds only. So nothing here is stored, answered or
sent again, and what fails is dropped without a word: a stranger must not learn from it whether
somebody exists, is online or is a friend.

A person is told if each of the two is told when the other comes and goes (`presence.py`), so what
decides there about friends decides here, too. The members of a group are told, unless there are too
many. Users at other nodes are told through the bus (`cluster/bus.py`), each by their own node.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from jelly.errors import ErrorCode, Refused
from jelly.groups import Group
from jelly.messages import Event, system
from jelly.outcomes import Answer, Outcome
from jelly.presence import Presence
from jelly.requests import Typing
from jelly.sessions import Session

log = logging.getLogger("jelly.typing")

FEATURE = "typing"
INTERVAL = 3.0
"""Seconds from one notice that a user is typing to the next one. What comes sooner is dropped."""
MAX_MEMBERS_TOLD = 100
"""At most this many members has a group in which it is told who is typing."""


class OtherNodes(Protocol):
    """What a node of a cluster knows and does (`cluster/node.py`)."""

    def elsewhere(self, users: Iterable[str]) -> Mapping[int, Sequence[str]]:
        """Return those of some users who are online at other nodes, by the number of the node."""

    def send_note(self, node: int, data: bytes) -> None:
        """Send something to another node, or lose it. Never wait, never raise an error."""


class TypingService:
    """Takes TYPING, and tells who may know it. Any thread may call it."""

    def __init__(self, presence: Presence, find_group: Callable[[str], Group]) -> None:
        """`find_group` returns the group of a name; it raises Refused if there is none."""
        self.nodes: OtherNodes | None = None
        """If the server is a node of a cluster."""
        self._presence = presence
        self._find_group = find_group

    def typing(self, session: Session, request: Typing) -> Outcome:
        """Tell a person, or the members of a group, that the user is typing; never answer."""
        user = session.user
        assert user is not None
        if (request.person is None) == (request.groupName is None):
            raise Refused(ErrorCode.MALFORMED_BODY, "The body must have either 'person' or 'groupName', and not both.")
        now = time.monotonic()
        if now < session.typing_at + INTERVAL:
            return Answer(None)
        session.typing_at = now
        if request.person is not None:
            if request.person != user and self._presence.is_shown(request.person, user):
                self._tell(user, "", [request.person])
        else:
            self._tell_group(user, request.groupName or "")
        return Answer(None)

    def _tell_group(self, user: str, name: str) -> None:
        try:
            members = self._find_group(name).members
        except Refused:
            return
        if user in members and len(members) <= MAX_MEMBERS_TOLD:
            self._tell(user, name, [member for member in members if member != user])

    def _tell(self, user: str, group: str, receivers: Sequence[str]) -> None:
        """Tell these users, wherever they are. `group`: empty if it is about a person."""
        self._tell_here(user, group, receivers)
        nodes = self.nodes
        if nodes is not None:
            for node, there in nodes.elsewhere(receivers).items():
                note = {"typing": user, "group": group, "to": there}
                nodes.send_note(node, json.dumps(note, ensure_ascii=False).encode())

    def take_note(self, data: bytes) -> None:
        """Tell the users here what another node has sent."""
        try:
            note = json.loads(data)
            user, group, receivers = str(note["typing"]), str(note["group"]), [str(name) for name in note["to"]]
        except (ValueError, LookupError, TypeError):
            log.debug("what came through the bus is no note of this version, and is ignored")
        else:
            self._tell_here(user, group, receivers)

    def _tell_here(self, user: str, group: str, receivers: Sequence[str]) -> None:
        presence = self._presence
        if group:
            presence.notifier.tell(receivers, system(Event.TYPING, user=user, group=group), FEATURE)
        else:
            watchers = [each for each in receivers if presence.is_shown(user, each)]
            presence.notifier.tell(watchers, system(Event.TYPING, user=user), FEATURE)
