"""The guard against guessing, with the clock in the test's hand: who may try when."""

import threading
from collections.abc import Iterator

import pytest
from clock import Clock

from jelly.login_guard import ASK_AGAIN, Attempt, LoginGuard

HOME, OTHER = "10.0.0.1", "10.0.0.2"
HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> LoginGuard:
    return LoginGuard(clock, max_size=3)


def ask(
    guard: LoginGuard, username: str = "alice", network: str = HOME, is_known: bool = False, exists: bool = True
) -> Attempt:
    return guard.attempt(username, network, is_known, exists)


def waits(
    guard: LoginGuard, clock: Clock, times: int, is_known: bool, networks: Iterator[str] | None = None
) -> list[float]:
    """Fail some times, each as soon as it may be tried; how long each had to wait."""
    seconds = []
    for _ in range(times):
        attempt = ask(guard, network=next(networks) if networks else HOME, is_known=is_known)
        began_at = clock.now
        while wait := attempt.try_begin():
            clock.now += wait
        seconds.append(clock.now - began_at)
        attempt.fail()
        attempt.end()
    return seconds


def test_guesses_from_a_known_address_wait_ten_seconds_at_most(guard: LoginGuard, clock: Clock) -> None:
    """The first six are tried at once; nothing is ever locked."""
    assert waits(guard, clock, 14, is_known=True) == [0, 0, 0, 0, 0, 1, 2, 4, 8, 10, 10, 10, 10, 10]


@pytest.mark.parametrize("is_known", [False, True])
def test_the_log_names_the_account(
    guard: LoginGuard, clock: Clock, caplog: pytest.LogCaptureFixture, is_known: bool
) -> None:
    """There is a line when its logins begin to wait, and one a minute while it goes on."""
    waits(guard, clock, 4, is_known)
    assert caplog.messages == []
    waits(guard, clock, 1, is_known)
    line = f"logins of alice wait, after 5 wrong passwords within 15 minutes; the last one came from {HOME}"
    assert caplog.messages == [line]
    began_at = clock.now
    waits(guard, clock, 30, is_known)
    assert 3 <= len(caplog.messages) <= 2 + (clock.now - began_at) // 60


def test_the_log_of_names_that_nobody_has(guard: LoginGuard, caplog: pytest.LogCaptureFixture) -> None:
    """Guesses at them put nothing into it: anybody could fill it with them."""
    for _ in range(5):
        attempt = ask(guard, "nobody", exists=False)
        attempt.try_begin()
        attempt.fail()
    assert caplog.messages == []


def test_guesses_from_elsewhere_wait_twenty_seconds_at_most(guard: LoginGuard, clock: Clock) -> None:
    """The same for addresses from which the account has never logged in."""
    assert waits(guard, clock, 13, is_known=False) == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 20, 20, 20]


def test_forty_addresses_have_no_more_tries_than_one(guard: LoginGuard, clock: Clock) -> None:
    """Strangers to an account count together."""
    addresses = (f"10.0.1.{number}" for number in range(40))
    began_at = clock.now
    assert waits(guard, clock, 40, is_known=False, networks=addresses)[-10:] == [20] * 10
    assert clock.now - began_at > 600


def test_the_owner_at_a_known_address_does_not_wait_for_strangers(guard: LoginGuard, clock: Clock) -> None:
    """However much is guessed from elsewhere; and those at another account do not either."""
    waits(guard, clock, 20, is_known=False)
    assert ask(guard, network=OTHER, is_known=True).try_begin() == 0.0
    assert ask(guard, username="bob").try_begin() == 0.0
    assert ask(guard, network=OTHER).try_begin() > 10


def test_the_owner_behind_the_address_of_a_guesser(guard: LoginGuard, clock: Clock) -> None:
    """After ten wrong guesses the owner, who has logged in from there before, waits ten seconds."""
    waits(guard, clock, 10, is_known=True)
    owner = ask(guard, is_known=True)
    assert owner.try_begin() == 10
    clock.now += 10
    assert owner.try_begin() == 0.0
    owner.succeed()
    assert ask(guard, is_known=True).try_begin() == 0.0


def test_one_at_a_time(guard: LoginGuard, clock: Clock) -> None:
    """While an attempt is tried, others at a slowed account wait: many connections do not help."""
    waits(guard, clock, 5, is_known=False)
    clock.now += 1
    first, second = ask(guard), ask(guard)
    assert first.try_begin() == 0.0
    clock.now += HOUR / 60
    assert second.try_begin() == ASK_AGAIN
    first.fail()
    assert second.try_begin() == 2


def test_what_is_under_way_counts_like_a_failure(guard: LoginGuard) -> None:
    """So no more than five are tried at the same moment; right ones let the next ones in."""
    attempts = [ask(guard) for _ in range(6)]
    assert [attempt.try_begin() for attempt in attempts] == [0, 0, 0, 0, 0, ASK_AGAIN]
    attempts[0].succeed()
    assert attempts[5].try_begin() == 0.0


def test_the_window_passes(guard: LoginGuard, clock: Clock) -> None:
    """A quarter of an hour after the failures everything is as before."""
    waits(guard, clock, 10, is_known=False)
    clock.now += 15 * 60
    assert waits(guard, clock, 6, is_known=False) == [0, 0, 0, 0, 0, 1]


def test_success_forgets_the_failures_of_its_own_network(guard: LoginGuard, clock: Clock) -> None:
    """The right password is no help to others who guess."""
    waits(guard, clock, 3, is_known=False)
    waits(guard, clock, 5, is_known=False, networks=iter([OTHER] * 5))
    attempt = ask(guard)
    clock.now += 20
    assert attempt.try_begin() == 0.0
    attempt.succeed()
    assert [network for _, network in guard._others["alice", ""].recent] == [OTHER] * 5


def test_who_goes_first(guard: LoginGuard, clock: Clock) -> None:
    """Of those who wait: one who does not come for a failed attempt, then the network that has
    failed least, then the newest.
    """
    waits(guard, clock, 6, is_known=False)
    renewal = ask(guard)
    waits(guard, clock, 1, is_known=False, networks=iter([OTHER]))
    assert renewal.is_renewal
    for network in (HOME, OTHER):
        while ask(guard, "x", network).is_renewal:
            pass
    from_home, from_other, stranger, newest = (ask(guard, network=at) for at in (HOME, OTHER, "10.0.0.3", "10.0.0.4"))
    wait = [renewal, from_home, from_other, stranger, newest]
    assert sorted(wait, key=Attempt.rank) == [newest, stranger, from_other, from_home, renewal]


def test_repeats(guard: LoginGuard, clock: Clock) -> None:
    """An attempt at a pair that has failed, and the one that comes for a failed one, whatever name
    it brings: but each failure makes one repeat, and only for a minute.
    """
    assert not ask(guard).is_repeat
    for attempt in (ask(guard), ask(guard)):
        attempt.fail()
    assert [ask(guard, f"invented{number}").is_repeat for number in range(3)] == [True, True, False]
    assert ask(guard).is_repeat
    assert not ask(guard).is_renewal
    ask(guard, "bob", OTHER).abandon()
    clock.now += LoginGuard.DEBT_SECONDS
    assert not ask(guard, "carol", OTHER).is_repeat


def test_memory_is_bounded(guard: LoginGuard) -> None:
    """Beyond its measure the guard forgets the account that failed longest ago; what never failed
    is not remembered, and an account has a bound, too.
    """
    for name in ("a", "b", "c", "d"):
        assert ask(guard, name).try_begin() == 0.0
        ask(guard, name).fail()
    assert [name for name, _ in guard._others] == ["b", "c", "d"]
    attempt = ask(guard, "e", OTHER)
    assert attempt.try_begin() == 0.0
    attempt.succeed()
    assert ("e", "") not in guard._others
    for number in range(200):
        ask(guard, "d", f"10.1.0.{number}").fail()
    assert len(guard._others["d", ""].recent) == LoginGuard.MAX_REMEMBERED
    assert len(guard._debts) == 3


def test_invented_names_do_not_drive_out_accounts(guard: LoginGuard, clock: Clock) -> None:
    """A flood of names that nobody has makes the guard forget no failures at an account."""
    waits(guard, clock, 6, is_known=False)
    for number in range(100):
        ask(guard, f"invented{number}", exists=False).fail()
    assert ask(guard).try_begin() > 0
    assert len(guard.invented) == 3


def test_invented_names_wait_like_accounts(guard: LoginGuard) -> None:
    """Nobody can tell by the guard whether there is such a user."""
    for exists in (True, False):
        for _ in range(7):
            ask(guard, "ghost", exists=exists).fail()
    assert ask(guard, "ghost", exists=True).try_begin() == ask(guard, "ghost", exists=False).try_begin() == 4


def test_who_fails_again_is_young_again(guard: LoginGuard) -> None:
    """An account at which somebody goes on failing is not the first to be forgotten."""
    for name in ("alice", "a", "b", "alice", "c"):
        ask(guard, name).fail()
    assert [name for name, _ in guard._others] == ["b", "alice", "c"]


def test_attempts_at_the_same_time() -> None:
    """Attempts on many threads share one count."""
    guard = LoginGuard(lambda: 0.0)
    attempts = [ask(guard) for _ in range(40)]
    began: list[float] = []
    threads = [threading.Thread(target=lambda each=attempt: began.append(each.try_begin())) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert began.count(0.0) == LoginGuard.FREE_FAILURES
