"""Rows 28 and 30: one user logs in at three nodes at once; members of groups change at two nodes
while a third one stores messages.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from client_api import GroupMessageEvent, JellyClient, MessageEvent, Receiver, Sent, State
from faults.checker import Ledger
from faults.cluster import NODES, Cluster, no_redis, steady_writing
from faults.context import Control, Finding, Row, RunContext, wait_until
from faults.load import MARKER, PASSWORD, PATIENCE, Sender, register
from faults.redis import PrivateRedis

LOGINS = {True: 20, False: 1000}
"""How often the user logs in at three nodes at once."""
SETTLED_LIMIT = 5.0
"""At most this many seconds until one of the sessions is left."""
WANDERER, WRITERS = "rob", ("ann", "ben")
CREATORS = ("kim", "leo")
"""They change the members of a group each, at two nodes."""
CHANGED = ("uma", "vic", "wes")
"""The members who are added and removed. Each is at another node."""
WITNESS = "wim"
"""A member whom nobody removes: so this user has the ids of all messages."""
CHANGES = {True: 40, False: 1500}
"""How often each creator adds or removes a member."""
UNDER_WAY = 8
"""How many messages a writer has under way."""


# --- one user at three nodes ----------------------------------------------------------------------


class Program(Receiver):
    """What one user has received, with any number of clients. An id tells what comes again."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self.repeats = 0
        self.has_marker = threading.Event()
        self._ledger = ledger
        self._lock = threading.Lock()
        self._ids: set[int | None] = set()

    def on_message(self, event: MessageEvent) -> None:
        with self._lock:
            if event.id in self._ids:
                self.repeats += 1
                return
            self._ids.add(event.id)
        if event.content == MARKER:
            self.has_marker.set()
        else:
            sender, number, *_ = event.content.split(" ")
            self._ledger.delivered(self.name, (sender, int(number)))


def log_in_everywhere(context: RunContext, finding: Finding) -> None:
    """Log one user in at three nodes at the same moment, again and again, while others write.

    One session is left each time, and the user gets each message.
    """
    finding.trials = LOGINS[context.is_short]
    ledger = Ledger()
    program = Program(WANDERER, ledger)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        cluster = stack.enter_context(Cluster(context, redis.url))
        register(cluster.ports[0], (WANDERER, *WRITERS))
        writers = [Sender(name, ledger, cluster.ports[0], 0, 0, addresses=cluster.addresses) for name in WRITERS]
        for writer in writers:
            stack.callback(writer.client.close)
            writer.log_in()
        with steady_writing(writers, [WANDERER]):
            for _ in range(finding.trials):
                _log_in_once(cluster, program, finding)
                if finding.problems:
                    break
        with JellyClient(*cluster.addresses[0], receiver=program) as client:
            client.login(WANDERER, PASSWORD).result(PATIENCE)
            client.send_message(WANDERER, MARKER).result(PATIENCE)
            finding.expect(program.has_marker.wait(PATIENCE), "no_mark", "the last message never came")
        finding.notes.append(f"{program.repeats} messages came to a later session again, with the same id")
        finding.add_verdict(ledger.verdict())


def _log_in_once(cluster: Cluster, program: Program, finding: Finding) -> None:
    clients = [JellyClient(*address, receiver=program, reconnect=False) for address in cluster.addresses]
    try:
        futures = [client.login(program.name, PASSWORD) for client in clients]
        failed = [error for future in futures if (error := future.exception(PATIENCE)) is not None]
        finding.expect(not failed, "no_login", f"a login failed: {failed[:1]}")
        wait_until(lambda: _count_online(clients) == 1, SETTLED_LIMIT)
        count = _count_online(clients)
        finding.expect(count > 0, "no_session", "no session was left")
        finding.expect(count < 2, "two_sessions", f"{count} sessions of one user")
    finally:
        for client in clients:
            client.close()


def _count_online(clients: Sequence[JellyClient]) -> int:
    return sum(client.state is State.ONLINE for client in clients)


# --- members who change ---------------------------------------------------------------------------


class Change(NamedTuple):
    """A member was added or removed, at some moment between two monotonic times."""

    asked_at: float
    answered_at: float


@dataclass
class Member(Receiver):
    """A user who is added to groups and removed again, and notes the messages to them."""

    name: str
    received: dict[str, list[int]] = field(default_factory=dict)
    """For each group the numbers of the messages, in the order in which they came."""
    ids: dict[tuple[str, int], int] = field(default_factory=dict)
    """The id of each message: (group, number)."""
    has_marker: threading.Event = field(default_factory=threading.Event)

    def on_message(self, event: MessageEvent) -> None:
        if event.content == MARKER:
            self.has_marker.set()

    def on_group_message(self, event: GroupMessageEvent) -> None:
        number = int(event.content)
        self.received.setdefault(event.group, []).append(number)
        self.ids[event.group, number] = event.id or 0


class Writer:
    """Writes numbered messages to the groups in turn, until it stops."""

    def __init__(self, client: JellyClient, groups: Sequence[str]) -> None:
        self.asked_at: dict[tuple[str, int], float] = {}
        self.answered_at: dict[tuple[str, int], float] = {}
        """The messages that were answered with SUCCESS."""
        self._client = client
        self._groups = groups
        self._slots = threading.Semaphore(UNDER_WAY)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="group-writer")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for all answers."""
        self._stopping = True
        self._thread.join()
        for _ in range(UNDER_WAY):
            self._slots.acquire(timeout=PATIENCE)

    def _run(self) -> None:
        number = 0
        while not self._stopping:
            self._slots.acquire(timeout=PATIENCE)
            self._write(self._groups[number % len(self._groups)], number)
            number += 1

    def _write(self, group: str, number: int) -> None:
        self.asked_at[group, number] = time.monotonic()

        def note(done: "Future[Sent]") -> None:
            if done.exception() is None:
                self.answered_at[group, number] = time.monotonic()
            self._slots.release()

        self._client.send_group_message(group, str(number)).add_done_callback(note)


def change_members(context: RunContext, finding: Finding) -> None:
    """Two creators add and remove members, at two nodes; at the third one somebody writes.

    Each message must reach exactly the members as of its commit. What that is shows in the order of
    ids, which is the order of commits: see `disagreements`.
    """
    finding.trials = CHANGES[context.is_short] * len(CREATORS)
    groups = [f"of-{creator}" for creator in CREATORS]
    members = [Member(name) for name in (*CHANGED, WITNESS)]
    changes: dict[tuple[str, str], list[Change]] = {}
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(PrivateRedis())
        cluster = stack.enter_context(Cluster(context, redis.url))
        register(cluster.ports[0], (*CREATORS, *CHANGED, WITNESS, WRITERS[0]))

        def log_in(name: str, place: int, receiver: Receiver | None = None) -> JellyClient:
            client = stack.enter_context(JellyClient(*cluster.addresses[place % NODES], receiver=receiver))
            client.login(name, PASSWORD).result(PATIENCE)
            return client

        creators = [log_in(name, place) for place, name in enumerate(CREATORS)]
        clients = [log_in(member.name, place, member) for place, member in enumerate(members)]
        writer = Writer(log_in(WRITERS[0], 2), groups)
        for creator, group in zip(creators, groups, strict=True):
            creator.create_group(group).result(PATIENCE)
            for name in (WRITERS[0], WITNESS):
                creator.add_member(group, name).result(PATIENCE)

        def change(creator: JellyClient, group: str) -> None:
            for number in range(CHANGES[context.is_short]):
                name = CHANGED[number % len(CHANGED)]
                done = changes.setdefault((group, name), [])
                asked_at = time.monotonic()
                (creator.remove_member if len(done) % 2 else creator.add_member)(group, name).result(PATIENCE)
                done.append(Change(asked_at, time.monotonic()))

        threads = [
            threading.Thread(target=change, args=each, name=f"changes-{each[1]}")
            for each in zip(creators, groups, strict=True)
        ]
        writer.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.stop()
        for client, member in zip(clients, members, strict=True):
            client.send_message(member.name, MARKER).result(PATIENCE)
            finding.expect(member.has_marker.wait(PATIENCE), "no_mark", f"the last message never came to {member.name}")
        _judge(finding, writer, members, changes)


def _judge(
    finding: Finding, writer: Writer, members: Sequence[Member], changes: dict[tuple[str, str], list[Change]]
) -> None:
    [witness] = [member for member in members if member.name == WITNESS]
    verdict = finding.verdict
    verdict.acknowledged += len(writer.answered_at)
    verdict.lost += len(writer.answered_at.keys() - witness.ids.keys())
    wrong = 0
    for (group, name), done in changes.items():
        [member] = [member for member in members if member.name == name]
        received = member.received.get(group, [])
        verdict.twice += len(received) - len(set(received))
        verdict.out_of_order += sum(later < one for one, later in itertools.pairwise(received))
        messages = sorted(
            (id, writer.asked_at[key], writer.answered_at.get(key, float("inf")), key[1] in set(received))
            for key, id in witness.ids.items()
            if key[0] == group
        )
        wrong += disagreements([message[1:] for message in messages], done)
    finding.add_verdict(type(verdict)())  # note what was counted above
    for kind, count in verdict.defects.items():
        finding.expect(not count, kind, f"{count} {kind.replace('_', ' ')}")
    finding.expect(not wrong, "membership", f"{wrong} messages reached a user who was no member, or missed a member")


def disagreements(messages: Sequence[tuple[float, float, bool]], changes: Sequence[Change]) -> int:
    """Count the messages that do not fit to one order of all messages and changes.

    `messages`, in the order of their commits: when each was sent, when it was answered, and whether
    a user received it. `changes`: the user was added, removed, added, and so on. A change comes
    before a message if it was answered before the message was sent, and after it if it was asked
    for after the message was answered. Between that, it may be either; but whoever was a member at
    the message has received it, and changes stay in their order.
    """
    wrong = 0
    possible = {0}  # how many changes may have been committed before the next message
    for sent_at, answered_at, is_received in messages:
        least = sum(change.answered_at < sent_at for change in changes)
        most = sum(change.asked_at < answered_at for change in changes)
        reachable = set(range(max(least, min(possible)), most + 1))
        possible = {count for count in reachable if (count % 2 == 1) is is_received}
        if not possible:
            wrong += 1
            possible = reachable or {most}
    return wrong


MARIADB = ("mariadb",)
ROWS = [
    Row(
        28,
        "one user logs in at three nodes at once",
        log_in_everywhere,
        (Control("ignores-takeovers", "two_sessions"),),
        MARIADB,
        no_redis,
    ),
    Row(
        30,
        "members change at two nodes while a third one stores messages",
        change_members,
        (Control("ignores-changes-of-groups", "membership"),),
        MARIADB,
        no_redis,
    ),
]
