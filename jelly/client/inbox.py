"""Each message once: what came before, and what is to be acknowledged when. No socket, no thread, no clock.

With the feature "ack" the ids of messages grow, and an acknowledgement covers everything up to its id. What was not
acknowledged comes again on the next connection. An id is acknowledged only on a connection on which it came: the
server takes no other for true.
"""

from collections import OrderedDict

ACK_COUNT, ACK_SECONDS = 32, 0.1
"""While more waits for the application, it is acknowledged for so many messages together, or after so long."""
MAX_RECENT = 4096
"""So many messages are known again when they come again; a server leaves fewer unacknowledged."""


class Inbox:
    """The messages with ids of one client. Whoever calls it holds the conversation's lock."""

    def __init__(self) -> None:
        # What came lately. An id alone would not do: a server that begins anew, on an empty database, gives the
        # same ids to other messages, and these must not be taken for repeats.
        self._recent: OrderedDict[int, int] = OrderedDict()
        self._waiting: set[int] = set()  # those that the application has not had yet
        self._handed_over = 0  # the last one that it has had, and that came on this connection
        self._repeated = 0  # the last one that came again although the application has had it
        self._seen = self._acknowledged = 0  # the last ids that came, and that were acknowledged, on this connection
        self._count, self._acknowledged_at = 0, 0.0

    def begin(self) -> None:
        """A new connection stands."""
        self._seen = self._acknowledged = self._repeated = self._handed_over = 0

    def is_new(self, id: int, fingerprint: int) -> bool:
        """Note a message that has come; return whether it is to be handed over, or has come before."""
        self._seen = id
        if self._recent.get(id) == fingerprint:
            if id not in self._waiting:
                self._repeated = id
            return False
        self._recent[id] = fingerprint
        self._recent.move_to_end(id)  # so that it is the last one to be forgotten
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        self._waiting.add(id)
        return True

    def handed_over(self, id: int, now: float) -> int | None:
        """The application has had a message; return the id to acknowledge now, if any."""
        self._waiting.discard(id)
        self._count += 1
        if id <= self._seen:  # else it has still to come again on this connection
            self._handed_over = id
        if self._waiting and self._count < ACK_COUNT and now - self._acknowledged_at < ACK_SECONDS:
            return None
        self._count, self._acknowledged_at = 0, now
        return self.overdue()

    def overdue(self) -> int | None:
        """The id to acknowledge because nothing is going to be handed over any more, if any."""
        return self._acknowledge(self._handed_over)

    def repeated(self) -> int | None:
        """The id to acknowledge because it came again, once; None if there is none."""
        id, self._repeated = self._repeated, 0
        return self._acknowledge(id)

    def _acknowledge(self, id: int) -> int | None:
        if id <= self._acknowledged:
            return None
        self._acknowledged = id
        return id
