"""Devices: a user with a session on each, and what each of them gets."""

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer, allocate_ids, ready_database
from wire import (
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CONVERSATIONS,
    CREATE_GROUP,
    EDIT,
    END_LOGIN,
    GROUP_MESSAGE,
    HISTORY,
    LOGIN,
    LOGINS,
    LOGOUT,
    NODES,
    OWN_PROFILE,
    PERSON_MESSAGE,
    READ,
    SYSTEM,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from jelly import devices, retention
from jelly.dao import Dao, StoredMessage
from jelly.database import DatabaseConnection
from jelly.devices_dao import DeviceRow, own_copies, put, rows_of, waiting_for_some
from jelly.engines import open_engine
from jelly.server import JellyServer
from jelly.sessions import Device, Sessions

MODERN = ["ack", "ids", "edit", "devices", "account"]
DAY_MS = 86_400_000
MESSAGES = (PERSON_MESSAGE, GROUP_MESSAGE)


BESIDE: dict[int, JellyServer] = {}
"""For the port of a first node: the second one."""


def stop(server: JellyServer) -> None:
    """Stop a server, or both nodes."""
    server.stop()
    if server.port in BESIDE:
        BESIDE.pop(server.port).stop()
        NODES.clear()


@pytest.fixture(params=["sqlite", "mariadb", "nodes"])
def start(request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path) -> Iterator[StartServer]:
    """Starts a server, or two nodes of which each connection goes to one at random."""
    settings: dict[str, Any] = {"database": f"sqlite:///{tmp_path}/jelly.db", "classic_gap": 0}
    if request.param != "sqlite":
        settings["database"] = ready_database(request.getfixturevalue("mariadb"), "jelly_devices")
    if request.param == "nodes":
        settings["cluster"] = request.getfixturevalue("redis_server").url

    def start_some(**more: Any) -> JellyServer:
        server = start_server(**{**settings, **more})
        if request.param == "nodes":
            BESIDE[server.port] = start_server(**{**settings, **more})
            ports = [server.port, BESIDE[server.port].port]
            NODES.update(dict.fromkeys(ports, ports))
        return server

    yield start_some
    BESIDE.clear()
    NODES.clear()


@pytest.fixture
def server(start: StartServer) -> JellyServer:
    server = start()
    register(server.port, "alice", "bob", "carol")
    return server


def on(server: JellyServer, user: str, device: str | None, features: list[str] | None = MODERN) -> Wire:
    """A session of a user on a device; None: on none that has a name."""
    return logged_in(server.port, user, features=features, device=device)


def say(wire: Wire, to: str, content: str, type: int = PERSON_MESSAGE, **more: Any) -> int:
    return int(wire.ok(type, receiver=to, content=content, time=1, **more)["id"])


def take(wire: Wire, count: int) -> list[str]:
    """What the next messages say, each acknowledged; other notices are passed over."""
    contents: list[str] = []
    while len(contents) < count:
        notice = wire.receive_notice()
        if notice.type in MESSAGES:
            contents.append(notice.values["content"])
            wire.ack(notice.values["id"])
    return contents


def rest(wire: Wire) -> list[Any]:
    """The events and messages that came before the answer to a request."""
    wire.ok(OWN_PROFILE)
    notices, wire.notices = wire.notices, []
    return [notice.values.get("content", notice.values.get("event")) for notice in notices]


@contextlib.contextmanager
def database_of(server: JellyServer, writes: bool = False) -> Iterator[Dao]:
    engine = open_engine(server.settings.database)
    connection = DatabaseConnection(engine, writes=writes)
    try:
        yield Dao(connection)
    finally:
        connection.close()
        engine.release()


def waiting(server: JellyServer, user: str) -> int:
    """How many rows the inbox of a user has."""
    with database_of(server) as dao:
        return len(dao.connection.query("SELECT 1 FROM inbox WHERE receiver = ?", (user,)))


def has_got(server: JellyServer, user: str, device: str) -> None:
    """Wait until it is noted that a device has acknowledged the newest message of others."""
    with database_of(server) as dao:

        def has_all() -> bool:
            [(last,)] = dao.connection.query("SELECT MAX(id) FROM messages WHERE sender <> ?", (user,))
            return any(row.name == device and row.delivered >= last for row in rows_of(dao, user))

        wait_until(has_all)


def is_empty(server: JellyServer, user: str) -> None:
    wait_until(lambda: waiting(server, user) == 0)


def test_every_message_comes_to_each_device(server: JellyServer) -> None:
    """Two devices and a classic client of one user are online together."""
    with (
        on(server, "bob", "phone") as phone,
        on(server, "bob", "desk") as desk,
        on(server, "bob", None, None) as classic,
        on(server, "alice", None) as alice,
    ):
        for number in range(5):
            say(alice, "bob", f"m{number}")
        expected = [f"m{number}" for number in range(5)]
        assert take(phone, 5) == take(desk, 5) == classic.contents(5) == expected
        assert rest(phone) == rest(desk) == rest(classic) == []
    is_empty(server, "bob")


def test_what_one_writes_comes_to_the_other_devices(server: JellyServer) -> None:
    """Not to the one on which it was written, and not to clients that say no device."""
    with on(server, "alice", "desk") as alice:
        alice.ok(CREATE_GROUP, groupName="team")
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
    with (
        on(server, "bob", "phone") as phone,
        on(server, "bob", "desk") as desk,
        on(server, "bob", None) as unnamed,
        on(server, "alice", None, None) as alice,
    ):
        id = say(phone, "alice", "from the phone")
        notice = desk.receive_notice()
        assert (notice.type, notice.values["sender"], notice.values["receiver"]) == (PERSON_MESSAGE, "bob", "alice")
        assert (notice.values["content"], notice.values["id"]) == ("from the phone", id)
        desk.ack(id)
        say(unnamed, "team", "from nowhere", GROUP_MESSAGE)
        assert take(phone, 1) == take(desk, 1) == ["from nowhere"]
        say(desk, "bob", "note to myself")  # this one is for all of them, as it always was
        assert take(phone, 1) == take(desk, 1) == take(unnamed, 1) == ["note to myself"]
        assert rest(phone) == rest(desk) == rest(unnamed) == []
        assert alice.contents(2) == ["from the phone", "from nowhere"]
        is_empty(server, "bob")


def test_a_message_stays_for_the_slowest(start: StartServer, server: JellyServer) -> None:
    """A device that was away gets all of it later, once and in order: also after a restart."""
    with on(server, "bob", "phone"), on(server, "bob", "desk"):
        pass
    with on(server, "bob", "phone") as phone, on(server, "alice", None) as alice:
        for number in range(4):
            say(alice, "bob", f"m{number}")
            say(phone, "alice", f"own{number}")
        assert take(phone, 4) == ["m0", "m1", "m2", "m3"]
        has_got(server, "bob", "phone")
    stop(server)
    again = start()
    with on(again, "bob", "phone") as phone:
        assert rest(phone) == []
    with on(again, "bob", "desk") as desk:
        assert take(desk, 8) == ["m0", "own0", "m1", "own1", "m2", "own2", "m3", "own3"]
    is_empty(again, "bob")
    with on(again, "bob", "desk") as desk, on(again, "bob", "phone") as phone:
        assert rest(desk) == rest(phone) == []


def test_where_a_device_begins(server: JellyServer) -> None:
    """The first one with what waits, a later one with what comes from now on."""
    with on(server, "alice", None) as alice:
        say(alice, "bob", "before")
        with on(server, "bob", "phone") as phone:
            assert take(phone, 1) == ["before"]
        say(alice, "bob", "between")
        with on(server, "bob", "desk") as desk:
            assert rest(desk) == []
            page = desk.ok(HISTORY, person="alice")["messages"]
            assert [each["content"] for each in page] == ["before", "between"]
            say(alice, "bob", "after")
            assert take(desk, 1) == ["after"]
        with on(server, "bob", "phone") as phone:
            assert take(phone, 2) == ["between", "after"]
    is_empty(server, "bob")


def test_clients_without_a_device(server: JellyServer) -> None:
    """They begin behind what any device has got, and go on where they were."""
    with on(server, "alice", None) as alice:
        with on(server, "bob", "phone") as phone:
            say(alice, "bob", "one")
            assert take(phone, 1) == ["one"]
        say(alice, "bob", "two")
        with on(server, "bob", None) as unnamed:
            assert take(unnamed, 1) == ["two"]
            assert rest(unnamed) == []
        say(alice, "bob", "three")
        with on(server, "bob", None) as unnamed:
            assert take(unnamed, 1) == ["three"]
            assert rest(unnamed) == []
        with on(server, "bob", "phone") as phone:
            assert take(phone, 2) == ["two", "three"]
    is_empty(server, "bob")


def test_the_first_device_beside_a_client_without_one(server: JellyServer) -> None:
    """What that client has not acknowledged comes to both."""
    with on(server, "bob", None) as unnamed, on(server, "alice", None) as alice:
        say(alice, "bob", "one")
        assert unnamed.contents(1) == ["one"]
        with on(server, "bob", "phone") as phone:
            assert take(phone, 1) == ["one"]
            say(alice, "bob", "two")
            assert take(phone, 1) == unnamed.contents(1) == ["two"]
            has_got(server, "bob", "phone")
            assert waiting(server, "bob") == 2
            with on(server, "bob", None) as unnamed:
                assert take(unnamed, 2) == ["one", "two"]
                is_empty(server, "bob")


def test_takeover_is_by_device(server: JellyServer) -> None:
    """A login takes over from the session on the same device, and from no other."""
    with on(server, "bob", "phone") as phone, on(server, "bob", "desk") as desk, on(server, "bob", None) as unnamed:
        with on(server, "bob", "phone") as newer:
            assert phone.receive_notice().values == {"event": "taken_over"}
            assert rest(desk) == rest(unnamed) == rest(newer) == []
        with on(server, "bob", None, None) as classic:
            assert unnamed.receive_notice().values == {"event": "taken_over"}
            assert rest(desk) == []
            classic.ok(OWN_PROFILE)


def test_a_token_belongs_to_its_device(server: JellyServer) -> None:
    """It opens a session on no other one."""
    with on(server, "bob", "phone") as phone, on(server, "bob", None) as unnamed:
        tokens = phone.token, unnamed.token
    for token, device in ((tokens[0], "desk"), (tokens[0], None), (tokens[1], "phone")):
        with Wire(server.port) as wire:
            assert wire.reconnect("bob", token, MODERN, device).error == "invalid_token"
    with Wire(server.port) as wire, on(server, "alice", None) as alice:
        assert wire.reconnect("bob", tokens[0], MODERN, "phone").values["features"] == MODERN_GRANTED
        say(alice, "bob", "hello")
        assert take(wire, 1) == ["hello"]


MODERN_GRANTED = ["ack", "ids", "edit", "account", "devices"]


def test_what_is_granted(server: JellyServer) -> None:
    """The feature needs a device, and a device the feature; a name has 1 to 32 characters."""
    with Wire(server.port) as wire:
        assert "devices" not in wire.login("bob", features=MODERN).values["features"]
    with Wire(server.port) as wire:
        assert wire.login("bob", features=["ack"], device="phone").values["features"] == ["ack"]
    with Wire(server.port) as wire:
        assert wire.login("bob", features=MODERN, device="手机").values["features"] == MODERN_GRANTED
    for name in ("", "x" * 33, "my phone", "\u200b"):
        with Wire(server.port) as wire:
            assert wire.login("bob", features=MODERN, device=name).error == "malformed_body"
    with Wire(server.port) as wire:
        assert wire.call(LOGIN, username="bob", password="pw", features=MODERN, device=7).error == "malformed_body"


def test_presence_is_any_device(server: JellyServer) -> None:
    """A friend goes offline with the last device."""
    with on(server, "alice", None, ["ack"]) as alice:
        alice.ok(ADD_FRIEND, friend="bob")
        phone, desk = on(server, "bob", "phone"), on(server, "bob", None, None)
        assert alice.receive_notice().values == {"event": "presence", "friend": "bob", "online": True}
        nodes = [server, BESIDE.get(server.port, server)]  # each has heard of both, so none takes bob for gone
        wait_until(lambda: all(_is_on(node, "bob", device) for node in nodes for device in ("phone", "")))
        phone.close()
        wait_until(lambda: not _is_on(server, "bob", "phone"))
        assert alice.ok(ALL_FRIENDS)["friends"] == {"bob": True}
        desk.close()
        assert alice.receive_notice().values == {"event": "presence", "friend": "bob", "online": False}
        assert rest(alice) == []


def _is_on(server: JellyServer, user: str, device: str) -> bool:
    return server.sessions.is_device_online(Device(user, device))


def test_a_device_keeps_its_notices_beside_a_classic_client(server: JellyServer) -> None:
    """A classic login takes nothing from the device that is online already."""
    with on(server, "bob", "phone") as phone:
        phone.ok(ADD_FRIEND, friend="alice")
        with on(server, "bob", None, None), on(server, "alice", None):
            assert phone.receive_notice().values == {"event": "presence", "friend": "alice", "online": True}


def test_edits_on_other_devices(server: JellyServer) -> None:
    """What one edits or recalls changes on one's other devices, also those that come later."""
    with on(server, "bob", "phone") as phone, on(server, "bob", "desk") as desk, on(server, "alice", "a"):
        id = say(phone, "alice", "helo")
        assert take(desk, 1) == ["helo"]
        edit = int(phone.ok(EDIT, id=id, content="hello")["id"])
        notice = desk.receive_notice()
        assert (notice.values["id"], notice.values["replaces"], notice.values["content"]) == (edit, id, "hello")
        desk.close()
        say(phone, "alice", "more")
        phone.ok(EDIT, id=id, content="")
    with on(server, "bob", "desk") as desk:
        notices = [desk.receive_notice().values for _ in range(2)]
        assert [(each["content"], each.get("replaces")) for each in notices] == [("more", None), ("", id)]
        desk.ack(notices[-1]["id"])
    is_empty(server, "bob")


def test_a_connection_that_ends_during_its_login(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had sent behind the login comes to the other device all the same. (A node stores
    nothing of a session that is not registered yet.)
    """
    if server.node is not None:
        return
    with on(server, "bob", "phone"):
        pass
    with on(server, "alice", None) as alice, on(server, "bob", "desk") as desk:
        wire, original, tried = Wire(server.port), devices.Devices.changed, list[bool]()

        def changed(self: devices.Devices, user: str, kept: Sequence[str]) -> None:
            session = self._sessions.on(Device("bob", "phone"))
            if session is not None and not tried and wire.user == "bob":
                tried.append(True)
                self._sessions.detach(session)  # as the reader does when the connection ends
                wire.reset()
            original(self, user, kept)

        wait_until(lambda: not _is_on(server, "bob", "phone"))
        wire.user = "bob"
        monkeypatch.setattr(devices.Devices, "changed", changed)
        login = {"username": "bob", "password": "pw", "features": MODERN, "device": "phone"}
        values = {"sender": "bob", "receiver": "alice", "content": "hi", "time": 1}
        wire.send(pack(LOGIN, to_json(login)) + pack(PERSON_MESSAGE, to_json(values)))
        assert take(alice, 1) == ["hi"]
        assert take(desk, 1) == ["hi"]


READS = [*MODERN, "read"]


def has_read(wire: Wire, id: int, **where: str) -> None:
    wire.send(pack(READ, to_json({"id": id, **where})))


def test_what_was_read_on_one_device(server: JellyServer) -> None:
    """The others are told, wherever they are, also if nobody else may know it; who did it is not,
    and neither is a client that does not know devices, or READ.
    """
    with (
        on(server, "bob", "phone", READS) as phone,
        on(server, "bob", "desk", READS) as desk,
        on(server, "bob", "old", MODERN) as old,
        on(server, "bob", None, ["ack", "read"]) as unnamed,
        on(server, "alice", None, READS) as alice,
    ):
        phone.ok(UPDATE_PROFILE, showRead=False)
        phone.ok(CREATE_GROUP, groupName="team")
        phone.ok(ADD_MEMBER, groupName="team", member="alice")
        assert [wire.receive_notice().values["event"] for wire in (phone, desk, old, unnamed, alice)] == [
            "group_changed"
        ] * 5
        first = say(alice, "bob", "one")
        own = say(desk, "team", "two", GROUP_MESSAGE)
        assert take(phone, 2) == ["one", "two"]
        assert (take(desk, 1), take(old, 2), take(unnamed, 1)) == (["one"], ["one", "two"], ["one"])
        has_read(phone, first, person="alice")
        assert desk.receive_notice().values == {"event": "own_read", "user": "alice", "id": first}
        has_read(desk, own, groupName="team")
        assert phone.receive_notice().values == {"event": "own_read", "group": "team", "id": own}
        second = say(alice, "bob", "three")
        assert take(phone, 1) == take(desk, 1) == take(unnamed, 1) == ["three"]
        has_read(unnamed, second, person="alice")
        expected = {"event": "own_read", "user": "alice", "id": second}
        assert phone.receive_notice().values == desk.receive_notice().values == expected
        has_read(phone, first, person="alice")  # it is further already: nothing is told
        assert take(old, 1) == ["three"]
        assert take(alice, 1) == ["two"]
        assert rest(phone) == rest(desk) == rest(old) == rest(unnamed) == rest(alice) == []


def test_what_was_read_on_the_only_device(server: JellyServer) -> None:
    """Nobody is told."""
    with on(server, "bob", "desk", READS) as desk, on(server, "alice", None) as alice:
        id = say(alice, "bob", "one")
        assert take(desk, 1) == ["one"]
        has_read(desk, id, person="alice")
        wait_until(lambda: desk.ok(CONVERSATIONS)["conversations"][0]["unread"] == 0)
        assert rest(desk) == []


def test_an_edit_that_one_device_does_not_know(server: JellyServer) -> None:
    """A client without the feature is not sent it; the other device is."""
    with (
        on(server, "bob", "phone") as phone,
        on(server, "bob", None, None) as classic,
        on(server, "alice", "a") as alice,
    ):
        id = say(alice, "bob", "helo")
        assert take(phone, 1) == classic.contents(1) == ["helo"]
        phone.close()
        alice.ok(EDIT, id=id, content="hello")
        say(alice, "bob", "after")
        assert classic.contents(1) == ["after"]
    with on(server, "bob", "phone") as phone:
        assert take(phone, 2) == ["hello", "after"]
    is_empty(server, "bob")


def test_what_waits_for_a_slower_device_counts_for_no_quota(start: StartServer) -> None:
    """Nobody is refused because a device is away; own messages count for nobody."""
    server = start(inbox_messages=10)
    register(server.port, "alice", "bob")
    with on(server, "bob", "desk"):
        pass
    with on(server, "bob", "phone") as phone, on(server, "alice", None) as alice:
        phone.ok(ADD_FRIEND, friend="alice")
        alice.ok(ADD_FRIEND, friend="bob")
        for number in range(9):
            say(alice, "bob", f"m{number}")
            assert take(phone, 1) == [f"m{number}"]
            has_got(server, "bob", "phone")
        say(phone, "alice", "own")
        assert waiting(server, "bob") == 10
        say(alice, "bob", "and one more")


def test_a_device_for_which_too_much_waits(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped, and told from where it may have missed something; nothing else is lost."""
    monkeypatch.setattr(devices, "CHECK_INTERVAL", 0.0)
    server = start(inbox_messages=100)
    register(server.port, "alice", "bob")
    with on(server, "bob", "desk"):
        pass
    with on(server, "bob", "phone") as phone, on(server, "alice", None) as alice:
        first = say(alice, "bob", "m0")
        take(phone, 1)
        for number in range(1, 150):
            say(alice, "bob", f"m{number}")
            take(phone, 1)
            has_got(server, "bob", "phone")
        is_empty(server, "bob")
        with on(server, "bob", "desk") as desk:
            notice = desk.receive_notice()
            assert (notice.type, notice.values["event"]) == (SYSTEM, "gap")
            assert notice.values["since"] <= first
            desk.close()
        wait_until(lambda: not _is_on(server, "bob", "desk"))
        with on(server, "bob", "desk") as desk:  # told again, until a message after it was acknowledged
            assert rest(desk) == ["gap"]
            say(alice, "bob", "new")
            assert take(desk, 1) == take(phone, 1) == ["new"]
            is_empty(server, "bob")
        with on(server, "bob", "desk") as desk:
            assert rest(desk) == []


def test_a_device_that_takes_nothing(start: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online, but without an acknowledgement: its connection is closed, and it is told later."""
    monkeypatch.setattr(devices, "CHECK_INTERVAL", 0.0)
    server = start(inbox_messages=50)
    register(server.port, "alice", "bob")
    with on(server, "bob", "desk") as desk, on(server, "bob", "phone") as phone, on(server, "alice", None) as alice:
        for number in range(80):
            say(alice, "bob", f"m{number}")
            take(phone, 1)
            has_got(server, "bob", "phone")
        assert desk.is_closed_by_server()
    with on(server, "bob", "desk") as desk:
        assert rest(desk) == ["gap"]


def test_a_device_that_was_away_for_a_month(
    start: StartServer, server: JellyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped when the next sweep comes, if there is another one."""
    monkeypatch.setattr(retention, "SWEEP_PAUSE_OF_OTHERS", 0.1)
    with on(server, "bob", "desk"), on(server, "alice", "only"):
        pass
    with on(server, "bob", "phone") as phone, on(server, "carol", None) as carol:
        say(carol, "bob", "one")
        take(phone, 1)
        say(carol, "alice", "one")
    assert waiting(server, "bob") == 1
    stop(server)
    with database_of(server, writes=True) as dao, dao.connection.transaction():
        dao.connection.execute("UPDATE devices SET seen = seen - ? WHERE device <> 'phone'", (31 * DAY_MS,))
    again = start(trust_clock="yes")
    with database_of(again) as dao:
        wait_until(lambda: [row.is_dropped for row in rows_of(dao, "bob") if row.name == "desk"] == [True])
        assert [row.is_dropped for row in rows_of(dao, "alice")] == [False]
    with on(again, "bob", "desk") as desk:
        assert rest(desk) == ["gap"]
    with on(again, "alice", "only") as alice:
        assert take(alice, 1) == ["one"]


def test_nine_devices(server: JellyServer) -> None:
    """The one that was not seen for longest goes, and its token with it."""
    tokens = {}
    for number in range(8):
        with on(server, "bob", f"d{number}") as wire:
            tokens[f"d{number}"] = wire.token
    with on(server, "bob", "d0"), on(server, "bob", "d8") as newest, on(server, "alice", None) as alice:
        with database_of(server) as dao:
            kept = [row.name for row in rows_of(dao, "bob") if not row.is_dropped]
        assert len(kept) == 8
        assert {"d0", "d8"} <= set(kept)
        (gone,) = {f"d{number}" for number in range(8)} - set(kept)
        with Wire(server.port) as wire:
            assert wire.reconnect("bob", tokens[gone], MODERN, gone).error == "invalid_token"
        say(alice, "bob", "hello")
        assert take(newest, 1) == ["hello"]


def test_the_logins_of_devices(server: JellyServer) -> None:
    """They are listed with their names; who ends the login of a lost phone ends what waits for
    it.
    """
    phone = on(server, "bob", "phone")
    with on(server, "bob", "desk") as desk, on(server, "alice", None) as alice:
        logins = desk.ok(LOGINS)["logins"]
        assert sorted(each["device"] for each in logins) == ["desk", "phone"]
        (id,) = [each["login"] for each in logins if each["device"] == "phone"]
        desk.ok(END_LOGIN, login=id)
        assert phone.receive_notice().values == {"event": "logged_out", "reason": "ended"}
        say(alice, "bob", "hello")
        assert take(desk, 1) == ["hello"]
        is_empty(server, "bob")
        say(desk, "alice", "nobody else gets this")
        assert rest(desk) == []
        assert waiting(server, "bob") == 0
    phone.close()


def test_a_new_password_ends_the_other_devices(server: JellyServer) -> None:
    """Wherever they are; the one that set it stays."""
    with on(server, "bob", "phone") as phone, on(server, "bob", "desk") as desk:
        desk.ok(UPDATE_PROFILE, password="new", oldPassword="pw")
        assert phone.receive_notice().values == {"event": "password_changed"}
        desk.ok(OWN_PROFILE)


def test_a_logout_ends_one_device(server: JellyServer) -> None:
    """The others stay, and what comes is kept for it until it logs in again."""
    with on(server, "bob", "desk") as desk, on(server, "alice", None) as alice:
        with on(server, "bob", "phone") as phone:
            phone.send_request(LOGOUT, token=phone.token)
            assert phone.is_closed_by_server()
        say(alice, "bob", "hello")
        assert take(desk, 1) == ["hello"]
        with on(server, "bob", "phone") as phone:
            assert take(phone, 1) == ["hello"]
    is_empty(server, "bob")


def test_a_phone_and_a_desk_with_cuts(server: JellyServer) -> None:
    """Each device sees each message once and in order, whatever happens to its connections."""
    rng = random.Random(7)
    seen: dict[str, list[str]] = {"phone": [], "desk": []}
    wires = {name: on(server, "bob", name) for name in seen}
    expected: list[str] = []
    ids: dict[str, int] = dict.fromkeys(seen, 0)

    def read(name: str, count: int) -> None:
        for _ in range(count):
            notice = wires[name].receive_notice()
            if notice.values["id"] > ids[name]:
                seen[name].append(notice.values["content"])
                ids[name] = notice.values["id"]
            wires[name].ack(notice.values["id"])

    with on(server, "alice", None) as alice:
        for number in range(60):
            say(alice, "bob", f"m{number}")
            expected.append(f"m{number}")
            name = rng.choice(["phone", "desk"])
            if rng.random() < 0.3:
                wires[name].reset()
                wires[name] = on(server, "bob", name)
            if rng.random() < 0.5:
                read(name, 1)
        for name in seen:
            wires[name].reset()
            wires[name] = on(server, "bob", name)
            while seen[name][-1:] != expected[-1:]:
                read(name, 1)
            assert seen[name] == expected
    is_empty(server, "bob")
    for wire in wires.values():
        wire.close()


def test_a_check_of_many_users_is_many_short_transactions(dao: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each, so much is counted and not much more, as all requests wait for it. What only waits
    for a slower device is counted with its copies of own messages.
    """
    monkeypatch.setattr(devices, "CHECK_ROWS", 5)
    known = devices.Devices(Sessions(), clock=lambda: 0.0)
    users = [f"user{number}" for number in range(7)]
    with dao.connection.transaction():
        for user in users:
            ids = allocate_ids(dao, 3)
            texts = [StoredMessage(id, False, "alice", user, "four", 1) for id in ids[:2]]
            own = StoredMessage(ids[2], False, user, "alice", "eleven char", 1, device="phone")
            dao.add_messages([*texts, own], [(user, id) for id in ids])
            put(dao, user, DeviceRow("desk", 0, 0, False, 0), is_new=True)
            put(dao, user, DeviceRow("phone", ids[0], 0, False, 0), is_new=True)
            assert waiting_for_some(dao, user, 0, ids[0]) == (2, 15)
            assert own_copies(dao, user, {"phone": ids[2], "desk": ids[2]}) == [ids[2]]
            assert own_copies(dao, user, {"phone": ids[1], "desk": ids[2]}) == []
            known.check_soon(user)
    known.due_at, turns = 0.0, 0
    while known.due_at != math.inf:
        with dao.connection.transaction():
            known.run_due(dao)
            known.take_changed()
        turns += 1
    assert turns == 3  # of three users each, who have two messages
