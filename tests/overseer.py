"""The overseer of a simulation: it sees everything that happens, and says when something must not.

It learns what is in the database from triggers, what the server says from the transports, and what
reaches an application from the devices. From that it keeps its own, simple picture of what has to
be true, which shares no code with the server, and raises `Violation` where the two differ.
"""

import itertools
import json
import sqlite3
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jelly.codec import HEADER, Frame, Status, Type
from jelly.quotas import QuotaLimits
from jelly.requests import MESSAGES
from jelly.trusted_clock import stored_at

DAY = 86400.0
REPEAT_DAYS = 7
"""Days for which the protocol promises to remember a requestId."""

# Temporary triggers: they live in the connection, not in the schema.
TRIGGERS = """
CREATE TEMP TRIGGER sim1 AFTER INSERT ON main.messages WHEN new.replaces IS NULL
    BEGIN SELECT saw('stored', new.id, new.sender, new.receiver, new.content); END;
CREATE TEMP TRIGGER sim20 AFTER UPDATE OF content ON main.messages
    BEGIN SELECT saw('text', new.id, new.content, new.edited, ''); END;
CREATE TEMP TRIGGER sim21 AFTER INSERT ON main.messages WHEN new.replaces IS NOT NULL
    BEGIN SELECT saw('edit', new.id, new.sender, new.receiver, new.replaces); END;
CREATE TEMP TRIGGER sim2 AFTER DELETE ON main.messages BEGIN SELECT saw('dropped', old.id, '', '', ''); END;
CREATE TEMP TRIGGER sim3 AFTER INSERT ON main.inbox
    BEGIN SELECT saw('put', new.message_id, new.receiver, '', ''); END;
CREATE TEMP TRIGGER sim4 AFTER DELETE ON main.inbox
    BEGIN SELECT saw('taken', old.message_id, old.receiver, '', ''); END;
CREATE TEMP TRIGGER sim5 AFTER INSERT ON main.members
    BEGIN SELECT saw('joined', new.since, new.group_name, new.username, ''); END;
CREATE TEMP TRIGGER sim6 AFTER DELETE ON main.members
    BEGIN SELECT saw('left', 0, old.group_name, old.username, ''); END;
CREATE TEMP TRIGGER sim7 AFTER UPDATE ON main.members
    BEGIN SELECT saw('role', 0, new.group_name, new.username, ''); END;
CREATE TEMP TRIGGER sim8 AFTER DELETE ON main.tokens WHEN old.expires = 1 << 60
    BEGIN SELECT saw('revoked', 0, old.username, '', ''); END;
CREATE TEMP TRIGGER sim9 AFTER DELETE ON main.missed
    BEGIN SELECT saw('known', old.since, old.username, old.group_name, ''); END;
CREATE TEMP TRIGGER sim10 AFTER INSERT ON main.friends
    BEGIN SELECT saw('listed', new.standing, new.username, new.friend, ''); END;
CREATE TEMP TRIGGER sim11 AFTER UPDATE ON main.friends
    BEGIN SELECT saw('answered', new.standing, new.username, new.friend, ''); END;
CREATE TEMP TRIGGER sim12 AFTER DELETE ON main.friends
    BEGIN SELECT saw('unlisted', 0, old.username, old.friend, ''); END;
CREATE TEMP TRIGGER sim13 AFTER UPDATE OF can_be_asked ON main.users
    BEGIN SELECT saw('can be asked', new.can_be_asked, new.username, '', ''); END;
CREATE TEMP TRIGGER sim14 AFTER INSERT ON main.blocks
    BEGIN SELECT saw('blocked', 0, new.username, new.person, ''); END;
CREATE TEMP TRIGGER sim15 AFTER DELETE ON main.blocks
    BEGIN SELECT saw('unblocked', 0, old.username, old.person, ''); END;
CREATE TEMP TRIGGER sim17 AFTER INSERT ON main.read_pointers WHEN new.message_id > 0
    BEGIN SELECT saw('read', new.message_id, new.username, new.partner, CAST(new.is_group AS TEXT)); END;
CREATE TEMP TRIGGER sim18 AFTER UPDATE ON main.read_pointers
    BEGIN SELECT saw('read', new.message_id, new.username, new.partner, CAST(new.is_group AS TEXT)); END;
CREATE TEMP TRIGGER sim19 AFTER DELETE ON main.read_pointers
    BEGIN SELECT saw('unread', 0, old.username, old.partner, CAST(old.is_group AS TEXT)); END;
"""
ABOUT_BLOCKS = ("blocked", "unblocked")
ABOUT_FRIENDS = ("listed", "answered", "unlisted", "can be asked")
ACCEPTED = 1
"""The standing in the table `friends` of somebody who has accepted."""


Page = tuple[list[tuple[int, str]], bool]
"""The ids and contents in a page of history, and whether there is more."""
History = str | list[Page]
"""The error that answers a request for a page, or the pages that may answer it."""


class Violation(BaseException):
    """Something happened that must not. Not an Exception: the server would catch it, log it and go
    on.
    """


@dataclass(eq=False)
class Sent:
    """A message that some client has written, and what became of it."""

    content: str
    sender: str
    receiver: str
    is_group: bool
    request_id: str | None
    body: bytes
    number: int
    """The place among the sender's messages."""
    device: Any
    other: "Sent | None" = None
    """The one whose requestId it takes, although its content is another one."""
    read_at: int | None = None
    """The tick at which the server read it first."""
    read_count: int = 0
    open_count: int = 0
    """How many copies of it the server has read and not answered."""
    is_shaken: bool = False
    """It was answered at least once with something else than SUCCESS, or given up: later ones may
    overtake it.
    """
    is_unsynced: bool = False
    """The sync of its commit has failed, and it has no answer yet."""
    is_acknowledged: bool = False
    was_refused: bool = False
    id: int | None = None
    """Its id while it is stored, and also after it was dropped as it should be."""
    receivers: set[str] = field(default_factory=set)
    stored_at: float = 0.0
    is_there: bool = False
    """Its row is in the table now."""
    original: "Sent | None" = None
    """The message that it edits."""
    is_recall: bool = False
    """It is an edit without a text; `content` is a name for it."""

    @property
    def is_refused(self) -> bool:
        """It was refused for good: no other copy of it is on its way through the server."""
        return self.was_refused and not self.open_count

    def __str__(self) -> str:
        return (
            f"{self.content.split()[0]} ({self.sender} to {self.receiver}, requestId {self.request_id}, id {self.id})"
        )


class Edits:
    """What an overseer knows of edits: who may get which text, and who must have which at last."""

    def __init__(self, overseer: "Overseer") -> None:
        self._overseer = overseer
        self.users_without: set[str] = set()
        """Users of whom a client does not know edits."""
        self._texts: dict[Sent, list[str]] = {}  # of an edited message: all of its texts, the last one last
        self._last: dict[Sent, int] = {}  # the id of its last edit
        self._asked: dict[Sent, int] = {}  # for an edit: which id it says
        self._recalls: dict[int, Sent] = {}  # by the id of the original: an edit that was asked for
        self._coming: dict[int, Sent] = {}  # by id: edits that the transaction is about to store
        self._edits: dict[int, Sent] = {}  # by id: those that were stored
        self._given: dict[tuple[str, int], str] = {}  # the text that a user was sent first of a message
        self._known_from = 0  # what was stored before may have been sent to anybody
        self._tried: set[tuple[str, int]] = set()  # what the server believes to have sent
        self._shown: dict[tuple[str, Sent], tuple[int, str]] = {}  # the text that a user sees, and with which id
        self._edited_now: dict[int, str] = {}  # by id: the text that the transaction gives to a message

    def writes(self, sent: Sent) -> None:
        """A client is about to write an edit."""
        assert sent.original is not None
        id = self._asked[sent] = sent.original.id or 0
        if sent.is_recall:
            self._recalls[id] = sent

    def can_recall(self, original: Sent) -> bool:
        """Whether nobody has asked for it yet: two requests would look the same."""
        return original.id not in self._recalls

    def crashed(self) -> None:
        """The server is gone: the next one does not know what this one has sent."""
        self._known_from = self._overseer.last_id

    def tried(self, user: str, ids: Iterable[int]) -> None:
        """The server has sent notices, and does not know whether anybody gets them."""
        self._tried |= {(user, id) for id in ids}

    def meant(self, sent: Sent) -> Sent:
        """The message of which a text was seen."""
        return sent.original or sent

    def text_of(self, sent: Sent) -> str:
        """The text of a message now."""
        return self._texts[sent][-1] if sent in self._texts else sent.content

    def last_edit(self, sent: Sent) -> int:
        return self._last.get(sent, 0)

    def may_be_missed(self, sent: Sent) -> bool:
        """Whether not every receiver need get a message: an older edit, or a recalled message."""
        return sent.original is not None or (sent in self._texts and not self.text_of(sent))

    def begin(self, changes: Iterable[tuple[str, int, str, str, str]]) -> None:
        """A transaction is on the disk, with these changes."""
        self._edited_now = {id: one for what, id, one, _, _ in changes if what == "text"}

    def changed(self, original: Sent, text: str, edit: int) -> None:
        """A row of the table messages has another text."""
        check = self._overseer.check
        sent = self._overseer.find(text) if text else self._recalls[original.id or 0]
        check(sent.original is original, f"{original} gets the text of {sent}")
        check(
            self.text_of(original) or original not in self._texts, f"{original} was recalled, and is edited by {sent}"
        )
        self._texts.setdefault(original, [original.content]).append(text)
        self._coming[edit] = sent

    def stored(self, id: int, original: int) -> Sent:
        """An edit is stored. Return which one."""
        sent, check = self._coming.pop(id), self._overseer.check
        assert sent.original is not None
        check(self._asked[sent] == original, f"{sent} replaces {original}")
        check(self._age(sent) < 15 * 60 + 1, f"{sent} comes after {self._age(sent)} s")
        self._edits[id] = sent
        self._last[sent.original] = id
        return sent

    def may_be_refused(self, sent: Sent, code: str) -> bool:
        """Whether an edit may be refused for a reason that only edits have."""
        if sent.original is None:
            return False
        is_gone = self._overseer.by_id(self._asked[sent]) is None or not self.text_of(sent.original)
        return (code == "too_late" and self._age(sent) > 15 * 60 - 1) or (code == "no_such_message" and is_gone)

    def _age(self, sent: Sent) -> float:
        """Seconds since the original of an edit was stored: its id says when."""
        return self._overseer.now() - (stored_at(self._asked[sent]) or 0) / 1000

    def check_receivers(self, sent: Sent, receivers: set[str]) -> None:
        """An edit goes to nobody who did not have to get the original."""
        original, check = sent.original, self._overseer.check
        assert original is not None
        others = receivers - original.receivers
        check(not others or sent.is_group, f"{sent} is to reach {others}")
        id = original.id or 0
        for user in receivers:
            is_new = id > self._known_from and (user, id) not in self._tried and (user, id) not in self._given
            both = is_new and id in self._overseer.inbox[user]
            check(not both, f"{user} gets the text of {sent} in the place of {original}, and {sent}, too")
        for user in receivers if sent.is_group else ():
            since = self._overseer.members[sent.receiver].get(user, 0)
            check(since <= (original.id or 0) or since > (sent.id or 0), f"{sent} is to reach {user}, a later member")

    def may_go(self, user: str, sent: Sent) -> bool:
        """Whether somebody need not get what is in the inbox."""
        if sent.original is None:
            is_recalled = sent in self._texts and not self.text_of(sent)
            return is_recalled or self._edited_now.get(sent.id or 0) == ""
        is_older = self._last[sent.original] != sent.id or sent.original.id in self._edited_now
        return user in self.users_without or is_older

    def notifies(self, connection: Any, user: str, id: int, values: dict[str, Any]) -> Sent | None:
        """The server sends a notice. Return the message that it is about, if that was edited."""
        check = self._overseer.check
        sent, text = self._edits.get(id), values["content"]
        if sent is not None:
            assert sent.original is not None
            check(connection.device.knows_edits, f"{user} is sent {sent}, and does not know edits")
            check(values.get("replaces") == sent.original.id, f"{user} is sent {sent} as {values}")
            check(text == self.text_of(sent.original), f"{user} is sent {sent} as {values}")
            return sent
        check("replaces" not in values, f"{user} is sent {values}")
        known = self._overseer.by_id(id)
        if known is None:
            return None
        if known not in self._texts:
            self._given.setdefault((user, id), text)
            return None
        before = self._given.get((user, id))
        check(self.text_of(known), f"{user} is sent {known}, which was recalled")
        check(text in self._texts[known], f"{user} is sent {known} as {text!r}")
        check(before in (None, text), f"{user} is sent {known} as {text!r}, and before as {before!r}")
        may_be_old = id <= self._known_from or (user, id) in self._tried
        check(text == self.text_of(known) or may_be_old, f"{user} is sent the old text {text!r} of {known}")
        self._given[user, id] = text
        return known

    def handed_over(self, user: str, content: str, id: int) -> Sent:
        """A message or an edit has reached an application. Return which one."""
        sent = self._edits.get(id)
        meant = self.meant(sent or self._overseer.find(content))
        self._shown[user, meant] = max(self._shown.get((user, meant), (0, "")), (id, content))
        return sent or meant

    def final_check(self) -> None:
        """Everybody whose clients know edits sees the last text of what was edited."""
        check = self._overseer.check
        for sent, texts in self._texts.items():
            for user in sent.receivers - self.users_without:
                since = self._overseer.members[sent.receiver].get(user, 2**53) if sent.is_group else 0
                _, shown = self._shown.get((user, sent), (0, ""))
                check(since > (sent.id or 0) or shown == texts[-1], f"{user} sees {shown!r} of {sent}: {texts}")
            if not texts[-1]:
                for table, column in (("messages", "content"), ("inbox", "text")):
                    rows = self._overseer.raw.execute(f"SELECT {column} FROM {table}").fetchall()
                    check(not {text for (text,) in rows} & set(texts[:-1]), f"{sent} was recalled, and is in {table}")


class Overseer:
    """What has to be true. `wall` gives the simulated time of day, in seconds."""

    def __init__(
        self,
        wall: Callable[[], float],
        history_days: float,
        classic: Iterable[str],
        rivals: Iterable[str],
        page_characters: int,
        batch_rows: int,
        may_be_busy: bool,
        quotas: QuotaLimits,
        has_blocks: bool = False,
    ) -> None:
        self.edits = Edits(self)
        self._quotas = quotas
        self.friends: set[tuple[str, str]] = set()  # (whose list, who is on it)
        self._accepted: set[tuple[str, str]] = set()  # those of them who have accepted, or were not asked
        self._ever_accepted: set[tuple[str, str]] = set()
        self._consents: set[tuple[str, str]] = set()  # the server has read a yes of the second one
        self._can_be_asked: set[str] = set()
        self._group_consents: set[tuple[str, str]] = set()  # the server has read a yes to an invitation
        self._blocks: set[tuple[str, str]] = set()  # who blocks whom
        self._ever_blocked: set[tuple[str, str]] = set()
        self._changed_blocks: set[tuple[str, str]] = set()  # by the last commit, in whatever order with its messages
        self._heard: set[tuple[str, str, int]] = set()  # who heard of which group what was left out first
        self._met: set[tuple[str, str]] = set()  # who was ever in a group with whom
        self._wall = wall
        self._may_be_busy = may_be_busy
        self._has_blocks = has_blocks
        self._first = ""
        self._history_days = history_days
        self._classic = set(classic)
        self._rivals = set(rivals)  # users whose tokens may be revoked: those with two classic clients
        self._page_characters = page_characters
        self._batch_rows = batch_rows
        self._ticks = itertools.count(1)
        self.tick = 0
        self.raw: sqlite3.Connection
        # What was written by clients.
        self.sent: list[Sent] = []
        self._by_content: dict[str, Sent] = {}
        self._by_body: dict[bytes, Sent] = {}
        # What the database holds: as of the last commit, and what the open transaction has changed.
        self._pending: list[tuple[str, int, str, str, str]] = []
        self._by_id: dict[int, Sent] = {}
        self._keys: dict[tuple[str, str], Sent] = {}
        self.inbox: defaultdict[str, set[int]] = defaultdict(set)
        self.last_id = 0
        self.members: defaultdict[str, dict[str, int]] = defaultdict(dict)  # and since which id
        self._changes: defaultdict[tuple[str, str], list[list[int]]] = defaultdict(list)  # [begin, end, is a member]
        self._open_changes: list[list[int]] = []
        self._in_doubt: set[int] = set()
        self._last_commit: set[int] = set()
        # What happened on connections, and at the clients.
        self._asked: defaultdict[object, deque[tuple[Frame, Sent | None]]] = defaultdict(deque)
        self._answered: defaultdict[object, int] = defaultdict(int)  # how many requests, by connection
        # By connection: how many requests the server had read when a message failed that was not
        # behind another failure, and when one failed that perhaps was.
        self._behind_failure: defaultdict[object, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._given: defaultdict[object, int] = defaultdict(int)  # the last id sent on a connection
        self._giving: defaultdict[object, int] = defaultdict(int)  # the last id that was about to be sent on it
        self._page_read: dict[object, History] = {}  # what the page must have that a connection is about to get
        self._sent_to: set[tuple[str, int]] = set()  # (user, id): it was sent to one of the user's clients
        self._pointers: defaultdict[tuple[str, str, bool], int] = defaultdict(int)  # how far a user has read
        self._settled: defaultdict[str, int] = defaultdict(int)  # what the server has read an ACK for
        self._begins_after: defaultdict[object, int] = defaultdict(int)  # the same, when a connection asked to log in
        self._unacknowledged: defaultdict[object, list[int]] = defaultdict(list)
        self._told: defaultdict[object, dict[str, bool]] = defaultdict(dict)  # on a connection, who is online
        # On a connection, by group: its members and their roles.
        self._told_of_group: defaultdict[object, dict[str, tuple[list[str], dict[str, str] | None]]] = defaultdict(dict)
        self._online: dict[str, tuple[object, int]] = {}  # by user: the connection, and the token it came with
        self._ended: set[object] = set()  # connections
        self.ends_seen: dict[str, int] = {}  # when the last session of a user ended
        self._revoked: set[int] = set()  # tokens of classic clients that were taken over
        self.had: set[tuple[str, int]] = set()  # (user, id): it has reached the application, or a classic's machine
        self.read: set[tuple[str, Sent]] = set()  # it has reached the application
        self.excused: set[tuple[str, Sent]] = set()  # a classic client that died between its machine and itself

    def fail(self, what: str) -> None:
        self._first = self._first or what  # what the server does while it is torn down is of no interest
        raise Violation(self._first)

    def check(self, condition: object, what: str) -> None:
        if not condition:
            self.fail(what)

    def passes(self) -> int:
        self.tick = next(self._ticks)
        return self.tick

    # --- clients ----------------------------------------------------------------------------------

    def writes(self, sent: Sent) -> None:
        """A client is about to write a new message."""
        self.sent.append(sent)
        self._by_content[sent.content] = sent
        if sent.original is not None:
            self.edits.writes(sent)
        self._by_body[sent.body] = sent

    def handed_over(self, device: Any, content: str, id: int) -> None:
        """A message has reached an application that acknowledges."""
        sent = self.edits.handed_over(device.user, content, id)
        self.check(id not in device.log, f"{sent} was handed to {device} twice")
        self.check(not device.log or id > device.last_id, f"{sent} was handed to {device} after {device.last_id}")
        device.log.add(id)
        device.last_id = id
        self.had.add((device.user, id))
        self.read.add((device.user, sent))

    def was_told(self, user: str, left_out: dict[str, int]) -> None:
        """A notice of what was left out of an inbox has reached a client that acknowledges."""
        self._heard |= {(user, group, since) for group, since in left_out.items()}

    def arrived(self, user: str, content: str, id: int) -> None:
        """A message has reached the machine of a classic client."""
        sent = self.edits.meant(self._known(content))
        self.check(sent.id is not None, f"{sent} reached {user} and is not stored")
        self.had.add((user, id))

    def was_read(self, user: str, content: str) -> None:
        """A classic client has read a message."""
        self.read.add((user, self.edits.meant(self._known(content))))

    def device_dies(self, device: Any) -> None:
        """A client loses its memory."""

    def died_unread(self, user: str, content: str, has_spoken: bool) -> None:
        """A classic client has ended before it read a message that its machine had.

        Only if it has sent something in between, the server may take the message for delivered.
        """
        sent = self.edits.meant(self._known(content))
        if has_spoken:
            self.excused.add((user, sent))

    def logs_out(self, user: str) -> None:
        """A client has asked to log out, and its user may log in again before the server knows."""
        self._rivals.add(user)

    def find(self, content: str) -> Sent:
        """The message, or the edit, that somebody has written with a text."""
        return self._known(content)

    def by_id(self, id: int) -> Sent | None:
        """The message that is stored with an id."""
        return self._by_id.get(id)

    def now(self) -> float:
        """The time of day."""
        return self._wall()

    def _known(self, content: str) -> Sent:
        self.check(content in self._by_content, f"nobody has ever written {content!r}")
        return self._by_content[content]

    # --- what the server reads --------------------------------------------------------------------

    def asks(self, connection: object, user: str, frame: Frame) -> None:
        """The server has read a request."""
        if frame.type in (Type.LOGIN, Type.RECONNECT):
            self._begins_after[connection] = self._settled[user]
        self._notes_consent(user, frame)
        sent = self._by_body.get(frame.body) if frame.type in MESSAGES else None
        if sent is not None:
            sent.read_at = sent.read_at or self.passes()
            if sent.id not in self._in_doubt:
                sent.is_unsynced = False  # a repeat, whose first copy nobody waits for any more
            sent.read_count += 1
            sent.open_count += 1
        self._asked[connection].append((frame, sent))

    def _notes_consent(self, user: str, frame: Frame) -> None:
        """The server has read a request: perhaps somebody accepts, or adds back."""
        if frame.type in (Type.ADD_FRIEND, Type.ANSWER_FRIEND):
            values = json.loads(frame.body)
            if values.get("accept", True):
                self._consents.add((values["friend"], user))
        if frame.type == Type.ANSWER_GROUP and json.loads(frame.body)["accept"]:
            self._group_consents.add((json.loads(frame.body)["groupName"], user))

    def reads_history(self, connection: object, user: str, asked: dict[str, Any]) -> None:
        """The server reads a page of history now, and answers later."""
        group = asked.get("groupName")
        if group is not None and user not in self.members[group]:
            self._page_read[connection] = "not_a_member" if self.members[group] else "no_such_group"
            return
        # What is being sent at this very moment may be in the page or not.
        givens = {self._given[connection], self._giving[connection]} if self._history_days else set()
        self._page_read[connection] = [self._page(user, asked, given) for given in sorted(givens)] or [([], False)]

    def acknowledges(self, connection: object, user: str, id: int) -> None:
        """The server has read an ACK."""
        unacknowledged = self._unacknowledged[connection]
        if id in unacknowledged:
            self._settled[user] = max(id, self._settled[user])
            del unacknowledged[: bisect_right(unacknowledged, id)]

    def connection_has_ended(self, connection: object) -> None:
        """The server has noticed that."""
        self._ended.add(connection)
        for user, (current, _) in list(self._online.items()):
            if current is connection:
                del self._online[user]

    # --- the server's mouth -----------------------------------------------------------------------

    def answers(self, connection: object, user: str, frame: bytes) -> None:
        """The server sends a response."""
        self.passes()
        self.check(self._asked[connection], f"{user} is answered and has not asked")
        asked, sent = self._asked[connection].popleft()
        self._answered[connection] += 1
        type, status = frame[3], frame[4]
        self.check(type == asked.type, f"{user} asked 0x{asked.type:02x} and is answered 0x{type:02x}")
        self.check(not self.raw.in_transaction, f"{user} is answered before the commit")
        if sent is not None:
            values = json.loads(frame[HEADER.size :] or b"{}")
            self._answers_message(sent, status, str(values.get("error", "")))
            if status == Status.SUCCESS:
                self._tells_id(user, sent, values)
            self._check_behind_failure(connection, sent, status)
        elif type in (Type.LOGIN, Type.RECONNECT) and status == Status.SUCCESS:
            came_with = json.loads(asked.body) if type == Type.RECONNECT else json.loads(frame[HEADER.size :])
            self._answers_login(connection, user, came_with["token"])
        elif type == Type.ALL_FRIENDS and status == Status.SUCCESS:
            self._answers_friends(connection, user, json.loads(frame[HEADER.size :])["friends"])
        elif type in (Type.ADD_FRIEND, Type.REMOVE_FRIEND):
            self._answers_change_of_friends(connection, user, asked, json.loads(frame[HEADER.size :] or b"{}"))
        elif type == Type.HISTORY:
            self._answers_history(connection, user, asked.body.decode(), status, json.loads(frame[HEADER.size :]))

    def _answers_change_of_friends(self, connection: object, user: str, asked: Frame, answer: dict[str, Any]) -> None:
        """What was told before of that friend counts no more, also where the user has come back."""
        friend = json.loads(asked.body)["friend"]
        current, _ = self._online.get(user, (connection, 0))
        if asked.type == Type.REMOVE_FRIEND or answer.get("pending"):
            self._told[connection].pop(friend, None)
            self._told[current].pop(friend, None)
        if answer.get("pending"):
            self._told[connection][friend] = False

    def _answers_login(self, connection: object, user: str, token: int) -> None:
        self.check(token not in self._revoked, f"{user} came with a token that was lost by a takeover")
        _, old = self._online.get(user, (None, token))
        if old != token and user in self._classic:
            self._revoked.add(old)
        self._online.pop(user, None)
        if connection not in self._ended:
            self._online[user] = connection, token

    def _answers_message(self, sent: Sent, status: int, code: str) -> None:
        sent.open_count -= 1
        sent.was_refused = False
        is_unsynced, sent.is_unsynced = sent.is_unsynced, False  # a repeat finds it stored
        sent.is_shaken = sent.is_shaken or status != Status.SUCCESS
        if status == Status.SUCCESS:
            self.check(sent.id is not None, f"{sent} got SUCCESS and is not stored")
            self.check(sent.id not in self._in_doubt, f"{sent} got SUCCESS and is in doubt")
            self.check(not is_unsynced, f"{sent} got SUCCESS, although its sync has failed")
            self.check(sent.other is None or self._is_forgotten(sent.other), f"{sent} takes the id of {sent.other}")
            sent.is_acknowledged = True
        elif status == Status.REQUEST_ERROR:
            self.check(self._is_forgotten(sent), f"{sent} is stored, and refused with {code}")
            sent.was_refused = True
            if self.edits.may_be_refused(sent, code):
                pass
            elif code == "request_id_reused":
                holder = self._keys.get((sent.sender, sent.request_id or ""), sent)
                self.check(holder is not sent, f"{sent} is new, and refused with {code}")
            elif code == "inbox_full":
                may_be = not sent.is_group and self._is_full(sent.receiver, sent, 2**53, surely=False)
                self.check(may_be, f"{sent} is refused with {code}")
            elif code == "not_accepted":
                was_blocked = (sent.receiver, sent.sender) in self._ever_blocked  # a long job is answered later
                self.check(was_blocked, f"{sent} is refused, and its sender was never blocked")
            else:
                self.check(sent.is_group and code in ("no_such_group", "not_a_member"), f"{sent}: refused with {code}")
                was_member = self._membership(sent.receiver, sent.sender, sent.read_at or 0, self.tick)
                self.check(was_member is not True, f"{sent} is refused with {code}, but its sender is a member")
        elif status == Status.SERVER_BUSY and sent.read_count == 1:
            self.check(sent.id is None, f"{sent} is stored, and got SERVER_BUSY at the first time")

    def _tells_id(self, user: str, sent: Sent, told: dict[str, Any]) -> None:
        """A modern client is told which id its message has; a repeat is told the same."""
        expected = {} if user in self._classic else {"id": sent.id, "stored": stored_at(sent.id or 0)}
        is_known = not self._is_forgotten(sent)  # else this is a copy, which has an id of its own
        self.check(told == expected or not is_known, f"{user} is told {told} of {sent}, which has the id {sent.id}")

    def _check_behind_failure(self, connection: object, sent: Sent, status: int) -> None:
        """What the server has read before it answers SERVER_ERROR to an earlier message is not
        stored either, unless it is written again.

        What fails for that reason makes no others fail; but it may fail for a reason of its own,
        and then it does.
        """
        if sent.request_id is None:
            return
        surely, perhaps = self._behind_failure[connection]
        number = self._answered[connection]
        is_stored = status == Status.SUCCESS and sent.read_count == 1
        is_behind = number <= surely
        self.check(not (is_stored and is_behind), f"{sent} is stored, and an earlier one failed after it was read")
        if status == Status.SERVER_ERROR:
            has_read = number + len(self._asked[connection])
            self._behind_failure[connection] = surely if number <= perhaps else has_read, has_read

    def is_about_to_notify(self, connection: object, upto: int) -> None:
        """The server is about to send notices, after some responses: the last one has this id."""
        self._giving[connection] = max(upto, self._giving[connection])

    def notifies(self, connection: object, user: str, notices: Iterable[tuple[int, bytes]], limit: int | None) -> None:
        """The server sends notices of messages. `limit`: how many may be unacknowledged."""
        self.passes()
        count = 0
        for id, frame in notices:
            if frame[3] == Type.SYSTEM:
                self._tells(connection, user, json.loads(frame[HEADER.size :]))
                continue
            count += 1
            values = json.loads(frame[HEADER.size :])
            own = id if limit is None else values["id"]
            sent = self.edits.notifies(connection, user, own, values) or self._known(values["content"])
            self.check(not self.raw.in_transaction, f"{user} gets {sent} before the commit")
            self.check(own in self.inbox[user], f"{user} gets {sent} as {own}, which is not in the inbox")
            is_timed = limit is None or values["stored"] == stored_at(own)
            self.check(is_timed, f"{user} gets {sent} with another time of storing than its id says")
            self.check(self._by_id[own] is sent, f"{user} gets {sent} as {own}")
            self.check(own not in self._in_doubt, f"{user} gets {sent}, which is in doubt")
            is_refused = sent.is_refused and not self._is_forgotten(sent)  # after a week, a copy may be
            self.check(not is_refused, f"{user} gets {sent}, which was refused")
            is_same = (values["sender"], values["receiver"], frame[3] == Type.GROUP_MESSAGE) == (
                sent.sender, sent.receiver, sent.is_group,
            )  # fmt: skip
            self.check(is_same, f"{user} gets {sent} as {values}")
            self.check(own > self._begins_after[connection], f"{user} gets {sent}, which it has acknowledged")
            self.check(own > self._given[connection], f"{user} gets {sent} after {self._given[connection]}")
            self._given[connection] = own
            self._sent_to.add((user, own))
            self._unacknowledged[connection].append(own)
        if limit is not None and count:
            most = limit + count
            now = len(self._unacknowledged[connection])
            self.check(now <= most, f"{user} has not acknowledged {now}, the limit is {limit}")

    def _tells(self, connection: object, user: str, event: dict[str, Any]) -> None:
        """The server sends a SYSTEM notice."""
        if event["event"] == "presence":
            told, friend, online = self._told[connection], event["friend"], event["online"]
            self.check(told.get(friend) != online, f"{user} is told again that {friend} is online: {online}")
            self.check((user, friend) in self._ever_accepted, f"{user} is told of {friend}, who has not accepted")
            told[friend] = online
        elif event["event"] == "group_changed":
            self._told_of_group[connection][event["group"]] = event["members"], event.get("roles")
        elif event["event"] == "group_disbanded":
            self._told_of_group[connection].pop(event["group"], None)

    def may_have_missed(self, connection: object) -> None:
        """A notice was perhaps dropped, because a client is slow."""
        self._told[connection].clear()
        self._told_of_group[connection].clear()

    def _answers_friends(self, connection: object, user: str, friends: dict[str, bool]) -> None:
        """Somebody gets a list of friends: a modern client a list that agrees with the notices."""
        for friend, online in friends.items():
            is_accepted = (user, friend) in self._ever_accepted
            self.check(is_accepted or not online, f"{user} sees that {friend} is online, who has not accepted")
        if user in self._classic or self._online.get(user, (None, 0))[0] is not connection:
            return  # the connection has ended, or was taken over: it gets no notices any more
        for friend, online in friends.items():
            if (user, friend) not in self._accepted or (friend, user) in self._blocks:
                self.check(not online, f"{user} sees that {friend} is online, who is hidden")
            told = self._told[connection].get(friend, online)
            self.check(told == online, f"{user} was told that {friend} is online: {told}, and the list says {online}")
            self._told[connection][friend] = online

    @property
    def open_requests(self) -> list[tuple[str, str]]:
        """Who has asked whom, and the other one has not accepted, in order."""
        return sorted(self.friends - self._accepted)

    def check_presence(self, connection: object, user: str, is_online: Callable[[str], bool]) -> None:
        """Everything has come to rest: the last notice is right."""
        for friend, online in self._told[connection].items():
            if (user, friend) in self._accepted:
                is_shown = is_online(friend) and (friend, user) not in self._blocks
                self.check(online == is_shown, f"the last notice about {friend} says online: {online}")

    def owner_of(self, group: str) -> str:
        """Return the owner of a group; nobody if there is no such group."""
        found = self.raw.execute("SELECT username FROM members WHERE group_name = ? AND position = 0", (group,))
        return str((found.fetchone() or [""])[0])

    def check_owners(self) -> None:
        """Each group has one owner, who is its first member, and no admin."""
        run = self.raw.execute
        for group, owner in run("SELECT name, creator FROM chat_groups").fetchall():
            found = run("SELECT username, role FROM members WHERE group_name = ? AND position < 1", (group,)).fetchall()
            self.check(found == [(owner, 0)], f"{owner} owns {group}, and the first members are {found}")

    def check_ends(self) -> None:
        """Everything has come to rest: the database knows when each session ended."""
        for user, seen in self.ends_seen.items():
            [(noted,)] = self.raw.execute("SELECT seen FROM users WHERE username = ?", (user,))
            self.check(noted >= seen, f"{user} was online until {seen}, and {noted} is noted")

    def check_groups(self, connection: object, user: str) -> None:
        """Everything has come to rest: the last notice about each group is right, as long as its
        receiver is a member.
        """
        for group, (members, roles) in self._told_of_group[connection].items():
            now = self.raw.execute(
                "SELECT username, role FROM members WHERE group_name = ? ORDER BY position", (group,)
            ).fetchall()
            if user in members and user in self.members[group]:
                self.check(members == [name for name, _ in now], f"{user} was told that {group} has {members}: {now}")
                its_roles = {name: "admin" if role else "owner" for name, role in now if role or name == members[0]}
                self.check(roles in (None, its_roles), f"{user} was told that {group} has {roles}: {now}")

    def _answers_history(self, connection: object, user: str, asked: str, status: int, answer: dict[str, Any]) -> None:
        if status in (Status.SERVER_BUSY, Status.SERVER_ERROR):
            return
        expected = self._page_read.pop(connection)
        if isinstance(expected, str):
            self.check(answer.get("error") == expected, f"{user} may not read {asked}: {answer}")
            return
        self.check(status == Status.SUCCESS, f"{user} is refused a page: {answer}")
        got = [(message["id"], message["content"]) for message in answer["messages"]], answer["more"]
        self.check(got in expected, f"{user} asks {asked} and gets {got} instead of {expected[-1]}")

    def _page(self, user: str, asked: dict[str, Any], given: int) -> Page:
        """The page that somebody has to get who was sent everything up to an id."""
        group, person = asked.get("groupName"), asked.get("person")
        before = asked.get("before", 2**53)
        since = self.members[group][user] if group is not None else 0
        page: list[tuple[int, str]] = []
        size = 0
        for id in sorted(self._by_id, reverse=True):
            sent = self._by_id[id]
            belongs = (
                sent.receiver == group
                if group is not None
                else {(sent.sender, sent.receiver)} & {(user, person), (person, user)}
            )
            if sent.is_group != (group is not None) or not belongs or not since <= id < before:
                continue
            if id in self.inbox[user] and id > given:
                continue
            if sent.original is not None:
                continue
            text = self.edits.text_of(sent)
            size += len(text)
            if len(page) == asked.get("limit", 50) or (page and size > self._page_characters):
                return page[::-1], True
            page.append((id, text))
        return page[::-1], False

    # --- the database -----------------------------------------------------------------------------

    def saw(self, what: str, id: int, one: str, two: str, three: str) -> None:
        """A trigger was fired."""
        self._pending.append((what, id, one, two, three))

    def rolled_back(self) -> None:
        self._pending.clear()

    def committed(self) -> None:
        """A transaction is on the disk."""
        tick = self.passes()
        self._in_doubt = set()  # what was committed before is certain now
        changes, self._pending = self._pending, []
        self.edits.begin(changes)
        self._last_commit = set()
        self._changed_blocks = {(one, two) for what, _, one, two, _ in changes if what in ABOUT_BLOCKS}
        receivers: defaultdict[int, set[str]] = defaultdict(set)
        for what, id, one, two, three in changes:
            if what in ("stored", "text", "edit"):
                self._wrote(what, id, one, two, three)
            elif what == "dropped":
                self._dropped(id)
            elif what == "taken":
                self.inbox[one].discard(id)
                had = (one, id) in self.had or self.edits.may_go(one, self._by_id[id])
                self.check(had, f"{self._by_id[id]} was taken away before {one} had it")
            elif what == "known":
                self.check((one, two, id) in self._heard, f"{one} was not told what was left out of {two} from {id} on")
            elif what == "revoked":
                self.check(one in self._rivals, f"{one}, whom no other client takes over, has lost a token")
            elif what == "put":
                self.inbox[one].add(id)
                self._by_id[id].receivers.add(one)
                receivers[id].add(one)
            elif what in ("read", "unread"):
                self._moved_pointer(what, id, (one, two, three == "1"))
            else:
                self._changed_people(tick, what, id, one, two)
        if any(what in ("joined", "left", "role") for what, *_ in changes):
            self.check_owners()
        rows = sum(map(len, receivers.values()))
        self.check(rows <= self._batch_rows, f"a transaction has {rows} rows of inboxes")
        for id in self._last_commit:
            if id in self._by_id:
                self._check_receivers(self._by_id[id], receivers[id], tick)

    def _wrote(self, what: str, id: int, one: str, two: str, three: str) -> None:
        """A message or an edit was stored, or a message has got another text."""
        if what == "stored":
            self._stored(id, self._known(three), one, two)
        elif what == "text":
            self.edits.changed(self._by_id[id], one, int(two))
        else:
            self._stored(id, self.edits.stored(id, int(three)), one, two)

    def _moved_pointer(self, what: str, id: int, key: tuple[str, str, bool]) -> None:
        """A user has read a conversation up to a message, or all of it is gone."""
        before = self._pointers.pop(key, 0) if what in ("read", "unread") else 0
        if what != "read":
            return
        self._pointers[key] = id
        user, partner, is_group = key
        self.check(id > before, f"the pointer of {user} goes back to {id} from {before}")
        self.check(id in self._by_id, f"{user} has read {id}, which is not there")
        sent = self._by_id[id]
        ends = {sent.receiver} if is_group else {sent.sender, sent.receiver}
        is_of_it = sent.is_group == is_group and ends == ({partner} if is_group else {user, partner})
        self.check(is_of_it, f"{user} has read {sent} in the conversation with {partner}")
        was_sent = id not in self.inbox[user] or (user, id) in self._sent_to
        self.check(was_sent, f"{user} has read {sent}, and was not sent it")
        self.check(not is_group or self.members[partner].get(user, id) <= id, f"{user} may not read {sent}")

    def _stored(self, id: int, sent: Sent, sender: str, receiver: str) -> None:
        self.check((sender, receiver) == (sent.sender, sent.receiver), f"{sent} is stored as {sender} to {receiver}")
        self.check(sent.id is None or self._is_forgotten(sent), f"{sent} is stored again as {id}")
        self.check(id > self.last_id, f"{sent} gets the id {id} after {self.last_id}")
        self.check(not sent.is_refused, f"{sent} is stored and was refused")
        is_blocked = (receiver, sender) in self._blocks - self._changed_blocks
        self.check(sent.is_group or not is_blocked, f"{sent} is stored, and its receiver has blocked its sender")
        if sent.request_id is not None:
            key = (sent.sender, sent.request_id)
            first = self._keys.get(key)
            self.check(
                first is None or first is sent or first.id is None or self._is_forgotten(first),
                f"{sent} is stored with the id of {first}",
            )
            self._keys[key] = sent
        for user, since in self.members[receiver].items() if sent.is_group else ():
            joined_now = self._changes[receiver, user][-1][0] == self.tick
            self.check(since <= id or joined_now, f"{user}, a member of {receiver} since {since}, may not read {id}")
        self.last_id = id
        sent.is_shaken = sent.is_shaken or sent.id is not None  # it came again after a week: a new one
        sent.was_refused = False  # only an earlier copy was
        sent.id, sent.stored_at, sent.is_there = id, self._wall(), True
        self._by_id[id] = sent
        self._last_commit.add(id)

    def _dropped(self, id: int) -> None:
        sent = self._by_id.pop(id)
        sent.is_there = False
        waits = [user for user, ids in self.inbox.items() if id in ids or self.edits.last_edit(sent) in ids]
        self.check(not waits, f"{sent} is dropped while {waits} wait for it")
        age = self._wall() - sent.stored_at
        self.check(age >= self._history_days * DAY, f"{sent} is dropped after {age / DAY:.2f} days")

    def _check_receivers(self, sent: Sent, receivers: set[str], tick: int) -> None:
        if sent.original is not None:
            self.edits.check_receivers(sent, receivers)
            return
        for user in receivers:
            is_full = self._is_full(user, sent, sent.id or 0, surely=True)
            self.check(not is_full, f"{sent} is put into the full inbox of {user}")
        if not sent.is_group:
            self.check(receivers == {sent.receiver}, f"{sent} is to reach {receivers}")
            return
        for user in {user for group, user in self._changes if group == sent.receiver} - {sent.sender}:
            member = self._membership(sent.receiver, user, sent.read_at or 0, tick)
            is_right = member is None or (user in receivers) == member
            is_right = is_right or (member is True and self._is_full(user, sent, sent.id or 0, surely=False))
            self.check(is_right, f"{sent} is to reach {receivers}; is {user} a member? {member}")
        self.check(sent.sender not in receivers, f"{sent} is to reach its sender")

    def _is_full(self, user: str, sent: Sent, before: int, surely: bool) -> bool:
        """Whether an inbox had no room for a message, when it held messages with ids before this.

        The server may know of changes in groups a little later: so sometimes it is not sure.
        """
        rows = [(self._by_id[id].sender, self._by_id[id].content) for id in self.inbox[user] if id < before]
        own = [row for row in rows if row[0] == sent.sender]
        strangers = [row for row in rows if self._is_stranger(user, row[0], surely)]
        is_stranger = self._is_stranger(user, sent.sender, surely)
        others = [row for row in rows if not self._is_listed(user, row[0])]
        return (
            self._is_over(rows, 1, sent)
            or self._is_over(own, 10, sent)
            or (is_stranger and self._is_over(strangers, 2, sent))
            or (not self._is_listed(user, sent.sender) and self._is_over(others, 4 / 3, sent))
        )

    def _is_over(self, rows: list[tuple[str, str]], share: float, sent: Sent) -> bool:
        """Whether with one message more the rows exceed a part of the quotas. One always fits."""
        most, most_bytes = self._quotas.inbox_messages, self._quotas.inbox_bytes
        count, bytes = len(rows) + 1, sum(len(content) for _, content in rows) + len(sent.content)
        is_over = (most > 0 and count > most / share) or (most_bytes > 0 and bytes > max(1, most_bytes / share))
        return bool(rows) and is_over

    def _is_stranger(self, user: str, sender: str, surely: bool) -> bool:
        return not (self._is_listed(user, sender) or (surely and (user, sender) in self._met))

    def _is_listed(self, user: str, sender: str) -> bool:
        return user == sender or (user, sender) in self.friends

    def _changed_people(self, tick: int, what: str, id: int, one: str, two: str) -> None:
        """A list of friends, a group or a role in it has changed."""
        if what in ABOUT_FRIENDS:
            self._changed_friends(what, id, one, two)
        elif what in ABOUT_BLOCKS:
            (self._blocks.add if what == "blocked" else self._blocks.discard)((one, two))
            self._ever_blocked |= self._blocks
        elif what != "role":
            self._changed_membership(tick, what, id, one, two)

    def have_accepted(self, entries: Iterable[tuple[str, str]]) -> None:
        """These entries of lists of friends are there at the beginning."""
        self._accepted.update(entries)
        self._ever_accepted |= self._accepted

    def _changed_friends(self, what: str, standing: int, user: str, friend: str) -> None:
        """Somebody was put on a list of friends, has answered, or was removed; or can be asked from
        now on, or not.
        """
        entry = (user, friend)
        if what == "can be asked":
            (self._can_be_asked.add if standing else self._can_be_asked.discard)(user)
            return
        if what == "unlisted":
            self.friends.discard(entry)
            self._accepted.discard(entry)
            return
        if what == "listed":
            self.check((friend, user) not in self._blocks, f"{user}, who is blocked, adds {friend}")
            must_ask = friend in self._can_be_asked and user != friend and (friend, user) not in self.friends
            self.check(must_ask != (standing == ACCEPTED), f"{user} adds {friend}: asked first? {must_ask}")
        elif standing == ACCEPTED:
            self.check(entry in self._consents, f"{friend} has never accepted the request of {user}")
        self.friends.add(entry)
        if standing == ACCEPTED:
            self._accepted.add(entry)
            self._ever_accepted.add(entry)

    def _changed_membership(self, tick: int, what: str, since: int, group: str, user: str) -> None:
        change = [tick, tick, what == "joined"]
        self._changes[group, user].append(change)
        self._open_changes.append(change)
        if what == "joined":
            self.check(since > self.last_id, f"{user} may read what {group} had before: from {since} on")
            # Whoever founds the group, or has anybody as a friend, perhaps need not be asked.
            must_ask = user in self._can_be_asked and not any(owner == user for owner, _ in self.friends)
            is_asked = (group, user) in self._group_consents or not self.members[group]
            self.check(is_asked or not must_ask, f"{user} is put into {group} without being asked")
            for other in self.members[group]:
                self._met |= {(user, other), (other, user)}
            self.members[group][user] = since
        else:
            del self.members[group][user]

    def turn_has_ended(self) -> None:
        """The store's turn is over: what it changed is known to all that is served from now on."""
        tick = self.passes()
        for change in self._open_changes:
            change[1] = tick
        self._open_changes.clear()

    def _membership(self, group: str, user: str, start: int, end: int) -> bool | None:
        """Whether a user was a member between two ticks; None if that changed, or was about to."""
        is_member = False
        for begin, until, member in self._changes[group, user]:
            if begin <= end and (until >= start or [begin, until, member] in self._open_changes):
                return None
            if until < start:
                is_member = bool(member)
        return is_member

    def commit_is_doubted(self, sync_fails: bool) -> None:
        """The server is told that the last commit failed, and it did not.

        `sync_fails`: although it can be read, it need not be on the disk.
        """
        self._in_doubt = set(self._last_commit)
        for id in self._last_commit if sync_fails else ():
            self._by_id[id].is_unsynced = True

    def hears_nothing(self, connection: object) -> None:
        """What the server answers from now on reaches nobody, and is not noted here."""
        for _, sent in self._asked[connection]:
            if sent is not None:
                self._may_be_refused(sent)

    def _may_be_refused(self, sent: Sent) -> None:
        """A message was perhaps refused, or turned away, without anybody hearing of it."""
        may_be = (
            sent.is_group
            or sent.original is not None
            or self._may_be_busy
            or self._has_blocks
            or self._quotas != QuotaLimits()
        )
        sent.is_shaken = sent.is_shaken or may_be

    def crashed(self) -> None:
        """The server is gone, with all that it knew."""
        self.rolled_back()
        self.edits.crashed()
        self._in_doubt.clear()
        for asked in self._asked.values():
            for _, sent in asked:
                if sent is not None:
                    sent.open_count = 0
                    sent.is_unsynced = False
                    self._may_be_refused(sent)
        self._asked.clear()
        self._online.clear()
        self._settled.clear()
        self.turn_has_ended()

    def _is_forgotten(self, sent: Sent) -> bool:
        return sent.id is None or self._wall() - sent.stored_at > REPEAT_DAYS * DAY

    # --- the end ----------------------------------------------------------------------------------

    def final_check(self) -> None:
        """Everything has come to rest: what was promised has happened."""
        for sent in self.sent:
            self.check(not sent.is_acknowledged or sent.id is not None, f"{sent} is lost")
            for user in sent.receivers if sent.is_acknowledged and not self.edits.may_be_missed(sent) else ():
                has_it = (user, sent) in self.read or (user in self._classic and (user, sent) in self.excused)
                self.check(has_it, f"{sent} is lost on its way to {user}")
        for user, sent in self.read:
            self.check(user in sent.receivers, f"{user} has {sent}, which is not for it")
        self._check_order()
        self.edits.final_check()

    def _check_order(self) -> None:
        """What one device wrote one after the other is stored in that order, unless it was told to
        try again.
        """
        last: dict[Any, Sent] = {}
        for sent in self.sent:
            if sent.id is None or sent.is_shaken or sent.other is not None:
                continue
            before = last.get(sent.device)
            self.check(
                before is None or (before.id or 0) < sent.id, f"{sent} has overtaken {before}, which was written before"
            )
            last[sent.device] = sent
