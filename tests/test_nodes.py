"""Several nodes on one database: real servers in this process, a real MariaDB, and hints through a
real Redis, or none.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pytest
from harness import StartServer, ready_database
from wire import (
    ACK,
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    FRIEND_PROFILE,
    GROUP_MESSAGE,
    HISTORY,
    LOGOUT,
    OWN_GROUPS,
    OWN_PROFILE,
    PERSON_MESSAGE,
    RECONNECT,
    REMOVE_MEMBER,
    SET_ROLE,
    SUCCESS,
    SYSTEM,
    TYPING,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)  # fmt: skip

from faults.mariadb import PrivateMariaDB
from faults.process import Server
from faults.proxy import Proxy
from faults.redis import PrivateRedis
from faults.rows.database import read_state, write_state
from jelly import indexing, migrations
from jelly.accounts import Action
from jelly.cluster import lease, node_dao
from jelly.cluster import node as node_module
from jelly.cluster.bus import Hint
from jelly.cluster.node import Node
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.errors import ConfigError, StartError
from jelly.live_nodes import live_nodes
from jelly.login_guard import LoginGuard
from jelly.migrations import SCHEMA_VERSION
from jelly.passwords import hash_password
from jelly.server import JellyServer

MODERN = ["ack"]


@pytest.fixture(params=["none", "redis"])
def cluster(request: pytest.FixtureRequest) -> str:
    """The value of --cluster."""
    return "none" if request.param == "none" else str(request.getfixturevalue("redis_server").url)


@pytest.fixture
def database(mariadb: PrivateMariaDB) -> str:
    """A database that nodes can share, in which nothing is."""
    return ready_database(mariadb, "jelly_nodes")


@pytest.fixture
def nodes(start_server: StartServer, database: str, cluster: str) -> list[JellyServer]:
    """Two nodes."""
    return [start_server(database=database, cluster=cluster) for _ in range(2)]


@pytest.fixture
def ports(nodes: list[JellyServer]) -> tuple[int, int]:
    """Their ports; alice, bob and cat have accounts."""
    register(nodes[0].port, "alice", "bob", "cat")
    return nodes[0].port, nodes[1].port


@pytest.fixture
def dao(database: str) -> Iterator[Dao]:
    """A Dao that looks at the database beside the nodes."""
    connection = DatabaseConnection(open_engine(database))
    yield Dao(connection)
    connection.close()


def node_of(server: JellyServer) -> Node:
    assert server.node is not None
    return server.node


def system_notice(wire: Wire, event: str) -> dict[str, Any]:
    """The next SYSTEM notice of a kind; others are passed over."""
    while True:
        notice = wire.receive_notice()
        if notice.type == SYSTEM and notice.values["event"] == event:
            values: dict[str, Any] = notice.values
            return values


def wait_until_closed(wire: Wire) -> None:
    """Read until the server has closed the connection."""
    try:
        while True:
            wire.receive()
    except EOFError:
        pass


def test_messages_go_from_node_to_node(ports: tuple[int, int]) -> None:
    """In their order, both ways, to a modern and to a classic client."""
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob") as bob:
        for number in range(50):
            alice.send_message("bob", f"to bob {number}")
            bob.send_message("alice", f"to alice {number}")
        for wire in (alice, bob):
            for _ in range(50):
                assert wire.receive_response().status == SUCCESS
        assert bob.contents(50) == [f"to bob {number}" for number in range(50)]
        assert alice.contents(50) == [f"to alice {number}" for number in range(50)]


def test_what_waits_comes_at_any_node(ports: tuple[int, int]) -> None:
    """A message to somebody offline is handed over at the node at which the receiver logs in."""
    first, second = ports
    with logged_in(first, "alice") as alice:
        for number in range(3):
            assert alice.call(PERSON_MESSAGE, receiver="bob", content=str(number), time=1).status == SUCCESS
    with logged_in(second, "bob", features=MODERN) as bob:
        assert bob.contents(3) == ["0", "1", "2"]


def test_an_acknowledged_message_does_not_come_again(ports: tuple[int, int], dao: Dao) -> None:
    """Also not at another node."""
    first, second = ports
    with logged_in(first, "bob", features=MODERN) as bob:
        with logged_in(second, "alice") as alice:
            alice.call(PERSON_MESSAGE, receiver="bob", content="once", time=1)
        notice = bob.receive_notice()
        bob.send_request(ACK, username=None, id=notice.values["id"])
        wait_until(lambda: not dao.waiting("bob", 0, 10))
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="later", time=1)
        assert bob.contents(1) == ["later"]


@pytest.mark.parametrize("is_dead", [True, False], ids=["node removed", "user moved"])
def test_an_acknowledgement_of_a_session_that_was_lost(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, is_dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node has committed a message to its user, and then stood still. When it wakes up it does
    not find what others have stored before that, because the user is no longer here. So the
    acknowledgement of its own message must not remove theirs.
    """
    first, second = ports
    node, committed = node_of(nodes[1]), Node.committed
    elsewhere: list[Wire] = []

    def commit_and_sleep(self: Node) -> None:
        if self is node:
            monkeypatch.setattr(Node, "committed", committed)
            if is_dead:
                number = node._dao.number
                with dao.connection.transaction():
                    dao.connection.execute(f"UPDATE meta SET value = 0 WHERE name = 'node.{number}'")
                    dao.connection.execute(f"DELETE FROM nodes WHERE id = {number}")
                    dao.connection.execute(f"DELETE FROM sessions WHERE node = {number}")
            else:
                elsewhere.append(logged_in(first, "bob", features=MODERN))
        committed(self)

    with (
        logged_in(second, "bob", features=MODERN) as bob,
        logged_in(first, "alice", features=MODERN) as alice,
        logged_in(second, "cat", features=MODERN) as cat,
    ):
        with nodes[1].store._turn:
            alice.call(PERSON_MESSAGE, receiver="bob", content="first", time=1)
            cat.send_message("bob", "second")
            wait_until(lambda: bool(nodes[1].store._jobs))
            monkeypatch.setattr(Node, "committed", commit_and_sleep)
        notice = bob.receive_notice()
        while notice.type != PERSON_MESSAGE:
            notice = bob.receive_notice()
        assert notice.values["content"] == "second"
        bob.send_request(ACK, username=None, id=notice.values["id"])
        wait_until_closed(bob)
    for wire in elsewhere:
        wire.close()
    wait_until(lambda: all(node_of(server).is_serving for server in nodes))
    wait_until(lambda: nodes[1].store._delivered_due is None)  # what was acknowledged is dealt with
    with logged_in(first, "bob", features=MODERN) as bob:
        assert bob.contents(2) == ["first", "second"]


def test_a_login_takes_over_at_another_node(ports: tuple[int, int], dao: Dao) -> None:
    """The older session is told, closed, and writes nothing any more."""
    first, second = ports
    old = logged_in(first, "alice", features=MODERN)
    with old, logged_in(second, "alice", features=MODERN) as new, logged_in(second, "bob") as bob:
        system_notice(old, "taken_over")
        wait_until_closed(old)
        bob.call(PERSON_MESSAGE, receiver="alice", content="where are you?", time=1)
        assert new.contents(1) == ["where are you?"]
        assert len(dao.connection.query("SELECT 1 FROM sessions WHERE username = 'alice'")) == 1


def test_a_classic_client_that_is_taken_over_stays_out(ports: tuple[int, int]) -> None:
    """Its token goes with the newer login, also if that is at another node."""
    first, second = ports
    with logged_in(first, "alice") as old, logged_in(second, "alice") as new:
        with pytest.raises(EOFError):
            old.receive()
        with Wire(first) as again:
            assert again.call(RECONNECT, username="alice", token=old.token).error == "invalid_token"
        assert new.call(OWN_PROFILE).status == SUCCESS


def test_a_login_whose_client_has_gone_takes_nothing_over(nodes: list[JellyServer], ports: tuple[int, int]) -> None:
    """A node that froze finds logins in its sockets whose clients have gone elsewhere since."""
    first, second = ports
    with logged_in(second, "alice", features=MODERN) as wire:
        token = wire.token
    with logged_in(first, "alice", features=MODERN) as alice:
        with nodes[1].store._turn, Wire(second) as late:
            late.send_request(RECONNECT, username="alice", token=token, features=MODERN)
            wait_until(lambda: bool(nodes[1].store._jobs))
        with logged_in(second, "bob", features=MODERN) as bob:  # this login comes after the late one
            assert bob.call(PERSON_MESSAGE, receiver="alice", content="still there?", time=1).status == SUCCESS
        assert alice.contents(1) == ["still there?"]
        assert alice.call(OWN_PROFILE).status == SUCCESS


def receive_all(wire: Wire) -> list[str]:
    """What the messages say that come until the server closes."""
    contents = []
    with contextlib.suppress(EOFError):
        while True:
            notice = wire.receive_notice()
            if notice.type != SYSTEM:
                contents.append(notice.values["content"])
    return contents


def test_who_logs_out_misses_nothing_in_between(nodes: list[JellyServer], ports: tuple[int, int]) -> None:
    """A logout is in one transaction with a message of this node, and another node has stored one
    before: the client, which keeps the largest id, must not get the second one only.
    """
    first, second = ports
    register(first, "carol")
    with (
        logged_in(second, "bob", features=MODERN) as bob,
        logged_in(second, "carol") as carol,
        logged_in(first, "alice") as alice,
    ):
        with nodes[1].store._turn:
            alice.message("bob", "from the other node")
            carol.send_message("bob", "from this node")
            wait_until(lambda: len(nodes[1].store._jobs) == 1)
            bob.send_request(LOGOUT, token=bob.token)
            wait_until(lambda: len(nodes[1].store._jobs) == 2)
        assert receive_all(bob) in ([], ["from the other node", "from this node"])
    with logged_in(first, "bob", features=MODERN) as bob:
        assert bob.contents(2) == ["from the other node", "from this node"]


def test_who_is_taken_over_misses_nothing_in_between(
    nodes: list[JellyServer], ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a user who logs in at another node right after the commit."""
    first, second = ports
    register(first, "carol")
    dao = node_of(nodes[1])._dao
    tail, moved = dao.tail, list[Wire]()

    def move_first(*arguments: int) -> Any:
        if not moved:
            moved.append(logged_in(first, "bob", features=MODERN))
        return tail(*arguments)

    with (
        logged_in(second, "bob", features=MODERN) as bob,
        logged_in(second, "carol") as carol,
        logged_in(first, "alice") as alice,
    ):
        with nodes[1].store._turn:
            alice.message("bob", "from the other node")
            monkeypatch.setattr(dao, "tail", move_first)
            carol.send_message("bob", "from this node")
            wait_until(lambda: len(nodes[1].store._jobs) == 1)
        assert receive_all(bob) in ([], ["from the other node", "from this node"])
    with moved[0] as bob:
        assert bob.contents(2) == ["from the other node", "from this node"]


def test_a_token_is_good_at_every_node(ports: tuple[int, int]) -> None:
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as wire:
        token = wire.token
    with Wire(second) as wire:
        assert wire.reconnect("alice", token, features=MODERN).status == SUCCESS


def test_friends_see_each_other_over_nodes(ports: tuple[int, int]) -> None:
    """Presence notices and the friend list know the users of all nodes."""
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice:
        assert alice.call(ADD_FRIEND, friend="bob").status == SUCCESS
        with logged_in(second, "bob", features=MODERN) as bob:
            assert system_notice(alice, "presence") == {"event": "presence", "friend": "bob", "online": True}
            assert alice.call(ALL_FRIENDS).values["friends"] == {"bob": True}
            bob.send_request(LOGOUT, token=bob.token)
            assert system_notice(alice, "presence") == {"event": "presence", "friend": "bob", "online": False}
        assert alice.call(ALL_FRIENDS).values["friends"] == {"bob": False}


def test_a_user_who_moves_was_never_offline(ports: tuple[int, int]) -> None:
    """A takeover at another node is no change of presence."""
    first, second = ports
    with (
        logged_in(first, "alice", features=MODERN) as alice,
        logged_in(first, "bob", features=MODERN) as old,
    ):
        alice.call(ADD_FRIEND, friend="bob")
        with logged_in(second, "bob", features=MODERN) as new:
            system_notice(old, "taken_over")
            new.call(PERSON_MESSAGE, receiver="alice", content="from there", time=1)
            assert alice.receive_notice().type == PERSON_MESSAGE
            assert alice.call(ALL_FRIENDS).values["friends"] == {"bob": True}
            assert not alice.notices


def test_groups_over_nodes(ports: tuple[int, int]) -> None:
    """Members are known at all nodes at once, and told of changes wherever they are."""
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob", features=MODERN) as bob:
        assert alice.call(CREATE_GROUP, groupName="g").status == SUCCESS
        # The other node learns the group without its new member, and has it in its cache.
        refused = bob.call(GROUP_MESSAGE, receiver="g", content="let me in", time=1)
        assert refused.error == "not_a_member"
        assert alice.call(ADD_MEMBER, groupName="g", member="bob").status == SUCCESS
        assert bob.call(GROUP_MESSAGE, receiver="g", content="hello", time=1).status == SUCCESS
        assert system_notice(bob, "group_changed")["members"] == ["alice", "bob"]
        assert next_group_message(alice) == "hello"
        assert alice.call(REMOVE_MEMBER, groupName="g", member="bob").status == SUCCESS
        assert system_notice(bob, "group_changed")["members"] == ["alice"]
        assert bob.call(GROUP_MESSAGE, receiver="g", content="still here?", time=1).error == "not_a_member"
        assert alice.call(ADD_MEMBER, groupName="g", member="bob").status == SUCCESS
        assert alice.call(DISBAND_GROUP, groupName="g").status == SUCCESS
        assert system_notice(bob, "group_disbanded") == {"event": "group_disbanded", "group": "g"}
        assert bob.call(GROUP_MESSAGE, receiver="g", content="anybody?", time=1).error == "no_such_group"


def test_last_seen_at_another_node(nodes: list[JellyServer], ports: tuple[int, int]) -> None:
    """Whoever hears that a friend is offline finds out since when, wherever that friend was."""
    here, there = ports
    with logged_in(here, "alice", features=["seen"]) as alice:
        alice.ok(ADD_FRIEND, friend="bob")
        for how in ("cut", "logout"):
            with logged_in(there, "bob") as bob:
                if how == "cut":
                    bob.ok(ADD_FRIEND, friend="alice")
                assert system_notice(alice, "presence") == {"event": "presence", "friend": "bob", "online": True}
                assert "seen" not in alice.ok(FRIEND_PROFILE, friend="bob")
                before = int(nodes[1].services.logins._clock.latest() * 1000)
                if how == "cut":
                    bob.reset()
                else:
                    bob.send_request(LOGOUT, token=bob.token)
                assert system_notice(alice, "presence") == {"event": "presence", "friend": "bob", "online": False}
                assert alice.ok(FRIEND_PROFILE, friend="bob")["seen"] >= before


def test_typing_between_nodes(nodes: list[JellyServer], ports: tuple[int, int], cluster: str) -> None:
    """Through the bus, to friends and members at the other node who know it, and to nobody else.
    Without a bus it stays at the node.
    """
    here, there = ports
    with logged_in(here, "alice") as alice, logged_in(there, "bob") as bob:
        alice.ok(ADD_FRIEND, friend="bob")
        alice.ok(ADD_FRIEND, friend="cat")  # who does not have her
        bob.ok(ADD_FRIEND, friend="alice")
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
    with (
        logged_in(here, "alice", features=["typing"]) as alice,
        logged_in(there, "bob", features=["typing"]) as bob,
        logged_in(there, "cat", features=["typing"]) as cat,
    ):
        wait_until(lambda: all(server.node and server.node.registry.get("bob") for server in nodes))
        wait_until(lambda: all(server.node and server.node.registry.get("cat") for server in nodes))
        session = nodes[0].sessions.get("alice")
        assert session is not None
        if cluster != "none":
            wait_until(lambda: all(server.node and server.node.bus.is_up for server in nodes))
        for to in ({"person": "cat"}, {"person": "bob"}, {"groupName": "team"}):
            session.typing_at = -math.inf
            alice.send_request(TYPING, username="alice", **to)
            alice.ok(OWN_PROFILE)
        if cluster == "none":
            alice.message("bob", "hello")
            while (notice := bob.receive_notice()).type != PERSON_MESSAGE:
                assert b'"typing"' not in notice.body
            return
        assert system_notice(bob, "typing") == {"event": "typing", "user": "alice"}
        assert system_notice(bob, "typing") == {"event": "typing", "user": "alice", "group": "team"}
        cat.ok(OWN_PROFILE)
        assert not [notice for notice in cat.notices if b"typing" in notice.body]


def test_roles_count_at_every_node(ports: tuple[int, int]) -> None:
    """Who was made an admin at one node is one at the other; members there hear who did it; and the
    one who has lost the group to another node's user can do nothing in it any more.
    """
    here, there = ports
    with (
        logged_in(here, "alice", features=["roles"]) as alice,
        logged_in(there, "bob", features=["roles"]) as bob,
        logged_in(there, "cat", features=[]) as cat,
    ):
        alice.ok(CREATE_GROUP, groupName="team")
        for member in ("bob", "cat"):
            alice.ok(ADD_MEMBER, groupName="team", member=member)
            system_notice(bob, "group_changed")
        alice.ok(SET_ROLE, groupName="team", member="bob", role="admin")
        told = system_notice(bob, "group_changed")
        assert told["changes"] == [{"user": "alice", "member": "bob", "role": "admin"}]
        assert told["roles"] == {"alice": "owner", "bob": "admin"}
        bob.ok(REMOVE_MEMBER, groupName="team", member="cat")
        bob.ok(ADD_MEMBER, groupName="team", member="cat")
        alice.ok(SET_ROLE, groupName="team", member="bob", role="owner")
        while (told := system_notice(bob, "group_changed"))["changes"][0].get("role") != "owner":
            assert told["roles"] == {"alice": "owner", "bob": "admin"}
        assert told["members"] == ["bob", "alice", "cat"]
        assert told["roles"] == {"bob": "owner", "alice": "admin"}
        bob.ok(SET_ROLE, groupName="team", member="alice", role="member")
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="cat") == "not_group_creator"
        assert alice.ok(OWN_GROUPS)["roles"] == {"team": {"bob": "owner"}}
        cat.message("team", "hello", type=GROUP_MESSAGE)
        assert all("roles" not in notice.values for notice in cat.notices if notice.type == SYSTEM)
        alice.ok(REMOVE_MEMBER, groupName="team", member="alice")


@pytest.mark.parametrize("is_in_doubt", [False, True])
@pytest.mark.parametrize(
    ("change", "error"), [(REMOVE_MEMBER, "not_a_member"), (DISBAND_GROUP, "no_such_group")], ids=["member", "group"]
)
def test_a_member_who_is_removed_meanwhile(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, change: int, error: str, is_in_doubt: bool
) -> None:
    """A node has taken a message to a group for that of a member. Before it stores the message,
    another node removes the sender, or the group: the message is refused. `is_in_doubt`: meanwhile
    a commit was in doubt, after which the node has forgotten the members of all groups.
    """
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob", features=MODERN) as bob:
        alice.call(CREATE_GROUP, groupName="g")
        alice.call(ADD_MEMBER, groupName="g", member="bob")
        assert bob.call(GROUP_MESSAGE, receiver="g", content="as a member", time=1).status == SUCCESS
        assert next_group_message(alice) == "as a member"
        with nodes[1].store._turn:
            bob.send_message("g", "too late", GROUP_MESSAGE)
            wait_until(lambda: bool(nodes[1].store._jobs))
            if is_in_doubt:
                nodes[1].groups.forget_all()
            values = {"member": "bob"} if change == REMOVE_MEMBER else {}
            assert alice.call(change, groupName="g", **values).status == SUCCESS
        assert bob.receive_response().error == error
    assert dao.connection.query("SELECT content FROM messages") == [("as a member",)]


def next_group_message(wire: Wire) -> str:
    while (notice := wire.receive_notice()).type != GROUP_MESSAGE:
        pass
    return str(notice.values["content"])


def test_a_message_that_comes_again_at_another_node_is_stored_once(ports: tuple[int, int]) -> None:
    """A requestId is known at all nodes, before it is indexed and after."""
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice:
        assert alice.call(PERSON_MESSAGE, receiver="bob", content="once", time=1, requestId="r1").status == SUCCESS
    with logged_in(second, "alice", features=MODERN) as alice:
        assert alice.call(PERSON_MESSAGE, receiver="bob", content="once", time=1, requestId="r1").status == SUCCESS
        other = alice.call(PERSON_MESSAGE, receiver="bob", content="twice", time=1, requestId="r1")
        assert other.error == "request_id_reused"
    with logged_in(first, "bob", features=MODERN) as bob, logged_in(second, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="last", time=1)
        assert bob.contents(2) == ["once", "last"]


def test_a_message_that_was_dropped_is_known_everywhere(
    start_server: StartServer, database: str, cluster: str, dao: Dao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without history, a message goes when its receiver has it. The node that drops it first keeps
    its requestId, also if another node has stored it, and has not indexed it yet.
    """
    first, second = (start_server(database=database, cluster=cluster, history_days=0.0).port for _ in range(2))
    register(first, "alice", "bob")
    monkeypatch.setattr(indexing, "INDEX_DELAY", 3600.0)
    once = {"receiver": "bob", "content": "once", "time": 1, "requestId": "r1"}
    with logged_in(second, "bob", features=MODERN) as bob:
        with logged_in(first, "alice", features=MODERN) as alice:
            assert alice.call(PERSON_MESSAGE, **once).status == SUCCESS
        bob.ack(bob.receive_notice().values["id"])
        wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)])
        with logged_in(second, "alice", features=MODERN) as alice:
            assert alice.call(PERSON_MESSAGE, **once).status == SUCCESS
            assert alice.call(PERSON_MESSAGE, receiver="bob", content="later", time=1).status == SUCCESS
        assert bob.contents(1) == ["later"]


def test_history_is_the_same_everywhere(ports: tuple[int, int]) -> None:
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice:
        for number in range(3):
            alice.call(PERSON_MESSAGE, receiver="bob", content=str(number), time=1)
    with logged_in(second, "alice", features=MODERN) as alice:
        page = alice.call(HISTORY, person="bob").values["messages"]
        assert [message["content"] for message in page] == ["0", "1", "2"]


def test_a_new_password_ends_the_session_at_another_node(ports: tuple[int, int], dao: Dao) -> None:
    """The operator's command is carried out once, by any node; all of them end the sessions."""
    _, second = ports
    with logged_in(second, "alice", features=MODERN) as alice:
        with dao.connection.transaction():
            dao.add_command("1", Action.PASSWD, "alice", hash_password("new one", 1))
        system_notice(alice, "password_changed")
        wait_until(lambda: dao.command_result("1") == "done")
    with Wire(second) as wire:
        assert wire.login("alice", "new one").status == SUCCESS


def test_a_message_is_indexed_once(ports: tuple[int, int], dao: Dao) -> None:
    """Whichever node gets to it: the others go on behind it."""
    for port in ports:
        with logged_in(port, "alice", features=MODERN) as alice:
            for number in range(5):
                alice.call(PERSON_MESSAGE, receiver="bob", content=str(number), time=1, requestId=f"{port}-{number}")
    wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM requests") == [(10,)])


# --- what a client sends right before its connection ends -----------------------------------------


def messages_to_bob(contents: Iterable[str]) -> bytes:
    """The bytes of alice's messages."""
    values = [{"sender": "alice", "receiver": "bob", "content": content, "time": 1} for content in contents]
    return b"".join(pack(PERSON_MESSAGE, to_json(each)) for each in values)


def contents_of_alice(dao: Dao) -> list[str]:
    """What alice's messages say, in the order of their ids."""
    rows = dao.connection.query("SELECT content FROM messages WHERE sender = 'alice' ORDER BY id")
    return [content for (content,) in rows]


def are_stored(dao: Dao, contents: list[str]) -> bool:
    return contents_of_alice(dao) == contents


@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_was_sent_right_before_the_end(ports: tuple[int, int], dao: Dao, end: str) -> None:
    """A client sends messages, and closes at once, without reading an answer. All are stored, as on
    a single server.
    """
    contents = [f"{repetition}.{number}" for repetition in range(20) for number in range(50)]
    for sent in range(0, len(contents), 50):
        alice = logged_in(ports[sent // 50 % 2], "alice", features=MODERN)
        alice.send(messages_to_bob(contents[sent : sent + 50]))
        getattr(alice, end)()
        wait_until(partial(are_stored, dao, contents[: sent + 50]))


@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_end_waits_for_all_that_was_read(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several transactions write it, and the last one is that of a LOGOUT, which is carried out,
    too. Only then do the others hear that the user is gone.
    """
    monkeypatch.setattr("jelly.connection.HALF_CLOSE_TIMEOUT", 0.0)  # as if it took the database longer
    first, second = ports
    server, contents = nodes[0], [str(number) for number in range(150)]
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice", features=MODERN) as alice:
        bob.call(ADD_FRIEND, friend="alice")
        [connection] = [each for each in server.connections if each.session.user == "alice"]
        with server.store._turn:
            alice.send_request(ADD_FRIEND, friend="bob")
            alice.send(messages_to_bob(contents))
            alice.send_request(LOGOUT, token=alice.token)
            wait_until(lambda: connection.send_queue.read_bytes == alice.bytes_sent)
            getattr(alice, end)()
            wait_until(lambda: server.sessions.get("alice") is None)
        assert not system_notice(bob, "presence")["online"]
    assert contents_of_alice(dao) == contents
    with Wire(second) as wire:
        assert wire.call(RECONNECT, username="alice", token=alice.token).error == "invalid_token"


def test_the_next_login_at_the_same_node(nodes: list[JellyServer], ports: tuple[int, int], dao: Dao) -> None:
    """Does not keep the node from writing what it has read before."""
    server, contents = nodes[0], [str(number) for number in range(150)]
    with logged_in(ports[0], "alice", features=MODERN) as old, Wire(ports[0]) as new:
        [connection] = [each for each in server.connections if each.session.user == "alice"]
        with server.store._turn:
            old.send_request(ADD_FRIEND, friend="bob")
            old.send(messages_to_bob(contents))
            wait_until(lambda: connection.send_queue.read_bytes == old.bytes_sent)
            old.reset()
            wait_until(lambda: server.sessions.get("alice") is None)
            new.send_request(RECONNECT, username="alice", token=old.token, features=MODERN)
            wait_until(lambda: len(server.store._jobs) == 2)
        assert new.receive_response().status == SUCCESS
        wait_until(lambda: contents_of_alice(dao) == contents)
        new.user = "alice"
        assert new.call(OWN_PROFILE).status == SUCCESS


# --- nodes that come and go -----------------------------------------------------------------------


def test_a_node_that_stops_is_gone_in_order(start_server: StartServer, database: str, dao: Dao) -> None:
    """Its users may come back elsewhere; a node that begins after it takes a number."""
    first = start_server(database=database, cluster="none")
    second = start_server(database=database, cluster="none")
    register(first.port, "alice")
    with logged_in(second.port, "alice", features=MODERN) as alice:
        second.stop()
        system_notice(alice, "shutdown")
    assert [node.address for node in live_nodes(dao.connection)] == [f"127.0.0.1:{first.port}"]
    third = start_server(database=database, cluster="none")
    addresses = [node.address for node in live_nodes(dao.connection)]
    assert addresses == [f"127.0.0.1:{each.port}" for each in (first, third)]
    with logged_in(third.port, "alice", features=MODERN) as alice:
        assert alice.call(OWN_PROFILE).status == SUCCESS


def test_single_servers_and_nodes_exclude_each_other(start_server: StartServer, database: str) -> None:
    node = start_server(database=database, cluster="none")
    said = r"Nodes of a cluster use this database \(1 at .+\): stop all of them first, wait for [1-5] s if they were"
    with pytest.raises(StartError, match=said):
        start_server(database=database)
    node.stop()
    single = start_server(database=database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jelly.server.CLAIM_SECONDS", 0.0)
        with pytest.raises(StartError, match="another server is using this database"):
            start_server(database=database, cluster="none")
    single.stop()
    start_server(database=database, cluster="none")


@contextlib.contextmanager
def newer_program() -> Iterator[int]:
    """A program with the next schema version runs, which it yields."""
    newer = SCHEMA_VERSION + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "STEPS", {newer: ("ALTER TABLE users ADD COLUMN more INT",)})
        for module in (migrations, node_dao):
            patch.setattr(module, "SCHEMA_VERSION", newer)
        yield newer


def schema_version(dao: Dao) -> int:
    return int(dao.connection.query("SELECT value FROM meta WHERE name = 'schema_version'")[0][0])


@pytest.fixture
def migrated(mariadb: PrivateMariaDB) -> Iterator[None]:
    """For a test that migrates the database: the next one gets another."""
    yield
    mariadb.sql("DROP DATABASE jelly_nodes")


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("kind", ["none", ""], ids=["node", "single server"])
def test_a_newer_schema_beside_nodes(start_server: StartServer, database: str, dao: Dao, kind: str) -> None:
    """A program that would migrate the database does not start while nodes use it, and says which.
    When they have stopped, it does.
    """
    nodes = [start_server(database=database, cluster="none") for _ in range(2)]
    register(nodes[0].port, "alice")
    with newer_program() as newer:
        with pytest.raises(StartError) as refused:
            start_server(database=database, cluster=kind)
        assert not isinstance(refused.value, ConfigError)
        names = "; ".join(
            rf"{number} at 127\.0\.0\.1:{node.port}, version \S+, since 20\S+ \S+ UTC"
            for number, node in enumerate(nodes, 1)
        )
        assert re.fullmatch(
            rf"The database has schema version {SCHEMA_VERSION}, this program needs {newer}, and nodes of a cluster "
            rf"use it \({names}\): stop all of them first, or wait for [1-5] s if they were killed\.",
            str(refused.value),
        )
    assert schema_version(dao) == SCHEMA_VERSION
    assert "more" not in dao.connection.columns("users")
    with logged_in(nodes[1].port, "alice") as alice:
        assert alice.call(OWN_PROFILE).status == SUCCESS
    for node in nodes:
        node.stop()
    with newer_program() as newer:
        start_server(database=database, cluster=kind)
        assert schema_version(dao) == newer


def test_a_node_that_stood_still_beside_a_single_server(start_server: StartServer, database: str, dao: Dao) -> None:
    """A single server has begun when its lease was over. When it wakes up it writes nothing, also
    if nobody has written since its last transaction.
    """
    node = start_server(database=database, cluster="none")
    register(node.port, "alice", "bob")
    with logged_in(node.port, "alice") as alice:
        with node.store._turn:
            alice.send_message("bob", "too late")
            wait_until(lambda: bool(node.store._jobs))
            dao.connection.execute("UPDATE nodes SET renewed = renewed - lease - 1")
            single = start_server(database=database)
        wait_until_closed(alice)
    with logged_in(single.port, "alice") as alice:
        assert alice.call(OWN_PROFILE).status == SUCCESS
    assert contents_of_alice(dao) == []


@pytest.mark.usefixtures("migrated")
def test_an_older_node_beside_a_newer_schema(nodes: list[JellyServer], ports: tuple[int, int], dao: Dao) -> None:
    """Nodes that stood still until their leases were over have kept nobody from migrating. When
    they wake up they write nothing, and stop.
    """
    reasons: list[str] = []
    for node in nodes:
        node._on_fatal = reasons.append
    with logged_in(ports[0], "alice") as alice, nodes[0].store._turn, nodes[1].store._turn:
        alice.send_message("bob", "too late")
        wait_until(lambda: bool(nodes[0].store._jobs))
        dao.connection.execute("UPDATE nodes SET renewed = renewed - lease - 1")
        with newer_program() as newer:
            engine = open_engine(f"{nodes[0].settings.database}")
            engine.is_shared = True
            connection = DatabaseConnection(engine, writes=True)
            with connection.claimed(10.0):
                migrations.migrate(connection)
            connection.close()
    wait_until(lambda: len(set(reasons)) == 1 and len(reasons) >= 2)
    assert reasons[0] == (
        f"the database has schema version {newer} now, and this program knows {SCHEMA_VERSION}: start the version of "
        "Jelly that the other nodes have"
    )
    assert dao.connection.query("SELECT COUNT(*) FROM messages") == [(0,)]
    assert dao.connection.query("SELECT COUNT(*) FROM nodes") == [(0,)]


def test_a_single_server_has_nothing_of_it(start_server: StartServer, database: str) -> None:
    server = start_server(database=database)
    assert server.node is None
    assert server.store.node is None


def test_a_node_that_dies_is_removed(
    start_server: StartServer, database: str, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its users go offline for their friends, and may log in elsewhere meanwhile."""
    first = start_server(database=database, cluster=cluster)
    register(first.port, "alice", "bob")
    with (
        Server(database, "--cluster", cluster, "--node-timeout", "2", "--password-cost", "1") as second,
        logged_in(first.port, "alice", features=MODERN) as alice,
    ):
        alice.call(ADD_FRIEND, friend="bob")
        with logged_in(second.port, "bob", features=MODERN):
            assert system_notice(alice, "presence")["online"]
            second.kill()
            assert not system_notice(alice, "presence")["online"]
    assert "was silent for too long" in caplog.text
    with logged_in(first.port, "bob", features=MODERN) as bob:
        assert bob.call(OWN_PROFILE).status == SUCCESS


def test_a_node_that_was_declared_dead_starts_over(
    nodes: list[JellyServer], ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """It writes nothing as the one that it was. Its clients come back, and nothing is lost. The log
    says it once, and does not blame the database.
    """
    first, second = ports
    number = node_of(nodes[1])._dao.number
    with logged_in(second, "bob", features=MODERN) as bob:
        connection = DatabaseConnection(nodes[0].engine)
        with connection.transaction():
            connection.execute(f"UPDATE meta SET value = 0 WHERE name = 'node.{number}'")
            connection.execute(f"DELETE FROM nodes WHERE id = {number}")
        connection.close()
        wait_until_closed(bob)
    wait_until(lambda: node_of(nodes[1]).is_serving)
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="again", time=1)
        assert bob.contents(1) == ["again"]
    assert [line for line in caplog.messages if "too long" in line or "the database" in line] == [
        "this node was silent for too long, and the others have declared it dead: all connections are closed"
    ]


@pytest.mark.parametrize("name", ["event", "next_id"])
def test_a_database_that_has_lost_what_others_did(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that has seen more than the database holds begins anew, and so do its clients. No id
    is given twice.
    """
    first, second = ports
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="seen", time=1)
        seen = bob.receive_notice().values["id"]
        with dao.connection.transaction():
            lost = 1 if name == "event" else seen
            dao.connection.execute("UPDATE meta SET value = value - ? WHERE name = ?", (lost, name))
        wait_until(lambda: "gone back to an older state: all connections are closed" in caplog.text)
    # (The other one may have noticed as well, and not have closed its connections yet.)
    wait_until(lambda: all(node_of(server).is_serving and server.store._doubt is None for server in nodes))
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="new", time=1)
        while (notice := bob.receive_notice().values)["content"] != "new":
            pass
        assert notice["id"] > seen


def test_a_hint_from_nowhere(
    nodes: list[JellyServer], ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """A hint with an id that nobody has given does no harm, nor one with such an event."""
    first, second = ports
    node_of(nodes[1]).on_hint(Hint(2**52, 2**40))
    with logged_in(second, "bob", features=MODERN) as bob, logged_in(first, "alice") as alice:
        alice.call(PERSON_MESSAGE, receiver="bob", content="hello", time=1)
        notice = bob.receive_notice().values
        assert notice["content"] == "hello"
        assert notice["id"] < 2**52
    node = node_of(nodes[1])
    wait_until(lambda: not node.has_news)
    assert node._hinted_id < 2**52
    assert node._hinted_event < 2**40
    assert "starts over" not in caplog.text


def test_a_node_that_sends_no_hints(
    start_server: StartServer, database: str, redis_server: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others know it, and look by themselves, although their own Redis works."""
    silent = start_server(database=database, cluster="none")
    other = start_server(database=database, cluster=redis_server.url)
    register(silent.port, "alice", "bob")
    wait_until(lambda: node_of(other)._hears)
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 3600.0)  # a renewal would look, too
    renewed_at = node_of(other).lease.renewed_at
    wait_until(lambda: node_of(other).lease.renewed_at > renewed_at)
    with logged_in(silent.port, "alice") as alice, logged_in(other.port, "bob") as bob:
        for number in range(3):
            alice.call(PERSON_MESSAGE, receiver="bob", content=str(number), time=1)
            assert bob.contents(1) == [str(number)]


def test_users_of_a_node_that_stops_do_not_flicker(nodes: list[JellyServer], ports: tuple[int, int]) -> None:
    """They come back at another node, and their friends hear of nothing."""
    first, second = ports
    with logged_in(first, "alice", features=MODERN) as alice:
        alice.call(ADD_FRIEND, friend="bob")
        with logged_in(second, "bob", features=MODERN) as bob:
            system_notice(alice, "presence")
            nodes[1].stop()
            wait_until_closed(bob)
        with logged_in(first, "bob", features=MODERN) as bob:
            bob.call(PERSON_MESSAGE, receiver="alice", content="still here", time=1)
            assert alice.receive_notice().type == PERSON_MESSAGE
        assert not system_notice(alice, "presence")["online"]


def test_wrong_passwords_count_at_all_nodes(
    nodes: list[JellyServer], ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More nodes do not mean more guesses."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    for _ in range(LoginGuard.FREE_FAILURES + 1):
        with Wire(ports[0]) as wire:
            assert wire.login("alice", "wrong").error == "wrong_credentials"
    other = nodes[1].services.logins._guard
    wait_until(lambda: other.attempt("alice", "192.0.2.1", is_known=False, exists=True).seconds_to_wait() > 0)


def test_one_node_sweeps(nodes: list[JellyServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old is dropped by one node; another takes its place when it stops."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    monkeypatch.setattr(node_dao, "DRAINING_MS", 0)
    sweeps = [node_of(server)._retention for server in nodes]
    wait_until(lambda: [each.is_active for each in sweeps] == [True, False])
    nodes[0].stop()
    wait_until(lambda: sweeps[1].is_active)


def test_a_node_that_has_stopped_was_not_silent(
    start_server: StartServer,
    database: str,
    dao: Dao,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others remove it without a warning, whether they run on or begin later."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    monkeypatch.setattr(node_dao, "DRAINING_MS", 0)
    first = start_server(database=database, cluster="none")
    second = start_server(database=database, cluster="none")
    first.stop()
    wait_until(lambda: dao.connection.query("SELECT id FROM nodes") == [(2,)])
    second.stop()
    start_server(database=database, cluster="none", node_timeout=2.0)
    wait_until(lambda: dao.connection.query("SELECT id FROM nodes") == [(1,)])
    assert "silent" not in caplog.text


def test_a_node_without_its_database_serves_nobody(
    start_server: StartServer, database: str, mariadb: PrivateMariaDB, redis_server: PrivateRedis
) -> None:
    """If others have theirs, its clients should go to them. When it is back, so is the node."""
    other = start_server(database=database, cluster=redis_server.url)
    register(other.port, "alice", "bob")
    with Proxy(mariadb.port) as relay:
        url = database.replace(f":{mariadb.port}/", f":{relay.port}/")
        server = start_server(database=url, cluster=redis_server.url, node_timeout=2.0)
        with logged_in(server.port, "alice", features=MODERN) as alice:
            relay.block()
            while not alice.is_closed():  # the other node hints at each login
                logged_in(other.port, "bob").close()
        with Wire(server.port) as wire, pytest.raises((EOFError, ConnectionError)):
            wire.call(OWN_PROFILE)
        relay.mend()
        wait_until(lambda: node_of(server).is_serving)
        with logged_in(server.port, "alice", features=MODERN) as alice:
            assert alice.call(OWN_PROFILE).status == SUCCESS


def test_a_database_that_comes_back_to_another_node_first(
    start_server: StartServer,
    database: str,
    mariadb: PrivateMariaDB,
    redis_server: PrivateRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hint says so, but the node tries again itself before it cuts its clients off."""
    monkeypatch.setattr(lease, "ISOLATION_DELAY", 3600.0)
    other = start_server(database=database, cluster=redis_server.url)
    register(other.port, "alice", "bob")
    with other.store._turn:
        node_of(other).lease._judges_at = math.inf
    with Proxy(mariadb.port) as relay:
        url = database.replace(f":{mariadb.port}/", f":{relay.port}/")
        server = start_server(database=url, cluster=redis_server.url, node_timeout=2.0)
        node = node_of(server)
        with logged_in(server.port, "alice") as alice:
            relay.block()
            wait_until(lambda: not node.is_serving)
            logged_in(other.port, "bob").close()
            wait_until(lambda: node.lease._heard_at > node.lease.renewed_at + lease.LEASE_INTERVAL)
            failed_at = node.lease.due_at
            wait_until(lambda: node.lease.due_at > failed_at)  # one turn more has failed
            relay.mend()
            wait_until(lambda: node.is_serving)
            assert alice.call(OWN_PROFILE).status == SUCCESS


def test_a_database_that_was_away_for_all_kills_no_node(
    start_server: StartServer, database: str, mariadb: PrivateMariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    """Nodes that could not renew their leases do not declare each other dead."""
    with Proxy(mariadb.port) as relay:
        url = database.replace(f":{mariadb.port}/", f":{relay.port}/")
        servers = [start_server(database=url, cluster="none", node_timeout=2.0) for _ in range(2)]
        register(servers[0].port, "alice")
        with logged_in(servers[0].port, "alice") as alice:
            relay.block()
            wait_until(lambda: not any(node_of(server).is_serving for server in servers))
            relay.mend()
            wait_until(lambda: all(node_of(server).is_serving for server in servers))
            assert alice.call(OWN_PROFILE).status == SUCCESS
    assert "declared it dead" not in caplog.text


def test_nobody_is_removed_while_nobody_could_renew(
    nodes: list[JellyServer], dao: Dao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that froze with the sequence lock keeps all others waiting. The first of them that
    gets the lock takes none of the others for dead; later it may.
    """
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 3600.0)
    node, silent = map(node_of, nodes)
    with nodes[1].store._turn:
        silent.lease.due_at = math.inf

    def tick(stalled: float) -> None:
        with nodes[0].store._turn:
            dao.connection.execute(f"UPDATE nodes SET renewed = renewed - 60000 WHERE id = {silent._dao.number}")
            node.lease.renewed_at -= stalled
            before, node.lease.due_at = node.lease.renewed_at, 0.0
        nodes[0].store.wake()
        wait_until(lambda: node.lease.renewed_at > before)

    tick(stalled=60.0)
    assert len(live_nodes(dao.connection)) == 1  # it is silent
    assert dao.connection.query("SELECT COUNT(*) FROM nodes") == [(2,)]  # and still there
    node.lease._judges_at = 0.0  # the others have had the time of a lease
    old = silent._dao.incarnation
    tick(stalled=0.0)
    assert (old,) not in dao.connection.query("SELECT incarnation FROM nodes")  # it may have begun anew


def test_a_database_that_goes_back(
    nodes: list[JellyServer], ports: tuple[int, int], database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All nodes notice it, close their connections, and go on with ids above those before."""
    first, second = ports
    state = read_state(database)
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob", features=MODERN) as bob:
        alice.call(PERSON_MESSAGE, receiver="bob", content="gone", time=1)
        given = bob.receive_notice().values["id"]
        write_state(database, state)
        wait_until_closed(alice)
        wait_until_closed(bob)
    wait_until(lambda: caplog.text.count("all connections are closed") == len(nodes))
    wait_until(lambda: all(node_of(server).is_serving for server in nodes))
    with logged_in(first, "alice", features=MODERN) as alice, logged_in(second, "bob", features=MODERN) as bob:
        assert alice.call(PERSON_MESSAGE, receiver="bob", content="new", time=1).status == SUCCESS
        notice = bob.receive_notice()
        assert notice.values["content"] == "new"
        assert notice.values["id"] > given


def test_the_lease_is_renewed(nodes: list[JellyServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nothing happens."""
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    node = node_of(nodes[0])
    before = node.lease.renewed_at
    wait_until(lambda: node.lease.renewed_at > before)


def test_events_are_dropped_when_all_have_applied_them(
    nodes: list[JellyServer], ports: tuple[int, int], dao: Dao, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_INTERVAL", 0.01)
    monkeypatch.setattr(node_module, "TRIM_INTERVAL", 0.01)
    for server in nodes:
        node_of(server)._trim_at = 0.0
    for _ in range(3):
        logged_in(ports[0], "alice").close()
    wait_until(lambda: dao.connection.query("SELECT COUNT(*) FROM events")[0][0] <= 2)
