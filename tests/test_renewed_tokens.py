"""Tokens that are renewed: at RECONNECT, and while a session lives; not for ever, and not if they
are gone."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from clock import Clock
from harness import StartServer
from wire import RECONNECT, REQUEST_ERROR, Wire, logged_in, register, wait_until

from jelly import passwords, tokens
from jelly.dao import Dao
from jelly.server import JellyServer
from jelly.tokens import Renewals, Tokens
from jelly.trusted_clock import TrustedClock

DAY = 86_400_000
"""Milliseconds."""


class Row(NamedTuple):
    """When the password was given, and when the token expires: days from now."""

    created: float
    expires: float


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    server = start_server(database=database_url)
    register(server.port, "alice", "bob")
    return server


def set_row(server: JellyServer, token: int, row: Row, now: int) -> None:
    with server._reading() as dao, dao.connection.transaction():
        dao.connection.change(
            "UPDATE tokens SET created = ?, expires = ? WHERE token_hash = ?",
            (now + int(row.created * DAY), now + int(row.expires * DAY), passwords.hash_token(token)),
        )


def days_left(server: JellyServer, token: int, now: int) -> float:
    """In how many days a token expires."""
    with server._reading() as dao:
        rows = dao.connection.query("SELECT expires FROM tokens WHERE token_hash = ?", (passwords.hash_token(token),))
    return float((int(rows[0][0]) - now) / DAY)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(Row(-6, 1), 7, id="renewed"),
        pytest.param(Row(-1.1, 5.9), 7, id="after-a-day"),
        pytest.param(Row(-0.9, 6.1), 6.1, id="at-most-once-a-day"),
        pytest.param(Row(-30, 6.5), 6.5, id="at-most-once-a-day-later"),
        pytest.param(Row(-87, 1), 3, id="at-most-90-days"),
        pytest.param(Row(-89, 1), 1, id="it-has-its-90-days"),
        pytest.param(Row(-100, 1), 1, id="it-has-more"),
    ],
)
def test_a_reconnect(server: JellyServer, before: Row, after: float) -> None:
    """It is the same token, which expires later."""
    with logged_in(server.port, "alice") as alice:
        token = alice.token
    now = int(time.time() * 1000)
    set_row(server, token, before, now)
    for _ in range(2):
        with Wire(server.port) as again:
            again.reconnect("alice", token)
        assert days_left(server, token, now) == pytest.approx(after, abs=0.01)


def test_it_is_not_known_when_the_password_was_given(server: JellyServer) -> None:
    """The token is of an older version: it works until it expires."""
    with logged_in(server.port, "alice") as alice:
        token = alice.token
    now = int(time.time() * 1000)
    set_row(server, token, Row(-now / DAY, 1), now)
    with Wire(server.port) as again:
        again.reconnect("alice", token)
    assert days_left(server, token, now) == pytest.approx(1, abs=0.01)


def test_what_has_expired_stays_expired(server: JellyServer) -> None:
    with logged_in(server.port, "alice") as alice:
        token = alice.token
    now = int(time.time() * 1000)
    set_row(server, token, Row(-8, -1), now)
    with Wire(server.port) as again:
        assert again.call(RECONNECT, username="alice", token=token).status == REQUEST_ERROR
    assert days_left(server, token, now) == pytest.approx(-1, abs=0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that renews tokens all the time."""
    monkeypatch.setattr(tokens, "RENEWAL_INTERVAL", 0.02)
    monkeypatch.setattr(tokens, "ROUND_PAUSE", 0.02)


@pytest.mark.usefixtures("quick")
def test_while_a_session_lives(server: JellyServer) -> None:
    """Also the token of a session whose connection never ends is renewed."""
    with logged_in(server.port, "alice") as alice:
        now = int(time.time() * 1000)
        set_row(server, alice.token, Row(-6, 1), now)
        wait_until(lambda: days_left(server, alice.token, now) > 6.9)
        set_row(server, alice.token, Row(-85, 1), now)
        wait_until(lambda: days_left(server, alice.token, now) > 4.9)
        assert days_left(server, alice.token, now) <= 5


@pytest.mark.usefixtures("quick")
def test_what_was_ended_does_not_come_back(server: JellyServer) -> None:
    """A token is renewed if it is there, and never made anew."""
    with logged_in(server.port, "alice"):
        with server._reading() as dao, dao.connection.transaction():
            dao.remove_tokens("alice")
        with logged_in(server.port, "bob") as bob:  # whose token is renewed in the same transactions
            now = int(time.time() * 1000)
            set_row(server, bob.token, Row(-6, 1), now)
            wait_until(lambda: days_left(server, bob.token, now) > 6.9)
        with server._reading() as dao:
            assert dao.connection.query("SELECT username FROM tokens") == [("bob",)]


@dataclass
class Living:
    """A session, as far as its token is concerned."""

    token_hash: str


def test_rounds(dao: Dao) -> None:
    """Once an hour all sessions are looked at, and what was renewed a day ago is renewed, a few in
    each transaction."""
    clock = Clock()
    wall = TrustedClock(is_trusted=True, wall=lambda: 1e9 + clock.now, monotonic=clock)
    all_tokens = Tokens(7 * 86400.0, wall, 90 * 86400.0)
    sessions = [Living(f"{number:064}") for number in range(450)]
    renewals = Renewals(all_tokens, [*sessions, Living("")], clock)
    for session in sessions:
        dao.add_token(session.token_hash, "alice", int((1e9 + 7 * 86400) * 1000), 0, 1000, int(1e9 * 1000))

    def count() -> int:
        """How many were renewed since they were issued."""
        return len(dao.connection.query("SELECT 1 FROM tokens WHERE expires > ?", (int((1e9 + 7 * 86400) * 1000),)))

    for hour in range(24):
        clock.now = hour * 3600.0
        assert not renewals.run(dao)
    assert count() == 0
    clock.now = 24 * 3600.0
    runs = [(renewals.run(dao), count()) for _ in range(4)]
    assert runs == [(True, 200), (True, 400), (False, 450), (False, 450)]
    clock.now += 3600.0
    assert not renewals.run(dao)
