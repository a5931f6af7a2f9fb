"""What simulated worlds have in common: how one is played from its seed, how many are played on all
cores, and how they find a bug.

`simulation.py` has the worlds of one server, `simulation_nodes.py` those of several nodes.
"""

import argparse
import contextlib
import logging
import math
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from changed_source import changed
from overseer import Overseer
from overseer_devices import Reader
from sent import Sent, Violation
from simulated_clients import FOREVER, PASSWORD_HASH, Device
from simulated_database import Disk

from jelly import connection, fair_queue, passwords, read_pointers, store
from jelly.codec import Type
from jelly.quotas import QuotaLimits
from jelly.requests import encode_request

GROUPS = ("g0", "u1")
"""The second one has the name of a user, too."""
MAX_ROUNDS = 500
"""At most this many rounds until a world without faults comes to rest."""
EPOCH = 1_800_000_000.0

Event = Callable[[], None]
Trace = Callable[[str], None]
Limits = dict[tuple[Any, str], Any]
"""For each limit of the real code, a module and a name in it: its value in a world."""
Change = tuple[Any, str, str, str]
"""A class, a method of it, what is there, and what is put in its place."""


class World:
    """One simulated world. `run` plays it from its beginning to its end; raises Violation."""

    limits: Limits
    overseer: Overseer
    devices: list[Device]
    """The first one is of the user who creates the groups."""
    has_contacts = False
    """Whether modern clients ask for the feature `contacts`."""
    has_several_devices = False
    """Whether users are on several devices at once."""
    limits_of_devices = QuotaLimits()
    """How much may wait for the slower devices of a user."""

    def __init__(self, seed: int, disk: Disk, trace: Trace | None) -> None:
        self.seed, self._trace = seed, trace
        self.rng = random.Random(seed)
        self.is_complete = seed % 7 == 5
        """Whether groups have roles, and the ends of sessions are noted. (In a few worlds: they add
        little to the others.)"""
        self._roles = random.Random(seed) if self.is_complete else None
        self._edits: random.Random | None = None  # in some worlds, messages are edited
        self._draw_reading = random.Random(seed) if seed % 7 == 3 else None  # in some, it is stored what was read
        self._now = self._read_at = 1000.0
        self._count = 0  # messages written so far
        self._users: list[str] = []
        self.latecomers: list[Device] = []  # those that are not there before it begins

    @property
    def has_readers(self) -> bool:
        """Whether clients say how far their users have read."""
        return self._draw_reading is not None

    def run(self) -> None:
        raise NotImplementedError

    def clock(self) -> float:
        """The monotonic clock of this world."""
        return self._now

    def _clock_of_readers(self) -> float:
        """The same clock for readers: no two of them read at the same moment, as in a process."""
        self._read_at = max(self._now, math.nextafter(self._read_at, math.inf))
        return self._read_at

    def wall(self) -> float:
        """The time of day."""
        return EPOCH + self._now

    def say(self, text: str, *values: object) -> None:
        """One line of the trace."""
        if self._trace is not None:
            self._trace(f"{self._now:12.3f}  {self._indent()}{text.format(*values)}")

    def _indent(self) -> str:
        return ""

    # --- the beginning ----------------------------------------------------------------------------

    def _undrawn_limits(self) -> Limits:
        """What the real code would take from chance and from the machine, and its clock; and limits
        that are not drawn by the generator of the world, so that the rest of it stays as it was.
        """
        return {
            (read_pointers, "READ_DELAY"): random.Random(f"read {self.seed}").choice((0.0, 0.2)),
            (fair_queue, "WRITE_ROWS"): 1,
            (connection, "time"): SimpleNamespace(monotonic=self._clock_of_readers),
            (passwords, "new_token"): lambda: self.rng.getrandbits(62),
            (store, "yield_cpu"): lambda: None,
        }

    def _name_devices(self, seed: int) -> None:
        """In a fifth of the worlds, all modern clients of a user say that they are on the same
        device. Then nothing may be different.
        """
        if random.Random(f"devices of {seed}").random() < 0.2:
            for device in self.devices:
                device.device = "phone" * device.is_modern

    def _insert_users(self, disk: Disk) -> None:
        run = disk.raw.executemany
        run("INSERT INTO users (username, password) VALUES (?, ?)", [(user, PASSWORD_HASH) for user in self._users])
        run(
            "INSERT INTO tokens (token_hash, username, expires, device) VALUES (?, ?, ?, ?)",
            [(each.token_hash, each.user, FOREVER, each.device) for each in self.devices],
        )

    def _insert_groups(self, disk: Disk, share: float) -> None:
        """The first user creates the groups. `share` is how many of the others are members."""
        run = disk.raw.executemany
        run("INSERT INTO chat_groups (name, creator) VALUES (?, ?)", [(group, self._users[0]) for group in GROUPS])
        members = [
            (group, user, position, 1)
            for group in GROUPS
            for position, user in enumerate(self._users)
            if position == 0 or self.rng.random() < share
        ]
        run("INSERT INTO members (group_name, username, position, since) VALUES (?, ?, ?, ?)", members)

    # --- events -----------------------------------------------------------------------------------

    def _device(self) -> Device:
        return self.rng.choice(self.devices)

    def _send(
        self,
        device: Device,
        receiver: str,
        is_group: bool,
        request_id: str | None,
        padding: str = "",
        other: Sent | None = None,
    ) -> None:
        """Somebody writes a message. `other`: the one that had the same request id before."""
        self._count += 1
        content = f"m{self._count}{padding}"
        values = {"sender": device.user, "receiver": receiver, "content": content, "time": 1, "requestId": request_id}
        body = encode_request(Type.PERSON_MESSAGE, values)[9:]
        sent = Sent(content, device.user, receiver, is_group, request_id, body, self._count, device, other)
        self.overseer.writes(sent)
        device.writes(sent)

    def _edit(self) -> None:
        """Somebody changes one of the last messages that the server has, or recalls it."""
        assert self._edits is not None
        draw, edits = self._edits, self.overseer.edits
        own = [
            sent
            for sent in self.overseer.sent
            if sent.is_acknowledged and sent.original is None and sent.other is None and sent.device.knows_edits
        ]
        if not own:
            return
        young = [sent for sent in own if self.wall() - sent.stored_at < 15 * 60]
        original = draw.choice(young[-8:] if young and draw.random() < 0.95 else own)
        is_recall = draw.random() < 0.2 and edits.can_recall(original)
        self._count += 1
        content, device = f"m{self._count}" + " " * draw.choice((0, 0, 30)), original.device
        values = {
            "username": device.user,
            "id": original.id,
            "content": "" if is_recall else content,
            "requestId": f"e{self._count}" if draw.random() < 0.8 else None,
        }
        body = encode_request(Type.EDIT, values)[9:]
        to, request_id = (original.receiver, original.is_group), values["requestId"]
        sent = Sent(content, device.user, *to, request_id, body, self._count, device)
        sent.original, sent.is_recall = original, is_recall
        self.overseer.writes(sent)
        device.writes(sent)

    def _change_group(self) -> None:
        """A group's creator takes somebody in or out, or ends it, or founds it again; or a member
        leaves.
        """
        device, group = self.devices[0] if self.rng.random() < 0.7 else self._device(), self.rng.choice(GROUPS)
        kinds = (Type.ADD_MEMBER, Type.REMOVE_MEMBER, Type.DISBAND_GROUP, Type.CREATE_GROUP)
        [kind] = self.rng.choices(kinds, (6.0, 4.0, 0.2, 0.5))
        values = {"groupName": group}
        if self._roles is not None and self._roles.random() < 0.5:
            self._change_role(group)
        if kind in (Type.ADD_MEMBER, Type.REMOVE_MEMBER):
            values["member"] = self.rng.choice(self._users)
        device.asks(kind, values)

    def _change_role(self, group: str) -> None:
        """Somebody gives a member a role: mostly one who may."""
        assert self._roles is not None
        draw, owner = self._roles.choice, self.overseer.owner_of(group)
        own = [device for device in self.devices if device.user == owner]
        device = draw(own if own and self._roles.random() < 0.8 else self.devices)
        role, member = draw(("owner", "admin", "admin", "member")), draw(self._users)
        device.asks(Type.SET_ROLE, {"groupName": group, "member": member, "role": role})

    def _reach_client(self) -> None:
        """Something that a server wrote arrives; or the end of the connection."""
        device = self._device()
        wire = device.wire
        if wire is None or device.is_deaf:
            return
        if wire.to_client:
            count = len(wire.to_client) if self.rng.random() < 0.8 else self.rng.randint(1, len(wire.to_client))
            device.takes([wire.to_client.popleft() for _ in range(count)])
            if device.wire is wire:
                wire.took()
        elif wire.has_ended:
            self.say("{} notices the end", device)
            self._sees_the_end(device)

    def _sees_the_end(self, device: Device) -> None:
        """A client has read all that the server wrote before it ended the connection."""
        raise NotImplementedError

    def _may_come(self, device: Device, rudeness: float) -> bool:
        """Whether a client comes (back) now. `rudeness`: how often it throws out another one of its
        user.
        """
        is_polite = not (self._has_rival(device) or device.was_taken_over) or self.rng.random() < rudeness
        return device.wire is None and is_polite

    @property
    def _readers(self) -> list[Reader]:
        """The devices of all users. (All clients of a user that name none count as one.)"""
        by_place = sorted(self.devices, key=lambda device: self._users.index(device.user))
        return list(dict.fromkeys(device.reader for device in by_place if device not in self.latecomers))

    def _has_rival(self, device: Device) -> bool:
        return any(other.is_online for other in self.devices if other.reader == device.reader)

    def _hand_over_some(self, counts: Sequence[int]) -> None:
        """An application gets its next message, or more of those that wait."""
        device = self._device()
        if self._draw_reading is not None:
            self._say_what_was_read()
        for _ in range(self.rng.choice(counts)):
            if not (device.callbacks or device.kernel):
                return
            device.hands_over()

    def _say_what_was_read(self) -> None:
        """A client says that its user has read a message: mostly one that it has, and where it
        is; or one that waits for its user, which it cannot know.
        """
        assert self._draw_reading is not None
        draw = self._draw_reading
        devices = [device for device in self.devices if device.is_online and device.has_pointers]
        known = [sent for sent in self.overseer.sent if sent.id is not None][-20:]
        if not devices or not known:
            return
        pairs = [(draw.choice(devices), draw.choice(known))]
        if (kind := draw.random()) < 0.8:
            device, _ = pairs[0]
            waiting = [(each, sent) for each in devices for sent in known if sent.id in self.overseer.inbox[each.user]]
            own = [(device, sent) for sent in known if sent.id in device.log]
            pairs = (waiting if kind < 0.3 else own) or pairs
        device, sent = draw.choice(pairs)
        partner = sent.receiver if sent.is_group or sent.sender == device.user else sent.sender
        is_group = sent.is_group if draw.random() < 0.9 else not sent.is_group
        partner = partner if draw.random() < 0.9 else draw.choice(self._users)
        device.has_read(sent.id or 0, {"groupName" if is_group else "person": partner})

    def _die(self) -> None:
        """A client's program ends, and its memory is gone."""
        device = self._device()
        self.say("{} dies", device)
        wire = device.wire
        device.dies()
        self.overseer.device_dies(device)
        if wire is not None:
            wire.cut(self.rng.randint(0, len(wire.to_server)))

    def _repeat(self) -> None:
        """An impatient client sends a message again that has no answer yet."""
        self._device().repeats()

    def _fall_silent(self) -> None:
        """A client stops reading, or begins again."""
        device = self._device()
        device.is_deaf = not device.is_deaf

    # --- the end ----------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Everybody comes back, and who has something to do takes over, until nothing is left to
        do.
        """
        for _ in range(MAX_ROUNDS):
            if self._is_at_rest():
                return
            for reader in self._readers:
                own = [device for device in self.devices if device.reader == reader]
                next_one = next((device for device in own if not device.is_idle), own[0])
                if next_one.wire is None and (not next_one.is_idle or all(device.wire is None for device in own)):
                    self._bring_back(next_one)
            self._let_flow()
            self._now += 0.3
        self.overseer.fail(f"the world does not come to rest: {self._unrest()}")

    def _bring_back(self, device: Device) -> None:
        """A client comes back."""
        raise NotImplementedError

    def _let_flow(self) -> None:
        """All that is under way arrives and is served."""
        raise NotImplementedError

    def _receives_all(self, device: Device) -> None:
        """A device reads what the server has written to it, and its application gets all of
        that.
        """
        if (wire := device.wire) is not None:
            device.takes([wire.to_client.popleft() for _ in range(len(wire.to_client))])
            wire.took()
            if wire.has_ended and not wire.to_client:
                self._sees_the_end(device)
        while device.callbacks or device.kernel:
            device.hands_over()

    def _beat(self) -> None:
        """Each classic client gives a sign of life."""
        for device in self.devices:
            if not device.is_modern:
                device.heartbeat()

    def _unrest(self) -> dict[str, Any]:
        """What is left to do, by kind."""
        return {
            "inbox": {user: ids for user, ids in self.overseer.inbox.items() if ids},
            "devices": [device for device in self.devices if not device.is_idle],
            "offline": [
                reader for reader in self._readers if not any(d.is_online for d in self.devices if d.reader == reader)
            ],
        }

    def _is_at_rest(self) -> bool:
        return not any(self._unrest().values())


# --- many worlds ----------------------------------------------------------------------------------


class LogCollector(logging.Handler):
    """Collects the errors that the server did not expect: it catches and logs them, and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if ".py:" in record.getMessage():
            self.lines.append(record.getMessage())


@contextlib.contextmanager
def collected_log() -> Iterator[LogCollector]:
    """Within the block, the server's log is collected and goes nowhere else."""
    collector, log = LogCollector(), logging.getLogger("jelly")
    before = log.level, log.propagate
    log.addHandler(collector)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        yield collector
    finally:
        log.removeHandler(collector)
        log.level, log.propagate = before


@contextlib.contextmanager
def limits_of(world: World) -> Iterator[None]:
    """The real code with the limits of a world."""
    usual = {key: getattr(*key) for key in world.limits}
    for (module, name), value in world.limits.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in usual.items():
            setattr(module, name, value)


@contextlib.contextmanager
def put_in(bug: Sequence[Change]) -> Iterator[None]:
    """Within the block, the real code has a bug."""
    usual = [(owner, name, vars(owner)[name]) for owner, name, _, _ in bug]
    try:
        for owner, name, there, instead in bug:
            setattr(owner, name, changed(getattr(owner, name), there, instead))
        yield
    finally:
        for owner, name, value in reversed(usual):
            setattr(owner, name, value)


@dataclass(frozen=True)
class Simulation:
    """A kind of world, and how to play it."""

    program: str
    """The name of the file in this directory that plays such worlds."""
    world: Callable[[int, Any, Trace | None], World]
    disk: Callable[[], Disk]
    slice: int
    """How many seeds are played in one process at a time."""

    def play(self, seed: int, disk: Disk, trace: Trace | None = None) -> str:
        """Play the world of a seed; what it violated, in one sentence, or nothing."""
        world = self.world(seed, disk, trace)
        with collected_log() as collected, limits_of(world):
            try:
                world.run()
            except Violation as violation:
                return " ".join([f"{violation}.", *collected.lines])
            except Exception as error:
                if trace is not None:
                    raise
                return f"{type(error).__name__}: {error}."
            finally:
                disk.overseer = None
                if disk.raw.in_transaction:
                    disk.raw.rollback()
            return f"in the server's log: {collected.lines[0]}." if collected.lines else ""

    def first_failure(self, seeds: Sequence[int]) -> tuple[int, str] | None:
        """The first of some seeds whose world violates a promise, and what it says."""
        disk = self.disk()
        try:
            for seed in seeds:
                if what := self.play(seed, disk):
                    return seed, f"{what} Seed {seed}: python tests/{self.program} --seed {seed} --trace"
            return None
        finally:
            disk.raw.close()

    def first_failure_on_all_cores(self, count: int, first: int = 0) -> tuple[int, str] | None:
        """The first of some seeds whose world violates a promise, played in one process a core."""
        slices = [
            range(start, min(start + self.slice, first + count)) for start in range(first, first + count, self.slice)
        ]
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
            return next(filter(None, processes.map(self.first_failure, slices)), None)

    def find(self, bug: Sequence[Change], likely: int, most: int) -> None:
        """Put a bug into the real code, and fail if none of the first worlds finds it. `likely` is
        the one that is played first.
        """
        with put_in(bug):
            failure = self.first_failure([likely, *range(most)])
        assert failure is not None
        seed, what = failure
        assert what.endswith(f"python tests/{self.program} --seed {seed} --trace")
        # Else something else was found, which may be there without the bug.
        assert self.first_failure([seed]) is None, f"seed {seed} violates a promise without the bug, too"

    def check_repeatable(self, seed: int) -> None:
        """Fail unless a seed gives the same world again, step by step: in this process and in
        others, whatever order their sets have.
        """
        program = Path(__file__).parent / self.program
        traces = [
            subprocess.run(
                [sys.executable, str(program), "--seed", str(seed), "--trace"],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                cwd=program.parent.parent,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hash_seed in ("1", "2")
        ]
        lines: list[str] = []
        disk = self.disk()
        assert self.play(seed - 1, disk) == ""  # a world leaves nothing to the next one
        assert self.play(seed, disk, lines.append) == ""
        disk.raw.close()
        assert len(lines) > 20
        assert traces == ["\n".join([*lines, "Nothing was violated.\n"])] * 2

    def main(self) -> int:
        """Play what the command line asks for, and return the exit code."""
        parser = argparse.ArgumentParser(description="Play simulated worlds.")
        parser.add_argument("--seed", type=int, help="play this one")
        parser.add_argument("--trace", action="store_true", help="print what happens")
        parser.add_argument("--seeds", type=int, default=1000, help="how many to play (default: 1000)")
        parser.add_argument("--from", type=int, default=0, dest="first", help="the first one of them (default: 0)")
        arguments = parser.parse_args()
        if arguments.seed is not None:
            logging.raiseExceptions = False
            what = self.play(arguments.seed, self.disk(), print if arguments.trace else None)
            print(what or "Nothing was violated.")
            return 1 if what else 0
        started = time.perf_counter()
        failure = self.first_failure_on_all_cores(arguments.seeds, arguments.first)
        if failure is not None:
            print(failure[1])
            return 1
        print(f"{arguments.seeds} worlds, {arguments.seeds / (time.perf_counter() - started):.0f} a second.")
        return 0
