"""From the client's thread to that of the user interface."""

import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class JobQueue:
    """A FIFO queue of calls that the thread of the user interface runs. Any thread may `post`."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._wakeup: Job | None = None

    def post(self, job: Job) -> None:
        """Queue a job, and wake the user interface. Before `set_wakeup`, the job waits."""
        with self._lock:
            self._jobs.append(job)
            wakeup = self._wakeup
        if wakeup:
            wakeup()

    def set_wakeup(self, wakeup: Job | None) -> None:
        """Set the function that makes the user interface call `run_pending`. None: it has ended."""
        with self._lock:
            self._wakeup = wakeup

    def run_pending(self) -> None:
        """Run all queued jobs."""
        while self._jobs:
            self._jobs.popleft()()
