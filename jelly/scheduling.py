"""Where the server's threads run: all on one core, and none in front of another (Linux; elsewhere nothing is done).

Only one thread of a Python program runs at a time, so several cores gain little, and handing the interpreter from a
thread on one core to a thread on another costs more than what most threads have to do. Kept on one core, and told
(SCHED_BATCH) that a thread which wakes up need not interrupt the one that runs, the threads work off what has gathered
in longer turns. `docs/performance.md` has what it gains.

What computes for long without the interpreter, hashing passwords, takes all cores back.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

CAN_PIN = sys.platform == "linux"
_STAT = Path("/proc/self/stat")

yield_cpu: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Give up the core once to any thread that is ready to run on it; if none is, go on at once.

Called by a thread that is about to take what has gathered. The threads that are ready then, on the one
core that all share, are mostly readers with another request. So it takes ten requests together where it
would have taken five, and one transaction writes them. (It saves a sixth of the CPU of a message between
50 pairs, and a third when ten clients write to users who are offline. It does not wait for company:
alone, it costs half a microsecond.)
"""

_all_cores: set[int] = set()
"""The cores that the process was given, once `pin_process` has confined it to one of them."""


def check_pin(text: str) -> str:
    """A value of `--pin`, if it is one. Raises ValueError with what would be right."""
    if text not in ("auto", "off") and not (text.isdecimal() and int(text) in _cores()):
        raise ValueError(f"auto, off or the number of a core, one of {', '.join(map(str, sorted(_cores())))}")
    return text


def pin_process(pin: str) -> str:
    """Confine this process to a core; to be called before it starts threads, which inherit that.

    `pin`: a core's number, `auto` for the one that it is on, `off` for none. Returns what was done, in words.
    """
    if pin == "off" or not CAN_PIN:
        return "on all cores"
    cores = _cores()
    try:
        core = _current_core() if pin == "auto" else int(pin)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # first: refused, it leaves all cores as said
        os.sched_setaffinity(0, {core})
    except OSError as error:  # not allowed in some sandboxes, where /proc may be missing too; no reason not to serve
        return f"on all cores ({error.strerror})"
    _all_cores.update(cores)
    return f"on core {core} of {len(cores)}"


def lower_priority() -> None:
    """Let the calling thread, which computes for long, run on every core, and there only when no other wants it."""
    if not CAN_PIN:
        return  # only Linux gives each thread its own cores and its own priority
    if _all_cores:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, _all_cores)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if CAN_PIN else set(range(os.cpu_count() or 1))


def _current_core() -> int:
    """The core this process is on: where the system had least to do when it started."""
    # The 39th field; the second one, the program's name in parentheses, may contain spaces.
    return int(_STAT.read_text().rpartition(")")[2].split()[36])
