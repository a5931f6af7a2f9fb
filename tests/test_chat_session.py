"""What is sent, what arrives, coming back: a session on a client without a network."""

import threading
from functools import partial

import pytest
from fake_client import MS, NOW, Chat

from client_api import (
    ConnectionLost,
    Group,
    History,
    PastMessage,
    Reason,
    RequestError,
    RequestRejected,
    RequestTimeout,
    ServerFailed,
    State,
)
from jelly.chat.model import MAX_CHARACTERS, Kind, Mark, Older, Peer
from jelly.chat.session import Mailbox


def test_a_message_is_there_at_once() -> None:
    """Marked until the server has stored it."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    chat.session.send(chat.model.current, "hello")
    (line,) = chat.model.current.lines
    assert (line.kind, line.sender, line.mark) == (Kind.OURS, "alice", Mark.PENDING)
    assert chat.session.pending == 1
    chat.client.answer()
    assert (line.mark, chat.session.pending) == (Mark.NONE, 0)


def test_a_message_to_a_group() -> None:
    """It goes to the group, by its name."""
    chat = Chat()
    chat.session.show(Peer("team", True))
    chat.session.send(chat.model.current, "hello")
    assert chat.client.calls == [("send_group_message", "team", "hello")]


@pytest.mark.parametrize(
    ("error", "mark", "reason"),
    [
        (RequestRejected("no_such_user"), Mark.FAILED, "not delivered: no such user. /resend tries again"),
        (ConnectionLost("", sent=False), Mark.FAILED, "not delivered: not connected. /resend tries again"),
        (
            ConnectionLost("", sent=True),
            Mark.UNKNOWN,
            "perhaps delivered: the connection broke. /resend sends it again",
        ),
        (RequestTimeout(), Mark.UNKNOWN, "perhaps delivered: no answer in time. /resend sends it again"),
        (ServerFailed(), Mark.UNKNOWN, "perhaps delivered: the server failed. /resend sends it again"),
    ],
)
def test_what_became_of_a_message(error: RequestError, mark: Mark, reason: str) -> None:
    """Failed is what surely was not stored; the rest is not known."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    chat.session.send(chat.model.current, "hello")
    chat.client.refuse(error)
    (line,) = chat.model.current.lines
    assert (line.mark, line.reason) == (mark, reason)


def test_sending_again() -> None:
    """What is marked goes out again in its order, at the end of the conversation."""
    chat = Chat()
    chat.session.show(Peer("bob"))
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
    assert chat.model.undelivered() == 0


def test_the_beginning() -> None:
    """A welcome, and who is online; groups and friends are known from then on."""
    chat = Chat()
    chat.session.begin("alice", "pw")
    chat.client.answer({"team": Group("team", ("alice", "bob"))})
    chat.client.answer({"bob": True, "carol": False})
    assert chat.said()[1:] == ["online: bob"]
    assert chat.model.groups == {"team": ("alice", "bob")}
    assert chat.model.friends == {"bob": True, "carol": False}


@pytest.mark.parametrize(
    ("friends", "said"),
    [({}, "nobody is on your list yet: /add NAME"), ({"bob": False}, "none of your friends is online")],
)
def test_nobody_online(friends: dict[str, bool], said: str) -> None:
    """It says so, and how to begin."""
    chat = Chat()
    chat.session.begin("alice", "pw")
    chat.client.answer({})
    chat.client.answer(friends)
    assert chat.said()[-1] == said


def test_what_came_while_one_was_away() -> None:
    """One line that grows, and what is unread is counted; what is written later is not meant."""
    chat = Chat()
    chat.session.begin("alice", "pw")
    for sender, group in (("bob", ""), ("carol", "team"), ("bob", "")):
        chat.receive(sender, "hello", group, time=MS - 60_000)
    chat.receive("dave", "live", time=MS + 1000)
    assert chat.said()[1:] == [
        "while you were away: 2 from bob, 1 in #team (Alt-a goes there)",
        "dave writes to you: Alt-3 goes there",
    ]
    assert [each.unread for each in chat.model] == [0, 2, 1, 1]


def test_what_came_meanwhile_to_the_conversation_that_is_shown() -> None:
    """It stands there: nobody has to be led to it."""
    chat = Chat()
    chat.session.begin("alice", "pw")
    chat.session.show(Peer("bob"))
    chat.receive("bob", "hello", time=MS - 60_000)
    assert chat.said() == ["hello"]


def test_a_message_has_the_time_of_its_sender() -> None:
    """Not that of its arrival."""
    chat = Chat()
    chat.receive("bob", "hello", time=MS - 3_600_000)
    (line,) = chat.model[Peer("bob")].lines
    assert line.at.timestamp() == NOW.timestamp() - 3600


@pytest.mark.parametrize("time", [-(2**63), 2**63 - 1])
def test_a_nonsensical_time(time: int) -> None:
    """It is shown as something."""
    chat = Chat()
    chat.receive("bob", "hello", time=time)
    assert chat.said(chat.model[Peer("bob")]) == ["hello"]


def test_how_things_stand() -> None:
    """The bar says it in words, and since when."""
    chat = Chat()
    assert chat.session.standing() == "connected"
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    assert chat.session.standing() == "not connected since 14:03, trying again"
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    assert chat.session.standing() == "ended: logged in elsewhere; /connect"
    chat.connection(State.CONNECTING, Reason.LOGIN)
    assert chat.session.standing() == "connecting"
    chat.connection(State.OFFLINE, Reason.LOGIN_FAILED)
    assert chat.session.standing() == "not connected since 14:03; /connect"


def test_a_reconnect() -> None:
    """One line says so, and how much was not delivered."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    chat.connection(State.RECONNECTING, Reason.CONNECTION_LOST)
    chat.session.send(chat.model.current, "hello")
    chat.client.refuse(ConnectionLost("", sent=False))
    chat.connection(State.ONLINE, Reason.RECONNECTED)
    assert chat.said()[1:] == [
        "connected again (not connected since 14:03)",
        "not confirmed: 1 to bob; /resend there sends them again",
    ]


def test_a_takeover() -> None:
    """It is said, nothing is tried, and /connect comes back with the password that is remembered."""
    chat = Chat()
    chat.session.begin("alice", "secret1")
    chat.client.answer({})
    chat.client.answer({})
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    assert chat.said()[-1] == "ended: someone logged in as alice elsewhere; /connect comes back"
    assert [name for name, *_ in chat.client.calls] == ["list_groups", "list_friends"]
    chat.session.connect()
    assert chat.client.calls[-1] == ("login", "alice", "secret1")
    chat.client.state = State.ONLINE
    chat.client.answer()
    assert chat.said()[-1] == "connected"


def test_a_refused_token() -> None:
    """One login with the password that is remembered; if that is wrong, the next /connect asks for another."""
    chat = Chat()
    chat.session.begin("alice", "secret1")
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
    chat.front.secrets = ["secret2"]
    chat.session.connect()
    assert chat.client.calls[-1] == ("login", "alice", "secret2")


def test_connecting_when_there_is_no_need() -> None:
    """It says how things stand, and does nothing."""
    chat = Chat()
    chat.session.connect()
    chat.client.state = State.RECONNECTING
    chat.session.connect()
    assert chat.said() == ["you are connected", "still trying to connect"]
    assert chat.client.calls == []


def test_presence() -> None:
    """A quiet line where one talks with that friend, once; the list of friends knows it."""
    chat = Chat()
    chat.receive("bob", "hello")
    for online in (True, True, False):
        chat.system("presence", friend="bob", online=online)
    chat.system("presence", friend="carol", online=True)
    assert chat.said(chat.model[Peer("bob")]) == ["hello", "bob is online", "bob is offline"]
    assert chat.model.friends == {"bob": False, "carol": True}
    assert Peer("carol") not in chat.model.conversations
    assert chat.model[Peer("bob")].unread == 1


def test_changes_of_a_group() -> None:
    """Whoever is taken in sees a new conversation; who comes and goes is said there."""
    chat = Chat()
    team = Peer("team", True)
    for members in (("bob", "alice"), ("bob", "alice", "carol", "dave"), ("bob", "alice", "dave"), ("bob", "dave")):
        chat.system("group_changed", group="team", members=members)
    assert chat.said(chat.model[team]) == [
        "you are in #team with bob",
        "carol, dave joined",
        "carol left",
        "you are no longer in #team",
    ]
    assert chat.model.groups == {}
    assert chat.model[team].unread == 1


def test_the_end_of_a_group() -> None:
    """It is said there, and the group is not offered any more."""
    chat = Chat()
    chat.model.groups = {"team": ("bob", "alice")}
    chat.receive("bob", "bye", group="team")
    chat.system("group_disbanded", group="team")
    assert chat.said(chat.model[Peer("team", True)]) == ["bye", "#team was disbanded"]
    assert chat.model.groups == {}


def test_events_of_a_later_server() -> None:
    """What is not known is passed over."""
    chat = Chat()
    chat.system("typing", friend="bob")
    chat.system("shutdown")
    assert chat.said() == ["the server is going down"]


def test_the_mailbox_keeps_the_order() -> None:
    """Jobs from another thread wait until somebody is there, and are done in their order."""
    mailbox, done = Mailbox(), list[int]()

    def post_all() -> None:
        for number in range(100):
            mailbox.post(partial(done.append, number))

    thread = threading.Thread(target=post_all)
    thread.start()
    thread.join()
    assert done == []
    mailbox.run()
    assert done == list(range(100))


# --- what was said before -----------------------------------------------------------------------------------


def page(*messages: tuple[int, str, str], more: bool = False) -> History:
    """A page of messages, each its number, who wrote it and what."""
    return History(tuple(PastMessage(sender, "", text, MS, id) for id, sender, text in messages), more)


def test_reading_back() -> None:
    """The page before the oldest line that has a number; one's own lines as one's own; until there is nothing."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    talk = chat.model.current
    chat.receive("bob", "now", id=9)
    chat.session.read_back(talk, 2)
    chat.session.read_back(talk)  # it is under way
    assert chat.client.calls == [("history", "bob", {"before": None, "limit": 50})]
    chat.client.answer(page((7, "alice", "hi"), (8, "bob", "hello"), (9, "bob", "now"), more=True))
    assert chat.said() == ["hi", "hello", "now"]
    assert [line.kind for line in talk.lines] == [Kind.OURS, Kind.THEIRS, Kind.THEIRS]
    assert (talk.lines[0].at, talk.unread, talk.older) == (NOW, 0, Older.PERHAPS)
    chat.session.read_back(talk, 10)
    assert chat.client.calls[-1] == ("history", "bob", {"before": 7, "limit": 50})
    chat.client.answer(page())
    assert talk.older is Older.NOTHING
    chat.session.read_back(talk)
    assert len(chat.client.calls) == 2


def test_reading_back_what_is_here_already() -> None:
    """A page of nothing but one's own lines is not the end: the one before it is asked for."""
    chat = Chat()
    chat.session.show(Peer("team", True))
    talk = chat.model.current
    chat.session.send(talk, "one")
    chat.client.answer()
    chat.session.read_back(talk)
    chat.client.answer(page((5, "alice", "one"), more=True))
    assert chat.client.calls[1:] == [
        ("group_history", "team", {"before": None, "limit": 50}),
        ("group_history", "team", {"before": 5, "limit": 50}),
    ]
    chat.client.answer(page((4, "bob", "before")))
    assert chat.said() == ["before", "one"]
    chat.receive("carol", "again", group="team", id=4)
    assert chat.said() == ["before", "one"]


def test_reading_back_in_vain() -> None:
    """Without a connection it can be tried again; a server without history is not asked twice."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    talk = chat.model.current
    chat.session.read_back(talk)
    chat.client.refuse(ConnectionLost("", sent=False))
    assert (chat.said(), talk.was_read_back, talk.why_failed) == ([], False, "not connected")
    chat.session.read_back(talk, was_asked=True)
    chat.client.refuse(ConnectionLost("", sent=False))
    assert chat.said() == ["/history: not connected"]
    chat.session.read_back(talk, was_asked=True)
    chat.client.refuse("unknown_type")
    assert chat.said()[1:] == ["this server cannot say what was said before"]
    assert talk.older is Older.UNAVAILABLE


def test_reading_back_an_empty_page() -> None:
    """It is the end, whatever the server says of more."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    chat.session.read_back(chat.model.current)
    chat.client.answer(page(more=True))
    assert (chat.model.current.older, len(chat.client.calls)) == (Older.NOTHING, 1)


def test_a_failure_after_the_message_was_read_back() -> None:
    """It is stored, whatever became of the answer."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    talk = chat.model.current
    chat.session.send(talk, "mine")
    talk.add_older([chat.session._past(PastMessage("alice", "bob", "mine", MS, 5))], 9)
    chat.client.refuse(RequestTimeout())
    assert [(line.id, line.mark) for line in talk.lines] == [(5, Mark.NONE)]


def test_what_was_told_elsewhere() -> None:
    """After another login the conversation that is shown is read anew at once, the others when one comes to them."""
    chat = Chat()
    chat.session.begin("alice", "pw")
    chat.client.answer({})
    chat.client.answer({})
    for name in ("carol", "bob"):
        chat.session.show(Peer(name))
        chat.session.read_back(chat.model.current)
        chat.client.answer(page((1, name, "first")))
    chat.connection(State.OFFLINE, Reason.TAKEN_OVER)
    chat.session.connect()
    chat.client.state = State.ONLINE
    chat.client.answer()
    chat.client.answer({})
    chat.client.answer({})
    assert chat.client.calls[-1] == ("history", "bob", {"before": None, "limit": 50})
    chat.client.answer(page((3, "bob", "missed"), (4, "alice", "from elsewhere"), more=True))
    assert chat.client.calls[-1] == ("history", "bob", {"before": 3, "limit": 50})
    chat.client.answer(page((1, "bob", "first"), (2, "bob", "missed too")))
    chat.client.answer(page())
    said = [text for text in chat.said() if "connect" not in text]
    assert said == ["first", "missed too", "missed", "from elsewhere"]
    assert [each.was_read_back for each in chat.model][1:] == [False, True]


def test_reading_back_while_what_is_here_is_forgotten() -> None:
    """A page goes on where the oldest line was: when that has made room for a new one, there would be a gap."""
    chat = Chat()
    chat.session.show(Peer("bob"))
    talk = chat.model.current
    chat.receive("bob", "x" * (MAX_CHARACTERS // 2), id=10)
    chat.receive("bob", "y", id=11)
    chat.session.read_back(talk)
    chat.receive("bob", "z" * (MAX_CHARACTERS // 2), id=12)
    chat.client.answer(page((9, "bob", "before")))
    assert ([line.id for line in talk.lines], talk.older) == ([11, 12], Older.NOT_KEPT)
