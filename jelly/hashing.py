"""The threads that hash passwords, and the queue in front of them, which is fair.

A hash takes a core for about 160 ms, and anyone who can open a socket can ask for one. In a plain
queue, one stranger with 200 connections and wrong passwords makes everybody wait. So:

- **Networks take turns.** A network is an IPv4 address or the /64 of an IPv6 address. However many
  tasks one network has, another one waits for about one of them. (This is fair queuing.)
- **Places.** A login from an address from which its account has logged in before goes first, then
  other logins, then registrations. Each place gets some turns while tasks wait in those before it,
  so none waits for ever.
- **Within a network**, first attempts go before repeats (`LoginGuard.is_repeat`): an attempt at an
  account that has failed, or the one that comes for an attempt of this network that has failed. So
  somebody who guesses, however many names, soon has repeats only, and a person behind the same
  address does not wait for them. Nor for the many attempts with which that began: after a wrong
  password the newest attempt is taken in turn with the oldest.
- **Some attempts wait before they are tried**: those at an account that somebody guesses at. The
  `LoginGuard` says how long, and which of them goes first. They wait apart, and when their time has
  come they go to the front of their network. One that would wait for too long is refused.
- **A core stays free.** Only a login that is likely to be right runs beside another hash. Where all
  cores compute, the disk answers late and every message waits for it (here 14 ms instead of 1).
- **Nothing is hashed for clients that have left.** A reader may not have noticed that, so the
  kernel is asked right before a hash. A client that has only closed its half of the connection may
  still wait for its answer, or not: nobody can tell. So its task goes behind all others, and is
  dropped after five seconds.
- **It is bounded.** A task for which there is no room takes the place of another one, from the
  network with the most tasks.
"""

import itertools
import logging
import operator
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from jelly.errors import log_failure
from jelly.login_guard import ASK_AGAIN, Attempt, Key
from jelly.outcomes import Place
from jelly.scheduling import lower_priority
from jelly.sessions import Session
from jelly.threads import VitalThread
from jelly.timers import NEVER, TimerHeap

log = logging.getLogger("jelly.hashing")

HASHERS = 2
"""How many threads hash passwords."""
LOGIN_SHARE = 4
"""Of this many turns, one goes to other logins although logins from known addresses wait."""
REGISTRATION_SHARE = 8
"""Of this many turns, one goes to a registration although logins wait."""
REPEAT_SHARE = 4
"""Of this many turns of a network, one goes to a repeat although first attempts wait."""
NEWEST_SHARE = 2
"""Of this many turns of a network whose last password was wrong, one goes to the oldest attempt,
the others to the newest."""
LEAVING_TIMEOUT = 5.0
"""Seconds until the task of a client that has closed its half of the connection is dropped."""
PURGE_INTERVAL = 1.0
"""Seconds until a full queue is searched for clients that have left again."""


@dataclass(eq=False, slots=True)
class Work:
    """A task that waits for a hasher, and what to do with it. The functions are called without a
    lock.
    """

    session: Session
    network: str
    place: Place
    attempt: Attempt | None
    """What the guard must allow first; None for anything but a login."""
    run: Callable[[], None]
    refuse: Callable[[], None]
    """Called instead of `run` if there is no room, or the server stops."""
    give_up: Callable[[], None]
    """Called instead of `run` if the guard has made it wait for too long."""
    drop: Callable[[], None]
    """Called instead of `run` if the client has left."""
    left_at: float = 0.0
    """When it was noticed that the client has closed its half, in monotonic seconds."""
    held_until: float = 0.0
    """When it is given up if it is still held back, in monotonic seconds; 0.0 if it never was."""

    @property
    def is_repeat(self) -> bool:
        """Whether first attempts of its network go before it."""
        return self.attempt is not None and self.attempt.is_repeat

    @property
    def is_likely_right(self) -> bool:
        """Whether it may run beside another hash."""
        return self.attempt is not None and self.attempt.is_likely_right

    @property
    def is_before_login(self) -> bool:
        """Whether nobody is logged in on its connection."""
        return self.session.user is None

    @property
    def has_left(self) -> bool:
        """Whether the client is gone."""
        return self.session.closing or self.session.transport.has_left()


@dataclass(slots=True)
class _Waiting:
    """The tasks of one network in one place. It is never empty while it is in the queue."""

    due: deque[Work] = field(default_factory=deque)
    """First attempts that the guard held back until now."""
    firsts: deque[Work] = field(default_factory=deque)
    repeats: deque[Work] = field(default_factory=deque)
    turns: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __len__(self) -> int:
        return len(self.due) + len(self.firsts) + len(self.repeats)

    def add(self, work: Work, is_due: bool) -> None:
        if not work.is_repeat:
            (self.due if is_due else self.firsts).append(work)
        elif is_due:
            self.repeats.appendleft(work)
        else:
            self.repeats.append(work)

    def pop(self) -> Work:
        """Take the one whose turn it is."""
        if self.due:
            return self.due.popleft()
        turn = next(self.turns)
        if self.repeats and (turn % REPEAT_SHARE == 0 or not self.firsts):
            return self.repeats.popleft()
        newest = self.firsts[-1]
        if turn % NEWEST_SHARE and newest.attempt is not None and not newest.is_likely_right:
            return self.firsts.pop()
        return self.firsts.popleft()

    def pop_likely(self) -> Work | None:
        """Take the next one if it is likely to be right."""
        works = self.due or self.firsts
        return works.popleft() if works and works[0].is_likely_right else None

    def take_if(self, condition: Callable[[Work], bool]) -> list[Work]:
        """Take out all for which a condition holds."""
        taken: list[Work] = []
        for works in (self.due, self.firsts, self.repeats):
            kept: list[Work] = []
            for work in works:
                (taken if condition(work) else kept).append(work)
            works.clear()
            works.extend(kept)
        return taken


class HashQueue:
    """The tasks that wait for a hasher. Any thread may call any method.

    The guard's lock may be taken while the queue's is held, never the other way round.
    """

    def __init__(self, maxsize: int, longest_hold: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`longest_hold`: seconds until an attempt that the guard holds back is given up."""
        self._maxsize = maxsize
        self._longest_hold = longest_hold
        self._clock = clock
        self._condition = threading.Condition()  # guards everything below
        # For each place, the networks that have tasks there; the first is the next to be served.
        # OrderedDicts, because a plain dict finds its first key by walking over deleted ones.
        self._places: dict[Place, OrderedDict[str, _Waiting]] = {place: OrderedDict() for place in Place}
        self._leaving: deque[Work] = deque()  # those whose clients have closed their half
        self._of_key: dict[Key, set[Work]] = {}  # all attempts, wherever they wait
        self._held: dict[Key, dict[Attempt, Work]] = {}  # what the guard holds back
        self._looks = TimerHeap()  # when to ask the guard again
        self._look_at: dict[Key, float] = {}  # for each key that is held back, when to ask next
        self._aging: OrderedDict[Work, None] = OrderedDict()  # what to give up when, the first one first
        self._calls: list[Callable[[], None]] = []  # what to call when the lock is released
        self._sizes: dict[str, int] = {}  # how many tasks each network has
        self._turn = 1  # of a task that is taken
        self._unlikely: Work | None = None  # the one that runs and is not likely to be right
        self._size = 0
        self._purged_at = -PURGE_INTERVAL
        self._refuses_logins = False
        self._closed = False

    def __len__(self) -> int:
        return self._size

    def put(self, work: Work) -> list[Callable[[], None]]:
        """Add a task. Never blocks. Returns what to call now: some other one may have to give way.

        Raises queue.Full if there is no room for the new one.
        """
        with self._condition:
            if self._refuses_logins and work.is_before_login:
                raise queue.Full
            given_way = self._make_room(work) if self._size >= self._maxsize else []
            calls = [each.refuse for each in given_way]
            if work.attempt is not None:
                calls += [each.drop for each in self._take_left(work.attempt)]
                self._of_key.setdefault(work.attempt.key, set()).add(work)
            self._size += 1
            self._sizes[work.network] = self._sizes.get(work.network, 0) + 1
            if work.attempt is not None and (seconds := work.attempt.seconds_to_wait()):
                self._hold(work, seconds)
            else:
                self._add(work)
            self._condition.notify()
            return calls

    def get(self) -> tuple[Work | None, list[Callable[[], None]]]:
        """Wait for the next task. Also returns what to call now, for tasks that are not run.

        The task is None if there is none to run now. Call `finished` when it has run.
        """
        with self._condition:
            while True:
                now = self._clock()
                self._give_up_old(now)
                for look in self._looks.pop_due(now):
                    look()
                work = self._next(now)
                if work is not None:
                    self._turn += 1
                    # (Beside an unlikely one, `_next` has taken a likely one.)
                    if self._unlikely is None and not work.is_likely_right:
                        self._unlikely = work
                if work is not None or self._calls or self._closed:
                    calls, self._calls = self._calls, []
                    return work, calls
                due = min([self._looks.next_due, *[work.held_until for work in itertools.islice(self._aging, 1)]])
                self._condition.wait(None if due == NEVER else max(0.0, due - now))

    def finished(self, work: Work) -> None:
        """A task that `get` returned has run: others may begin now."""
        with self._condition:
            if work is self._unlikely:
                self._unlikely = None
                self._condition.notify()
            if work.attempt is not None:
                self.look_again(work.attempt.key)

    def look_again(self, key: Key) -> None:
        """Attempts that wait for this key may begin now."""
        with self._condition:
            if key in self._held:
                self._look_in(key, 0.0)
                self._condition.notify()

    @property
    def is_closed(self) -> bool:
        """Whether no task comes any more."""
        return self._closed and not self._size

    def refuse_logins(self) -> list[Work]:
        """From now on take nothing from those who are not logged in; return what waits of them, and
        what the guard holds back.
        """
        with self._condition:
            self._refuses_logins = True
            held = {work for works in self._held.values() for work in works.values()}
            return self._take_if(lambda work: work.is_before_login or work in held)

    def close(self) -> list[Work]:
        """Let the hashers end; return what still waits."""
        with self._condition:
            self._closed = self._refuses_logins = True
            self._condition.notify_all()
            return self._take_if(lambda _: True)

    # --- with the lock held -----------------------------------------------------------------------

    def _take_left(self, newcomer: Attempt) -> list[Work]:
        """Take out those whose clients have left, of those that wait for the same key: the newcomer
        may be one of them, again.
        """
        left = {work for work in self._of_key.get(newcomer.key, ()) if work.has_left}
        taken = self._take_if(left.__contains__) if left else []
        for _ in taken:
            newcomer.look_again_for_failed()
        return taken

    def _add(self, work: Work, is_due: bool = False) -> None:
        self._places[work.place].setdefault(work.network, _Waiting()).add(work, is_due)

    def _removed(self, work: Work) -> Work:
        self._size -= 1
        self._sizes[work.network] -= 1
        if not self._sizes[work.network]:
            del self._sizes[work.network]
        self._aging.pop(work, None)
        if work.attempt is not None:
            works = self._of_key[work.attempt.key]
            works.remove(work)
            if not works:
                del self._of_key[work.attempt.key]
        return work

    def _abandoned(self, work: Work) -> Work:
        if work.attempt is not None:
            work.attempt.abandon()
        return self._removed(work)

    def _next(self, now: float) -> Work | None:
        """Take the next task out; drop those whose clients have left."""
        while self._leaving and self._leaving[0].left_at <= now - LEAVING_TIMEOUT:
            self._drop(self._leaving.popleft())
        only_likely = self._unlikely is not None
        for place in self._order():
            networks = self._places[place]
            for network, waiting in list(networks.items()):
                work = self._first_ready(waiting, only_likely, now)
                if not waiting:
                    del networks[network]
                elif work is not None:
                    networks.move_to_end(network)
                if work is not None:
                    return self._removed(work)
        if only_likely:
            return None
        for _ in range(len(self._leaving)):
            work = self._leaving.popleft()
            if work.has_left:
                self._drop(work)
            elif self._begins(work):
                return self._removed(work)
        return None

    def _first_ready(self, waiting: _Waiting, only_likely: bool, now: float) -> Work | None:
        while waiting:
            work = waiting.pop_likely() if only_likely else waiting.pop()
            if work is None:
                return None
            if work.has_left:
                self._drop(work)
            elif work.session.transport.is_half_closed():
                work.left_at = now
                self._leaving.append(work)
            elif self._begins(work):
                return work
        return None

    def _drop(self, work: Work) -> None:
        self._calls.append(self._abandoned(work).drop)

    def _begins(self, work: Work) -> bool:
        """Whether a task may be run now; if not, it is held back."""
        seconds = work.attempt.try_begin() if work.attempt is not None else 0.0
        if seconds:
            self._hold(work, seconds)
        return not seconds

    def _order(self) -> list[Place]:
        """The places, in the order in which they are looked at this time."""
        if self._turn % REGISTRATION_SHARE == 0:
            return [Place.REGISTRATION, Place.KNOWN, Place.LOGIN]
        if self._turn % LOGIN_SHARE == LOGIN_SHARE // 2:
            return [Place.LOGIN, Place.KNOWN, Place.REGISTRATION]
        return [Place.KNOWN, Place.LOGIN, Place.REGISTRATION]

    # What the guard holds back.

    def _hold(self, work: Work, seconds: float) -> None:
        assert work.attempt is not None  # others are not held back
        key = work.attempt.key
        self._held.setdefault(key, {})[work.attempt] = work
        self._look_in(key, seconds)
        if not work.held_until:
            work.held_until = self._clock() + self._longest_hold
            self._aging[work] = None
        elif work not in self._aging:  # its time came while it was not held back
            self._aging[work] = None
            self._aging.move_to_end(work, last=False)

    def _look_in(self, key: Key, seconds: float) -> None:
        at = self._clock() + seconds
        if at < self._look_at.get(key, NEVER):
            self._look_at[key] = at
            self._looks.call_at(at, partial(self._look, key, at))

    def _look(self, key: Key, at: float) -> None:
        """Let the first of those go on that wait for a key, if the guard allows it."""
        if self._look_at.get(key) != at:
            return  # an earlier look was asked for since
        del self._look_at[key]
        for attempt, work in sorted(self._held.get(key, {}).items(), key=lambda item: item[0].rank()):
            if work.has_left:
                self._release(attempt)
                self._drop(work)
                continue
            seconds = attempt.seconds_to_wait()
            if not seconds:
                self._release(attempt)
                self._add(work, is_due=True)
            if key in self._held:
                self._look_in(key, seconds or ASK_AGAIN)
            return

    def _release(self, attempt: Attempt) -> bool:
        """Hold an attempt back no longer; return whether it was held back."""
        works = self._held.get(attempt.key, {})
        was_held = works.pop(attempt, None) is not None
        if was_held and not works:
            del self._held[attempt.key]
            self._look_at.pop(attempt.key, None)
        return was_held

    def _give_up_old(self, now: float) -> None:
        while self._aging and (work := next(iter(self._aging))).held_until <= now:
            del self._aging[work]
            if work.attempt is not None and self._release(work.attempt):
                self._calls.append(self._abandoned(work).give_up)

    # Room.

    def _make_room(self, work: Work) -> list[Work]:
        now = self._clock()
        if now >= self._purged_at + PURGE_INTERVAL:
            self._purged_at = now
            if left := self._take_if(lambda waiting: waiting.has_left):
                return left
        largest = max(self._sizes, key=self._sizes.__getitem__)
        if self._sizes[largest] <= self._sizes.get(work.network, 0):
            raise queue.Full
        held = itertools.chain.from_iterable(works.values() for works in self._held.values())
        for victim in itertools.chain(self._leaving, held, self._last_of(largest)):
            if victim.network == largest:
                return self._take_if(partial(operator.is_, victim))
        raise queue.Full

    def _last_of(self, network: str) -> Iterator[Work]:
        for place in reversed(Place):
            if waiting := self._places[place].get(network):
                yield (waiting.repeats or waiting.firsts or waiting.due)[-1]

    def _take_if(self, condition: Callable[[Work], bool]) -> list[Work]:
        """Take out all tasks for which a condition holds, wherever they wait."""
        taken = [work for work in self._leaving if condition(work)]
        for work in taken:
            self._leaving.remove(work)
        for attempt, work in [item for works in self._held.values() for item in works.items() if condition(item[1])]:
            self._release(attempt)
            taken.append(work)
        for networks in self._places.values():
            for network, waiting in list(networks.items()):
                taken += waiting.take_if(condition)
                if not waiting:
                    del networks[network]
        return [self._abandoned(work) for work in taken]


class Hashers:
    """The threads that hash passwords."""

    def __init__(self, maxsize: int, longest_hold: float) -> None:
        """`longest_hold`: seconds until an attempt that the guard holds back is given up."""
        self._queue = HashQueue(maxsize, longest_hold)
        self.threads = [VitalThread(self._run, f"jelly-hasher_{number}") for number in range(HASHERS)]

    def __len__(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        """Start the threads: now, because the system may have no more of them at the first
        login.
        """
        for thread in self.threads:
            thread.start()

    def submit(self, work: Work) -> None:
        """Have a task run when its turn comes. Never blocks."""
        try:
            calls = self._queue.put(work)
        except queue.Full:
            calls = [work.refuse]
        for call in calls:
            call()

    def refuse_logins(self) -> None:
        """The server stops: refuse logins and registrations that wait, and those that come."""
        for work in self._queue.refuse_logins():
            work.refuse()

    def stop(self) -> None:
        """End the threads. What still waits is refused."""
        for work in self._queue.close():
            work.refuse()
        for thread in self.threads:
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        lower_priority()
        while not self._queue.is_closed:
            work, calls = self._queue.get()
            for call in calls:
                call()
            if work is not None:
                self._run_work(work)

    def _run_work(self, work: Work) -> None:
        try:
            work.run()
        except BaseException as error:  # noqa: BLE001 - a bug with one task; the thread lives
            log_failure(log, error)
        finally:
            if work.attempt is not None:
                work.attempt.end()
            self._queue.finished(work)
