"""examples/minimal_server.py: it is one page, it works with both kinds of clients, and it breaks
where it says so.
"""

import ast
import contextlib
import importlib.util
import re
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from client_tools import NewClient, Recorder, error, result
from wire import (
    ADD_MEMBER,
    CREATE_GROUP,
    DISBAND_GROUP,
    GROUP_MESSAGE,
    LOGIN,
    LOGOUT,
    PERSON_MESSAGE,
    REGISTER,
    REQUEST_ERROR,
    SUCCESS,
    Wire,
    logged_in,
    register,
    wait_until,
)

from client_api import State
from faults.process import ROOT, Program

PAGE = ROOT / "examples" / "minimal_server.py"
SOURCE = PAGE.read_text(encoding="utf-8")
MOST_LINES = 120


class Minimal(Program):
    """The program, as its first line says how to start it; by default on a free port."""

    def __init__(self, port: int = 0) -> None:
        super().__init__("examples/minimal_server.py", str(port))
        try:
            self.port = int(self.line().rpartition(" ")[2])
        except BaseException:
            self.__exit__(None, None, None)
            raise


@pytest.fixture
def minimal() -> Iterator[int]:
    """The port of a running program."""
    with Minimal() as server:
        yield server.port


# --- what it is -----------------------------------------------------------------------------------


def test_it_is_one_page() -> None:
    """It has at most 120 lines, all of them counted, and needs the standard library only."""
    assert len(SOURCE.splitlines()) <= MOST_LINES
    names = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    assert names <= set(sys.stdlib_module_names)


def test_every_cure_is_where_it_says() -> None:
    """Each BREAKS names a file of the package, and a class in it if it names one."""
    cures = re.findall(r"BREAKS: .*?(\w+\.py)(?:: (\w+))?$", SOURCE, re.MULTILINE)
    assert len(cures) == SOURCE.count("BREAKS:") == 11
    for file, name in cures:
        code = (ROOT / "jelly" / file).read_text(encoding="utf-8")
        assert f"\nclass {name}" in code, (file, name)


# --- what works -----------------------------------------------------------------------------------


def test_the_client_library(minimal: int, new_client: NewClient) -> None:
    """Two users register, log in, write to each other, miss a message while offline, and talk in a
    group.
    """
    told, heard = Recorder(), Recorder()
    alice, bob = new_client(minimal, told), new_client(minimal, heard)
    for client, name in ((alice, "alice"), (bob, "bob")):
        assert result(client.register(name, "pw")) == name
    assert error(bob.login("bob", "wrong")).code == "wrong_credentials"
    assert result(alice.login("alice", "pw")).features == ()
    result(alice.send_message("bob", "while you are away"))
    result(bob.login("bob", "pw"))
    assert heard.contents(1) == ["while you are away"]
    result(bob.send_message("alice", "你好 😀"))
    assert told.contents(1) == ["你好 😀"]
    result(alice.create_group("team"))
    assert error(bob.send_group_message("team", "hello")).code == "not_a_member"
    result(alice.add_member("team", "bob"))
    result(bob.send_group_message("team", "hello, team"))
    [event] = told.wait_for(lambda e: getattr(e, "group", "") == "team")
    assert (event.sender, event.content) == ("bob", "hello, team")
    result(alice.logout())
    assert alice.state is State.OFFLINE


def test_the_client_library_comes_back_with_its_token(minimal: int, new_client: NewClient) -> None:
    """A token opens a connection in place of the password, until its user logs out."""
    register(minimal, "alice")
    first, second = new_client(minimal), new_client(minimal)
    token = result(first.login("alice", "pw")).token
    first.close()
    assert result(second.resume("alice", token)).token == token
    result(second.logout())
    assert error(new_client(minimal).resume("alice", token)).code == "wrong_credentials"


def test_the_raw_client(minimal: int) -> None:
    """Two of examples/raw_client.py chat, and one gets what it missed."""
    program = "examples/raw_client.py"
    with Program(program, "alice", "secret1", "bob", str(minimal)) as alice:
        assert alice.line().startswith("logged in")
        with Program(program, "bob", "secret2", "alice", str(minimal)) as bob:
            assert bob.line().startswith("logged in")
            bob.say("hello, alice")
            assert alice.line() == "bob: hello, alice"
            bob.press_ctrl_c()
        alice.say("hello, bob")
        with Program(program, "bob", "secret2", "alice", str(minimal)) as bob:
            assert bob.line().startswith("logged in")
            assert bob.line() == "alice: hello, bob"


def test_the_wire(minimal: int) -> None:
    """Heartbeats get no answer, refusals have a code, and the server closes after a LOGOUT."""
    register(minimal, "alice")
    with Wire(minimal) as wire:
        assert wire.refused(PERSON_MESSAGE, sender="alice", receiver="alice", content="x", time=1) == "not_yourself"
    with Wire(minimal) as wire:
        assert wire.refused(LOGIN, username="nobody", password=None) == "wrong_credentials"
    with Wire(minimal) as wire:
        assert wire.refused(REGISTER, username="alice", password="other") == "username_taken"
    with logged_in(minimal, "alice") as alice:
        alice.heartbeat()
        assert alice.refused(DISBAND_GROUP, groupName="team") == "unknown_type"
        assert alice.refused(PERSON_MESSAGE, receiver="nobody", content="x", time=1) == "no_such_user"
        assert alice.refused(GROUP_MESSAGE, receiver="nothing", content="x", time=1) == "no_such_group"
        assert alice.call(CREATE_GROUP).status == SUCCESS  # nobody looks whether a group has a name
        alice.send(b"\xab\xcd\x01\x15\x00\x00\x00\x00\x04nope")
        assert alice.receive().status == REQUEST_ERROR
        alice.message("alice", "to myself")
        assert alice.contents(1) == ["to myself"]
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.is_closed_by_server()


def test_it_starts_again_at_once() -> None:
    """It takes the port of a server that has just stopped with clients, whose connections TCP still
    remembers.
    """
    with Minimal() as server:
        register(server.port, "alice")
        with logged_in(server.port, "alice") as alice:
            server.press_ctrl_c()
            assert alice.is_closed_by_server()
    with Minimal(server.port) as again:
        register(again.port, "alice")


@pytest.mark.parametrize("argument", ["x", "-1", "70000", "{port}"])
def test_a_port_that_it_cannot_use(argument: str, minimal: int) -> None:
    """It says in one line what is wrong with a port, or that it is in use, and what to do."""
    with Program("examples/minimal_server.py", argument.format(port=minimal)) as program:
        [line] = program.lines()
        assert line.startswith("Cannot listen: ")
        assert "Choose another port" in line
        assert program.process.returncode == 1


# --- what breaks ----------------------------------------------------------------------------------


def test_success_means_nothing_after_a_crash() -> None:
    """A message has its SUCCESS, the process dies, and message, group and account are gone."""
    with Minimal() as server:
        register(server.port, "alice", "bob")
        with logged_in(server.port, "alice") as alice:
            alice.message("bob", "kept?")
    with Minimal(server.port) as server:
        with Wire(server.port) as bob:
            assert bob.refused(LOGIN, username="bob", password="pw") == "wrong_credentials"
        server.press_ctrl_c()


class Inside:
    """The same code within this process, so that a test can stop its threads where it wants to."""

    def __init__(self, module: ModuleType, port: int) -> None:
        self.module, self.port = module, port

    def hold(self, fits: Callable[[Any, int], bool], monkeypatch: pytest.MonkeyPatch) -> "Hold":
        """Stop every worker that is about to send a frame that fits, given its receiver and its
        type.
        """
        hold, send = Hold(), self.module.Client.send

        def held_send(client: Any, sign: int, type: int, status: int, values: Any) -> None:
            if fits(client, type):
                hold.arrived.release()
                assert hold.may_go.wait(10)
            send(client, sign, type, status, values)

        monkeypatch.setattr(self.module.Client, "send", held_send)
        return hold


class Hold:
    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.may_go = threading.Event()

    def wait_for(self, workers: int) -> None:
        """Wait until this many workers are blocked."""
        for _ in range(workers):
            assert self.arrived.acquire(timeout=10)


@pytest.fixture
def inside() -> Iterator[Inside]:
    spec = importlib.util.spec_from_file_location("minimal_server", PAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), module.Client)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with ThreadPoolExecutor(module.WORKERS) as pool:
        workers = pool.map(module.work, range(module.WORKERS))
        thread.start()
        yield Inside(module, server.server_address[1])
        server.shutdown()
        thread.join()
        for _ in range(module.WORKERS):
            module.requests.put(None)  # no request: the worker ends
    server.server_close()  # waits for the threads of the connections
    list(workers)  # none has ended with an error


def test_answers_overtake_each_other(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a worker is held up before the first answer, another one gives the second."""
    register(inside.port, "alice")
    with logged_in(inside.port, "alice") as alice:
        hold = inside.hold(lambda _, type: type == CREATE_GROUP, monkeypatch)
        alice.send_request(CREATE_GROUP, groupName="team")
        alice.send_request(ADD_MEMBER, groupName="team", member="alice")
        hold.wait_for(1)
        assert alice.receive().type == ADD_MEMBER
        hold.may_go.set()
        assert alice.receive().type == CREATE_GROUP


def test_a_receiver_that_does_not_read_stops_all_users(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four messages to one receiver hold all workers; then the queue fills up, and carol is not
    served.
    """
    register(inside.port, "alice", "bob", "carol")
    with logged_in(inside.port, "alice") as alice, logged_in(inside.port, "bob") as bob:
        hold = inside.hold(lambda client, _: client.user == "bob", monkeypatch)
        with logged_in(inside.port, "carol") as carol:
            for number in range(inside.module.WORKERS):
                alice.send_message("bob", f"message {number}")
            hold.wait_for(inside.module.WORKERS)
            carol.send_request(CREATE_GROUP, groupName="hers")
            wait_until(lambda: inside.module.requests.qsize() == 1)  # and no worker is left to take it
            for _ in range(inside.module.QUEUE_SIZE):
                alice.send_message("bob", "one more")
            wait_until(inside.module.requests.full)
            assert "hers" not in inside.module.groups
            hold.may_go.set()
            assert carol.receive().status == SUCCESS
            for _ in range(inside.module.WORKERS + inside.module.QUEUE_SIZE):
                assert alice.receive().status == SUCCESS
            assert max(bob.contents(inside.module.WORKERS + inside.module.QUEUE_SIZE)) == "one more"


def test_what_dies_on_the_way_is_gone(inside: Inside) -> None:
    """Bob's connection ends before he has read a message. Nobody keeps it for his next login."""
    register(inside.port, "alice", "bob")
    with logged_in(inside.port, "alice") as alice, logged_in(inside.port, "bob") as bob:
        alice.message("bob", "did you read this?")
        wait_until(lambda: not inside.module.waiting["bob"])
        bob.reset()
        with logged_in(inside.port, "bob") as bob:
            bob.ok(CREATE_GROUP, groupName="later")  # a barrier: what waited would have come before
            alice.message("bob", "and this?")
            assert bob.contents(1) == ["and this?"]


def test_passwords_are_kept_in_clear(inside: Inside) -> None:
    """Whoever sees the memory has them all."""
    register(inside.port, "alice", password="secret1")
    assert inside.module.users == {"alice": "secret1"}


def test_the_sweep(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle groups leave the cache, and come back when they are used. An error in one sweep is the
    end of all.
    """
    module, timers = inside.module, list[tuple[float, Any]]()

    class Timer:
        def __init__(self, seconds: float, function: Callable[[], None]) -> None:
            self.values = (seconds, function)

        def start(self) -> None:
            timers.append(self.values)

    monkeypatch.setattr(threading, "Timer", Timer)
    register(inside.port, "alice")
    with logged_in(inside.port, "alice") as alice:
        for group in ("busy", "idle"):
            alice.ok(CREATE_GROUP, groupName=group)
            alice.message(group, "hello", GROUP_MESSAGE)
        used, members = module.cache["idle"]
        module.cache["idle"] = (used - 2 * module.IDLE_SECONDS, members)
        module.sweep()
        assert set(module.cache) == {"busy"}
        assert timers == [(module.IDLE_SECONDS, module.sweep)]
        alice.message("idle", "hello again", GROUP_MESSAGE)
        assert set(module.cache) == {"busy", "idle"}
    module.cache["broken"] = None
    with contextlib.suppress(TypeError):
        module.sweep()
    assert len(timers) == 1
