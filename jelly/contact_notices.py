"""What modern clients are told of friend requests and the answers to them, and of who is hidden.

Everything here runs in turns of the store (`store.py`), right after the commit; on a node also for
what another node has committed. Only clients with the feature `contacts` are told. Those who are
away find open requests in ALL_FRIENDS. A block is told to nobody: the blocker goes offline.
"""

from jelly.blocks import Blocks
from jelly.messages import Event, system
from jelly.notifier import Notifier
from jelly.presence import Presence

FEATURE = "contacts"


class ContactNotices:
    """Tells those who are online here."""

    def __init__(self, notifier: Notifier, presence: Presence, blocks: Blocks) -> None:
        self._notifier = notifier
        self._presence = presence
        self._blocks = blocks

    def changed(self, what: str, *values: object) -> None:
        """Tell what `announce` has told the other nodes."""
        if what == "asked":
            self.asked(str(values[0]), str(values[1]))
        elif what == "answered":
            self.answered(str(values[0]), str(values[1]), bool(values[2]), bool(values[3]))
        elif what == "invited":
            self.invited(*map(str, values))
        elif what == "blocked":
            self.blocked(str(values[0]), str(values[1]), bool(values[2]))

    def asked(self, user: str, friend: str) -> None:
        """`user` has asked to have `friend` on the friend list: tell `friend`."""
        self._notifier.tell([friend], system(Event.FRIEND_REQUEST, friend=user), FEATURE)

    def answered(self, user: str, friend: str, accepted: bool, is_shown: bool) -> None:
        """`friend` has answered: tell `user`, who from now on hears when `friend` is online, if
        that is shown.
        """
        self._notifier.tell([user], system(Event.FRIEND_ANSWER, friend=friend, accepted=accepted), FEATURE)
        if is_shown:
            self._presence.friend_accepted(user, friend)

    def invited(self, user: str, group: str, member: str) -> None:
        """`user` has asked `member` to become one of a group: tell `member`."""
        self._notifier.tell([member], system(Event.GROUP_INVITATION, group=group, user=user), FEATURE)

    def blocked(self, user: str, person: str, is_shown: bool) -> None:
        """`user` has blocked `person`, or ended that: `person` sees the user as offline, or as
        before. Nobody is told why.
        """
        self._blocks.blockers.add(user)
        if is_shown:
            self._presence.friend_accepted(person, user)
        else:
            self._presence.friend_hidden(person, user)
