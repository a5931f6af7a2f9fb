"""Logins over real sockets: who guesses, who is made to wait for it, and what a password costs."""

import contextlib
import threading
import time
from typing import Any

import pytest
from harness import NullTransport, StartServer
from wire import (
    LOGIN,
    PASSWORD,
    REGISTER,
    SUCCESS,
    UPDATE_PROFILE,
    Reply,
    Wire,
    logged_in,
    register,
    wait_until,
)

from jelly import login_service, passwords, requests
from jelly import server as server_module
from jelly.dao import Dao
from jelly.hashing import HASHERS, Work
from jelly.login_guard import LoginGuard
from jelly.outcomes import CpuTask, Place
from jelly.server import JellyServer
from jelly.sessions import Session


def first_answer(port: int, type: int, **values: Any) -> Reply:
    """The answer to a request on a fresh connection, which the server must close after it."""
    with Wire(port) as wire:
        reply = wire.call(type, **values)
        with pytest.raises(EOFError):
            wire.receive()
    return reply


def token_works(port: int, username: str, token: int) -> bool:
    """Whether a token lets its user back in; if not, it must be refused as the protocol says."""
    with Wire(port) as wire:
        reply = wire.reconnect(username, token)
    assert reply.status == SUCCESS or reply.error == "invalid_token"
    return reply.status == SUCCESS


def guard_of(server: JellyServer) -> LoginGuard:
    guard: LoginGuard = server.dispatcher._services.logins._guard
    return guard


def guess(server: JellyServer, times: int, network: str, is_known: bool = False) -> None:
    """Note wrong passwords for alice, without waiting for what the guard makes wait."""
    for _ in range(times):
        guard_of(server).attempt("alice", network, is_known, exists=True).fail()


def later(server: JellyServer, seconds: float, network: str) -> None:
    """Let time pass for the guard, and for those who wait for its word."""
    guard_of(server).clock = lambda: time.monotonic() + seconds
    server.dispatcher._hashers._queue.look_again(("alice", network))


def hold_hashers(server: JellyServer) -> threading.Event:
    """Keep all hashers busy until an event is set."""
    held, until = threading.Barrier(HASHERS + 1), threading.Event()

    def hold() -> None:
        held.wait(10)
        until.wait(10)

    for number in range(HASHERS):
        session = Session(NullTransport(), "")
        attempt = guard_of(server).attempt(f"nobody{number}", "nowhere", is_known=True, exists=True)
        server.dispatcher._hashers.submit(
            Work(session, "", Place.KNOWN, attempt, run=hold, refuse=hold, give_up=hold, drop=hold)
        )
    held.wait(10)
    return until


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes against which passwords are checked."""
    hashes: list[str] = []
    real = passwords.verify_password

    def verify(password: str, stored: str) -> bool:
        hashes.append(stored)
        return real(password, stored)

    monkeypatch.setattr(passwords, "verify_password", verify)
    return hashes


def parameters(stored: str) -> tuple[str, ...]:
    """What decides how long a hash takes."""
    return tuple(stored.split("$")[:4])


def test_names_that_nobody_can_have(start_server: StartServer) -> None:
    """To try them is to guess, too: whoever does it has repeats."""
    server = start_server()
    for name in ("a b", "\n", "", "x" * 3000):
        assert first_answer(server.port, LOGIN, username=name, password="x").error == "wrong_credentials"
    guard = guard_of(server)
    assert max(len(name) for name, _ in guard.invented) == 64
    assert guard.has_failed_last("127.0.0.1")
    assert guard.attempt("bob", "127.0.0.1", is_known=False, exists=True).is_repeat


def test_unknown_user_and_wrong_password(port: int, hashed: list[str]) -> None:
    """Both get the same answer to the byte, for the same work."""
    answers = [first_answer(port, LOGIN, username=name, password="x") for name in ("bob", "ghost", "bob ", "")]
    assert answers[0].error == "wrong_credentials"
    assert len(set(answers)) == 1
    assert len(hashed) == 4
    assert len(set(map(parameters, hashed))) == 1


def test_a_cost_that_was_raised(start_server: StartServer, hashed: list[str]) -> None:
    """It tells no names: an unknown name costs what most accounts cost, while they have old hashes;
    and each login renews the hash of its account.
    """
    first = start_server()
    register(first.port, "alice", "bob", "carol")
    first.stop()
    port = start_server(password_cost=3).port

    def costs() -> list[tuple[str, ...]]:
        hashed.clear()
        for name in ("alice", "ghost"):
            assert first_answer(port, LOGIN, username=name, password="x").error == "wrong_credentials"
        return [parameters(stored) for stored in hashed]

    old, new = ("scrypt", "1", "8", "5"), ("scrypt", "3", "8", "5")
    assert costs() == [old, old]
    for user in ("alice", "bob"):
        with logged_in(port, user) as wire:
            assert token_works(port, user, wire.token)
        logged_in(port, user).close()
    assert costs() == [new, new]
    assert parameters(hashed[-1]) == new
    logged_in(port, "carol").close()
    assert first_answer(port, LOGIN, username="carol", password="x").error == "wrong_credentials"


def test_two_logins_that_renew_the_same_hash(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have verified the old one: the second finds the hash that the first has stored, and is
    not refused.
    """
    first = start_server()
    register(first.port, "alice")
    first.stop()
    server = start_server(password_cost=3)
    both = threading.Barrier(2)
    hash_password = passwords.hash_password

    def hash_together(password: str, cost: int) -> str:
        both.wait(10)
        return hash_password(password, cost)

    with Wire(server.port) as one, Wire(server.port, source="127.0.0.2") as other:
        monkeypatch.setattr(passwords, "hash_password", hash_together)
        for wire in (one, other):
            wire.send_request(LOGIN, username="alice", password=PASSWORD, features=[])
        assert [wire.receive_response().status for wire in (one, other)] == [SUCCESS, SUCCESS]
    monkeypatch.setattr(passwords, "hash_password", lambda *_: 1 // 0)
    logged_in(server.port, "alice").close()


def test_a_password_changed_during_a_login(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one does not log in any more, although its hash was verified before."""
    server = start_server()
    register(server.port, "alice")
    verified, may_go_on = threading.Event(), threading.Event()
    real = passwords.verify_password

    def verify(password: str, stored: str) -> bool:
        is_right = real(password, stored)
        verified.set()
        assert may_go_on.wait(10)
        return is_right

    with logged_in(server.port, "alice") as alice, Wire(server.port) as late:
        monkeypatch.setattr(passwords, "verify_password", verify)
        late.send_request(LOGIN, username="alice", password=PASSWORD)
        assert verified.wait(10)
        alice.ok(UPDATE_PROFILE, password="another")
        may_go_on.set()
        assert late.receive().error == "wrong_credentials"


def test_five_wrong_passwords_are_tried_at_once(start_server: StartServer) -> None:
    """The sixth is not, nor is the right one; other accounts do not wait."""
    server = start_server()
    register(server.port, "alice", "bob")
    with Wire(server.port) as sixth:
        monotonic = time.monotonic()
        guard_of(server).clock = lambda: monotonic
        for _ in range(5):
            assert first_answer(server.port, LOGIN, username="alice", password="x").error == "wrong_credentials"
        sixth.send_request(LOGIN, username="alice", password=PASSWORD)
        wait_until(lambda: len(server.dispatcher._hashers))
        logged_in(server.port, "bob").close()
        assert len(server.dispatcher._hashers)
        guard_of(server).clock = lambda: monotonic + 1
        assert sixth.receive().status == SUCCESS


def test_the_right_password_forgets_the_wrong_ones(start_server: StartServer) -> None:
    """After a successful login there are five free attempts again."""
    server = start_server()
    guard_of(server).clock = lambda: 0.0
    register(server.port, "alice")
    for _ in range(3):
        for _ in range(4):
            assert first_answer(server.port, LOGIN, username="alice", password="x").error == "wrong_credentials"
        logged_in(server.port, "alice").close()


def test_the_owner_behind_the_address_of_a_guesser(start_server: StartServer) -> None:
    """Ten wrong guesses, or a hundred, do not lock out the owner, who has logged in from there
    before; and tokens always work.
    """
    server = start_server()
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        pass
    guess(server, 100, "127.0.0.1", is_known=True)
    logged_in(server.port, "bob").close()
    assert token_works(server.port, "alice", alice.token)
    with Wire(server.port) as owner:
        owner.send_request(LOGIN, username="alice", password=PASSWORD)
        wait_until(lambda: len(server.dispatcher._hashers))
        later(server, 10, "127.0.0.1")
        assert owner.receive().status == SUCCESS


def test_guesses_from_elsewhere(start_server: StartServer) -> None:
    """Forty addresses that guess slow the account for all others, and not for the owner at an
    address of before.
    """
    server = start_server()
    register(server.port, "alice")
    logged_in(server.port, "alice").close()
    for number in range(40):
        guess(server, 1, f"10.0.0.{number}")
    logged_in(server.port, "alice").close()
    with Wire(server.port, source="127.0.0.2") as stranger:
        stranger.send_request(LOGIN, username="alice", password="x")
        wait_until(lambda: len(server.dispatcher._hashers))
        logged_in(server.port, "alice").close()
        later(server, 20, "")
        assert stranger.receive().error == "wrong_credentials"


def test_the_owner_at_a_new_address(start_server: StartServer) -> None:
    """Gets the next turn at a slowed account, though others have waited for longer; the address is
    known from then on, also after a restart.
    """
    server = start_server()
    register(server.port, "alice")
    guess(server, 20, "127.0.0.1")
    with contextlib.ExitStack() as stack:
        guessers = [stack.enter_context(Wire(server.port)) for _ in range(5)]
        for guesser in guessers:
            guesser.send_request(LOGIN, username="alice", password="x")
        owner = stack.enter_context(Wire(server.port, source="127.0.0.2"))
        owner.send_request(LOGIN, username="alice", password=PASSWORD)
        wait_until(lambda: len(server.dispatcher._hashers) == 6)
        later(server, 20, "")
        assert owner.receive().status == SUCCESS
        assert not any(guesser._waiting for guesser in guessers)
    server.stop()
    server = start_server()
    guess(server, 20, "127.0.0.1")
    with Wire(server.port, source="127.0.0.2") as owner:
        assert owner.login("alice").status == SUCCESS


@pytest.mark.parametrize(("heartbeat_interval", "longest_hold"), [(1.0, 24.0), (6.0, 0.5)])
def test_a_late_answer_comes_before_the_end_of_its_connection(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, heartbeat_interval: float, longest_hold: float
) -> None:
    """An attempt that the guard holds back is answered before the silence has lasted too long."""
    monkeypatch.setattr(server_module, "LONGEST_HOLD", longest_hold)
    server = start_server(heartbeat_interval=heartbeat_interval)
    register(server.port, "alice")
    guess(server, 20, "127.0.0.1")
    assert first_answer(server.port, LOGIN, username="alice", password="x").error == "too_many_attempts"


def test_a_client_that_has_left_is_not_hashed(start_server: StartServer, hashed: list[str]) -> None:
    """Also if its reader has paused and does not see it."""
    server = start_server()
    may_go_on = hold_hashers(server)
    padding = "x" * 3000
    gone = [Wire(server.port) for _ in range(5)]
    for wire in gone:
        for _ in range(2):
            wire.send_request(LOGIN, username="alice", password="x", padding=padding)
    wait_until(lambda: len(server.dispatcher._hashers) == len(gone))
    for wire in gone:
        wire.reset()
    may_go_on.set()
    wait_until(lambda: not server.connections)
    assert not len(server.dispatcher._hashers)
    assert not hashed


def test_a_stop_while_logins_wait(start_server: StartServer, hashed: list[str]) -> None:
    """They are refused at once: nobody waits for the end of a flood."""
    server = start_server()
    may_go_on = hold_hashers(server)
    with Wire(server.port) as login, Wire(server.port) as registration:
        login.send_request(LOGIN, username="alice", password="x")
        registration.send_request(REGISTER, username="alice", password="x")
        wait_until(lambda: len(server.dispatcher._hashers) == 2)
        stop = threading.Thread(target=server.stop)
        stop.start()
        assert [wire.receive().error for wire in (login, registration)] == ["busy", "busy"]
        may_go_on.set()
        stop.join(10)
        assert not stop.is_alive()
    assert not hashed


def test_an_ipv6_network_is_one_address(start_server: StartServer) -> None:
    """Whoever has a whole /64 guesses as if from one address; IPv4 in IPv6 is IPv4."""
    logins = start_server().dispatcher._services.logins

    def network(address: str) -> str:
        task = logins.login(Session(NullTransport(), address), requests.Login("alice", "x"))
        assert isinstance(task, CpuTask)
        assert task.attempt
        return task.attempt.network

    assert network("2001:db8:0:1::1") == network("2001:db8:0:1:ffff::2") != network("2001:db8:0:2::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1")


def test_known_addresses_are_bounded(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one replaces the one that was not used for longest."""
    monkeypatch.setattr(login_service, "MAX_KNOWN_ADDRESSES", 2)
    monkeypatch.setattr(login_service, "ADDRESS_PRECISION", -1)
    server = start_server()
    register(server.port, "alice")
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3"):
        with Wire(server.port, source=source) as wire:
            assert wire.login("alice").status == SUCCESS
    with server._reading() as dao:
        noted = [dao.credentials("alice", f"127.0.0.{number}")[1] for number in (1, 2, 3)]
    assert [at is not None for at in noted] == [True, False, True]


def test_a_login_from_a_known_address_writes_nothing_more(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noted again after a day."""
    server = start_server()
    register(server.port, "alice")
    noted: list[str] = []
    remember = Dao.remember_address

    def note(dao: Dao, username: str, network: str, now: int, keep: int) -> None:
        noted.append(network)
        remember(dao, username, network, now, keep)

    monkeypatch.setattr(Dao, "remember_address", note)
    for _ in range(3):
        logged_in(server.port, "alice").close()
    assert noted == ["127.0.0.1"]
    monkeypatch.setattr(login_service, "ADDRESS_PRECISION", 0)
    logged_in(server.port, "alice").close()
    assert noted == ["127.0.0.1"] * 2


def test_invented_names_cost_no_memory(start_server: StartServer) -> None:
    """A failed login with a name that nobody can have is not remembered at its full length."""
    server = start_server()
    first_answer(server.port, LOGIN, username="x" * 60_000, password="x")
    assert not len(guard_of(server))
