"""REPORT: what users tell the operator about each other, and `jelly reports`, which prints it."""

import json
from typing import Any

import pytest
from client_tools import NewClient, result
from harness import StartServer, ready_database, run_here
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    GROUP_MESSAGE,
    REMOVE_MEMBER,
    REPORT,
    SUCCESS,
    Wire,
    logged_in,
    register,
    wait_until,
)

from faults.mariadb import PrivateMariaDB
from jelly import report_dao, report_service
from jelly.dao import Dao
from jelly.report_dao import Report
from jelly.report_service import MAX_REPORT, MAX_REPORTED_CONTENT, REPORTS_A_DAY
from jelly.retention import REPORT_DAYS, Retention
from jelly.server import JellyServer

MODERN = ["ack", "ids", "report"]


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> JellyServer:
    """A server with four users, on each kind of database."""
    server = start_server(database=database_url, classic_gap=0)
    register(server.port, "alice", "bob", "carol", "mallory")
    return server


def reports(server: JellyServer) -> list[dict[str, Any]]:
    """What `jelly reports --json` prints."""
    done = run_here("reports", "--json", f"--database={url(server)}")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def url(server: JellyServer) -> str:
    return server.settings.database


def modern(server: JellyServer, user: str) -> Wire:
    return logged_in(server.port, user, features=MODERN)


def said(wire: Wire, to: str, content: str, type: int | None = None) -> int:
    """Send a message; return its id."""
    wire.send_message(to, content, *([] if type is None else [type]))
    reply = wire.receive_response()
    assert reply.status == SUCCESS
    return int(reply.values["id"])


def test_a_report(server: JellyServer) -> None:
    """The operator gets who, whom, why, when, and the message; the answer is empty."""
    with modern(server, "alice") as alice, modern(server, "mallory") as mallory:
        id = said(mallory, "alice", "buy this")
        reply = alice.call(REPORT, person="mallory", text="Wirbt für 垃圾.", id=id)
        assert (reply.status, reply.body) == (SUCCESS, b"")
        alice.ok(REPORT, person="mallory", text="again")
        first, second = reports(server)
        assert abs(first.pop("time") - id / 1024) < 60_000
        assert first == {
            "id": 1, "reporter": "alice", "person": "mallory", "text": "Wirbt für 垃圾.", "message_id": id,
            "receiver": "alice", "is_group": 0, "content": "buy this",
        }  # fmt: skip
        assert (second["id"], second["text"], second["message_id"], second["content"]) == (2, "again", None, None)
        mallory.ok(REPORT, person="mallory", text="myself")  # and nothing has come to mallory
        assert not mallory.notices


def test_only_messages_that_one_was_sent(server: JellyServer) -> None:
    """By that person, to oneself or to a group of one's own; of all others it says the same."""
    with modern(server, "alice") as alice, modern(server, "bob") as bob, modern(server, "carol") as carol:
        alice.ok(CREATE_GROUP, groupName="team")
        before = said(alice, "team", "before", GROUP_MESSAGE)
        alice.ok(ADD_MEMBER, groupName="team", member="bob")
        to_team, to_bob = said(alice, "team", "to all", GROUP_MESSAGE), said(alice, "bob", "to bob")
        for id in (to_team, to_bob):
            bob.ok(REPORT, person="alice", text="x", id=id)
        own = said(bob, "alice", "mine")
        for wire, person, id in (
            (bob, "alice", before), (bob, "alice", own), (bob, "bob", own), (bob, "carol", to_bob), (bob, "alice", 1),
            (carol, "alice", to_bob), (carol, "alice", to_team), (carol, "alice", -(2**63)), (carol, "bob", own),
        ):  # fmt: skip
            reply = wire.call(REPORT, person=person, text="x", id=id)
            assert (reply.error, reply.values["message"]) == (
                "no_such_message",
                "You have no such message of this user.",
            )
        alice.ok(REMOVE_MEMBER, groupName="team", member="bob")
        assert bob.refused(REPORT, person="alice", text="x", id=to_team) == "no_such_message"
        assert [report["content"] for report in reports(server)] == ["to all", "to bob"]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"person": "bob"}, "malformed_body"),
        ({"text": "x"}, "malformed_body"),
        ({"person": "bob", "text": " "}, "malformed_body"),
        ({"person": "bob", "text": "x", "id": "1"}, "malformed_body"),
        ({"person": "bob", "text": "x" * (MAX_REPORT + 1)}, "too_long"),
        ({"person": "nobody", "text": "x"}, "no_such_user"),
        ({"person": " ", "text": "x"}, "no_such_user"),
        ({"username": "bob", "person": "bob", "text": "x"}, "not_yourself"),
    ],
)
def test_what_is_refused(server: JellyServer, asked: dict[str, Any], code: str) -> None:
    """Nothing is stored then."""
    with modern(server, "alice") as alice:
        assert alice.refused(REPORT, **asked) == code
        alice.ok(REPORT, person="bob", text="x" * MAX_REPORT)
        assert len(reports(server)) == 1


@pytest.mark.parametrize("features", [None, [], ["ack", "pages", "ids"]])
def test_without_the_feature(server: JellyServer, features: list[str] | None) -> None:
    """For a classic client, and for one that did not ask for it, the type does not exist."""
    with logged_in(server.port, "alice", features=features) as alice:
        assert alice.refused(REPORT, person="bob", text="x") == "unknown_type"
        assert reports(server) == []


def test_bounds(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten a day from one user. Who makes most of them makes room for the others."""
    monkeypatch.setattr(report_service, "MAX_REPORTS", REPORTS_A_DAY + 1)
    with modern(server, "mallory") as mallory, modern(server, "alice") as alice, modern(server, "bob") as bob:
        id = said(mallory, "alice", "x" * (MAX_REPORTED_CONTENT + 1))
        for number in range(REPORTS_A_DAY):
            mallory.ok(REPORT, person="alice", text=f"{number}")
        assert mallory.refused(REPORT, person="alice", text="one more") == "limit_reached"
        alice.ok(REPORT, person="mallory", text="help", id=id)
        bob.ok(REPORT, person="mallory", text="help")
        found = reports(server)
        assert [report["text"] for report in found] == [*map(str, range(1, REPORTS_A_DAY)), "help", "help"]
        assert found[-2]["content"] == "x" * MAX_REPORTED_CONTENT


def test_old_reports_go(dao: Dao) -> None:
    """After 90 days, in slices."""
    day = 86_400_000
    with dao.connection.transaction():
        for number in range(5):
            report_dao.add(dao, Report(0, "alice", "bob", str(number), None, None, None, None, number * day), 100)
    retention = Retention(0.0, clock=lambda: 1e9, wall=lambda: (REPORT_DAYS + 2.5) * 86_400)
    retention.due_at = 0
    with dao.connection.transaction():
        retention.run_due(dao)
    assert [report.text for report in report_dao.some(dao, 0, 100)] == ["3", "4"]
    with dao.connection.transaction():
        assert report_dao.remove_old(dao, 100 * day, 1)
        assert len(report_dao.some(dao, 0, 100)) == 1
        assert report_dao.remove_old(dao, 100 * day, 1)
        assert not report_dao.remove_old(dao, 100 * day, 1)


def test_the_command(server: JellyServer) -> None:
    """It prints each report for a person, shows no control characters, and closes one."""
    here = f"--database={url(server)}"
    assert run_here("reports", here).stdout == "no reports\n"
    with modern(server, "alice") as alice, modern(server, "mallory") as mallory:
        id = said(mallory, "alice", "\x1b[2Jred\n小王")
        alice.ok(REPORT, person="mallory", text="rude\x07\x9b", id=id)
        alice.ok(REPORT, person="bob", text="so is he")
        lines = run_here("reports", here).stdout.splitlines()
        assert lines[0].startswith("1  20")
        assert lines[0].endswith(" UTC  alice about mallory")
        assert lines[1:3] == ["    says: rude\\x07\\x9b", f"    message {id} to alice: \\x1b[2Jred\\n小王"]
        assert lines[4:] == ["    says: so is he", "2 reports"]
        assert json.loads(run_here("reports", "--json", here).stdout)[0]["text"] == "rude\x07\x9b"
        assert "rude\\u0007\\u009b" in run_here("reports", "--json", here).stdout
        done = run_here("reports", "close", "1", here)
        assert (done.returncode, done.stdout) == (0, "report 1 is closed\n")
        assert [report["id"] for report in reports(server)] == [2]
        for arguments, sentence in (
            (["close", "1"], "There is no report 1"),
            (["close"], "Write jelly reports, or jelly reports close NUMBER."),
            (["close", "x"], "invalid int value"),
            (["fly"], "There is no command fly"),
        ):
            done = run_here("reports", *arguments, here)
            assert done.returncode in (1, 2)
            assert sentence in done.stderr
    server.stop()
    assert run_here("reports", "close", "2", here).returncode == 0  # without a server, too
    assert run_here("reports", here).stdout == "no reports\n"


def test_through_another_node(start_server: StartServer, mariadb: PrivateMariaDB) -> None:
    """A message that was stored at one node is reported at another one, once numbered."""
    database = ready_database(mariadb, "jelly_test")
    first, second = (start_server(database=database, cluster="none", classic_gap=0) for _ in range(2))
    register(first.port, "alice", "bob")
    with modern(first, "alice") as alice:
        id = said(alice, "bob", "word")
    with modern(second, "bob") as bob, modern(first, "alice") as alice:
        bob.ok(REPORT, person="alice", text="x", id=id)
        alice.ok(REPORT, person="bob", text="y")
        wait_until(lambda: [report["id"] for report in reports(second)] == [1, 2])


def test_the_library(start_server: StartServer, new_client: NewClient) -> None:
    server = start_server(classic_gap=0)
    register(server.port, "alice", "bob")
    alice, bob = new_client(server.port), new_client(server.port)
    for name, client in (("alice", alice), ("bob", bob)):
        result(client.login(name, "pw"))
    sent = result(bob.send_message("alice", "hello"))
    assert result(alice.report("bob", "says hello", message_id=sent.id)) is None
    assert [report["content"] for report in reports(server)] == ["hello"]
