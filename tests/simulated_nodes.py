"""What is simulated around the real code of several nodes: the database that they share, the hints
between them, and the machines on which they run.

Still one thread. While a node waits for the database, or is about to send something, the world goes
on (`Machine.pauses`): others act, as they would meanwhile, within a call.
"""

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from overseer_nodes import NodesOverseer
from sent import Violation
from simulated import SimulatedConnection, SimulatedServer, Wire
from simulated_clients import Device
from simulated_database import Crash, Disk, Faults

from jelly.cluster.bus import Hint
from jelly.cluster.node import Node, Parts
from jelly.cluster.node_dao import DatabaseTime, NodeDao
from jelly.cluster.wiring import make_node
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engine import Row
from jelly.quotas import QuotaLimits
from jelly.server import SHUTDOWN
from jelly.sqlite_engine import SqliteEngine
from jelly.timers import TimerHeap
from jelly.trusted_clock import TrustedClock

LEASE = 5.0
"""Seconds of a node's lease."""
LOCK_SECONDS = 2.0
"""Seconds after which the database takes the lock away from a node that does nothing with it."""


class SharedDatabase(Disk):
    """The database of all nodes. A commit can be read before it is synced; a crash takes back what
    is not.

    What a transaction reads and writes after it has the lock happens in one step, so one connection
    to SQLite serves all nodes.
    """

    TABLES = (*Disk.TABLES, "nodes", "sessions", "events", "known_addresses")

    def __init__(self) -> None:
        super().__init__()
        self.wall: Callable[[], float] = lambda: 0.0
        self.raw.create_function("db_now", 0, lambda: int(self.wall() * 1000))
        self.reset()

    def reset(self) -> None:
        self.holder: NodeConnection | None = None
        self.open: dict[NodeConnection, None] = {}
        self.commits = 0
        self.restarts = 0
        self.unsynced: list[tuple[int, bytes]] = []  # the number of each such commit, and what was before it
        self.copy: tuple[int, bytes] | None = None  # an older state, and the number of its last commit

    def empty(self) -> None:
        self.reset()
        super().empty()

    def is_durable(self, commit: int) -> bool:
        return commit not in {number for number, _ in self.unsynced}

    def synced(self, upto: int) -> None:
        """A commit is on the disk, and with it all before."""
        self.unsynced = [(number, before) for number, before in self.unsynced if number > upto]

    def take_copy(self) -> None:
        """Keep what is on the disk now."""
        if self.holder is None and not self.unsynced:
            self.copy = self.commits, self.raw.serialize()

    def crash(self, overseer: NodesOverseer) -> None:
        """The database server dies, and starts again at once."""
        self._break_all()
        self.restarts += 1
        if self.unsynced:
            first, before = self.unsynced[0]
            self._restore(before)
            overseer.was_taken_back(lambda commit: commit >= first, is_excused=False)
            self.unsynced.clear()

    def go_back(self, overseer: NodesOverseer) -> None:
        """The database goes on with the copy: what was committed since then is gone."""
        if self.copy is not None:
            last, state = self.copy
            self._break_all()
            self.unsynced.clear()
            self._restore(state)
            overseer.was_taken_back(lambda commit: commit > last, is_excused=True)

    def _break_all(self) -> None:
        for connection in list(self.open):
            connection.breaks()

    def _restore(self, state: bytes) -> None:
        source = sqlite3.connect(":memory:")
        source.deserialize(state)
        source.backup(self.raw)
        source.close()


class NodeConnection:
    """What `DatabaseConnection` needs of a DB-API connection to the shared database."""

    def __init__(self, engine: "SharedEngine") -> None:
        self._machine = engine.machine
        self._database: SharedDatabase = engine.machine.world.disk
        self._faults = engine.machine.faults
        self._is_open = self._is_fresh = self._is_broken = False
        self._is_slow = False  # the sync of this transaction takes a while
        self._before = b""
        self._database.open[self] = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        self._check()
        if sql.startswith("BEGIN"):
            self._is_open = self._is_fresh = True
            return None
        is_write = not sql.startswith("SELECT")
        if not self._is_open:
            self._machine.pauses()
            self._check()
        if self._is_open and (is_write or sql.endswith(SharedEngine.for_update)):
            self._lock()
        self._is_fresh, is_first = False, self._is_fresh
        cursor = self._database.raw.execute(sql.removesuffix(SharedEngine.for_update), parameters)
        if is_write:
            return cursor
        rows = cursor.fetchall()
        if is_first and self._database.holder is not self:
            self._machine.pauses()  # it knows what was committed before, and not what comes meanwhile
        return SimpleNamespace(fetchall=lambda: rows)

    def cursor(self) -> "NodeConnection":
        return self

    def commit(self) -> None:
        self._check()
        self._faults.may_fail(self._faults.commit_fails)
        database = self._database
        self._is_open = False
        if database.holder is not self:
            return
        database.commits += 1
        number = database.commits
        overseer: NodesOverseer = self._machine.world.overseer
        overseer.commits(self._machine, number)
        database.raw.commit()
        database.holder = None
        is_doubted = self._faults.strikes(self._faults.commit_is_doubted)
        if self._is_slow:
            database.unsynced.append((number, self._before))
            self._machine.pauses(surely=True)
            if self._faults.strikes(self._machine.world.crash_before_sync):
                self._machine.world.crashes_database()
        self._check()
        if is_doubted:
            self.breaks()
            self._check()
        database.synced(number)
        self._machine.pauses()
        if self._faults.is_dead:
            raise Crash

    def rollback(self) -> None:
        self._is_open = False
        if self._database.holder is self:
            self._database.raw.rollback()
            self._database.holder = None
            self._machine.world.overseer.rolled_back()

    def close(self) -> None:
        self.rollback()
        self._database.open.pop(self, None)

    def breaks(self) -> None:
        """The database has closed this connection."""
        self.close()
        self._is_broken = True

    def _check(self) -> None:
        if self._faults.is_dead:
            raise Crash
        if self._is_broken:
            raise sqlite3.OperationalError("simulated: the server has gone away")
        self._faults.may_fail(self._faults.statement_fails)

    def _lock(self) -> None:
        """Take the sequence lock, which a node has until its transaction ends."""
        database = self._database
        if database.holder is self:
            return
        if database.holder is not None:  # that node does nothing with it, and cannot while this one waits
            self._machine.world.passes(LOCK_SECONDS)
            database.holder.breaks()
        self._is_slow = self._faults.strikes(self._machine.world.slow_syncs)
        if self._is_slow:
            self._before = database.raw.serialize()
        database.raw.execute("BEGIN")
        database.holder = self
        if self._is_fresh:  # nothing is written yet, so others read what is committed
            self._machine.pauses()
            self._check()


class SharedEngine(SqliteEngine):
    """The way of one node to the shared database."""

    for_update = " FOR UPDATE"
    utc_ms = "db_now()"

    def __init__(self, machine: "Machine") -> None:
        super().__init__("")
        self.machine = machine

    def connect(self) -> Any:
        if self.machine.faults.is_dead:
            raise Crash
        self.machine.faults.may_fail(self.machine.faults.statement_fails)
        return NodeConnection(self)

    def begin(self, raw: Any) -> None:
        raw.execute("BEGIN")

    def query(self, raw: Any, sql: str, parameters: Sequence[Any]) -> list[Row]:
        rows: list[Row] = raw.execute(sql, parameters).fetchall()
        return rows

    def execute(self, raw: Any, sql: str, parameters: Sequence[Any]) -> int:
        # MySQL does not count a row whose value stays, and SQLite does.
        if "WHEN 'event' THEN value" in sql:
            sql = sql.replace("IN ('event', ", "IN (")
        return super().execute(raw, sql, parameters)

    def claim_file(self) -> None:
        """There is no file."""

    def claim(self, raw: Any) -> None:
        """As on MySQL: after a restart, what can be read need not be what was synced."""
        self.lost_syncs = self.machine.world.disk.restarts


class SimulatedBus:
    """Puts hints into the bag of the world, which loses some, and swaps the others."""

    def __init__(self, machine: "Machine", on_hint: Callable[[Hint], None]) -> None:
        self._machine = machine
        self.on_hint = on_hint
        self.number = 0
        self.name, self.sender = "simulated", machine.name
        self.heard: set[str] = set()

    @property
    def is_up(self) -> bool:
        return bool(self._machine.world.bus_is_up)

    def start(self, node: int) -> None:
        self.number = node

    def publish(self, upto: Mapping[int, int], event: int) -> None:
        if not self._machine.faults.is_dead:
            self._machine.world.publishes(self, upto, event)

    def greet(self) -> None:
        world = self._machine.world
        if world.bus_is_up and not self._machine.faults.is_dead:
            for machine in world.machines:
                if machine.server is not None:
                    machine.server.bus.heard.add(self.sender)

    def send_note(self, node: int, data: bytes) -> None:
        """Notes are stored nowhere, so no world needs them."""

    def take_heard(self) -> Collection[str]:
        heard, self.heard = self.heard, set()
        return heard

    def stop(self) -> None:
        """Nothing to do."""


class SimulatedNode(SimulatedServer):
    """The real parts of one node."""

    is_node = True

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        super().__init__(machine)
        settings = cast(Any, SimpleNamespace(cluster="none", node_address=machine.name, node_timeout=LEASE))
        parts = Parts(
            self.sessions, self.delivery, self.presence, self.indexing, self.retention, self.quotas, self.guard
        )
        self.node: Node = make_node(settings, self.dao, parts, cast(Any, self), machine.clock)
        self.node.count_connections = lambda: 0
        self.bus = SimulatedBus(machine, self.node.on_hint)
        if machine.world.has_bus:
            self.node.bus = self.bus

    def _open(self) -> tuple[SqliteEngine, Dao, TrustedClock]:
        machine = self.machine
        engine = SharedEngine(machine)
        time = DatabaseTime(machine.wall, machine.clock)
        clock = TrustedClock(is_trusted=True, wall=time.now, monotonic=machine.clock)
        clock.start(machine.world.disk.mark(), machine.world.disk.times())
        self.dao = NodeDao(DatabaseConnection(engine, writes=True), clock, time)
        return engine, self.dao, clock

    def _begin_anew(self) -> None:
        """As `JellyServer` does."""
        self.machine.world.overseer.begins_anew(self.machine)
        self.groups.forget_all()
        self.services.known_users.forget_all()
        self.node.start_over()
        self.close_connections()

    def give_up(self, reason: str) -> None:
        self.machine.world.overseer.fail(reason)

    def close_connections(self) -> None:
        for wire in self.machine.wires:
            wire.connection.session.closing = True
            wire.close()

    def leaves(self) -> None:
        """What the store thread does when it ends."""
        with self.store._turn:
            self.node.leave()

    @property
    def is_in_turn(self) -> bool:
        return self.store._turn.locked()


class NodeWire(Wire):
    """A connection to a node."""

    @property
    def machine(self) -> "Machine":
        return cast(Machine, self._world)


class Machine:
    """A machine: it starts a node, which may crash, or stand still for a while. It is what its node
    sees of the world.
    """

    has_contacts = has_several_devices = False
    limits_of_devices = QuotaLimits()

    def __init__(self, world: Any, name: str) -> None:
        self.world, self.name = world, name
        self.is_complete = False  # the ends of sessions are noted in the simulation of one server
        self.rng, self.clock, self.wall = world.rng, world.clock, world.wall
        self.history_days, self.quotas, self.queue_size = world.history_days, world.quotas, world.queue_size
        self.turns_of_workers, self.limit, self.overseer = world.turns_of_workers, world.limit, world.overseer
        self.faults = Faults(world.rng, on=False)
        self.server: SimulatedNode | None = None
        self.stands_until = 0.0
        self.wires: list[Wire] = []
        self.connections: list[SimulatedConnection] = []  # also those that have ended and are not served yet
        self._timers = TimerHeap()
        self.began_at = 0  # the overseer's tick when the outermost of these calls began
        self._depth = 0  # how many calls of the node's code wait within each other

    def __repr__(self) -> str:
        return self.name

    @property
    def acts(self) -> bool:
        """Whether its node runs."""
        return self.server is not None and self.clock() >= self.stands_until

    def starts(self) -> None:
        """Start a node, if none runs. It may fail, as the database may."""
        if self.server is None and self._depth == 0 and self.world.disk.holder is None:
            self.faults = self.world.faults_of_a_node()
            is_on, self.faults.on = self.faults.on, False
            self._timers = TimerHeap()
            self.stands_until = 0.0
            self.server = SimulatedNode(self)
            self.faults.on = is_on
            self.world.say("{} starts", self)

    def crashes(self) -> None:
        """The node's process is gone. What Python still runs of it has no effect any more."""
        if self.server is None:
            return
        self.world.say("{} crashes", self)
        self.faults.is_dead = True
        for connection in list(self.world.disk.open):
            if connection._machine is self:
                connection.breaks()
        self.server = None
        wires, self.wires = self.wires, []
        self.connections.clear()
        for wire in wires:
            self.overseer.machine_is_gone(wire)
            if wire.device.wire is wire:
                self.world.loses_connection(wire.device)

    def stops(self) -> None:
        """The node serves what it has read, and tells its clients and the others that it stops."""
        server = self.server
        if server is None or self._depth:
            return
        self.world.say("{} stops", self)
        server.node.drain()
        while self.server is server and server.dispatcher.has_work:
            self.runs(server.dispatcher.serve_next)
        for step in (self.takes_turn, self._closes_all, self.takes_turn, server.leaves):
            if self.server is server:
                self.runs(step)
        if self.server is server:
            self.crashes()

    def _closes_all(self) -> None:
        for wire in list(self.wires):
            wire.finish(SHUTDOWN if wire.device.is_modern else b"")
            wire.connection.finish()

    def runs(self, function: Callable[[], None]) -> None:
        """Run code of the node, which may die of it."""
        if self._depth == 0:
            self.began_at = self.overseer.passes()
        self._depth += 1
        try:
            function()
        except Crash:
            pass
        except Exception as error:  # noqa: BLE001 - the code that waits for this call may be another node's
            self.overseer.fail(f"{type(error).__name__}: {error}")
        finally:
            self._depth -= 1

    def takes_turn(self) -> None:
        """The store thread takes a turn."""
        server = self.server
        if server is None or server.is_in_turn:
            return
        for call in self._timers.pop_due(self.clock()):
            call()
        server.store.take_turn()

    def connects(self, device: Device) -> None:
        """A client comes, and is accepted while the node serves."""
        server = self.server
        if server is not None and server.node.admits_clients:
            self.world.say("{} connects to {}", device, self)
            wire = NodeWire(self, device, self.rng.choice((1, 3, 1000)), self.rng.choice((1, 5, 100)))
            self.connections = [c for c in self.connections if c.session.transport in self.wires or c.lane.waiting]
            self.connections.append(SimulatedConnection(server, wire, self.overseer))
            self.wires.append(wire)
            device.connects(wire)

    def pauses(self, surely: bool = False) -> None:
        """Let others act before the node goes on. It may also crash here."""
        if self.faults.on and not self.faults.is_dead:
            self.world.goes_on(self, surely)
        if self.faults.is_dead:
            raise Crash

    # --- what the node sees -----------------------------------------------------------------------

    def say(self, text: str, *values: object) -> None:
        self.world.say(text, *values)

    def call_at(self, due: float, function: Callable[[], None]) -> None:
        self._timers.call_at(due, function)

    def may_be_interrupted(self) -> None:
        if self.world.disk.holder is None or self.world.disk.holder._machine is not self:
            self.pauses()

    def may_take_meanwhile(self, wire: Wire) -> None:
        """Nothing."""


__all__ = ["LEASE", "Machine", "SharedDatabase", "SimulatedNode", "Violation"]
