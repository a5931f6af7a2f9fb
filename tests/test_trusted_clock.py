"""A clock that may be wrong: what ids and what is old make of it."""

import logging
import time

import pytest
from clock import Clock
from harness import StartServer, allocate_ids
from wire import OWN_PROFILE, Wire, logged_in, register, wait_until

from jelly.dao import Dao
from jelly.server import JellyServer
from jelly.trusted_clock import AGREEMENT, DAY, FIRST_DATED, MAX_ID, TrustedClock

NOW = 1_800_000_000.0


class Machine:
    """A machine with two clocks, of which one may be set."""

    def __init__(self, is_trusted: bool = False) -> None:
        self.monotonic = Clock()
        self.offset = NOW
        self.clock = TrustedClock(is_trusted, self.wall, self.monotonic)

    def wall(self) -> float:
        return self.offset + self.monotonic.now

    @property
    def now_id(self) -> int:
        return int(self.wall() * 1000) << 10


@pytest.fixture
def machine() -> Machine:
    return Machine()


# --- ids ------------------------------------------------------------------------------------------


def store_mark(dao: Dao, mark: int) -> None:
    dao.connection.execute("UPDATE meta SET value = ? WHERE name = 'next_id'", (mark,))


def test_ids_of_a_restored_backup(dao: Dao, machine: Machine) -> None:
    """However old the copy is: by the time, ids go on above all that were given since."""
    before = allocate_ids(Dao(dao.connection, machine.clock), 5)
    machine.monotonic.now += 60
    given = allocate_ids(Dao(dao.connection, machine.clock), 5)
    store_mark(dao, before[0])
    machine.monotonic.now += 1
    assert allocate_ids(Dao(dao.connection, machine.clock))[0] > given[-1]


def test_a_clock_that_is_years_ahead(dao: Dao, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """It is not believed, and a warning says so; ids are counted."""
    writer = Dao(dao.connection, machine.clock)
    [first] = allocate_ids(writer)
    assert first == machine.now_id
    machine.offset += 366 * DAY + 1
    with caplog.at_level(logging.WARNING, "jelly.clock"):
        assert allocate_ids(writer) + allocate_ids(writer) == [first + 1, first + 2]
    [warning] = caplog.records
    assert "more than a year ahead of the newest message" in warning.getMessage()
    machine.offset -= 366 * DAY
    assert allocate_ids(writer) == [machine.now_id]


def test_a_year_off_and_the_operator_says_so(dao: Dao, machine: Machine) -> None:
    """A server that was off for years goes on with the time if it is told to."""
    allocate_ids(Dao(dao.connection, machine.clock))
    later = Machine(is_trusted=True)
    later.offset += 3 * 366 * DAY
    assert allocate_ids(Dao(dao.connection, later.clock)) == [later.now_id]


def test_a_clock_beyond_all_ids(dao: Dao) -> None:
    """In the year 2248 the time does not fit into an id any more; nor is it believed before."""
    machine = Machine(is_trusted=True)
    machine.offset = MAX_ID / 1024 / 1000
    assert allocate_ids(Dao(dao.connection, machine.clock)) == [1]


def test_ids_of_an_older_version(dao: Dao, machine: Machine) -> None:
    """They were counted. From the first one that carries the time on all do, and the older ones
    count as stored then.
    """
    store_mark(dao, 2_000_001)
    writer = Dao(dao.connection, machine.clock)
    assert writer.id_at(machine.wall() + DAY) == 0
    [first] = allocate_ids(writer)
    assert first == machine.now_id > FIRST_DATED
    assert writer.id_at(machine.wall()) == 0
    assert writer.id_at(machine.wall() + 1) > first


# --- what expires ---------------------------------------------------------------------------------


def test_a_start_with_the_clock_far_ahead(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Things expire by the time that is certain: the newest id, and what has passed since."""
    with caplog.at_level(logging.WARNING, "jelly.clock"):
        machine.clock.start(int((machine.wall() - 40 * DAY) * 1000) << 10)
    [warning] = caplog.records
    assert "40.0 days ahead" in warning.getMessage()
    certain = machine.wall() - 40 * DAY
    for hours in range(100):
        assert machine.clock.now() == pytest.approx(certain + hours * 3600, abs=0.01)
        machine.monotonic.now += 3600
    machine.offset -= 40 * DAY  # somebody sets it right
    assert machine.clock.now() == pytest.approx(machine.wall(), abs=0.01)


def test_a_clock_that_agrees(machine: Machine) -> None:
    """After an hour in which it went like the monotonic one, near the newest id, it is believed."""
    machine.clock.start(int((machine.wall() - 7200) * 1000) << 10)
    start = machine.wall()
    assert machine.clock.now() == pytest.approx(start - 7200, abs=0.01)
    machine.monotonic.now += AGREEMENT - 1
    assert machine.clock.now() == pytest.approx(machine.wall() - 7200, abs=0.01)
    machine.monotonic.now += 1
    assert machine.clock.now() == machine.wall()


def test_a_clock_that_jumps_while_the_server_runs(machine: Machine) -> None:
    """It is not believed until it has gone evenly for an hour, and never if it has jumped far."""
    machine.clock.start(1)
    assert machine.clock.now() == machine.wall()
    machine.offset += 7200
    assert machine.clock.now() == machine.wall() - 7200
    machine.monotonic.now += AGREEMENT
    assert machine.clock.now() == machine.wall()
    machine.offset += 50 * DAY
    for _ in range(50):
        machine.monotonic.now += AGREEMENT
        assert machine.clock.now() == pytest.approx(machine.wall() - 50 * DAY)


def test_a_clock_that_goes_back(machine: Machine) -> None:
    """The earlier time is always believed: nothing expires too soon by it."""
    machine.clock.start(1)
    machine.offset -= 10 * DAY
    assert machine.clock.now() == machine.wall()


def test_nothing_is_certain_yet(machine: Machine) -> None:
    """With a database of an older version nothing expires for an hour."""
    machine.clock.start(2_000_001)
    assert machine.clock.now() == 0
    machine.monotonic.now += AGREEMENT
    assert machine.clock.now() == machine.wall()


def test_the_operator_says_so() -> None:
    """Then the clock is believed at once."""
    machine = Machine(is_trusted=True)
    machine.clock.start(int((machine.wall() - 40 * DAY) * 1000) << 10)
    assert machine.clock.now() == machine.wall()


def kept(server: JellyServer) -> tuple[int, int]:
    """How many messages and tokens there are."""
    with server._reading() as dao:
        [counts] = dao.connection.query("SELECT (SELECT COUNT(*) FROM messages), (SELECT COUNT(*) FROM tokens)")
    return counts[0], counts[1]


@pytest.mark.parametrize("trust_clock", ["no", "yes"])
def test_a_server_with_the_clock_far_ahead(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, trust_clock: str
) -> None:
    """It deletes nothing, and tokens stay valid, unless the operator says that it is right."""
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice", features=["ack"]) as alice, logged_in(server.port, "bob") as bob:
        token = alice.token
        alice.message("bob", "x")
        assert bob.contents(1) == ["x"]
        bob.ok(OWN_PROFILE)
    wait_until(lambda: not server.connections)
    server.stop()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300 * DAY)
    server = start_server(classic_gap=0, trust_clock=trust_clock)
    wait_until(lambda: server.store._retention.due_at > time.monotonic() + 100)  # it has swept
    assert kept(server) == ((0, 0) if trust_clock == "yes" else (1, 2))
    with Wire(server.port) as alice:
        assert alice.reconnect("alice", token).error == ("invalid_token" if trust_clock == "yes" else "")
