"""Lists of friends and groups: in pages, in one frame as far as it fits, and when nobody reads."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import StartServer, lane_of
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    HISTORY,
    OWN_GROUPS,
    OWN_PROFILE,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    SYSTEM,
    Reply,
    Wire,
    logged_in,
    register,
    wait_until,
)

from jelly import connection, lists, watchdog
from jelly.database import DatabaseConnection
from jelly.message_service import BYTES_PER_QUERY
from jelly.send_queue import SendQueue
from jelly.server import JellyServer
from jelly.watchdog import SHORT_WRITE_TIMEOUT, WRITE_TIMEOUT

PAGES = ["pages"]
MIB = 1024 * 1024
HEADER_SIZE = 9


def fill(server: JellyServer, members: Sequence[str], groups: Sequence[str]) -> None:
    """Put these users into these groups, by SQL: by requests it would take minutes."""
    with server._reading() as dao:
        dao.connection.insert(
            ("INSERT INTO chat_groups (name, creator) VALUES (?, ?)", [(group, members[0]) for group in groups]),
            (
                "INSERT INTO members (group_name, username, position, since) VALUES (?, ?, ?, ?)",
                [(group, name, position, 0) for group in groups for position, name in enumerate(members)],
            ),
        )


def befriend(server: JellyServer, user: str, friends: Sequence[str]) -> None:
    with server._reading() as dao:
        dao.connection.insert(
            ("INSERT INTO friends (username, friend) VALUES (?, ?)", [(user, friend) for friend in friends])
        )


def pages(wire: Wire, type: int, key: str) -> Iterator[Any]:
    """What each page of a list says, until there are no more."""
    after: dict[str, str] = {}
    while True:
        values = wire.ok(type, **after)
        assert list(values) == ["username", key, "more", *(["after"] if values["more"] else [])]
        yield values[key]
        if not values["more"]:
            return
        after = {"after": values["after"]}


def gathered(wire: Wire) -> dict[str, list[str]]:
    """All groups, from as many pages as it takes."""
    found: dict[str, list[str]] = {}
    for page in pages(wire, OWN_GROUPS, "groups"):
        for group, members in page.items():
            found.setdefault(group, []).extend(members)
    return found


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    return server


@pytest.fixture
def sqlite(start_server: StartServer) -> JellyServer:
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    return server


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100, 1000])
def test_groups_page_by_page(server: JellyServer, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Each group is there, with all its members in their order, wherever a page ends."""
    monkeypatch.setattr(lists, "PIECE_ROWS", rows)
    fill(server, ["alice", "bob", "carol"], ["three", "组", "Three"])
    fill(server, ["bob", "alice"], [f"two{number}" for number in range(5)])
    fill(server, ["alice"], ["one", "😀"])
    fill(server, ["bob"], ["not hers"])
    expected = {name: ["alice", "bob", "carol"] for name in ("three", "组", "Three")}
    expected |= {f"two{number}": ["bob", "alice"] for number in range(5)} | {"one": ["alice"], "😀": ["alice"]}
    with logged_in(server.port, "alice", features=PAGES) as alice:
        assert gathered(alice) == expected
        sizes = [sum(map(len, page.values())) for page in pages(alice, OWN_GROUPS, "groups")]
        assert max(sizes) <= rows
        names = [name for page in pages(alice, OWN_GROUPS, "groups") for name in page]
        assert sorted(set(names)) == list(dict.fromkeys(names))


def test_friends_page_by_page(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each friend is on one page, in order, with the presence of this moment."""
    monkeypatch.setattr(lists, "PIECE_ROWS", 3)
    befriend(server, "alice", ["bob", "carol", "Zoe", "界", "d1", "d2", "d3"])
    with logged_in(server.port, "alice", features=PAGES) as alice, logged_in(server.port, "carol"):
        found = list(pages(alice, ALL_FRIENDS, "friends"))
        assert [len(page) for page in found] == [3, 3, 1]
        friends = {name: online for page in found for name, online in page.items()}
        assert list(friends) == ["Zoe", "bob", "carol", "d1", "d2", "d3", "界"]
        assert [name for name, online in friends.items() if online] == ["carol"]


def test_short_lists_are_one_page(sqlite: JellyServer) -> None:
    """An empty list has no next page; neither has one that just fills a page."""
    with logged_in(sqlite.port, "alice", features=["ack", "pages"]) as alice:
        assert alice.call(OWN_GROUPS).body == b'{"username":"alice","groups":{},"more":false}'
        assert alice.call(ALL_FRIENDS).body == b'{"username":"alice","friends":{},"more":false}'
        befriend(sqlite, "alice", [f"friend{number:04}" for number in range(lists.PIECE_ROWS)])
        assert len(list(pages(alice, ALL_FRIENDS, "friends"))) == 1
        alice.ok(CREATE_GROUP, groupName="team")
        assert alice.call(OWN_GROUPS).body == b'{"username":"alice","groups":{"team":["alice"]},"more":false}'


def test_changes_between_two_pages(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not change is there once, whatever else goes meanwhile."""
    monkeypatch.setattr(lists, "PIECE_ROWS", 4)
    with logged_in(server.port, "alice", features=PAGES) as alice, logged_in(server.port, "bob") as bob:
        befriend(server, "alice", ["a1", "a2", "a3", "bob", "carol"])
        for name in ("g1", "g2", "g3"):
            bob.ok(CREATE_GROUP, groupName=name)
            bob.ok(ADD_MEMBER, groupName=name, member="alice")
            bob.ok(ADD_MEMBER, groupName=name, member="carol")
        first = alice.ok(OWN_GROUPS)
        assert first["groups"] == {"g1": ["bob", "alice", "carol"]}
        bob.ok(REMOVE_MEMBER, groupName="g2", member="alice")
        assert alice.ok(OWN_GROUPS, after=first["after"])["groups"] == {"g3": ["bob", "alice", "carol"]}
        monkeypatch.setattr(lists, "PIECE_ROWS", 2)
        first = alice.ok(OWN_GROUPS)
        assert first["groups"] == {"g1": ["bob", "alice"]}
        bob.ok(DISBAND_GROUP, groupName="g1")
        second = alice.ok(OWN_GROUPS, after=first["after"])
        assert second["groups"] == {"g3": ["bob", "alice"]}
        bob.ok(REMOVE_MEMBER, groupName="g3", member="alice")
        bob.ok(ADD_MEMBER, groupName="g3", member="alice")
        assert alice.ok(OWN_GROUPS, after=second["after"])["groups"] == {"g3": ["carol", "alice"]}
        first = alice.ok(ALL_FRIENDS)
        assert list(first["friends"]) == ["a1", "a2"]
        alice.ok(REMOVE_FRIEND, friend="a2")
        alice.ok(ADD_FRIEND, friend="alice")
        second = alice.ok(ALL_FRIENDS, after=first["after"])
        assert list(second["friends"]) == ["a3", "alice"]


def test_places_that_the_server_has_not_sent(sqlite: JellyServer) -> None:
    """They are refused, or begin where they say; and only strings are places."""
    with logged_in(sqlite.port, "alice", features=PAGES) as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for after in ("", "team", "x team", "1.5 team"):
            assert alice.refused(OWN_GROUPS, after=after) == "malformed_body"
        for after, found in {"-1 team": True, f"{-(10**30)} ": True, f"{10**30} team": False, "-1 x\0y": False}.items():
            assert bool(alice.ok(OWN_GROUPS, after=after)["groups"]) == found
        for type in (OWN_GROUPS, ALL_FRIENDS):
            assert alice.refused(type, after=1) == "malformed_body"
        assert alice.ok(ALL_FRIENDS, after="\U0010ffff" * 100)["friends"] == {}


# --- without pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [None, ["ack"]], ids=["classic", "modern"])
def test_what_fits_comes(
    server: JellyServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    features: list[str] | None,
) -> None:
    """The first entries in the order of the names; groups whole; and one line in the log."""
    monkeypatch.setattr(lists, "PIECE_ROWS", 5)
    names = ["alice", "bob", "carol", *(f"界{number}" for number in range(8))]
    fill(server, names, [f"g{number}" for number in range(9)])
    befriend(server, "alice", names)
    with logged_in(server.port, "alice", features=features) as alice:
        groups, friends = alice.call(OWN_GROUPS), alice.call(ALL_FRIENDS)
        assert groups.values == {"username": "alice", "groups": {f"g{number}": names for number in range(9)}}
        online = {name: name == "alice" for name in names}
        assert friends.values == {"username": "alice", "friends": online}
        assert "do not fit" not in caplog.text
        for count in range(9):
            monkeypatch.setattr(lists, "MAX_LIST", size_with(groups, "groups", count))
            assert list(alice.ok(OWN_GROUPS)["groups"].items()) == list(groups.values["groups"].items())[:count]
        for count in range(len(names)):
            monkeypatch.setattr(lists, "MAX_LIST", size_with(friends, "friends", count))
            assert list(alice.ok(ALL_FRIENDS)["friends"].items()) == list(online.items())[:count]
    assert caplog.text.count("do not fit into one answer") == 1


def size_with(reply: Reply, key: str, count: int) -> int:
    """The size of a frame with one entry more than `count`, less one byte."""
    entries = dict(list(reply.values[key].items())[: count + 1])
    body = json.dumps({"username": "alice", key: entries}, ensure_ascii=False, separators=(",", ":"))
    return HEADER_SIZE + len(body.encode()) - 1


def test_no_frame_is_larger_than_a_mebibyte(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client asks for; and no query reads more than a page has."""
    counts: list[int] = []
    query = DatabaseConnection.query

    def counted(self: DatabaseConnection, *arguments: Any) -> list[Any]:
        rows = query(self, *arguments)
        counts.append(len(rows))
        return rows

    members = ["alice", "bob", *(f"{number:04}{'😀' * 28}" for number in range(998))]
    fill(sqlite, members, [str(number).ljust(32, '"') for number in range(20)])
    befriend(sqlite, "alice", [f"{number:05}{'😀' * 27}" for number in range(10_000)])
    monkeypatch.setattr(DatabaseConnection, "query", counted)
    for features in (None, [], PAGES):
        with logged_in(sqlite.port, "alice", features=features) as alice:
            for type in (OWN_GROUPS, ALL_FRIENDS):
                assert 100_000 < HEADER_SIZE + len(alice.call(type).body) <= MIB
    assert max(counts) <= lists.PIECE_ROWS + 1


def test_no_page_of_history_is_larger_than_a_mebibyte(sqlite: JellyServer) -> None:
    """Not even of characters that JSON writes with six."""
    with logged_in(sqlite.port, "alice", features=["ack"]) as alice:
        for _ in range(30):
            alice.message("bob", "\1" * 10_800)
        reply = alice.call(HISTORY, person="bob", limit=100)
        assert 500_000 < HEADER_SIZE + len(reply.body) <= MIB
        assert reply.values["more"] is True


def test_few_large_messages_are_read_at_a_time(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a large --max-body one query reads fewer messages, of a history and of an inbox."""
    counts: list[int] = []
    query = DatabaseConnection.query

    def counted(self: DatabaseConnection, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        rows = query(self, sql, parameters)
        if "m.content" in sql:
            counts.append(len(rows))
        return rows

    server = start_server(classic_gap=0, max_body=4 * MIB)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice", features=["ack"]) as alice:
        for number in range(5):
            alice.message("bob", str(number))
        monkeypatch.setattr(DatabaseConnection, "query", counted)
        assert len(alice.ok(HISTORY, person="bob")["messages"]) == 5
        assert max(counts) <= max(1, BYTES_PER_QUERY // (4 * MIB))
        with logged_in(server.port, "bob") as bob:
            assert bob.contents(5) == ["0", "1", "2", "3", "4"]
    assert max(counts) <= 2


def test_others_are_served_between_the_pieces(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one long list is made, and another waits behind it, a short request is answered."""
    may_go_on, is_reading = threading.Event(), threading.Event()
    read_groups = lists.read_groups

    def slow(*arguments: Any) -> Any:
        is_reading.set()
        assert may_go_on.wait(10)
        return read_groups(*arguments)

    fill(sqlite, ["alice", "bob"], [f"g{number}" for number in range(5)])
    monkeypatch.setattr(lists, "PIECE_ROWS", 2)
    with logged_in(sqlite.port, "alice") as alice, logged_in(sqlite.port, "bob", features=PAGES) as bob:
        monkeypatch.setattr(lists, "read_groups", slow)
        alice.send_request(OWN_GROUPS)
        assert is_reading.wait(10)
        queue = sqlite.dispatcher._queue
        bob.send_request(OWN_GROUPS)
        wait_until(lambda: len(queue.unfinished) == 1)  # only one at a time goes on
        with logged_in(sqlite.port, "carol") as carol:
            assert carol.ok(OWN_PROFILE) == {"username": "carol"}
            carol.message("carol", "hello")
        may_go_on.set()
        assert len(alice.receive_response().values["groups"]) == 5
        assert bob.receive_response().values["more"] is True


# --- clients that do not read ---------------------------------------------------------------------

ASKERS = [f"asker{number:02}" for number in range(12)]
REQUESTS = 5


@pytest.fixture
def crowded(start_server: StartServer) -> JellyServer:
    """A server with little memory for answers, and users who are in many groups. However busy the
    machine is, nobody is closed for being silent.
    """
    server = start_server(classic_gap=0, answer_memory=4, heartbeat_interval=1000)
    register(server.port, "alice", "bob", *ASKERS)
    fill(
        server,
        ["alice", *ASKERS, *(f"{number:04}{'x' * 28}" for number in range(987))],
        [f"g{n:02}" for n in range(40)],
    )
    return server


def queues(server: JellyServer) -> list[SendQueue]:
    """The send queues of all connections."""
    return [connection.send_queue for connection in server.connections]


def test_askers_who_do_not_read(
    crowded: JellyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of all of them together stay within the memory. Others are served meanwhile, also
    with long lists. When the askers read, they get every answer, whole and in order.
    """
    monkeypatch.setattr(watchdog, "SHORT_WRITE_TIMEOUT", 1000.0)  # on a busy machine, all this takes seconds
    memory = crowded.dispatcher._answer_memory
    with contextlib.ExitStack() as stack:
        wires = [
            stack.enter_context(logged_in(crowded.port, name, features=PAGES if name.endswith("0") else None))
            for name in ASKERS
        ]
        for wire in wires:
            for _ in range(REQUESTS):
                wire.send_request(OWN_GROUPS)
                wire.send_request(OWN_PROFILE)
        wait_until(lambda: memory._waiting)
        with logged_in(crowded.port, "alice", features=PAGES) as alice, logged_in(crowded.port, "bob") as bob:
            groups = gathered(alice)
            assert (len(groups), {len(members) for members in groups.values()}) == (40, {1000})
            alice.message("bob", "hello")
            assert bob.contents(1) == ["hello"]
            assert bob.ok(OWN_GROUPS) == {"username": "bob", "groups": {}}
            assert memory.is_short
            first = alice.ok(OWN_GROUPS)
            assert sum(map(len, first["groups"].values())) <= lists.SHORT_PIECE_ROWS
        sizes = [queue._responses_size + len(queue._unsent) for queue in queues(crowded)]
        assert sum(sizes) <= memory.used <= 4 * MIB + len(ASKERS) * 16 * 1024
        assert max(sizes) <= MIB + 128 * 1024
        assert caplog.text.count("4 MiB of answers wait for clients that do not take them") == 1
        pool = stack.enter_context(ThreadPoolExecutor(len(wires)))
        for answers in pool.map(lambda wire: [wire.receive_response() for _ in range(2 * REQUESTS)], wires):
            assert [answer.type for answer in answers] == [OWN_GROUPS, OWN_PROFILE] * REQUESTS
            assert max(HEADER_SIZE + len(answer.body) for answer in answers) <= MIB
            assert all(answer.values["groups"] for answer in answers[::2])
        wait_until(lambda: not memory._waiting and memory.used == 0)
        assert not memory.is_short


def test_a_client_that_leaves_while_it_waits_for_memory(crowded: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forgotten, and what it asked is not made."""
    monkeypatch.setattr(connection, "HALF_CLOSE_TIMEOUT", 0.0)  # it might have closed its half only
    memory = crowded.dispatcher._answer_memory
    assert memory.reserve("somebody", 4 * MIB, lambda: None)
    with logged_in(crowded.port, "asker00") as asker:
        asker.send_request(OWN_GROUPS)
        wait_until(lambda: memory._waiting)
        lane = lane_of(crowded, "asker00")
    wait_until(lambda: not memory._waiting and not lane.busy.locked())
    assert (lane.unfinished, lane.reserved, memory.used) == (None, 0, 4 * MIB)
    with logged_in(crowded.port, "asker01") as asker:
        asker.send_request(OWN_GROUPS)
        wait_until(lambda: memory._waiting)
        for call in memory.change(-4 * MIB):
            call()
        assert asker.receive_response().values["groups"]
    wait_until(lambda: memory.used == 0)


@pytest.mark.parametrize("is_stalled", [True, False])
def test_a_slow_taker_is_closed_when_memory_is_short(crowded: JellyServer, is_stalled: bool) -> None:
    """Also one that takes a byte now and then. Not before: while there is memory for all, a client
    may take its time.
    """
    memory = crowded.dispatcher._answer_memory
    with logged_in(crowded.port, "asker00") as asker:
        asker.send_request(OWN_GROUPS)
        [queue] = [c.send_queue for c in crowded.connections if c.session.user == "asker00"]
        wait_until(lambda: queue.unsent_since is not None)
        begun = queue.unsent_since or 0.0
        late = begun + (SHORT_WRITE_TIMEOUT if is_stalled else WRITE_TIMEOUT) + 1

        def check(now: float) -> None:
            for connection in crowded.connections:
                connection.last_read_at = now
            # At first the kernel takes more now and then, so the times are set.
            wait_until(lambda: queue.unsent_since is not None)
            queue.unsent_since = begun
            queue.stalled_since = begun if is_stalled else begun + WRITE_TIMEOUT
            crowded.watchdog.check(now)

        check(late)
        assert not queue.is_closed
        memory.change(4 * MIB)
        check(late - 2)
        assert not queue.is_closed
        check(late)
        assert queue.is_closed
        wait_until(lambda: memory.used == 4 * MIB)


def test_a_database_that_fails_in_the_middle_of_a_list(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """That request is answered with an error, and the next one is served."""
    fill(sqlite, ["alice", "bob"], [f"g{number}" for number in range(5)])
    monkeypatch.setattr(lists, "PIECE_ROWS", 2)
    read_groups = lists.read_groups
    left = [2]

    def failing(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            arguments[0].connection.query("SELECT nothing")
        return read_groups(*arguments)

    with logged_in(sqlite.port, "alice") as alice:
        monkeypatch.setattr(lists, "read_groups", failing)
        assert alice.call(OWN_GROUPS).error == "internal"
        assert len(alice.ok(OWN_GROUPS)["groups"]) == 5
    wait_until(lambda: sqlite.dispatcher._answer_memory.used == 0)


def test_presence_continues_where_each_page_ends(sqlite: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A friend who comes between two pages is told, and is online on the page behind."""
    monkeypatch.setattr(lists, "PIECE_ROWS", 1)
    befriend(sqlite, "alice", ["bob", "carol"])
    with logged_in(sqlite.port, "alice", features=PAGES) as alice:
        first = alice.ok(ALL_FRIENDS)
        assert first["friends"] == {"bob": False}
        with logged_in(sqlite.port, "bob"), logged_in(sqlite.port, "carol"):
            second = alice.ok(ALL_FRIENDS, after=first["after"])
            assert second["friends"] == {"carol": True}
            told = [(notice.type, notice.values["friend"]) for notice in alice.notices]
            assert told == [(SYSTEM, "bob"), (SYSTEM, "carol")]


def test_the_log_says_it_once_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cut_log = lists.CutLog()
    for _ in range(3):
        cut_log.report("groups", "alice", 1234)
        now[0] += 59
    assert (
        caplog.messages
        == ["the groups of alice do not fit into one answer, and the client takes no pages: it got the first 1,234"] * 2
    )
