"""Rows 1 to 3: the server's process is ended, at random, at chosen points, and in good order."""

import signal
import time
from concurrent.futures import wait
from unittest import mock

from faults.bench import Bench, Control, Finding, Row, free_port
from faults.checker import Answer
from faults.load import AWAY, Load
from faults.process import Server
from faults.rows.database import database_held
from faults.server import POINTS
from jelly.client.acks import AckTracker

PER_KILL = (50, 1050)
"""So many messages, at least and at most, are acknowledged between a start and the next kill."""
READ_SECONDS = 0.3
"""Nothing tells from outside when the server has read what was sent; it is idle, and this is ample."""
ANSWERS_SECONDS = 1.0
"""For answers that have been written to reach those who asked."""
STOP_LIMIT = 10.0
SECOND_SIGNAL_LIMIT = 1.0


def kill_at_random(bench: Bench, finding: Finding) -> None:
    """Kill the server again and again while all write; nothing acknowledged may be missing in the end."""
    finding.trials = 3 if bench.is_short else bench.kills
    url, port = bench.url(), free_port()
    server = bench.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            for _ in range(finding.trials):
                load.ledger.wait_for_more(Answer.STORED, bench.random.randint(*PER_KILL), 30)
                time.sleep(bench.random.uniform(0, 0.01))
                server.kill()
                server = bench.serve(url, port)
                finding.restarted(server)
            load.finish()
            finding.judge(load.ledger.verdict())
    finally:
        server.kill()


def kill_at_points(bench: Bench, finding: Finding) -> None:
    """The server kills itself at each of the points, after it passed there a random number of times."""
    points = [point for point in POINTS for _ in range(1 if bench.is_short else 10)]
    finding.trials = len(points)
    url, port = bench.url(), free_port()
    server = bench.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            for point in points:
                server.kill()
                passes = bench.random.randint(10, 60)
                server = bench.serve(url, port, launch=[f"--kill-at={point}", f"--passes={passes}"])
                finding.restarted(server)
                died = server.ends_within(30)
                finding.expect(died, "not_reached", f"the server never came to the point {point}")
            server.kill()
            server = bench.serve(url, port)
            load.finish()
            finding.judge(load.ledger.verdict())
    finally:
        server.kill()


def without_dedupe(bench: Bench, finding: Finding) -> None:
    """The same with receivers that hand over whatever comes."""
    is_new = AckTracker.is_new
    with mock.patch.object(AckTracker, "is_new", lambda self, *message: is_new(self, *message) or True):
        kill_at_points(bench, finding)


def terminate(bench: Bench, finding: Finding) -> None:
    """SIGTERM, first under load; then while accepted requests wait for the database, which comes back in time; then a
    second one, while it does not come back."""
    finding.trials = 3
    url, port = bench.url(), free_port()
    server = bench.serve(url, port)
    try:
        with Load(port) as load:
            load.start()
            load.ledger.wait_for_more(Answer.STORED, bench.random.randint(*PER_KILL), 30)
            _stop(server, finding)
            server = bench.serve(url, port)
            finding.restarted(server)
            load.ledger.wait_for_more(Answer.STORED, 100, 30)
            load.stop()
            load.wait_until_online()
            _stop_with_waiting_requests(bench, server, url, load, finding)
            server = bench.serve(url, port)
            finding.restarted(server)
            _signal_twice(bench, server, url, load, finding)
            server = bench.serve(url, port)
            finding.restarted(server)
            load.finish()
            finding.judge(load.ledger.verdict())
    finally:
        server.kill()


def _stop(server: Server, finding: Finding) -> None:
    started = time.monotonic()
    code = server.stop()
    took = time.monotonic() - started
    finding.expect(code == 0, "exit_code", f"the server ended with {code}")
    finding.expect(took < STOP_LIMIT, "slow_stop", f"the stop took {took:.1f} s")
    server.kill()


def _stop_with_waiting_requests(bench: Bench, server: Server, url: str, load: Load, finding: Finding) -> None:
    with database_held(bench, url):
        futures = [sender.write(AWAY) for sender in load.senders for _ in range(50)]
        time.sleep(READ_SECONDS)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log(b"stopping")
        time.sleep(READ_SECONDS)
    code = server.process.wait(STOP_LIMIT)
    finding.expect(code == 0, "exit_code", f"the server ended with {code}")
    answered, _ = wait(futures, timeout=ANSWERS_SECONDS)  # the others wait for a server that knows nothing of them
    unanswered = len(futures) - sum(future.exception() is None for future in answered)
    finding.expect(not unanswered, "dropped", f"{unanswered} of {len(futures)} requests were accepted and not answered")
    server.kill()


def _signal_twice(bench: Bench, server: Server, url: str, load: Load, finding: Finding) -> None:
    load.wait_until_online()
    with database_held(bench, url):
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
