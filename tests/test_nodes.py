"""Several nodes on one database: real servers in this process, a real MariaDB, and hints through a
real Redis, or none.
"""

import contextlib
import math
from typing import Any

import pytest
from harness import StartServer
from node_tools import (
    MODERN,
    cluster_url,
    dao_beside_nodes,
    node_of,
    ports_of_nodes,
    shared_database,
    system_notice,
    two_nodes,
    wait_until_closed,
)
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
    register,
    wait_until,
)  # fmt: skip

from jelly import indexing
from jelly.accounts import Action
from jelly.cluster.node import Node
from jelly.dao import Dao
from jelly.passwords import hash_password
from jelly.server import JellyServer

cluster = pytest.fixture(params=["none", "redis"])(cluster_url)
database = pytest.fixture(shared_database)
nodes = pytest.fixture(two_nodes)
ports = pytest.fixture(ports_of_nodes)
dao = pytest.fixture(dao_beside_nodes)


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
        wait_until(lambda: all(server.node and server.node.registry.of("bob") for server in nodes))
        wait_until(lambda: all(server.node and server.node.registry.of("cat") for server in nodes))
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
