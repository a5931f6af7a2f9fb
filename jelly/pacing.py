"""The pacing of classic clients: which frame goes next, and when. Knows no socket, thread or clock.

A classic client decodes a frame only when the bytes that it has read end exactly where the frame
ends. Two frames that one read brings together, it never decodes. So each frame is written by
itself, a gap after the one before.

The first notices of a session make the original client load classes, which takes long on a busy
machine. So of several notices that wait, the first three have a long gap each before them. (Logins
in which it showed all of 20 messages that waited, beside 8 or 16 busy loops on two cores: 0 of 6
with 100 ms before each, 12 of 12 with 800 ms before each of the first three.) A notice that waits
alone keeps the usual gap, and what follows it waits. Responses do not wait for such a notice.

One kind of frame needs no gap: a response, when the frame before it was a response, too, and its
request came in after that one was written. Then the client has read that one, for it asks again
only when it is answered. So a client that waits for its answers is served at full speed. As soon
as a notice waits for such a client, responses and notices take turns.

The first response of each type is held for a moment. The original client writes a request first,
and then registers its listener for the answer; the first time, its machine loads classes in
between. An answer that comes earlier is never shown. (Beside 3 busy loops, first commands of each
kind: 6 of 180 answers lost; 0 of 180 when they came 30 ms after the request or later.)
"""

from collections.abc import Sequence

from jelly.sessions import Notice, Response
from jelly.timers import NEVER

SLOW_NOTICES = 3
"""How many notices of a session may need the long gap."""
LONG_GAPS = 8.0
"""Gaps that make a long gap."""
FIRST_ANSWER_GAPS = 0.3
"""Gaps from the arrival of a request until its response, if it is the first one of its type."""
LONG_AGO = float("-inf")
TYPE = slice(3, 4)
"""Where a frame has its type."""


class ClassicPacing:
    """Decides about the frames to one client. `gap`: seconds between two frames.

    For each frame ask `choose`; then write it, and say so: `begin_frame`, `end_frame`. All times
    are monotonic.
    """

    __slots__ = (
        "_answered_types",
        "_begun_at",
        "_ended_at",
        "_has_overlap",
        "_noticed_at",
        "_notices_left",
        "_waiting_since",
        "_was_response",
        "gap",
    )

    def __init__(self, gap: float) -> None:
        self.gap = gap
        self._answered_types = b""
        # About the last frame that was written:
        self._begun_at = LONG_AGO
        self._ended_at = LONG_AGO
        self._was_response = False
        self._has_overlap = False  # when it was written, the next request had come in already
        # About notices:
        self._notices_left = SLOW_NOTICES  # how many more may need the long gap
        self._noticed_at = LONG_AGO  # when the last one was written
        self._waiting_since: float | None = None  # the first of those that wait

    def choose(self, responses: Sequence[Response], notices: Sequence[Notice], now: float) -> tuple[bool, float]:
        """Whether the next of these frames is a notice, and when it may be written; there must be
        one.

        Neither kind waits for all of the other: not responses for a long backlog of messages, and
        not messages for a client that never stops asking.
        """
        due = self._ended_at + self.gap
        notice_due = self._notice_due(notices, now) if notices else NEVER
        if not responses:
            return True, notice_due
        if self._was_response:
            if notice_due <= due:
                return True, notice_due
            # Compared with the time at which the last frame was begun, not ended: the client may
            # read the frame and ask again before the thread that wrote it has looked at the clock.
            if responses[0].received_at > self._begun_at and not self._has_overlap:
                due = self._begun_at
        frame, received_at = responses[0]
        if frame[TYPE] not in self._answered_types:
            due = max(due, received_at + FIRST_ANSWER_GAPS * self.gap)
        return False, due

    def _notice_due(self, notices: Sequence[Notice], now: float) -> float:
        if self._waiting_since is None:
            self._waiting_since = now
        due = self._ended_at + self.gap
        if self._notices_left:
            long_gap = LONG_GAPS * self.gap
            due = max(due, self._noticed_at + long_gap)
            if len(notices) > 1:
                # Each response puts it off, but not again and again.
                due = max(due, min(self._ended_at, self._waiting_since) + long_gap)
        return due

    def begin_frame(self, now: float, frame: bytes, is_response: bool, has_unread: bool = False) -> None:
        """This frame is about to be written. `has_unread`: a request has come in unread.

        Such a request did not wait for this response, so its own response must keep the gap.
        """
        if is_response and frame[TYPE] not in self._answered_types:
            self._answered_types += frame[TYPE]
        self._begun_at = now
        self._was_response = is_response
        self._has_overlap = is_response and has_unread
        if not is_response:
            self._notices_left = max(0, self._notices_left - 1)
            self._waiting_since = None

    def end_frame(self, now: float) -> None:
        """The last byte of a frame was written."""
        self._ended_at = now
        if not self._was_response and self._notices_left < SLOW_NOTICES:  # not the TLS handshake
            self._noticed_at = now
