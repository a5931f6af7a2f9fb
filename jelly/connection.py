"""One connection, from its first byte to its last: the reader.

Each connection has a thread that does nothing but read. It blocks in `recv`, cuts what came into
frames, handles heartbeats and acknowledgements itself, and puts requests into the connection's lane
(`queue_dispatch.py`). It runs no service and touches no database, so it is back in `recv` at once.
It stops reading only while its lane is full, or while the client does not take its answers. TCP
then tells the client to wait.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from socketserver import BaseRequestHandler, BaseServer
from typing import Any

from jelly import proxy_protocol, tcp
from jelly.addresses import canonical, network_of
from jelly.admission import Connections
from jelly.answer_memory import AnswerMemory
from jelly.codec import HEADER, MAX_FIRST_BODY, Decoder, Frame, Sign, Type
from jelly.config import Settings
from jelly.conversation_service import conversation_of
from jelly.errors import ErrorCode, Refused
from jelly.pacing import ClassicPacing
from jelly.presence import Presence
from jelly.queue_dispatch import LANE_LIMIT, Dispatcher, Lane, PendingRequest
from jelly.requests import Read, parse_ack, parse_request
from jelly.send_queue import Flusher, SendQueue
from jelly.sessions import Session, Sessions
from jelly.store import Store
from jelly.tcp_confirmation import TcpConfirmation
from jelly.tls import TlsFilter

log = logging.getLogger("jelly.connection")

READ_SIZE = 16 * 1024
"""Bytes that a reader asks for."""
IDLE_READ_SIZE = 448
"""Bytes that a reader asks for after a heartbeat.

A reader that waits holds a buffer of the size that it asks for. Idle clients send nothing but
heartbeats, and with READ_SIZE 5,000 of them would hold 80 MB. (With its header the buffer takes
less than 512 bytes, so that it costs no more than itself in Python's own allocator.)
"""
HEARTBEAT_SIZE = HEADER.size
CONFIRMING = {Type.ACK, Type.LOGOUT, Type.READ}
"""The requests that say which messages the client has, or its user has read."""
REQUESTS_AT_ONCE = 64
"""How many requests a reader puts into its lane until it looks whether the lane is full."""
IDLE_RATE = 1000
"""At most this many frames that ask for nothing are read of one client in a second: heartbeats, and
acknowledgements of what it was not sent. Hundreds of thousands would take the time of all others.
"""
PAUSE_STEP = 0.05
"""Seconds until a reader that pauses looks whether its connection has been closed."""
HALF_CLOSE_TIMEOUT = 5.0
"""Seconds until a client that has closed its half must have taken its last answers."""


@dataclass
class ServerContext:
    """What a server shares with its connections."""

    settings: Settings
    tls_context: ssl.SSLContext | None
    """Replaced as a whole when the certificate is read anew. A connection keeps its own."""
    flusher: Flusher
    dispatcher: Dispatcher
    store: Store
    sessions: Sessions
    presence: Presence
    connections: "Connections[Connection]"
    answer_memory: AnswerMemory
    proxies: tuple[proxy_protocol.Network, ...] = ()
    """From these networks, a PROXY protocol header must come first."""
    is_stopping: bool = False
    """Once this is set, requests are read and thrown away.

    (A connection enters `connections` before it looks at this. A stop sets this before it looks at
    `connections`. The lock there is in between. So one of the two sees the other.)
    """


class Connection(BaseRequestHandler):
    """The handler that socketserver runs in a thread of its own for each client."""

    request: socket.socket
    bytes_before_login = 0
    """Bytes of bodies that have come since the lane was last seen idle; counted until the login."""
    idle_frames = 0
    """How many frames that ask for nothing the last read has brought."""
    idle_until = 0.0
    """The monotonic time up to which such frames are paid for (a token bucket)."""
    awaits_login = True
    """Whether no LOGIN, REGISTER or RECONNECT was read yet."""
    sends_only_heartbeats = True
    """Whether nothing else was read yet: the client is there, and its user types a password."""

    def __init__(self, context: ServerContext, request: socket.socket, client_address: Any, server: BaseServer) -> None:
        """Serve the client; return when the connection is over."""
        self.context = context
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        context, settings = self.context, self.context.settings
        self.address = canonical(str(self.client_address[0]))
        self.thread = threading.current_thread()
        self.thread.name = f"jelly-reader-{self.address}:{self.client_address[1]}"
        tcp.set_socket_options(self.request)
        tcp.limit_buffers(self.request)
        self.tls = TlsFilter(context.tls_context) if context.tls_context else None
        gap = settings.classic_gap / 1000
        self.send_queue = SendQueue(
            self.request,
            context.flusher,
            on_room=self._ask_for_more_messages,
            pacing=ClassicPacing(gap) if gap else None,
            confirmation=TcpConfirmation(self.request, gap),
            encrypt=self.tls.encrypt if self.tls else None,
            memory=context.answer_memory,
            on_finish=self._leave_place,
        )
        self.session = Session(self.send_queue, self.address)
        self.lane = Lane(self.session)
        self.session.when_served = partial(context.dispatcher.when_served, self.lane)
        self.decoder = Decoder(settings.max_body, MAX_FIRST_BODY)
        # The watchdog looks at the following, without a lock: only this thread changes them, each
        # in one step. Times are in monotonic seconds.
        self.opened_at = self.last_read_at = time.monotonic()
        self.incomplete_since: float | None = self.opened_at if self.tls else None
        self.header_since = self.opened_at if proxy_protocol.is_in(self.address, context.proxies) else None
        self.has_received_data = False
        self.is_paused = False
        context.connections.add(self)
        if context.is_stopping:  # `stop` may have looked at the connections just before this one was there
            self.send_queue.close()

    def handle(self) -> None:
        try:
            if self.header_since is not None and not self._read_proxy_header():
                return
            if self.tls:
                self.tls.handshake(self._receive, self.send_queue.send_raw)
                self._read(b"")  # the first request may have come with the end of the handshake
            size = READ_SIZE
            while data := self.request.recv(size):
                size = READ_SIZE if len(data) > HEARTBEAT_SIZE else IDLE_READ_SIZE
                self._read(data)
                if self.tls and self.tls.has_ended:
                    break
            self._handle_end_of_stream()
        except OSError as error:
            log.debug("%s: %s", self.address, error)

    def finish(self) -> None:
        context = self.context
        try:
            self.send_queue.close()
            context.dispatcher.stop_waiting(self.lane)
            # After the close: a login may be under way. See SessionLifecycle.attach.
            user = self.session.user
            if context.sessions.detach(self.session) and user is not None:
                context.store.call_soon(partial(context.presence.refresh, user))
        finally:  # whatever fails, the connection does not keep its place
            context.flusher.forget(self.request)
            context.connections.discard(self)

    # --- reading ----------------------------------------------------------------------------------

    def _receive(self, size: int = READ_SIZE) -> bytes:
        """Receive what comes before the protocol itself."""
        data = self.request.recv(size)
        self.send_queue.read_bytes += len(data)
        if self.header_since is None:
            self._note_proxy_header(data)
        return data

    def _note_proxy_header(self, data: bytes) -> None:
        """Tell the operator if these bytes are the connection's first, and a header that is not
        expected.
        """
        if self.send_queue.read_bytes == len(data) and proxy_protocol.begins(data):
            self.context.connections.refuse(proxy_protocol.IS_UNEXPECTED, self.address)

    def _read_proxy_header(self) -> bool:
        """Learn from the proxy who the client is. Return False if the connection must end."""
        try:
            client = proxy_protocol.read_header(self._receive)
        except proxy_protocol.HeaderError as error:
            self.turn_away(str(error))
            return False
        self.header_since = None
        self.last_read_at = time.monotonic()
        if self.tls:
            self.incomplete_since = self.last_read_at
        if client is not None:
            self.address = self.session.address = client.address
            self.thread.name = f"jelly-reader-{client.address}:{client.port}"
            return self.context.connections.identify(self, network_of(client.address))
        return True

    def _read(self, data: bytes) -> None:
        """Take the next bytes of the stream, and pass on the requests that they complete.

        This runs twice for each message. Hence the local names, and few calls.
        """
        session, send_queue, decoder = self.session, self.send_queue, self.decoder
        count = len(data)
        # Before these bytes count as read: until then, the flusher confirms nothing.
        tcp_acked_id = send_queue.tcp_acked_id
        send_queue.read_bytes += count
        now = self.last_read_at = time.monotonic()
        self.has_received_data = True
        # At the end nothing is served any more. What still comes is read and thrown away: closing a
        # socket with unread bytes would send a reset, and the client could lose its last answers.
        if session.closing or self.context.is_stopping or decoder.error_type is not None:
            return
        # The client had these messages before it sent what we have just read.
        if tcp_acked_id > session.delivered_id:
            self._report_delivered(tcp_acked_id)
        if self.tls:
            data = self.tls.decrypt(data)
        frames = decoder.feed(data)
        # A frame that has begun has a deadline. It moves when another frame begins, not when more
        # of this one comes: else a byte now and then would keep the connection open for ever.
        if not decoder.has_incomplete_frame:
            self.incomplete_since = None
        elif frames or self.incomplete_since is None:
            self.incomplete_since = now
        requests: list[PendingRequest] = []
        for frame in frames:
            # Heartbeats and acknowledgements get no answer, so they need not wait for their turn.
            if frame.type == Type.HEARTBEAT and frame.sign == Sign.REQUEST:
                session.has_heartbeat = True
                self.idle_frames += 1
            elif frame.type not in CONFIRMING or not self._confirm(frame, send_queue.read_bytes - count):
                requests.append(PendingRequest(frame, now))
        if decoder.error_type is not None:
            self._note_proxy_header(data)
            malformed = Frame(Sign.REQUEST, decoder.error_type, 0, b"")
            requests.append(PendingRequest(malformed, now, ErrorCode.MALFORMED_FRAME, decoder.error_sentence))
            self.incomplete_since = None
        if requests:
            session.received_at = now  # before a worker may answer them
            self._submit(requests)
        if self.idle_frames:
            self._limit_idle_frames(now)

    def _submit(self, requests: list[PendingRequest]) -> None:
        """Have requests served. Wait while too many of them wait, or too many answers."""
        if self.session.user is None:
            requests = self._submit_before_login(requests)
        while requests:
            some, requests = requests[:REQUESTS_AT_ONCE], requests[REQUESTS_AT_ONCE:]
            self.context.dispatcher.submit(self.lane, some)
            if len(self.lane.waiting) >= LANE_LIMIT or self.send_queue.is_full:
                self._pause(self._has_room)
                if self.context.is_stopping or self.send_queue.is_closed:
                    break

    def _limit_idle_frames(self, now: float) -> None:
        """Pause if more frames have come than the client may send that ask for nothing."""
        self.idle_until = max(self.idle_until, now) + self.idle_frames / IDLE_RATE
        self.idle_frames = 0
        if self.idle_until > now + 1.0:
            self._pause(self._is_idle_time_over)

    def _is_idle_time_over(self) -> bool:
        time.sleep(PAUSE_STEP)
        return time.monotonic() >= self.idle_until - 1.0

    def _confirm(self, frame: Frame, read_bytes: int) -> bool:
        """Handle an ACK, and return True; False if the frame must be served like other requests.

        An ACK is answered, with an error, if it is malformed or comes before the login. A LOGOUT is
        served, but it says that the client had what was written before it. `read_bytes`: how many
        bytes of the client had been read before the frame came.
        """
        session = self.session
        if session.user is None or frame.sign != Sign.REQUEST:
            return False
        if frame.type == Type.LOGOUT:
            self._report_last_word(read_bytes)
            return False
        if frame.type == Type.READ:
            return self._note_read(frame)
        try:
            id = parse_ack(frame.body)
        except Refused:
            return False
        window = session.window
        # A client can acknowledge what it was sent on this connection. Other ids are ignored.
        if window is not None and window.acknowledge(id):
            if session.told is not None:  # first: the store looks at it when it removes the rows
                session.told.note_delivered(id)
            self.context.store.delivered(session, id)
            if not session.caught_up and window.has_room:
                self._ask_for_more_messages()
        else:
            self.idle_frames += 1
        return True

    def _note_read(self, frame: Frame) -> bool:
        """Handle a READ, and return True; False if it must be served, because it is wrong."""
        session = self.session
        if "read" not in session.features:
            return False
        try:
            request = parse_request(Type.READ, frame.body)
            assert isinstance(request, Read)
            is_group, partner = conversation_of(request)
        except Refused:
            return False
        self.context.store.read_pointers.note(session, is_group, partner, request.id)
        self.idle_frames += 1
        return True

    def _report_delivered(self, upto: int) -> None:
        """Messages up to this id have reached a client that cannot acknowledge them.

        (For a client that can, `tcp_acked_id` and `written_id` stay 0: only its own
        acknowledgements count.)
        """
        session = self.session
        if session.user is not None:
            session.delivered_id = upto
            if session.told is not None:
                session.told.note_delivered(upto)
            self.context.store.delivered(session, upto)

    def _report_last_word(self, read_bytes: int) -> None:
        """The client ends its session, by what follows after `read_bytes`: it had what was written
        before.
        """
        upto = self.send_queue.delivered_before(read_bytes)
        if upto > self.session.delivered_id:
            self._report_delivered(upto)

    def _submit_before_login(self, requests: list[PendingRequest]) -> list[PendingRequest]:
        """Have requests served that were read before a login was answered, one at a time.

        Anybody can send them, and hashing takes long: so no more than one takes a place among those
        that wait. Return the rest once a user is logged in.
        """
        self.sends_only_heartbeats = False
        if self.awaits_login and not self.decoder.awaits_login:
            self.awaits_login = False
            self.context.connections.login_was_read(self)  # now: a worker may answer it at once
        for number, request in enumerate(requests):
            if self.session.user is not None:
                return requests[number:]
            self.context.dispatcher.submit(self.lane, [request])
            self.bytes_before_login += len(request.frame.body)
            if number + 1 < len(requests) or self.bytes_before_login > MAX_FIRST_BODY:
                self._pause(self._is_idle)
                self.bytes_before_login = 0
            if self.session.closing:
                break
        return []

    def _pause(self, may_go_on: Callable[[], bool]) -> None:
        """Do not read until `may_go_on` returns True. It waits a second at most each time."""
        self.is_paused = True
        is_within_frame = self.incomplete_since is not None
        self.incomplete_since = None  # a frame that is not read cannot become complete
        while not self.context.is_stopping and not self.send_queue.is_closed and not may_go_on():
            self.last_read_at = time.monotonic()
        if is_within_frame:
            self.incomplete_since = time.monotonic()
        self.is_paused = False

    def _is_idle(self) -> bool:
        return self.context.dispatcher.wait_until_idle([self.lane], time.monotonic() + 1.0)

    def _has_room(self) -> bool:
        """Whether neither the lane nor the send queue is full."""
        return self.context.dispatcher.wait_for_room(self.lane, 1.0) and self.send_queue.wait_until_not_full(1.0)

    def _ask_for_more_messages(self) -> None:
        if not self.session.caught_up and self.session.user is not None:
            self.context.store.wants_more(self.session)

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection now. Any thread may call this."""
        self.send_queue.close()

    def turn_away(self, reason: str) -> None:
        """Close the connection, unless it is closed, and count the reason for the log."""
        if not self.send_queue.is_closed:
            self.context.connections.refuse(reason, self.address)
            self.send_queue.close()

    def _leave_place(self) -> None:
        """The last answers are on their way: from now on others may need the place more."""
        session = self.session
        if session.user is None or session.closing:  # otherwise the client has closed its half only
            self.context.connections.is_done_with(self)

    def _handle_end_of_stream(self) -> None:
        """The client has closed its half of the connection: finish what it asked for."""
        send_queue = self.send_queue
        if send_queue.is_closed or send_queue.closing_frame_at is not None:
            return  # the server ended it, so this says nothing about what the client has read
        # The client has read all that its TCP has: with unread data, TCP would have sent a reset.
        self._report_last_word(send_queue.read_bytes)
        self._finish_answers()

    def _finish_answers(self) -> None:
        send_queue = self.send_queue
        # The client may have closed its half only, and still wait for its answers.
        deadline = time.monotonic() + HALF_CLOSE_TIMEOUT
        self.context.dispatcher.wait_until_idle([self.lane], deadline)
        send_queue.finish()
        # A classic client gets its answers one by one, and any client may take them slowly.
        while send_queue.finished_at is None and not send_queue.is_closed and time.monotonic() < deadline:
            time.sleep(0.01)
