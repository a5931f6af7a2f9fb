"""A clock that may be wrong: what ids and what is old make of it."""

import logging
import random
import time

import pytest
from clock import Clock
from harness import StartServer, allocate_ids
from wire import OWN_PROFILE, Wire, logged_in, register, wait_until

from jelly.dao import Dao
from jelly.server import JellyServer
from jelly.trusted_clock import AGREEMENT, DAY, FIRST_DATED, MAX_ID, Times, TrustedClock

NOW = 1_800_000_000.0


class Machine:
    """A machine with two clocks, of which one may be set."""

    def __init__(self, is_trusted: bool = False) -> None:
        self.monotonic = Clock()
        self.offset = NOW
        self.clock = TrustedClock(is_trusted, self.wall, self.monotonic)

    def wall(self) -> float:
        return self.offset + self.monotonic.now

    def start(self, dao: Dao, is_trusted: bool = False) -> Dao:
        """Start a server over a database, and store a message; returns what it writes with."""
        self.clock = TrustedClock(is_trusted, self.wall, self.monotonic)
        self.clock.start(dao.read_mark(), dao.read_times())
        writer = Dao(dao.connection, self.clock)
        allocate_ids(writer)
        return writer

    def run(self, writer: Dao, seconds: float) -> None:
        """Let a server run, with a transaction each hour."""
        end = self.monotonic.now + seconds
        while self.monotonic.now < end:
            self.monotonic.now = min(end, self.monotonic.now + 3600)
            self.clock.now()
            allocate_ids(writer)

    def is_ahead(self, seconds: float = DAY) -> bool:
        """Whether things expire by a time that is later than the true one."""
        return self.clock.now() > NOW + self.monotonic.now + seconds

    @property
    def now_id(self) -> int:
        return int(self.wall() * 1000) << 10


@pytest.fixture
def machine() -> Machine:
    return Machine()


def times_before(machine: Machine, seconds: float) -> Times:
    """What a database remembers that a server with a right clock used last some seconds ago."""
    ms = int((machine.wall() - seconds) * 1000)
    return Times(ms, ms)


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
        machine.clock.start(machine.now_id, times_before(machine, 40 * DAY))  # a start before this one gave this id
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
    machine.clock.start(machine.now_id, times_before(machine, 7200))
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


def test_a_clock_that_is_behind_for_a_while(machine: Machine) -> None:
    """What is noted meanwhile does not look older than it is when the clock is set right."""
    machine.clock.start(machine.now_id, times_before(machine, 60))
    machine.offset -= 20_000 * DAY
    noted = machine.clock.latest()
    machine.monotonic.now += 3 * DAY
    machine.offset += 20_000 * DAY
    assert machine.clock.now() - noted == pytest.approx(3 * DAY, abs=1)


def test_nothing_is_certain_yet(machine: Machine) -> None:
    """With a database of an older version nothing expires for an hour."""
    machine.clock.start(2_000_001)
    assert machine.clock.now() == 0
    machine.monotonic.now += AGREEMENT
    assert machine.clock.now() == machine.wall()


def test_days_without_a_server_that_has_never_run_for_an_hour(machine: Machine) -> None:
    """Only the newest id is known: what is old stays as many days longer as the clock is ahead."""
    machine.offset += 3 * DAY
    machine.clock.start(int(NOW * 1000) << 10)
    machine.monotonic.now += 1.9 * DAY
    assert not machine.is_ahead()
    machine.monotonic.now += 0.2 * DAY
    assert machine.is_ahead()


def test_the_operator_says_so() -> None:
    """Then the clock is believed at once."""
    machine = Machine(is_trusted=True)
    machine.clock.start(machine.now_id, times_before(machine, 40 * DAY))
    assert machine.clock.now() == machine.wall()


# --- over several starts --------------------------------------------------------------------------


def test_starts_with_the_clock_far_ahead(dao: Dao, machine: Machine) -> None:
    """However many there are, and whatever they store: they make nothing certain."""
    machine.run(machine.start(dao), 2 * AGREEMENT)
    machine.offset += 60 * DAY
    for _ in range(70):
        machine.run(machine.start(dao), AGREEMENT / 2)
        assert not machine.is_ahead(0)
    for _ in range(5):
        machine.run(machine.start(dao), 3 * AGREEMENT)
        assert not machine.is_ahead(0)


def test_a_new_database_with_a_wrong_clock(dao: Dao, machine: Machine) -> None:
    """When the clock is set right within the first hour, the wrong time counts for nothing."""
    machine.offset += 60 * DAY
    writer = machine.start(dao)
    machine.offset -= 60 * DAY
    machine.run(writer, 60)
    machine.offset += 60 * DAY
    assert not machine.is_ahead(0)
    machine.offset -= 60 * DAY
    machine.run(writer, 2 * AGREEMENT)
    machine.offset += 60 * DAY
    machine.run(machine.start(dao), 2 * AGREEMENT)
    assert not machine.is_ahead(0)


def test_a_restart_after_a_jump(dao: Dao, machine: Machine) -> None:
    """What jumped while the server ran is no better after a restart. Ids do not follow it."""
    writer = machine.start(dao)
    machine.run(writer, 2 * AGREEMENT)
    last = writer.peek_id()
    machine.offset += 60 * DAY
    assert allocate_ids(writer)[0] - last < int(DAY * 1000) << 10
    for _ in range(3):
        machine.start(dao)
        assert not machine.is_ahead(0)
        machine.monotonic.now += AGREEMENT
        assert not machine.is_ahead(0)


def test_any_starts_stops_and_jumps(dao: Dao) -> None:
    """Nothing expires by a time that is ahead, while no clock that is ahead had time to prove
    itself: it has days to wait for each day that it is ahead.
    """
    for seed in range(20):
        rng = random.Random(seed)
        machine = Machine()
        dao.connection.execute(
            "UPDATE meta SET value = CASE name WHEN 'next_id' THEN 1 WHEN 'schema_version' THEN value ELSE 0 END"
        )
        writer = machine.start(dao)
        machine.run(writer, 2 * AGREEMENT)
        noted = []
        for _ in range(60):
            if rng.random() < 0.6:
                machine.offset = NOW + rng.choice([0, 0, 20, 60, 300, 800, -1, -30, -20000]) * DAY
            if rng.random() < 0.5:
                writer = machine.start(dao)
            machine.run(writer, rng.choice([0, 60, 1800, 5000, 20000]))
            assert not machine.is_ahead(), f"seed {seed}"
            noted.append((machine.clock.latest(), machine.monotonic.now))
            for time_noted, true in noted:
                age = machine.monotonic.now - true
                assert machine.clock.now() - time_noted <= age + DAY, f"seed {seed}"


@pytest.mark.parametrize("run", [30 * DAY, DAY / 2])
def test_weeks_without_the_server(dao: Dao, machine: Machine, run: float) -> None:
    """Its clock is trusted after it has run for as long, also if it is started each morning."""
    machine.run(machine.start(dao), 2 * AGREEMENT)
    machine.monotonic.now += 21 * DAY
    started = machine.monotonic.now
    running = 0.0
    while running < 19 * DAY:
        writer = machine.start(dao)
        machine.run(writer, min(run, 19 * DAY))
        running += min(run, 19 * DAY)
        assert machine.clock.now() < machine.wall() - 20 * DAY
        if run < DAY:
            machine.monotonic.now += 60
    assert machine.monotonic.now - started < 20 * DAY
    for _ in range(6):
        writer = machine.start(dao) if run < DAY else writer
        machine.run(writer, DAY / 2)
    assert machine.clock.now() == machine.wall()
    machine.start(dao)
    assert machine.clock.now() == pytest.approx(machine.wall(), abs=3600)


def test_the_operator_says_so_once(dao: Dao, machine: Machine) -> None:
    """The next start knows it."""
    machine.run(machine.start(dao), 2 * AGREEMENT)
    machine.monotonic.now += 400 * DAY
    machine.start(dao, is_trusted=True)
    machine.start(dao)
    assert machine.clock.now() == pytest.approx(machine.wall(), abs=1)


def test_messages_of_a_clock_that_is_not_believed(dao: Dao, machine: Machine) -> None:
    """Their ids are counted, so they do not tell how old they are: all count as stored when the
    clock is believed.
    """
    machine.run(machine.start(dao), 2 * AGREEMENT)
    for offset in (-30 * DAY, -20000 * DAY, 800 * DAY):
        machine.offset = NOW + offset
        machine.run(machine.start(dao), DAY)
        assert dao.id_at(NOW + machine.monotonic.now + 10 * 366 * DAY) == 0
        machine.offset = NOW
        last = machine.start(dao, is_trusted=True).peek_id() - 1
        assert dao.id_at(NOW + machine.monotonic.now) <= last
        machine.run(machine.start(dao, is_trusted=True), 2)
        assert dao.id_at(NOW + machine.monotonic.now) > last


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
