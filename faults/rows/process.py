"""Rows 1 to 3: the server is killed at random times or at chosen points, or stopped cleanly."""

import signal
import time
from concurrent.futures import wait
from unittest import mock

from faults.checker import Answer
from faults.context import Control, Finding, Row, RunContext, free_port
from faults.load import AWAY, Load
from faults.process import Server
from faults.rows.database import blocked_database
from faults.server import POINTS
from jelly.client.acks import AckTracker

PER_KILL = {False: (50, 1050), True: (50, 300)}
"""How many messages, at least and at most, are acknowledged between a start and the next kill, by
whether the form is short.
"""
READ_SECONDS = 0.3
"""Seconds for the idle server to read requests: nothing outside shows when it has done so."""
ANSWERS_SECONDS = 1.0
"""Seconds for written answers to reach the clients."""
STOP_LIMIT = 10.0
SECOND_SIGNAL_LIMIT = 1.0


def kill_at_random(context: RunContext, finding: Finding) -> None:
    """Kill the server repeatedly under load. No acknowledged message may be missing in the end."""
    finding.trials = 3 if context.is_short else context.kills
    url, port = context.url(), free_port()
    server = context.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            for _ in range(finding.trials):
                load.ledger.wait_for_more(Answer.STORED, context.random.randint(*PER_KILL[context.is_short]), 30)
                time.sleep(context.random.uniform(0, 0.01))
                server.kill()
                server = context.serve(url, port)
                finding.note_restart(server)
            load.finish()
            finding.add_verdict(load.ledger.verdict())
    finally:
        server.kill()


def kill_at_points(context: RunContext, finding: Finding) -> None:
    """Let the server kill itself at each point, after a random number of passes."""
    points = [point for point in POINTS for _ in range(1 if context.is_short else 10)]
    finding.trials = len(points)
    url, port = context.url(), free_port()
    server = context.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            for point in points:
                server.kill()
                passes = context.random.randint(10, 60)
                server = context.serve(url, port, launch=[f"--kill-at={point}", f"--passes={passes}"])
                finding.note_restart(server)
                died = server.ends_within(30)
                finding.expect(died, "not_reached", f"the server never came to the point {point}")
            server.kill()
            server = context.serve(url, port)
            load.finish()
            finding.add_verdict(load.ledger.verdict())
    finally:
        server.kill()


def without_dedupe(context: RunContext, finding: Finding) -> None:
    """Do the same with receivers that do not drop duplicates."""
    is_new = AckTracker.is_new
    with mock.patch.object(AckTracker, "is_new", lambda self, *message: is_new(self, *message) or True):
        kill_at_points(context, finding)


def terminate(context: RunContext, finding: Finding) -> None:
    """Send SIGTERM under load; then while accepted requests wait for the database; then twice.

    In the second case the database comes back in time, in the third it does not.
    """
    finding.trials = 3
    url, port = context.url(), free_port()
    server = context.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            load.ledger.wait_for_more(Answer.STORED, context.random.randint(*PER_KILL[context.is_short]), 30)
            _stop(server, finding)
            server = context.serve(url, port)
            finding.note_restart(server)
            load.ledger.wait_for_more(Answer.STORED, 100, 30)
            load.stop()
            load.wait_until_online()
            _stop_with_waiting_requests(context, server, url, load, finding)
            server = context.serve(url, port)
            finding.note_restart(server)
            _signal_twice(context, server, url, load, finding)
            server = context.serve(url, port)
            finding.note_restart(server)
            load.finish()
            finding.add_verdict(load.ledger.verdict())
    finally:
        server.kill()


def _stop(server: Server, finding: Finding) -> None:
    started = time.monotonic()
    code = server.stop()
    took = time.monotonic() - started
    finding.expect(code == 0, "exit_code", f"the server ended with {code}")
    finding.expect(took < STOP_LIMIT, "slow_stop", f"the stop took {took:.1f} s")
    server.kill()


def _stop_with_waiting_requests(context: RunContext, server: Server, url: str, load: Load, finding: Finding) -> None:
    with blocked_database(context, url):
        futures = [sender.write(AWAY) for sender in load.senders for _ in range(50)]
        time.sleep(READ_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log(b"stopping")
        time.sleep(READ_SECONDS)
    code = server.process.wait(STOP_LIMIT)
    finding.expect(code == 0, "exit_code", f"the server ended with {code}")
    answered, _ = wait(futures, timeout=ANSWERS_SECONDS)  # the others would wait for ever: their server is gone
    unanswered = len(futures) - sum(future.exception() is None for future in answered)
    finding.expect(not unanswered, "dropped", f"{unanswered} of {len(futures)} requests were accepted and not answered")
    server.kill()


def _signal_twice(context: RunContext, server: Server, url: str, load: Load, finding: Finding) -> None:
    load.wait_until_online()
    with blocked_database(context, url):
        for sender in load.senders:
            sender.write(AWAY)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log(b"stopping")
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        ended = server.ends_within(SECOND_SIGNAL_LIMIT)
        took = time.monotonic() - started
        finding.expect(ended, "second_signal", f"the second signal did not end it within {SECOND_SIGNAL_LIMIT:g} s")
        if ended:
            code = server.process.returncode
            finding.expect(code == -signal.SIGTERM, "second_signal", f"after the second signal it ended with {code}")
        finding.notes.append(f"second signal {took * 1000:.0f} ms")
        server.kill()


ROWS = [
    Row(1, "kill -9 under load", kill_at_random, (Control("answers-early", "lost"),)),
    Row(
        2,
        "kill -9 before the commit, between commit and answer, between push and ack",
        kill_at_points,
        (
            Control("answers-early", "lost"),
            Control("a receiver that does not know repeats", "twice", without_dedupe),
        ),
    ),
    Row(
        3,
        "SIGTERM under load, and a second one",
        terminate,
        (Control("drops-queue", "dropped"), Control("ignores-signals", "second_signal")),
    ),
]
