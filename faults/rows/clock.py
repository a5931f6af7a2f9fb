"""Row 19: the clock on the wall is moved by an hour while the server runs; the senders' clocks, too."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

from faults.bench import Bench, Control, Finding, Row, free_port
from faults.checker import Answer
from faults.load import Load, User, register
from faults.proxy import Proxy
from faults.server import HOUR

MOVES = (HOUR, -HOUR, -HOUR, HOUR)
LOOK = 0.6
"""Seconds in which the server's watchdog has looked at every connection."""


@contextlib.contextmanager
def senders_clock(offset: float) -> Iterator[None]:
    """Within the block the client library's clock is wrong by so many seconds."""
    clock = SimpleNamespace(time=lambda: time.time() + offset)
    with mock.patch("client_api.time", clock):
        yield


def move_clock(bench: Bench, finding: Finding) -> None:
    """Forward, back, further back, and forward; each time nobody is dropped, and a token is as good as before."""
    moves = MOVES * (1 if bench.is_short else 5)
    finding.trials = len(moves)
    port, offset = free_port(), 0.0
    with (
        bench.serve(bench.url(), port, launch=["--variant=clock"]) as server,
        Proxy(port) as proxy,
        Load(proxy.port, under_way=2) as load,
        contextlib.ExitStack() as stack,
    ):
        # Who is idle says nothing for seconds, so a clock that jumps would make much of it.
        idle = User("ida", load.ledger, proxy.port)
        stack.callback(idle.client.close)
        register(port, ["ida"])
        idle.log_in()
        load.start()
        for move in moves:
            before = load.cuts + idle.cuts
            server.process.send_signal(signal.SIGUSR1 if move > 0 else signal.SIGUSR2)
            offset -= move  # the senders' clocks go the other way: nobody's clock agrees with anybody's
            with senders_clock(offset):
                load.ledger.wait_for_more(Answer.STORED, 100, 2)
                time.sleep(LOOK)
                dropped = load.cuts + idle.cuts - before
                finding.expect(not dropped, "cut", f"{dropped} lines were cut when the clock was moved")
                proxy.cut()
                load.wait_until_online()
                finding.expect(load.ledger.wait_for_more(Answer.STORED, 20, 5), "not_back", "the tokens were refused")
        load.finish()
        finding.judge(load.ledger.verdict())


ROWS = [
    Row(
        19,
        "clocks moved by an hour, forward and back",
        move_clock,
        (Control("wall-clock", "cut"), Control("order-by-time", "lost")),
    )
]
