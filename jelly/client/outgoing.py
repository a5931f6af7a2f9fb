"""Requests from when they are made until they are answered, over cuts of the line. No socket, no thread, no clock.

A request waits, is written (then it is in flight), is answered. A message to somebody carries a `requestId` where the
server knows such: whatever has one is written again after a cut, in the old order and before anything newer, and the
server stores it once. Nothing else is, since what was done once must not be done twice.
"""

import itertools
import secrets
from collections import deque
from collections.abc import Iterable
from typing import Any

from jelly.client.requests import Request
from jelly.errors import ConnectionLost, RequestError, RequestTimeout

MAX_CUTS = 10
"""So many lines may break under a message before its answer comes; then it may be what breaks them."""
MAX_TIMEOUTS = 2
"""So often the server may leave a message without an answer in time."""
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0
"""Seconds to wait before a repeat that was refused for now is written again: twice as long each time."""
MAX_REFUSALS = 10
"""So often a repeat may be refused for now."""

NOT_SENT = "The connection ended before this was sent."


class Outgoing:
    """The requests of one client that have no answer yet. Whoever calls it holds the conversation's lock."""

    def __init__(self) -> None:
        self.waiting: deque[Request[Any]] = deque()  # to be written, in this order
        self.in_flight: deque[Request[Any]] = deque()  # written on this line, in this order
        self._kept: list[Request[Any]] = []  # while there is no line: messages to be written again
        self._name = secrets.token_urlsafe(9)
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        """A requestId that nobody else uses, for this user or another one."""
        return f"{self._name}-{next(self._numbers)}"

    def add(self, request: Request[Any]) -> None:
        """Take a new request."""
        request.number = next(self._numbers)
        self.waiting.append(request)

    def is_ready(self, window: int) -> bool:
        """Whether the next request may be written, with so many under way at most.

        Nothing new goes behind a repeat without an answer: if that is refused for now, the new one would overtake it.
        (Repeats are written first, so the oldest request tells whether there are any.)
        """
        if not self.waiting or len(self.in_flight) >= window:
            return False
        return self.waiting[0].writes > 0 or not (self.in_flight and self.in_flight[0].is_repeat)

    def write(self, request: Request[Any], deadline: float) -> None:
        """Note that a request, which has just been taken out of `waiting`, is being written."""
        request.writes += 1
        request.deadline = deadline
        self.in_flight.append(request)

    def answer(self, type: int) -> Request[Any] | None:
        """Take out the request that an answer of this type belongs to: the oldest one."""
        for request in self.in_flight:
            if request.type == type:
                self.in_flight.remove(request)
                return request
        return None

    def try_again(self, request: Request[Any]) -> float | None:
        """Have a repeat written again that was refused for now; the seconds after which, None if it was too often."""
        if request.refusals >= MAX_REFUSALS:
            return None
        pause = min(FIRST_PAUSE * float(2**request.refusals), LAST_PAUSE)
        request.refusals += 1
        self._wait_again([request])
        return pause

    def cut(self, end: Exception, sentence: str, comes_back: bool) -> list[tuple[Request[Any], RequestError]]:
        """The line has ended. Keep what can be repeated, if there is to be another one; return what ends, and how."""
        ended: list[tuple[Request[Any], RequestError]] = []
        for request in self.in_flight:
            error: RequestError = ConnectionLost(sentence, sent=True)
            request.cuts += 1
            is_repeatable = request.request_id is not None and comes_back and request.cuts < MAX_CUTS
            if request is self.in_flight[0] and isinstance(end, RequestTimeout):
                error = end
                request.timeouts += 1
                is_repeatable = is_repeatable and request.timeouts < MAX_TIMEOUTS
            if is_repeatable:
                self._kept.append(request)
            else:
                ended.append((request, error))
        for request in self.waiting:
            if request.request_id is not None and comes_back:
                self._kept.append(request)
            else:
                ended.append((request, _never_again(request, sentence if request.writes else NOT_SENT)))
        self.in_flight.clear()
        self.waiting.clear()
        return ended

    def come_back(self, knows_ids: bool) -> list[tuple[Request[Any], RequestError]]:
        """There is another line: have written again what was kept; return what cannot be, and how it ends."""
        if not knows_ids:
            return self.give_up("The server that was reached again would store this twice.")
        kept, self._kept = self._kept, []
        self._wait_again(kept)
        return []

    def give_up(self, sentence: str) -> list[tuple[Request[Any], RequestError]]:
        """There will be no other line: return what was kept, and how it ends."""
        kept, self._kept = self._kept, []
        return [(request, _never_again(request, sentence)) for request in kept]

    def _wait_again(self, requests: Iterable[Request[Any]]) -> None:
        self.waiting = deque(sorted([*requests, *self.waiting], key=lambda request: request.number))


def _never_again(request: Request[Any], sentence: str) -> ConnectionLost:
    return ConnectionLost(sentence, sent=request.writes > 0)
