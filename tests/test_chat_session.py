"""The session, on a client without a network: sending, receiving, reconnecting."""

import threading
from functools import partial

import pytest
from fake_client import MS, NOW, Chat

from client_api import (
    ConnectionLost,
    Conversation,
    Group,
    History,
    LastMessage,
    MessageEvent,
    PastMessage,
    Reason,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerBusy,
    ServerFailed,
    State,
)
from jelly.chat.job_queue import JobQueue
from jelly.chat.model import DeliveryStatus, LineKind, Peer


def test_a_message_is_there_at_once() -> None:
    """A message appears at once, and is marked until the server has stored it."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "hello")
    (line,) = chat.model.current.lines
    assert (line.kind, line.sender, line.status) == (LineKind.OUTGOING, "alice", DeliveryStatus.PENDING)
    assert chat.session.pending_requests == 1
    chat.client.answer()
    assert (line.status, chat.session.pending_requests) == (DeliveryStatus.NONE, 0)


def test_a_message_to_a_group() -> None:
    """A message to a group goes to the group's name."""
    chat = Chat()
    chat.session.open(Peer("team", True))
    chat.session.send(chat.model.current, "hello")
    assert chat.client.calls == [("send_group_message", "team", "hello")]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RequestRejected("no_such_user"), DeliveryStatus.FAILED, "not delivered: no such user"),
        (RequestRejected("not_a_member"), DeliveryStatus.FAILED, "not delivered: not a member of this group"),
        (
            RequestRejected("rate_limited"),
            DeliveryStatus.FAILED,
            "not delivered: too many messages per second; slow down. /resend sends it again",
        ),
        (
            ServerFailed(likely_code="no_such_user"),  # the original server's answer
            DeliveryStatus.FAILED,
            "not delivered: probably no such user",
        ),
        (
            ConnectionLost("", sent=True),
            DeliveryStatus.UNKNOWN,
            "perhaps delivered: the connection was lost. /resend sends it again, so it may arrive twice",
        ),
        (
            RequestTimeout(),
            DeliveryStatus.UNKNOWN,
            "perhaps delivered: the server did not answer in time. /resend sends it again, so it may arrive twice",
        ),
        (
            ServerFailed(),
            DeliveryStatus.UNKNOWN,
            "perhaps delivered: the server had an internal error. /resend sends it again, so it may arrive twice",
        ),
    ],
)
def test_delivery_status(error: RequestError, status: DeliveryStatus, reason: str) -> None:
    """A message has failed if it certainly was not stored; else its outcome is unknown."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "hello")
    chat.client.refuse(error)
    (line,) = chat.model.current.lines
    assert (line.status, line.reason) == (status, reason)


def test_resend() -> None:
    """Undelivered messages are resent in order, at the end of the conversation."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    for text in ("one", "two", "three"):
        chat.session.send(chat.model.current, text)
    chat.client.refuse("no_such_user")
    chat.client.answer()
    chat.client.refuse(RequestTimeout())
    assert chat.session.resend(chat.model.current) == 2
    assert chat.said() == ["two", "one", "three"]
    assert chat.client.calls[3:] == [("send_message", "bob", "one"), ("send_message", "bob", "three")]
    chat.client.answer()
    chat.client.answer()
    assert [line.text for each in chat.model for line in each.undelivered()] == []


def test_the_beginning() -> None:
    """The chat greets, shows who is online, and knows groups and friends from then on."""
    chat = Chat()
    chat.session.start("alice", "pw")
    chat.client.answer({"team": Group("team", ("alice", "bob"))})
    chat.client.answer({"bob": True, "carol": False})
    assert chat.said()[1:] == ["online: bob"]
    assert chat.model.groups == {"team": ("alice", "bob")}
    assert chat.model.friends == {"bob": True, "carol": False}


@pytest.mark.parametrize(
    ("friends", "said"),
    [({}, "your friend list is empty: /add NAME adds a friend"), ({"bob": False}, "none of your friends is online")],
)
def test_nobody_online(friends: dict[str, bool], said: str) -> None:
    """If no friend is online, the chat says so, and how to add one."""
    chat = Chat()
    chat.session.start("alice", "pw")
    chat.client.answer({})
    chat.client.answer(friends)
    assert chat.said()[-1] == said


def test_messages_from_before_the_login() -> None:
    """One line counts the messages from before the login; later ones are announced one by one."""
    chat = Chat()
    chat.session.start("alice", "pw")
    for sender, group in (("bob", ""), ("carol", "team"), ("bob", "")):
        chat.receive(sender, "hello", group, time=MS - 60_000)
    chat.receive("dave", "live", time=MS + 1000)
    assert chat.said()[1:] == [
        "while you were away: 2 from bob, 1 in #team (Alt-a goes there)",
        "dave writes to you: Alt-3 goes there",
    ]
    assert [each.unread for each in chat.model] == [0, 2, 1, 1]


def test_messages_to_the_current_conversation() -> None:
    """A message to the current conversation is shown, and not counted."""
    chat = Chat()
    chat.session.start("alice", "pw")
    chat.session.open(Peer("bob"))
    chat.receive("bob", "hello", time=MS - 60_000)
    assert chat.said() == ["hello"]


def test_a_message_has_the_time_of_its_sender() -> None:
    """A line has the time of the message, not that of its arrival."""
    chat = Chat()
    chat.receive("bob", "hello", time=MS - 3_600_000)
    (line,) = chat.model[Peer("bob")].lines
    assert line.at.timestamp() == NOW.timestamp() - 3600


@pytest.mark.parametrize("time", [-(2**63), 2**63 - 1])
def test_a_nonsensical_time(time: int) -> None:
    """A message with a nonsensical time is shown."""
    chat = Chat()
    chat.receive("bob", "hello", time=time)
    assert chat.said(chat.model[Peer("bob")]) == ["hello"]


def test_connection_status() -> None:
    """The bar shows the state of the connection, and since when."""
    chat = Chat()
    assert chat.session.connection_status() == "connected"
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    assert chat.session.connection_status() == "not connected since 14:03, trying again"
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    assert chat.session.connection_status() == "ended: logged in elsewhere; /connect"
    chat.connection(State.CONNECTING, Reason.LOGIN)
    assert chat.session.connection_status() == "connecting"
    chat.connection(State.OFFLINE, Reason.LOGIN_FAILED)
    assert chat.session.connection_status() == "not connected since 14:03; /connect"


def test_a_reconnect() -> None:
    """The chat says that it has reconnected, and how many messages are worth resending."""
    chat = Chat()
    chat.session.open(Peer("nobody"))
    chat.session.send(chat.model.current, "hello?")
    chat.client.refuse("no_such_user")
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "hello")
    chat.client.refuse(ServerBusy())
    for text in ("one", "two"):
        chat.session.send(chat.model.current, text)
        chat.client.refuse(ConnectionLost("", sent=True))
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    chat.connection(State.ONLINE, Reason.RECONNECTED)
    assert chat.said()[3:] == [
        "connected again (not connected since 14:03)",
        "not delivered: 1 to bob. /resend in that conversation sends them again",
        "perhaps delivered: 2 to bob. /resend in that conversation sends them again, so they may arrive twice",
    ]


def test_lines_without_a_connection() -> None:
    """What the user writes meanwhile waits, and is sent in its order when the connection is back:
    before anything newer. The chat says so once.
    """
    chat = Chat()
    for _ in range(2):
        chat.client.calls.clear()
        chat.session.open(Peer("bob"))
        chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
        chat.session.send(chat.model.current, "one")
        chat.session.open(Peer("carol"))
        chat.session.send(chat.model.current, "two")
        chat.client.state = State.ONLINE  # the event is still on its way
        chat.session.send(chat.model.current, "three")
        assert (chat.client.calls, chat.session.has_waiting_lines) == ([], True)
        chat.connection(State.ONLINE, Reason.RECONNECTED)
        texts = [("bob", "one"), ("carol", "two"), ("carol", "three")]
        assert chat.client.calls[:3] == [("send_message", name, text) for name, text in texts]
        assert not chat.session.has_waiting_lines
        for _ in range(3):
            chat.client.answer()
        for _ in range(2):
            chat.client.answer({})
        assert [line.status for line in chat.model.current.lines if line.text == "two"][-1] is DeliveryStatus.NONE
        assert [line.text for each in chat.model for line in each.undelivered()] == []
    waits = "not connected: this is sent as soon as you are connected"
    assert chat.said(chat.model[Peer("bob")]).count(waits) == 2
    assert waits not in chat.said(chat.model[Peer("carol")])


@pytest.mark.parametrize("is_back", [False, True])
def test_a_line_that_meets_the_end_of_the_connection(is_back: bool) -> None:
    """The client had lost the connection when Enter was pressed, and the chat hears of it later."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.send(chat.model.current, "hello")
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    if is_back:
        chat.connection(State.ONLINE, Reason.RECONNECTED)
    chat.client.refuse(ConnectionLost("", sent=False))
    if not is_back:
        chat.connection(State.ONLINE, Reason.RECONNECTED)
    assert chat.client.calls.count(("send_message", "bob", "hello")) == 2
    assert [line.text for each in chat.model for line in each.undelivered()] == []


def test_lines_for_a_connection_that_does_not_come_back() -> None:
    """They wait, and go in their order after /connect. When the chat ends, they are marked."""
    chat = Chat()
    chat.session.start("alice", "secret1")
    chat.client.answer({})
    chat.client.answer({})
    chat.session.open(Peer("bob"))
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    chat.session.send(chat.model.current, "one")
    assert chat.session.has_waiting_lines
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    chat.session.send(chat.model.current, "two")
    assert not chat.session.has_waiting_lines  # the connection does not come back by itself
    lines = [line for line in chat.model.current.lines if line.kind is LineKind.OUTGOING]
    assert [(line.text, line.status) for line in lines] == [(text, DeliveryStatus.PENDING) for text in ("one", "two")]
    chat.session.connect()
    chat.client.state = State.ONLINE
    chat.client.answer()
    assert [call for call in chat.client.calls if call[0] == "send_message"] == [
        ("send_message", "bob", "one"), ("send_message", "bob", "two")
    ]  # fmt: skip
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    chat.session.send(chat.model.current, "three")
    assert chat.said()[-1] == "not connected: this is sent after /connect"
    chat.connection(State.CLOSED, Reason.CLOSED)
    [failed] = chat.model.current.undelivered()
    assert (failed.text, failed.reason) == ("three", "not delivered: not connected. /resend sends it again")


def test_discarding() -> None:
    """It removes what failed, and what waits, in this conversation only."""
    chat = Chat()
    bob, carol = chat.model[Peer("bob")], chat.model[Peer("carol")]
    for talk in (bob, carol):
        chat.session.send(talk, "refused")
        chat.client.refuse("no_such_user")
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    for talk in (bob, carol):
        chat.session.send(talk, "waits")
    assert chat.session.discard(bob) == 2
    assert chat.session.discard(bob) == 0
    assert [line.text for line in bob.lines if line.kind is LineKind.OUTGOING] == []
    assert [line.text for line in carol.lines if line.kind is LineKind.OUTGOING] == ["refused", "waits"]
    assert bob.character_count == sum(len(line.text) for line in bob.lines)
    chat.connection(State.ONLINE, Reason.RECONNECTED)
    assert chat.client.calls.count(("send_message", "carol", "waits")) == 1
    assert ("send_message", "bob", "waits") not in chat.client.calls


def test_another_address() -> None:
    """With several addresses, the chat says once that it goes to another one, and which one it has
    then."""
    chat = Chat()
    chat.client.addresses = ("a:20000", "b:20000")
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST, "a:20000")
    chat.connection(State.ONLINE, Reason.RECONNECTED, "b:20000")
    assert chat.said() == [
        "the connection to a:20000 was lost; going to another address",
        "connected again, to b:20000 (not connected since 14:03)",
    ]


def test_why_the_login_ended() -> None:
    """The account was deleted on another device, or by the operator; or only the login is ended."""
    chat = Chat()
    chat.system("logged_out", values={"reason": "account_deleted"})
    chat.connection(State.OFFLINE, Reason.ENDED)
    assert chat.said() == ["the account alice was deleted"]
    chat = Chat()
    chat.system("logged_out", values={"reason": "ended"})
    chat.connection(State.OFFLINE, Reason.ENDED)
    assert chat.said() == ["the login of alice was ended, elsewhere or by the operator. /connect logs in again"]


def test_a_takeover() -> None:
    """After a takeover nothing is tried; /connect logs in with the remembered password."""
    chat = Chat()
    chat.session.start("alice", "secret1")
    chat.client.answer({})
    chat.client.answer({})
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    assert chat.said()[-1] == "someone logged in as alice elsewhere, with the same --device. /connect logs in again"
    assert [name for name, *_ in chat.client.calls] == ["list_groups", "list_friends"]
    chat.session.connect()
    assert chat.client.calls[-1] == ("login", "alice", "secret1")
    chat.client.state = State.ONLINE
    chat.client.answer()
    assert chat.said()[-1] == "connected"


def test_a_password_that_was_changed_elsewhere() -> None:
    """Nothing is tried; /connect asks for the new password."""
    chat = Chat()
    chat.session.start("alice", "secret1")
    chat.client.answer({})
    chat.client.answer({})
    chat.connection(State.OFFLINE, Reason.PASSWORD_CHANGED)
    assert chat.said()[-1] == "the password of alice was changed elsewhere. /connect asks for the new one"
    assert "the password was changed" in chat.session.connection_status()
    chat.ui.secrets = ["secret2"]
    chat.session.connect()
    assert chat.client.calls[-1] == ("login", "alice", "secret2")


def test_a_refused_token() -> None:
    """The chat logs in once with the remembered password; if it is wrong, /connect asks for it."""
    chat = Chat()
    chat.session.start("alice", "secret1")
    chat.client.answer({})
    chat.client.answer({})
    chat.connection(State.OFFLINE, Reason.TOKEN_REFUSED)
    assert chat.client.calls[-1] == ("login", "alice", "secret1")
    chat.connection(State.OFFLINE, Reason.LOGIN_FAILED)
    chat.client.refuse("wrong_credentials")
    assert chat.said()[-2:] == [
        "cannot connect: the name or the password is wrong",
        "/connect asks for the password",
    ]
    chat.ui.secrets = ["secret2"]
    chat.session.connect()
    assert chat.client.calls[-1] == ("login", "alice", "secret2")


def test_connect_when_connected() -> None:
    """/connect without need says so, and sends no request."""
    chat = Chat()
    chat.session.connect()
    chat.client.state = State.RECONNECTING
    chat.session.connect()
    assert chat.said() == ["you are already connected", "still trying to connect"]
    assert chat.client.calls == []


def test_the_job_queue_keeps_the_order() -> None:
    """Jobs from another thread wait for `run_pending`, and run in order."""
    jobs, done = JobQueue(), list[int]()

    def post_all() -> None:
        for number in range(100):
            jobs.post(partial(done.append, number))

    thread = threading.Thread(target=post_all)
    thread.start()
    thread.join()
    assert done == []
    jobs.run_pending()
    assert done == list(range(100))


def test_a_token_that_is_refused() -> None:
    """The password, which is still known, logs in again."""
    chat = Chat()
    chat.session._password = "pw"
    chat.connection(State.OFFLINE, Reason.TOKEN_REFUSED)
    assert chat.client.calls[-1][0] == "login"


def test_a_line_that_does_not_come_back() -> None:
    """The user is told, and connects again."""
    chat = Chat()
    chat.connection(State.OFFLINE, Reason.GAVE_UP)
    assert chat.said()
    assert not chat.client.calls


def listed(name: str, last: int, unread: int, read: int, is_group: bool = False) -> Conversation:
    """What the server says of a conversation."""
    return Conversation(name, is_group, LastMessage(last, name, "hello", MS), unread, read)


def test_the_list_comes_from_the_server() -> None:
    """Conversations of another client are there, and what is unread in them; what has come since
    counts, too.
    """
    chat = Chat()
    chat.receive("bob", "known to the server", id=40)
    chat.receive("bob", "newer", id=43)
    chat.client.listed = (listed("bob", 42, 2, 12), listed("team", 41, 100, 0, is_group=True), listed("dan", 8, 0, 8))
    chat.session.start("alice", "")
    assert [str(peer) for peer in chat.model.conversations] == ["bob", "#team", "dan"]
    assert [each.unread for each in chat.model.conversations.values()] == [3, 100, 0]
    assert chat.client.marked == []


def test_what_was_on_the_screen_is_read() -> None:
    """The server is told once; what it could not be told, after a reconnect. What is only opened,
    or has only arrived, was not read.
    """
    chat = Chat()
    chat.client.listed = (listed("bob", 42, 2, 12), listed("team", 41, 100, 0, is_group=True))
    chat.session.start("alice", "")
    for peer in (Peer("bob"), Peer("team", True), Peer("bob")):
        chat.session.open(peer)
    chat.receive("bob", "arrives", id=50)
    assert chat.client.marked == []
    assert [each.unread for each in chat.model] == [0, 0, 0]
    talk = chat.model.current
    for id in (0, 12, 42, 41, 42, 50):
        chat.session.was_shown(talk, id)
    chat.session.was_shown(chat.model.home, 60)
    assert chat.client.marked == [("bob", 42), ("bob", 50)]
    chat.client.state = State.RECONNECTING
    chat.session.was_shown(talk, 52)
    chat.client.state = State.ONLINE
    chat.session.was_shown(talk, 52)
    chat.session.was_shown(talk, 52)
    assert chat.client.marked[2:] == [("bob", 52), ("bob", 52)]


@pytest.mark.parametrize(
    ("time", "stored", "shown"),
    [
        (MS, MS, MS), (MS - 60_000, MS, MS - 60_000), (MS + 60_000, MS, MS + 60_000),  # clocks differ a little
        (1, MS, MS), (MS - 600_000, MS - 1, MS - 1), (2**60, MS, MS),
        (MS - 600_000, None, MS - 600_000), (2**60, None, MS),  # an older server
    ],
)  # fmt: skip
def test_the_clock_of_a_sender(time: int, stored: int | None, shown: int) -> None:
    """If it is wrong, the time of arrival is shown, also in the history."""
    chat = Chat()
    chat.client.receiver.on_message(MessageEvent(chat.typed_client, "bob", "one", time, 5, stored=stored))
    chat.session.open(Peer("bob"))
    chat.session.load_history(chat.model.current)
    chat.client.answer(History((PastMessage("bob", "alice", "old", time, 4, stored=stored),), False))
    assert [(line.text, line.at.timestamp() * 1000) for line in chat.model.current.lines] == [
        ("old", shown), ("one", shown)
    ]  # fmt: skip
