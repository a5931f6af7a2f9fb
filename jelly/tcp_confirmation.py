"""Confirmation by TCP: which messages the machine of a client has that cannot acknowledge them.

A message to such a client counts as delivered after three steps, in this order:

1. all of it was written to the socket (`written_id`);
2. the client's TCP has acknowledged it (`tcp_acked_id`), and nothing that the client sent before
   that lies unread;
3. the client has sent something more (`connection.py`).

TCP tells nobody when it has an acknowledgement, so it must be asked: a moment after the write, and
then less and less often.

A client that ends the session, by a LOGOUT or by closing its half, may do so within that moment. So
the reader asks then, too (`delivered_before`), but only about messages that were written before the
client's last word had arrived.
"""

import socket

from jelly import tcp

CONFIRM_DELAY = 0.05
"""Seconds until TCP is asked for the first time after a write."""
CONFIRM_DELAY_MAX = 1.0
"""At most this many seconds until TCP is asked again. The delay doubles each time."""


class TcpConfirmation:
    """How far the messages of one connection have got. Not thread-safe: the send queue has a lock.

    `gap`: seconds between two frames to this client. TCP is not asked sooner than that after a
    write.
    """

    __slots__ = ("_arrived", "_before", "_delay", "_last", "_sock", "check_at", "gap", "tcp_acked_id", "written_id")

    def __init__(self, sock: socket.socket, gap: float = 0.0) -> None:
        self.gap = gap
        self.written_id = 0
        self.tcp_acked_id = 0
        self.check_at: float | None = None
        """When to call `check`; None while there is nothing to ask."""
        self._sock = sock
        self._delay = CONFIRM_DELAY
        self._arrived = 0
        # How many bytes of the client had arrived when the last message was written, and its id;
        # and the same about the last message that was written when fewer bytes had arrived.
        self._last = self._before = (0, 0)

    def before_write(self, read_bytes: int) -> None:
        """Something is about to be written. `read_bytes`: how many bytes the reader has read."""
        # Not after the write: the client may have read the message and answered by then.
        self._arrived = tcp.arrived(self._sock, read_bytes)

    def note_written(self, id: int, now: float) -> None:
        """All messages up to this one are written now."""
        if id > self.written_id:
            self.written_id = id
            if self._arrived > self._last[0]:
                self._before = self._last
            self._last = (self._arrived, id)
            if self.check_at is None:
                self._delay = max(self.gap, CONFIRM_DELAY)
                self.check_at = now + self._delay

    def delivered_before(self, read_bytes: int) -> int:
        """The id of the last message that the client had when it sent more than `read_bytes`.

        0 if that is not known, or if TCP does not have everything acknowledged.
        """
        for arrived, id in (self._last, self._before):
            if arrived <= read_bytes:
                return id if tcp.has_arrived(self._sock) else 0
        return 0

    def check(self, now: float, is_all_written: bool, read_bytes: int) -> None:
        """Ask TCP, if it is time to. `read_bytes`: how many bytes the reader has read."""
        if self.check_at is None or now < self.check_at:
            return
        # What came before this moment is no sign that the client has read its messages: so nothing
        # may lie unread now, or it would be taken for one later.
        if is_all_written and tcp.unacknowledged(self._sock) == 0 and not tcp.has_unread(self._sock, read_bytes):
            self.tcp_acked_id = self.written_id
            self.check_at = None
        else:
            self._delay = min(2 * self._delay, CONFIRM_DELAY_MAX)
            self.check_at = now + self._delay
