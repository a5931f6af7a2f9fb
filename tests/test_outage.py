"""What the log says while the database is away: a line, and one a minute."""

import re
import sqlite3
from itertools import pairwise
from typing import Any

import pytest
from clock import Clock
from harness import StartServer
from wire import LOGOUT, OWN_PROFILE, PERSON_MESSAGE, SERVER_ERROR, logged_in, register, wait_until

from jelly.errors import StoreError
from jelly.outage import LINE_INTERVAL, QUIET_SECONDS, RECOVERY_SECONDS, OutageLog


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about the database since the last call."""
    found = [r.getMessage() for r in caplog.records if r.levelname != "DEBUG" and "database" in r.getMessage()]
    caplog.clear()
    return found


def test_readers_and_writers_in_an_outage(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many requests fail, on whichever thread: one line, and one when it is over."""

    def fail(*_: Any) -> Any:
        raise sqlite3.OperationalError("gone")

    server = start_server(classic_gap=0)
    register(server.port, "alice")
    with logged_in(server.port, "alice", features=[]) as alice:
        lines(caplog)
        with monkeypatch.context() as patch:
            patch.setattr(server.engine, "query", fail)
            patch.setattr(server.engine, "begin", fail)
            for _ in range(100):
                alice.send_request(OWN_PROFILE)
                alice.send_request(PERSON_MESSAGE, receiver="alice", content="x", time=1)
            assert {alice.receive_response().status for _ in range(200)} == {SERVER_ERROR}
        alice.message("alice", "hello")
        # At the latest, the transaction that indexes the message ends the outage.
        wait_until(lambda: "the database works again" in caplog.messages)
        said = lines(caplog)
    assert len(said) == 2, said[:5]
    assert re.fullmatch(r"the database failed: OperationalError: gone", said[0])
    assert said[1] == "the database works again"


def test_a_logout_in_an_outage(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no response, as always, and the connection is closed."""

    def fail(*_: Any) -> Any:
        raise sqlite3.OperationalError("gone")

    server = start_server()
    register(server.port, "alice")
    with logged_in(server.port, "alice", features=[]) as alice:
        monkeypatch.setattr(server.engine, "begin", fail)
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.socket.recv(100) == b""
    wait_until(lambda: server.sessions.get("alice") is None)


def test_a_long_outage(caplog: pytest.LogCaptureFixture) -> None:
    """A line a minute says how many failures there were."""
    clock = Clock()
    outage = OutageLog(clock)
    for _ in range(int(LINE_INTERVAL * 3)):
        for _ in range(1000):
            outage.failed(StoreError("gone"))
        clock.now += 1
    assert lines(caplog) == [
        "the database failed: gone",
        "the database failed: gone (60,000 failures since the last line)",
        "the database failed: gone (60,000 failures since the last line)",
    ]


def test_an_outage_after_a_quiet_time(caplog: pytest.LogCaptureFixture) -> None:
    """It is told at once, also if only readers have noticed the first one, and nobody its end."""
    clock = Clock()
    outage = OutageLog(clock)
    outage.failed(StoreError("gone"))
    clock.now += QUIET_SECONDS + 0.1
    outage.failed(StoreError("gone"))
    assert len(lines(caplog)) == 2


@pytest.mark.parametrize("pause", [0.1, RECOVERY_SECONDS])
def test_a_database_that_fails_now_and_then(pause: float, caplog: pytest.LogCaptureFixture) -> None:
    """It does not fill the log; and each line that says that it works belongs to one that says that
    it failed.
    """
    clock = Clock()
    outage = OutageLog(clock)
    for _ in range(1000):
        outage.failed(StoreError("gone"))
        clock.now += pause
        outage.worked()
    said = ["works again" in line for line in lines(caplog)]
    assert len(said) <= 2 * (1000 * pause / QUIET_SECONDS + 1)
    assert not said[0]
    if pause >= RECOVERY_SECONDS:
        assert all(one != two for one, two in pairwise(said))


def test_only_readers_fail(caplog: pytest.LogCaptureFixture) -> None:
    """While one thread commits and another's queries fail, the log does not say that all is
    well.
    """
    clock = Clock()
    outage = OutageLog(clock)
    for _ in range(int(LINE_INTERVAL) * 10 - 1):
        outage.failed(StoreError("too many connections"))
        outage.worked()
        clock.now += 0.1
    assert lines(caplog) == ["the database failed: too many connections"]


def test_another_reason(caplog: pytest.LogCaptureFixture) -> None:
    """It is told at once; but an outage with ever new reasons does not fill the log."""
    clock = Clock()
    outage = OutageLog(clock)
    for number in range(int(LINE_INTERVAL / 2)):
        outage.failed(StoreError("gone"))
        outage.failed(StoreError("another server uses it"))
        outage.failed(StoreError(f"number {number}"))
        clock.now += 1
    assert lines(caplog) == [
        "the database failed: gone",
        "the database failed: another server uses it",
        "the database failed: number 0",
        "the database failed: number 1 (3 failures since the last line)",
    ]
