"""Who is online: one session a user and device.

A `Session` is what the server knows about one connection above the socket: who has logged in on it,
and how far that user's messages have got. It writes through a `Transport`, which the server gives
it (`send_queue.py`); nothing here or above the transport knows a socket.

A client is *modern* if it sent `features` when it logged in, otherwise *classic*. If the server
granted it "ack", its session has a `Window`: the messages that it was sent and has not acknowledged
yet.

Message ids only grow, so four watermarks say how far a session has got. Each is the id up to which
everything has ...

| watermark                | ... what                                      | moved by            |
| ------------------------ | --------------------------------------------- | ------------------- |
| `Session.sent_id`        | been given to the transport                   | the store's turn    |
| `Transport.written_id`   | been written to the socket                    | the sending thread  |
| `Transport.tcp_acked_id` | been acknowledged by the client's TCP         | the flusher         |
| `Session.delivered_id`   | been reported to the store as delivered       | the reader          |

The two in the middle are for clients that cannot acknowledge. For the others the `Window` knows
what was sent, and an ACK reports it as delivered.
"""

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from jelly.messages import NoticeForm
from jelly.rate import HeldBack

MAX_UNACKNOWLEDGED = 1000
MAX_UNACKNOWLEDGED_BYTES = 1024 * 1024
"""At most this many messages, or bytes of frames, are sent to a session and not acknowledged. Then
it gets no more until half of them are acknowledged. All of them come again after a lost connection,
and a client that acknowledges nothing must not get its whole inbox."""


class Device(NamedTuple):
    """One of the devices of a user (`devices.py`)."""

    user: str
    name: str
    """Empty: the client has not told. All such clients of a user count as one device."""


NO_DEVICE = Device("", "")


class Response(NamedTuple):
    """A frame that answers a request."""

    frame: bytes
    received_at: float
    """When the request came in, in monotonic seconds: towards a classic client it decides when this
    may leave.
    """


class Notice(NamedTuple):
    """A frame that the client did not ask for."""

    id: int
    """The message that it brings; 0 if it brings none."""
    frame: bytes


class Transport(Protocol):
    """Where a session's frames go. Every method may be called by any thread and none of them
    waits.
    """

    tcp_acked_id: int
    """The id up to which the client's TCP has acknowledged the notices."""

    is_closed: bool
    """Whether the connection has ended, or is about to."""

    @property
    def has_room(self) -> bool:
        """Whether more notices may be sent. If not, the client must first take those that wait."""

    @property
    def is_full(self) -> bool:
        """Whether too many responses wait: then no more requests should be served."""

    def has_left(self) -> bool:
        """Whether the client is gone, also if the reader has not noticed it yet."""

    def is_half_closed(self) -> bool:
        """Whether the client writes nothing any more. It may still read what is sent to it."""

    @property
    def is_memory_short(self) -> bool:
        """Whether too much waits in all transports together: then answers should be small."""

    def when_not_full(self, function: Callable[[], None]) -> None:
        """Call a function, once, when `is_full` is False; at once if it is now."""

    def send(self, responses: Sequence[Response] = (), notices: Sequence[Notice] = ()) -> None:
        """Send responses and notices."""

    def queue_notice(self, frame: bytes) -> None:
        """Send a notice that brings no message a little later: with `write_queued`, or before
        whatever is sent next.
        """

    def write_queued(self) -> None:
        """Send the notices that were queued."""

    def stop_pacing(self) -> None:
        """From now on leave no gap between frames: the client takes any split of the stream."""

    def stop_confirming(self) -> None:
        """From now on `tcp_acked_id` does not move: the client itself acknowledges its notices."""

    def finish(self, closing_frame: bytes = b"") -> None:
        """Write the responses that wait, and then this frame; then close the connection."""

    def close(self) -> None:
        """Close the connection now."""


class Window:
    """What a session was sent and has not acknowledged yet, oldest first.

    The store adds before it sends, the reader takes out. `has_room` is False from when the window
    is full until half of it is acknowledged.
    """

    __slots__ = ("_lock", "_sent", "_size", "has_room")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._sent: deque[tuple[int, int]] = deque()  # the id of each message, and the size of its frame
        self._size = 0
        self.has_room = True

    def add(self, notices: Iterable[Notice]) -> None:
        """Note what is about to be sent."""
        with self._lock:
            for id, frame in notices:
                self._sent.append((id, len(frame)))
                self._size += len(frame)
            if len(self._sent) > MAX_UNACKNOWLEDGED or self._size > MAX_UNACKNOWLEDGED_BYTES:
                self.has_room = False

    def acknowledge(self, upto: int) -> bool:
        """Take out everything up to and including an id. False if that id is not in the window:
        nothing is done.
        """
        with self._lock:
            # It is nearly always the oldest one, and the search would cost more than all the rest.
            is_oldest = bool(self._sent) and self._sent[0][0] == upto
            position = 0 if is_oldest else bisect_left(self._sent, (upto, 0))
            if position == len(self._sent) or self._sent[position][0] != upto:
                return False
            for _ in range(position + 1):
                self._size -= self._sent.popleft()[1]
            if (
                not self.has_room
                and len(self._sent) <= MAX_UNACKNOWLEDGED // 2
                and self._size <= MAX_UNACKNOWLEDGED_BYTES // 2
            ):
                self.has_room = True
            return True


class Told:
    """What a session was told to be missing in its user's inbox, and whether that has arrived.

    The store's, except for `note_delivered`, which the reader calls.
    """

    __slots__ = ("groups", "has_arrived", "later", "sent_id")

    def __init__(self, groups: Iterable[str], sent_id: int) -> None:
        """`sent_id`: the session's watermark when the notice was sent."""
        self.groups = set(groups)
        self.sent_id = sent_id
        self.later: dict[str, int] = {}
        """The groups of which messages were left out since then, each with the first id."""
        self.has_arrived = False

    def note_delivered(self, upto: int) -> None:
        """The client has the messages up to an id. If one of them was sent after the notice, it has
        the notice, too.
        """
        if upto > self.sent_id:
            self.has_arrived = True


class Session:
    """The conversation on one connection. The comments say which thread may change what."""

    __slots__ = (
        "address",
        "caught_up",
        "closing",
        "delivered_id",
        "device",
        "epoch",
        "failed_upto",
        "features",
        "gap",
        "has_heartbeat",
        "has_others",
        "held_back",
        "is_modern",
        "notice_form",
        "received_at",
        "resumed",
        "sends_receipts",
        "sent_id",
        "token_hash",
        "told",
        "transport",
        "typing_at",
        "untold",
        "user",
        "when_served",
        "window",
    )

    def __init__(self, transport: Transport, address: str) -> None:
        self.transport = transport
        self.address = address
        # Set in a turn of the store when a login succeeds, and never changed again.
        self.user: str | None = None
        self.device = NO_DEVICE
        self.token_hash = ""
        self.resumed = False  # came by RECONNECT
        self.epoch = 0  # on a node: the number of the event of its login, while its user is logged in here
        self.is_modern = False
        self.features: Collection[str] = ()  # those that its client is granted
        self.sends_receipts = False  # its user lets others know what has come and was read (receipts.py)
        self.window: Window | None = None  # of a client that acknowledges
        self.notice_form = NoticeForm.CLASSIC
        # Set by the thread that serves the session's lane: no request after this one is served; and
        # what was refused for the rate of messages (None: nothing).
        self.closing = False
        self.held_back: HeldBack | None = None
        self.typing_at = -math.inf  # when it was told last that the user is typing
        # Set when the connection begins. Calls a function, once, when nothing waits in the lane.
        self.when_served: Callable[[Callable[[], None]], None] = _call_now
        # Set by the thread that answers the session's requests. When a message got SERVER_ERROR,
        # the client had sent the messages that were received up to this time without knowing. If
        # it loses the connection it sends all of them again, so those behind must fail as well.
        self.failed_upto = -math.inf
        # The reader's: when it got the last requests, whether the client has ever sent a heartbeat,
        # and a watermark (see above).
        self.received_at = -math.inf
        self.has_heartbeat = False
        self.delivered_id = 0
        # The store's: see delivery.py, and above.
        self.caught_up = False
        self.sent_id = 0
        # The store's: whether the user must be told what was left out of the inbox; and what this
        # session was told of it (quotas.py).
        self.untold = False
        self.told: Told | None = None
        # The store's, too: whether the user has other devices, with names, which get what is
        # written here; and the first message that this one may have missed, until that is told.
        self.has_others = False
        self.gap: int | None = None

    @property
    def has_room(self) -> bool:
        """Whether it may be sent more messages now."""
        return self.transport.has_room and (self.window is None or self.window.has_room)


def _call_now(function: Callable[[], None]) -> None:
    function()


class Sessions:
    """The sessions of the users who are logged in. Any thread may call any method.

    Reading takes no lock. The lock makes a look and the change after it one step.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_user: dict[str, tuple[Session, ...]] = {}
        self._count = 0
        self.is_elsewhere: Callable[[str], bool] = lambda _: False
        """Whether a user is online at another node."""
        self.is_device_elsewhere: Callable[[Device], bool] = lambda _: False
        """Whether a device of a user is online at another node."""
        self.on_offline: Callable[[str], None] = lambda _: None
        """Called with a user of whom a session is taken out, by any thread; before `on_end`."""
        self.on_end: Callable[[Session], None] = lambda _: None
        """Called when a session is taken out, by any thread."""
        self.of = self._by_user.get
        """The sessions of a user, nearly always one. Call it with () as the default, for those who
        are offline. (It is called for each receiver of each message. So it is the dictionary's own
        method, which saves a call.)"""

    def get(self, user: str) -> Session | None:
        """The session of a user that began last, None while the user is offline here."""
        sessions = self._by_user.get(user)
        return sessions[-1] if sessions else None

    def on(self, device: Device) -> Session | None:
        """The session on a device, None while it is offline."""
        for session in self._by_user.get(device.user, ()):
            if session.device.name == device.name:
                return session
        return None

    def is_online(self, user: str) -> bool:
        """Whether a user is logged in, here or at another node."""
        return user in self._by_user or self.is_elsewhere(user)

    def is_device_online(self, device: Device) -> bool:
        """Whether a user is logged in on a device, here or at another node."""
        return self.on(device) is not None or self.is_device_elsewhere(device)

    def attach(self, session: Session) -> Session | None:
        """Add a session whose `user` and `device` are set; return the one on the same device, if
        any, from which it takes over.
        """
        assert session.user is not None
        with self._lock:
            before = self._by_user.get(session.user, ())
            old = self.on(Device(session.user, session.device.name))
            self._by_user[session.user] = (*(each for each in before if each is not old), session)
            self._count += old is None
        return old

    def detach(self, session: Session) -> bool:
        """Remove a session that has ended; return whether it was there, and its user may be offline
        now.

        A session that was taken over, or removed before, does not disturb its successor.
        """
        if session.user is None:
            return False
        with self._lock:
            before = self._by_user.get(session.user, ())
            if session not in before:
                return False
            rest = tuple(each for each in before if each is not session)
            if rest:
                self._by_user[session.user] = rest
            else:
                del self._by_user[session.user]
            self._count -= 1
        self.on_offline(session.user)
        self.on_end(session)
        return True

    def __iter__(self) -> Iterator[Session]:
        """Walk over the sessions of this moment."""
        with self._lock:
            return iter([session for sessions in self._by_user.values() for session in sessions])

    def __len__(self) -> int:
        return self._count
