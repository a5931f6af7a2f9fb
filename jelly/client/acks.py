"""Each message once: drops duplicates and decides when to acknowledge.

No socket, no thread, no clock.

With the feature "ack" the ids of messages grow, and acknowledgements are *cumulative*: one covers
every message up to its id. The server sends unacknowledged messages again on the next connection.
It accepts an acknowledgement only for an id that it has sent on the same connection.
"""

from collections import OrderedDict

ACK_COUNT, ACK_SECONDS = 32, 0.1
"""At most this many delivered messages, or this many seconds, until an acknowledgement is sent
while more messages wait for the application."""
MAX_RECENT = 4096
"""At most this many messages are remembered for dropping duplicates. A server leaves fewer
unacknowledged."""


class AckTracker:
    """Tracks the messages with ids that a client receives.

    The caller holds the lock of the `Lifecycle`.
    """

    def __init__(self) -> None:
        # Maps ids to fingerprints. The id alone does not identify a message: a server that starts
        # again with an empty database gives the same ids to other messages.
        self._recent: OrderedDict[int, int] = OrderedDict()
        self._waiting: set[int] = set()  # not delivered to the application yet
        self._delivered = 0  # the last id that was delivered and was received on this connection
        self._duplicate = 0  # the last id that was received again although it had been delivered
        self._received = self._acknowledged = 0  # the last ids on this connection
        self._count, self._acknowledged_at = 0, 0.0

    def connected(self) -> None:
        """Start a new connection."""
        self._received = self._acknowledged = self._duplicate = self._delivered = 0

    def is_new(self, id: int, fingerprint: int) -> bool:
        """Note a received message; return whether to deliver it (False for a duplicate)."""
        self._received = id
        if self._recent.get(id) == fingerprint:
            if id not in self._waiting:
                self._duplicate = id
            return False
        self._recent[id] = fingerprint
        self._recent.move_to_end(id)  # so that it is forgotten last
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        self._waiting.add(id)
        return True

    def delivered(self, id: int, now: float) -> int | None:
        """Note that the application has processed a message.

        Returns the id to acknowledge now, if any.
        """
        self._waiting.discard(id)
        self._count += 1
        if id <= self._received:  # otherwise the server must send it on this connection first
            self._delivered = id
        if self._waiting and self._count < ACK_COUNT and now - self._acknowledged_at < ACK_SECONDS:
            return None
        self._count, self._acknowledged_at = 0, now
        return self.ack_delivered()

    def ack_delivered(self) -> int | None:
        """Return the id to acknowledge because no more messages will be delivered, if any."""
        return self._acknowledge(self._delivered)

    def ack_duplicates(self) -> int | None:
        """Return the id to acknowledge because of dropped duplicates, if any.

        The next call returns None.
        """
        id, self._duplicate = self._duplicate, 0
        return self._acknowledge(id)

    def _acknowledge(self, id: int) -> int | None:
        if id <= self._acknowledged:
            return None
        self._acknowledged = id
        return id
