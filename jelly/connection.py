"""One connection, from its first byte to its last: the reader.

Each connection has a thread that does nothing but read: it blocks in `recv`, cuts what came into frames,
takes heartbeats and acknowledgements, and puts requests into the connection's lane (`queue_dispatch.py`). It
runs no service and touches no database, so it is back in `recv` at once. It stops reading only while its lane
is full, or while the client does not take its answers; TCP then tells the client to wait.
"""

import logging
import socket
import socketserver
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from jelly import tcp
from jelly.codec import HEADER, Decoder, Frame, Sign, Type
from jelly.errors import ErrorCode, Refused
from jelly.messages import parse_ack
from jelly.queue_dispatch import Lane, PendingRequest
from jelly.send_queue import SendQueue
from jelly.sessions import Session
from jelly.tls import TlsFilter

if TYPE_CHECKING:
    from jelly.server import JellyServer

log = logging.getLogger("jelly.connection")

READ_SIZE = 16 * 1024
IDLE_READ_SIZE = 448
"""A reader that waits holds a buffer of the size that it asks for. After a heartbeat it asks for little: idle clients
send nothing else, and 5,000 of them would hold 80 MB. (Less than 512 bytes with its header, so that it costs no more
than itself in Python's own allocator.)"""
HEARTBEAT_SIZE = HEADER.size
UNANSWERED = {Type.HEARTBEAT, Type.ACK}
"""What the reader itself handles: these are never answered, and never wait in the queue."""
LAST_ANSWERS = 5.0
"""Seconds that a client which has closed its half of the connection may wait for its last answers."""


class Connection(socketserver.BaseRequestHandler):
    """The handler that socketserver runs in a thread of its own for each client."""

    server: "JellyServer"
    request: socket.socket

    def setup(self) -> None:
        self.address = str(self.client_address[0])
        self.thread = threading.current_thread()
        self.thread.name = f"jelly-reader-{self.address}:{self.client_address[1]}"
        tcp.prepare(self.request)
        self.tls = TlsFilter(self.server.tls_context) if self.server.tls_context else None
        settings = self.server.settings
        self.send_queue = SendQueue(
            self.request,
            self.server.flusher,
            settings.classic_gap / 1000,
            on_room=self._wants_more,
            seal=self.tls.seal if self.tls else None,
        )
        self.session = Session(self.send_queue, self.address)
        self.lane = Lane(self.session)
        self.decoder = Decoder(settings.max_body)
        # What the watchdog looks at, all in monotonic seconds.
        self.opened_at = self.last_read_at = time.monotonic()
        self.incomplete_since: float | None = self.opened_at if self.tls else None
        self.has_spoken = False
        self.is_paused = False
        self.server.connections.add(self)

    def handle(self) -> None:
        try:
            if self.tls:
                self.tls.shake_hands(self._receive_handshake, self.send_queue.send_raw)
                self._read(b"")  # the first request may have come together with the end of the handshake
            size = READ_SIZE
            while data := self.request.recv(size):
                size = READ_SIZE if len(data) > HEARTBEAT_SIZE else IDLE_READ_SIZE
                self._read(data)
                if self.tls and self.tls.has_ended:
                    break
            self._on_end()
        except OSError as error:
            log.debug("%s: %s", self.address, error)

    def _receive_handshake(self) -> bytes:
        data = self.request.recv(READ_SIZE)
        self.send_queue.read_bytes += len(data)
        return data

    def finish(self) -> None:
        self.send_queue.close()
        user = self.session.user
        if (
            self.server.sessions.detach(self.session) and user is not None
        ):  # after the close: see Services._attach_session
            self.server.store.call_soon(partial(self.server.presence.refresh, user))
        self.server.flusher.forget(self.request)
        self.server.connections.discard(self)

    def _read(self, data: bytes) -> None:
        """Take the next bytes of the stream. (For each message twice: hence the local names, and few calls.)"""
        session, send_queue, decoder = self.session, self.send_queue, self.decoder
        send_queue.read_bytes += len(data)
        now = self.last_read_at = time.monotonic()
        self.has_spoken = True
        if session.closing or self.server.is_stopping or decoder.error_type is not None:
            return  # nothing is served any more; what still comes is thrown away until the client has closed
        if send_queue.tcp_acked_id > session.delivered_id:
            self._note_sign_of_life()
        if self.tls:
            data = self.tls.open(data)
        frames = decoder.feed(data)
        if not decoder.has_incomplete_frame:
            self.incomplete_since = None
        elif frames or self.incomplete_since is None:
            self.incomplete_since = now
        requests = [
            PendingRequest(frame, now) for frame in frames if frame.type not in UNANSWERED or not self._is_done(frame)
        ]
        if decoder.error_type is not None:
            malformed = Frame(Sign.REQUEST, decoder.error_type, 0, b"")
            requests.append(PendingRequest(malformed, now, ErrorCode.MALFORMED_FRAME))
            self.incomplete_since = None
        if requests:
            self.server.dispatcher.submit(self.lane, requests)
        if self.lane.is_full or send_queue.is_full:
            self._pause()

    def _is_done(self, frame: Frame) -> bool:
        """Whether a heartbeat or an ACK is done with. That it was read is all that a heartbeat is for."""
        if frame.sign != Sign.REQUEST:
            return False
        if frame.type == Type.HEARTBEAT:
            self.session.has_heartbeat = True
            return True
        return self._acknowledge(frame)

    def _acknowledge(self, frame: Frame) -> bool:
        """Take an ACK. One that is malformed, or before the login, is answered like any other such request."""
        session = self.session
        if session.user is None:
            return False
        try:
            id = parse_ack(frame.body)
        except Refused:
            return False
        window = session.window
        # Only what was sent on this connection can be acknowledged on it: any other id is nobody's business.
        if window is not None and window.acknowledge(id):
            self.server.store.delivered(session.user, id)
            if not session.caught_up and window.has_room:
                self._wants_more()
        return True

    def _note_sign_of_life(self) -> None:
        """For a client that cannot acknowledge this counts: its TCP has everything, and it speaks after that.

        (Nothing that was sent to one that can is ever `tcp_acked_id` or `written_id`: its own word counts.)
        """
        session = self.session
        if session.user is not None:
            session.delivered_id = self.send_queue.tcp_acked_id
            self.server.store.delivered(session.user, session.delivered_id)

    def _on_end(self) -> None:
        """The client has closed in good order. (With unread data in its hands, TCP would have sent a reset.)"""
        if self.send_queue.is_closed or self.send_queue.last_words_at is not None:
            return  # the end is ours: it says nothing about what the client has read
        user, written = self.session.user, self.send_queue.written_id
        if user is not None and written > self.session.delivered_id and tcp.unacknowledged(self.request) == 0:
            self.session.delivered_id = written
            self.server.store.delivered(user, written)
        # It may have closed its half only, and still wait for what it asked.
        deadline = time.monotonic() + LAST_ANSWERS
        self.server.dispatcher.wait_until_idle([self.lane], deadline)
        self.send_queue.finish()
        while self.send_queue.finished_at is None and not self.send_queue.is_closed and time.monotonic() < deadline:
            time.sleep(0.01)  # answers that are spaced, or that the client takes slowly

    def _pause(self) -> None:
        """Do not read on while too much waits, in the lane or in the send_queue."""
        self.is_paused = True
        while not self.server.is_stopping and not self.send_queue.is_closed:
            if self.server.dispatcher.wait_for_room(self.lane, 1.0) and self.send_queue.wait_for_room(1.0):
                break
            self.last_read_at = time.monotonic()
        self.is_paused = False

    def _wants_more(self) -> None:
        if not self.session.caught_up and self.session.user is not None:
            self.server.store.wants_more(self.session)
