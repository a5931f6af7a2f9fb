"""Retention: messages, requestIds and tokens go when they are too old, and not before."""

import itertools
import time

import pytest
from harness import StartServer
from upkeep import EPOCH, Upkeep
from wire import HISTORY, OWN_PROFILE, PERSON_MESSAGE, SUCCESS, logged_in, register, wait_until

from jelly import indexing, retention
from jelly.dao import Dao
from jelly.retention import ADDRESS_DAYS, DAY, IDEMPOTENCY_DAYS, SWEEP_BATCH
from jelly.server import JellyServer


@pytest.fixture
def upkeep(dao: Dao) -> Upkeep:
    """One that keeps messages for 30 days, with its first sweep behind it."""
    upkeep = Upkeep(dao, 30)
    upkeep.run_all()
    return upkeep


def test_old_messages_go(upkeep: Upkeep) -> None:
    """A message goes after 30 days, a requestId after a week; what is in an inbox stays."""
    upkeep.store(3)
    waiting = upkeep.store(2, receivers=("bob",))
    upkeep.run_all()
    days = {0: upkeep.counts()}
    start = upkeep.clock.now
    for day in range(1, 40):
        is_near_an_end = abs(day - IDEMPOTENCY_DAYS) <= 1 or abs(day - 30) <= 1
        for hour in range(1, 25) if is_near_an_end else (24,):
            upkeep.clock.now = start + (day - 1) * DAY + hour * 3600
            upkeep.run_all()
        days[day] = upkeep.counts()
    assert days[0] == (5, 5, 5)
    assert days[int(IDEMPOTENCY_DAYS) - 1] == (5, 5, 5)
    assert days[int(IDEMPOTENCY_DAYS) + 1] == (5, 5, 0)
    assert days[29] == (5, 5, 0)
    assert days[31] == (2, 0, 0)
    assert [message.id for message in upkeep.dao.waiting("bob", 0, 10)] == waiting
    upkeep.dao.remove_delivered([("bob", waiting[-1])], keep=True)
    upkeep.clock.now += DAY
    upkeep.run_all()
    assert upkeep.counts() == (0, 0, 0)


def test_young_messages_stay_while_old_ones_go(upkeep: Upkeep) -> None:
    """Each goes in its own time, though only its id tells its age."""
    for _ in range(40):
        upkeep.store(10)
        upkeep.run_all()
        upkeep.clock.now += DAY
        upkeep.run_all()
    messages, history, requests = upkeep.counts()
    assert 290 <= messages <= 300
    assert history == messages
    assert 60 <= requests <= 70


def test_a_sweep_goes_in_slices(upkeep: Upkeep) -> None:
    """However much is old, no transaction deletes more than a few hundred."""
    upkeep.store(5 * SWEEP_BATCH)
    upkeep.run_all()
    upkeep.clock.now += 31 * DAY
    before = upkeep.count("messages")
    assert before == 5 * SWEEP_BATCH
    while before:
        upkeep.clock.now = upkeep.due_at
        upkeep.run_due()
        after = upkeep.count("messages")
        assert before - after <= SWEEP_BATCH
        before = after


def test_a_clock_that_goes_back(upkeep: Upkeep) -> None:
    """It makes nothing go early."""
    upkeep.store(3)
    upkeep.run_all()
    upkeep.offset = 0.0
    upkeep.clock.now += 3600
    upkeep.run_all()
    assert upkeep.counts() == (3, 3, 3)


def test_a_server_that_sweeps(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running server drops what is older than --history-days, even if nothing else happens."""
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.0)
    server = start_server(classic_gap=0, history_days=1 / DAY)
    register(server.port, "alice", "bob")
    with (
        logged_in(server.port, "alice", features=["ack"]) as alice,
        logged_in(server.port, "bob", features=["ack"]) as bob,
    ):
        for number in range(10):
            alice.send_message("bob", str(number))
        assert {alice.receive().status for _ in range(10)} == {SUCCESS}
        ids = [bob.receive_notice().values["id"] for _ in range(10)]
        assert alice.ok(HISTORY, person="bob")["messages"]
        bob.ack(ids[-1])
        with server._reading() as dao:
            wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)])
        assert alice.ok(HISTORY, person="bob") == {"username": "alice", "messages": [], "more": False}


def stop_idle(server: JellyServer) -> None:
    """Stop a server once all connections are closed."""
    wait_until(lambda: not server.connections)
    server.stop()


def counts_after_sweep(server: JellyServer) -> tuple[int, int]:
    """How many messages and indexed requestIds the first sweep leaves."""
    wait_until(lambda: server.store._retention.due_at > time.monotonic() + 100)
    with server._reading() as dao:
        [counts] = dao.connection.query("SELECT (SELECT COUNT(*) FROM messages), (SELECT COUNT(*) FROM requests)")
    return counts[0], counts[1]


@pytest.mark.parametrize("jumps", [False, True])
def test_restarts_with_the_clock_far_ahead(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, jumps: bool
) -> None:
    """They delete nothing, whether the clock was wrong at the start or jumped before it."""
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.0)
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice", features=["ack"]) as alice, logged_in(server.port, "bob") as bob:
        alice.ok(PERSON_MESSAGE, receiver="bob", content="x", time=1, requestId="r1")
        assert bob.contents(1) == ["x"]
        bob.ok(OWN_PROFILE)
        real = time.time
        if jumps:
            monkeypatch.setattr(time, "time", lambda: real() + 60 * retention.DAY)
            alice.ok(PERSON_MESSAGE, receiver="bob", content="y", time=1, requestId="r2")
            assert bob.contents(1) == ["y"]
            bob.ok(OWN_PROFILE)
    monkeypatch.setattr(time, "time", lambda: real() + 60 * retention.DAY)
    for _ in range(3):
        stop_idle(server)
        server = start_server(classic_gap=0)
        counts = counts_after_sweep(server)
        assert counts == ((2, 2) if jumps else (1, 1))


def test_a_start_with_a_clock_that_is_behind(dao: Dao) -> None:
    """What a machine stores that starts in 1970 counts as stored when it learns the time."""
    upkeep = Upkeep(dao, 30)
    upkeep.offset = 0.0
    upkeep.run_all()
    upkeep.store(3)
    upkeep.run_all()
    upkeep.offset = EPOCH
    upkeep.clock.now += DAY
    upkeep.store(1)
    upkeep.run_all()
    assert upkeep.counts() == (4, 4, 4)
    upkeep.clock.now += 29 * DAY
    upkeep.run_all()
    assert upkeep.counts() == (4, 4, 0)
    upkeep.clock.now += 2 * DAY
    upkeep.run_all()
    assert upkeep.counts() == (0, 0, 0)


def test_an_id_says_when_its_message_was_stored(upkeep: Upkeep) -> None:
    """To the millisecond. It is never smaller than the one before, whatever the clock does."""
    first, second = upkeep.store(2)
    assert (first >> 10, second) == (int(upkeep.wall() * 1000), first + 1)
    upkeep.clock.now += 0.25
    [third] = upkeep.store(1)
    assert (third >> 10) - (first >> 10) == 250
    upkeep.offset -= 3600
    [fourth] = upkeep.store(1)
    assert fourth == third + 1


def test_pointers_go_with_the_last_message(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each conversation that has no messages any more, in slices; others stay."""
    monkeypatch.setattr(retention, "SWEEP_BATCH", 3)
    change = upkeep.dao.connection.change
    [old] = upkeep.store(1)
    upkeep.run_all()
    rows = [("ann", 0, "bob"), ("bob", 0, "ann")]
    assert upkeep.dao.connection.query("SELECT username, is_group, partner FROM read_pointers") == rows
    rows = [("ann", 1, f"g{number}") for number in range(4)] + [("zoe", 1, f"g{number}") for number in range(4)]
    for row in rows:
        change("INSERT INTO read_pointers (username, is_group, partner, message_id) VALUES (?, ?, ?, ?)", (*row, old))
    change("INSERT INTO members (group_name, username, position) VALUES ('g1', 'zoe', 0)")
    change("INSERT INTO history (message_id, is_group, one_side, other_side) VALUES (?, 1, 'g1', '')", (2**52,))
    upkeep.clock.now += 10 * DAY
    upkeep.run_all()
    assert upkeep.count("read_pointers") == 10
    upkeep.clock.now += 21 * DAY
    [new] = upkeep.store(1)
    upkeep.run_all()
    rows = [("ann", 0, "bob"), ("bob", 0, "ann"), ("zoe", 1, "g1")]
    assert upkeep.dao.connection.query("SELECT username, is_group, partner FROM read_pointers") == rows
    upkeep.clock.now += 31 * DAY
    upkeep.run_all()
    assert upkeep.dao.connection.query("SELECT username, is_group, partner FROM read_pointers") == [("zoe", 1, "g1")]
    assert new > old


def test_expired_tokens_go(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go in slices, even if their users never come back. Valid ones stay."""
    monkeypatch.setattr(retention, "SWEEP_BATCH", 3)
    now = int(upkeep.wall() * 1000)
    for number in range(20):
        expires = now + (1 if number % 4 else 10**9)
        upkeep.dao.add_token(f"{number:064}", f"user{number}", expires, now, keep=32)
    upkeep.clock.now += retention.SWEEP_INTERVAL
    left = [upkeep.count("tokens")]
    while upkeep.due_at <= upkeep.clock.now + 1:
        upkeep.clock.now = max(upkeep.clock.now, upkeep.due_at)
        upkeep.run_due()
        left.append(upkeep.count("tokens"))
    assert left[-1] == 5
    assert max(before - after for before, after in itertools.pairwise(left)) <= 3
    assert upkeep.dao.token_owner(f"{4:064}", int(upkeep.wall() * 1000)) == ("user4", "")


def test_addresses_that_were_not_used_go(upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 90 days, in slices."""
    monkeypatch.setattr(retention, "SWEEP_BATCH", 3)
    for number in range(10):
        used = int((upkeep.wall() + number * DAY) * 1000)
        upkeep.dao.remember_address(f"user{number}", "10.0.0.1", used, keep=32)
    upkeep.clock.now += (ADDRESS_DAYS + 6.5) * DAY
    left = [upkeep.count("known_addresses")]
    while upkeep.due_at <= upkeep.clock.now + 1:
        upkeep.clock.now = max(upkeep.clock.now, upkeep.due_at)
        upkeep.run_due()
        left.append(upkeep.count("known_addresses"))
    assert (left[0], left[-1]) == (10, 3)
    assert max(before - after for before, after in itertools.pairwise(left)) == 3
