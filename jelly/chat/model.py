"""What the chat knows: conversations, their lines, what is unread, who is there.

No network, no user interface, no thread and no clock: `session` fills it, `screen` and `plain` show it. One thread
uses it, that of the user interface.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from jelly.chat.cells import sanitize, text_width

MAX_LINES = 2000
MAX_CHARACTERS = 2_000_000
"""What is kept of each conversation. Older lines are forgotten."""


class Peer(NamedTuple):
    """Who is at the other end: a person or a group.

    Written `bob` and `#team`. A person whose own name begins with # or @ gets an @ before it, so that nobody can pass
    for a group by his name.
    """

    name: str
    is_group: bool = False

    def __str__(self) -> str:
        if self.is_group:
            return f"#{self.name}"
        return f"@{self.name}" if self.name.startswith(("#", "@")) else self.name

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """The peer that is written so."""
        return cls(text.removeprefix("@")) if not text.startswith("#") else cls(text[1:], True)


class LineKind(Enum):
    """Whose words a line is."""

    OUTGOING = "outgoing"
    INCOMING = "incoming"
    INFO = "info"
    ERROR = "error"


class DeliveryStatus(Enum):
    """What became of a message of ours."""

    NONE = ""
    PENDING = "…"
    FAILED = "✗"
    UNKNOWN = "?"


UNDELIVERED = (DeliveryStatus.FAILED, DeliveryStatus.UNKNOWN)


class HistoryState(Enum):
    """What is above the oldest line of a conversation."""

    MAYBE_MORE = "perhaps more"
    LOADING = "being asked for"
    COMPLETE = "nothing"
    TRUNCATED = "more than is kept here"
    UNSUPPORTED = "this server does not tell"
    FAILED = "perhaps more: it was asked for in vain"


LOADABLE = (HistoryState.MAYBE_MORE, HistoryState.FAILED)
"""What there is to ask for."""


@dataclass(eq=False)
class Line:
    """One message, or something that the chat says. `text` is as it was written: whoever shows it cleans it."""

    kind: LineKind
    at: datetime
    text: str
    sender: str = ""
    status: DeliveryStatus = DeliveryStatus.NONE
    reason: str = ""
    """Why it is marked, for a person."""
    id: int | None = None
    """The message's number at the server, where it is known: of what arrives, and of what was read back."""
    sent_at: int = 0
    """Of a message of ours: its `time` at the server, once it is stored."""

    @property
    def may_be_stored(self) -> bool:
        """Whether it is a message of ours that the server has, or may have."""
        return self.kind is LineKind.OUTGOING and self.status is not DeliveryStatus.FAILED


def _is_same(line: Line, past: Line) -> bool:
    """Whether a message of ours, as it was read back, is a line that was written here.

    Where no answer told when it was sent, it was at the time of the line, or in the same second.
    """
    if past.kind is not LineKind.OUTGOING or line.text != past.text:
        return False
    return line.sent_at == past.sent_at if line.sent_at else abs(line.at - past.at) < timedelta(seconds=1)


@dataclass(eq=False)
class Conversation:
    """Lines with one peer; or, without a peer, what belongs to nobody: the first screen."""

    peer: Peer | None
    lines: deque[Line] = field(default_factory=deque)
    unread: int = 0
    first_unread: Line | None = None
    """The first line that was unread, until one turns away from it again."""
    draft: str = ""
    """What was typed here and not sent, while another conversation is shown."""
    name_width: int = 2
    """Cells that the widest name in it takes."""
    character_count: int = 0
    history_state: HistoryState = HistoryState.MAYBE_MORE
    is_history_requested: bool = False
    """Whether older lines were asked for, since one can see it."""
    history_error: str = ""
    """Why older lines could not be read, for a person."""
    history_cursor: int | None = None
    """The next page has messages with numbers smaller than this; None: the newest ones."""
    gap: tuple[int, int] | None = None
    """Since another login: the number below which everything is here, and the one before which to go on then."""

    @property
    def title(self) -> str:
        """Its name, as it may be shown."""
        return sanitize(str(self.peer)) if self.peer else "*"

    def add(self, line: Line) -> Line:
        """Put a line at the end; the oldest ones make room for it."""
        self.lines.append(line)
        self._measure(line)
        self._drop_oldest()
        return line

    def _drop_oldest(self) -> None:
        while self.is_full and len(self.lines) > 1:
            self.character_count -= len(self.lines.popleft().text)
            self.history_state = HistoryState.TRUNCATED

    def add_history(self, lines: Iterable[Line], wanted: int) -> list[Line]:
        """Put the lines of a page where their numbers belong, mostly on top, until so many are new; return those.

        They come newest first. When the conversation is full there is no room on top of it: the new ones count.
        """
        known = {line.id for line in self.lines}
        ours = [line for line in self.lines if line.may_be_stored and line.id is None]
        added: list[Line] = []
        for line in lines:
            if len(added) >= wanted and not self.gap:
                self.history_state = HistoryState.MAYBE_MORE
                break
            if line.id in known:
                pass
            elif same := next((each for each in ours if _is_same(each, line)), None):
                ours.remove(same)  # written since the chat began: now it has its number, and is known to be stored
                same.id, same.status, same.reason = line.id, DeliveryStatus.NONE, ""
            else:
                position = self._insert_position(line)
                if not position and not self._has_room_above(line):
                    self.history_state = HistoryState.TRUNCATED
                    break
                self.lines.insert(position, line)
                self._measure(line)
                added.append(line)
            self.history_cursor = line.id
            if self._closes_gap(line):
                break
        self._drop_oldest()
        return added[::-1]

    def _has_room_above(self, line: Line) -> bool:
        """Not where lines were dropped: not even for a small one, since they would lack between it and the rest."""
        is_full = len(self.lines) >= MAX_LINES or self.character_count + len(line.text) > MAX_CHARACTERS
        return self.history_state is not HistoryState.TRUNCATED and not is_full

    def _closes_gap(self, line: Line) -> bool:
        """Whether pages have come to what was here before another login; then they go on where they had ended."""
        assert line.id is not None
        if self.gap is None or line.id >= self.gap[0]:
            return False
        self.history_cursor, self.gap, self.history_state = min(line.id, self.gap[1]), None, HistoryState.MAYBE_MORE
        return True

    def _insert_position(self, line: Line) -> int:
        """Before the first line with a greater number; if there is none, after those with smaller ones, else on top."""
        assert line.id is not None
        numbered = [(position, each.id) for position, each in enumerate(self.lines) if each.id is not None]
        return next((position for position, id in numbered if id > line.id), len(self.lines) if numbered else 0)

    def restart_history(self) -> None:
        """There was another login: what went on meanwhile was told elsewhere, so pages begin with the newest again."""
        newest = max((line.id for line in self.lines if line.id is not None), default=None)
        if self.gap is None and newest is not None:
            self.gap = newest + 1, self.history_cursor or newest + 1
        self.history_cursor, self.is_history_requested = None, False
        if self.history_state is not HistoryState.UNSUPPORTED:
            self.history_state = HistoryState.MAYBE_MORE

    def has_message(self, id: int | None) -> bool:
        """Whether a message of this number is here. (Numbers grow from line to line, so the last few tell.)"""
        if id is None:
            return False
        return id == next((each.id for each in reversed(self.lines) if each.id is not None and each.id <= id), None)

    @property
    def is_full(self) -> bool:
        """Whether there is more than is kept."""
        return len(self.lines) > MAX_LINES or self.character_count > MAX_CHARACTERS

    def _measure(self, line: Line) -> None:
        self.name_width = max(self.name_width, text_width(sanitize(line.sender)))
        self.character_count += len(line.text)

    def move_to_end(self, line: Line) -> None:
        """Put a line at the end that may already stand somewhere."""
        if line in self.lines:
            self.lines.remove(line)
            self.character_count -= len(line.text)
        self.add(line)

    def undelivered(self) -> list[Line]:
        """Our messages that failed, or that nobody knows about."""
        return [line for line in self.lines if line.status in UNDELIVERED]


class Model:
    """All conversations, and the one that is shown. `home` is always there, as number 0."""

    def __init__(self) -> None:
        self.home = Conversation(None)
        self.conversations: dict[Peer, Conversation] = {}
        self.current = self.home
        self.friends: dict[str, bool] = {}
        """Who is on the list, and whether online, as far as the server said."""
        self.groups: dict[str, tuple[str, ...]] = {}
        """The groups that one is in, and their members, the creator first."""

    def __iter__(self) -> Iterator[Conversation]:
        """All of them by number."""
        yield self.home
        yield from self.conversations.values()

    def __getitem__(self, peer: Peer) -> Conversation:
        """The conversation with somebody; it begins here if there was none."""
        return self.conversations.setdefault(peer, Conversation(peer))

    def open(self, conversation: Conversation) -> None:
        """Turn to a conversation: what it holds is read."""
        if conversation is not self.current:
            self.current.first_unread = None
        self.current = conversation
        conversation.unread = 0

    def by_number(self, number: int) -> Conversation | None:
        """The conversation of a number, None if there is none."""
        return dict(enumerate(self)).get(number)

    def next_unread(self) -> Conversation | None:
        """The next conversation after the current one, going round, in which something is unread."""
        everything = list(self)
        at = everything.index(self.current)
        return next((each for each in everything[at + 1 :] + everything[:at] if each.unread), None)

    def add_received(self, conversation: Conversation, line: Line) -> bool:
        """Put a message into its conversation; it is unread unless that is the one shown.

        False if it is there already: it was read back before it arrived.
        """
        if conversation.has_message(line.id):
            return False
        conversation.add(line)
        self.count_unread(conversation, line)
        return True

    def count_unread(self, conversation: Conversation, line: Line) -> None:
        """Count a line of a conversation as unread, unless that is the one shown."""
        if conversation is self.current:
            return
        if not conversation.unread:
            conversation.first_unread = line
        conversation.unread += 1

    def undelivered_count(self) -> int:
        """How many messages of ours are marked, in all conversations."""
        return sum(len(conversation.undelivered()) for conversation in self)

    def known_people(self) -> list[str]:
        """Everybody whose name is known: friends, members of groups, those one talks with."""
        names = [*self.friends, *(name for members in self.groups.values() for name in members)]
        return list(dict.fromkeys([*names, *(peer.name for peer in self.conversations if not peer.is_group)]))
