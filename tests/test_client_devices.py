"""The client library: a user with several devices, each of which gets every message once."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_tools import (
    ACK,
    NewClient,
    Recorder,
    ScriptedServer,
    error,
    message,
    notice,
    result,
)
from harness import StartServer, ready_database
from wire import GROUP_MESSAGE, LOGIN, PERSON_MESSAGE, RECONNECT, SUCCESS, logged_in, register, wait_until

from client_api import (
    EditEvent,
    JellyClient,
    MessageEvent,
    OwnMessageEvent,
    Reason,
    Receiver,
    State,
    SystemEvent,
)
from faults.proxy import Proxy
from jelly import devices
from jelly.server import JellyServer

Connect = Callable[..., JellyClient]


@pytest.fixture(params=["one server", "two nodes"])
def servers(request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path) -> list[JellyServer]:
    """One server, or two nodes. Alice, bob and carol have accounts."""
    settings: dict[str, Any] = {"database": f"sqlite:///{tmp_path}/jelly.db"}
    if request.param == "two nodes":
        settings["database"] = ready_database(request.getfixturevalue("mariadb"), "jelly_client_devices")
        settings["cluster"] = request.getfixturevalue("redis_server").url
    found = [start_server(**settings) for _ in range(2 if request.param == "two nodes" else 1)]
    register(found[0].port, "alice", "bob", "carol")
    return found


@pytest.fixture
def proxies(servers: list[JellyServer]) -> Iterator[list[Proxy]]:
    """One in front of each server."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Proxy(server.port)) for server in servers]


@pytest.fixture
def connect(proxies: list[Proxy], new_client: NewClient) -> Connect:
    """Make clients that know all servers, and are logged in."""

    def connect(user: str, device: str | None, receiver: Receiver | None = None, **options: Any) -> JellyClient:
        addresses = [("127.0.0.1", proxy.port) for proxy in proxies]
        client = new_client(1, receiver, addresses=addresses, device=device, **options)
        result(client.login(user, "pw"))
        return client

    return connect


def own_messages(recorder: Recorder, count: int) -> list[OwnMessageEvent]:
    return recorder.wait_for(lambda event: isinstance(event, OwnMessageEvent), count)


def all_contents(recorder: Recorder) -> list[str]:
    """What all messages say, own ones and others."""
    return [event.content for event in recorder.events if isinstance(event, MessageEvent | OwnMessageEvent)]


# --- how a client is made -------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["", "x" * 33, "my phone", "a\n", "\u200b", 7])
def test_a_device_that_cannot_be(device: Any) -> None:
    """The constructor says so, in a sentence."""
    with pytest.raises(ValueError, match=r"the device .* cannot be a name: it must have 1 to 32 characters"):
        JellyClient(device=device)


def test_a_classic_client_has_no_device() -> None:
    """The server would not know of it."""
    with pytest.raises(ValueError, match="a classic client"):
        JellyClient(features=(), device="desk")


def test_what_is_asked_for(script: ScriptedServer, new_client: NewClient, recorder: Recorder) -> None:
    """With the login, and with each reconnect; without a device nothing of it."""
    desk = new_client(script.port, recorder, device="桌面")
    login = desk.login("alice", "pw")
    peer = script.accept()
    values = peer.receive_request(LOGIN)
    assert (values["device"], values["features"][-1]) == ("桌面", "devices")
    peer.answer(LOGIN, username="alice", token=7, features=["ack", "devices"])
    result(login)
    peer.close()
    again = script.accept().receive_request(RECONNECT)
    assert (again["device"], again["features"]) == ("桌面", values["features"])
    desk.close(timeout=0)
    new_client(script.port).login("alice", "pw")
    values = script.accept().receive_request(LOGIN)
    assert "device" not in values
    assert "devices" not in values["features"]


def test_a_token_belongs_to_its_device(connect: Connect, proxies: list[Proxy], new_client: NewClient) -> None:
    """It resumes the session of no other one."""
    token = connect("bob", "desk").token
    assert token is not None
    elsewhere, here = (new_client(proxies[0].port, device=device) for device in ("phone", "desk"))
    assert error(elsewhere.resume("bob", token)).code == "invalid_token"
    assert "devices" in result(here.resume("bob", token)).features


def test_a_takeover_is_by_device(connect: Connect) -> None:
    """Of two clients on one device the second one stays. Those on other devices stay, too."""
    recorders = [Recorder() for _ in range(3)]
    desk, phone = connect("bob", "desk", recorders[0]), connect("bob", "phone", recorders[1])
    unnamed = connect("bob", None, recorders[2])
    connect("bob", "desk")
    assert recorders[0].wait_for_state(State.OFFLINE).reason is Reason.TAKEN_OVER
    assert (desk.state, phone.state, unnamed.state) == (State.OFFLINE, State.ONLINE, State.ONLINE)


def test_logins(connect: Connect) -> None:
    """Each says on which device it is."""
    desk = connect("bob", "desk")
    connect("bob", "phone")
    connect("bob", None)
    assert {(each.device, each.is_current) for each in result(desk.logins())} == {
        ("desk", True),
        ("phone", False),
        (None, False),
    }


# --- own messages ---------------------------------------------------------------------------------


def test_own_messages_have_a_callback_of_their_own(connect: Connect, servers: list[JellyServer]) -> None:
    """They say to whom they went; they come to no other callback, and only once."""
    at_desk, at_phone = Recorder(), Recorder()
    desk, phone = connect("bob", "desk", at_desk), connect("bob", "phone", at_phone)
    result(phone.create_group("team"))
    sent = result(phone.send_message("alice", "hi"))
    to_team = result(phone.send_group_message("team", "hi all"))
    own, in_team = own_messages(at_desk, 2)
    assert own == OwnMessageEvent(desk, "bob", "hi", sent.time, sent.id, "alice", None, stored=sent.stored)
    assert (in_team.receiver, in_team.group, in_team.id) == ("team", "team", to_team.id)
    with logged_in(servers[0].port, "alice", features=["ack"]) as alice:
        alice.ok(PERSON_MESSAGE, receiver="bob", content="hello", time=1)
    assert at_desk.contents(1) == at_phone.contents(1) == ["hello"]
    assert all_contents(at_desk) == ["hi", "hi all", "hello"]
    assert all_contents(at_phone) == ["hello"]


def test_notes_to_oneself(connect: Connect) -> None:
    """With a device they are own messages, on each one. Without, they come as they always did."""
    at_desk, at_phone, at_none = Recorder(), Recorder(), Recorder()
    connect("bob", "desk", at_desk)
    connect("bob", None, at_none)
    phone = connect("bob", "phone", at_phone)
    result(phone.send_message("bob", "milk"))
    for recorder in (at_desk, at_phone):
        [event] = own_messages(recorder, 1)
        assert (event.sender, event.receiver, event.content) == ("bob", "bob", "milk")
        assert recorder.messages == []
    assert at_none.contents(1) == ["milk"]


class Echo(Recorder):
    """Sends everything back."""

    def on_message(self, event: MessageEvent) -> None:
        super().on_message(event)
        event.reply(event.content)


def test_an_echo_bot_on_two_devices(connect: Connect) -> None:
    """It does not answer what it has written on the other one, nor to itself."""
    at_desk, at_phone, at_alice = Echo(), Echo(), Recorder()
    desk, _ = connect("bob", "desk", at_desk), connect("bob", "phone", at_phone)
    alice = connect("alice", None, at_alice)
    result(desk.send_message("bob", "note"))
    result(alice.send_message("bob", "one"))
    assert at_alice.contents(2) == ["one", "one"]  # from each device
    result(alice.send_message("bob", "two"))
    assert at_alice.contents(4)[2:] == ["two", "two"]
    own_messages(at_desk, 3)
    own_messages(at_phone, 3)
    assert at_desk.messages == at_phone.messages == ["one", "two"]
    assert at_alice.messages == ["one", "one", "two", "two"]


def test_own_edits(connect: Connect) -> None:
    """They have a callback of their own, too, and say where the message is."""
    at_desk, at_phone = Recorder(), Recorder()
    desk, phone = connect("bob", "desk", at_desk), connect("bob", "phone", at_phone)
    sent = result(phone.send_message("alice", "helo"))
    assert sent.id is not None
    edited = result(phone.edit(sent.id, "hello"))
    result(phone.recall(sent.id))
    first, second = at_desk.wait_for(lambda event: isinstance(event, EditEvent), 2)
    assert first == EditEvent(desk, "bob", "hello", sent.id, None, sent.time, edited.id, edited.stored)
    assert (first.receiver, second.is_recalled) == ("alice", True)
    assert not [event for event in at_phone.events if isinstance(event, EditEvent)]


def test_which_callback(script: ScriptedServer, new_client: NewClient) -> None:
    """The sender decides. Own messages are acknowledged, and known when they come again."""
    calls: list[tuple[str, str]] = []

    class Names(Recorder):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_") and name not in ("on_connection", "on_friend_request", "on_invitation"):
                return lambda event: calls.append((name, event.content))
            return super().__getattribute__(name)

    granted = ("ack", "ids", "edit", "devices")
    peer = script.log_in(new_client(script.port, Names(), device="desk"), granted)
    mine = {"sender": "alice", "receiver": "bob"}
    burst = (
        message("1", id=1)
        + message("2", id=2, **mine)
        + notice(GROUP_MESSAGE, sender="alice", receiver="team", content="3", time=3, id=3)
        + message("4", id=4, replaces=2, **mine)
        + message("5", id=5, replaces=1)
        + message("6", sender="alice", id=6)
    )
    peer.send(burst)
    while peer.receive_request(ACK)["id"] < 6:
        pass
    peer.close()
    peer = script.accept_login(granted, behind=burst + message("7", id=7))
    while peer.receive_request(ACK)["id"] < 7:
        pass
    assert calls == [
        ("on_message", "1"),
        ("on_own_message", "2"),
        ("on_own_message", "3"),
        ("on_own_edit", "4"),
        ("on_edit", "5"),
        ("on_own_message", "6"),
        ("on_message", "7"),
    ]


@pytest.mark.parametrize("wrong", [{"receiver": None}, {"receiver": 5}, {"content": None}, {"sender": None}])
def test_a_notice_that_cannot_be_read(
    script: ScriptedServer, new_client: NewClient, recorder: Recorder, wrong: dict[str, object]
) -> None:
    """It is passed over, as any other."""
    peer = script.log_in(new_client(script.port, recorder, device="desk"))
    peer.send(message(**{"content": "a", "id": 5, "sender": "alice", **wrong}) + message("b", id=6))  # type: ignore[arg-type]
    assert recorder.contents(1) == ["b"]
    assert all_contents(recorder) == ["b"]


def test_a_server_that_knows_no_devices(script: ScriptedServer, new_client: NewClient, recorder: Recorder) -> None:
    """Everything else works."""
    desk = new_client(script.port, recorder, device="desk")
    peer = script.log_in(desk, ("ack",))
    peer.say("hello", id=1)
    assert recorder.contents(1) == ["hello"]
    sent = desk.send_message("bob", "hi")
    while peer.receive().type != PERSON_MESSAGE:
        pass
    peer.answer(PERSON_MESSAGE, SUCCESS)
    result(sent)


# --- each message once ----------------------------------------------------------------------------


def test_each_message_once_over_cuts(connect: Connect, proxies: list[Proxy]) -> None:
    """Two devices and alice write at once while all connections are cut again and again, and while
    clients move from one node to another. Each device has everything once: what the other one has
    written, and what alice has, and of each of them in order. The inboxes are empty in the end.
    """
    rng = random.Random(5)
    recorders = {name: Recorder() for name in ("phone", "desk")}
    clients = {name: connect("bob", name, recorder) for name, recorder in recorders.items()}
    clients["alice"] = connect("alice", None)
    sent = []
    for number in range(60):
        for name, client in clients.items():
            assert client.wait_until_online(30)
            sent.append((name, number, client.send_message("bob" if name == "alice" else "alice", f"{name} {number}")))
        if rng.random() < 0.2:
            rng.choice(proxies).cut()
    lost = {f"{name} {number}" for name, number, future in sent if future.exception(30)}
    for name, other in (("phone", "desk"), ("desk", "phone")):
        expected = {who: [text for n in range(60) if (text := f"{who} {n}") not in lost] for who in (other, "alice")}

        def has_all(recorder: Recorder = recorders[name], wanted: dict[str, list[str]] = expected) -> bool:
            return set().union(*wanted.values()) <= set(all_contents(recorder))

        wait_until(has_all, 30)
        found = [text for text in all_contents(recorders[name]) if text not in lost]
        assert {who: [text for text in found if text.startswith(who)] for who in expected} == expected
        assert len(found) == len(set(found))
        ids = [event.id or 0 for event in recorders[name].events if isinstance(event, MessageEvent | OwnMessageEvent)]
        assert ids == sorted(ids)
    assert len(lost) < 60
    for client in clients.values():
        client.close()
    for name in recorders:  # nothing comes again
        late = Recorder()
        connect("bob", name, late).close()
        assert all_contents(late) == []


def test_what_was_written_while_a_device_was_away(connect: Connect, recorder: Recorder) -> None:
    """It gets it at its next login, between the messages of others, in order."""
    connect("bob", "desk").close()
    phone, alice = connect("bob", "phone"), connect("alice", None)
    for number in range(3):
        result(phone.send_message("alice", f"own {number}"))
        result(alice.send_message("bob", f"other {number}"))
    connect("bob", "desk", recorder)
    wait_until(lambda: len(all_contents(recorder)) == 6)
    assert all_contents(recorder) == ["own 0", "other 0", "own 1", "other 1", "own 2", "other 2"]


# --- what the server says -------------------------------------------------------------------------


def test_gap(
    start_server: StartServer, new_client: NewClient, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event says from where to read. The history has it."""
    monkeypatch.setattr(devices, "CHECK_INTERVAL", 0.0)
    port = start_server(inbox_messages=100).port
    register(port, "alice", "bob")
    desk = new_client(port, recorder, device="desk")
    result(desk.login("bob", "pw"))
    desk.close()
    at_phone = Recorder()
    phone, alice = new_client(port, at_phone, device="phone"), new_client(port)
    result(phone.login("bob", "pw"))
    result(alice.login("alice", "pw"))
    first = result(alice.send_message("bob", "m0"))
    for number in range(1, 120):
        # The inbox is full until the server has taken note of the acknowledgement.
        wait_until(lambda text=f"m{number}": error(alice.send_message("bob", text)) is None)
        at_phone.contents(number + 1)
    again = new_client(port, recorder, device="desk")

    def is_told() -> bool:
        result(again.login("bob", "pw"))
        told = any(isinstance(event, SystemEvent) and event.event == "gap" for event in recorder.events)
        result(again.logout())
        return told

    wait_until(is_told)
    [gap] = recorder.wait_for(lambda event: isinstance(event, SystemEvent) and event.event == "gap")
    assert gap.since is not None
    assert first.id is not None
    assert gap.since <= first.id
    assert recorder.messages == []
    result(again.login("bob", "pw"))
    page = result(again.history("alice", limit=100)).messages
    older = result(again.history("alice", before=page[0].id, limit=100)).messages
    missed = [each.content for each in (*older, *page) if each.id >= gap.since]
    assert missed == [f"m{number}" for number in range(120)]


def test_what_was_read_on_another_device(connect: Connect) -> None:
    """The event says with whom, and up to which message."""
    at_desk, at_phone = Recorder(), Recorder()
    connect("bob", "desk", at_desk)
    phone, alice = connect("bob", "phone", at_phone), connect("alice", None)
    sent = result(alice.send_message("bob", "hello"))
    at_phone.contents(1)
    assert sent.id is not None
    assert phone.mark_read("alice", sent.id)
    [event] = at_desk.wait_for(lambda event: isinstance(event, SystemEvent) and event.event == "own_read")
    assert (event.user, event.group, event.id) == ("alice", "", sent.id)
