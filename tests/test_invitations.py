"""Invitations to groups (the feature `contacts`): who is asked, and what holds until the answer."""

from typing import Any

import pytest
from client_tools import NewClient, error, result
from harness import StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ANSWER_GROUP,
    BLOCK,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    HISTORY,
    INVITE,
    JOIN,
    OWN_GROUPS,
    PASSWORD,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    SET_ROLE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from client_api import InvitationEvent, Receiver
from faults.mariadb import PrivateMariaDB
from jelly import group_service, invitations
from jelly.dao import Dao
from jelly.server import JellyServer

CONTACTS = ["contacts"]
INVITED = {"event": "group_invitation", "group": "team", "user": "alice"}


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with alice and her group `team`, bob (who can be asked) and carol (who cannot)."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    logged_in(server.port, "bob", features=CONTACTS).close()
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
    return server


def notices(wire: Wire) -> list[Any]:
    """What has come until now. (The answer is the barrier.)"""
    wire.refused(REMOVE_FRIEND, friend="nobody-at-all")
    found = [notice.values for notice in wire.notices]
    wire.notices.clear()
    return found


def members(wire: Wire) -> Any:
    return wire.ok(OWN_GROUPS)["groups"].get("team")


@pytest.mark.parametrize("policy", ["ask", "open", "strict"])
@pytest.mark.parametrize("features", [None, ["ack"], CONTACTS], ids=str)
def test_who_is_asked(start_server: StartServer, policy: str, features: list[str] | None) -> None:
    """By default those whose latest login had the feature; else nobody, or everybody."""
    port = start_server(classic_gap=0, group_invitations=policy).port
    register(port, "alice", "bob")
    with logged_in(port, "bob", features=features), logged_in(port, "alice", features=CONTACTS) as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        is_asked = policy == "strict" or (policy == "ask" and features == CONTACTS)
        assert alice.ok(ADD_MEMBER, groupName="team", member="bob") == {"pending": is_asked}
        assert members(alice) == (["alice"] if is_asked else ["alice", "bob"])


@pytest.mark.parametrize("features", [None, [], ["pages"], CONTACTS], ids=str)
def test_until_the_yes_and_after_it(server: JellyServer, features: list[str] | None) -> None:
    """The user is no member, whatever client asks: no message, no list, no history. Then the user
    is one like any other, and does not see what was before.
    """
    with (
        logged_in(server.port, "alice", features=features) as alice,
        logged_in(server.port, "bob", features=["ack", "contacts", "roles"]) as bob,
    ):
        body = alice.call(ADD_MEMBER, groupName="team", member="bob").body
        assert body == (b'{"pending":true}' if features == CONTACTS else b"")
        assert notices(bob) == [INVITED]
        assert members(alice) == ["alice"]
        alice.message("team", "before", GROUP_MESSAGE)
        values = bob.ok(OWN_GROUPS)
        assert list(values) == ["username", "groups", "roles", "invited"]
        assert (values["groups"], values["invited"]) == ({}, {"team": "alice"})
        assert bob.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "not_a_member"
        assert bob.refused(HISTORY, groupName="team") == "not_a_member"
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert notices(bob) == []
        bob.ok(ANSWER_GROUP, groupName="team", accept=True)
        [told] = notices(bob)
        assert told["changes"] == [{"user": "alice", "added": "bob"}]
        assert [each["event"] for each in notices(alice)] == ([] if features is None else ["group_changed"])
        assert members(alice) == ["alice", "bob"]
        assert bob.ok(OWN_GROUPS)["invited"] == {}
        alice.message("team", "after", GROUP_MESSAGE)
        assert [each.get("content") for each in notices(bob)] == ["after"]
        assert bob.refused(ANSWER_GROUP, groupName="team", accept=True) == "not_asked"


def test_a_no_and_a_withdrawal(server: JellyServer) -> None:
    """Nobody is told of a no; the user may be invited again. An invitation ends with the group,
    and with a block.
    """
    with (
        logged_in(server.port, "alice", features=CONTACTS) as alice,
        logged_in(server.port, "bob", features=["pages", "contacts", "block"]) as bob,
    ):
        for type, values in (
            (ANSWER_GROUP, {"accept": False}),
            (REMOVE_MEMBER, {"member": "bob"}),
        ):
            assert alice.ok(ADD_MEMBER, groupName="team", member="bob") == {"pending": True}
            assert bob.ok(OWN_GROUPS)["invited"] == {"team": "alice"}
            bob.ok(type, groupName="team", **values)
            assert notices(alice) == []
            assert bob.ok(OWN_GROUPS)["invited"] == {}
            assert "invited" not in bob.ok(OWN_GROUPS, after="0 a")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="bob") == "not_a_member"
        assert bob.refused(ANSWER_GROUP, groupName="team", accept=True) == "not_asked"
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        bob.ok(BLOCK, person="alice", blocked=True)
        assert bob.ok(OWN_GROUPS)["invited"] == {}
        assert alice.refused(ADD_MEMBER, groupName="team", member="bob") == "not_accepted"
        bob.ok(BLOCK, person="alice", blocked=False)
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        alice.ok(DISBAND_GROUP, groupName="team")
        assert bob.refused(ANSWER_GROUP, groupName="team", accept=True) == "not_asked"
        alice.ok(CREATE_GROUP, groupName="team")
        assert bob.ok(OWN_GROUPS)["invited"] == {}


def test_who_need_not_be_asked(server: JellyServer) -> None:
    """Whoever has the asker as a friend, and whoever cannot be asked."""
    with logged_in(server.port, "bob", features=CONTACTS) as bob, logged_in(server.port, "alice") as alice:
        bob.ok(ADD_FRIEND, friend="alice")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        assert members(alice) == ["alice", "bob", "carol"]


def test_only_the_user_who_was_invited_can_answer(server: JellyServer) -> None:
    with (
        logged_in(server.port, "alice", features=CONTACTS) as alice,
        logged_in(server.port, "carol", features=CONTACTS) as carol,
        logged_in(server.port, "bob") as bob,
    ):
        logged_in(server.port, "bob", features=CONTACTS).close()
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert carol.refused(ANSWER_GROUP, username="bob", groupName="team", accept=True) == "not_yourself"
        assert carol.refused(ANSWER_GROUP, groupName="team", accept=True) == "not_asked"
        assert carol.refused(ANSWER_GROUP, groupName="no name", accept=True) == "not_asked"
        assert carol.refused(ADD_MEMBER, groupName="team", member="carol") == "not_group_creator"
        assert carol.refused(REMOVE_MEMBER, groupName="team", member="bob") == "not_group_creator"
        assert carol.ok(OWN_GROUPS)["invited"] == {}
    with logged_in(server.port, "bob") as bob:
        assert bob.call(OWN_GROUPS).body == b'{"username":"bob","groups":{}}'
        assert bob.refused(ANSWER_GROUP, groupName="team", accept=True) == "unknown_type"


def test_in_by_another_way(server: JellyServer) -> None:
    """Who joins by a code has answered: no invitation is left by which to come back later."""
    with (
        logged_in(server.port, "alice", features=["invites"]) as alice,
        logged_in(server.port, "bob", features=[*CONTACTS, "invites"]) as bob,
    ):
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        bob.ok(JOIN, code=alice.ok(INVITE, groupName="team", uses=1, hours=1)["code"])
        assert bob.ok(OWN_GROUPS)["invited"] == {}
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert bob.refused(ANSWER_GROUP, groupName="team", accept=True) == "not_asked"


@pytest.mark.parametrize("ended_by", ["removed", "left", "plain member"])
def test_invitations_of_who_may_not_add_members_any_more(server: JellyServer, ended_by: str) -> None:
    """They end with the right to invite; those of others stay."""
    register(server.port, "dan")
    with (
        logged_in(server.port, "alice", features=["roles"]) as alice,
        logged_in(server.port, "bob", features=CONTACTS) as bob,
        logged_in(server.port, "dan", features=CONTACTS) as dan,
        logged_in(server.port, "carol") as carol,
    ):
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        alice.ok(SET_ROLE, groupName="team", member="carol", role="admin")
        carol.ok(ADD_MEMBER, groupName="team", member="bob")
        alice.ok(ADD_MEMBER, groupName="team", member="dan")
        if ended_by == "plain member":
            alice.ok(SET_ROLE, groupName="team", member="carol", role="member")
        else:
            (alice if ended_by == "removed" else carol).ok(REMOVE_MEMBER, groupName="team", member="carol")
        assert bob.ok(OWN_GROUPS)["invited"] == {}
        assert bob.refused(ANSWER_GROUP, groupName="team", accept=True) == "not_asked"
        dan.ok(ANSWER_GROUP, groupName="team", accept=True)


def test_old_invitations_go(dao: Dao) -> None:
    """In slices, each of which begins where the last one has ended."""
    for group, asked in (("a", 1), ("b", 5), ("c", 2)):
        for user in ("bob", "carol"):
            invitations.invite(dao, user, group, "alice", asked)
    place: tuple[str, str] | None = ("", "")
    looks = 0
    while place is not None:
        place = invitations.remove_old(dao, place, before=3, limit=2)
        looks += 1
    assert looks == 4
    assert [invitations.invited(dao, user, 10) for user in ("bob", "carol")] == [{"b": "alice"}] * 2


def test_limits(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who are invited have their places; and nobody invites without end."""
    monkeypatch.setattr(group_service, "MAX_MEMBERS", 2)
    with (
        logged_in(server.port, "alice", features=CONTACTS) as alice,
        logged_in(server.port, "bob", features=CONTACTS) as bob,
    ):
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert alice.refused(ADD_MEMBER, groupName="team", member="carol") == "limit_reached"
        bob.ok(ANSWER_GROUP, groupName="team", accept=True)
        monkeypatch.setattr(group_service, "MAX_INVITED_A_DAY", 1)
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert alice.refused(ADD_MEMBER, groupName="team", member="bob") == "limit_reached"
        alice.ok(ADD_MEMBER, groupName="team", member="carol")


def test_through_two_nodes(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    database = mariadb.fresh_database("jelly_invited")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob")
    with (
        logged_in(first.port, "alice", features=CONTACTS) as alice,
        logged_in(second.port, "bob", features=CONTACTS) as bob,
    ):
        alice.ok(CREATE_GROUP, groupName="team")
        assert alice.ok(ADD_MEMBER, groupName="team", member="bob") == {"pending": True}
        assert bob.receive_notice().values == INVITED
        bob.ok(ANSWER_GROUP, groupName="team", accept=True)
        assert alice.receive_notice().values["members"] == ["alice", "bob"]
        bob.message("team", "hello", GROUP_MESSAGE)
        assert alice.receive_notice().values["content"] == "hello"


class Invited(Receiver):
    """Notes invitations, and declines those to `bad`."""

    def __init__(self) -> None:
        self.groups: list[str] = []

    def on_invitation(self, event: InvitationEvent) -> None:
        self.groups.append(event.group)
        if event.group == "bad":
            event.decline()
        else:
            event.accept()


def test_the_library(server: JellyServer, new_client: NewClient) -> None:
    """Invitations come at once, and after a login, each once; a bot accepts all."""
    alice, receiver = new_client(server.port, accept_all=True), Invited()
    result(alice.login("alice", PASSWORD))
    assert result(alice.add_member("team", "bob")) is False
    assert result(alice.add_member("team", "carol")) is True
    result(alice.create_group("bad"))
    bob = new_client(server.port, receiver)
    assert "contacts" in result(bob.login("bob", PASSWORD)).features
    wait_until(lambda: "team" in result(bob.list_groups()))
    assert result(alice.add_member("bad", "bob")) is False
    wait_until(lambda: receiver.groups == ["team", "bad"])
    wait_until(lambda: result(bob.invitations()) == {})
    assert error(bob.answer_group("bad")).code == "not_asked"
    result(bob.create_group("club"))
    assert result(bob.add_member("club", "alice")) is False
    wait_until(lambda: "club" in result(alice.list_groups()))
