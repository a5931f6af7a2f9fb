"""The overseer's own, simple picture of a simulated world."""

import itertools
import sqlite3
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from overseer_devices import Devices, Reader
from overseer_edits import Edits
from sent import Sent, Violation

from jelly.codec import Frame
from jelly.quotas import QuotaLimits

Page = tuple[list[tuple[int, str]], bool]
"""The ids and contents in a page of history, and whether there is more."""
History = str | list[Page]
"""The error that answers a request for a page, or the pages that may answer it."""


class Picture:
    """What an overseer knows. `wall` gives the simulated time of day, in seconds."""

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
        self.devices = Devices(self)
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
        self._settled: defaultdict[Reader, int] = defaultdict(int)  # what the server has read an ACK for
        self._begins_after: defaultdict[object, int] = defaultdict(int)  # the same, when a connection asked to log in
        self._unacknowledged: defaultdict[object, list[int]] = defaultdict(list)
        self._told: defaultdict[object, dict[str, bool]] = defaultdict(dict)  # on a connection, who is online
        # On a connection, by group: its members and their roles.
        self._told_of_group: defaultdict[object, dict[str, tuple[list[str], dict[str, str] | None]]] = defaultdict(dict)
        self._online: dict[Reader, tuple[object, int]] = {}  # the connection, and the token it came with
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

    def find(self, content: str) -> Sent:
        """The message, or the edit, that somebody has written with a text."""
        return self._known(content)

    def by_id(self, id: int) -> Sent | None:
        """The message that is stored with an id."""
        return self._by_id.get(id)

    def is_online(self, reader: Reader) -> bool:
        """Whether anybody is logged in there."""
        return reader in self._online

    def now(self) -> float:
        """The time of day."""
        return self._wall()

    def _known(self, content: str) -> Sent:
        self.check(content in self._by_content, f"nobody has ever written {content!r}")
        return self._by_content[content]
