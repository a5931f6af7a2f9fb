"""Timers: functions and their times, in one heap. Knows neither threads nor a clock."""

import heapq
import itertools
from collections.abc import Callable

NEVER = float("inf")


class TimerHeap:
    """Functions to call, each at a monotonic time. Not thread-safe: its owner has a lock.

    A timer cannot be cancelled. If it may become unnecessary, let its function check whether there
    is still something to do.
    """

    __slots__ = ("_heap", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        # Of two timers with one time, the first goes first. Functions cannot be compared.
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float:
        """The time of the earliest timer; NEVER if there is none."""
        return self._heap[0][0] if self._heap else NEVER

    def call_at(self, due: float, function: Callable[[], None]) -> None:
        """Add a timer."""
        heapq.heappush(self._heap, (due, next(self._numbers), function))

    def pop_due(self, now: float) -> list[Callable[[], None]]:
        """Take out the timers whose time has come; return their functions, the earliest first."""
        functions = []
        while self._heap and self._heap[0][0] <= now:
            functions.append(heapq.heappop(self._heap)[2])
        return functions
