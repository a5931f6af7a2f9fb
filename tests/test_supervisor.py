"""`--nodes`: several processes on one port, which live and stop together."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from harness import ready_database
from wire import Wire, register, wait_until

from faults.mariadb import PrivateMariaDB
from faults.process import PATIENCE, ROOT, Server, clean_environment, end, free_port, run
from jelly import ports
from jelly.cluster.supervisor import Backoff, Supervisor
from jelly.errors import StartError

N = 3
"""How many processes most tests start."""


def has_ended(pid: int) -> bool:
    """Whether a process, which need not be a child of this one, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)


def sockets(pid: int) -> set[str]:
    """The numbers of a process's sockets."""
    found = set[str]()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.update(re.findall(r"socket:\[(\d+)\]", str(file.readlink())))
    return found


class Nodes(Server):
    """Several nodes on one port, which a supervisor runs. `process` is the supervisor."""

    def __init__(self, database: str, *arguments: str, **options: Any) -> None:
        super().__init__(database, "--cluster=none", f"--nodes={N}", *arguments, **options)

    def pids(self) -> list[int]:
        """The processes that serve, or have served."""
        return [int(pid) for pid in re.findall(rb"jelly\[(\d+)\]: serving ", self.log)]

    def alive(self) -> list[int]:
        """The processes that serve."""
        return [pid for pid in self.pids() if not has_ended(pid)]

    def connect(self) -> tuple[int, Wire]:
        """A connection, and the process that has it."""
        wire = Wire(self.port)
        client = wire.socket.getsockname()[1]
        owner = 0

        def has_owner() -> bool:
            nonlocal owner
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
                _, local, remote, _, _, _, _, _, _, number, *_ = line.split()
                if [int(each.partition(":")[2], 16) for each in (local, remote)] == [self.port, client]:
                    owner = sum(pid for pid in self.alive() if number in sockets(pid))
            return owner != 0

        wait_until(has_owner)
        return owner, wire

    def kill(self) -> None:
        """Kill the supervisor, and wait until no process is left."""
        super().kill()
        wait_until(lambda: not self.alive())


class LoggingNodes(Nodes):
    """Nodes that log to a file, jelly.log."""

    def __init__(self, database: str, directory: Path, *arguments: str) -> None:
        self.path = directory / "jelly.log"
        super().__init__(database, f"--log-file={self.path}", *arguments)

    @property
    def log(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""


@pytest.fixture
def database(mariadb: PrivateMariaDB) -> str:
    """A database in which nothing is."""
    return ready_database(mariadb, "supervised")


@pytest.fixture
def nodes(database: str) -> Iterator[Nodes]:
    """Nodes that serve."""
    with Nodes(database) as nodes:
        yield nodes


# --- serving --------------------------------------------------------------------------------------


def test_all_take_connections(nodes: Nodes) -> None:
    """One line says that all serve, and the system spreads the clients."""
    assert len(nodes.alive()) == N
    assert nodes.log.count(b" listening on 127.0.0.1 port ") == 1
    assert nodes.log.endswith(nodes.log[nodes.log.index(b" listening on ") :])
    with contextlib.ExitStack() as stack:
        owners = set[int]()
        while len(owners) < N:
            owner, wire = nodes.connect()
            stack.enter_context(wire)
            owners.add(owner)


def test_a_core_each(nodes: Nodes) -> None:
    """(`test_scheduling.py` tells which.) The supervisor has one thread, and so may make forks."""
    assert [len(os.sched_getaffinity(pid)) for pid in nodes.alive()] == [1] * N
    assert len(list(Path(f"/proc/{nodes.process.pid}/task").iterdir())) == 1


def test_signals_go_to_the_thread_that_waits_for_them(nodes: Nodes) -> None:
    """All others block them."""
    for pid in nodes.alive():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            [blocked] = re.findall(r"^SigBlk:\s*(\w+)$", (thread / "status").read_text(), re.MULTILINE)
            wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            assert [int(blocked, 16) >> (number - 1) & 1 for number in wanted] == [int(thread.name) != pid] * 3


def test_the_log_tells_processes_apart(database: str) -> None:
    """Each line has the number of its process, in both formats."""
    with Nodes(database, "--log-format=json") as nodes:
        assert nodes.stop() == 0
        entries = [json.loads(line) for line in nodes.log.splitlines()]
        assert list(entries[0]) == ["time", "level", "logger", "process", "message"]
        said = {(entry["process"], entry["message"]) for entry in entries}
        serving = {pid for pid, message in said if message.startswith("serving ")}
        assert len(serving) == N
        assert {pid for pid, message in said if message == "stopped"} == serving
        assert (nodes.process.pid, "all processes have ended") in said


# --- a process that dies --------------------------------------------------------------------------


def test_a_process_that_is_killed(nodes: Nodes) -> None:
    """Another takes its place; the others serve their clients as if nothing had happened, and no
    client is refused.
    """
    with contextlib.ExitStack() as stack:
        connected = [nodes.connect() for _ in range(12)]
        for _, wire in connected:
            stack.enter_context(wire)
        register(nodes.port, *(f"user{number}" for number in range(12)))
        for number, (_, wire) in enumerate(connected):
            wire.login(f"user{number}")
        victim = connected[0][0]
        others = [wire for owner, wire in connected if owner != victim]
        os.kill(victim, signal.SIGKILL)
        for owner, wire in connected:
            if owner == victim:
                with pytest.raises((EOFError, ConnectionResetError)):
                    wire.receive()
        for sender, receiver in pairwise(others):
            sender.message(receiver.user, "still here")
            assert receiver.contents(1) == ["still here"]
        while b"of 3) serves" not in nodes.log:
            with contextlib.suppress(ConnectionResetError):  # the dead one had it, and had not accepted it yet
                Wire(nodes.port).close()
        assert len(nodes.alive()) == N
        assert f"process {victim} (".encode() in nodes.log
        assert b"was killed by signal 9 (Killed): starting it again\n" in nodes.log
        new = nodes.pids()[-1]
        owner = 0
        while owner != new:
            owner, wire = nodes.connect()
            stack.enter_context(wire)
    assert nodes.stop() == 0


def test_a_process_that_an_operator_stops(nodes: Nodes) -> None:
    """It stops in order, and another takes its place; at once, however often."""
    for times in (1, 2, 3):
        os.kill(nodes.pids()[-1], signal.SIGTERM)
        wait_until(lambda times=times: nodes.log.count(b"of 3) serves") == times)
        assert nodes.log.count(b") has stopped: starting it again\n") == times
        assert len(nodes.alive()) == N


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping(nodes: Nodes, number: int) -> None:
    """All stop in order; the last line is the supervisor's, and no process is left."""
    pids = nodes.alive()
    with Wire(nodes.port) as wire:
        wire.wait_until_served()
        assert nodes.stop(number) == 0
        assert wire.is_closed_by_server()
    assert all(has_ended(pid) for pid in pids)
    assert {f"jelly[{pid}]: stopped".encode() in nodes.log for pid in pids} == {True}
    assert nodes.log.splitlines()[-1].endswith(b"all processes have ended")


def test_a_signal_to_each_process(nodes: Nodes) -> None:
    """As systemd sends it: that which the supervisor passes on is no second one."""
    for pid in (nodes.process.pid, *nodes.alive()):
        with contextlib.suppress(ProcessLookupError):  # on a busy machine it may have stopped by now
            os.kill(pid, signal.SIGTERM)
    assert nodes.process.wait(PATIENCE) == 0
    assert nodes.log.count(b": stopped\n") == N
    assert b"starting it again" not in nodes.log


def test_a_process_that_ends_before_the_supervisor_has_looked_at_its_signal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process was told to stop, too. So it does not start again."""
    supervisor = Supervisor(1, lambda _: 0)
    [place] = supervisor._places
    place.pid, place.served_since = 2**30, 0.0
    place.report, report_end = os.pipe()

    def wait(pid: int, _: int) -> tuple[int, int]:
        os.write(supervisor._signals_end, bytes([signal.SIGCHLD, signal.SIGTERM]))
        return pid, 0

    monkeypatch.setattr(os, "waitpid", wait)
    supervisor._reap()
    supervisor._selector.close()
    pipes = (supervisor._signals, supervisor._signals_end, supervisor._alive, supervisor._alive_end)
    for descriptor in (report_end, *pipes):
        os.close(descriptor)
    assert supervisor._stopping
    assert "starting it again" not in caplog.text


@pytest.fixture
def terminal(database: str, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    """Nodes that were started in a terminal and serve: the terminal, the supervisor, the log."""
    master, slave = pty.openpty()
    log = tmp_path / "jelly.log"
    command = [sys.executable, str(ROOT / "jelly.py"), "--port=0", "--cluster=none", f"--nodes={N}"]
    process = subprocess.Popen(
        [*command, f"--database={database}", f"--log-file={log}"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=clean_environment(),
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    try:
        wait_until(lambda: log.exists() and "listening on" in log.read_text())
        yield master, process, log
    finally:
        end(process)
        with contextlib.suppress(OSError):  # if the test has closed the terminal
            os.close(master)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_terminal(terminal: tuple[int, subprocess.Popen[bytes], Path], is_closed: bool) -> None:
    """Ctrl-C in it, or closing it, stops all in order: to the others, that is one signal."""
    master, process, log = terminal
    if is_closed:
        os.close(master)
    else:
        os.write(master, b"\x03")
    assert process.wait(PATIENCE) == 0
    assert log.read_text().count(": stopped\n") == N


def test_a_supervisor_that_is_killed(database: str) -> None:
    """The others notice it and stop in order, and then the port is free."""
    with Nodes(database, f"--port={free_port()}") as nodes:
        pids = nodes.alive()
        nodes.process.kill()
        nodes.process.wait()  # the end of a process closes its pipe, then its socket
        wait_until(lambda: all(has_ended(pid) for pid in pids))
        assert nodes.log.count(b"the supervisor is gone: stopping\n") == N
        assert nodes.log.count(b": stopped\n") == N
        ports.reserve("127.0.0.1", nodes.port).close()


# --- SIGHUP ---------------------------------------------------------------------------------------


def test_a_log_file_that_was_moved_away(database: str, tmp_path: Path) -> None:
    """All open it anew, also those that start later."""
    with LoggingNodes(database, tmp_path) as nodes:
        moved = nodes.path.rename(tmp_path / "jelly.log.1")
        pids = re.findall(rb"jelly\[(\d+)\]: serving", moved.read_bytes())
        nodes.process.send_signal(signal.SIGHUP)
        wait_until(lambda: nodes.log.count(b"opened the log file anew") == N + 1)
        os.kill(int(pids[0]), signal.SIGKILL)
        nodes.wait_for_log(b"of 3) serves")
        assert len(nodes.pids()) == 1
        assert nodes.stop() == 0
        assert nodes.log.count(b": stopped\n") == N
        assert b": stopped\n" not in moved.read_bytes()


def test_a_renewed_certificate(database: str, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    """All processes read it."""
    file = tmp_path / "cert.pem"
    file.write_bytes(certificate[0].read_bytes() + certificate[1].read_bytes())
    renewed = tmp_path / "renewed.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=renewed",
            "-keyout", tmp_path / "key", "-out", renewed,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    with Nodes(database, f"--tls-cert={file}") as nodes:
        file.write_bytes(renewed.read_bytes() + (tmp_path / "key").read_bytes())
        nodes.process.send_signal(signal.SIGHUP)
        wait_until(lambda: nodes.log.count(b"read the certificate anew") == N)
        shown = {ssl.get_server_certificate(("127.0.0.1", nodes.port)) for _ in range(10)}
        assert shown == {renewed.read_text()}


# --- what keeps them from starting ----------------------------------------------------------------


def fails(database: str, code: int, *arguments: str) -> str:
    """The one line that the supervisor says when it cannot start."""
    done = run(f"--database={database}", "--cluster=none", f"--nodes={N}", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("jelly: ") == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_port_in_use(is_shared: bool) -> None:
    """One sentence, exit code 1; also if the other program would share the port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = fails("mysql://u:p@127.0.0.1:1/x", 1, f"--port={port}")
    assert said.startswith(f"jelly: Cannot listen on 127.0.0.1 port {port}: Address already in use.")


def test_a_reserved_port() -> None:
    """It goes to sockets that share it, and to no other; not even to a second supervisor whose
    processes do not listen yet.
    """
    with ports.reserve("127.0.0.1", 0) as reserved, socket.socket() as node, socket.socket() as other:
        port = reserved.getsockname()[1]
        with pytest.raises(StartError, match="Cannot listen"):
            ports.reserve("127.0.0.1", port)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            node.setsockopt(socket.SOL_SOCKET, option, 1)
        node.bind(("127.0.0.1", port))
        node.listen()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        socket.create_connection(("127.0.0.1", port)).close()  # `reserved` does not listen


def test_a_wrong_certificate(database: str, tmp_path: Path) -> None:
    """All processes say the same: it is said once, exit code 2."""
    said = fails(database, 2, "--port=0", f"--tls-cert={tmp_path}/none.pem")
    assert said.startswith(f"jelly: The certificate {tmp_path}/none.pem cannot be read: ")


def test_a_database_that_is_away() -> None:
    """It is said without waiting for it, exit code 1."""
    said = fails("mysql://u:p@127.0.0.1:1/x", 1, "--port=0")
    assert said.startswith("jelly: The database mysql://127.0.0.1:1/x cannot be used: ")


# --- the supervisor by itself ---------------------------------------------------------------------


class Supervised:
    """A supervisor of something else than a server."""

    def __init__(self, directory: Path, kind: str, *arguments: str) -> None:
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "supervised.py"), kind, *arguments],
                stderr=log, env={**clean_environment(), "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        wait_until(lambda: all(has_ended(pid) for pid in {int(pid) for pid, _ in self.log()}))

    def log(self) -> list[tuple[str, str]]:
        """The lines: by which process, and what."""
        return [(pid, text) for pid, _, text in (line.partition(" ") for line in self._log.read_text().splitlines())]

    def says(self, words: str, times: int = 1) -> None:
        """Wait until the log has some words so many times."""
        wait_until(lambda: str(self.log()).count(words) >= times)

    def ends(self) -> int:
        """Wait for the exit code."""
        return self.process.wait(PATIENCE)


Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a supervisor of tests/supervised.py."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Supervised(tmp_path, *arguments))


def test_pauses() -> None:
    """They grow while processes die soon; one that has served for long is replaced at once."""
    backoff = Backoff()
    assert [backoff.next(1.0) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [backoff.next(served) for served in (10.0, 9.9, 9.9, 1000.0)] == [0, 1, 2, 0]
    assert [backoff.next(0.0, at_least=1.0) for _ in range(3)] == [1, 2, 4]
    assert Backoff().next(0.0, at_least=1.0) == 1


def test_a_process_that_crashes_again_and_again(start: Start) -> None:
    """The first time it starts again at once, then after growing pauses; the log says which."""
    supervised = start("crashes")
    supervised.says("starting it again in 4 s")  # until then there is no second process to stop
    supervised.process.terminate()
    assert supervised.ends() == 0
    lines = [text for _, text in supervised.log()]
    starts = [float(text.partition(" at ")[2]) for text in lines if text.startswith("starts at")]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert (pauses[1] >= 1, pauses[2] >= 2) == (True, True)
    ends = [re.sub(r"process \d+ ", "", text) for text in lines if "starting it again" in text]
    assert [text.partition(": ") for text in ends][:3] == [
        ("(2 of 3) has ended with exit code 3", ": ", f"starting it again{after}")
        for after in ("", " in 1 s", " in 2 s")
    ]


def test_a_process_that_the_system_has_no_room_for(start: Start) -> None:
    """It is tried again a second later."""
    supervised = start("finds_no_room")
    supervised.says("cannot start a process: Resource temporarily unavailable; trying again in 1 s")
    supervised.says("all serve: the line")
    supervised.process.terminate()
    assert supervised.ends() == 0


def test_a_bug_in_a_process(start: Start, tmp_path: Path) -> None:
    """It is logged, and ends that process only."""
    supervised = start("has_a_bug", str(tmp_path / "mark"))
    supervised.says("all serve: the line")
    supervised.says("ValueError: a bug (supervised.py:")
    supervised.says("has ended with exit code 1: starting it again")
    supervised.process.terminate()


def test_none_can_start(start: Start) -> None:
    """When each has failed, that is the end: exit code 1, and the log has the sentence once."""
    supervised = start("cannot_start")
    assert supervised.ends() == 1
    lines = [re.sub(r"process \d+ ", "", text) for _, text in supervised.log()]
    assert re.sub(r"[123] of 3", "1 of 3", lines[0]) == (
        "(1 of 3) cannot start: There is no database. It is tried again in 1 s, unless none of the others can start"
    )
    assert lines[1:] == ["stopping all processes: none of them can start", "failed: There is no database."]


def test_a_setting_that_is_wrong(start: Start) -> None:
    """The first process that finds it ends everything: exit code 2. Nobody says that it is tried
    again.
    """
    supervised = start("is_set_wrong")
    assert supervised.ends() == 2
    lines = [text for _, text in supervised.log()]
    assert lines == ["stopping all processes: a setting is wrong", "failed: The certificate is none."]


def test_a_setting_that_is_wrong_later_for_all(start: Start, tmp_path: Path) -> None:
    """While others serve, a process that finds it is tried again. When none serves any more, that
    is the end.
    """
    supervised = start("cannot_start_any_more", str(tmp_path / "wrong"))
    supervised.says("all serve")
    (tmp_path / "wrong").touch()
    served = [int(pid) for pid, text in supervised.log() if text == "serves"]
    os.kill(served[0], signal.SIGKILL)
    supervised.says("cannot start: The certificate is none. Starting it again in 1 s")
    for pid in served[1:]:
        os.kill(pid, signal.SIGKILL)
    assert supervised.ends() == 2
    lines = [text for _, text in supervised.log()]
    assert lines[-2:] == ["stopping all processes: a setting is wrong", "failed: The certificate is none."]


def test_a_database_that_is_away_later_for_all(start: Start, tmp_path: Path) -> None:
    """They have served, so they can again: each is tried again until the database is back."""
    supervised = start("lose_their_database", str(tmp_path / "away"))
    supervised.says("all serve")
    (tmp_path / "away").touch()
    for pid in [int(pid) for pid, text in supervised.log() if text == "serves"]:
        os.kill(pid, signal.SIGKILL)
    for place in range(1, 4):
        supervised.says(f"({place} of 3) cannot start: There is no database. Starting it again in 1 s")
    (tmp_path / "away").unlink()
    wait_until(lambda: [text for _, text in supervised.log()].count("serves") == 6)
    supervised.process.terminate()
    assert supervised.ends() == 0


def test_a_setting_that_is_wrong_later(start: Start, tmp_path: Path) -> None:
    """A process that starts again finds half a file: the others serve on, and it is tried again."""
    supervised = start("cannot_start_again", str(tmp_path / "first"), str(tmp_path / "second"))
    supervised.says("all serve")
    [second] = [int(pid) for pid, text in supervised.log() if text == "is the second"]
    os.kill(second, signal.SIGKILL)
    supervised.says("(2 of 3) cannot start: The certificate is none. Starting it again in 1 s")
    supervised.says("(2 of 3) serves")
    supervised.process.terminate()
    assert supervised.ends() == 0


def test_a_second_signal(start: Start) -> None:
    """It ends all at once, the supervisor by that signal, as it would a single server."""
    supervised = start("ignores_signals")
    supervised.says("all serve")
    supervised.process.terminate()
    supervised.says("stopping all processes")
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.ends() == -signal.SIGINT
    supervised.says("has not stopped in order: was killed by signal 9 (Killed)", times=N)


def test_the_exit_code(start: Start) -> None:
    """It is that of the process that has not stopped in order."""
    supervised = start("ends_with_an_error")
    supervised.says("all serve")
    supervised.process.terminate()
    assert supervised.ends() == 5
    supervised.says("(1 of 3) has not stopped in order: has ended with exit code 5")
