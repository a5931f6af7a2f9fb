"""Admission: which connections may come in, and which go to make room for others.

Anybody can open a connection, so a connection without a login must not keep the place of somebody
who logs in. A connection on which no user is logged in is a *guest*: before its login, and again
after a logout. Guests may take three quarters of the places. When these are taken, a new connection
still comes in, and the oldest guest goes that has not asked to log in. It is taken from the network
that has most of them, so a stranger with many connections loses them to those with few.
"""

import logging
import math
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from jelly.sessions import Session

log = logging.getLogger("jelly.server")

GUEST_SHARE = 0.75
"""At most this share of the places is taken by guests."""
LINE_INTERVAL = 60.0
"""Seconds from one line about connections that were turned away to the next one."""
MAX_NETWORKS_TO_LOG = 1000
"""At most this many networks are counted for a line."""


class Client(Protocol):
    """What this module knows of a connection."""

    request: socket.socket
    session: Session
    opened_at: float

    def close(self) -> None:
        """Close it now; its reader notices."""


C = TypeVar("C", bound=Client)


@dataclass(slots=True, eq=False)
class _Place(Generic[C]):
    """The place of one connection, from when it is accepted until it has ended."""

    network: str | None
    """Where it comes from; None if it does not count there (a proxy's own connection)."""
    connection: C | None = None
    """Set when its reader has begun."""
    crowd: "Crowd[C] | None" = None
    is_leaving: bool = False
    """Whether it was closed to make room, and has still to end."""


class Crowd(Generic[C]):
    """Places by network. Finds the oldest one of the network that has most, in constant time."""

    def __init__(self) -> None:
        # OrderedDicts, because a plain dict finds its oldest key by walking over all the keys that
        # were deleted before it.
        self._places: dict[str | None, OrderedDict[_Place[C], None]] = {}
        self._networks: list[OrderedDict[str | None, None]] = []  # at index n: those that have n + 1 places

    def add(self, place: _Place[C]) -> None:
        places = self._places.setdefault(place.network, OrderedDict())
        places[place] = None
        self._move(place.network, len(places) - 1, len(places))

    def remove(self, place: _Place[C]) -> None:
        places = self._places[place.network]
        del places[place]
        self._move(place.network, len(places) + 1, len(places))
        if not places:
            del self._places[place.network]

    def count(self, network: str | None) -> int:
        """How many places a network has."""
        return len(self._places.get(network, ()))

    def oldest(self) -> _Place[C] | None:
        """The oldest place of the network that has most; None if there are no places."""
        if not self._networks:
            return None
        return next(iter(self._places[next(iter(self._networks[-1]))]))

    def __iter__(self) -> Iterator[_Place[C]]:
        """Walk over a copy of all places."""
        return iter([place for places in self._places.values() for place in places])

    def _move(self, network: str | None, old: int, new: int) -> None:
        if old:
            del self._networks[old - 1][network]
        if new > len(self._networks):
            self._networks.append(OrderedDict())
        if new:
            self._networks[new - 1][network] = None
        while self._networks and not self._networks[-1]:
            self._networks.pop()


class RefusalLog:
    """Logs why connections are turned away: a line when that begins, then one a minute.

    Any thread may call `note`. `call_later(seconds, function)` must call a function after some
    seconds.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], None]) -> None:
        self._call_later = call_later
        self._lock = threading.Lock()  # guards everything below
        self._reasons: Counter[str] = Counter()  # since the last line
        # Since the last line; the network that came last is the last one.
        self._networks: OrderedDict[str, int] = OrderedDict()
        self._told: set[str] = set()  # the reasons that a line of this minute has
        self._is_waiting = False  # for the end of the minute

    def note(self, reason: str, network: str) -> None:
        """Count a connection that was turned away. A reason that is new is logged at once."""
        with self._lock:
            self._reasons[reason] += 1
            self._networks[network] = self._networks.pop(network, 0) + 1
            if len(self._networks) > MAX_NETWORKS_TO_LOG:
                self._networks.popitem(last=False)
            line = "" if reason in self._told else self._take_line()
            must_wait = bool(line) and not self._is_waiting
            self._is_waiting = self._is_waiting or must_wait
        self._write(line, must_wait)

    def _end_minute(self) -> None:
        with self._lock:
            self._told.clear()
            line = self._take_line()
            self._is_waiting = bool(line)
        self._write(line, bool(line))

    def _write(self, line: str, must_wait: bool) -> None:
        if line:
            log.warning("%s", line)
        if must_wait:
            self._call_later(LINE_INTERVAL, self._end_minute)

    def _take_line(self) -> str:
        """The line about what was counted, which begins anew; empty if nothing was."""
        count = self._reasons.total()
        if not count:
            return ""
        network, most = max(self._networks.items(), key=lambda item: item[1])
        reasons = [f"{number:,} because {reason}" for reason, number in self._reasons.most_common()]
        why = f", because {next(iter(self._reasons))}" if len(reasons) == 1 else f": {'; '.join(reasons)}"
        self._told.update(self._reasons)
        self._reasons.clear()
        self._networks.clear()
        if count == 1:
            return f"turned away a connection from {network}{why}"
        whence = f"all from {network}" if most == count else f"{most:,} of them from {network}"
        return f"turned away {count:,} connections since the last such line, {whence}{why}"


@dataclass(frozen=True)
class Limits:
    """How many connections there may be."""

    places: int
    """At most this many in all."""
    per_network: int
    """At most this many from one network: see `network_of`."""
    setting: str = "--max-connections"
    """What bounds `places`."""


class Connections(Generic[C]):
    """The open connections, and who gets a place. Any thread may call any method.

    The acceptor gives a place to a connection, its reader enters it, and says how far it has got:

    - a guest that has not asked to log in may be closed at any time to make room;
    - one that has asked and was not answered goes only if there is nobody else, and if its network
      has more of those than the network of the newcomer;
    - one that is logged in is no guest: it stays;
    - one that is owed nothing any more, after a logout say, may be closed again.
    """

    def __init__(self, sessions: Sized, limits: Limits, refusals: RefusalLog) -> None:
        """`sessions`: of the users who are logged in; each has one of the connections."""
        self._sessions = sessions
        self._limits = limits
        self._guest_places = max(1, int(limits.places * GUEST_SHARE))
        self._refusals = refusals
        self._lock = threading.Lock()  # guards everything below
        self._open: set[C] = set()
        self._places: dict[socket.socket, _Place[C]] = {}
        self._per_network: Counter[str] = Counter()
        self._idle: Crowd[C] = Crowd()  # guests that may be closed
        self._asking: Crowd[C] = Crowd()  # whose login was read, and maybe has succeeded since the watchdog's last look
        self._leaving = 0

    # --- the acceptor -----------------------------------------------------------------------------

    @property
    def places_taken(self) -> int:
        """How many connections were accepted and have not ended."""
        return len(self._places)

    def admit(self, request: socket.socket, network: str | None, address: str) -> bool:
        """Give a place to a connection that was accepted; return False if it must be turned away.

        `network` is None for a proxy: it has no limit of its own, and says later who the client is.
        """
        victim = None
        with self._lock:
            reason = self._network_is_full(network)
            if not reason and self._guests >= self._room:
                victim = self._choose_victim(network)
                if victim is None:
                    reason = self._is_full()
            if not reason:
                self._places[request] = _Place(network)
                self._count(network, 1)
        if victim is not None:
            assert victim.connection is not None
            self._refusals.note(self._is_full(), victim.network or address)
            victim.connection.close()
        if reason:
            self._refusals.note(reason, network or address)
        return not reason

    def release(self, request: socket.socket) -> None:
        """Give back a place, if it was given to this connection and not given back yet."""
        with self._lock:
            place = self._places.pop(request, None)
            if place is not None:
                self._count(place.network, -1)
                self._leaving -= place.is_leaving
                self._leave_crowd(place)

    # --- a reader ---------------------------------------------------------------------------------

    def add(self, connection: C) -> None:
        """Enter a connection whose reader has begun: a guest that has not asked to log in."""
        with self._lock:
            self._open.add(connection)
            place = self._places.setdefault(connection.request, _Place(None))
            place.connection = connection
            self._join_crowd(place, self._idle)

    def discard(self, connection: C) -> None:
        """Remove a connection that has ended, if it is here."""
        with self._lock:
            self._open.discard(connection)
        self.release(connection.request)

    def identify(self, connection: C, network: str) -> bool:
        """A proxy has said from which network its client comes; return False if that one has too
        many connections.
        """
        with self._lock:
            place = self._places[connection.request]
            reason = self._network_is_full(network)
            if not reason:
                crowd = place.crowd
                self._leave_crowd(place)
                place.network = network
                self._count(network, 1)
                if crowd is not None:
                    self._join_crowd(place, crowd)
        if reason:
            self._refusals.note(reason, network)
        return not reason

    def login_was_read(self, connection: C) -> None:
        """The client has asked to log in, so it may wait for the answer."""
        self._change_crowd(connection, self._asking)

    def is_done_with(self, connection: C) -> None:
        """The client is owed nothing but its last answers: it was refused, or has logged out."""
        self._change_crowd(connection, self._idle)

    def refuse(self, reason: str, address: str) -> None:
        """Count a connection that its reader closes at once."""
        self._refusals.note(reason, address)

    # --- the watchdog and the server --------------------------------------------------------------

    def beyond_half(self, guests: Iterable[C]) -> list[C]:
        """Of these guests, those that must go so that fewer than half of the places for guests are
        taken: first those from the network that has most, and the oldest of them first.
        """
        with self._lock:
            for each in self._asking:
                if _is_logged_in(each):
                    self._leave_crowd(each)
            surplus = self._guests - math.ceil(self._room / 2) + 1
            if surplus <= 0:
                return []
            crowded = {
                guest: -self._idle.count(place.network)
                for guest in guests
                if (place := self._places.get(guest.request)) is not None
            }
        return sorted(crowded, key=lambda guest: (crowded[guest], guest.opened_at))[:surplus]

    def __iter__(self) -> Iterator[C]:
        """Walk over those that are open now; others may come and go meanwhile."""
        with self._lock:
            snapshot = tuple(self._open)
        return iter(snapshot)

    def __len__(self) -> int:
        return len(self._open)

    # --- with the lock held -----------------------------------------------------------------------

    @property
    def _guests(self) -> int:
        """How many guests there are."""
        return len(self._places) - self._leaving - len(self._sessions)

    @property
    def _room(self) -> int:
        """How many guests there may be."""
        return min(self._guest_places, self._limits.places - len(self._sessions))

    def _network_is_full(self, network: str | None) -> str:
        """Why one more connection from a network is turned away; empty if it is not."""
        most = self._limits.per_network
        if network is None or self._per_network[network] < most:
            return ""
        return f"one address may have at most {most:,} (--max-per-address)"

    def _is_full(self) -> str:
        """Why a guest is turned away or closed."""
        places, setting = self._limits.places, self._limits.setting
        if self._room < self._guest_places:
            return f"all {places:,} places are taken ({setting})"
        return f"those who are not logged in may have at most {self._guest_places:,} of {places:,} places ({setting})"

    def _choose_victim(self, newcomer: str | None) -> _Place[C] | None:
        """Take the guest that goes to make room for a connection from a network."""
        victim: _Place[C] | None = self._idle.oldest()
        if victim is None:
            victim = self._asking.oldest()
            while victim is not None and _is_logged_in(victim):
                self._leave_crowd(victim)
                victim = self._asking.oldest()
            if victim is not None and self._asking.count(victim.network) <= self._asking.count(newcomer) + 1:
                return None
        if victim is not None:
            self._leave_crowd(victim)
            victim.is_leaving = True
            self._leaving += 1
        return victim

    def _count(self, network: str | None, change: int) -> None:
        if network is not None:
            self._per_network[network] += change
            if not self._per_network[network]:
                del self._per_network[network]

    def _change_crowd(self, connection: C, crowd: Crowd[C]) -> None:
        with self._lock:
            place = self._places.get(connection.request)
            if place is not None and not place.is_leaving:
                self._leave_crowd(place)
                self._join_crowd(place, crowd)

    def _join_crowd(self, place: _Place[C], crowd: Crowd[C]) -> None:
        crowd.add(place)
        place.crowd = crowd

    def _leave_crowd(self, place: _Place[C]) -> None:
        if place.crowd is not None:
            place.crowd.remove(place)
            place.crowd = None


def _is_logged_in(place: _Place[C]) -> bool:
    return place.connection is not None and place.connection.session.user is not None
