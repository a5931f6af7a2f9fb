"""The pacing of classic clients: which frame goes next, and when. Knows no socket, thread or clock.

A classic client decodes a frame only when the bytes that it has read end exactly where the frame
ends. Two frames that one read brings together, it never decodes. So each frame is written by
itself, a gap after the one before. (The original client, with 20 messages waiting for it on a busy
machine: 1 arrived with a gap of 50 ms, all with 100 ms.)

One kind of frame needs no gap: a response, when the frame before it was a response, too, and its
request came in after that one was written. Then the client has read that one, for it asks again
only when it is answered. So a client that waits for its answers is served at full speed. As soon
as a notice waits for such a client, responses and notices take turns.
"""

from collections.abc import Sequence

from jelly.sessions import Notice, Response

LONG_AGO = float("-inf")


class ClassicPacing:
    """Decides about the frames to one client. `gap`: seconds between two frames.

    For each frame ask `is_notices_turn` and `next_due`; then write it, and say so: `begin_frame`,
    `end_frame`. All times are monotonic.
    """

    __slots__ = ("_begun_at", "_ended_at", "_has_overlap", "_was_response", "gap")

    def __init__(self, gap: float) -> None:
        self.gap = gap
        # About the last frame that was written:
        self._begun_at = LONG_AGO
        self._ended_at = LONG_AGO
        self._was_response = False
        self._has_overlap = False  # when it was written, the next request had come in already

    def is_notices_turn(self, has_responses: bool, has_notices: bool) -> bool:
        """Whether the next frame is a notice, not a response.

        Neither waits for all of the other kind: not responses for a long backlog of messages, and
        not messages for a client that never stops asking.
        """
        return has_notices and (self._was_response or not has_responses)

    def next_due(self, responses: Sequence[Response], notices: Sequence[Notice]) -> float:
        """When the next of these frames may be written; there must be one."""
        if responses and self._was_response and not notices and not self._has_overlap:
            received_at = responses[0].received_at
            # Compared with the time at which the last frame was begun, not ended: the client may
            # read the frame and ask again before the thread that wrote it has looked at the clock.
            if received_at > self._begun_at:
                return self._begun_at
        return self._ended_at + self.gap

    def begin_frame(self, now: float, is_response: bool, has_unread: bool = False) -> None:
        """The next frame is about to be written. `has_unread`: a request has come in unread.

        Such a request did not wait for this response, so its own response must keep the gap.
        """
        self._begun_at = now
        self._was_response = is_response
        self._has_overlap = is_response and has_unread

    def end_frame(self, now: float) -> None:
        """The last byte of a frame was written."""
        self._ended_at = now
