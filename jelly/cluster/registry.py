"""The registry: which user is online at which node, and on which device.

It is a copy in memory of the table `sessions`, which follows the events (`events.py`): so all nodes
have the same registry once they have applied the same events. The thread that has the store's turn
changes it; any thread may look.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jelly.sessions import Device


class Place(NamedTuple):
    """Where a user is online."""

    node: int
    epoch: int
    """The number of the event of the login."""
    device: str = ""


class Registry:
    """The users who are online, and where."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Place, ...]] = {}
        self.of = self._places.get
        """The places of a user, nearly always one. Call it with () as the default, for those who
        are offline. (It is called for each receiver of each message, so it is the dictionary's own
        method.)"""

    def load(self, places: Iterable[tuple[str, int, int, str]]) -> None:
        """Forget everything, and begin with these: (user, node, epoch, device)."""
        self._places.clear()
        for user, node, epoch, device in places:
            self.enter(user, Place(node, epoch, device))

    def on(self, device: Device) -> Place | None:
        """Where a device is online; None while it is offline."""
        for place in self._places.get(device.user, ()):
            if place.device == device.name:
                return place
        return None

    def enter(self, user: str, place: Place) -> None:
        """A user has logged in."""
        others = (each for each in self._places.get(user, ()) if each.device != place.device)
        self._places[user] = (*others, place)

    def leave(self, user: str, epoch: int) -> None:
        """The session that began with this event has ended. (A newer one may have begun.)"""
        rest = tuple(place for place in self._places.get(user, ()) if place.epoch != epoch)
        if rest:
            self._places[user] = rest
        else:
            self._places.pop(user, None)

    def remove_node(self, node: int) -> list[str]:
        """A node is gone; return the users who were there."""
        gone = self.at(node)
        for user, place in gone:
            self.leave(user, place.epoch)
        return [user for user, _ in gone]

    def at(self, node: int) -> list[tuple[str, Place]]:
        """The users who are online at a node, each with the place there."""
        return [(user, place) for user, places in list(self._places.items()) for place in places if place.node == node]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._places))
