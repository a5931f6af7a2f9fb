"""Rights over real sockets: nobody acts as another, nobody acts before the login, and every
pretence is refused.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import CHEAP, StartServer
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    FRIEND_PROFILE,
    GROUP_MESSAGE,
    LOGIN,
    LOGOUT,
    OWN_GROUPS,
    OWN_PROFILE,
    PASSWORD,
    PERSON_MESSAGE,
    RECONNECT,
    REGISTER,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    REQUEST_ERROR,
    RESPONSE,
    SUCCESS,
    UPDATE_PROFILE,
    Reply,
    Wire,
    found,
    logged_in,
    pack,
    register,
    to_json,
)  # fmt: skip

from jelly import passwords
from jelly.config import Settings
from jelly.dao import Dao
from jelly.server import JellyServer
from jelly.tokens import Tokens
from jelly.trusted_clock import TrustedClock

DAY = 86_400_000
"""In milliseconds."""

OPERATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "LOGOUT": (LOGOUT, {"token": 1}),
    "PERSON_MESSAGE": (PERSON_MESSAGE, {"receiver": "bob", "content": "x", "time": 1}),
    "GROUP_MESSAGE": (GROUP_MESSAGE, {"receiver": "team", "content": "x", "time": 1}),
    "CREATE_GROUP": (CREATE_GROUP, {"groupName": "mine"}),
    "DISBAND_GROUP": (DISBAND_GROUP, {"groupName": "team"}),
    "ADD_MEMBER": (ADD_MEMBER, {"groupName": "team", "member": "mallory"}),
    "REMOVE_MEMBER": (REMOVE_MEMBER, {"groupName": "team", "member": "bob"}),
    "ADD_FRIEND": (ADD_FRIEND, {"friend": "mallory"}),
    "REMOVE_FRIEND": (REMOVE_FRIEND, {"friend": "bob"}),
    "ALL_FRIENDS": (ALL_FRIENDS, {}),
    "UPDATE_PROFILE": (UPDATE_PROFILE, {"password": "mallory's", "name": "x"}),
    "OWN_PROFILE": (OWN_PROFILE, {}),
    "FRIEND_PROFILE": (FRIEND_PROFILE, {"friend": "bob"}),
    "OWN_GROUPS": (OWN_GROUPS, {}),
}

operations = pytest.mark.parametrize("operation", OPERATIONS)

PRETENCES = {
    "another": "alice", "nobody": "ghost", "capital": "Mallory", "space behind": "mallory ", "space before": " mallory",
    "full width": "ｍａｌｌｏｒｙ", "zero width": "mal\u200blory",
    "a mark": "mallory\u0301", "NUL": "mallory\0", "empty": "",
    "SQL": "alice' OR 'a'='a", "prefix": "mallor",
}  # fmt: skip


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that the tables share: alice has a group and a friend, mallory has
    nothing.
    """
    database = tmp_path_factory.mktemp("rights") / "jelly.db"
    server = JellyServer(Settings(**{**CHEAP, "database": f"sqlite:///{database}"}))
    server.start()
    register(server.port, "alice", "bob", "mallory")
    with logged_in(server.port, "alice") as alice:
        found(alice, "bob")
        alice.ok(ADD_FRIEND, friend="bob")
    yield server.port
    server.stop()


@pytest.fixture
def users(start_server: StartServer) -> int:
    """The port of a server of the test's own, with alice, bob and mallory."""
    port = start_server(classic_gap=0).port
    register(port, "alice", "bob", "mallory")
    return port


def as_user(operation: str, name: str) -> tuple[int, dict[str, Any]]:
    """A request in somebody's name."""
    type, values = OPERATIONS[operation]
    first = "sender" if type in (PERSON_MESSAGE, GROUP_MESSAGE) else "username"
    return type, {first: name, **values}


def first_answer(port: int, type: int, **values: Any) -> Reply:
    """The answer to a request on a fresh connection, which the server must close after it."""
    with Wire(port) as wire:
        reply = wire.call(type, **values)
        with pytest.raises(EOFError):
            wire.receive()
    return reply


def token_works(port: int, username: str, token: int) -> bool:
    """Whether a token lets its user back in; if not, it must be refused as the protocol says."""
    with Wire(port) as wire:
        reply = wire.reconnect(username, token)
    assert reply.status == SUCCESS or reply.error == "invalid_token"
    return reply.status == SUCCESS


# --- as another, and before the login -------------------------------------------------------------


@operations
@pytest.mark.parametrize("pretence", PRETENCES)
def test_as_another(port: int, operation: str, pretence: str) -> None:
    """A request that names anybody but the one who logged in is refused, and the session goes
    on.
    """
    with logged_in(port, "mallory") as mallory:
        type, values = as_user(operation, PRETENCES[pretence])
        assert mallory.refused(type, **values) == "not_yourself"
        assert mallory.ok(OWN_PROFILE)["username"] == "mallory"


def test_a_refused_pretence_changes_nothing(port: int) -> None:
    """After all attempts alice's friends, groups, profile and password are what they were, and bob
    got nothing.
    """
    with logged_in(port, "mallory") as mallory, logged_in(port, "alice") as alice, logged_in(port, "bob") as bob:
        before = [alice.ok(type) for type in (ALL_FRIENDS, OWN_GROUPS, OWN_PROFILE)]
        for operation in OPERATIONS:
            type, values = as_user(operation, "alice")
            mallory.refused(type, **values)
        assert [alice.ok(type) for type in (ALL_FRIENDS, OWN_GROUPS, OWN_PROFILE)] == before
        assert bob.ok(OWN_GROUPS)
        assert not bob.notices
    logged_in(port, "alice").close()


@operations
@pytest.mark.parametrize("name", ["alice", "ghost"])
def test_before_the_login(port: int, operation: str, name: str) -> None:
    """Without a login every other request is refused, whoever it names, and the server closes."""
    type, values = as_user(operation, name)
    reply = first_answer(port, type, **values)
    assert (reply.sign, reply.type, reply.status, reply.error) == (RESPONSE, type, REQUEST_ERROR, "not_logged_in")


def test_a_connection_does_not_inherit_a_login(port: int) -> None:
    """A login counts for its own connection only."""
    with logged_in(port, "alice"):
        assert first_answer(port, OWN_PROFILE, username="alice").error == "not_logged_in"


@pytest.mark.parametrize(
    ("type", "values"),
    [
        pytest.param(LOGIN, {"username": "bob", "password": PASSWORD}, id="LOGIN as another"),
        pytest.param(LOGIN, {"username": "alice", "password": PASSWORD}, id="LOGIN again"),
        pytest.param(LOGIN, {"username": "bob", "password": "wrong"}, id="LOGIN with a wrong password"),
        pytest.param(REGISTER, {"username": "carol", "password": PASSWORD}, id="REGISTER"),
        pytest.param(RECONNECT, {"username": "alice", "token": 1}, id="RECONNECT"),
        pytest.param(LOGIN, {}, id="LOGIN of nobody"),
    ],
)
def test_a_second_login_on_a_connection(port: int, type: int, values: dict[str, Any]) -> None:
    """It is refused with `already_logged_in`, and the session goes on as it was."""
    with logged_in(port, "alice") as alice:
        alice.send(pack(type, to_json(values)))
        reply = alice.receive()
        assert (reply.type, reply.status, reply.error) == (type, REQUEST_ERROR, "already_logged_in")
        assert alice.ok(OWN_GROUPS) == {"username": "alice", "groups": {"team": ["alice", "bob"]}}
        assert alice.refused(ADD_FRIEND, friend="carol") == "no_such_user"


def test_two_logins_in_one_write(port: int) -> None:
    """The second login waits for the first, and then there is no second one."""
    with Wire(port) as wire:
        wire.send_request(LOGIN, username="alice", password=PASSWORD)
        wire.send_request(LOGIN, username="bob", password=PASSWORD)
        wire.send_request(OWN_PROFILE, username="bob")
        wire.send_request(OWN_PROFILE, username="alice")
        assert [wire.receive().error for _ in range(4)] == ["", "already_logged_in", "not_yourself", ""]


# --- groups and profiles --------------------------------------------------------------------------


def test_an_outsider_and_a_group(users: int) -> None:
    """Who is not in a group can neither write to it nor change it, and does not see it."""
    with logged_in(users, "alice") as alice, logged_in(users, "mallory") as mallory:
        found(alice, "bob")
        assert mallory.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "not_a_member"
        assert mallory.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert mallory.refused(ADD_MEMBER, groupName="team", member="mallory") == "not_group_creator"
        assert mallory.refused(REMOVE_MEMBER, groupName="team", member="bob") == "not_group_creator"
        assert mallory.refused(REMOVE_MEMBER, groupName="team", member="mallory") == "not_a_member"
        assert mallory.ok(OWN_GROUPS)["groups"] == {}
        assert alice.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "bob"]}
        assert not alice.notices


def test_a_member_and_a_group(users: int) -> None:
    """A member may write to its group and leave it, and nothing else."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "bob", "mallory")
        assert bob.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert bob.refused(ADD_MEMBER, groupName="team", member="bob") == "not_group_creator"
        assert bob.refused(REMOVE_MEMBER, groupName="team", member="mallory") == "not_group_creator"
        assert bob.refused(REMOVE_MEMBER, groupName="team", member="alice") == "not_group_creator"
        bob.message("team", "x", type=GROUP_MESSAGE)
        bob.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert bob.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "not_a_member"
        assert alice.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "mallory"]}


def test_the_creator_cannot_leave(users: int) -> None:
    """The creator stays in the group, and keeps every right."""
    with logged_in(users, "alice") as alice:
        found(alice, "bob")
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="alice") == "creator_cannot_leave"
        assert alice.refused(ADD_MEMBER, groupName="team", member="alice") == "already_member"
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        alice.ok(DISBAND_GROUP, groupName="team")


def test_who_was_just_removed_is_out_at_once(users: int) -> None:
    """From the answer to the removal on, no message of the removed one is taken, and none reaches
    it.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice)
        for number in range(20):
            alice.ok(ADD_MEMBER, groupName="team", member="bob")
            bob.message("team", f"in {number}", type=GROUP_MESSAGE)
            alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
            assert bob.refused(GROUP_MESSAGE, receiver="team", content="out", time=1) == "not_a_member"
            alice.message("team", "out", type=GROUP_MESSAGE)
        assert alice.contents(20) == [f"in {number}" for number in range(20)]
        assert not bob.notices


def test_a_name_that_is_used_again_brings_no_rights_back(users: int) -> None:
    """Who created a group that was disbanded has no rights in a later one of the same name."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        found(alice, "bob")
        alice.ok(DISBAND_GROUP, groupName="team")
        found(bob, "mallory")
        assert alice.refused(DISBAND_GROUP, groupName="team") == "not_group_creator"
        assert alice.refused(REMOVE_MEMBER, groupName="team", member="mallory") == "not_group_creator"
        assert alice.refused(GROUP_MESSAGE, receiver="team", content="x", time=1) == "not_a_member"


def test_the_profile_of_no_friend(users: int) -> None:
    """One sees the profiles of those on one's own list only; being on theirs is not enough."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.ok(UPDATE_PROFILE, phone="1")
        assert bob.refused(FRIEND_PROFILE, friend="alice") == "not_friends"
        alice.ok(ADD_FRIEND, friend="bob")
        assert bob.refused(FRIEND_PROFILE, friend="alice") == "not_friends"
        bob.ok(ADD_FRIEND, friend="alice")
        assert bob.ok(FRIEND_PROFILE, friend="alice") == {"username": "alice", "phone": "1"}
        bob.ok(REMOVE_FRIEND, friend="alice")
        assert bob.refused(FRIEND_PROFILE, friend="alice") == "not_friends"
        assert bob.refused(FRIEND_PROFILE, friend="ghost") == "not_friends"
        assert bob.refused(FRIEND_PROFILE, friend="bob") == "not_friends"


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_good_for_its_own_user(users: int) -> None:
    """Another's token lets nobody in, neither under one's own name nor under a similar one."""
    with logged_in(users, "alice") as alice:
        for name in ("bob", "Alice", "alice ", "ghost", ""):
            assert not token_works(users, name, alice.token)
        assert not token_works(users, "alice", -alice.token)
        assert alice.ok(OWN_PROFILE)
        assert token_works(users, "alice", alice.token)


def test_logout_with_anothers_token(users: int) -> None:
    """It ends one's own session and token; the other's token is not touched."""
    with logged_in(users, "alice") as alice, logged_in(users, "mallory") as mallory:
        mallory.send_request(LOGOUT, token=alice.token)
        with pytest.raises(EOFError):
            mallory.receive()
        assert alice.ok(OWN_PROFILE)
        assert token_works(users, "alice", alice.token)
        assert not token_works(users, "mallory", mallory.token)


def test_a_token_after_the_logout(users: int) -> None:
    """LOGOUT revokes the token that it names and the session's own, and no other."""
    tokens = []
    for _ in range(3):
        with logged_in(users, "alice", features=[]) as alice:  # a classic one's goes if it is taken over
            tokens.append(alice.token)
    with Wire(users) as alice:
        alice.reconnect("alice", tokens[1], [])
        alice.send_request(LOGOUT, token=tokens[0])
        assert alice.is_closed_by_server()
    assert [token_works(users, "alice", token) for token in tokens] == [False, False, True]


def test_tokens_after_a_change_of_password(users: int) -> None:
    """A change of the password revokes every token of the user, and nobody else's; the session goes
    on.
    """
    with logged_in(users, "alice") as first:
        pass
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.ok(UPDATE_PROFILE, password="new")
        assert alice.ok(OWN_PROFILE)
        assert not token_works(users, "alice", first.token)
        assert not token_works(users, "alice", alice.token)
        assert token_works(users, "bob", bob.token)


def test_an_expired_token(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token works until its time is over, and not a moment longer; the session that it opened
    goes on.
    """
    port = start_server(token_days=1).port
    register(port, "alice")
    now = int(time.time() * 1000)
    monkeypatch.setattr(TrustedClock, "latest", lambda _: now / 1000)
    with logged_in(port, "alice") as alice:
        monkeypatch.setattr(Tokens, "_expiry_now", lambda _: now + DAY - 1)
        assert token_works(port, "alice", alice.token)
        with Wire(port) as again:
            again.reconnect("alice", alice.token)
            monkeypatch.setattr(Tokens, "_expiry_now", lambda _: now + DAY)
            assert not token_works(port, "alice", alice.token)
            assert again.ok(OWN_PROFILE)


def test_a_token_after_a_restart(start_server: StartServer) -> None:
    """Revoked tokens stay revoked over a restart, and good ones good."""
    server = start_server()
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.is_closed_by_server()
    server.stop()
    port = start_server().port
    assert not token_works(port, "alice", alice.token)
    assert token_works(port, "bob", bob.token)


class Pause:
    """Wraps a function so that its next call stops before it returns, until `go` is set."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        result = self._function(*arguments)
        if not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(10)
        return result


def test_a_login_that_a_change_of_password_overtakes(users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the change of a password was answered, the old one opens no session and gets no
    token.
    """
    with logged_in(users, "alice") as alice, Wire(users) as thief:
        pause = Pause(passwords.verify_password)
        monkeypatch.setattr(passwords, "verify_password", pause)
        thief.send_request(LOGIN, username="alice", password=PASSWORD)
        assert pause.reached.wait(10)
        alice.ok(UPDATE_PROFILE, password="new")
        pause.go.set()
        assert thief.receive().error == "wrong_credentials"


def test_a_reconnect_that_a_change_of_password_overtakes(users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the change of a password was answered, no token from before it opens a session."""
    with logged_in(users, "alice") as alice, Wire(users) as thief:
        pause = Pause(Dao.token_owner)
        monkeypatch.setattr(Dao, "token_owner", lambda *arguments: pause(*arguments))
        thief.send_request(RECONNECT, username="alice", token=alice.token)
        assert pause.reached.wait(10)
        alice.ok(UPDATE_PROFILE, password="new")
        pause.go.set()
        assert thief.receive().error == "invalid_token"


# --- names that look alike ------------------------------------------------------------------------


OTHERS = ["Bob", "BOB", "böb", "ЬоЬ", "b.ob", "bob1", "ßob", "b\u0301ob"]

IMPOSSIBLE = [
    "", " ", "bob ", " bob", "b ob", "bob\u00a0", "bob\u3000", "bob\t", "bob\n", "bob\0", "bob\x7f", "bob\x85",
    "b\u200bob", "bob\u200d", "\ufeffbob", "bob\u00ad", "bob\u202e", "bob\u2028", "bo\u0308b", "\u0301bob",
    "\u0301\u0302\u0303", "x" * 33, "x" * 4000,
]  # fmt: skip


@pytest.fixture
def bobs(start_server: StartServer, database_url: str) -> int:
    """The port of a server with bob, on each kind of database."""
    port = start_server(database=database_url, classic_gap=0).port
    register(port, "bob")
    return port


def test_names_that_look_alike_are_others(bobs: int) -> None:
    """Each has its own account, password, token and messages."""
    names = ["bob", *OTHERS]
    for number, name in enumerate(OTHERS):
        assert first_answer(bobs, LOGIN, username=name, password=PASSWORD).error == "wrong_credentials"
        register(bobs, name, password=f"pw{number}")
    wires = [logged_in(bobs, "bob")] + [logged_in(bobs, name, f"pw{n}") for n, name in enumerate(OTHERS)]
    assert not any(token_works(bobs, name, wires[0].token) for name in OTHERS)
    for name in names:
        wires[0].message(name, f"for {name}")
    assert [wire.contents(1) for wire in wires] == [[f"for {name}"] for name in names]
    for wire, name in zip(wires, names, strict=True):
        assert wire.ok(OWN_PROFILE) == {"username": name}
        wire.close()


def test_impossible_names(bobs: int) -> None:
    """Nobody may have one, nobody is found by one, and no password or token makes one of them
    bob.
    """
    for name in IMPOSSIBLE:
        assert first_answer(bobs, REGISTER, username=name, password=PASSWORD).error == "invalid_username"
        assert first_answer(bobs, LOGIN, username=name, password=PASSWORD).error == "wrong_credentials"
    with logged_in(bobs, "bob") as bob:
        bob.ok(CREATE_GROUP, groupName="bob")
        for name in IMPOSSIBLE:
            assert not token_works(bobs, name, bob.token)
        for name in (*IMPOSSIBLE, "x" * 60_000):
            assert bob.refused(CREATE_GROUP, groupName=name) == "invalid_group_name"
            assert bob.refused(ADD_FRIEND, friend=name) == "no_such_user"
            assert bob.refused(FRIEND_PROFILE, friend=name) == "not_friends"
            assert bob.refused(GROUP_MESSAGE, receiver=name, content="x", time=1) == "no_such_group"
            assert bob.refused(ADD_MEMBER, groupName="bob", member=name) == "no_such_user"
            assert bob.refused(DISBAND_GROUP, groupName=name) == "no_such_group"


def test_groups_that_look_alike_are_others(bobs: int) -> None:
    """A group has exactly its own name."""
    with logged_in(bobs, "bob") as bob:
        for name in ["bob", *OTHERS]:
            bob.ok(CREATE_GROUP, groupName=name)
            assert bob.refused(CREATE_GROUP, groupName=name) == "group_exists"
        for name in OTHERS:
            bob.ok(DISBAND_GROUP, groupName=name)
        assert bob.ok(OWN_GROUPS)["groups"] == {"bob": ["bob"]}


# --- SQL ------------------------------------------------------------------------------------------


INJECTIONS = [
    "'", '"', "`", "\\", "bob'--", "bob'#", "'OR'1'='1", "bob\\'OR/**/1=1#", "';DROP/**/TABLE/**/users;--",
    "'UNION/**/SELECT/**/1--", "%", "_", "bo_", "?", "%s", "%(username)s", "{0}", "$1", ":username", "x')--",
]  # fmt: skip


def test_sql_in_every_string(bobs: int) -> None:
    """SQL in a string is a string: every operation refuses it or takes it as it is, and nothing
    else happens.
    """
    register(bobs, "alice")
    with logged_in(bobs, "alice") as alice:
        found(alice, "bob")
        alice.ok(ADD_FRIEND, friend="bob")
        alice.ok(UPDATE_PROFILE, name="A")
    with logged_in(bobs, "bob") as bob:
        for operation, (type, values) in OPERATIONS.items():
            for key in [key for key, value in values.items() if isinstance(value, str) and key != "password"]:
                for sql in INJECTIONS:
                    reply = bob.call(type, **{**values, key: sql})
                    assert reply.status in (SUCCESS, REQUEST_ERROR), (operation, key, sql)
        bob.ok(ADD_FRIEND, friend="alice")
        assert bob.ok(FRIEND_PROFILE, friend="alice") == {"username": "alice", "name": "A"}
        assert bob.ok(OWN_PROFILE)["name"] == INJECTIONS[-1]
    with logged_in(bobs, "alice") as alice:
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": False}
        assert alice.ok(OWN_GROUPS)["groups"] == {"team": ["alice", "bob"]}


def test_sql_as_a_name_and_a_password(bobs: int) -> None:
    """Nobody comes in by it; a user who is called like that is a user like any other."""
    for sql in INJECTIONS:
        assert first_answer(bobs, LOGIN, username=sql, password=sql).error == "wrong_credentials"
        register(bobs, sql, password=sql)
        with logged_in(bobs, sql, sql) as wire:
            wire.ok(UPDATE_PROFILE, introduction=sql)
            wire.ok(CREATE_GROUP, groupName=sql)
            wire.message(sql, sql)
            assert wire.contents(1) == [sql]
            assert wire.ok(OWN_PROFILE) == {"username": sql, "introduction": sql}
            assert wire.ok(OWN_GROUPS)["groups"] == {sql: [sql]}
        assert token_works(bobs, sql, wire.token)
        assert not token_works(bobs, "bob", wire.token)
