"""The state of the chat: conversations, their lines, unread counts, friends and groups.

It has no network, no user interface, no threads and no clock. `session` updates it, `screen` and
`plain` show it. Only the thread of the user interface uses it.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from jelly.chat.cells import sanitize, text_width

MAX_LINES = 2000
MAX_CHARACTERS = 2_000_000
"""At most this much of each conversation stays in memory. The oldest lines are dropped first."""


class Peer(NamedTuple):
    """The other end of a conversation: a person or a group (as Telegram uses the word).

    People write it `bob` or `#team`. The name of a person that begins with # or @ gets an @ before
    it, so that no person's name looks like a group.
    """

    name: str
    is_group: bool = False

    def __str__(self) -> str:
        if self.is_group:
            return f"#{self.name}"
        return f"@{self.name}" if self.name.startswith(("#", "@")) else self.name

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Return the peer that is written like this."""
        return cls(text.removeprefix("@")) if not text.startswith("#") else cls(text[1:], True)


class LineKind(Enum):
    """Where a line comes from: a sent message, a received one, or the chat itself."""

    OUTGOING = "outgoing"
    INCOMING = "incoming"
    INFO = "info"
    ERROR = "error"


class DeliveryStatus(Enum):
    """How far an outgoing message has got. The value is the mark that the user sees.

    NONE: stored, or not an outgoing message. FAILED: certainly not stored. UNKNOWN: perhaps stored.
    """

    NONE = ""
    PENDING = "…"
    FAILED = "✗"
    UNKNOWN = "?"


UNDELIVERED = (DeliveryStatus.FAILED, DeliveryStatus.UNKNOWN)


class HistoryState(Enum):
    """What is known about the messages above the oldest line of a conversation."""

    MAYBE_MORE = "there may be older messages"
    LOADING = "a page of older messages was requested"
    COMPLETE = "there are no older messages"
    TRUNCATED = "older lines were dropped from memory"
    UNSUPPORTED = "the server has no history"
    FAILED = "the last request failed; there may be older messages"


LOADABLE = (HistoryState.MAYBE_MORE, HistoryState.FAILED)
"""The states in which older messages can be requested."""


@dataclass(eq=False)
class Line:
    """One message, or one text of the chat itself.

    `text` is not sanitized: do so before showing it.
    """

    kind: LineKind
    at: datetime
    text: str
    sender: str = ""
    status: DeliveryStatus = DeliveryStatus.NONE
    reason: str = ""
    """Why the message is not, or perhaps not, delivered: a sentence for the user."""
    can_resend_help: bool = True
    """Of such a message: whether the server may accept it later."""
    id: int | None = None
    """The message's id on the server. Messages that arrive or come from the history have one."""
    request_id: str = ""
    """Of an outgoing message that was written here: its idempotency key. With it, the server stores
    the message once, however often it is sent."""
    is_mention: bool = False
    """Whether it is a message to a group with the user's name in it."""
    came: bool | None = None
    """Of a text of the chat: that a friend came online (True) or went (False)."""
    note: str = ""
    """What is shown behind the text: that the message was edited or recalled."""
    sent_at: int = 0
    """Of an outgoing message: its `time` on the server, once it is stored."""

    @property
    def shown(self) -> str:
        """The text with the note."""
        return f"{self.text} {self.note}".strip() if self.note else self.text

    @property
    def may_be_stored(self) -> bool:
        """Whether this is an outgoing message that the server has, or may have."""
        return self.kind is LineKind.OUTGOING and self.status is not DeliveryStatus.FAILED


def _is_same_message(line: Line, past: Line) -> bool:
    """Return whether `past`, from the history, is the outgoing message `line`.

    If no answer has said when the message was sent, a difference of less than one second is
    allowed.
    """
    if past.kind is not LineKind.OUTGOING or line.text != past.text:
        return False
    return line.sent_at == past.sent_at if line.sent_at else abs(line.at - past.at) < timedelta(seconds=1)


class Gap(NamedTuple):
    """Messages that may be missing, because another client received them before the last login.

    When the loaded pages reach an id below `end`, the gap is closed: loading continues with the
    messages before `resume_before`.
    """

    end: int
    resume_before: int


@dataclass(eq=False)
class Conversation:
    """The lines exchanged with one peer.

    Without a peer: the first screen, with texts of the chat.
    """

    peer: Peer | None
    lines: deque[Line] = field(default_factory=deque)
    unread: int = 0
    mentions: int = 0
    """How many of the unread lines have the user's name."""
    newest_id: int = 0
    """The id of the newest message that is known, here or on the server."""
    read_id: int = 0
    """The id up to which the server knows that the user has read."""
    first_unread: Line | None = None
    """The first unread line when the conversation was opened. None once the user leaves it."""
    typing: dict[str, datetime] = field(default_factory=dict)
    """Who is typing a message, and until when that is shown."""
    draft: str = ""
    """What the user has typed here but not sent, while another conversation is open."""
    name_width: int = 2
    """How many terminal cells the widest name takes."""
    character_count: int = 0
    history_state: HistoryState = HistoryState.MAYBE_MORE
    is_history_requested: bool = False
    """Whether older messages have been requested since the last login."""
    history_error: str = ""
    """Why older messages could not be loaded, for the user."""
    history_cursor: int | None = None
    """The next page holds messages with ids below this one. None: the newest messages."""
    gap: Gap | None = None
    """A gap above the messages that were here before the last login, or None. See `Gap`."""
    below: deque[int] = field(default_factory=deque)
    """The ids of later messages that are not in `lines`, because the user has gone so far back."""
    held: list[Line] = field(default_factory=list)
    """Other lines that belong below those: texts of the chat, messages that have no id yet."""

    @property
    def title(self) -> str:
        """The name of the conversation, sanitized."""
        return sanitize(str(self.peer)) if self.peer else "*"

    def add(self, line: Line) -> Line:
        """Append a line. Drop the oldest lines if the conversation is full."""
        if not self.below:
            self._append(line)
        elif line.id is None:
            self.held.append(line)
        else:
            self.below.append(line.id)
        return line

    def _append(self, line: Line) -> None:
        self.lines.append(line)
        self._track_size(line)
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self.is_full and len(self.lines) > 1:
            line = self.lines.popleft()
            self.character_count -= len(line.text)
            if line.id is not None and self.history_state is not HistoryState.UNSUPPORTED:
                self._load_from(line.id + 1)
            elif line.kind in (LineKind.INCOMING, LineKind.OUTGOING):
                self.history_state = HistoryState.TRUNCATED

    def _load_from(self, id: int) -> None:
        """Have the next page begin with the messages before this id, which were dropped."""
        if self.gap is None or id > self.gap.end:
            self.history_cursor, self.history_state = id, HistoryState.MAYBE_MORE
        elif any(line.id is not None and line.id < self.gap.end for line in self.lines):
            self.gap = Gap(self.gap.end, id)
        else:
            self.gap = None

    def _drop_newest(self) -> None:
        while self.is_full and len(self.lines) > 1:
            line = self.lines.pop()
            self.character_count -= len(line.text)
            if line.id is None:
                self.held.insert(0, line)
            else:
                self.below.appendleft(line.id)

    def add_later(self, lines: Iterable[Line], last: int) -> None:
        """Append a page of later messages, oldest first: all that there are up to the id `last`.

        Drop the oldest lines if the conversation is full.
        """
        newest = self.newest_line_id
        for line in lines:
            if newest < (line.id or 0) <= last:
                self._append(line)
        while self.below and self.below[0] <= last:
            self.below.popleft()
        if not self.below:
            held, self.held = self.held, []
            known = {line.id for line in self.lines if line.id is not None}
            for line in held:
                if line.id not in known:
                    self._append(line)

    def return_to_end(self) -> None:
        """Forget what is loaded, so that loading begins with the newest message again."""
        self.lines, self.held = deque(line for line in self.held if line.id is None), []
        self.below.clear()
        self.character_count = sum(len(line.text) for line in self.lines)
        self.history_cursor, self.gap, self.is_history_requested = None, None, False
        self.history_state = HistoryState.MAYBE_MORE

    def add_history(self, lines: Iterable[Line], wanted: int) -> list[Line]:
        """Insert a page of the history, sorted by id; return the lines that were new, oldest first.

        The page comes newest first. Stop after `wanted` new lines, unless there is a gap to close.
        What goes above the oldest line of a full conversation drops the newest ones.
        """
        known = {line.id for line in self.lines}
        without_id = [line for line in self.lines if line.may_be_stored and line.id is None]
        added: list[Line] = []
        for line in lines:
            if len(added) >= wanted and not self.gap:
                self.history_state = HistoryState.MAYBE_MORE
                break
            if line.id in known:
                pass
            elif same := next((each for each in without_id if _is_same_message(each, line)), None):
                without_id.remove(same)  # written here: now its id is known, and that it is stored
                same.id, same.status, same.reason = line.id, DeliveryStatus.NONE, ""
            else:
                position = self._insert_position(line)
                self.lines.insert(position, line)
                self._track_size(line)
                added.append(line)
                if not position:
                    self._drop_newest()
            self.history_cursor = line.id
            if self._closes_gap(line):
                break
        self._drop_oldest()
        return added[::-1]

    def _closes_gap(self, line: Line) -> bool:
        """Return whether `line` closes the gap. If so, the next page continues above it."""
        assert line.id is not None
        if self.gap is None or line.id >= self.gap.end:
            return False
        self.history_cursor = min(line.id, self.gap.resume_before)
        self.gap = None
        self.history_state = HistoryState.MAYBE_MORE
        return True

    def _insert_position(self, line: Line) -> int:
        """Return the index before the first line with a greater id.

        If there is none: the end, or the top if no line has an id.
        """
        assert line.id is not None
        numbered = [(position, each.id) for position, each in enumerate(self.lines) if each.id is not None]
        return next((position for position, id in numbered if id > line.id), len(self.lines) if numbered else 0)

    def message(self, id: int) -> Line | None:
        """Return the message with this id; None if it is not here."""
        return next((line for line in reversed(self.lines) if line.id == id), None)

    @property
    def newest_line_id(self) -> int:
        """The greatest id of a message here; 0 if there is none."""
        return max((line.id for line in self.lines if line.id is not None), default=0)

    def last_own_message(self) -> Line | None:
        """Return the last message that the user has written here and that the server has, unless it
        was recalled; None if there is none.
        """
        own = (line for line in reversed(self.lines) if line.kind is LineKind.OUTGOING and line.id is not None)
        return next((line for line in own if line.text), None)

    def edit(self, line: Line, text: str, note: str) -> None:
        """Give a message another text."""
        self.character_count += len(text) - len(line.text)
        line.text, line.note = text, note

    def received_after(self, id: int) -> int:
        """Return how many incoming messages here have a greater id."""
        return sum(line.kind is LineKind.INCOMING and (line.id or 0) > id for line in self.lines)

    def first_received_after(self, id: int) -> Line | None:
        """Return the first of them, None if there is none."""
        return next((line for line in self.lines if line.kind is LineKind.INCOMING and (line.id or 0) > id), None)

    def clear(self) -> None:
        """Remove the lines, except what is not confirmed. Loading begins with what was here."""
        newest = max([self.newest_line_id, *self.below])
        self.lines = deque(each for each in (*self.lines, *self.held) if each.status is not DeliveryStatus.NONE)
        self.held, self.first_unread, self.gap = [], None, None
        self.below.clear()
        self.character_count = sum(len(line.text) for line in self.lines)
        self.is_history_requested = True
        if newest and self.history_state is not HistoryState.UNSUPPORTED:
            self.history_cursor, self.history_state = newest + 1, HistoryState.MAYBE_MORE

    def restart_history(self) -> None:
        """After a new login, load the history from the newest message again.

        Another client may have received messages in between. They form a gap above the older lines.
        """
        if self.below:
            self.return_to_end()
        newest = max((line.id for line in self.lines if line.id is not None), default=None)
        if self.gap is None and newest is not None:
            self.gap = Gap(newest + 1, self.history_cursor or newest + 1)
        self.history_cursor, self.is_history_requested = None, False
        if self.history_state is not HistoryState.UNSUPPORTED:
            self.history_state = HistoryState.MAYBE_MORE

    def has_message(self, id: int | None) -> bool:
        """Return whether the message with this id is here.

        Ids grow from line to line, so the search from the end stops early.
        """
        if id is None:
            return False
        if id in self.below:
            return True
        return id == next((each.id for each in reversed(self.lines) if each.id is not None and each.id <= id), None)

    @property
    def is_full(self) -> bool:
        """Whether there are more lines or characters than may stay in memory."""
        return len(self.lines) > MAX_LINES or self.character_count > MAX_CHARACTERS

    def _track_size(self, line: Line) -> None:
        self.name_width = max(self.name_width, text_width(sanitize(line.sender)))
        self.character_count += len(line.text)

    def move_to_end(self, line: Line) -> None:
        """Move a line to the end, or append it if it was dropped."""
        self.remove(line)
        self.add(line)

    def remove(self, line: Line) -> None:
        """Remove a line, unless it was dropped."""
        if line in self.lines:
            self.lines.remove(line)
            self.character_count -= len(line.text)
        elif line in self.held:
            self.held.remove(line)

    def undelivered(self) -> list[Line]:
        """Return the outgoing messages that failed or whose outcome is unknown."""
        return [line for line in (*self.lines, *self.held) if line.status in UNDELIVERED]

    def worth_resending(self) -> list[Line]:
        """Return the undelivered messages that the server may accept later."""
        return [line for line in self.undelivered() if line.can_resend_help]


class Model:
    """All conversations, and the one that is open.

    `home`, the first screen, always has number 0.
    """

    def __init__(self) -> None:
        self.home = Conversation(None)
        self.conversations: dict[Peer, Conversation] = {}
        self.closed: dict[Peer, int] = {}
        """The conversations that were closed, and the newest message that each had."""
        self.current = self.home
        self.friends: dict[str, bool] = {}
        self.requests: dict[str, None] = {}
        """Who asks to have the user on the friend list, in order."""
        self.invitations: dict[str, None] = {}
        """The groups to which the user is invited, in order."""
        self.blocked: set[str] = set()
        """Whom the user has blocked: their messages to groups are not shown."""
        """The friend list: for each name whether that friend is online."""
        self.groups: dict[str, tuple[str, ...]] = {}
        """The user's groups, and the members of each, the owner first."""
        self.role_changes: Counter[str] = Counter()
        """How often the server has told of a new role in a group."""

    def __iter__(self) -> Iterator[Conversation]:
        """Iterate over all conversations, by number."""
        yield self.home
        yield from self.conversations.values()

    def __getitem__(self, peer: Peer) -> Conversation:
        """Return the conversation with a peer. Create it if there is none."""
        return self.conversations.setdefault(peer, Conversation(peer))

    def open(self, conversation: Conversation) -> None:
        """Make a conversation the current one, and count its lines as read."""
        if conversation is not self.current:
            self.current.first_unread = None
            if self.current.below:
                self.current.return_to_end()
        self.current = conversation
        conversation.unread = conversation.mentions = 0

    @property
    def unread(self) -> int:
        """How many messages are unread in all conversations."""
        return sum(conversation.unread for conversation in self)

    def close(self, conversation: Conversation) -> None:
        """Forget a conversation, until something new comes in it, and open the first screen."""
        assert conversation.peer
        self.conversations.pop(conversation.peer, None)
        self.closed[conversation.peer] = max(conversation.newest_id, conversation.newest_line_id)
        self.open(self.home)

    def by_number(self, number: int) -> Conversation | None:
        """Return the conversation with this number, or None."""
        return dict(enumerate(self)).get(number)

    def neighbour(self, step: int) -> Conversation:
        """Return the conversation so many numbers further, wrapping around at the end."""
        everything = list(self)
        return everything[(everything.index(self.current) + step) % len(everything)]

    def next_unread(self) -> Conversation | None:
        """Return the next conversation with unread lines, wrapping around at the end, or None."""
        everything = list(self)
        at = everything.index(self.current)
        return next((each for each in everything[at + 1 :] + everything[:at] if each.unread), None)

    def add_received(self, conversation: Conversation, line: Line) -> bool:
        """Add an incoming message, and count it as unread unless its conversation is open.

        Return False if the message is here already: the history was loaded before it arrived.
        """
        if conversation.has_message(line.id):
            return False
        conversation.add(line)
        if line.id is None or line.id > conversation.read_id:  # else it was read on another device
            self.count_unread(conversation, line)
        return True

    def add_own(self, conversation: Conversation, line: Line) -> bool:
        """Add a message that the user has written on another device, or to himself or herself.

        Return False if it is here already.
        """
        if conversation.has_message(line.id):
            return False
        waiting = (each for each in conversation.lines if each.may_be_stored and each.id is None)
        same = next((each for each in waiting if each.text == line.text), None)
        if same and conversation.peer == Peer(line.sender):  # a note: the answer is still to come
            same.id, same.sent_at, same.status, same.reason = line.id, line.sent_at, DeliveryStatus.NONE, ""
            return False
        conversation.add(line)
        return True

    def was_read(self, conversation: Conversation, id: int) -> bool:
        """Note that the user has read a conversation up to a message, on another device.

        Return whether it is known what is unread then: not if a part of that is not here.
        """
        is_all_here = conversation.unread <= conversation.received_after(conversation.read_id)
        conversation.read_id = max(conversation.read_id, id)
        if not is_all_here and conversation.read_id < conversation.newest_id:
            return False
        conversation.unread = min(conversation.unread, conversation.received_after(conversation.read_id))
        conversation.mentions = min(conversation.mentions, conversation.unread)
        if conversation is not self.current:
            conversation.first_unread = conversation.first_received_after(conversation.read_id)
        return True

    def count_unread(self, conversation: Conversation, line: Line) -> None:
        """Count a line as unread, unless its conversation is open."""
        if conversation is self.current:
            return
        if not conversation.unread:
            conversation.first_unread = line
        conversation.unread += 1
        conversation.mentions += line.is_mention

    def known_people(self) -> list[str]:
        """Return the known names: friends, group members, and people with a conversation."""
        names = [*self.friends, *self.requests, *(name for members in self.groups.values() for name in members)]
        return list(dict.fromkeys([*names, *(peer.name for peer in self.conversations if not peer.is_group)]))
