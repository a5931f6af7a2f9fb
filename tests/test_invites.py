"""INVITE, JOIN, and REGISTER with the code of an invitation."""

import contextlib
import re
from typing import Any

import pytest
from client_tools import NewClient, error, result
from harness import StartServer, ready_database, run_here
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    DELETE_ACCOUNT,
    DISBAND_GROUP,
    INVITE,
    JOIN,
    OWN_GROUPS,
    PASSWORD,
    REGISTER,
    REMOVE_MEMBER,
    SET_ROLE,
    SUCCESS,
    SYSTEM,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from jelly import group_service, invite_dao, invite_service
from jelly.dao import Dao
from jelly.invite_dao import Invite
from jelly.invite_service import MAX_HOURS, MAX_INVITES, MAX_USES
from jelly.server import JellyServer

MODERN = ["ack", "invites", "account", "roles"]
CODE = re.compile("[2-9a-hj-km-np-z]{4}(-[2-9a-hj-km-np-z]{4}){3}")


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with four users and alice's group `team`, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dan")
    with modern(server, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
    return server


def modern(server: JellyServer, user: str) -> Wire:
    return logged_in(server.port, user, features=MODERN)


def code_of(wire: Wire, group: str | None = "team", uses: int = 1, hours: int = 24) -> str:
    values = wire.ok(INVITE, uses=uses, hours=hours, **({} if group is None else {"groupName": group}))
    assert list(values) == ["code", "expires"]
    return str(values["code"])


def signs_up(server: JellyServer, name: str, code: str | None) -> str:
    """Register with a code; return the error, empty if it succeeds."""
    with Wire(server.port) as wire:
        values = {} if code is None else {"invite": code}
        reply = wire.call(REGISTER, username=name, password=PASSWORD, **values)
        assert wire.is_closed_by_server()
        return "" if reply.status == SUCCESS else reply.error


def members(wire: Wire, group: str = "team") -> list[str]:
    found: list[str] = wire.ok(OWN_GROUPS)["groups"].get(group, [])
    return found


def test_joining_a_group(server: JellyServer) -> None:
    """As often as the code allows; members are told who has invited whom."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        code = code_of(alice, uses=2)
        assert CODE.fullmatch(code)
        assert bob.ok(JOIN, code=code) == {"groupName": "team"}
        notice = alice.receive_notice()
        assert notice.type == SYSTEM
        assert notice.values["members"] == ["alice", "bob"]
        assert notice.values["changes"] == [{"user": "alice", "added": "bob"}]
        assert bob.refused(JOIN, code=code) == "already_member"  # which uses nothing up
        assert carol.ok(JOIN, code=code.upper().replace("-", " ")) == {"groupName": "team"}
        assert members(carol) == ["alice", "bob", "carol"]
        with modern(server, "dan") as dan:
            assert dan.refused(JOIN, code=code) == "invalid_invite"
            assert members(dan) == []


@pytest.mark.parametrize(
    "typed", ["", "x", "%", "2222-2222-2222-2222", "' OR 1=1", "x" * 10_000, "\0", "小王"], ids=lambda each: each[:10]
)
def test_codes_that_nobody_has_made(server: JellyServer, typed: str) -> None:
    """They join nothing, and make no account."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        code_of(alice)
        assert bob.refused(JOIN, code=typed) == "invalid_invite"
    assert signs_up(server, "eve", typed) == ("malformed_frame" if len(typed) > 4000 else "invalid_invite")


def test_who_may_invite(server: JellyServer) -> None:
    """The owner and the admins of the group, while they are that."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert bob.refused(INVITE, groupName="team", uses=1, hours=1) == "not_group_creator"
        assert carol.refused(INVITE, groupName="team", uses=1, hours=1) == "not_group_creator"
        assert bob.refused(INVITE, groupName="nothing", uses=1, hours=1) == "no_such_group"
        alice.ok(SET_ROLE, groupName="team", member="bob", role="admin")
        codes = [code_of(bob, uses=2) for _ in range(2)]
        alice.ok(SET_ROLE, groupName="team", member="bob", role="member")
        assert carol.refused(JOIN, code=codes[0]) == "invalid_invite"
        assert signs_up(server, "eve", codes[0]) == "invalid_invite"
        alice.ok(SET_ROLE, groupName="team", member="bob", role="admin")
        assert carol.ok(JOIN, code=codes[0]) == {"groupName": "team"}
        alice.ok(REMOVE_MEMBER, groupName="team", member="carol")
        own = code_of(alice)
        alice.ok(DISBAND_GROUP, groupName="team")
        carol.ok(CREATE_GROUP, groupName="team")  # of the same name, and another one
        for code in (own, codes[1]):
            with modern(server, "dan") as dan:
                assert dan.refused(JOIN, code=code) == "invalid_invite"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "malformed_body"),
        ({"uses": 0, "hours": 1}, "malformed_body"),
        ({"uses": MAX_USES + 1, "hours": 1}, "malformed_body"),
        ({"uses": 1, "hours": 0}, "malformed_body"),
        ({"uses": 1, "hours": MAX_HOURS + 1}, "malformed_body"),
        ({"uses": "1", "hours": 1}, "malformed_body"),
        ({"uses": 1, "hours": 1, "groupName": " "}, "no_such_group"),
        ({"username": "bob", "uses": 1, "hours": 1}, "not_yourself"),
    ],
)
def test_what_is_refused(server: JellyServer, asked: dict[str, Any], code: str) -> None:
    with modern(server, "alice") as alice:
        assert alice.refused(INVITE, **asked) == code
        code_of(alice, uses=MAX_USES, hours=MAX_HOURS)


@pytest.mark.parametrize("features", [None, [], ["ack", "account"]])
def test_without_the_feature(server: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one that did not ask for it, the types do not exist."""
    with logged_in(server.port, "alice", features=features) as alice:
        assert alice.refused(INVITE, uses=1, hours=1) == "unknown_type"
        assert alice.refused(JOIN, code="x") == "unknown_type"


def test_codes_are_bounded(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 of a user are valid; when they have expired, there is room again."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        codes = [code_of(alice) for _ in range(MAX_INVITES)]
        assert alice.refused(INVITE, groupName="team", uses=1, hours=1) == "limit_reached"
        code_of(bob, group=None)
        now = server.services.invites._now()
        monkeypatch.setattr(invite_service.InviteService, "_now", lambda _: now + 25 * 3_600_000)
        assert bob.refused(JOIN, code=codes[0]) == "invalid_invite"
        code_of(alice)


def test_places_of_those_who_are_invited(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code gives no place that somebody else was promised; who was, may come by it."""
    monkeypatch.setattr(group_service, "MAX_MEMBERS", 2)
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        code = code_of(alice)
        with logged_in(server.port, "carol", features=[*MODERN, "contacts"]) as carol:
            alice.ok(ADD_MEMBER, groupName="team", member="carol")
            assert bob.refused(JOIN, code=code) == "limit_reached"
            assert carol.ok(JOIN, code=code) == {"groupName": "team"}
        assert members(alice) == ["alice", "carol"]


def test_expired_codes_go(dao: Dao) -> None:
    """In slices."""
    with dao.connection.transaction():
        for number in range(5):
            invite_dao.add(dao, Invite(f"{number}", "alice", "", 1, number))
        assert invite_dao.remove_old(dao, 3, 3)
        assert invite_dao.remove_old(dao, 3, 3)
        assert not invite_dao.remove_old(dao, 3, 3)
    assert dao.connection.query("SELECT code_hash FROM invites") == [("4",)]


# --- registering ----------------------------------------------------------------------------------


@pytest.fixture
def invited_only(start_server: StartServer, database_url: str) -> JellyServer:
    """A server on which one needs an invitation; the operator has made alice's account."""
    server = start_server(database=database_url, classic_gap=0, registration="invite")
    done = run_here("user", "add", "alice", f"--database={database_url}", input=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    return server


def test_registering_with_an_invitation(invited_only: JellyServer) -> None:
    """Only with a code, and as often as it allows; then the code joins nothing more."""
    server = invited_only
    assert signs_up(server, "eve", None) == "invite_needed"
    assert signs_up(server, "alice", None) == "invite_needed"  # and says nothing of who there is
    assert signs_up(server, "alice", "guessed") == "invalid_invite"
    with modern(server, "alice") as alice:
        code = code_of(alice, group=None, uses=2)
        assert signs_up(server, "bob", code) == ""
        assert signs_up(server, "bob", code) == "username_taken"  # which uses nothing up
        assert alice.refused(JOIN, code=code) == "invalid_invite"
        assert signs_up(server, "carol", code) == ""
        assert signs_up(server, "dan", code) == "invalid_invite"
        alice.ok(CREATE_GROUP, groupName="team")
        code = code_of(alice)
        assert signs_up(server, "dan", code) == ""
        assert members(alice) == ["alice", "dan"]
        with modern(server, "dan") as dan:
            assert members(dan) == ["alice", "dan"]


def test_registering_with_a_code_where_it_is_not_needed(server: JellyServer) -> None:
    """It is used, and must be valid."""
    with modern(server, "alice") as alice:
        code = code_of(alice)
        assert signs_up(server, "eve", code) == ""
        assert signs_up(server, "mallory", code) == "invalid_invite"
        assert signs_up(server, "mallory", None) == ""
        assert members(alice) == ["alice", "eve"]


def test_a_closed_server_stays_closed(start_server: StartServer) -> None:
    """Codes for groups are good for those who have accounts."""
    opened = start_server(classic_gap=0)
    register(opened.port, "alice", "bob")
    opened.stop()
    server = start_server(classic_gap=0, registration="closed")
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        assert alice.refused(INVITE, uses=1, hours=1) == "registration_closed"
        code = code_of(alice)
        assert signs_up(server, "eve", code) == "registration_closed"
        assert bob.ok(JOIN, code=code) == {"groupName": "team"}


def test_the_codes_of_those_who_are_gone(invited_only: JellyServer) -> None:
    """A user who is disabled, or who deletes the account, invites nobody any more."""
    server, here = invited_only, f"--database={invited_only.settings.database}"
    with modern(server, "alice") as alice:
        for name in ("bob", "carol"):
            assert signs_up(server, name, code_of(alice, group=None)) == ""
    with modern(server, "bob") as bob, modern(server, "carol") as carol:
        of_bob, of_carol = code_of(bob, group=None), code_of(carol, group=None)
        assert run_here("user", "disable", "bob", here).returncode == 0
        assert signs_up(server, "eve", of_bob) == "invalid_invite"
        assert carol.call(DELETE_ACCOUNT, password=PASSWORD).status == SUCCESS
        assert signs_up(server, "eve", of_carol) == "invalid_invite"
        assert run_here("user", "enable", "bob", here).returncode == 0
        assert signs_up(server, "eve", of_bob) == ""


def test_a_code_is_for_this_group_only(server: JellyServer) -> None:
    """When the group ends, its codes end: they let nobody into another one of the same name."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        alice.ok(SET_ROLE, groupName="team", member="carol", role="admin")
        alice.ok(CREATE_GROUP, groupName="other")
        codes, other = [code_of(alice), code_of(carol)], code_of(alice, group="other")
        alice.ok(DISBAND_GROUP, groupName="team")
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="carol")
        alice.ok(SET_ROLE, groupName="team", member="carol", role="admin")
        assert [bob.refused(JOIN, code=code) for code in codes] == ["invalid_invite"] * 2
        assert bob.ok(JOIN, code=other) == {"groupName": "other"}


def test_many_who_want_the_last_use(server: JellyServer) -> None:
    """Of twenty who join at the same moment, as many get in as the code is good for."""
    names = [f"user{number}" for number in range(20)]
    register(server.port, *names)
    with modern(server, "alice") as alice, contextlib.ExitStack() as stack:
        code, wires = code_of(alice, uses=3), [stack.enter_context(modern(server, name)) for name in names]
        for wire in wires:
            wire.send_request(JOIN, code=code)
        answers = [wire.receive_response() for wire in wires]
        assert sorted(answer.error for answer in answers) == [""] * 3 + ["invalid_invite"] * 17
        assert set(members(alice)) == {
            "alice",
            *(wire.user for wire, a in zip(wires, answers, strict=True) if not a.error),
        }


def test_only_hashes_are_stored(server: JellyServer) -> None:
    """Who reads the database cannot use a code."""
    with modern(server, "alice") as alice:
        code = code_of(alice)
    with server._reading() as dao:
        (row,) = dao.connection.query("SELECT * FROM invites")
    assert code not in str(row)
    assert code.replace("-", "") not in str(row)


def test_through_another_node(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """A code that was made at one node is good at another one, and once."""
    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob", "carol")
    with modern(first, "alice") as alice, modern(second, "bob") as bob, modern(second, "carol") as carol:
        alice.ok(CREATE_GROUP, groupName="team")
        code = code_of(alice)
        assert bob.ok(JOIN, code=code) == {"groupName": "team"}
        assert carol.refused(JOIN, code=code) == "invalid_invite"
        wait_until(lambda: members(alice) == ["alice", "bob"])
        assert alice.receive_notice().values["members"] == ["alice", "bob"]


def test_the_library(start_server: StartServer, new_client: NewClient) -> None:
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob")
    alice, bob = new_client(port), new_client(port)
    for name, client in (("alice", alice), ("bob", bob)):
        result(client.login(name, PASSWORD))
    result(alice.create_group("team"))
    made = result(alice.invite("team", uses=2, hours=1))
    assert made.code not in repr(made)
    assert result(bob.join(made.code)) == "team"
    assert error(bob.join("nonsense")).code == "invalid_invite"
    assert result(alice.register("carol", PASSWORD, invite=made.code)) == "carol"
    assert result(alice.list_groups())["team"].members == ("alice", "bob", "carol")
