"""Conversations, lines and unread counts."""

from collections import deque
from datetime import timedelta

import pytest
from fake_client import NOW

from jelly.chat.model import (
    MAX_CHARACTERS,
    MAX_LINES,
    Conversation,
    DeliveryStatus,
    HistoryState,
    Line,
    LineKind,
    Model,
    Peer,
)


def line(text: str = "hello", sender: str = "bob", status: DeliveryStatus = DeliveryStatus.NONE) -> Line:
    return Line(LineKind.INCOMING, NOW, text, sender, status)


@pytest.mark.parametrize(
    ("written", "peer"),
    [
        ("bob", Peer("bob")),
        ("#team", Peer("team", True)),
        ("##team", Peer("#team", True)),
        ("@#team", Peer("#team")),
        ("@@bob", Peer("@bob")),
        ("王小明", Peer("王小明")),
    ],
)
def test_how_peers_are_written(written: str, peer: Peer) -> None:
    """# always marks a group; a person's name that begins with # or @ gets an @ before it."""
    assert Peer.parse(written) == peer
    assert str(peer) == written


def test_unread() -> None:
    """Messages count as unread until their conversation is opened."""
    model = Model()
    bob, team = model[Peer("bob")], model[Peer("team", True)]
    model.open(bob)
    for conversation in (bob, team, team):
        model.add_received(conversation, line())
    assert (bob.unread, team.unread) == (0, 2)
    model.open(team)
    assert team.unread == 0


def test_where_the_unread_ones_begin() -> None:
    """The first unread line is remembered until another conversation is opened."""
    model = Model()
    bob = model[Peer("bob")]
    for text in ("one", "two"):
        model.add_received(bob, line(text))
    first = bob.lines[0]
    model.open(bob)
    model.add_received(bob, line("three"))
    assert bob.first_unread is first
    model.open(bob)
    assert bob.first_unread is first
    model.open(model.home)
    assert bob.first_unread is None


def test_numbers_and_the_next_unread() -> None:
    """Conversations keep their numbers, and `next_unread` wraps around."""
    model = Model()
    bob, carol, dave = (model[Peer(name)] for name in ("bob", "carol", "dave"))
    assert [model.by_number(number) for number in range(5)] == [model.home, bob, carol, dave, None]
    assert model.next_unread() is None
    model.open(carol)
    model.add_received(bob, line())
    assert model.next_unread() is bob
    model.add_received(dave, line())
    assert model.next_unread() is dave


def test_old_lines_are_forgotten() -> None:
    """The number of lines and characters is limited, but the last line is always kept."""
    conversation = Conversation(Peer("bob"))
    for number in range(MAX_LINES + 10):
        conversation.add(line(str(number)))
    assert len(conversation.lines) == MAX_LINES
    assert conversation.lines[0].text == "10"
    conversation.add(line("x" * MAX_CHARACTERS))
    assert len(conversation.lines) == 1
    assert conversation.character_count == MAX_CHARACTERS


def test_moving_a_line() -> None:
    """A resent line moves to the end, even if it was dropped meanwhile."""
    conversation = Conversation(Peer("bob"))
    first, second = conversation.add(line("1")), conversation.add(line("2"))
    conversation.move_to_end(first)
    assert list(conversation.lines) == [second, first]
    conversation.lines.clear()
    conversation.move_to_end(first)
    assert list(conversation.lines) == [first]


def test_undelivered() -> None:
    """Undelivered are failed and unknown messages, not pending ones."""
    conversation = Conversation(Peer("bob"))
    for status in DeliveryStatus:
        conversation.add(line(status=status))
    assert [each.status for each in conversation.undelivered()] == [DeliveryStatus.FAILED, DeliveryStatus.UNKNOWN]


def test_known_people() -> None:
    """Each known name appears once."""
    model = Model()
    model.friends, model.groups = {"bob": True}, {"team": ("carol", "bob")}
    assert model[Peer("dave")]
    assert model[Peer("team", True)]
    assert model.known_people() == ["bob", "carol", "dave"]


def past(id: int, text: str = "", sent_at: int = 0) -> Line:
    """Return a message from the history; an outgoing one if it has `sent_at`."""
    kind = LineKind.OUTGOING if sent_at else LineKind.INCOMING
    return Line(kind, NOW, text or str(id), "alice" if sent_at else "bob", id=id, sent_at=sent_at)


def test_older_lines() -> None:
    """Older lines go above the others, in order; a known message stays and gets its id."""
    talk = Conversation(Peer("bob"))
    talk.add(Line(LineKind.OUTGOING, NOW, "mine", "alice", sent_at=5))
    talk.add(Line(LineKind.INCOMING, NOW, "seven", "bob", id=7))
    page = [past(7, "seven"), past(6, "mine", sent_at=5), past(4, "mine", sent_at=3), past(3)]
    assert [line.id for line in talk.add_history(page, 9)] == [3, 4]
    assert [(line.id, line.text) for line in talk.lines] == [(3, "3"), (4, "mine"), (6, "mine"), (7, "seven")]
    assert talk.history_cursor == 3
    assert talk.add_history(page, 9) == []


def test_only_as_many_older_lines_as_are_wanted() -> None:
    """Known lines do not count, and the next page begins where this one stopped."""
    talk = Conversation(Peer("bob"), history_state=HistoryState.COMPLETE)
    talk.add(past(9))
    assert [line.id for line in talk.add_history([past(9), past(8), past(7), past(6)], 2)] == [7, 8]
    assert (talk.history_cursor, talk.history_state) == (7, HistoryState.MAYBE_MORE)


def test_an_outgoing_message_with_an_unknown_outcome() -> None:
    """A pending or unknown message in the history was stored; a failed one is another message."""
    talk = Conversation(Peer("bob"))
    statuses = (DeliveryStatus.UNKNOWN, DeliveryStatus.FAILED, DeliveryStatus.PENDING)
    for status in statuses:
        talk.add(
            Line(
                LineKind.OUTGOING, NOW + timedelta(milliseconds=300), f"mine {status.name}", "alice", status, "because"
            )
        )
    page = [past(3 + number, f"mine {status.name}", 5) for number, status in enumerate(statuses)]
    assert [line.text for line in talk.add_history(page, 9)] == ["mine FAILED"]
    assert [line.status for line in talk.lines if line.id and line.reason == ""] == [DeliveryStatus.NONE] * 3
    assert [line.status for line in talk.undelivered()] == [DeliveryStatus.FAILED]
    old = Line(LineKind.OUTGOING, NOW - timedelta(hours=1), "mine UNKNOWN", "alice", sent_at=4)
    old.id = 1
    talk.add(Line(LineKind.OUTGOING, NOW, "mine UNKNOWN", "alice", DeliveryStatus.UNKNOWN))
    assert talk.add_history([old], 9) == [old]


def test_after_another_login() -> None:
    """The gap is filled page by page; then loading continues above the older lines."""
    talk = Conversation(Peer("bob"))
    talk.add_history([past(9), past(8)], 9)
    talk.add(Line(LineKind.INFO, NOW, "connected"))
    talk.restart_history()
    talk.restart_history()
    assert (talk.history_cursor, talk.gap, talk.is_history_requested) == (None, (10, 8), False)
    assert len(talk.add_history([past(14), past(13)], 1)) == 2
    assert (talk.history_cursor, talk.gap) == (13, (10, 8))
    talk.history_state = HistoryState.COMPLETE
    assert len(talk.add_history([past(12), past(9), past(8)], 9)) == 1
    assert (talk.history_cursor, talk.gap, talk.history_state) == (8, None, HistoryState.MAYBE_MORE)
    assert [line.text for line in talk.lines] == ["8", "9", "connected", "12", "13", "14"]


def test_an_id_between_others() -> None:
    """An outgoing message is inserted among the incoming ones by its id."""
    talk = Conversation(Peer("bob"))
    for id in (5, 7):
        talk.add(past(id))
    talk.add_history([past(7), past(6, "ours", 5), past(5), past(4)], 9)
    assert [line.id for line in talk.lines] == [4, 5, 6, 7]


def full(first: int = 1000) -> Conversation:
    """A conversation that can take no more lines."""
    talk = Conversation(Peer("bob"))
    for number in range(MAX_LINES):
        talk.add(past(first + number))
    return talk


def test_new_lines_drop_the_oldest_ones() -> None:
    """The next page begins with what was dropped."""
    talk = full()
    talk.history_state = HistoryState.COMPLETE
    talk.add(past(5000))
    assert (talk.lines[0].id, talk.lines[-1].id, len(talk.lines)) == (1001, 5000, MAX_LINES)
    assert (talk.history_cursor, talk.history_state, talk.below) == (1001, HistoryState.MAYBE_MORE, deque())


def test_dropped_lines_that_nobody_has() -> None:
    """Without a history, and without ids, they cannot be loaded again."""
    talk = full()
    talk.history_state = HistoryState.UNSUPPORTED
    talk.add(past(5000))
    assert (talk.history_cursor, talk.history_state) == (None, HistoryState.TRUNCATED)
    talk = Conversation(Peer("bob"))
    for _ in range(MAX_LINES + 1):
        talk.add(line())
    assert talk.history_state is HistoryState.TRUNCATED


def test_older_lines_drop_the_newest_ones() -> None:
    """They come back page by page, with what has come meanwhile; then the oldest ones go."""
    talk = full()
    info = talk.add(Line(LineKind.INFO, NOW, "connected"))
    assert len(talk.add_history([past(id) for id in range(1000, 949, -1)], 51)) == 51
    newest = 1000 + MAX_LINES - 1
    assert (talk.lines[0].id, talk.lines[-1].id, len(talk.lines)) == (950, newest - 50, MAX_LINES)
    assert (list(talk.below), talk.held) == ([*range(newest - 49, newest + 1)], [info])
    talk.add(past(8000))
    note = talk.add(Line(LineKind.INFO, NOW, "disconnected"))
    failed = talk.add(line("mine", status=DeliveryStatus.FAILED))
    assert talk.lines[-1].id == newest - 50
    assert (talk.below[-1], talk.held, talk.undelivered()) == (8000, [info, note, failed], [failed])
    assert talk.has_message(8000)
    talk.add_later([past(id) for id in range(newest - 80, newest - 9)], newest - 10)
    assert (talk.lines[-1].id, len(talk.lines), talk.below[0]) == (newest - 10, MAX_LINES, newest - 9)
    talk.add_later([past(id) for id in (*range(newest - 9, newest + 1), 8000)], 8000)
    assert (talk.below, talk.held, [*talk.lines][-4].id) == (deque(), [], 8000)
    assert [*talk.lines][-3:] == [info, note, failed]
    assert talk.character_count == sum(len(each.text) for each in talk.lines)
    assert talk.history_cursor == (talk.lines[0].id or 0)


def test_returning_to_the_end() -> None:
    """All is loaded again, but what is nowhere else; opening another conversation does it, too."""
    for by_opening in (False, True):
        model = Model()
        talk = full()
        model.conversations[Peer("bob")] = talk
        model.open(talk)
        failed = talk.add(line("mine", status=DeliveryStatus.FAILED))
        talk.add_history([past(id) for id in range(1000, 949, -1)], 51)
        if by_opening:
            model.open(model.home)
        else:
            talk.return_to_end()
        assert (list(talk.lines), talk.below, talk.held) == ([failed], deque(), [])
        assert (talk.history_cursor, talk.is_history_requested) == (None, False)
        assert (talk.character_count, talk.history_state) == (4, HistoryState.MAYBE_MORE)


def test_older_lines_that_are_long() -> None:
    """The limit of characters applies, too."""
    talk = Conversation(Peer("bob"))
    talk.add(past(3, "x" * (MAX_CHARACTERS - 10)))
    assert [line.id for line in talk.add_history([past(2, "y" * 10), past(1, "z")], 9)] == [1, 2]
    assert ([line.id for line in talk.lines], list(talk.below)) == ([1, 2], [3])


def test_dropped_lines_around_a_gap() -> None:
    """The gap goes with the lines above it; until then loading goes on in it."""
    talk = full(1)
    talk.restart_history()
    talk.add_history([past(9000), past(8999)], 1)
    assert (talk.history_cursor, talk.gap) == (8999, (MAX_LINES + 1, 3))
    for id in range(9001, 9001 + MAX_LINES - 3):
        talk.add(past(id))
    assert (talk.lines[0].id, talk.history_cursor, talk.gap) == (MAX_LINES, 8999, (MAX_LINES + 1, MAX_LINES))
    talk.add(past(20000))
    assert (talk.lines[0].id, talk.history_cursor, talk.gap) == (8999, 8999, None)
    talk.add(past(20001))
    assert (talk.lines[0].id, talk.history_cursor) == (9000, 9000)


def test_a_message_in_the_history_before_it_arrives() -> None:
    """A message that is here already is not added; a smaller id alone does not make it known."""
    model = Model()
    talk = model[Peer("bob")]
    talk.add_history([past(10, "mine", sent_at=5), past(8)], 9)
    assert not model.add_received(talk, past(8))
    assert model.add_received(talk, past(9))
    assert [line.id for line in talk.lines] == [8, 10, 9]
    assert talk.unread == 1
