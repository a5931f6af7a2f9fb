"""The feature `ids`: the sender of a message is told its id, and everybody when it was stored."""

import itertools
import time
from typing import Any

import pytest
from client_tools import NewClient, Recorder, result
from harness import StartServer
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    GROUP_MESSAGE,
    HISTORY,
    PASSWORD,
    PERSON_MESSAGE,
    SUCCESS,
    SYSTEM,
    Wire,
    logged_in,
    register,
    wait_until,
)

from client_api import GroupMessageEvent, MessageEvent
from faults.mariadb import PrivateMariaDB
from jelly.server import JellyServer
from jelly.trusted_clock import FIRST_DATED, IDS_PER_MS

FEATURES = [*(list(each) for count in range(3) for each in itertools.combinations(["ack", "ids"], count)), None]
"""All that a client may be granted of the two; None is a classic one."""


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice, bob and carol and their group `team`, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "carol"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
    return server


def notice(wire: Wire) -> dict[str, Any]:
    """What the next notice of a message says."""
    while (reply := wire.receive_notice()).type == SYSTEM:
        pass
    values: dict[str, Any] = reply.values
    return values


def stored(wire: Wire, receiver: str, content: str, type: int = PERSON_MESSAGE, **more: object) -> tuple[int, int]:
    """Send a message; return what its sender is told: id and time."""
    values = wire.ok(type, receiver=receiver, content=content, time=1, **more)
    assert list(values) == ["id", "stored"]
    return values["id"], values["stored"]


@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_what_each_client_gets(server: JellyServer, features: list[str] | None) -> None:
    """Whoever was not granted the feature gets every frame as without it."""
    keys = ["sender", "receiver", "content", "time"]
    if features:
        keys += ["id"]
    if features and "ids" in features:
        keys += ["stored"]
    with logged_in(server.port, "bob", features=features) as bob, logged_in(server.port, "alice") as alice:
        before = int(time.time() * 1000)
        for receiver, type in (("bob", PERSON_MESSAGE), ("team", GROUP_MESSAGE)):
            alice.message(receiver, "live", type)
            values = notice(bob)
            assert list(values) == keys
            assert values["time"] != values.get("stored")
            if "stored" in values:
                assert values["stored"] == values["id"] // IDS_PER_MS
                assert before <= values["stored"] <= int(time.time() * 1000)
        for receiver, type in (("carol", PERSON_MESSAGE), ("team", GROUP_MESSAGE)):
            reply = bob.call(type, receiver=receiver, content="answer", time=1)
            assert reply.status == SUCCESS
            assert list(reply.values) == (["id", "stored"] if features and "ids" in features else [])
            assert reply.body or not reply.values


def test_the_same_id_everywhere(server: JellyServer) -> None:
    """The answer, the notice, the page of waiting messages and the history agree."""
    with logged_in(server.port, "alice", features=["ack", "ids"]) as alice:
        with logged_in(server.port, "bob", features=["ack", "ids"]) as bob:
            told = [stored(alice, "bob", "live")]
            seen = [notice(bob)]
        told.append(stored(alice, "bob", "away"))
        told.append(stored(alice, "team", "to all", GROUP_MESSAGE))
        with logged_in(server.port, "bob", features=["ack", "ids"]) as bob:
            seen = [notice(bob) for _ in told]
        assert [(each["id"], each["stored"]) for each in seen] == told
        for more, known in (({"person": "bob"}, told[:2]), ({"groupName": "team"}, told[2:])):
            page = alice.ok(HISTORY, **more)["messages"]
            assert [(each["id"], each["stored"]) for each in page] == known
            assert [list(each)[-2:] for each in page] == [["id", "stored"]] * len(known)


def test_a_repeat_is_told_the_first_id(server: JellyServer, start_server: StartServer) -> None:
    """At once, when it is indexed, and after a restart; also of a message that came in the same
    batch.
    """
    with logged_in(server.port, "alice", features=["ids"]) as alice:
        for _ in range(2):
            alice.send_request(PERSON_MESSAGE, receiver="bob", content="x", time=1, requestId="r")
        first, second = (alice.receive_response().values for _ in range(2))
        assert first == second
        told = first["id"], first["stored"]
        assert stored(alice, "bob", "y") > told
        with server._reading() as dao:
            wait_until(lambda: dao.indexed_id() >= told[0])
        assert stored(alice, "bob", "x", requestId="r") == told
    database = server.settings.database
    server.stop()
    server = start_server(database=database)
    with logged_in(server.port, "alice", features=["ids"]) as alice:
        assert stored(alice, "bob", "x", requestId="r") == told
        assert alice.refused(PERSON_MESSAGE, receiver="bob", content="other", time=1, requestId="r")


def test_through_two_nodes(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """A repeat at another node is told the same, and the receiver gets the same there."""
    database = mariadb.fresh_database("jelly_ids")
    first, second = (start_server(database=database, cluster="none") for _ in range(2))
    register(first.port, "alice", "bob")
    with logged_in(second.port, "bob", features=["ack", "ids"]) as bob:
        with logged_in(first.port, "alice", features=["ids"]) as alice:
            told = stored(alice, "bob", "x", requestId="r")
        with logged_in(second.port, "alice", features=["ids"]) as alice:
            assert stored(alice, "bob", "x", requestId="r") == told
        values = notice(bob)
        assert (values["id"], values["stored"]) == told


def test_an_id_without_a_time(server: JellyServer) -> None:
    """Nobody knows when a message was stored that is of the time when ids were counted."""
    with server._reading() as dao, dao.connection.transaction():
        dao.connection.change(
            "INSERT INTO messages (id, is_group, sender, receiver, content, time) VALUES (7, 0, 'alice', 'bob', 'x', 1)"
        )
        dao.connection.change("INSERT INTO inbox (receiver, message_id) VALUES ('bob', 7)")
    with logged_in(server.port, "bob", features=["ack", "ids"]) as bob, logged_in(server.port, "alice") as alice:
        assert list(notice(bob))[-2:] == ["time", "id"]
        alice.message("bob", "y")
        values = notice(bob)
        assert list(values)[-2:] == ["id", "stored"]
        assert values["id"] > FIRST_DATED


def test_the_library(server: JellyServer, new_client: NewClient) -> None:
    """It asks for the feature, and passes on what it is told; without the feature it says None."""
    got = Recorder()
    alice, bob = new_client(server.port), new_client(server.port, got)
    assert "ids" in result(alice.login("alice", PASSWORD)).features
    result(bob.login("bob", PASSWORD))
    sent = result(alice.send_message("bob", "hello"))
    to_group = result(alice.send_group_message("team", "hi"))
    assert sent.id is not None
    assert sent.stored == sent.id // IDS_PER_MS
    events = got.wait_for(lambda event: isinstance(event, MessageEvent | GroupMessageEvent), 2)
    assert [(event.id, event.stored) for event in events] == [
        (sent.id, sent.stored), (to_group.id, to_group.stored),
    ]  # fmt: skip
    [past] = result(alice.history("bob")).messages
    assert (past.id, past.stored) == (sent.id, sent.stored)
    carol = new_client(server.port, features=("ack",))
    result(carol.login("carol", PASSWORD))
    sent = result(carol.send_message("alice", "hello"))
    assert (sent.id, sent.stored) == (None, None)
    assert result(carol.history("alice")).messages[0].stored is None
