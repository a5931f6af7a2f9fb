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
  those who only try again and again wait longest. But every other time the oldest one goes first:
  those who leave and come again at once are always new, and never the oldest.

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

Debtor = Key | str
"""Whose failed attempts are looked for when a new one comes: a known pair's, or a network's."""


class _Failures:
    """The failures of one key within the window, oldest first, and how many attempts are tried."""

    __slots__ = ("late_tries", "longest_wait", "next_line_at", "recent", "under_way")

    def __init__(self, longest_wait: float) -> None:
        self.longest_wait = longest_wait
        self.recent: deque[tuple[float, str]] = deque(maxlen=LoginGuard.MAX_REMEMBERED)  # when, and which network
        self.under_way = 0
        self.late_tries = 0  # how many had to wait
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
        """Whether it comes for an attempt that has failed: of this network, or of this account from
        there if it has logged in from there before (it does not pay for what others try).
        """
        self.is_repeat = is_renewal or (not key[1] and self._failures_of_network() > 0)
        """Whether it should wait for attempts that are the first of their account. Where the
        account has logged in before, its owner may be there, too: only what comes for a failed one
        is a repeat.
        """

    def look_again_for_failed(self) -> None:
        """An attempt has been abandoned: perhaps this one comes for it."""
        with self._guard.lock:
            if not self.is_renewal and self._guard.take_debt(self._debtor):
                self.is_renewal = self.is_repeat = True

    @property
    def is_likely_right(self) -> bool:
        """Whether nothing speaks against it: it is no repeat, and the last attempt from its network
        did not fail.
        """
        return not self.is_repeat and not self._guard.has_failed_last(self.network)

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
                failures.late_tries += len(failures.recent) >= guard.FREE_FAILURES
                self._is_tried = True
            return seconds

    def fail(self) -> None:
        """The password was wrong."""
        guard = self._guard
        with guard.lock:
            failures = self._failures = self._table.get(self.key) or self._failures or self._new_failures()
            failures.recent.append((guard.clock(), self.network))
            guard.remember(self._table, self.key, failures)
            guard.add_debt(self._debtor)
            guard.remember_failure(self.network)
            self._end()
            count = guard.failures_to_log(failures) if self._table is not guard.invented else 0
        if self._table is not guard.invented:
            guard.on_failure(self.key[0], self.network, bool(self.key[1]))
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
            self._guard.forget_failure(self.network)
            self._end()

    def abandon(self) -> None:
        """It is not tried: the client has left, or has waited for too long."""
        with self._guard.lock:
            self._guard.add_debt(self._debtor)
            self._end()

    def end(self) -> None:
        """It is over, whatever happened. May be called after the others."""
        with self._guard.lock:
            self._end()

    def rank(self) -> tuple[bool, int, int]:
        """Its place among the attempts that wait for the same key: the smallest goes first."""
        with self._guard.lock:
            failures = self._table.get(self.key)
            if failures is not None and failures.late_tries % 2:
                return False, 0, self._number
            return self.is_renewal, self._failures_of_network(), -self._number

    @property
    def _debtor(self) -> "Debtor":
        return self.key if self.key[1] else self.network

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
    """Seconds until the next attempt does not count as a renewal of a failed one any more, nor
    others from its network as likely to fail."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_size: int = 10_000) -> None:
        self.clock = clock
        self.on_failure: Callable[[str, str, bool], None] = lambda *_: None
        """Called after each wrong password for an account, by any thread: account, network, and
        whether the account has logged in from there before."""
        self.lock = threading.Lock()  # guards everything below, and what attempts know
        self.numbers = itertools.count()
        self._max_size = max_size
        # OrderedDicts, because a plain dict finds its oldest key by walking over all the keys that
        # were deleted before it.
        self._known: OrderedDict[Key, _Failures] = OrderedDict()
        self._others: OrderedDict[Key, _Failures] = OrderedDict()
        self.invented: OrderedDict[Key, _Failures] = OrderedDict()
        # How many failed attempts of a debtor have no attempt after them yet, and since when.
        self._debts: OrderedDict[Debtor, tuple[int, float]] = OrderedDict()
        self._failed_at: OrderedDict[str, float] = OrderedDict()  # when, for networks whose last attempt failed

    def __len__(self) -> int:
        tables = self._known, self._others, self.invented, self._debts, self._failed_at
        return sum(len(table) for table in tables)

    def has_failed_last(self, network: str) -> bool:
        """Whether the last password from this network was wrong, within the last minute."""
        with self.lock:
            return self.clock() < self._failed_at.get(network, -self.DEBT_SECONDS) + self.DEBT_SECONDS

    def attempt(self, username: str, network: str, is_known: bool, exists: bool) -> Attempt:
        """Return an attempt to log in. `is_known`: this user has logged in from this network
        before. `exists`: there is such a user.
        """
        with self.lock:
            if is_known:
                key = username, network
                return Attempt(self, self._known, key, network, self.take_debt(key))
            table = self._others if exists else self.invented
            return Attempt(self, table, (username, ""), network, self.take_debt(network))

    def note_failure(self, username: str, network: str, is_known: bool) -> None:
        """A wrong password came to another node."""
        key = (username, network) if is_known else (username, "")
        table = self._known if is_known else self._others
        with self.lock:
            failures = table.get(key) or _Failures(self.LONGEST_WAIT_OF_KNOWN if is_known else self.LONGEST_WAIT)
            failures.recent.append((self.clock(), network))
            self.remember(table, key, failures)
            self.remember_failure(network)

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

    def add_debt(self, debtor: Debtor) -> None:
        count, since = self._debts.pop(debtor, (0, 0.0))
        now = self.clock()
        self._debts[debtor] = (count + 1 if now < since + self.DEBT_SECONDS else 1), now
        if len(self._debts) > self._max_size:
            self._debts.popitem(last=False)

    def remember_failure(self, network: str) -> None:
        self._failed_at[network] = self.clock()
        self._failed_at.move_to_end(network)
        if len(self._failed_at) > self._max_size:
            self._failed_at.popitem(last=False)

    def forget_failure(self, network: str) -> None:
        self._failed_at.pop(network, None)

    def take_debt(self, debtor: Debtor) -> bool:
        count, since = self._debts.pop(debtor, (0, 0.0))
        if not count or self.clock() >= since + self.DEBT_SECONDS:
            return False
        if count > 1:
            self._debts[debtor] = count - 1, since
        return True
