"""What a supervisor runs in tests instead of a server: `python tests/supervised.py KIND`.

Each kind is a way in which processes fail. They say on standard error what they do.
"""

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jelly.cluster.supervisor import Process, Supervisor
from jelly.errors import ConfigError, StartError

log = logging.getLogger("supervised")


def _serve(process: Process) -> int:
    """Serve until SIGTERM comes, unless it is ignored."""
    stop = False

    def on_signal(*_: object) -> None:
        nonlocal stop
        stop = True

    if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, on_signal)
    process.serves("the line")
    while not stop:
        signal.sigtimedwait([signal.SIGUSR1], 0.02)  # not `pause`, before which the signal may come
    return 0


def crashes(process: Process) -> int:
    """The second process serves and crashes, again and again; it says when it starts."""
    if process.index == 1:
        log.info("starts at %.3f", time.monotonic())
        process.serves("")
        os._exit(3)
    return _serve(process)


def has_a_bug(process: Process) -> int:
    """An exception that nobody expects ends the second process, once."""
    mark = Path(sys.argv[2])
    if process.index == 1 and not mark.exists():
        mark.touch()
        raise ValueError("a bug")
    return _serve(process)


def cannot_start(_process: Process) -> int:
    """None can start."""
    raise StartError("There is no database.")


def is_set_wrong(_process: Process) -> int:
    """None can start, because of a setting."""
    raise ConfigError("The certificate is none.")


def cannot_start_again(process: Process) -> int:
    """All serve, but a second time the second process finds a setting wrong, once."""
    first, second = Path(sys.argv[2]), Path(sys.argv[3])
    if process.index == 1 and first.exists() and not second.exists():
        second.touch()
        raise ConfigError("The certificate is none.")
    if process.index == 1:
        log.info("is the second")
        first.touch()
    return _serve(process)


def cannot_start_any_more(process: Process) -> int:
    """All serve. Later a setting is wrong for each process that starts."""
    if Path(sys.argv[2]).exists():
        raise ConfigError("The certificate is none.")
    log.info("serves")
    return _serve(process)


def lose_their_database(process: Process) -> int:
    """All serve. Later no process can start for a while."""
    if Path(sys.argv[2]).exists():
        raise StartError("There is no database.")
    log.info("serves")
    return _serve(process)


def ignores_signals(process: Process) -> int:
    """They do not stop at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _serve(process)


def ends_with_an_error(process: Process) -> int:
    """The first process stops with exit code 5, the others with 0."""
    return _serve(process) or (0 if process.index else 5)


def finds_no_room(process: Process) -> int:
    """The first attempt to start a process fails."""
    return _serve(process)


def _fail_once() -> None:
    fork = os.fork

    def fail() -> int:
        os.fork = fork
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = fail


def main(kind: Callable[[Process], int]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s")
    if kind is finds_no_room:
        _fail_once()
    supervisor = Supervisor(3, kind, lambda line: log.info("all serve: %s", line))
    try:
        return supervisor.run()
    except StartError as error:
        log.error("failed: %s", error)
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    sys.exit(main(globals()[sys.argv[1]]))
