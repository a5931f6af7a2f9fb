"""Groups, on every kind of database: who may do what, and who gets what."""

import pytest
from harness import StartServer
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    OWN_GROUPS,
    REMOVE_MEMBER,
    Wire,
    found,
    logged_in,
    register,
)


@pytest.fixture
def users(start_server: StartServer, database_url: str) -> int:
    """The port of a server with alice, bob and carol."""
    port = start_server(database=database_url, classic_gap=1).port
    register(port, "alice", "bob", "carol")
    return port


def write(wire: Wire, content: str) -> None:
    wire.message("team", content, type=GROUP_MESSAGE)


def test_messages_reach_all_other_members(users: int) -> None:
    """Those online get them at once, those offline at their next login, the sender not at all."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "bob", "carol")
        alice.send_message("team", "hello", type=GROUP_MESSAGE, time=7)
        assert alice.receive() == (2, GROUP_MESSAGE, 0x31, b"")
        expected = b'{"sender":"alice","receiver":"team","content":"hello","time":7}'
        assert bob.receive() == (3, GROUP_MESSAGE, 0, expected)
        with logged_in(users, "carol") as carol:
            assert carol.receive() == (3, GROUP_MESSAGE, 0, expected)
        write(bob, "back")
        assert alice.contents(1) == ["back"]
        bob.ok(OWN_GROUPS)
        assert not alice.notices + bob.notices


def test_stored_messages_come_oldest_first(users: int) -> None:
    """A person's and a group's messages come in the order in which they were sent."""
    with logged_in(users, "alice") as alice:
        found(alice, "bob")
        write(alice, "1")
        alice.message("bob", "2")
        write(alice, "3")
    with logged_in(users, "bob") as bob:
        assert bob.contents(3) == ["1", "2", "3"]


def test_a_new_member_gets_the_very_next_message(users: int) -> None:
    """Adding takes effect at once, also for a group that is in memory."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice)
        write(alice, "nobody hears this")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        write(alice, "hello bob")
        assert bob.contents(1) == ["hello bob"]


def test_a_removed_member_gets_nothing_any_more(users: int) -> None:
    """Removing takes effect with the very next message, and the removed one may not write
    either.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "bob", "carol")
        write(alice, "all")
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        write(alice, "not bob")
        assert bob.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "not_a_member"
        assert bob.contents(1) == ["all"]
        with logged_in(users, "carol") as carol:
            assert carol.contents(2) == ["all", "not bob"]


def test_a_disbanded_group_is_gone_and_its_name_free(users: int) -> None:
    """After DISBAND_GROUP nobody can write to it; a new group of that name has nothing of the old
    one.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "bob")
        write(alice, "still there")
        alice.ok(DISBAND_GROUP, groupName="team")
        assert alice.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "no_such_group"
        bob.ok(CREATE_GROUP, groupName="team")
        assert alice.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "not_a_member"
        assert bob.ok(OWN_GROUPS)["groups"] == {"team": ["bob"]}
        assert bob.contents(1) == ["still there"]


def test_own_groups(users: int) -> None:
    """One sees the groups that one is in, each with its members in the order of their coming, the
    creator first.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        assert alice.ok(OWN_GROUPS) == {"username": "alice", "groups": {}}
        found(alice, "carol", "bob")
        alice.ok(CREATE_GROUP, groupName="组一")
        assert alice.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "carol", "bob"], "组一": ["alice"]}
        assert bob.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "carol", "bob"]}


def test_refusals(users: int) -> None:
    """Each thing that cannot be done to a group has its code."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "carol")
        assert bob.refused(CREATE_GROUP, groupName="team") == "group_exists"
        assert bob.refused(CREATE_GROUP, groupName="a b") == "invalid_group_name"
        assert bob.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert bob.refused(DISBAND_GROUP, groupName="none") == "no_such_group"
        assert bob.refused(ADD_MEMBER, groupName="team", member="bob") == "not_group_creator"
        assert alice.refused(ADD_MEMBER, groupName="team", member="ghost") == "no_such_user"
        assert alice.refused(ADD_MEMBER, groupName="team", member="carol") == "already_member"
        assert alice.refused(ADD_MEMBER, groupName="none", member="carol") == "no_such_group"
        assert bob.refused(REMOVE_MEMBER, groupName="team", member="carol") == "not_group_creator"
        assert bob.refused(REMOVE_MEMBER, groupName="team", member="bob") == "not_a_member"
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="alice") == "creator_cannot_leave"
        assert alice.refused(REMOVE_MEMBER, groupName="none", member="bob") == "no_such_group"


def test_a_member_may_leave(users: int) -> None:
    """REMOVE_MEMBER with one's own name leaves the group."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "bob")
        bob.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert bob.ok(OWN_GROUPS)["groups"] == {}


def test_a_group_alone(users: int) -> None:
    """A message to a group without other members succeeds and is kept for nobody."""
    with logged_in(users, "alice") as alice:
        found(alice)
        write(alice, "hello?")
