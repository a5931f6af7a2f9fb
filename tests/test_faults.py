"""The fault harness and its faults: nothing acknowledged is lost, and the server recovers by
itself.
"""

import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import StartServer
from wire import OWN_PROFILE, SUCCESS, Wire, logged_in, register

from faults import context
from faults.__main__ import run
from faults.checker import Answer, Ledger, Verdict
from faults.context import Control, Row, RunContext
from faults.mariadb import PrivateMariaDB
from faults.process import Server
from faults.report import RowResult, table
from faults.rows import ROWS, connections
from faults.rows.node_users import Change, disagreements

TESTED = {
    "sqlite": [2, 4, 5, 6, 34],
    "mariadb": [1, 8, 31, 32],
}
"""The rows of the harness that are tested, each on the database that says more; the rest is for
long runs. (A server on SQLite is killed at chosen points, row 2, so random ones, row 1, say little
more there.)
"""
HANGS = {"sqlite": 11, "mariadb": 9}
"""Those in which a database hangs. They mostly wait, so they are tested at the same time."""


def run_short(number: int, database: str, directory: Path, mariadb: PrivateMariaDB | None) -> RowResult:
    """A row and its controls, in their short form."""
    [row] = [row for row in ROWS if row.number == number]
    return run(row, RunContext(database, directory, mariadb, random.Random(1), kills=0, is_short=True))


@pytest.mark.parametrize(
    ("database", "row"),
    [
        pytest.param(database, row, id=f"{row.number}-{database}")
        for row in ROWS
        for database, numbers in TESTED.items()
        if row.number in numbers
    ],
)
def test_fault(
    database: str, row: Row, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its short form the row passes, and each of its controls is caught.

    How long starts and logins take is judged by `python -m faults` only: here other tests run.
    """
    monkeypatch.setattr(context, "RESTART_LIMIT", math.inf)
    monkeypatch.setattr(connections, "SLOWEST_LOGIN", math.inf)
    if missing := row.missing():
        pytest.skip(missing)
    mariadb = request.getfixturevalue("mariadb") if database == "mariadb" else None
    line = run_short(row.number, database, tmp_path, mariadb)
    assert line.is_good, table([line])


def test_a_database_that_hangs(tmp_path: Path, mariadb: PrivateMariaDB) -> None:
    """On both kinds of database the row passes, and its control is caught."""
    with ThreadPoolExecutor() as pool:
        begun = [pool.submit(run_short, number, database, tmp_path, mariadb) for database, number in HANGS.items()]
        lines = [each.result() for each in begun]
    assert all(line.is_good for line in lines), table(lines)


def test_the_checker_finds_every_defect() -> None:
    """Control: what was acknowledged and is absent, comes twice, out of order, from nowhere, or
    despite a refusal.
    """
    ledger = Ledger()
    answers = [Answer.STORED] * 5 + [Answer.UNKNOWN, Answer.FAILED, Answer.REFUSED]
    for number, answer in enumerate(answers):
        ledger.sent(("ann", number), "bob", ["bob"])
        ledger.answered(("ann", number), answer)
    ledger.sent(("ann", 8), "team", ["bob", "cat"])
    ledger.answered(("ann", 8), Answer.STORED)
    for number in (0, 2, 1, 1, 7, 8, 9):
        ledger.delivered("bob", ("ann", number))
    ledger.delivered("cat", ("ann", 0))
    verdict = ledger.verdict()
    assert verdict == Verdict(
        acknowledged=6, unknown=2, refused=1,
        lost=3, twice=1, out_of_order=1, never_sent=2, refused_but_arrived=1,
    )  # fmt: skip
    assert set(verdict.defects) == {"lost", "twice", "out_of_order", "never_sent", "refused_but_arrived"}


def test_members_that_do_not_fit_to_one_order() -> None:
    """Control: a message that came to somebody who was no member yet, or no longer; one that missed
    a member; and two messages that may each be right, but not in their order.
    """
    added, removed = Change(0.0, 1.0), Change(10.0, 11.0)
    before, inside, after = (-2.0, -1.0), (2.0, 3.0), (12.0, 13.0)
    while_added = (0.2, 0.8)
    fitting = [(*before, False), (*while_added, False), (*while_added, True), (*inside, True), (*after, False)]
    assert disagreements(fitting, [added, removed]) == 0
    for wrong in ((*before, True), (*inside, False), (*after, True)):
        assert disagreements([wrong], [added, removed]) == 1
    assert disagreements([(*while_added, True), (*while_added, False)], [added]) == 1


def test_a_control_that_is_not_caught_fails_the_row(tmp_path: Path) -> None:
    """The harness does not believe in a control that finds nothing, or something else than it
    should.
    """
    control = Control("nothing", "lost", lambda _, finding: finding.expect(False, "late", "it was late"))
    row = Row(0, "nothing at all", lambda *_: None, (control,))
    line = run(row, RunContext("sqlite", tmp_path, None, random.Random(1), kills=0, is_short=True))
    assert not line.finding.problems
    assert line.caught == {"nothing": False}
    assert not line.is_good


def test_what_does_not_run_has_not_passed() -> None:
    """The table says why."""
    cells = RowResult(ROWS[0], "sqlite", not_run="there is no root here").cells()
    assert cells[-1] == "not run: there is no root here"
    assert not any("passed" in cell for cell in cells)


def test_a_token_survives_the_kill(tmp_path: Path) -> None:
    """Who was logged in comes back without the password."""
    url = f"sqlite:///{tmp_path}/j.db"
    with Server(url) as server:
        register(server.port, "alice")
        with logged_in(server.port, "alice") as alice:
            token = alice.token
            server.kill()
    with Server(url) as server, Wire(server.port) as alice:
        assert alice.reconnect("alice", token).status == SUCCESS


def test_connections_that_the_database_drops(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """When the database closes connections that were idle, no user sees it."""
    server = start_server(database=mariadb.fresh_database("idle"), workers=1)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        for _ in range(2):
            alice.ok(OWN_PROFILE)
            alice.message("bob", "x")
            ids = mariadb.sql("SELECT id FROM information_schema.processlist WHERE user = 'jelly'")
            assert ids
            for [id] in ids:
                mariadb.sql(f"KILL {id}")
        alice.ok(OWN_PROFILE)
        alice.message("bob", "x")
