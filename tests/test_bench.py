"""The benchmark: every scenario runs and is checked, the check finds what it is for, and the tables
are whole.
"""

import contextlib
import dataclasses
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import nodes, soak
from bench.__main__ import main
from bench.compare import compare
from bench.meter import Usage, cpu_clock
from bench.nodes import SINGLE, Case, Cluster, NodeRunner
from bench.profile import role_of
from bench.runs import Result, Runner, open_runner
from bench.scenarios import CROSSING, LOCAL, MIXED, STANDARD, Measurement, Scenario, parse
from bench.table import HEAD, table
from bench.verify import Channel, DeliveryChecker, summary
from faults.mariadb import PrivateMariaDB
from faults.process import ROOT
from faults.redis import PrivateRedis

TINY = [
    "pairs-2-1", "pairs-2-16", "group-3-1", "offline-3-5", "logins-1-4", "reconnects-5", "idle-5",
]  # fmt: skip
SECONDS = 0.1


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with open_runner(["sqlite", "memory"], SECONDS) as made:
        yield made


@pytest.mark.parametrize("name", TINY)
def test_a_scenario(name: str, runner: Runner) -> None:
    """In a tiny form it runs, everything arrives, and the row has all its columns."""
    result = runner.run(parse(name), "memory" if name.startswith("pairs") else "sqlite")
    assert result.problems == result.not_run == ""
    assert result.measurements
    for measurement in result.measurements:
        assert measurement.count > 0
        assert measurement.usage is not None
        assert measurement.usage.memory > 1 << 20
    for line in table([result]).splitlines():
        assert line.count("|") == len(HEAD) + 1


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a database nor anything else stays in the directory for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with open_runner(["sqlite", "memory"], SECONDS) as runner:
        for database in ("sqlite", "memory"):
            assert not runner.run(parse("pairs-1-1"), database).problems
        assert list(tmp_path.iterdir()) == [runner.directory]
    assert list(tmp_path.iterdir()) == []


def test_the_tiny_forms_are_of_every_kind() -> None:
    """No scenario of the table is left out above."""
    assert {parse(name).kind for name in TINY} == {scenario.kind for scenario in STANDARD}


def test_on_mariadb(runner: Runner, mariadb: PrivateMariaDB) -> None:
    """The database has a cost of its own there."""
    on_mariadb = Runner({"mariadb": mariadb}, {}, runner.directory, SECONDS)
    result = on_mariadb.run(parse("pairs-2-1"), "mariadb")
    assert (result.problems, result.not_run) == ("", "")
    [measurement] = result.measurements
    assert measurement.usage is not None
    assert measurement.usage.database >= 0


def test_without_mariadb(runner: Runner) -> None:
    """It is left out with one sentence for all scenarios, and that is no failure."""
    without = Runner({}, {"mariadb": "MariaDB is left out: mariadbd is not installed"}, runner.directory, SECONDS)
    results = [without.run(parse(name), "mariadb") for name in ("pairs-1-1", "idle-5")]
    assert not any(result.problems for result in results)
    head, _, *rest = table(results).splitlines()
    assert head.startswith("| scenario")
    assert rest == ["", "Not run on mariadb: pairs-1-1, idle-5. MariaDB is left out: mariadbd is not installed"]
    text, _ = compare(without, ROOT, [parse("pairs-1-1")], ["mariadb"], rounds=2)
    assert text.splitlines()[2:] == [
        "",
        "Not run on mariadb: pairs-1-1. MariaDB is left out: mariadbd is not installed",
    ]


def test_how_to_install_mariadb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the driver the sentence names it, and the package of the database too."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with open_runner(["mariadb"], SECONDS) as runner:
        assert "pip install '.[mysql]'" in runner.missing["mariadb"]
        assert "mariadb-server" in runner.missing["mariadb"]


# --- the check ------------------------------------------------------------------------------------


def after(*numbers: int, sent: int = 5, damage: bytes = b"", refused: tuple[int, ...] = ()) -> list[str]:
    """The kinds of problems when of `count` messages these arrive, in this order."""
    problems: list[str] = []
    channel = Channel("alice", "bob")
    checker = DeliveryChecker(channel, problems)
    for _ in range(sent):
        channel.next_frame(0.0)
    channel.refused.update(refused)
    for number in numbers:
        body = channel.sent[number] + b',"id":%d}' % (number + 1)
        checker.check(body.replace(b"fox", damage) if damage and number == 2 else body)
    checker.finish()
    return [problem.partition(":")[0] for problem in problems]


def test_the_check_lets_pass_what_is_right() -> None:
    """All in order, and what was refused is not missed."""
    assert after(0, 1, 2, 3, 4) == []
    assert after(0, 1, 4, refused=(2, 3)) == []


def test_the_check_finds_each_defect() -> None:
    """Control: a message that is lost, comes twice, is overtaken, is changed, or came although it
    was refused.
    """
    assert after(0, 1, 3, 4) == ["lost"]
    assert after(0, 1, 2, 3) == ["lost"]
    assert after(0, 1, 1, 2, 3, 4) == ["doubled"]
    assert after(0, 2, 1, 3, 4) == ["out of order"]
    assert "damaged" in after(0, 1, 2, 3, 4, damage=b"fix")
    assert after(0, 1, 2, 3, 4, refused=(2,)) == ["refused, but it arrived"]


def test_the_check_finds_what_is_for_somebody_else() -> None:
    """Control: the right words at the wrong receiver."""
    problems: list[str] = []
    other = Channel("alice", "carol")
    other.next_frame(0.0)
    DeliveryChecker(Channel("alice", "bob"), problems).check(other.sent[0] + b',"id":1}')
    assert summary(problems).startswith("1 misrouted (the first: ")


def test_a_failure_is_in_the_table_and_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in which a message is lost does not pass."""
    monkeypatch.setattr(Runner, "run", lambda _, scenario, database: Result(scenario.name, database, [], "", "1 lost"))
    assert main(["--scenarios=pairs-1-1", "--databases=memory"]) == 1
    assert "FAILED: 1 lost" in capsys.readouterr().out


def test_something_happens_in_each_measurement(runner: Runner) -> None:
    """However short it is: on a busy machine, nothing may happen for as long as it was to take."""
    no_time = dataclasses.replace(runner, seconds=0.0)
    [measurement] = no_time.run(parse("pairs-9-1"), "memory").measurements
    assert measurement.count >= 9


def test_a_busy_generator_is_marked(runner: Runner) -> None:
    """A row that may tell more of the generator than of the server says so."""
    result = runner.run(parse("pairs-1-1"), "memory")
    assert "(!)" not in table([result])
    [measurement] = result.measurements
    assert measurement.usage is not None
    measurement.usage.generator = measurement.usage.seconds * 0.95
    assert "95% (!)" in table([result])


# --- several nodes --------------------------------------------------------------------------------


@pytest.fixture
def node_runner(runner: Runner, mariadb: PrivateMariaDB, redis_server: PrivateRedis) -> NodeRunner:
    on_mariadb = Runner({"mariadb": mariadb}, {}, runner.directory, SECONDS)
    return NodeRunner(on_mariadb, "mariadb", redis_server)


TWO_NODES = [
    Case(parse("group-3-1"), Cluster(2, "redis")),
    Case(parse("pairs-4-1"), Cluster(2, "none"), MIXED),
    Case(parse("offline-3-5"), Cluster(2, "redis"), CROSSING),
]


@pytest.mark.parametrize("case", TWO_NODES, ids=str)
def test_two_nodes(case: Case, node_runner: NodeRunner) -> None:
    """Everything arrives, and each process has a cost of its own."""
    results = {each: node_runner.run(each) for each in (Case(case.scenario, SINGLE), case)}
    assert [(result.problems, result.not_run) for result in results.values()] == [("", "")] * 2
    text = nodes.tables([results])
    head, _, single, *rows = text.splitlines()
    assert len(rows) == len(results[case].measurements) * 2 - 1
    assert all(line.count("|") == head.count("|") for line in (single, *rows))
    assert " | single server | " in single
    assert all(f" | {case.cluster} | " in row for row in rows[-len(results[case].measurements) :])


def test_the_cases_of_nodes() -> None:
    """Only where there is another node can a message go to it; one pair is not at two places."""
    clusters = [Cluster(1, "redis"), Cluster(2, "redis")]
    assert [(case.cluster.nodes, case.placement) for case in nodes.cases(parse("pairs-9-1"), clusters)] == [
        (0, LOCAL), (1, LOCAL), (2, LOCAL), (2, CROSSING), (2, MIXED),
    ]  # fmt: skip
    assert MIXED not in [case.placement for case in nodes.cases(parse("pairs-1-1"), clusters)]
    assert [case.placement for case in nodes.cases(parse("group-5-1"), clusters)] == [LOCAL] * 3


def figures(**values: object) -> Result:
    usage = Usage(1.0, 0.5, 0.1, 0.1, 0.3, 1 << 20, [0.1, 0.2], 0.05)
    usage = dataclasses.replace(usage, **{name: value for name, value in values.items() if name != "count"})  # type: ignore[arg-type]
    return Result("pairs-2-1", "mariadb", [Measurement("2 pairs", int(str(values.get("count", 100))), usage=usage)])


def test_figures_that_cannot_be_right() -> None:
    """Control: a measurement in which nothing happened, or a process took no part, is an error."""
    case = Case(parse("pairs-2-1"), Cluster(2, "redis"), CROSSING)
    assert nodes.wrong_figures(case, figures()) == ""
    assert "nothing happened" in nodes.wrong_figures(case, figures(count=0))
    assert "a server has used no CPU time" in nodes.wrong_figures(case, figures(servers=[0.1, 0.0]))
    assert "a server has used no CPU time" in nodes.wrong_figures(case, figures(servers=[0.3]))
    assert "the database or Redis" in nodes.wrong_figures(case, figures(database=0.0))
    assert "the database or Redis" in nodes.wrong_figures(case, figures(redis=0.0))
    assert nodes.wrong_figures(case, Result("pairs-2-1", "mariadb")) == "nothing was measured"
    idle = dataclasses.replace(case, scenario=parse("idle-1"))
    assert nodes.wrong_figures(idle, figures(servers=[0.1, 0.0])) != ""


def test_a_cluster_that_is_not_what_was_asked_for(node_runner: NodeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: messages that stay at a node, and a node that is missing, are errors."""
    case = Case(parse("pairs-2-1"), Cluster(2, "none"), LOCAL)
    with monkeypatch.context() as patch:
        patch.setattr(Case, "crosses", True)
        assert node_runner.run(case).problems == "no message went from node to node"
    with node_runner._serve(case) as servers:
        servers[1].stop()
        assert node_runner._wrong_cluster(case, servers) == "there were 1 nodes"
        over_redis = dataclasses.replace(case, cluster=Cluster(2, "redis"))
        assert "through Redis" in node_runner._wrong_cluster(over_redis, servers)


@pytest.mark.usefixtures("mariadb")
def test_a_failure_of_nodes_is_in_the_table_and_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if it was in one of several rounds only; and if Redis is missing."""
    count = 0

    def run(_: NodeRunner, case: Case) -> Result:
        nonlocal count
        count += 1
        return dataclasses.replace(figures(servers=[0.1] * (case.cluster.nodes or 1)), problems="1 lost" * (count == 3))

    monkeypatch.setattr(NodeRunner, "run", run)
    arguments = ["--nodes=2", "--engine=none", "--scenarios=pairs-1-1", "--rounds=3"]
    assert main(arguments) == 1
    assert capsys.readouterr().out.count("FAILED: 1 lost") == 1
    assert main(arguments) == 0
    monkeypatch.undo()
    result = NodeRunner(Runner({}, {}, Path(), SECONDS), "mariadb", None).run(TWO_NODES[0])
    assert "apt-get install redis-server" in nodes.failure([result])


def test_the_clock_of_a_process() -> None:
    """It counts what the process uses, also another's."""
    before = cpu_clock(os.getpid())
    sum(range(100_000))
    assert before < cpu_clock(os.getpid())
    assert cpu_clock(os.getppid()) > 0


@pytest.mark.parametrize(
    "arguments", [["--nodes=0"], ["--nodes=x"], ["--nodes=2", "--engine=kafka"], ["--nodes=2", "--databases=sqlite"],
                  ["--nodes=2", "--scenarios=logins"]],
)  # fmt: skip
def test_nodes_that_there_cannot_be(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error: " in capsys.readouterr().err


# --- the command line -----------------------------------------------------------------------------


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--seconds=0.1"]) == 0
    return capsys.readouterr().out


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Above it stands on what it was measured."""
    about, _, head, _, row = run("--scenarios=pairs-1-1", "--databases=memory", capsys=capsys).splitlines()
    assert all(word in about for word in ("cores", "Linux", "Python", "SQLite", "UTC", "synchronous=FULL"))
    assert head == f"| {' | '.join(HEAD)} |"
    assert row.startswith("| 1 pair, 1 under way | memory |")


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    """It runs both versions, and leaves no worktree behind; outside of a checkout it says that it
    needs one.
    """
    arguments = ["--compare=HEAD", "--scenarios=pairs-1-1", "--databases=sqlite", "--rounds=1"]
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        assert main(arguments) == 1
        assert "needs a git checkout" in capsys.readouterr().err
        return
    before = worktrees()
    text = run(*arguments, capsys=capsys)
    assert "| 1 pair, 1 under way | sqlite |" in text
    assert worktrees() <= before


def worktrees() -> set[str]:
    """Where this repository is checked out."""
    listed = subprocess.check_output(["git", "worktree", "list", "--porcelain"], cwd=ROOT, text=True)
    return {line for line in listed.splitlines() if line.startswith("worktree ")}


def test_compare_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A revision that there is not is a sentence."""
    assert main(["--compare=no-such-revision", "--scenarios=pairs-1-1", "--databases=sqlite"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of thread that serves messages has a line."""
    text = run("--profile", "--scenarios=pairs-4-16", capsys=capsys)
    assert {"store", "reader", "worker"} <= {line.partition(" ")[0] for line in text.splitlines()}
    assert role_of("jelly-worker_3") == "worker"
    assert role_of("jelly-reader-127.0.0.1:5000") == "reader"


def test_soak(capsys: pytest.CaptureFixture[str]) -> None:
    """It does what it was asked for, of every kind, and looks ten times."""
    text = run("--soak=300", capsys=capsys)
    assert text.count("| sqlite |") == soak.STEPS
    operations = [int(line.split("|")[2]) for line in text.splitlines() if line.startswith("| sqlite")]
    assert operations == sorted(operations)
    assert 300 <= operations[-1] < 340


def test_what_is_flat() -> None:
    """Memory may grow while the server gets warm, and not after that."""
    mib = 1 << 20
    assert soak.is_flat([20 * mib, 30 * mib, *[31 * mib] * 8])
    assert not soak.is_flat([20 * mib, *(30 * mib + n * mib for n in range(9))])


@pytest.mark.parametrize("name", ["nothing", "pairs-1", "pairs-1-0", "pairs-a-b", "idle-1-2"])
def test_a_scenario_that_there_is_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence on what would be right."""
    with contextlib.suppress(SystemExit):
        main([f"--scenarios={name}"])
    assert "scenarios" in capsys.readouterr().err


def test_names() -> None:
    """A scenario is called what it is parsed from."""
    assert parse("pairs-50-16") == Scenario("pairs", (50, 16))
    assert [parse(scenario.name) for scenario in STANDARD] == list(STANDARD)
    assert Measurement("x").to_json()["p50"] == 0.0
