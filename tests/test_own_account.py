"""One's own account: logins that are listed and ended, an account that is disabled or deleted."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_tools import NewClient, Recorder, error, result
from harness import StartServer, ready_database, run_here
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    BLOCK,
    BLOCKED,
    CONVERSATIONS,
    CREATE_GROUP,
    DELETE_ACCOUNT,
    END_LOGIN,
    FRIEND_PROFILE,
    GROUP_MESSAGE,
    HISTORY,
    LOGINS,
    LOGOUT,
    OWN_GROUPS,
    OWN_PROFILE,
    PASSWORD,
    PERSON_MESSAGE,
    RECONNECT,
    REGISTER,
    REPORT,
    SEARCH,
    SET_ROLE,
    SUCCESS,
    SYSTEM,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    register,
    wait_until,
)

from client_api import OwnLogin, Reason, State
from faults.mariadb import PrivateMariaDB
from jelly import account_dao, accounts, deletion, operator_commands
from jelly.account_dao import ID_LENGTH, ROWS_OF_USER, ROWS_THAT_STAY
from jelly.dao import Dao
from jelly.known_users import KnownUsers
from jelly.server import JellyServer

MODERN = ["ack", "account", "report", "roles"]
ENDED = {"event": "logged_out", "reason": "ended"}
DELETED = {"event": "logged_out", "reason": "account_deleted"}
DISABLED = {"event": "logged_out", "reason": "account_disabled"}
SCHEMA = Path(__file__).parent.parent / "schema.sql"


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes after a deletion goes soon, in small slices."""
    monkeypatch.setattr(deletion, "PURGE_DELAY", -1.0)
    monkeypatch.setattr(deletion, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(deletion, "GROUPS_AT_ONCE", 2)
    monkeypatch.setattr(operator_commands, "POLL_INTERVAL", 0.02)


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with four users, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dan")
    return server


def modern(server: JellyServer, user: str) -> Wire:
    return logged_in(server.port, user, features=MODERN)


def system(wire: Wire, event: str) -> dict[str, Any]:
    """The next SYSTEM notice of this event."""
    while True:
        notice = wire.receive_notice()
        if notice.type == SYSTEM and notice.values["event"] == event:
            values: dict[str, Any] = notice.values
            return values


def count(server: JellyServer, table: str, column: str, value: str) -> int:
    with server._reading() as dao:
        return int(dao.connection.query(f"SELECT COUNT(*) FROM {table} WHERE {column} = ?", (value,))[0][0])


def is_purged(server: JellyServer, name: str) -> bool:
    with server._reading() as dao:
        return dao.connection.query("SELECT purged FROM deleted_names WHERE username = ?", (name,)) == [(1,)]


# --- logins ---------------------------------------------------------------------------------------


def test_the_list_of_logins(server: JellyServer) -> None:
    """Each token that is valid: when, from where, until when, and which is this one."""
    tokens = []
    for _ in range(2):
        with modern(server, "alice") as alice:
            tokens.append(alice.token)
    with modern(server, "alice") as alice:
        values = alice.ok(LOGINS)
        assert list(values) == ["username", "logins"]
        entries = values["logins"]
        assert [list(entry) for entry in entries] == [["login", "created", "network", "expires", "current"]] * 3
        assert sorted(entry["current"] for entry in entries) == [False, False, True]
        assert {entry["network"] for entry in entries} == {"127.0.0.1"}
        assert {len(entry["login"]) for entry in entries} == {ID_LENGTH}
        assert all(entry["expires"] - entry["created"] == 7 * 86_400_000 for entry in entries)
        assert str(tokens[0]) not in str(values)
    with modern(server, "bob") as bob:
        assert len(bob.ok(LOGINS)["logins"]) == 1  # and nothing of alice


def test_ending_another_login(server: JellyServer) -> None:
    """Its token is refused from then on; this session goes on."""
    with modern(server, "alice") as old:
        token = old.token
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        (other,) = [entry["login"] for entry in alice.ok(LOGINS)["logins"] if not entry["current"]]
        assert bob.refused(END_LOGIN, login=other) == "invalid_token"
        assert alice.refused(END_LOGIN, login=other[:-1]) == "invalid_token"
        assert alice.refused(END_LOGIN, login="%") == "invalid_token"
        assert alice.refused(END_LOGIN, username="bob", login=other) == "not_yourself"
        reply = alice.call(END_LOGIN, login=other)
        assert (reply.status, reply.body) == (SUCCESS, b"")
        assert alice.refused(END_LOGIN, login=other) == "invalid_token"
        assert len(alice.ok(LOGINS)["logins"]) == 1
        with Wire(server.port) as wire:
            assert wire.refused(RECONNECT, username="alice", token=token) == "invalid_token"


def test_ending_this_login(server: JellyServer) -> None:
    """It is told so behind the answer, and the connection closes; friends see it."""
    with modern(server, "bob") as bob, modern(server, "alice") as alice:
        bob.ok(ADD_FRIEND, friend="alice")
        (own,) = [entry["login"] for entry in alice.ok(LOGINS)["logins"]]
        assert alice.call(END_LOGIN, login=own).status == SUCCESS
        assert alice.receive_notice().values == ENDED
        assert alice.is_closed_by_server()
        assert bob.ok(ALL_FRIENDS)["friends"] == {"alice": False}
        with Wire(server.port) as wire:
            assert wire.refused(RECONNECT, username="alice", token=alice.token) == "invalid_token"


@pytest.mark.parametrize("features", [None, [], ["ack", "pages", "ids"]])
def test_without_the_feature(server: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one that did not ask for it, the types do not exist."""
    with logged_in(server.port, "alice", features=features) as alice:
        for type in (LOGINS, END_LOGIN, DELETE_ACCOUNT):
            assert alice.refused(type, login="x", password=PASSWORD) == "unknown_type"
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}


# --- disabled by the operator ---------------------------------------------------------------------


def user(server: JellyServer, *arguments: str, code: int = 0) -> str:
    """What `jelly user` prints."""
    done = run_here("user", *arguments, f"--database={server.settings.database}")
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.parametrize("features", [None, MODERN], ids=["classic", "modern"])
def test_a_disabled_account(server: JellyServer, features: list[str] | None) -> None:
    """Its sessions and tokens end, it cannot log in, and what is written to it waits."""
    with logged_in(server.port, "alice", features=features) as alice, modern(server, "bob") as bob:
        assert user(server, "disable", "alice") == "alice is disabled\n"
        if features is not None:
            assert alice.receive_notice().values == DISABLED
        assert alice.is_closed_by_server()
        with Wire(server.port) as wire:
            assert wire.refused(RECONNECT, username="alice", token=alice.token) == "invalid_token"
        with Wire(server.port) as wire:
            assert wire.login("alice", PASSWORD, features=features).error == "account_disabled"
            assert wire.is_closed_by_server()
        with Wire(server.port) as wire:  # who does not know the password does not learn it
            assert wire.login("alice", "wrong", features=features).error == "wrong_credentials"
        bob.message("alice", "hello")
        assert user(server, "list").split() == ["alice", "bob", "carol", "dan"]
        assert user(server, "enable", "alice") == "alice is enabled\n"
    with modern(server, "alice") as alice:
        assert alice.contents(1) == ["hello"]
    assert "There is no such user" in user(server, "disable", "nobody", code=1)


def test_disabled_without_a_server(server: JellyServer, start_server: StartServer) -> None:
    """`jelly user` does it itself then."""
    server.stop()
    user(server, "disable", "alice")
    again = start_server(database=server.settings.database)
    with Wire(again.port) as wire:
        assert wire.login("alice").error == "account_disabled"


# --- deleted --------------------------------------------------------------------------------------


def test_deleting_an_account(server: JellyServer) -> None:
    """With the password. Messages stay with others, and everything else goes."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        for friend in ("bob", "carol", "dan", "alice"):
            alice.ok(ADD_FRIEND, friend=friend)
        bob.ok(ADD_FRIEND, friend="alice")
        carol.ok(ADD_FRIEND, friend="alice")
        alice.ok(UPDATE_PROFILE, name="Alice", phone="123")
        alice.message("bob", "remember me")
        alice.ok(REPORT, person="bob", text="x")
        bob.ok(REPORT, person="alice", text="y")
        assert bob.contents(1) == ["remember me"]
        alice.ok(CREATE_GROUP, groupName="own")
        for group, members in (("with admin", ["bob", "carol"]), ("without", ["bob", "carol"])):
            alice.ok(CREATE_GROUP, groupName=group.replace(" ", "-"))
            for member in members:
                alice.ok(ADD_MEMBER, groupName=group.replace(" ", "-"), member=member)
        alice.ok(SET_ROLE, groupName="with-admin", member="carol", role="admin")
        bob.ok(CREATE_GROUP, groupName="bobs")
        bob.ok(ADD_MEMBER, groupName="bobs", member="alice")
        alice.send_message("without", "to all", GROUP_MESSAGE)
        assert alice.receive_response().status == SUCCESS

        assert alice.refused(DELETE_ACCOUNT, password="wrong") == "wrong_credentials"
        assert alice.refused(DELETE_ACCOUNT, username="bob", password=PASSWORD) == "not_yourself"
        assert alice.refused(DELETE_ACCOUNT) == "malformed_body"
        reply = alice.call(DELETE_ACCOUNT, password=PASSWORD)
        assert (reply.status, reply.body) == (SUCCESS, b"")
        while (notice := alice.receive_notice()).values != DELETED:
            assert notice.type == SYSTEM
        assert alice.is_closed_by_server()

        with Wire(server.port) as wire:
            assert wire.login("alice").error == "wrong_credentials"
        with Wire(server.port) as wire:
            assert wire.refused(RECONNECT, username="alice", token=alice.token) == "invalid_token"
        for name in ("alice", "ａｌｉｃｅ"):
            with Wire(server.port) as wire:
                assert wire.refused(REGISTER, username=name, password=PASSWORD) == "username_taken"
        assert bob.refused(PERSON_MESSAGE, receiver="alice", content="x", time=1) == "no_such_user"
        wait_until(lambda: is_purged(server, "alice"))
        assert bob.ok(ALL_FRIENDS)["friends"] == {}
        assert bob.refused(FRIEND_PROFILE, friend="alice") == "not_friends"
        assert bob.refused(ADD_FRIEND, friend="alice") == "no_such_user"
        assert bob.refused(ADD_MEMBER, groupName="bobs", member="alice") == "no_such_user"
        groups = bob.ok(OWN_GROUPS)
        assert groups["groups"] == {"with-admin": ["carol", "bob"], "without": ["bob", "carol"], "bobs": ["bob"]}
        assert carol.refused(GROUP_MESSAGE, receiver="own", content="x", time=1) == "no_such_group"
        carol.send_message("without", "who owns it?", GROUP_MESSAGE)
        assert carol.receive_response().status == SUCCESS
        found = bob.ok(HISTORY, groupName="without")["messages"]
        assert [message["sender"] for message in found] == ["alice", "carol"]
    with server._reading() as dao:
        assert dao.connection.query("SELECT sender FROM messages WHERE content = 'remember me'") == [("alice",)]
    for table, column in ROWS_OF_USER:
        assert count(server, table, column, "alice") == 0, table
    assert count(server, "users", "username", "alice") == count(server, "members", "username", "alice") == 0
    assert count(server, "reports", "person", "alice") == 1
    assert user(server, "list").split() == ["bob", "carol", "dan"]


def test_what_a_deleted_user_wrote_can_be_read(server: JellyServer) -> None:
    """In the history, in searches, and in the list of conversations. And a block can be taken
    back.
    """
    features = [*MODERN, "search", "read", "block"]
    with modern(server, "alice") as alice, logged_in(server.port, "bob", features=features) as bob:
        alice.message("bob", "remember me")
        bob.ack(bob.receive_notice().values["id"])
        bob.ok(BLOCK, person="alice", blocked=True)
        alice.call(DELETE_ACCOUNT, password=PASSWORD)
        wait_until(lambda: is_purged(server, "alice"))
        for type, asked in ((HISTORY, {}), (SEARCH, {"text": "remember"})):
            assert [found["content"] for found in bob.ok(type, person="alice", **asked)["messages"]] == ["remember me"]
            assert bob.refused(type, person="nobody", **asked) == "no_such_user"
        assert [each["person"] for each in bob.ok(CONVERSATIONS)["conversations"]] == ["alice"]
        bob.ok(BLOCK, person="alice", blocked=False)
        assert bob.ok(BLOCKED)["blocked"] == []
        assert bob.refused(BLOCK, person="alice", blocked=True) == "no_such_user"


def test_a_name_that_is_forgotten_while_it_is_looked_up(dao: Dao) -> None:
    """A worker has found the user, then the user is deleted: the name is not known for ever."""
    accounts.add(dao, "alice", "hash")

    @contextlib.contextmanager
    def reading() -> Iterator[Dao]:
        yield dao
        account_dao.delete(dao, "alice")
        known_users.forget("alice")

    known_users = KnownUsers(reading)
    assert known_users.is_user("alice")
    assert not known_users.names


def test_members_are_told(server: JellyServer) -> None:
    """Who has left, and who owns the group now."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        assert system(bob, "group_changed")["members"] == ["alice", "bob"]
        alice.call(DELETE_ACCOUNT, password=PASSWORD)
        while system(bob, "group_changed")["members"] != ["bob"]:
            pass
        assert bob.ok(OWN_GROUPS)["roles"] == {"team": {"bob": "owner"}}


def test_what_waits_for_a_deleted_user_goes(server: JellyServer) -> None:
    """In slices; the messages of others in the same inboxes stay."""
    with modern(server, "bob") as bob:
        for number in range(10):
            for receiver in ("alice", "carol"):
                bob.message(receiver, str(number))
        assert user(server, "delete", "alice") == "alice is deleted\n"
        wait_until(lambda: is_purged(server, "alice"))
        assert count(server, "inbox", "receiver", "alice") == 0
        assert bob.refused(PERSON_MESSAGE, receiver="alice", content="x", time=1) == "no_such_user"
        assert len(bob.ok(HISTORY, person="carol")["messages"]) == 10
    with modern(server, "carol") as carol:
        assert carol.contents(10) == [str(number) for number in range(10)]


def test_what_comes_late_goes_too(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that was accepted before the deletion is known: its row does not stay for ever."""
    monkeypatch.setattr(deletion, "PURGE_DELAY", 3600.0)
    with modern(server, "bob") as bob:
        user(server, "delete", "alice")
        server.services.known_users.names.add("alice")  # as a worker saw it a moment ago
        bob.message("alice", "late")
        assert count(server, "inbox", "receiver", "alice") == 1
        monkeypatch.setattr(deletion, "PURGE_DELAY", -1.0)
        wait_until(lambda: is_purged(server, "alice"))
        assert count(server, "inbox", "receiver", "alice") == 0


def test_a_deletion_goes_on_after_a_restart(server: JellyServer, start_server: StartServer) -> None:
    """The rest goes at the next start, also if no server ran at the deletion."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        bob.ok(ADD_FRIEND, friend="alice")
    server.stop()
    assert user(server, "delete", "alice") == "alice is deleted\n"
    again = start_server(database=server.settings.database, classic_gap=0)
    wait_until(lambda: is_purged(again, "alice"))
    with modern(again, "bob") as bob:
        assert bob.ok(OWN_GROUPS)["groups"] == {"team": ["bob"]}
        assert bob.ok(ALL_FRIENDS)["friends"] == {}


def test_every_column_with_names_is_thought_of() -> None:
    """A table that gets a column for the names of users must say whether they go."""
    found = set()
    for table, body in re.findall(
        r"CREATE TABLE IF NOT EXISTS (\w+) \((.*?)^\);", SCHEMA.read_text(), re.DOTALL | re.MULTILINE
    ):
        found |= {(table, column) for column in re.findall(r"^ +(\w+) +VARCHAR\(32\)", body, re.MULTILINE)}
    others = {
        ("meta", "name"), ("users", "username"), ("users", "phone"), ("users", "nfkc"), ("chat_groups", "name"),
        ("chat_groups", "creator"), ("chat_groups", "nfkc"), ("members", "group_name"), ("members", "username"),
        ("missed", "group_name"), ("nodes", "version"), ("sessions", "device"), ("devices", "device"),
        ("tokens", "device"), ("messages", "device"), ("operator_commands", "id"),
        ("operator_commands", "result"), ("invites", "group_name"), ("invitations", "group_name"),
    }  # fmt: skip
    assert found == {*ROWS_OF_USER, *ROWS_THAT_STAY, *others}


@pytest.fixture
def nodes(start_server: StartServer, mariadb: PrivateMariaDB) -> tuple[JellyServer, JellyServer]:
    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob")
    return first, second


def test_through_another_node(nodes: tuple[JellyServer, JellyServer]) -> None:
    """A session at another node ends, and each node knows that the user is gone."""
    first, second = nodes
    with modern(second, "alice") as alice, modern(first, "bob") as bob, modern(second, "bob") as other:
        assert bob.is_closed_by_server()
        alice.message("bob", "hello")
        other.message("alice", "hello")
        user(first, "disable", "alice")
        assert system(alice, "logged_out") == DISABLED
        assert alice.is_closed_by_server()
        user(first, "enable", "alice")
        with modern(first, "alice") as again:
            again.message("bob", "both nodes know bob")
            assert again.call(DELETE_ACCOUNT, password=PASSWORD).status == SUCCESS
        wait_until(lambda: other.call(PERSON_MESSAGE, receiver="alice", content="x", time=1).error == "no_such_user")
        wait_until(lambda: is_purged(second, "alice"))


# --- exported -------------------------------------------------------------------------------------


def test_an_export(server: JellyServer) -> None:
    """It has what the database has of a user, and no secret, and nothing that is only others'."""
    with logged_in(server.port, "alice", features=[*MODERN, "devices"], device="phone") as phone:
        phone.send_request(LOGOUT, token=phone.token)  # then no login tells of it any more
        assert phone.is_closed_by_server()
    with modern(server, "alice") as alice, modern(server, "bob") as bob:
        alice.ok(ADD_FRIEND, friend="bob")
        alice.ok(UPDATE_PROFILE, name="Älice", age="30")
        bob.ok(CREATE_GROUP, groupName="team")
        bob.ok(ADD_MEMBER, groupName="team", member="alice")
        bob.message("alice", "to alice")
        bob.message("carol", "to carol")
        alice.message("bob", "小王")
        for wire, content in ((bob, "bob's"), (alice, "alice's")):
            wire.send_message("team", content, GROUP_MESSAGE)
            assert wire.receive_response().status == SUCCESS
        document = json.loads(user(server, "export", "alice"))
    assert document["profile"]["name"] == "Älice"
    assert (document["friends"], document["groups"], document["disabled"]) == (["bob"], {"team": "member"}, False)
    assert [(each["network"], len(document["logins"])) for each in document["networks"]] == [("127.0.0.1", 1)]
    assert [(each["device"], each["dropped"]) for each in document["devices"]] == [("phone", False)]
    assert [(m["sender"], m.get("receiver"), m.get("group"), m["content"]) for m in document["messages"]] == [
        ("bob", "alice", None, "to alice"), ("alice", "bob", None, "小王"), ("alice", None, "team", "alice's"),
    ]  # fmt: skip
    assert "scrypt" not in json.dumps(document)
    assert json.loads(user(server, "export", "dan"))["messages"] == []
    assert "There is no such user" in user(server, "export", "nobody", code=1)


# --- the library ----------------------------------------------------------------------------------


def test_an_export_does_nothing_to_a_terminal(server: JellyServer) -> None:
    """Characters that JSON leaves as they are and a terminal does not are escaped, others not."""
    text = "red\x9b31m \x7f \u202etxet \u2066 小王\u3000é"
    with modern(server, "alice") as alice:
        alice.message("bob", text)
    done = user(server, "export", "bob")
    assert [message["content"] for message in json.loads(done)["messages"]] == [text]
    assert "red\\u009b31m \\u007f \\u202etxet \\u2066 小王\u3000é" in done


def test_the_library(start_server: StartServer, new_client: NewClient) -> None:
    """Logins are listed and ended; a deleted account leaves its client offline."""
    port = start_server(classic_gap=0).port
    register(port, "alice")
    with logged_in(port, "alice", features=[]):
        pass
    recorder = Recorder()
    client = new_client(port, receiver=recorder)
    result(client.login("alice", PASSWORD))
    newest, oldest = sorted(result(client.logins()), key=lambda login: not login.is_current)
    assert isinstance(newest, OwnLogin)
    assert (newest.network, newest.is_current, oldest.is_current) == ("127.0.0.1", True, False)
    assert result(client.end_login(oldest.id)) is None
    assert error(client.end_login(oldest.id)).code == "invalid_token"
    assert error(client.delete_account("wrong")).code == "wrong_credentials"
    assert result(client.delete_account(PASSWORD)) is None
    assert client.wait(10)
    assert client.state is State.OFFLINE
    recorder.wait_for_state(State.OFFLINE, Reason.ENDED)
    assert error(client.login("alice", PASSWORD)).code == "wrong_credentials"


def test_the_own_session_of_an_ended_login_does_not_come_back(start_server: StartServer, new_client: NewClient) -> None:
    port = start_server(classic_gap=0).port
    register(port, "alice")
    client = new_client(port)
    result(client.login("alice", PASSWORD))
    (own,) = result(client.logins())
    result(client.end_login(own.id))
    assert client.wait(10)
    assert client.state is State.OFFLINE


def test_a_logout_takes_the_login_out_of_the_list(server: JellyServer) -> None:
    with modern(server, "alice") as alice:
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.is_closed_by_server()
    with modern(server, "alice") as alice:
        assert len(alice.ok(LOGINS)["logins"]) == 1
