"""A condition whose lock no signal leaves behind.

Python runs signal handlers in the main thread, between any two steps of its code: also on the way
into a `with`, and out of it. If the handler raises there (as Ctrl-C does), the lock of a
`threading.Condition` stays locked for ever: the methods that take and free it are Python code.
Those of an RLock are not, so nothing comes between.
"""

import operator
import threading


class Condition(threading.Condition):
    """A `threading.Condition` whose `with` goes straight to its lock, an RLock."""

    def __init__(self) -> None:
        lock = threading.RLock()
        super().__init__(lock)
        self._enter, self._exit = lock.__enter__, lock.__exit__

    # `with` calls what these are: the methods of the lock, which are found without Python code.
    __enter__ = property(operator.attrgetter("_enter"))
    __exit__ = property(operator.attrgetter("_exit"))

    def renew(self) -> None:
        """In the child of a fork: make the lock anew, if a thread of the parent holds it."""
        if self.acquire(blocking=False):  # it is free, or this thread has it
            self.release()
        else:
            Condition.__init__(self)
