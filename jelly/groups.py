"""The group cache: the members of the groups in use, so that a group message needs no query.

A `threading.Timer` sweeps it every few minutes and forgets idle groups, and the cache holds a
limited number of members; the next message to a forgotten group loads it again. The store enters a
change of membership after its commit and before the answer, so the very next message sees it.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from jelly.errors import log_failure

log = logging.getLogger("jelly.groups")

MAX_MEMBERS_IN_MEMORY = 500_000
"""At most this many members, of all groups together, are kept (less than 50 MB).

Beyond that the least recently used group is evicted.
"""
THREAD_PAUSE = 1.0
"""Seconds until the next timer is started again, after the system had no thread for it."""


class Group:
    """A group in memory. `members` is replaced as a whole and never changed, so readers need no
    lock.
    """

    __slots__ = ("__weakref__", "is_forgotten", "members", "used")

    def __init__(self, members: tuple[str, ...], used: float = 0.0) -> None:
        self.members = members
        self.used = used
        """When it was used last, in seconds of the cache's clock."""
        self.is_forgotten = False
        """Whether only the database knows the members: a message to it was under way at
        `forget_all`."""


class GroupCache:
    """Groups by name, loaded at need, and evicted when they are idle or too many.

    `check_interval` and `idle` are seconds, `most` is a number of members. `start()` arms the
    sweeper, `stop()` disarms it and waits for it.
    """

    def __init__(
        self,
        check_interval: float,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
        most: int = MAX_MEMBERS_IN_MEMORY,
    ) -> None:
        self._check_interval = check_interval
        self._idle = idle
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()  # guards everything below; held for dictionary operations only
        self._groups: OrderedDict[str, Group] = OrderedDict()  # the least recently used first
        self._size = 0  # members of all of them
        # These, and the groups that were evicted while a message to them was under way: that
        # message must see every change, too. (A group leaves this dictionary by itself, on the
        # thread that used it last and without the lock. The dictionary's own lookups allow for
        # that.)
        self._alive: WeakValueDictionary[str, Group] = WeakValueDictionary()
        self._changes = 0
        self._timer: threading.Timer | None = None
        self._stopped = False

    def get(self, name: str, load: Callable[[], Sequence[str] | None]) -> Group | None:
        """The group of a name, None if there is no such group.

        `load` is asked for the members if the group is not in memory; it returns None if there is
        none.
        """
        while True:
            with self._lock:
                group = self._groups.get(name)
                changes = self._changes
                if group is not None:
                    group.used = self._clock()
                    self._groups.move_to_end(name)
                    return group
            members = load()
            if members is None:
                return None
            with self._lock:
                # If a membership changed while we read, we might keep the old members for ever:
                # read again.
                if changes == self._changes:
                    return self._enter(name, tuple(members))

    def _enter(self, name: str, members: tuple[str, ...]) -> Group:
        """With the lock held: keep a group that was just loaded, and make room for it."""
        group = self._alive.get(name) or Group(members)
        group.used = self._clock()
        if name not in self._groups:
            self._size += len(group.members)
        self._alive[name] = self._groups[name] = group
        self._groups.move_to_end(name)
        self._make_room()
        return group

    def _make_room(self) -> None:
        """With the lock held: evict groups while there are too many members. The one used last
        stays.
        """
        while self._size > self._most and len(self._groups) > 1:
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        _, group = self._groups.popitem(last=False)
        self._size -= len(group.members)

    def set_members(self, name: str, members: tuple[str, ...]) -> None:
        """Enter a committed change of membership; no members means that the group is gone."""
        with self._lock:
            self._changes += 1
            group = self._alive.get(name)
            if group is None:
                return
            if name in self._groups:
                self._size += len(members) - len(group.members)
            group.members = members
            if members:
                self._make_room()
            else:
                self._groups.pop(name, None)
                del self._alive[name]

    def reload(self, name: str, load: Callable[[], Sequence[str] | None]) -> Group | None:
        """The group of a name as the database has it now: another node may have changed it."""
        while True:
            with self._lock:
                changes = self._changes
            members = load()
            if members is None:
                return None
            with self._lock:
                if changes != self._changes:
                    continue
                group = self._alive.get(name)
                if group is not None:
                    if name in self._groups:
                        self._size += len(members) - len(group.members)
                    group.members = tuple(members)
                return self._enter(name, tuple(members))

    def forget_all(self) -> None:
        """Load every group anew: a change may have been committed that we do not know of."""
        with self._lock:
            self._changes += 1
            for group in list(self._alive.values()):
                group.is_forgotten = True
            self._groups.clear()
            self._alive.clear()
            self._size = 0

    def sweep(self) -> int:
        """Evict the groups that were idle for too long; return how many."""
        with self._lock:
            limit = self._clock() - self._idle
            before = len(self._groups)
            while self._groups and next(iter(self._groups.values())).used <= limit:
                self._evict_oldest()
            return before - len(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def start(self) -> None:
        """Sweep every `check_interval` seconds from now on."""
        with self._lock:
            if self._stopped:
                return
            timer = threading.Timer(self._check_interval, self._on_timer)
            timer.name = "jelly-group-sweeper"
            timer.daemon = True
            timer.start()
            self._timer = timer

    def stop(self) -> None:
        """Stop sweeping."""
        with self._lock:
            self._stopped = True
            timer = self._timer
        if timer is not None:
            timer.cancel()
            timer.join()

    def _on_timer(self) -> None:
        try:
            self.sweep()
        except Exception as error:  # noqa: BLE001 - a bug; there must be a next sweep all the same
            log_failure(log, error)
        while True:
            try:
                return self.start()
            except RuntimeError as error:  # no more threads: this one waits for the next sweep, too
                log.warning("cannot start the sweeper of the group cache: %s", error)
            time.sleep(THREAD_PAUSE)
