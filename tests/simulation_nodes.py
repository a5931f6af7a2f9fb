"""Two or three nodes in a simulated world: as `simulation.py`, but the servers share a database.

    python tests/simulation_nodes.py --seeds 5000        # many worlds, until one violates a promise
    python tests/simulation_nodes.py --seed 1234 --trace # one of them, step by step

The real code of each node is that of `simulation.py`, and `jelly/cluster/`. Simulated besides
(`simulated_nodes.py`): the database, whose commits can be read before they are synced, which may
crash, go back to an older state, or close a connection; hints that are lost, doubled, swapped and
late; machines that crash, or stand still, also with the sequence lock. What must be true says
`overseer_nodes.py`.
"""

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # called by its name: as pytest does, look for the program in the directory above
    sys.path.insert(0, str(Path(__file__).parent.parent))

from overseer_nodes import NodesOverseer
from simulated import Wire
from simulated_clients import Device
from simulated_database import Faults
from simulated_nodes import LEASE, Machine, SharedDatabase, SimulatedBus, SimulatedNode
from worlds import GROUPS, Event, Limits, Simulation, Trace, World

from jelly import delivery, fair_queue, indexing, notifier, sessions
from jelly.cluster import node
from jelly.cluster.bus import Hint
from jelly.quotas import QuotaLimits

MAX_DEPTH = 4
"""At most this many nodes wait at once, each for what the next one does meanwhile."""
MAX_OUTGOING = 6
"""At most this many messages wait at a client."""


class NodesWorld(World):
    """One simulated world. `run` plays it from its beginning to its end; raises Violation."""

    overseer: NodesOverseer

    def __init__(self, seed: int, disk: SharedDatabase, trace: Trace | None = None) -> None:
        super().__init__(seed, disk, trace)
        self.disk = disk
        rng = self.rng
        self._depth = 0
        self._is_calm = True
        self.history_days = rng.choice((0.0, 30.0))
        self.queue_size = 1000
        self.turns_of_workers = rng.choice((0.0, 0.5))
        self.quotas = QuotaLimits()
        self.limits = self._draw_limits()
        self.limit: int = self.limits[sessions, "MAX_UNACKNOWLEDGED"]
        self._chances: dict[str, Any] = {
            "statement_fails": rng.choice((0.0, 0.0, 0.01)),
            "commit_fails": rng.choice((0.0, 0.0, 0.1)),
            "commit_is_doubted": rng.choice((0.0, 0.0, 0.2)),
        }
        self.crash_before_sync = rng.choice((0.0, 0.0, 0.2))
        self.slow_syncs = rng.choice((0.0, 0.5, 0.9))
        self._pauses = rng.choice((0.05, 0.2, 0.5))
        self.has_bus = rng.random() < 0.8
        self.bus_is_up = self.has_bus
        self._hints: list[tuple[int, Hint]] = []
        self._hint_loss = rng.choice((0.0, 0.0, 0.3, 1.0))
        users = self._users = [f"u{number}" for number in range(rng.randint(2, 4))]
        classic = [user for user in users[1:] if rng.random() < rng.choice((0.0, 0.3))]
        owners = [user for user in users for _ in range(rng.choice((1, 1, 2)))]
        self.overseer = NodesOverseer(
            self.wall, self.history_days, classic, users, page_characters=0, batch_rows=0, may_be_busy=False,
            quotas=self.quotas,
        )  # fmt: skip
        window = rng.choice((1, 4, 16))
        self.devices = [
            Device(self, user, f"{user}.{number}", user not in classic, rng.getrandbits(62), window)
            for number, user in enumerate(owners)
        ]
        self._name_devices(seed)
        self.machines = [Machine(self, f"node {letter}") for letter in "ABC"[: rng.choice((2, 2, 3))]]
        self._events, self._weights = self._draw_events()

    def passes(self, seconds: float) -> None:
        """Time passes."""
        self._now += seconds

    def _indent(self) -> str:
        return "  " * self._depth

    def faults_of_a_node(self) -> Faults:
        return Faults(self.rng, **self._chances, on=not self._is_calm)

    # --- the beginning ----------------------------------------------------------------------------

    def _draw_limits(self) -> Limits:
        draw = self.rng.choice
        return {
            (sessions, "MAX_UNACKNOWLEDGED"): draw((2, 4, 1000, 1000)),
            (delivery, "PAGE"): draw((2, 10, 100)),
            (delivery, "FEED_MESSAGES"): draw((1, 5, 500)),
            (indexing, "INDEX_BATCH"): draw((1, 3, 500)),
            (fair_queue, "BATCH_ROWS"): draw((1, 6, 4000)),
            (notifier, "TELL_INTERVAL"): draw((0.0, 0.1, 1.0)),
            (node, "MAX_TAIL"): draw((2, 2000)),
            (node, "TRIM_INTERVAL"): draw((0.1, 10.0)),
            **self._undrawn_limits(),
        }

    def _draw_events(self) -> tuple[list[Event], list[float]]:
        """What can happen in this world, and how often. Half of what is rare never happens."""
        often: list[Event] = [
            self._write, self._reach_server, self._reach_client, self._serve, self._turn, self._hand_over,
            self._connect, self._bring_hint, self._work,
        ]  # fmt: skip
        seldom: list[Event] = [
            self._cut, self._die, self._crash_node, self._stand_still, self.crashes_database, self._break_connection,
            self._go_back, self._wait, self._repeat, self._fall_silent, self._log_out, self._turn_bus,
        ]  # fmt: skip
        rng = self.rng
        events = [(event, rng.uniform(1.0, 5.0)) for event in often]
        events += [(event, rng.choice((0.0, 0.0, 0.2, 0.8))) for event in seldom]
        events += [(self._change_group, rng.choice((0.0, 2.0))), (self._take_over, rng.choice((0.0, 0.5, 2.0)))]
        events += [(self._start_node, 1.0), (self._confirm, 0.5), (self.disk.take_copy, rng.choice((0.3, 2.0)))]
        draw = random.Random(f"stop {self.seed}").choice  # of its own: the rest of a world stays as it was
        events.append((self._stop_node, draw((0.0, 0.0, 0.0, 0.5))))
        possible = [(event, weight) for event, weight in events if weight]
        return [event for event, _ in possible], [weight for _, weight in possible]

    def _prepare(self) -> None:
        self.disk.overseer = None
        self.disk.empty()
        self.disk.wall = self.wall
        self._insert_users(self.disk)
        friends = [(user, other) for user in self._users for other in self._users]
        self.disk.raw.executemany("INSERT INTO friends (username, friend) VALUES (?, ?)", friends)
        self.overseer.have_accepted(friends)
        self.disk.overseer = self.overseer
        self.overseer.begin(self.disk)
        self._insert_groups(self.disk, 0.5)
        self.overseer.tables_are_ready()

    # --- the course -------------------------------------------------------------------------------

    def run(self) -> None:
        rng = self.rng
        self._prepare()
        for machine in self.machines:
            machine.starts()
        self._come_to_rest()
        self._is_calm = False
        for machine in self.machines:
            machine.faults = self.faults_of_a_node()
        for _ in range(rng.choice((100, 200, 400))):
            self._step()
        self._end_faults()
        self._come_to_rest()
        self._settle()
        self.overseer.final_check()
        self.overseer.check_nodes(self.machines)
        if rng.random() < 0.5:
            self.say("a node crashes, somebody leaves, and nobody comes back")
            online = [device for device in self.devices if device.wire is not None]
            self.loses_connection(rng.choice(online))
            self.machines[0].crashes()
            self.machines[0].starts()
            self._settle()
            self.overseer.check_nodes(self.machines)

    def _step(self) -> None:
        self._now += self.rng.choice((0.0, 0.001, 0.01, 0.05))
        [event] = self.rng.choices(self._events, self._weights)
        event()

    def goes_on(self, machine: Machine, surely: bool) -> None:
        """A node is at a point at which others may act before it goes on."""
        if self._depth < MAX_DEPTH and (surely or self.rng.random() < self._pauses):
            self.say("{} waits; meanwhile:", machine)
            self._depth += 1
            try:
                for _ in range(self.rng.choice((1, 3, 10, 30))):
                    self._step()
            finally:
                self._depth -= 1
            self.say("{} goes on", machine)

    # --- events -----------------------------------------------------------------------------------

    def _machine(self) -> Machine:
        return self.rng.choice(self.machines)

    def _write(self) -> None:
        device = self._device()
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            if len(device._outgoing) >= MAX_OUTGOING:
                return
            is_group = self.rng.random() < 0.4
            receiver = self.rng.choice(GROUPS if is_group else self._users)
            request_id = f"r{self._count + 1}" if device.is_modern else None
            self._send(device, receiver, is_group, request_id)

    def _acting(self) -> list[tuple[Machine, SimulatedNode]]:
        """The machines whose nodes run, and can do something now."""
        return [(machine, machine.server) for machine in self.machines if machine.server is not None and machine.acts]

    def _reach_server(self) -> None:
        """Something that a client wrote arrives; or the end of its connection."""
        wires = [
            (machine, wire)
            for machine, _ in self._acting()
            for wire in machine.wires
            if wire.to_server or wire.is_cut or wire.is_closed
        ]
        if wires:
            machine, wire = self.rng.choice(wires)
            self._reads(machine, wire, whole=self.rng.random() < 0.8)

    def _reads(self, machine: Machine, wire: Wire, whole: bool) -> None:
        if wire.to_server and not wire.is_closed:
            count = len(wire.to_server) if whole else self.rng.randint(1, len(wire.to_server))
            data = bytes(wire.to_server[:count])
            del wire.to_server[:count]
            machine.runs(lambda: wire.connection.reads(data))
        elif wire.is_cut or wire.is_closed:
            self.say("{} notices the end of {}", machine, wire.device)
            machine.wires.remove(wire)
            machine.runs(wire.connection.finish)

    def _sees_the_end(self, device: Device) -> None:
        self.loses_connection(device)

    def _serve(self) -> None:
        """A worker of a node serves a lane."""
        busy = [(machine, server) for machine, server in self._acting() if server.dispatcher.has_work]
        if busy:
            machine, server = self.rng.choice(busy)
            machine.runs(server.dispatcher.serve_next)

    def _turn(self) -> None:
        """The store thread of a node does what is due."""
        idle = [machine for machine, server in self._acting() if not server.is_in_turn]
        # Who waits for the lock waits until it is taken away from a node that does nothing with it.
        if idle and (self.disk.holder is None or self.rng.random() < 0.2):
            machine = self.rng.choice(idle)
            machine.runs(machine.takes_turn)

    def _work(self) -> None:
        """A node does all that it has to do."""
        acting = self._acting()
        if not acting:
            return
        machine, server = self.rng.choice(acting)
        for wire in list(machine.wires):
            if machine.server is server:
                self._reads(machine, wire, whole=True)
        while machine.server is server and server.dispatcher.has_work:
            machine.runs(server.dispatcher.serve_next)
        if machine.server is server and self.disk.holder is None:
            machine.runs(machine.takes_turn)

    def _hand_over(self) -> None:
        self._hand_over_some((1, 1, 100))

    def _connect(self) -> None:
        """A client comes (back)."""
        device = self._device()
        if self._may_come(device, 0.1):
            self._bring_back(device)

    def _take_over(self) -> None:
        """A user logs in again, perhaps at another node."""
        device = self._device()
        if device.wire is not None and self.rng.random() < 0.5:
            self.loses_connection(device)
        if device.wire is None:
            self._bring_back(device)

    def _bring_back(self, device: Device) -> None:
        self._machine().connects(device)

    def loses_connection(self, device: Device) -> None:
        """A connection is over; what was under way arrives, or not."""
        wire = device.wire
        assert wire is not None
        if wire.to_client and self.rng.random() < 0.5:
            device.takes(wire.to_client)
        device.is_cut(reads_on=device.reads_on and self.rng.random() < 0.5)
        wire.cut(self.rng.choice((0, len(wire.to_server), self.rng.randint(0, len(wire.to_server)))))

    def _cut(self) -> None:
        device = self._device()
        if device.wire is not None:
            self.say("{} is cut off", device)
            self.loses_connection(device)

    def _log_out(self) -> None:
        device = self._device()
        if device.is_online and not device.callbacks:
            self.say("{} logs out", device)
            device.logs_out()

    def _confirm(self) -> None:
        for machine in self.machines:
            for wire in machine.wires:
                wire.look()
        self._device().heartbeat()

    def _wait(self) -> None:
        self._now += self.rng.choice((0.2, 1.1, 3.0))

    # --- machines, hints and the database ---------------------------------------------------------

    def _crash_node(self) -> None:
        self._machine().crashes()

    def _stop_node(self) -> None:
        machine = self._machine()
        if machine.acts and self.disk.holder is None:
            machine.stops()

    def _start_node(self) -> None:
        self._machine().starts()

    def _stand_still(self) -> None:
        """A machine stops for a while: perhaps for so long that the others take it for dead."""
        machine = self._machine()
        machine.stands_until = self._now + self.rng.choice((0.5, 2.0, LEASE + 2.0))
        self.say("{} stands still until {}", machine, machine.stands_until)
        if self.rng.random() < 0.3:
            self._now = machine.stands_until - 0.5

    def publishes(self, bus: SimulatedBus, upto: Mapping[int, int], event: int) -> None:
        for machine in self.machines:
            server = machine.server
            if server is None or server.bus is bus:
                continue
            number = server.bus.number
            hint = Hint(upto.get(number, 0), event)
            copies = 0 if self.rng.random() < self._hint_loss else self.rng.choice((1, 1, 2))
            if hint != (0, 0) and self.bus_is_up and number:
                self._hints += [(number, hint)] * copies

    def _bring_hint(self) -> None:
        """A hint arrives, in any order."""
        if not self._hints:
            return
        place = self.rng.randrange(len(self._hints))
        number, hint = self._hints[place]
        machine = next((each for each in self.machines if each.server and each.server.bus.number == number), None)
        if machine is None or machine.server is None:
            del self._hints[place]
        elif machine.acts:
            del self._hints[place]
            self.say("{} gets a hint {}", machine, hint)
            machine.server.bus.on_hint(hint)

    def _turn_bus(self) -> None:
        """The engine between the nodes goes away, or comes back."""
        if self.has_bus:
            self.bus_is_up = not self.bus_is_up
            for machine in self.machines:
                if machine.server is not None:
                    machine.server.node.on_bus(self.bus_is_up)

    def crashes_database(self) -> None:
        self.say("the database crashes, with {} commits not synced", len(self.disk.unsynced))
        self.disk.crash(self.overseer)

    def _break_connection(self) -> None:
        """The database closes a connection, perhaps one that has the lock."""
        if self.disk.open:
            self.say("a connection to the database breaks")
            self.rng.choice(list(self.disk.open)).breaks()

    def _go_back(self) -> None:
        if self.rng.random() < 0.4 and self.disk.copy is not None:
            self.say("the database goes back")
            self.disk.go_back(self.overseer)

    # --- the end ----------------------------------------------------------------------------------

    def _end_faults(self) -> None:
        self.say("all faults end")
        self._is_calm = True
        self.bus_is_up = self.has_bus
        for machine in self.machines:
            machine.faults.on = False
            machine.stands_until = 0.0
            machine.starts()
        for device in self.devices:
            device.is_deaf = False
            device.window = 100
        for device in self.devices:
            if device.wire is not None and self.rng.random() < 0.5:
                self.loses_connection(device)

    def _settle(self) -> None:
        """Time enough for leases to run out, and for what is told later."""
        for _ in range(9):
            self._let_flow()
            self._now += 0.8

    def _let_flow(self) -> None:
        """All that is under way arrives and is served."""
        for machine in self.machines:
            self._serves_all(machine)
        while self._hints:
            self._bring_hint()
        for device in self.devices:
            self._receives_all(device)
        self._confirm()
        self._beat()

    def _serves_all(self, machine: Machine) -> None:
        server = machine.server
        assert server is not None
        for wire in list(machine.wires):
            while wire in machine.wires and (wire.to_server or wire.is_cut or wire.is_closed):
                self._reads(machine, wire, whole=True)
        while server.dispatcher.has_work:
            server.dispatcher.serve_next()
        machine.takes_turn()
        for _ in range(20):
            if server.store._jobs or server.delivery.has_work:
                machine.takes_turn()


SIMULATION = Simulation("simulation_nodes.py", NodesWorld, SharedDatabase, slice=25)

if __name__ == "__main__":
    sys.exit(SIMULATION.main())
