"""Older messages in the chat: pages, and what is known already."""

from fake_client import MS, NOW, Chat

from client_api import ConnectionLost, History, PastMessage, Reason, RequestTimeout, State
from jelly.chat.model import MAX_CHARACTERS, DeliveryStatus, HistoryState, LineKind, Peer


def page(*messages: tuple[int, str, str], more: bool = False) -> History:
    """Return a page of messages, each given as id, sender and text."""
    return History(tuple(PastMessage(sender, "", text, MS, id) for id, sender, text in messages), more)


def test_loading_history() -> None:
    """Each page continues before the oldest id, until the history is complete."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    talk = chat.model.current
    chat.receive("bob", "now", id=9)
    chat.session.load_history(talk, 2)
    chat.session.load_history(talk)  # ignored: a page is being loaded
    assert chat.client.calls == [("history", "bob", {"before": None, "limit": 50})]
    chat.client.answer(page((7, "alice", "hi"), (8, "bob", "hello"), (9, "bob", "now"), more=True))
    assert chat.said() == ["hi", "hello", "now"]
    assert [line.kind for line in talk.lines] == [LineKind.OUTGOING, LineKind.INCOMING, LineKind.INCOMING]
    assert (talk.lines[0].at, talk.unread, talk.history_state) == (NOW, 0, HistoryState.MAYBE_MORE)
    chat.session.load_history(talk, 10)
    assert chat.client.calls[-1] == ("history", "bob", {"before": 7, "limit": 50})
    chat.client.answer(page())
    assert talk.history_state is HistoryState.COMPLETE
    chat.session.load_history(talk)
    assert len(chat.client.calls) == 2


def test_loading_known_messages() -> None:
    """If a page has only known lines, the next one is requested."""
    chat = Chat()
    chat.session.open(Peer("team", True))
    talk = chat.model.current
    chat.session.send(talk, "one")
    chat.client.answer()
    chat.session.load_history(talk)
    chat.client.answer(page((5, "alice", "one"), more=True))
    assert chat.client.calls[1:] == [
        ("group_history", "team", {"before": None, "limit": 50}),
        ("group_history", "team", {"before": 5, "limit": 50}),
    ]
    chat.client.answer(page((4, "bob", "before")))
    assert chat.said() == ["before", "one"]
    chat.receive("carol", "again", group="team", id=4)
    assert chat.said() == ["before", "one"]


def test_loading_history_fails() -> None:
    """A failed request can be repeated; a server without history is not asked again."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    talk = chat.model.current
    chat.session.load_history(talk)
    chat.client.refuse(ConnectionLost("", sent=False))
    assert (chat.said(), talk.is_history_requested, talk.history_error) == ([], False, "not connected")
    chat.session.load_history(talk, by_command=True)
    chat.client.refuse(ConnectionLost("", sent=False))
    assert chat.said() == ["/history: not connected"]
    chat.session.load_history(talk, by_command=True)
    chat.client.refuse("unknown_type")
    assert chat.said()[1:] == ["this server has no message history"]
    assert talk.history_state is HistoryState.UNSUPPORTED


def test_loading_an_empty_page() -> None:
    """An empty page is the end of the history, even if the server says that there is more."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    chat.session.load_history(chat.model.current)
    chat.client.answer(page(more=True))
    assert (chat.model.current.history_state, len(chat.client.calls)) == (HistoryState.COMPLETE, 1)


def test_a_failure_after_the_message_is_in_the_history() -> None:
    """A message that is in the history was stored, even if its request failed."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    talk = chat.model.current
    chat.session.send(talk, "mine")
    talk.add_history([chat.session._line_from_history(PastMessage("alice", "bob", "mine", MS, 5))], 9)
    chat.client.refuse(RequestTimeout())
    assert [(line.id, line.status) for line in talk.lines] == [(5, DeliveryStatus.NONE)]


def test_messages_of_another_session() -> None:
    """After a new login the current conversation is loaded at once, the others when opened."""
    chat = Chat()
    chat.session.start("alice", "pw")
    chat.client.answer({})
    chat.client.answer({})
    for name in ("carol", "bob"):
        chat.session.open(Peer(name))
        chat.session.load_history(chat.model.current)
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
    assert [each.is_history_requested for each in chat.model][1:] == [False, True]


def test_loading_while_old_lines_are_dropped() -> None:
    """A page does not fit any more if the line below it was dropped meanwhile."""
    chat = Chat()
    chat.session.open(Peer("bob"))
    talk = chat.model.current
    chat.receive("bob", "x" * (MAX_CHARACTERS // 2), id=10)
    chat.receive("bob", "y", id=11)
    chat.session.load_history(talk)
    chat.receive("bob", "z" * (MAX_CHARACTERS // 2), id=12)
    chat.client.answer(page((9, "bob", "before")))
    assert ([line.id for line in talk.lines], talk.history_state) == ([11, 12], HistoryState.MAYBE_MORE)
    chat.session.load_history(talk, by_command=True)
    chat.receive("bob", "z" * (MAX_CHARACTERS // 2), id=13)
    chat.client.answer(page((10, "bob", "before")))
    assert chat.client.calls[-1] == ("history", "bob", {"before": 12, "limit": 50})  # the page is loaded that fits
