"""The registry: which user is online at which node.

It is a copy in memory of the table `sessions`, which follows the events (`events.py`): so all nodes
have the same registry once they have applied the same events. The thread that has the store's turn
changes it; any thread may look.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Place(NamedTuple):
    """Where a user is online."""

    node: int
    epoch: int
    """The number of the event of the login."""


class Registry:
    """The users who are online, and where."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self.get = self._places.get
        """The place of a user, None while the user is offline. (It is called for each receiver of
        each message, so it is the dictionary's own method.)"""

    def load(self, places: Iterable[tuple[str, int, int]]) -> None:
        """Forget everything, and begin with these: (user, node, epoch)."""
        self._places.clear()
        self._places.update((user, Place(node, epoch)) for user, node, epoch in places)

    def enter(self, user: str, place: Place) -> None:
        """A user has logged in."""
        self._places[user] = place

    def leave(self, user: str, epoch: int) -> bool:
        """The session that began with this event has ended. Return whether the user is offline now:
        not if a newer session has begun.
        """
        place = self._places.get(user)
        if place is None or place.epoch != epoch:
            return False
        del self._places[user]
        return True

    def remove_node(self, node: int) -> list[str]:
        """A node is gone; return its users, who are offline now."""
        gone = self.users_of(node)
        for user in gone:
            del self._places[user]
        return gone

    def users_of(self, node: int) -> list[str]:
        """The users who are online at a node."""
        return [user for user, place in list(self._places.items()) if place.node == node]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._places))
