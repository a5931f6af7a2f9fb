"""The group cache: the members of the groups that people are talking in, so that a message needs no query.

A `threading.Timer` sweeps it every few minutes and forgets groups that were idle; their next message loads
them again. A change of membership is entered by the store thread after its commit and before the answer, so
the very next message sees it.
"""

import threading
import time
from collections.abc import Callable


class Group:
    """A group in memory. `members` is replaced as a whole, never changed, so readers need no lock."""

    __slots__ = ("creator", "members", "name", "used")

    def __init__(self, name: str, creator: str, members: tuple[str, ...], used: float) -> None:
        self.name = name
        self.creator = creator
        self.members = members
        self.used = used


class GroupCache:
    """Groups by name, loaded at need and evicted when idle.

    `check_interval` and `idle` are seconds. `start()` arms the sweeper, `stop()` disarms it and waits for it.
    """

    def __init__(self, check_interval: float, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._check_interval = check_interval
        self._idle = idle
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below; held for dictionary operations only
        self._groups: dict[str, Group] = {}
        self._changes = 0
        self._timer: threading.Timer | None = None
        self._stopped = False

    def get(self, name: str, load: Callable[[], tuple[str, list[str]] | None]) -> Group | None:
        """The group of a name; `load` is asked for (creator, members) if it is not in memory.

        None if there is no such group.
        """
        while True:
            with self._lock:
                group = self._groups.get(name)
                changes = self._changes
                if group is not None:
                    group.used = self._clock()
                    return group
            loaded = load()
            if loaded is None:
                return None
            creator, members = loaded
            with self._lock:
                # Had a membership changed while we read, we might keep the old members for ever: read again.
                if changes == self._changes:
                    group = Group(name, creator, tuple(members), self._clock())
                    return self._groups.setdefault(name, group)

    def set_members(self, name: str, members: tuple[str, ...]) -> None:
        """Enter a committed change of membership; no members at all means that the group is gone."""
        with self._lock:
            self._changes += 1
            group = self._groups.get(name)
            if group is None:
                return
            group.members = members
            if not members:
                del self._groups[name]

    def forget_all(self) -> None:
        """Load every group anew: a change may have been committed without our knowing."""
        with self._lock:
            self._changes += 1
            self._groups.clear()

    def sweep(self) -> int:
        """Forget the groups that were idle for too long; return how many."""
        with self._lock:
            limit = self._clock() - self._idle
            idle = [name for name, group in self._groups.items() if group.used <= limit]
            for name in idle:
                del self._groups[name]
            # A worker may hold a Group that leaves the cache here; a load begun before must not bring it back.
            self._changes += 1
        return len(idle)

    def __len__(self) -> int:
        return len(self._groups)

    def start(self) -> None:
        """Sweep every `check_interval` seconds from now on."""
        with self._lock:
            if self._stopped:
                return
            self._timer = threading.Timer(self._check_interval, self._on_timer)
            self._timer.name = "jelly-group-sweeper"
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Stop sweeping."""
        with self._lock:
            self._stopped = True
            timer = self._timer
        if timer is not None:
            timer.cancel()
            timer.join()

    def _on_timer(self) -> None:
        self.start()  # first: whatever happens to this sweep, there will be a next one
        self.sweep()
