"""Nothing grows with use: after thousands of operations of every kind each structure is back at its
bound.
"""

import contextlib
import gc
import logging
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client_tools import QUICK, NewClient
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    FRIEND_PROFILE,
    GROUP_MESSAGE,
    HISTORY,
    LOGIN,
    LOGOUT,
    OWN_GROUPS,
    OWN_PROFILE,
    PATIENCE,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    SYSTEM,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from client_api import MessageEvent, Receiver
from jelly import indexing, known_users, tcp_confirmation, tokens
from jelly.client import acks
from jelly.server import JellyServer

Memory = Callable[[], int]

pytestmark = pytest.mark.allocations
USERS = [f"user{number}" for number in range(24)]
GROUPS = [f"group{number}" for number in range(12)]
KNOWN, FAILED, MEMBERS, TOKENS, RECENT = 16, 50, 20, 3, 64
"""Bounds for this test: small ones, which it reaches."""
NOTHING = ("connections", "sessions", "lists of friends", "watched friends", "users told to be online", "jobs")
"""What is there only while somebody is."""
BOUNDS = {
    "known users": KNOWN,
    "allowances": len(USERS),
    "failed logins": 4 * FAILED,
    "members of groups": MEMBERS,
    "tokens": TOKENS * len(USERS),
    "messages known again": RECENT,
    "connections to the database": 6,
    "hashers": 2,
}
"""How large these may be, when nobody is online; nothing else may be larger than it was before."""
ROUNDS = 3
"""Rounds of a period, before and after which everything is measured."""
PERIODS = 4
"""At most this many periods until a table is large enough for all that can come together in it.
"""
NOISE = 12_000
"""Bytes that the memory may grow by in a period. An object for each of its hundreds of operations
would be more.
"""


class World:
    """A server, those who use it, and how large everything in it is."""

    def __init__(self, server: JellyServer) -> None:
        self.server = server
        self.port = server.port
        self.invented = 0
        register(self.port, *USERS)
        with logged_in(self.port, USERS[0]) as founder:
            for group in GROUPS:
                founder.ok(CREATE_GROUP, groupName=group)
                for member in USERS[1:6]:
                    founder.ok(ADD_MEMBER, groupName=group, member=member)
        for user in USERS[6:]:
            with logged_in(self.port, user) as wire:
                wire.ok(ADD_FRIEND, friend=USERS[6])

    def sizes(self) -> dict[str, int]:
        """Everything in the server that something is put into."""
        server, dispatcher, store = self.server, self.server.dispatcher, self.server.store
        services, presence, groups, indexing = dispatcher._services, server.presence, server.groups, store._indexing
        return {
            "connections": len(server.connections),
            "threads": sum("hasher" not in thread.name for thread in threading.enumerate()),
            "hashers": sum("hasher" in thread.name for thread in threading.enumerate()),
            "connections to the database": len(server._database_connections),
            "lanes in the queue": dispatcher._queue.qsize(),
            "requests that wait": dispatcher._queue._waiting,
            "sessions": len(server.sessions),
            "lists of friends": len(presence._friend_lists),
            "watched friends": len(presence._watchers),
            "users told to be online": len(presence._announced_online),
            "known users": len(services.known_users.names),
            "allowances": len(services.messages._rate) + len(services._change_rate),
            "changes that wait": len(presence.untold) + len(server.group_notices.untold),
            "told lately": len(presence._recent) + len(server.group_notices._recent),
            "notices that wait": len(server.notifier),
            "allowances to register": len(services.accounts._registrations),
            "failed logins": len(services.logins._guard),
            "tasks for the hashers": len(dispatcher._hashers),
            "members of groups": groups._size,
            "groups": len(groups),
            "groups alive": len(groups._alive),
            "jobs": len(store._jobs),
            "delivered": len(store._delivered),
            "sessions that want more": len(store._with_room) + len(store._delivery._to_feed),
            "calls on the store thread": len(store._calls),
            "requestIds not indexed": len(indexing._unindexed),
            "messages not indexed": indexing._unindexed_count,
            "times of the flusher": len(server.flusher._timers),
            "sockets of the flusher": len(server.flusher._selector.get_map()),
            "calls of the watchdog": len(server.watchdog._timers),
            **self.rows("tokens", "inbox", "meta", "chat_groups", "members", "friends"),
        }

    def rows(self, *tables: str) -> dict[str, int]:
        with self.server._reading() as dao:
            return {table: int(dao.connection.query(f"SELECT COUNT(*) FROM {table}")[0][0]) for table in tables}

    def wait_until_quiet(self) -> None:
        """Wait until nothing is under way."""
        with Wire(self.port) as last:
            last.call(OWN_PROFILE)  # now all those before it are accepted, too
        wait_until(lambda: not self.server.connections)
        at_rest = ("jobs", "delivered", "calls on the store thread", "messages not indexed", "times of the flusher")
        wait_until(lambda: not any(self.sizes()[name] for name in (*at_rest, "users told to be online")))
        has_committed = threading.Event()  # what was taken from "delivered" may still be on its way into the database
        self.server.store.call_soon(has_committed.set)
        assert has_committed.wait(PATIENCE)
        wait_until(
            lambda: not any(thread.name.startswith(("jelly-reader", "Thread-")) for thread in threading.enumerate())
        )

    # --- what its users do: each of these is one round --------------------------------------------

    def strangers(self) -> None:
        """Connections that come to nothing."""
        for number in range(150):
            with Wire(self.port) as wire:
                if number % 3:
                    wire.send(b"GET / HTTP/1.1\r\n\r\n" if number % 2 else b"\xab")
                if number % 5 == 0:
                    wire.reset()

    def guesses(self) -> None:
        """Logins with names that nobody has."""
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(Wire(self.port)) for _ in range(100)]
            for wire in wires:
                self.invented += 1
                wire.send_request(LOGIN, username=f"nobody{self.invented}", password="x")
            assert {wire.receive().error for wire in wires} == {"wrong_credentials"}

    def visits(self) -> None:
        """Logins, cuts, reconnects, takeovers and logouts, of classic and of modern clients."""
        for number, user in enumerate(USERS[6:]):
            features = ([], None, ["ack"])[number % 3]  # the first is taken over, and keeps its token
            first = logged_in(self.port, user, features=features)
            (first.reset if number % 2 else first.close)()
            with Wire(self.port) as again, logged_in(self.port, USERS[6], features=features):
                assert not again.reconnect(user, first.token, features).error
                if number % 4:
                    again.send_request(LOGOUT, token=first.token)
                    assert again.is_closed_by_server()

    def messages(self) -> None:
        """To people and to groups, online and not, with requestIds and without; read, acknowledged,
        read back.
        """
        with logged_in(self.port, USERS[1], features=["ack"]) as bob, logged_in(self.port, USERS[2]) as carol:
            for number in range(200):
                more: dict[str, Any] = {"requestId": f"{self.invented}-{number}"} if number % 2 else {}
                bob.send_message(USERS[number % len(USERS)], "x" * 100, **more)
                if number % 4 == 0:
                    bob.send_message(GROUPS[number // 4 % len(GROUPS)], "to all", GROUP_MESSAGE, **more)
                    carol.heartbeat()
            answers = [bob.receive_response() for _ in range(250)]
            assert not any(answer.error for answer in answers)
            for number in range(20):
                bob.ok(HISTORY, person=USERS[number])
            carol.ok(OWN_PROFILE)
        self.fetch(*USERS)

    def fetch(self, *users: str) -> None:
        """Have users log in, one after the other, and acknowledge what waited for them."""
        for user in users:
            with logged_in(self.port, user, features=["ack"]) as wire:
                session = self.server.sessions.get(user)
                assert session is not None
                wait_until(lambda session=session: session.caught_up)
                wire.ok(OWN_PROFILE)
                for id in [notice.values["id"] for notice in wire.notices if notice.type != SYSTEM][-1:]:
                    wire.ack(id)

    def changes(self) -> None:
        """Groups, members, friends and profiles, made and unmade."""
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(logged_in(self.port, user, features=[])) for user in USERS[:12]]
            for wire in wires:
                group, other = f"team-{wire.user}", USERS[-1]
                wire.send_request(CREATE_GROUP, groupName=group)
                wire.send_request(ADD_MEMBER, groupName=group, member=other)
                wire.send_message(group, "welcome", GROUP_MESSAGE)
                wire.send_request(REMOVE_MEMBER, groupName=group, member=other)
                wire.send_request(DISBAND_GROUP, groupName=group)
                for friend in (other, USERS[0], "nobody"):
                    wire.send_request(ADD_FRIEND, friend=friend)
                    wire.send_request(FRIEND_PROFILE, friend=friend)
                    wire.send_request(REMOVE_FRIEND, friend=friend)
                wire.send_request(UPDATE_PROFILE, name="x" * 60)
                wire.send_request(OWN_GROUPS)
                wire.send_request(ALL_FRIENDS)
            for wire in wires:
                errors = [wire.receive_response().error for _ in range(17)]
                assert errors.count("") == 14
        self.fetch(USERS[-1])


@pytest.fixture
def world(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> World:
    """A server with small bounds. (It logs little, because the log of a test is kept.)"""
    logging.getLogger("jelly").setLevel(logging.WARNING)
    monkeypatch.setattr(known_users, "MAX_KNOWN_USERS", KNOWN)
    monkeypatch.setattr(tokens, "MAX_TOKENS", TOKENS)
    monkeypatch.setattr(indexing, "INDEX_DELAY", 0.05)
    monkeypatch.setattr(tcp_confirmation, "CONFIRM_DELAY_MAX", 0.1)
    server = start_server(classic_gap=0, message_rate=100_000, registration_rate=1_000_000)
    server.dispatcher._services.logins._guard._max_size = FAILED
    server.groups._most = MEMBERS
    return World(server)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Says how many bytes this process has allocated through Python and not freed, since the test
    began.
    """
    tracemalloc.start()
    yield allocated
    tracemalloc.stop()


def allocated() -> int:
    gc.collect()
    # The module sqlite3 keeps the last 128 statements of each connection, and a weak reference to
    # 200 cursors.
    not_sqlite3 = [tracemalloc.Filter(False, module) for module in ("*/dao.py", "*/database.py", "*/sqlite_engine.py")]
    snapshot = tracemalloc.take_snapshot().filter_traces(not_sqlite3)
    return sum(trace.size for trace in snapshot.traces)


def check_growth(
    a_round: Callable[[], None],
    wait_until_quiet: Callable[[], None],
    sizes: Callable[[], dict[str, int]],
    memory: Memory,
) -> None:
    """Fail if something is larger after some more rounds than before them, or above its bound.

    The first rounds fill what has a bound. The memory may grow in some of the periods: a set that
    once held more entries than ever before, because a thread was late, keeps its larger table. What
    leaks grows in each of them.
    """

    def period() -> tuple[dict[str, int], int]:
        for _ in range(ROUNDS):
            a_round()
            wait_until_quiet()
        return sizes(), memory()

    period()
    before, bytes_before = period()
    limits = {**before, **BOUNDS, **dict.fromkeys(NOTHING, 0)}
    growth: list[int] = []
    while not growth or (growth[-1] >= NOISE and len(growth) < PERIODS):
        after, bytes_after = period()
        assert {name: (size, after[name]) for name, size in before.items() if after[name] > limits[name]} == {}
        growth.append(bytes_after - bytes_before)
        bytes_before = bytes_after
    assert growth[-1] < NOISE, growth


@pytest.mark.parametrize("what", ["strangers", "guesses", "visits", "messages", "changes"])
def test_the_server(world: World, memory: Memory, what: str) -> None:
    """Nothing is left of what its users did, but for caches, which are within their bounds."""
    check_growth(getattr(world, what), world.wait_until_quiet, world.sizes, memory)


class Counter(Receiver):
    """Counts messages."""

    count = 0

    def on_message(self, event: MessageEvent) -> None:
        self.count += 1


def test_the_client(world: World, memory: Memory, new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is used, cut off, logged out and in again for long is as large as before."""
    monkeypatch.setattr(acks, "MAX_RECENT", RECENT)
    counter = Counter()
    client = new_client(world.port, receiver=counter, reconnect=QUICK)
    inside = client._manager
    client.login(USERS[0], "pw").result(10)

    def a_round() -> None:
        expected = counter.count + 100
        for future in [client.send_message(USERS[0], "x" * 100) for _ in range(100)]:
            future.result(10)
        wait_until(lambda: counter.count == expected)
        for answer in (client.add_friend(USERS[1]), client.list_friends(), client.remove_friend(USERS[1])):
            answer.result(10)
        client.history(USERS[0]).result(10)
        [connection] = world.server.connections
        connection.send_queue.close()
        wait_until(lambda: connection not in world.server.connections and len(world.server.connections) == 1)
        assert client.wait_until_online(10)
        client.logout().result(10)
        client.login(USERS[0], "pw").result(10)

    def sizes() -> dict[str, int]:
        pending = inside._pipeline.pending
        return {
            "calls": len(inside._callbacks._calls),
            "requests": len(pending.queued) + len(pending.in_flight) + len(pending._to_resend),
            "messages not delivered": len(inside._pipeline.acks._waiting),
            "messages known again": len(inside._pipeline.acks._recent),
            "threads": len(inside._threads),
            "unsent": len(stream._unsent) if (stream := inside._pipeline.stream) else 0,
        }

    def wait_until_quiet() -> None:
        wait_until(lambda: len(inside._threads) == 1 and len(world.server.connections) == 1)
        wait_until(lambda: not (world.server.store._delivered or world.server.store._indexing._unindexed_count))
        wait_until(lambda: not inside._callbacks._calls)

    check_growth(a_round, wait_until_quiet, sizes, memory)
