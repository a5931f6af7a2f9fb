"""The requests that have no response yet, over any number of connections.

No socket, no thread, no clock. A request is first queued, then sent (it is *in flight*), then it
gets its response. A message carries a `requestId` if the server supports one. It is an *idempotency
key*: the server stores a message with this id once, however often it arrives. So messages that were
in flight when the connection was lost are sent again on the next one, in their old order and before
anything newer. Those that are made while there is no connection come behind them. Other requests
are not sent again, because the server could do them twice.
"""

import itertools
import secrets
from collections import deque
from collections.abc import Iterable
from typing import Any

from jelly.client.requests import Request
from jelly.codec import Type
from jelly.errors import ConnectionLost, RequestError, RequestTimeout

MAX_CONNECTION_LOSSES = 10
"""At most this many connections may be lost while a message is in flight: it may be the cause."""
MAX_WAITING = 2000
"""At most this many messages wait for the next connection; new ones then end at once."""
MAX_TIMEOUTS = 2
"""At most this many times a message may get no response in time."""
FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0
"""Seconds until a resend is retried after the server was too busy: doubled each time, from the
first value up to the second."""
MAX_RETRIES = 10
"""At most this many times a resend is retried because the server was too busy."""

NOT_SENT = "The connection was lost before this was sent. Send it again when the client is online."

Failures = list[tuple[Request[Any], RequestError]]
"""Requests that end without a response, each with its error."""


class PendingRequests:
    """The requests of one client that have no response yet.

    The caller holds the lock of the `Lifecycle`.
    """

    def __init__(self) -> None:
        self.queued: deque[Request[Any]] = deque()  # to be sent, in this order
        self.in_flight: deque[Request[Any]] = deque()  # sent on this connection, in this order
        self._to_resend: list[Request[Any]] = []  # while there is no connection: messages for the next one
        self._numbers = itertools.count(1)
        self.renew_ids()

    def renew_ids(self) -> None:
        """Make idempotency keys that nobody makes who has a copy of this: another process."""
        self._id_prefix = secrets.token_urlsafe(9)

    def new_request_id(self) -> str:
        """Make an idempotency key that no other request uses, of this client or another."""
        return f"{self._id_prefix}-{next(self._numbers)}"

    def add(self, request: Request[Any]) -> None:
        """Queue a new request."""
        request.number = next(self._numbers)
        self.queued.append(request)

    @property
    def has_room(self) -> bool:
        """Whether one more message may wait for the next connection."""
        return len(self._to_resend) < MAX_WAITING

    def add_for_later(self, request: Request[Any]) -> None:
        """Keep a new message for the next connection, behind those that wait for it already."""
        request.number = next(self._numbers)
        self._to_resend.append(request)

    @property
    def has_logout(self) -> bool:
        """Whether the newest request is a LOGOUT. The manager accepts none after it."""
        requests = self.queued or self.in_flight  # nothing is queued behind a LOGOUT in flight
        return bool(requests) and requests[-1].type == Type.LOGOUT

    def can_send(self, window: int) -> bool:
        """Whether the next request may be sent now, with at most `window` in flight.

        While a resend is in flight, nothing new is sent: if the server is too busy for the resend,
        the new request would overtake it. (Resends are sent before what is new. Only messages that
        were refused for the rate may go in front of them. So the newest request in flight tells
        whether there are any.)
        """
        if not self.queued or len(self.in_flight) >= window:
            return False
        return self.queued[0].sends > 0 or not (self.in_flight and self.in_flight[-1].is_resend)

    def ask_for_page(self, request: Request[Any], after: str) -> bool:
        """Queue a request again, for the next page of its list: before all that are newer.

        Returns False if the server reads no more requests, because of a LOGOUT.
        """
        if self.has_logout and not self.queued:
            return False
        request.frame = request.frame_of_page(after)
        self._requeue([request])
        return True

    def note_presence(self, friend: object, is_online: object) -> None:
        """Tell the lists that are not complete that a friend came or went."""
        for request in (*self.in_flight, *self.queued):
            if request.pages is not None:
                request.pages.note_presence(friend, is_online)

    def mark_sent(self, request: Request[Any], deadline: float) -> None:
        """Note that a request is being sent. The caller takes it from `queued` next."""
        request.sends += 1
        request.deadline = deadline
        self.in_flight.append(request)

    def drop_sent(self) -> None:
        """After an interruption between the two: take a request from `queued` that is in flight."""
        if self.queued and self.in_flight and self.queued[0] is self.in_flight[-1]:
            self.queued.popleft()

    def match_response(self, type: int) -> Request[Any] | None:
        """Take out the oldest request of this type in flight: the response belongs to it."""
        for request in self.in_flight:
            if request.type == type:
                self.in_flight.remove(request)
                return request
        return None

    def retry_later(self, request: Request[Any]) -> float | None:
        """Queue a resend again that the server was too busy for.

        Returns the seconds to wait before it may be sent; None after MAX_RETRIES (then it is not
        queued).
        """
        if request.retries >= MAX_RETRIES:
            return None
        backoff = min(FIRST_BACKOFF * float(2**request.retries), MAX_BACKOFF)
        request.retries += 1
        self._requeue([request])
        return backoff

    def put_back(self, request: Request[Any]) -> None:
        """Queue a request again that the server has refused for the rate.

        Nothing was done. So it was not sent, as far as anybody can tell.
        """
        request.sends -= 1
        place = 0  # behind those that were refused before it
        while place < len(self.queued) and self.queued[place].number < request.number:
            place += 1
        self.queued.insert(place, request)

    def connection_lost(self, cause: Exception, sentence: str, will_reconnect: bool) -> Failures:
        """Keep the messages that can be sent again on the next connection; return the rest."""
        failures: Failures = []
        for request in self.in_flight:
            error: RequestError = ConnectionLost(sentence, sent=True)
            request.connection_losses += 1
            can_resend = (
                request.request_id is not None and will_reconnect and request.connection_losses < MAX_CONNECTION_LOSSES
            )
            if request is self.in_flight[0] and isinstance(cause, RequestTimeout):
                error = cause
                request.timeouts += 1
                can_resend = can_resend and request.timeouts < MAX_TIMEOUTS
            if can_resend:
                self._to_resend.append(request)
            else:
                failures.append((request, error))
        for request in self.queued:
            if request.request_id is not None and will_reconnect:
                self._to_resend.append(request)
            else:
                failures.append((request, _lost(request, sentence if request.sends else NOT_SENT)))
        self.in_flight.clear()
        self.queued.clear()
        return failures

    def reconnected(self, has_request_ids: bool) -> Failures:
        """Queue the kept messages for the new connection; return those that must not be sent again.

        `has_request_ids`: whether this server knows idempotency keys.
        """
        if not has_request_ids:
            return self.reconnect_failed(
                "The connection was lost before there was a response. This server could store the message twice."
            )
        kept, self._to_resend = self._to_resend, []
        self._requeue(kept)
        return []

    def reconnect_failed(self, sentence: str) -> Failures:
        """There will be no other connection: return the kept messages with their errors."""
        kept, self._to_resend = self._to_resend, []
        return [(request, _lost(request, sentence)) for request in kept]

    @property
    def count(self) -> int:
        """How many requests have no response yet."""
        return len(self._to_resend) + len(self.in_flight) + len(self.queued)

    def clear(self) -> list[Request[Any]]:
        """Return all requests, and keep none."""
        everything = [*self._to_resend, *self.in_flight, *self.queued]
        self._to_resend = []
        self.in_flight.clear()
        self.queued.clear()
        return everything

    def _requeue(self, requests: Iterable[Request[Any]]) -> None:
        self.queued = deque(sorted([*requests, *self.queued], key=lambda request: request.number))


def _lost(request: Request[Any], sentence: str) -> ConnectionLost:
    return ConnectionLost(sentence, sent=request.sends > 0)
