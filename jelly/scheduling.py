"""The cores and priorities of the server's threads, on Linux. Elsewhere nothing is done.

Only one thread of a Python program runs at a time, so several cores gain little. Passing the
interpreter from a thread on one core to a thread on another costs more than most threads' work. So
all threads run on one core (CPU affinity). They use the scheduling policy SCHED_BATCH, with which a
thread that wakes up does not interrupt the running thread: each thread does more of the waiting
work in one turn. `docs/performance.md` has the measurements.

Threads that hash passwords compute for long without the interpreter, so they use all cores.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

CAN_PIN = sys.platform == "linux"
_STAT = Path("/proc/self/stat")
CLAIM_NAME = "\0jelly core"
"""How the name of the socket begins that tells other servers of this machine that a core is taken.

With the zero byte it is in Linux's abstract namespace: no file, any user can see it, and it is gone
when the process ends, however it ends. (Containers with networks of their own do not see each
other's.)
"""
MAX_CLAIMS = 256
"""At most this many servers are counted on a core."""

yield_cpu: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let the other threads run that are ready to; return at once if there are none.

A thread calls this before it takes all waiting requests. The ready threads, on the one core that
all threads share, are mostly readers with another request. So the caller gets ten requests together
instead of five, and one transaction writes them. This saves a sixth of the CPU of a message between
50 pairs, and a third when ten clients write to users who are offline. Without ready threads it
costs half a microsecond.
"""

_all_cores: set[int] = set()
"""The cores of the process before `pin_process` limited it to one; empty if it did not."""
_claim: socket.socket | None = None
"""While this socket is open, other servers know that the core is taken."""


def check_pin(text: str) -> str:
    """Return a value of `--pin` if it is valid. Else raise ValueError with the values allowed."""
    if text not in ("auto", "off") and not (text.isdecimal() and int(text) in _cores()):
        raise ValueError(f"auto, off or the number of a core, one of {', '.join(map(str, sorted(_cores())))}")
    return text


def pin_process(pin: str) -> str:
    """Limit this process to one core. Call it before threads are started: they inherit the limit.

    `pin` is the number of a core, `off` for all cores, or `auto`: the current core if no other
    server of this machine is pinned to it, else one that fewest others are pinned to. Returns what
    was done, as words for the log.
    """
    global _claim  # there is one for the process, until it ends
    if pin == "off" or not CAN_PIN:
        return "on all cores"
    cores, claim = _cores(), None
    try:
        if pin == "auto":
            current = _current_core()
            wanted = [current, *sorted(cores - {current})]
        else:
            wanted = [int(pin)]
        # The policy first: if it is refused, the process is still on all cores, as the log says.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        core, claim = _take_core(wanted)
        os.sched_setaffinity(0, {core})
    except OSError as error:  # some sandboxes forbid this, or have no /proc; the server runs anyway
        if claim is not None:
            claim.close()
        return f"on all cores ({error.strerror})"
    _claim = claim
    _all_cores.update(cores)
    return f"on core {core} of {len(cores)}"


def lower_priority() -> None:
    """Let the calling thread run on all cores, at a low priority: it computes for long."""
    if not CAN_PIN:
        return  # only on Linux each thread has its own cores and priority
    if _all_cores:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, _all_cores)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if CAN_PIN else set(range(os.cpu_count() or 1))


def _take_core(cores: Sequence[int]) -> tuple[int, socket.socket | None]:
    """Return the first of the cores that fewest servers have taken, and the socket that takes it.

    The socket is None where a sandbox allows none: then the core is the first one.
    """
    for number in range(MAX_CLAIMS):
        for core in cores:
            claim = None
            try:
                claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                claim.bind(f"{CLAIM_NAME} {core} {number}")
            except OSError as error:
                if claim is not None:
                    claim.close()
                if error.errno != errno.EADDRINUSE:
                    return cores[0], None
            else:
                return core, claim
    return cores[0], None


def _current_core() -> int:
    """Return the core that this process runs on: the system has chosen the least busy one."""
    # Field 39. Field 2, the program's name in parentheses, may contain spaces: skip it first.
    return int(_STAT.read_text().rpartition(")")[2].split()[36])
