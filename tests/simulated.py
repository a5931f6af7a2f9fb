"""What is simulated around the server's real code: the network, and how the parts of the server are
put together. (The database is in `simulated_database.py`, the clients in `simulated_clients.py`.)

No threads, no sockets, no clock. Whatever happens by chance is drawn from the one generator of the
world.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from overseer import Overseer
from simulated_clients import Device
from simulated_database import FaultyEngine

from jelly.codec import HEADER, Decoder, Frame, Type
from jelly.connection import Connection
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.delivery import Delivery
from jelly.devices import Devices
from jelly.fair_queue import Job
from jelly.group_notices import GroupNotices
from jelly.groups import GroupCache
from jelly.indexing import DeferredIndexing
from jelly.last_seen import LastSeen
from jelly.login_guard import LoginGuard
from jelly.notifier import Notifier
from jelly.outcomes import Unfinished
from jelly.policy import Policy
from jelly.presence import Presence
from jelly.queue_dispatch import Dispatcher, Lane, PendingRequest
from jelly.quotas import Quotas
from jelly.receipts import Receipts
from jelly.retention import Retention
from jelly.services import Services
from jelly.sessions import Notice, Response, Session, Sessions
from jelly.sqlite_engine import SqliteEngine
from jelly.store import Store
from jelly.strict_json import parse_object
from jelly.trusted_clock import TrustedClock

# --- the network ----------------------------------------------------------------------------------


class Wire:
    """A TCP connection: what is under way in both directions, and who has ended it.

    It is the transport of the server's session, too: what it cannot take at once waits there.
    """

    def __init__(self, world: Any, device: Device, capacity: int, high: int) -> None:
        self._world = world
        self.device = device
        self._capacity, self._high = capacity, high
        self.to_server = bytearray()
        self.to_client: deque[tuple[int, bytes]] = deque()
        self._responses: deque[bytes] = deque()
        self._notices: deque[tuple[int, bytes]] = deque()
        self._queued: list[Notice] = []
        self.is_cut = False  # nothing comes from the client any more but what is under way
        self.is_reset = False  # and TCP has told the server so by a reset
        self._written: list[tuple[int, int]] = [(0, 0)]  # how much had arrived when a message was written, and its id
        self.has_ended = False  # nothing more is going to come from the server but what is under way
        self.finishing = False
        self._confirms = True
        self.on_room: Callable[[], None] = lambda: None
        self.connection: SimulatedConnection
        # What Connection and Session look at.
        self.read_bytes = self.written_id = self.tcp_acked_id = 0
        self.is_closed = False
        self.is_full = self.is_memory_short = False
        self._has_room = True
        self.closing_frame_at: float | None = None

    @property
    def has_room(self) -> bool:
        has_room = self._has_room
        if not has_room:
            self._world.may_take_meanwhile(self)  # there may be room before the one who asked does anything about it
        return has_room

    def has_left(self) -> bool:
        return self.is_closed

    def is_half_closed(self) -> bool:
        return False

    @property
    def has_room_for_notices(self) -> bool:
        """`has_room`, without giving the client a chance."""
        return self._has_room

    def when_not_full(self, function: Callable[[], None]) -> None:
        function()

    def wait_until_not_full(self, seconds: float) -> bool:
        return True

    def stop_pacing(self) -> None:
        """There is no pacing here."""

    def stop_confirming(self) -> None:
        """From now on only the client's own word counts."""
        self._confirms = False

    @property
    def _is_mute(self) -> bool:
        return self.is_closed or self.has_ended or self._world.faults.is_dead

    def send(self, responses: Sequence[Response] = (), notices: Sequence[Notice] = ()) -> None:
        if notices:
            self._world.overseer.is_about_to_notify(self, notices[-1].id)
        self.write_queued()
        if responses:
            self._send_responses(responses)
        if notices:
            self._send_notices(notices)
            self._world.overseer.edits.tried(self.device.user, [notice.id for notice in notices])

    def queue_notice(self, frame: bytes) -> None:
        self._queued.append(Notice(0, frame))

    def write_queued(self) -> None:
        if self._queued:
            notices, self._queued = self._queued, []
            self._send_notices(notices)

    def _send_responses(self, responses: Sequence[Response]) -> None:
        if self._is_mute and self.connection.session.closing:
            self._world.overseer.hears_nothing(self)
            return  # what it asked is not served any more, so these need not be the answers to what it asked first
        for frame, _ in responses:
            self._world.may_be_interrupted()
            if self._world.faults.is_dead:
                return
            self._world.say(
                "{} is answered 0x{:02x} 0x{:02x} {}", self.device, frame[3], frame[4], frame[HEADER.size :]
            )
            self._world.overseer.answers(self, self.device.user, frame)
            if not self._is_mute:
                self._responses.append(frame)
        self.pump()

    def _send_notices(self, notices: Sequence[Notice]) -> None:
        if self._is_mute or self.finishing:
            return
        self._world.overseer.notifies(
            self, self.device.user, notices, self._world.limit if self.device.is_modern else None
        )
        for id, frame in notices:
            self._world.say("{} is sent {} {}", self.device, id, frame[HEADER.size :])
            self._notices.append((id, frame))
        self.pump()
        if len(self._notices) > self._high:
            self._has_room = False
        else:
            self._tell()
        self._world.may_be_interrupted()

    def pump(self) -> None:
        """Let go what the network takes."""
        while (self._responses or self._notices) and len(self.to_client) < self._capacity:
            id, frame = (0, self._responses.popleft()) if self._responses else self._notices.popleft()
            self.written_id = max(self.written_id, id) if self._confirms else 0
            if id and self._confirms:
                arrived = self.read_bytes + len(self.to_server) + self.is_cut
                self._written.append((arrived, id))
            if not self.is_cut:
                self.to_client.append((id, frame))
        if self.finishing and not self._responses:
            self.has_ended = True

    def took(self) -> None:
        """The client has taken something."""
        self.pump()
        self._tell()

    def _tell(self) -> None:
        if not self._has_room and len(self._notices) <= self._high // 2:
            self._has_room = True
            self.on_room()

    def look(self) -> None:
        """See whether TCP has acknowledged everything, and nothing has come since."""
        if not (self._notices or self._responses or self.to_client or self.to_server or self.is_cut):
            self.tcp_acked_id = self.written_id

    def delivered_before(self, read_bytes: int) -> int:
        if self.to_client or self.is_reset or not self._confirms:
            return 0
        return max(id for arrived, id in self._written if arrived <= read_bytes)

    def finish(self, closing_frame: bytes = b"") -> None:
        if closing_frame and not self.finishing and not self.is_closed:
            self.closing_frame_at = 0.0
            self._responses.append(closing_frame)
        self.finishing = True
        self._notices.clear()
        if not self.is_closed:
            self.pump()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = self.has_ended = True
            self._responses.clear()
            self._notices.clear()

    def ends(self) -> None:
        """The client has read everything, and closes: what it wrote still arrives."""
        self.is_cut = True

    def cut(self, kept: int) -> None:
        """The client's end is gone; of what it wrote the server still gets `kept` bytes."""
        self.is_cut = self.is_reset = True
        del self.to_server[kept:]
        self.to_client.clear()
        self.pump()


class SimulatedConnection(Connection):
    """The real reader, without a socket and a thread: it is called with what came."""

    def __init__(self, server: "SimulatedServer", wire: Wire, overseer: Overseer) -> None:
        self.context = cast(Any, server)
        self.request = cast(Any, None)
        self.address = "simulated"
        self.tls = None
        self.send_queue = cast(Any, wire)
        self.session = Session(cast(Any, wire), self.address)
        self.lane = Lane(self.session)
        self.session.when_served = partial(server.dispatcher.when_served, self.lane)
        self.decoder = Decoder()
        self.incomplete_since = None
        self._overseer = overseer
        wire.on_room = self._ask_for_more_messages
        wire.connection = self

    def reads(self, data: bytes) -> None:
        self._read(data)

    def finish(self) -> None:
        if not cast(Wire, self.send_queue).is_reset:
            self._handle_end_of_stream()
        super().finish()
        self._overseer.connection_has_ended(self.send_queue)

    def _finish_answers(self) -> None:
        """There is no time to wait for them."""

    def _confirm(self, frame: Frame, read_bytes: int) -> bool:
        if self.session.user is not None and frame.type == Type.ACK:
            self._overseer.acknowledges(self.send_queue, self.session.user, int(parse_object(frame.body)["id"]))
        return super()._confirm(frame, read_bytes)


class WatchedDispatcher(Dispatcher):
    """The real dispatcher. There are no workers: its lanes are served when the world says so."""

    overseer: Overseer
    takes_turns: Callable[[], bool]
    """Whether a worker takes the store's turn for the job that it has now."""

    def hash_at_once(self) -> None:
        """Have passwords hashed by the thread that asks for it: there are no hashers, either."""
        self._hashers = cast(Any, SimpleNamespace(submit=lambda work: work.run()))

    def submit(self, lane: Lane, requests: list[PendingRequest]) -> None:
        wire = cast(Wire, lane.session.transport)
        for request in requests:
            if request.error is None:
                self.overseer.asks(wire, wire.device.user, request.frame)
        super().submit(lane, requests)

    def _go_on(self, lane: Lane, request: PendingRequest, unfinished: Unfinished) -> Job | None:
        if request.frame.type == Type.HISTORY:
            wire = cast(Wire, lane.session.transport)
            self.overseer.reads_history(wire, wire.device.user, parse_object(request.frame.body))
        return super()._go_on(lane, request, unfinished)

    @property
    def has_work(self) -> bool:
        return bool(self._queue.queue or self._queue.unfinished)

    @property
    def queue_size(self) -> int:
        return self._queue.maxsize

    @queue_size.setter
    def queue_size(self, size: int) -> None:
        self._queue.maxsize = size

    def serve_next(self) -> None:
        """What a worker does with one lane."""
        job = self._serve((self._queue.queue or self._queue.unfinished).popleft())
        if job is not None and not (self.takes_turns() and self._store.write_now(job, contextlib.nullcontext())):
            self._store.submit([job])


class OrderedNotifier(Notifier):
    """The real notifier; but those who are told of something stand in a set, which has another
    order each time.
    """

    overseer: Overseer

    def tell(self, users: Iterable[str], frame: bytes, granted: str = "", missing: str = "") -> None:
        ordered = sorted(users)
        for session in [session for user in ordered for session in self._sessions.of(user, ())]:
            if not cast(Wire, session.transport).has_room_for_notices:
                self.overseer.may_have_missed(session.transport)
        super().tell(ordered, frame, granted, missing)


class SimulatedServer:
    """The server's real parts, put together as `JellyServer` does, on a simulated clock and
    database.
    """

    is_node = False

    def __init__(self, world: Any) -> None:
        self._world = world
        clock = world.clock
        engine, writer, trusted_clock = self._open()
        self.settings = SimpleNamespace(classic_gap=0, max_body=64 * 1024)
        self.is_stopping = False
        nothing = SimpleNamespace(discard=lambda _: None, login_was_read=lambda _: None)
        self.connections = cast(Any, nothing)  # there is always room for one more
        self.flusher = SimpleNamespace(forget=lambda _: None)
        self.sessions = Sessions()
        self.groups = GroupCache(300.0, 600.0, clock)
        self.notifier = OrderedNotifier(self.sessions, world.call_at, clock)
        self.notifier.overseer = world.overseer
        self.presence = Presence(self.sessions, self.notifier, self._call_in_turn, clock)
        self.group_notices = GroupNotices(self.notifier, self._call_in_turn, clock)
        self.delivery = Delivery(self.sessions, (self.presence, self.group_notices))
        if not self.is_node:
            self.delivery.may_have_sent(world.disk.mark() - 1)
        self.retention = Retention(world.history_days, clock, trusted_clock.now)
        self.indexing = DeferredIndexing(self.retention.keeps_history, clock)
        self.quotas = Quotas(world.quotas, clock)
        self.last_seen = LastSeen(trusted_clock.latest, clock)
        if world.is_complete:
            self.sessions.on_offline = self._went_offline
        receipts = Receipts(self.presence, self.sessions)
        devices = Devices(self.sessions, world.limits_of_devices, clock)
        if world.has_several_devices:
            self.retention.devices = devices
        self.store = Store(
            writer,
            self.delivery,
            self.indexing,
            self.retention,
            self.quotas,
            self.groups.forget_all,
            clock,
            on_database_went_back=self._begin_anew,
            last_seen=self.last_seen,
            receipts=receipts,
            devices=devices,
        )
        receipts.attach(self.delivery, self.store.read_pointers)
        reader = Dao(DatabaseConnection(engine))

        @contextlib.contextmanager
        def reading() -> Iterator[Dao]:
            yield reader

        keeps_history = self.retention.keeps_history
        policy = Policy(password_cost=1, keeps_history=keeps_history, is_node=self.is_node)
        self.guard = LoginGuard()
        self.services = Services(
            policy,
            self.sessions,
            self.presence,
            self.group_notices,
            self.groups,
            self.delivery,
            reading,
            self.guard,
            trusted_clock,
            read_pointers=self.store.read_pointers,
            receipts=receipts,
            devices=devices,
        )
        self.devices = devices
        self.store.blocks = self.services.blocks
        self.services.blocks.is_stale = world.has_contacts
        self.dispatcher = WatchedDispatcher(self.services, self.store, 1, world.queue_size, 1.0)
        self.dispatcher.hash_at_once()
        self.dispatcher.overseer = world.overseer
        self.dispatcher.takes_turns = lambda: world.rng.random() < world.turns_of_workers

    def _open(self) -> tuple[SqliteEngine, Dao, TrustedClock]:
        """The way to the database, the store's Dao, and the clock."""
        world = self._world
        engine = FaultyEngine(world.disk, world.faults, world.overseer, world.may_act_meanwhile)
        trusted_clock = TrustedClock(wall=world.wall, monotonic=world.clock)
        trusted_clock.start(world.disk.mark(), world.disk.times())
        return engine, Dao(DatabaseConnection(engine), trusted_clock), trusted_clock

    def _begin_anew(self) -> None:
        self._world.overseer.fail("the server believes that the database has gone back")

    def _went_offline(self, user: str) -> None:
        self.last_seen.session_ended(user)
        self._world.overseer.ends_seen[user] = self.last_seen.pending[user]

    def _call_in_turn(self, due: float, function: Callable[[], None]) -> None:
        self._world.call_at(due, lambda: self.store.call_soon(function))

    def is_starved(self, session: Session) -> bool:
        """Whether a session could be given more, and nobody is going to do so."""
        if session.transport.is_closed:  # by the server, and its reader has not noticed yet
            return False
        is_known = session.caught_up or session in self.delivery._to_feed or session in self.store._with_room
        is_known = is_known or session.transport.is_closed  # it needs nothing more
        return not is_known and session.has_room

    def leftovers(self) -> dict[str, int]:
        """How much is left in memory that must be empty when no client is connected."""
        sizes: dict[str, Any] = {
            "sessions": self.sessions._by_user,
            "to feed": self.delivery._to_feed,
            "pushed": self.delivery._pushed,
            "unindexed": self.indexing._unindexed,
            "jobs": self.store._jobs,
            "delivered": self.store._delivered,
            "passed over": self.store._passed_over + self.delivery.passed_over,
            "with room": self.store._with_room,
            "calls": self.store._calls,
            "inboxes in which much waits": self.quotas._heavy,
            "news": self.quotas.news,
            "doubtful jobs": self.store._doubtful_jobs,
            "lists of friends": self.presence._friend_lists,
            "watchers": self.presence._watchers,
            "online": self.presence._announced_online,
            "ends of sessions": self.last_seen.pending,
            "untold": self.presence.untold,
            "untold groups": self.group_notices.untold,
            "what was read": self.store.read_pointers,
            "unwritten": self.notifier._unwritten,
        }
        return {name: len(value) for name, value in sizes.items() if value}
