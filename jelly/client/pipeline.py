"""What a client does on its current connection: sends requests, pairs responses, acknowledges.

**Pairing.** The protocol has no request ids in responses. A response belongs to the oldest request
of its type in flight. A response that came after its request had timed out would be paired with a
later request. That is why a timeout ends the connection.

**Two kinds of servers.** A server that grants features takes any number of requests at once, so the
client *pipelines* up to WINDOW of them. A server that grants none may be the original one. That one
stalls for ever when two frames arrive in one read, and it answers overlapping requests in any
order. So the client keeps one request in flight there, and sends nothing within CLASSIC_GAP after a
heartbeat.

**The rate.** A server may refuse messages for their rate, and say when to send them again. The
client then waits for the responses to all that is in flight, and for that time. It sends the
refused ones again in their old order, at first one, and twice as many after each round in which
none was refused.
"""

import time
from collections.abc import Callable
from typing import Any

from jelly.client.acks import AckTracker
from jelly.client.lifecycle import FOREVER
from jelly.client.locks import Condition
from jelly.client.pending import PendingRequests
from jelly.client.poller import READ
from jelly.client.requests import Request, timed_out
from jelly.client.stream import FrameStream
from jelly.codec import Type
from jelly.requests import encode_request

WINDOW = 128
"""At most this many requests are in flight, at a server that takes more than one at once."""
CLASSIC_GAP = 0.1
"""Seconds between a heartbeat and the next request, at a server that may be the original one."""
IDLE_HEARTBEATS = 6
"""How many intervals of the heartbeat a server may send nothing until the client asks whether it
runs..."""
IDLE_SECONDS = 30.0
"""... but at most this many seconds."""
HEARTBEAT = encode_request(Type.HEARTBEAT, {})


class Pipeline:
    """The requests and acknowledgements of one client.

    The caller holds the lock of the `Lifecycle`.
    """

    def __init__(self, lock: Condition, wake: Callable[[], None], request_timeout: float, heartbeat: float) -> None:
        """`lock` is notified when requests leave the queue. `wake` wakes the network thread.

        `request_timeout`: seconds until a response must arrive. `heartbeat`: at most this many
        seconds without sending.
        """
        self._lock, self._wake = lock, wake
        self._request_timeout, self._heartbeat = request_timeout, heartbeat
        self.pending = PendingRequests()
        self.acks = AckTracker()
        self.stream: FrameStream | None = None
        """The current connection; None while there is none."""
        self.features: frozenset[str] | None = None
        """The features that the server granted last; None if it does not know features."""
        self.is_reading = True
        """Whether the network thread waits for frames. If not, it waits for other events only."""
        self.is_handling_frames = False
        """Whether the network thread is handling frames, from which callbacks may still come."""
        self.is_sending = False
        """Whether requests are being written. The thread that does that holds the lock: who sees
        this is a signal handler in the midst of it."""
        self._was_interrupted = False  # by such a handler, which has made requests, too
        self._window = self._full_window = 1
        self._send_not_before = 0.0  # requests must wait until this monotonic time
        self._wakes_at = 0.0  # when the network thread wakes up by itself

    def connected(self, stream: FrameStream, features: frozenset[str] | None) -> None:
        """Use a new connection, on which the server has accepted the login."""
        self.stream, self.features = stream, features
        self._window = self._full_window = 1 if features is None else WINDOW
        self._send_not_before = 0.0
        if features is None:
            # The original server keeps a user online for ever if the connection ends before its
            # first heartbeat.
            self._send_heartbeat(stream, time.monotonic())
        self.acks.connected()

    @property
    def has_acks(self) -> bool:
        """Whether the server knows acknowledgements and idempotency keys."""
        return "ack" in (self.features or ())

    def submit(self, request: Request[Any]) -> None:
        """Queue a new request, and send it now if that is allowed.

        A message that is made while there is no connection waits for the next one.
        """
        if self.stream is None:
            self.pending.add_for_later(request)
            return
        self.pending.add(request)
        self._send_queued(time.monotonic())

    def plan(self, stream: FrameStream, may_read: bool) -> tuple[int, float]:
        """Return the events that the network thread must wait for, and until which monotonic time.

        While requests are in flight it reads even if it otherwise may not.
        """
        in_flight = self.pending.in_flight
        self.is_reading = may_read or bool(in_flight)
        self._wakes_at = min(
            stream.last_write_at + self._heartbeat,
            in_flight[0].deadline if in_flight else FOREVER,
            self._send_not_before if self.pending.can_send(self._window) else FOREVER,
        )
        return (READ if self.is_reading else 0) | stream.events, self._wakes_at

    def do_due_work(self, stream: FrameStream) -> None:
        """Send what is due: a heartbeat, queued requests.

        Raises RequestTimeout if a response is overdue.
        """
        now = time.monotonic()
        in_flight = self.pending.in_flight
        if in_flight and in_flight[0].deadline <= now:
            raise timed_out(self._request_timeout)
        if now - stream.last_write_at >= self._heartbeat:
            self._send_heartbeat(stream, now)
        self._send_queued(now)

    def silent_since(self, stream: FrameStream) -> float:
        """The monotonic time since which the server owes a response and has sent nothing.

        FOREVER if it owes none.
        """
        in_flight = self.pending.in_flight
        return max(stream.last_read_at, in_flight[0].deadline - self._request_timeout) if in_flight else FOREVER

    def idle_until(self, stream: FrameStream) -> float:
        """The monotonic time at which to ask an idle server whether it runs; FOREVER if it is not
        idle."""
        is_idle = not (self.pending.in_flight or self.pending.queued)
        return stream.last_read_at + min(IDLE_HEARTBEATS * self._heartbeat, IDLE_SECONDS) if is_idle else FOREVER

    def retry_later(self, request: Request[Any]) -> bool:
        """Queue a resend again that the server was too busy for.

        Returns False, and queues nothing, if that happened too often.
        """
        backoff = self.pending.retry_later(request)
        if backoff is None:
            return False
        # The maximum, because an older resend may have to wait longer.
        self._send_not_before = max(self._send_not_before, time.monotonic() + backoff)
        return True

    def slow_down(self, request: Request[Any], seconds: float) -> None:
        """Send a request again after some seconds, which the server has refused for the rate."""
        self.pending.put_back(request)
        self._window = 1  # so nothing is sent while other requests are in flight
        self._send_not_before = max(self._send_not_before, time.monotonic() + seconds)

    def speed_up(self) -> None:
        """Send more at a time, if all that was in flight is answered and nothing was refused."""
        if self._window < self._full_window and not self.pending.in_flight:
            self._window *= 2

    def acknowledge(self, id: int | None) -> None:
        """Acknowledge all messages up to an id; do nothing for None, or without a connection."""
        if id is not None:
            self.send_unanswered(encode_request(Type.ACK, {"id": id}))

    def send_unanswered(self, frame: bytes) -> None:
        """Send the frame of a request that has no response; do nothing without a connection."""
        if self.stream is not None:
            self.stream.send(frame)
            if self.stream.events:
                self._wake()

    def _send_heartbeat(self, stream: FrameStream, now: float) -> None:
        stream.send(HEARTBEAT)
        if self.features is None:
            self._send_not_before = now + CLASSIC_GAP

    def _send_queued(self, now: float) -> None:
        """Send the queued requests that may be sent now, in one write."""
        stream, pending = self.stream, self.pending
        if stream is None:
            return
        if now < self._send_not_before:
            if self._send_not_before < self._wakes_at:
                self._wake()  # so that the network thread plans anew, and sends at that time
            return
        if self.is_sending:
            self._was_interrupted = True
            return
        queued = len(pending.queued)
        self.is_sending = True
        try:
            frames = self._take_frames(now)
            if frames:
                stream.send(b"".join(frames))
        except BaseException:
            # Ctrl-C, or a signal handler that raises. If not all of these were written, the
            # responses to later ones would be taken for theirs.
            stream.give_up("sending was interrupted")
            pending.drop_sent()
            self._wake()
            raise
        finally:
            self.is_sending = False
        if len(pending.queued) < queued:  # also if all of them were cancelled: there is room
            self._lock.notify_all()
        # Wake the network thread if it does not wait for the right events or time, or if a signal
        # handler has left it something to send.
        if self._was_interrupted or (
            frames and (stream.events or not self.is_reading or pending.in_flight[0].deadline < self._wakes_at)
        ):
            self._was_interrupted = False
            self._wake()

    def _take_frames(self, now: float) -> list[bytes]:
        """Take the requests that may be sent now for sent, and return their frames."""
        pending, frames = self.pending, []
        while pending.can_send(self._window):
            request = pending.queued[0]
            # The future of a resend runs already. A new request may have been cancelled meanwhile.
            if request.future.running() or request.future.set_running_or_notify_cancel():
                pending.mark_sent(request, now + self._request_timeout)
                frames.append(request.frame)
            pending.queued.popleft()  # last: at each moment it is in one place at least
        return frames
