"""The server's logic in a simulated world, where everything that can go wrong does, and every run
can be repeated.

    python tests/simulation.py --seeds 5000              # many worlds, until one violates a promise
    python tests/simulation.py --seed 1234 --trace       # one of them, step by step

The real code: `Connection` (what it does with what it reads), `Dispatcher`, `Services`, `Sessions`,
`Delivery`, `Store`, `DeferredIndexing`, `Retention` and `Dao` over SQLite in memory, and the
client's `AckTracker`. Simulated (`simulated*.py`): the clock, the network, the disk's failures,
crashes, and clients. The overseer (`overseer.py`) says what must be true at each moment.

In a fifth of the worlds, users are on several devices at once (`overseer_devices.py`).

From its seed a world draws first how often each kind of event happens in it, and how large each
limit is: so some worlds have crashes and nothing else, some have receivers that read nothing, some
have all at once. Then it draws one event after the other. At last all faults end, and everything
has to come to rest.
"""

import random
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # called by its name: as pytest does, look for the program in the directory above
    sys.path.insert(0, str(Path(__file__).parent.parent))

from overseer import Overseer
from overseer_database import DAY
from sent import Sent
from simulated import SimulatedConnection, SimulatedServer, Wire
from simulated_clients import Device
from simulated_database import Crash, Disk, Faults
from worlds import GROUPS, Event, Limits, Simulation, Trace, World

from jelly import delivery, devices, fair_queue, indexing, message_service, notifier, retention, sessions
from jelly.codec import Type
from jelly.quotas import QuotaLimits
from jelly.timers import TimerHeap


class ServerWorld(World):
    """One simulated world. `run` plays it from its beginning to its end; raises Violation."""

    def __init__(self, seed: int, disk: Disk, trace: Trace | None = None) -> None:
        super().__init__(seed, disk, trace)
        self.disk = disk
        rng = self.rng
        self._interrupted = False
        self.history_days = rng.choice((0.0, 30.0, 30.0))
        self.queue_size = rng.choice((2, 5, 1000, 1000))
        self.turns_of_workers = rng.choice((0.0, 0.0, 0.5))
        self.limits = self._draw_limits()
        self.limit: int = self.limits[sessions, "MAX_UNACKNOWLEDGED"]
        draw = random.Random(f"quotas of {seed}").choice  # of its own: the rest of a world stays as it was
        self.quotas = QuotaLimits(draw((0, 0, 3, 6, 12, 30)), draw((0, 0, 0, 100, 300)))
        self.has_contacts = random.Random(f"contacts of {seed}").random() < 0.2
        if self.has_contacts:
            self.quotas = QuotaLimits(0, 0)  # the server may know of changes of friends a little later
        self._several = random.Random(f"devices at once of {seed}")
        self.has_several_devices = self._several.random() < 0.2
        if self.has_several_devices:
            self._draw_limits_of_devices()
        self.faults = Faults(rng, on=False)
        self._users = [f"u{number}" for number in range(rng.randint(2, 4))]
        share_of_classic, share_of_rivals = rng.choice((0.0, 0.3, 0.8)), rng.choice((0.2, 0.7))
        classic = [user for user in self._users[1:] if rng.random() < share_of_classic]
        clients = [user for user in self._users for _ in range(2 if rng.random() < share_of_rivals else 1)]
        self.overseer = Overseer(
            self.wall,
            self.history_days,
            classic,
            rivals=[user for user in classic if clients.count(user) > 1],
            page_characters=self.limits[message_service, "PAGE_CHARACTERS"],
            batch_rows=max(self.limits[fair_queue, "BATCH_ROWS"], len(self._users)),
            may_be_busy=self.queue_size < 1000,
            quotas=self.quotas,
            has_blocks=self.has_contacts,
        )
        window = rng.choice((1, 4, 16))
        self.devices = [
            Device(self, user, f"{user}.{number}", user not in classic, rng.getrandbits(62), window)
            for number, user in enumerate(clients)
        ]
        if self.has_several_devices:
            self._add_devices(classic, window)
        if seed % 2 and self.quotas == QuotaLimits():
            self._edits = random.Random(f"edits of {seed}")
            for device in self.devices:
                device.knows_edits = device.is_modern and self._edits.random() < 0.8
                # What one of several devices cannot be sent stays in the inbox for the others.
                device.knows_edits |= device.is_modern and self.has_several_devices
        if not self.has_several_devices:
            self._name_devices(seed)
        self.overseer.edits.users_without = {device.user for device in self.devices if not device.knows_edits}
        self._lasting_tokens = {device.token_hash for device in self.devices}
        self.wires: list[Wire] = []
        self.timers = TimerHeap()
        self._events, self._weights = self._draw_events()
        self.server: SimulatedServer

    def call_at(self, due: float, function: Callable[[], None]) -> None:
        """Have the flusher call a function."""
        self.timers.call_at(due, function)

    def _call_due(self) -> None:
        for function in self.timers.pop_due(self._now):
            function()

    # --- the beginning ----------------------------------------------------------------------------

    def _draw_limits(self) -> Limits:
        """The limits of the real code, much smaller than they are, so that each is reached; and
        what it would take from chance and from the machine's clock.
        """
        draw = self.rng.choice
        return {
            (sessions, "MAX_UNACKNOWLEDGED"): draw((1, 4, 10, 1000)),
            (delivery, "PAGE"): draw((2, 3, 10, 100)),
            (delivery, "FEED_MESSAGES"): draw((1, 5, 500)),
            (indexing, "INDEX_BATCH"): draw((1, 3, 500)),
            (retention, "SWEEP_BATCH"): draw((2, 10, 500)),
            (message_service, "ROWS_PER_QUERY"): draw((1, 2, 20)),
            (message_service, "PAGE_CHARACTERS"): draw((40, 128 * 1024)),
            (fair_queue, "BATCH_ROWS"): draw((1, 6, 4000)),
            (notifier, "TELL_INTERVAL"): draw((0.0, 0.1, 1.0)),
            (notifier, "SLICE"): draw((1, 25)),
            **self._undrawn_limits(),
        }

    def _draw_limits_of_devices(self) -> None:
        """How many devices are kept, and for how long. They have a generator of their own, so that
        worlds without several devices stay as they are.
        """
        draw = self._several.choice
        self.quotas = QuotaLimits()
        self.limits_of_devices = QuotaLimits(draw((0, 0, 0, 5, 20)), draw((0, 0, 0, 200)))
        self.most_devices = draw((8, 8, 8, 2, 2))
        self.limits |= {
            (devices, "MAX_DEVICES"): 8,
            (devices, "KEPT_DAYS"): draw((30.0, 8.0)),
            (devices, "CHECK_INTERVAL"): draw((0.0, 1.0, 60.0)),
        }

    def _add_devices(self, classic: Container[str], window: int) -> None:
        """All modern clients are on phones; most users have other devices, too, each with a client.
        Some of these come only when it has begun.
        """
        draw, overseer = self._several, self.overseer
        for client in self.devices:
            client.device = "phone" * client.is_modern
        for user in self._users:
            for name in ("desk", "pad")[: draw.choice((0, 1, 1, 2)) if user not in classic else 0]:
                client = Device(self, user, f"{user}.{name}", True, draw.getrandbits(62), window)
                client.device = name
                self.devices.append(client)
                if draw.random() < 0.3:
                    self.latecomers.append(client)
        overseer.devices.limits = self.limits_of_devices
        overseer.devices.kept_days = self.limits[devices, "KEPT_DAYS"]

    def _limit_devices(self, most: int) -> None:
        """At most so many devices of a user are kept from now on."""
        self.overseer.devices.most = devices.MAX_DEVICES = most

    def _draw_events(self) -> tuple[list[Event], list[float]]:
        """What can happen in this world, and how often. Half of what is rare never happens."""
        often: list[Event] = [
            self._write, self._reach_server, self._reach_client, self._serve, self._turn, self._hand_over,
            self._connect,
        ]  # fmt: skip
        seldom: list[Event] = [
            self._cut, self._die, self._crash, self._fall_silent,
            self._reuse_request_id, self._confirm, self._wait_long, self._sweep_groups, self._fail_database,
            self._log_out, self._close, self._repeat, self._acknowledge_wrongly, self._let_flow,
        ]  # fmt: skip
        rng = self.rng
        events = [(event, rng.uniform(0.5, 5.0)) for event in often]
        events += [(event, rng.choice((0.0, 0.0, 0.3, 1.5))) for event in seldom]
        events += [(self._change_group, rng.choice((0.0, 3.0))), (self._ask_for_history, rng.choice((0.0, 2.0, 5.0)))]
        events += [(self._ask_for_friends, rng.choice((0.0, 1.0))), (self._take_over, rng.choice((0.0, 0.0, 5.0)))]
        if self.has_contacts:
            events += [(self._change_friends, 15.0), (self._change_blocks, 3.0), (self._answer_invitation, 2.0)]
        possible = [(event, weight) for event, weight in events if weight]
        faults = self.faults
        faults.statement_fails = rng.choice((0.0, 0.0, 0.01))
        faults.commit_fails = rng.choice((0.0, 0.1, 0.3))
        faults.commit_is_doubted = rng.choice((0.0, 0.2, 0.5))
        faults.sync_fails = rng.choice((0.0, 0.5))
        faults.crashes = rng.choice((0.0, 0.0, 0.01))
        faults.happens_meanwhile = rng.choice((0.0, 0.1, 0.5))
        return [event for event, _ in possible], [weight for _, weight in possible]

    def _prepare(self) -> None:
        """Users, their tokens and friends, and two groups."""
        self.disk.empty()
        self.disk.overseer, self.overseer.raw = self.overseer, self.disk.raw
        self._insert_users(self.disk)
        self.disk.raw.execute("INSERT INTO friends (username, friend) VALUES (?, ?)", (self._users[0], self._users[1]))
        self._insert_groups(self.disk, 0.4)
        self.overseer.committed()
        self.overseer.turn_has_ended()

    # --- the course -------------------------------------------------------------------------------

    def run(self) -> None:
        rng = self.rng
        self._prepare()
        self.server = SimulatedServer(self)
        steps = rng.choice((60, 150, 300))
        if rng.random() < 0.7:
            self._come_to_rest()  # everybody is there before it begins
        self.latecomers.clear()
        self.faults.on = True
        if self.has_several_devices:
            self._limit_devices(self.most_devices)
        for event in rng.choices(self._events, self._weights, k=steps):
            self._now += rng.choice((0.0, 0.001, 0.03, 0.1))
            self._guarded(event)
            if self._edits is not None and self._edits.random() < 0.2:
                self._guarded(self._edits.choice((self._edit, self._edit, self._edit_in_absence)))
            if self.has_several_devices and self._several.random() < 0.1:
                self._guarded(self._come_while_another_writes)
            if self._draw_reading is not None and self._draw_reading.random() < 0.5:
                self._say_what_was_read()
        self._end_faults()
        self._come_to_rest()
        for _ in range(8 if self.has_contacts else 0):  # now that everybody stays, to the end
            self._change_friends()
            self._let_flow()
        self._now += 1.1  # what waited to be told together is told
        self._let_flow()
        for _ in range(len(self.server.notifier) + 1):  # a few of them at a time
            self._now += 0.1
            self._let_flow()
        self.overseer.final_check()
        for device in self.devices:
            if device.wire is not None and device.is_online:
                self.overseer.check_presence(
                    device.wire, device.user, lambda user: self.server.sessions.get(user) is not None
                )
                self.overseer.check_groups(device.wire, device.user)
        self._leave()

    def _guarded(self, event: Event) -> None:
        """Something happens; the server may die of it, and is then started again."""
        try:
            event()
        except Crash:
            self._restart()

    def _restart(self) -> None:
        self.say("the server crashes, and is started again")
        self.disk.raw.rollback()
        self.timers = TimerHeap()
        self.faults.is_dead = False
        self.overseer.crashed()
        for user in self.server.last_seen.pending:  # these were not written
            self.overseer.ends_seen.pop(user, None)
        wires, self.wires = self.wires, []
        for wire in wires:
            if wire.device.wire is wire:
                if self.rng.random() < 0.5:  # what was under way arrives, or not
                    wire.device.takes(wire.to_client)
                wire.device.is_cut(reads_on=self.rng.random() < 0.5)
        self.server = SimulatedServer(self)

    def may_be_interrupted(self) -> None:
        """The store, or a worker, is about to do something that can be seen from outside."""
        self.faults.may_crash()
        self.may_act_meanwhile()

    def may_act_meanwhile(self) -> None:
        """Another thread acts while the store is at work (but not within its transaction)."""
        if not self._interrupted and self.faults.strikes(self.faults.happens_meanwhile):
            self._interrupted = True
            self.say("meanwhile:")
            try:
                self.rng.choice((self._reach_server, self._reach_client, self._serve, self._hand_over))()
            finally:
                self._interrupted = False

    def may_take_meanwhile(self, wire: Wire) -> None:
        """A client takes what it has been sent while the store is at work."""
        if self.faults.strikes(self.faults.happens_meanwhile) and wire.device.wire is wire and not wire.device.is_deaf:
            while wire.to_client:
                wire.device.takes([wire.to_client.popleft()])
                wire.took()

    # --- events -----------------------------------------------------------------------------------

    def _write(self) -> None:
        """Somebody writes one message, or a few."""
        device = self._device()
        for _ in range(self.rng.choice((1, 1, 1, 3, 8))):
            is_group = self.rng.random() < 0.4
            receiver = self.rng.choice(GROUPS if is_group else self._users)
            request_id = f"r{self._count}" if device.is_modern and self.rng.random() < 0.8 else None
            self._send_padded(device, receiver, is_group, request_id)

    def _send_padded(
        self, device: Device, receiver: str, is_group: bool, request_id: str | None, other: Sent | None = None
    ) -> None:
        self._send(device, receiver, is_group, request_id, " " + "x" * self.rng.choice((0, 0, 30)), other)

    def _reuse_request_id(self) -> None:
        """Somebody takes the id of a message that was acknowledged for another one: a bug in a
        client.
        """
        taken = [s for s in self.overseer.sent if s.is_acknowledged and s.request_id and not s.other]
        if taken:
            other = self.rng.choice(taken)
            self._send_padded(other.device, other.receiver, other.is_group, other.request_id, other)

    def _ask_for_history(self) -> None:
        device, rng = self._device(), self.rng
        if not device.is_modern:
            return
        own = [group for group in GROUPS if device.user in self.overseer.members[group]]
        values: dict[str, Any] = {"person": rng.choice(self._users)}
        if rng.random() < 0.6:
            values = {"groupName": rng.choice(own if own and rng.random() < 0.9 else GROUPS)}
        if rng.random() < 0.5:
            values["limit"] = rng.randint(1, 5)
        if rng.random() < 0.3:
            values["before"] = self.overseer.last_id + rng.randint(-30, 10)
        device.asks(Type.HISTORY, values)

    def _ask_for_friends(self) -> None:
        """The one user who has a friend asks who is online."""
        self.devices[0].asks(Type.ALL_FRIENDS, {})

    def _change_friends(self) -> None:
        """Somebody adds or removes a friend, answers a friend request, or looks at the list."""
        rng, device = self.rng, self._device()
        askers = [user for user, friend in self.overseer.open_requests if friend == device.user]
        if askers and rng.random() < 0.5:
            device.asks(Type.ANSWER_FRIEND, {"friend": rng.choice(askers), "accept": rng.random() < 0.5})
            return
        type = rng.choice((Type.ADD_FRIEND, Type.ADD_FRIEND, Type.REMOVE_FRIEND, Type.ANSWER_FRIEND, Type.ALL_FRIENDS))
        more = {"accept": rng.random() < 0.5} if type == Type.ANSWER_FRIEND else {}
        device.asks(type, {} if type == Type.ALL_FRIENDS else {"friend": rng.choice(self._users), **more})

    def _answer_invitation(self) -> None:
        """Somebody says yes or no to an invitation to a group, if there is one."""
        accept = self.rng.random() < 0.7
        self._device().asks(Type.ANSWER_GROUP, {"groupName": self.rng.choice(GROUPS), "accept": accept})

    def _change_blocks(self) -> None:
        """Somebody blocks another one, or ends that."""
        device, person = self._device(), self.rng.choice(self._users)
        if person != device.user:
            device.asks(Type.BLOCK, {"person": person, "blocked": self.rng.random() < 0.5})

    def _reach_server(self) -> None:
        """Something that a client wrote arrives, cut anywhere; or the end of its connection."""
        if not self.wires:
            return
        wire = self.rng.choice(self.wires)
        if wire.to_server and not wire.is_closed:
            count = len(wire.to_server) if self.rng.random() < 0.8 else self.rng.randint(1, len(wire.to_server))
            data = bytes(wire.to_server[:count])
            del wire.to_server[:count]
            self.say("the server reads {} bytes of {}", count, wire.device)
            wire.connection.reads(data)
        elif wire.is_cut or wire.is_closed:
            self.say("the server notices the end of {}", wire.device)
            self.wires.remove(wire)
            wire.connection.finish()

    def _sees_the_end(self, device: Device) -> None:
        self._end(device, device.reads_on)

    def _serve(self) -> None:
        """A worker serves a lane."""
        if self.server.dispatcher.has_work:
            self.server.dispatcher.serve_next()

    def _turn(self) -> None:
        """The store thread does what is due."""
        self._call_due()
        self.server.store.take_turn()
        self.overseer.turn_has_ended()
        for user in self._users:
            for session in self.server.sessions.of(user, ()):
                is_there = session.transport in self.wires
                self.overseer.check(is_there, f"{user} is taken to be online, and its connection has ended")
                self.overseer.check(self._can_come_back(session), f"{user} is online, and its token is gone")
                self.overseer.check(not self.server.is_starved(session), f"{user} has room, and nobody gives it more")

    def _can_come_back(self, session: sessions.Session) -> bool:
        """Whether a classic session has its token, if that does not expire."""
        is_exempt = session.is_modern or session.transport.is_closed or self.server.store._doubt is not None
        if is_exempt or session.token_hash not in self._lasting_tokens:
            return True
        query = "SELECT 1 FROM tokens WHERE token_hash = ?"
        return bool(self.disk.raw.execute(query, (session.token_hash,)).fetchall())

    def _hand_over(self) -> None:
        self._hand_over_some((1, 1, 1, 100))

    def _connect(self) -> None:
        """A client comes (back), perhaps taking over from another one of its user."""
        device = self._device()
        if self._may_come(device, 0.2):
            self._begin_connection(device)

    def _take_over(self) -> None:
        """A client comes whose user has another one online, a classic one if there is any."""
        rivals = [device for device in self.devices if device.wire is None and self._has_rival(device)]
        if rivals:
            self._begin_connection(self.rng.choice([d for d in rivals if not d.is_modern] or rivals))

    def _begin_connection(self, device: Device) -> None:
        wire = Wire(self, device, self.rng.choice((1, 3, 1000)), self.rng.choice((1, 5, 100)))
        SimulatedConnection(self.server, wire, self.overseer)
        self.wires.append(wire)
        device.connects(wire)

    def _come_while_another_writes(self) -> None:
        """A device comes in the turn in which its user writes on another one."""
        draw, devices = self._several.choice, self.devices
        coming = [device for device in devices if device.wire is None and not self._has_rival(device)]
        if not coming:
            return
        device = draw(coming)
        writers = [other for other in devices if other.user == device.user and other.is_online]
        if not writers:
            return
        writer = draw(writers)
        self._begin_connection(device)
        self._send_padded(writer, draw(self._users), False, f"r{self._count}")
        for wire in (device.wire, writer.wire):
            if wire is not None and not wire.is_closed:
                data = bytes(wire.to_server)
                wire.to_server.clear()
                wire.connection.reads(data)
        while self.server.dispatcher.has_work:
            self._serve()
        self._turn()

    def _cut(self) -> None:
        """A connection breaks; the server has not noticed yet."""
        device = self._device()
        if device.wire is not None:
            self.say("{} is cut off", device)
            self._end(device, reads_on=self.rng.random() < 0.5)

    def _log_out(self) -> None:
        """A classic client's user logs out, right after what was shown last."""
        classic = [device for device in self.devices if not device.is_modern and device.is_online]
        if classic:
            device = self.rng.choice(classic)
            self.say("{} logs out", device)
            self.overseer.logs_out(device.user)
            device.logs_out()
            if self.rng.random() < 0.7:
                self._is_written_to(device)

    def _is_written_to(self, device: Device) -> None:
        """A message reaches a client before the server knows what the client wrote last."""
        others = [other for other in self.devices if other.is_online and other is not device]
        wire = device.wire
        if wire is None or not others:
            return
        writer = self.rng.choice(others)
        self._send_padded(writer, device.user, False, f"r{self._count}" if writer.is_modern else None)
        if writer.wire is not None and not writer.wire.is_closed:
            data = bytes(writer.wire.to_server)
            writer.wire.to_server.clear()
            writer.wire.connection.reads(data)
        self._serve()
        self._turn()
        device.takes([wire.to_client.popleft() for _ in range(len(wire.to_client))])

    def _close(self) -> None:
        """A classic client closes in good order, having read everything."""
        device = self._device()
        if not device.is_modern and device.wire is not None and not device.wire.to_client:
            self.say("{} closes", device)
            device.closes()

    def _end(self, device: Device, reads_on: bool) -> None:
        wire = device.wire
        assert wire is not None
        if wire.to_client and self.rng.random() < 0.5:
            device.takes(wire.to_client)
        device.is_cut(reads_on)
        wire.cut(self.rng.randint(0, len(wire.to_server)))

    def _edit_in_absence(self) -> None:
        """Somebody leaves, and is written to; some of that is changed before anybody comes back."""
        assert self._edits is not None
        draw = self._edits
        user = draw.choice(self._users)
        writers = [device for device in self.devices if device.knows_edits and device.is_online and device.user != user]
        if not writers:
            return
        for device in self.devices:
            if device.user == user and device.wire is not None and draw.random() < 0.8:
                self._end(device, device.reads_on)
        self._let_flow()
        for writer in (draw.choice(writers), draw.choice(writers)):
            group = draw.choice(GROUPS)
            is_group = writer.user in self.overseer.members[group] and draw.random() < 0.3
            self._send(writer, group if is_group else user, is_group, f"r{self._count}")
        for _ in range(draw.choice((1, 2, 3))):
            self._let_flow()
            self._edit()
        self._let_flow()

    def _crash(self) -> None:
        raise Crash

    def _acknowledge_wrongly(self) -> None:
        """A client acknowledges a message that it was not sent: a bug, of no consequence."""
        device = self._device()
        others = [sent.id for sent in self.overseer.sent if sent.id is not None and device.user not in sent.receivers]
        if others and device.is_modern:
            device.acknowledges(self.rng.choice(others))

    def _confirm(self) -> None:
        """Somebody's TCP has acknowledged what it was sent; a client gives a sign of life."""
        for wire in self.wires:
            wire.look()
        self._device().heartbeat()

    def _wait_long(self) -> None:
        """Time passes: enough for indexing, or for housekeeping."""
        self._now += self.rng.choice((0.2, 1.5, 700.0, 3 * DAY))

    def _sweep_groups(self) -> None:
        self.server.groups.sweep()

    def _fail_database(self) -> None:
        """The database goes away, or comes back."""
        self.faults.database_is_down = not self.faults.database_is_down

    # --- the end ----------------------------------------------------------------------------------

    def _end_faults(self) -> None:
        self.say("all faults end")
        self.faults.on = False
        if self.has_several_devices:
            self._limit_devices(8)  # now there is room for all of them
        self.queue_size = self.server.dispatcher.queue_size = 1000
        for device in self.devices:
            device.is_deaf = False
            device.window = 100
            if device.wire is not None and self.rng.random() < 0.5:  # a last cut, of what it has acknowledged, too
                while device.callbacks:
                    device.hands_over()
                self._end(device, reads_on=False)

    def _bring_back(self, device: Device) -> None:
        wire = Wire(self, device, 1000, 100)
        SimulatedConnection(self.server, wire, self.overseer)
        self.wires.append(wire)
        device.connects(wire)

    def _let_flow(self) -> None:
        """All that is under way arrives and is served."""
        self._reads_all()
        while self.server.dispatcher.has_work:
            self._serve()
        self._turn()
        while self.server.store._jobs and not self.faults.on:
            self._turn()
        for device in self.devices:
            self._receives_all(device)
        for wire in self.wires:
            wire.look()
        self._beat()

    def _reads_all(self) -> None:
        """The server reads what the devices have written, and learns which connections have
        ended.
        """
        for wire in list(self.wires):
            if wire.to_server and not wire.is_closed:
                data = bytes(wire.to_server)
                wire.to_server.clear()
                wire.connection.reads(data)
            if ((wire.is_cut and not wire.to_server) or wire.is_closed) and wire in self.wires:
                self.wires.remove(wire)
                wire.connection.finish()

    def _unrest(self) -> dict[str, Any]:
        under_way = [wire.device for wire in self.wires if wire.to_server and not wire.device.is_online]
        return {**super()._unrest(), "under way": under_way + list(self.server.store._jobs)}

    def _is_at_rest(self) -> bool:
        return super()._is_at_rest() and not self.server.dispatcher.has_work

    def _leave(self) -> None:
        """Everybody goes; then nothing is left in memory, and in the end (in some worlds) nothing
        in the tables.
        """
        for device in self.devices:
            if device.wire is not None:
                self._end(device, reads_on=True)
        # Twice 31 days, because how old an id is, is known from one sweep to the next.
        for days in (0.0, 31.0, 31.0) if self.rng.random() < 0.2 else (0.0,):
            self._now += days * DAY
            for _ in range(500):
                self._let_flow()
                self._now += 1.1 if days == 0 else 0.1
                server = self.server
                due_at = min(
                    server.indexing.due_at,
                    server.retention.due_at,
                    server.last_seen.due_at,
                    self.timers.next_due,
                    server.devices.due_at,
                )
                # Pages are read a second after the database has failed, and forgotten no sooner.
                if due_at > self._now + 2.0 and not self.wires and not self.server.delivery.has_work:
                    break
            left = self.server.leftovers()
            self.overseer.check(not left, f"left in memory: {left}")
        self.overseer.check_ends()
        names = ("inbox", "messages", "history", "requests", "read_pointers") if days else ("inbox",)
        tables = {name: self.disk.count(name) for name in names}
        self.overseer.check(not any(tables.values()), f"left in the tables: {tables}")


SIMULATION = Simulation("simulation.py", ServerWorld, Disk, slice=50)

if __name__ == "__main__":
    sys.exit(SIMULATION.main())
