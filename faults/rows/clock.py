"""Row 19: the wall clocks of the server and of the senders are moved by an hour."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

from faults.checker import Answer
from faults.context import Control, Finding, Row, RunContext, free_port
from faults.load import Load, User, register
from faults.proxy import Proxy
from faults.server import HOUR

MOVES = (HOUR, -HOUR, -HOUR, HOUR)
CHECK_SECONDS = 0.6
"""Seconds in which the server checks every connection at least once."""


@contextlib.contextmanager
def senders_clock(offset: float) -> Iterator[None]:
    """Within the block, the client library's clock is wrong by `offset` seconds."""
    clock = SimpleNamespace(time=lambda: time.time() + offset)
    with mock.patch("jelly.client.messaging.time", clock):
        yield


def move_clock(context: RunContext, finding: Finding) -> None:
    """Move the clock forward, back, back and forward.

    No connection ends, and all tokens stay valid.
    """
    moves = MOVES * (1 if context.is_short else 5)
    finding.trials = len(moves)
    port, offset = free_port(), 0.0
    with (
        context.serve(context.url(), port, launch=["--variant=clock"]) as server,
        Proxy(port) as proxy,
        Load(proxy.port, under_way=2) as load,
        contextlib.ExitStack() as stack,
    ):
        # An idle user sends nothing for seconds: a jump of the clock looks like a long silence.
        idle = User("ida", load.ledger, proxy.port)
        stack.callback(idle.client.close)
        register(port, ["ida"])
        idle.log_in()
        load.start()
        for move in moves:
            before = load.disconnects + idle.disconnects
            server.process.send_signal(signal.SIGUSR1 if move > 0 else signal.SIGUSR2)
            offset -= move  # the senders' clocks move the other way, so that no two clocks agree
            with senders_clock(offset):
                load.ledger.wait_for_more(Answer.STORED, 100, 2)
                time.sleep(CHECK_SECONDS)
                dropped = load.disconnects + idle.disconnects - before
                finding.expect(not dropped, "disconnected", f"{dropped} connections were lost when the clock was moved")
                proxy.cut()
                load.wait_until_online()
                finding.expect(load.ledger.wait_for_more(Answer.STORED, 20, 5), "not_back", "the tokens were refused")
        load.finish()
        finding.add_verdict(load.ledger.verdict())


ROWS = [
    Row(
        19,
        "clocks moved by an hour, forward and back",
        move_clock,
        (Control("wall-clock", "disconnected"), Control("order-by-time", "lost")),
    )
]
