"""Devices: what happens to one of a user while another one comes, writes or goes, all at once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer, allocate_ids
from wire import (
    EDIT,
    GROUP_MESSAGE,
    HISTORY,
    LOGIN,
    OWN_PROFILE,
    PASSWORD,
    PERSON_MESSAGE,
    SUCCESS,
    Reply,
    Wire,
    found,
    logged_in,
    register,
    wait_until,
)

from jelly import delivery, devices, sessions
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.devices import Devices
from jelly.devices_dao import DeviceRow, put, rows_of
from jelly.engines import open_engine
from jelly.server import JellyServer
from jelly.sessions import Device, Sessions

FEATURES = ["ack", "ids", "edit", "devices"]


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    """A server with small inboxes, in which 3 messages of each sender have room."""
    server = start_server(inbox_messages=30)
    register(server.port, "alice", "bob", "carol")
    return server


def events(wire: Wire, last: str = "") -> list[Any]:
    """The notices up to the message that says this, or before the answer to a request; of messages,
    what they say.
    """
    notices: list[Reply] = []
    while last and not (notices and notices[-1].values.get("content") == last):
        notices.append(wire.receive_notice())
    if not last:
        wire.ok(OWN_PROFILE)
        notices, wire.notices = wire.notices, []
    told = [notice.values.get("content", notice.values) for notice in notices]
    return [each for each in told if not isinstance(each, dict) or each["event"] in ("gap", "inbox_full")]


@contextlib.contextmanager
def reading(server: JellyServer) -> Iterator[Dao]:
    engine = open_engine(server.settings.database)
    connection = DatabaseConnection(engine, writes=False)
    try:
        yield Dao(connection)
    finally:
        connection.close()
        engine.release()


def missed_by(server: JellyServer, user: str) -> dict[str, int]:
    """What is known to be left out of an inbox."""
    with reading(server) as dao:
        return dao.missed(user)


def cursors(server: JellyServer, user: str) -> dict[str, int]:
    """How far each device has got."""
    with reading(server) as dao:
        return {row.name: row.delivered for row in rows_of(dao, user)}


def test_what_is_written_in_the_transaction_in_which_another_device_comes(
    start_server: StartServer, tmp_path: Path
) -> None:
    """It is stored behind the login, so the new device gets it."""
    server = start_server(database=f"sqlite:///{tmp_path}/jelly.db")
    register(server.port, "alice", "bob")
    with (
        logged_in(server.port, "bob", features=FEATURES, device="phone") as phone,
        logged_in(server.port, "bob", features=FEATURES) as unnamed,
        Wire(server.port) as desk,
    ):
        wait_until(lambda: not any(connection.lane.busy.locked() for connection in tuple(server.connections)))
        with server.store._turn:  # all of this is in the next one
            desk.send_request(LOGIN, username="bob", password=PASSWORD, features=FEATURES, device="desk")
            wait_until(lambda: len(server.store._jobs) == 1)
            unnamed.send_message("alice", "from nowhere")
            phone.send_message("alice", "after")
            wait_until(lambda: len(server.store._jobs) == 3)
        assert desk.receive_response().status == SUCCESS
        desk.user = "bob"
        for wire in (phone, unnamed):
            assert wire.receive_response().status == SUCCESS
        assert sorted(desk.contents(2)) == ["after", "from nowhere"]


def test_own_edits_that_wait_for_another_device_count_for_no_quota(server: JellyServer) -> None:
    """Nobody's message is refused for what a user has edited in a group while a device is away."""
    logged_in(server.port, "bob", features=FEATURES, device="desk").close()
    with (
        logged_in(server.port, "bob", features=FEATURES, device="phone") as phone,
        logged_in(server.port, "alice", features=FEATURES, device="only") as alice,
        logged_in(server.port, "carol") as carol,
    ):
        found(phone, "alice")
        for number in range(3):
            alice.message("bob", f"m{number}")
        carol.message("bob", "one")  # alice's share is full: from now on it is counted what waits for bob
        for _ in range(30):
            id = phone.ok(GROUP_MESSAGE, receiver="team", content="helo", time=1)["id"]
            phone.ok(EDIT, id=id, content="hello")
        carol.message("bob", "two")


def test_each_device_learns_what_did_not_get_into_the_full_inbox(server: JellyServer) -> None:
    """One that comes when another one knows it already is told of a gap."""
    with (
        logged_in(server.port, "bob", features=FEATURES, device="desk") as desk,
        logged_in(server.port, "bob", features=FEATURES, device="phone") as phone,
        logged_in(server.port, "alice", features=FEATURES) as alice,
    ):
        found(alice, "bob")
        desk.close()
        phone.close()
        ids = [alice.ok(GROUP_MESSAGE, receiver="team", content=f"m{number}", time=1)["id"] for number in range(5)]
        with logged_in(server.port, "bob", features=FEATURES, device="phone") as phone:
            assert events(phone, "m2") == [{"event": "inbox_full", "groups": {"team": ids[3]}}, "m0", "m1", "m2"]
            phone.ack(ids[2])
            wait_until(lambda: not missed_by(server, "bob"))
        for _ in range(2):
            with logged_in(server.port, "bob", features=FEATURES, device="desk") as desk:
                assert events(desk, "m2") == [{"event": "gap", "since": ids[3]}, "m0", "m1", "m2"]
        with logged_in(server.port, "bob", features=FEATURES, device="desk") as desk:
            events(desk, "m2")
            desk.ack(ids[2])
            events(desk)
        with logged_in(server.port, "bob", features=FEATURES, device="desk") as desk:
            assert events(desk) == []
        with logged_in(server.port, "bob", features=FEATURES, device="phone") as phone:
            assert events(phone) == []


def test_what_a_client_without_a_device_has_acknowledged_when_it_goes(server: JellyServer) -> None:
    """It waited for that client alone, so it is in the inbox no more."""
    with (
        logged_in(server.port, "bob", features=FEATURES, device="phone") as phone,
        logged_in(server.port, "bob", features=FEATURES) as unnamed,
        logged_in(server.port, "alice", features=FEATURES) as alice,
    ):
        id = alice.ok(PERSON_MESSAGE, receiver="bob", content="hello", time=1)["id"]
        assert events(phone, "hello") == events(unnamed, "hello") == ["hello"]
        phone.ack(id)
        wait_until(lambda: cursors(server, "bob")["phone"] == id)
        with server.store._turn:
            unnamed.ack(id)
            wait_until(lambda: Device("bob", "") in server.store._delivered)
            unnamed.close()
            wait_until(lambda: server.sessions.on(Device("bob", "")) is None)
        wait_until(lambda: cursors(server, "bob")[""] == id)
        with reading(server) as dao:
            assert not dao.connection.query("SELECT 1 FROM inbox WHERE receiver = 'bob'")


def test_a_device_that_writes_much_while_another_one_is_away(
    server: JellyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes waits for the other one, so that one is dropped, although the one that writes
    has got nothing for longer.
    """
    monkeypatch.setattr(devices, "CHECK_INTERVAL", 0.0)
    with logged_in(server.port, "bob", features=FEATURES, device="desk") as desk:
        found(desk, "alice")
        logged_in(server.port, "bob", features=FEATURES, device="phone").close()
        wait_until(lambda: server.sessions.on(Device("bob", "phone")) is None)
        ids = [desk.ok(GROUP_MESSAGE, receiver="team", content="hi", time=1)["id"] for _ in range(40)]
        with logged_in(server.port, "bob", features=FEATURES, device="phone") as phone:
            [gap] = [told["since"] for told in events(phone) if isinstance(told, dict)]
            assert gap <= ids[0]
            desk.ok(GROUP_MESSAGE, receiver="team", content="still here", time=1)
            assert events(phone, "still here")[-1] == "still here"


def test_a_dropped_device_that_is_the_last_one(dao: Dao) -> None:
    """It gets what waited for a device that is gone, but nothing that it has acknowledged."""
    known = Devices(Sessions())
    with dao.connection.transaction():
        ids = allocate_ids(dao, 3)
        put(dao, "bob", DeviceRow("desk", ids[1], 0, True, ids[1] + 1), is_new=True)
        assert known.enter(dao, Device("bob", "desk"), 1) == (ids[1], ids[1] + 1)


def test_the_devices_of_a_user_who_was_away(dao: Dao) -> None:
    """That one is kept which was seen last."""
    known, day = Devices(Sessions()), 86_400_000
    with dao.connection.transaction():
        for name, seen in (("", 20), ("desk", 15), ("phone", 10), ("tablet", 16)):
            put(dao, "bob", DeviceRow(name, 0, seen * day, False, 0), is_new=True)
        assert known.sweep(dao, "", 60 * day, 10) == "bob"
        assert [row.name for row in rows_of(dao, "bob") if not row.is_dropped] == [""]


def test_a_page_for_a_device_that_is_behind(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its user has written on another one is in no page until it has come as a notice."""
    monkeypatch.setattr(delivery, "PAGE", 1)
    monkeypatch.setattr(sessions, "MAX_UNACKNOWLEDGED", 0)
    server = start_server()
    register(server.port, "alice", "bob")
    logged_in(server.port, "bob", features=FEATURES, device="desk").close()
    with logged_in(server.port, "bob", features=FEATURES, device="phone") as phone:
        for number in range(3):
            phone.message("alice", f"own{number}")
        assert written(phone) == ["own0", "own1", "own2"]
        with logged_in(server.port, "bob", features=FEATURES, device="desk") as desk:
            for number in range(3):
                notice = desk.receive_notice()
                assert notice.values["content"] == f"own{number}"
                assert written(desk) == [f"own{each}" for each in range(number + 1)]
                desk.ack(notice.values["id"])


def written(wire: Wire) -> list[str]:
    """What the page of the conversation with alice says."""
    return [message["content"] for message in wire.ok(HISTORY, person="alice")["messages"]]
