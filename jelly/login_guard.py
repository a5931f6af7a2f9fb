"""The guard against guessing passwords: it says which attempts to log in may be tried when.

Anybody may guess, from many connections and many addresses. The owner of the account wants to log
in meanwhile, perhaps from behind the same address as somebody who guesses. So attempts wait before
their password is looked at:

- Attempts from a network from which the account has logged in before count by themselves, for each
  such pair. The first five failures within 15 minutes cost nothing. Then there are 1, 2, 4, 8 and
  at last 10 seconds between a failure and the next attempt.
- All other attempts at an account count together, however many networks they come from: so
  40 addresses have no more tries than one. The longest wait is 20 seconds.
- Nothing is locked. If several attempts wait, one goes first that does not come for another one
  that has failed; then one whose network has failed least at this account; then the newest. So
  those who only try again and again wait longest.

A network is an IPv4 address or the /64 of an IPv6 address (`addresses.py`). All that the guard
remembers is bounded. Names that nobody has are remembered apart: so a flood of invented names does
not make it forget who guesses at an account.
"""

import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from jelly.minute_log import LINE_INTERVAL

log = logging.getLogger("jelly.login")

ASK_AGAIN = 0.5
"""Seconds after which to ask again, while other attempts at the same account are under way."""

Key = tuple[str, str]
"""What attempts count for: an account and a network, or an account and "" for all others."""


class _Failures:
    """The failures of one key within the window, oldest first, and how many attempts are tried."""

    __slots__ = ("longest_wait", "next_line_at", "recent", "under_way")

    def __init__(self, longest_wait: float) -> None:
        self.longest_wait = longest_wait
        self.recent: deque[tuple[float, str]] = deque(maxlen=LoginGuard.MAX_REMEMBERED)  # when, and which network
        self.under_way = 0
        self.next_line_at = 0.0  # when the log may have its next line about this key


class Attempt:
    """An attempt to log in, from its request to its end. Any thread may call any method."""

    __slots__ = ("_failures", "_guard", "_is_tried", "_number", "_table", "is_renewal", "is_repeat", "key", "network")

    def __init__(
        self, guard: "LoginGuard", table: "OrderedDict[Key, _Failures]", key: Key, network: str, is_renewal: bool
    ) -> None:
        self._guard = guard
        self._table = table
        self._failures = table.get(key)
        self._is_tried = False
        self._number = next(guard.numbers)
        self.key = key
        self.network = network
        self.is_renewal = is_renewal
        """Whether it comes for an attempt of this network that has failed."""
        self.is_repeat = is_renewal or self._failures_of_network() > 0
        """Whether it should wait for attempts that are the first of their account."""

    def seconds_to_wait(self) -> float:
        """Seconds until it is worth while to try to begin; 0.0 if it may be tried now."""
        with self._guard.lock:
            return self._guard.seconds_to_wait(self._table.get(self.key))

    def try_begin(self) -> float:
        """Begin if the attempt may be tried now, and return 0.0; else the seconds until it is worth
        while to ask again.
        """
        guard = self._guard
        with guard.lock:
            failures = self._failures = self._table.get(self.key) or self._new_failures()
            seconds = guard.seconds_to_wait(failures)
            if not seconds:
                guard.remember(self._table, self.key, failures)
                failures.under_way += 1
                self._is_tried = True
            return seconds

    def fail(self) -> None:
        """The password was wrong."""
        guard = self._guard
        with guard.lock:
            failures = self._failures = self._table.get(self.key) or self._failures or self._new_failures()
            failures.recent.append((guard.clock(), self.network))
            guard.remember(self._table, self.key, failures)
            guard.add_debt(self.network)
            self._end()
            count = guard.failures_to_log(failures) if self._table is not guard.invented else 0
        if count:
            log.warning(
                "logins of %s wait, after %d wrong passwords within %d minutes; the last one came from %s",
                self.key[0],
                count,
                guard.WINDOW_SECONDS // 60,
                self.network,
            )

    def succeed(self) -> None:
        """The password was right: forget the failures of this network at this account."""
        with self._guard.lock:
            if failures := self._failures:
                kept = [failure for failure in failures.recent if failure[1] != self.network]
                failures.recent.clear()
                failures.recent.extend(kept)
            self._end()

    def abandon(self) -> None:
        """It is not tried: the client has left, or has waited for too long."""
        with self._guard.lock:
            self._guard.add_debt(self.network)
            self._end()

    def end(self) -> None:
        """It is over, whatever happened. May be called after the others."""
        with self._guard.lock:
            self._end()

    def rank(self) -> tuple[bool, int, int]:
        """Its place among the attempts that wait for the same key: the smallest goes first."""
        with self._guard.lock:
            return self.is_renewal, self._failures_of_network(), -self._number

    def _failures_of_network(self) -> int:
        failures = self._table.get(self.key)
        return [network for _, network in failures.recent].count(self.network) if failures else 0

    def _new_failures(self) -> _Failures:
        is_known = self.key[1]
        return _Failures(LoginGuard.LONGEST_WAIT_OF_KNOWN if is_known else LoginGuard.LONGEST_WAIT)

    def _end(self) -> None:
        failures = self._failures
        if failures is not None and self._is_tried:
            failures.under_way -= 1
        self._is_tried = False
        if failures is not None and not failures.recent and not failures.under_way:
            self._table.pop(self.key, None)


class LoginGuard:
    """Counts failed logins, and spaces further attempts. Bounded: each of its tables has `max_size`
    entries. For a new one it drops the one that failed longest ago.
    """

    WINDOW_SECONDS = 15 * 60.0
    """Seconds until a failure is forgotten."""
    FREE_FAILURES = 5
    """At most this many attempts fail without making the next one wait."""
    LONGEST_WAIT_OF_KNOWN = 10.0
    """At most this many seconds between a failure and the next attempt, from a network from which
    the account has logged in before."""
    LONGEST_WAIT = 20.0
    """The same for all other attempts at an account together."""
    MAX_REMEMBERED = 64
    """At most this many failures of one key are remembered."""
    DEBT_SECONDS = 60.0
    """Seconds until a network's next attempt does not count as a renewal of a failed one any more.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_size: int = 10_000) -> None:
        self.clock = clock
        self.lock = threading.Lock()  # guards everything below, and what attempts know
        self.numbers = itertools.count()
        self._max_size = max_size
        # OrderedDicts, because a plain dict finds its oldest key by walking over all the keys that
        # were deleted before it.
        self._known: OrderedDict[Key, _Failures] = OrderedDict()
        self._others: OrderedDict[Key, _Failures] = OrderedDict()
        self.invented: OrderedDict[Key, _Failures] = OrderedDict()
        # How many failed attempts of a network have no attempt after them yet, and since when.
        self._debts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known) + len(self._others) + len(self.invented) + len(self._debts)

    def attempt(self, username: str, network: str, is_known: bool, exists: bool) -> Attempt:
        """Return an attempt to log in. `is_known`: this user has logged in from this network
        before. `exists`: there is such a user.
        """
        with self.lock:
            is_renewal = self._take_debt(network)
            if is_known:
                return Attempt(self, self._known, (username, network), network, is_renewal)
            return Attempt(self, self._others if exists else self.invented, (username, ""), network, is_renewal)

    # --- with the lock held; called by attempts ---------------------------------------------------

    def seconds_to_wait(self, failures: _Failures | None) -> float:
        if failures is None:
            return 0.0
        now, recent = self.clock(), failures.recent
        while recent and recent[0][0] <= now - self.WINDOW_SECONDS:
            recent.popleft()
        surplus = len(recent) - self.FREE_FAILURES
        if surplus + failures.under_way < 0:
            return 0.0
        if failures.under_way:
            return ASK_AGAIN
        return max(0.0, recent[-1][0] + min(failures.longest_wait, 2.0**surplus) - now)

    def failures_to_log(self, failures: _Failures) -> int:
        """How many failures make the next attempt wait; 0 if the log needs no line of it now."""
        now, count = self.clock(), len(failures.recent)
        if not self.seconds_to_wait(failures) or count < self.FREE_FAILURES or now < failures.next_line_at:
            return 0
        failures.next_line_at = now + LINE_INTERVAL
        return count

    def remember(self, table: "OrderedDict[Key, _Failures]", key: Key, failures: _Failures) -> None:
        table[key] = failures
        table.move_to_end(key)
        if len(table) > self._max_size:
            table.popitem(last=False)

    def add_debt(self, network: str) -> None:
        count, since = self._debts.pop(network, (0, 0.0))
        now = self.clock()
        self._debts[network] = (count + 1 if now < since + self.DEBT_SECONDS else 1), now
        if len(self._debts) > self._max_size:
            self._debts.popitem(last=False)

    def _take_debt(self, network: str) -> bool:
        count, since = self._debts.pop(network, (0, 0.0))
        if not count or self.clock() >= since + self.DEBT_SECONDS:
            return False
        if count > 1:
            self._debts[network] = count - 1, since
        return True
