"""A process that forks while it has clients: the child ends its copies of them, and the parent
notices nothing."""

import sys
import textwrap
from pathlib import Path

import pytest
from client_tools import NewClient, Recorder, result, run_program
from harness import StartServer
from wire import register

from faults.proxy import Proxy
from jelly.server import JellyServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

PRELUDE = """
    import os, signal, socket, sys, threading, time
    from client_api import ConnectionLost, JellyClient, Receiver, RequestRejected, State

    signal.alarm(60)
    port = int(sys.argv[1])

    def in_child(check):
        # Run `check` in a child, and end with its traceback if it fails. It must not take long: nothing waits there.
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                check()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        return child

    def wait_for(child):
        assert os.waitpid(child, 0)[1] == 0

    def is_lost(future):
        error = future.exception(10)
        assert isinstance(error, ConnectionLost) and not error.sent, error
        assert "process" in str(error), error
"""


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    server = start_server()
    register(server.port, "alice", "bob", "carol")
    return server


def run(program: str, port: int, **environment: str) -> None:
    """Run a program that forks: not in the process of the tests, which has many threads."""
    run_program(textwrap.dedent(PRELUDE) + textwrap.dedent(program), str(port), **environment)


def test_the_parent_goes_on_as_if_nothing_had_happened(
    server: JellyServer, new_client: NewClient, recorder: Recorder
) -> None:
    """Each of its requests gets its own answer, and each message is stored once; what the child
    sends is not."""
    result(new_client(server.port, recorder).login("bob", "pw"))
    run(
        """
        alice = JellyClient("127.0.0.1", port)
        alice.login("alice", "pw").result(10)
        alice.send_message("bob", "before").result(10)

        def send():
            for number in range(30):
                is_lost(alice.send_message("bob", f"child {number}"))

        child = in_child(send)
        for number in range(30):
            try:
                alice.send_message("bob" if number % 3 else "nobody", f"parent {number}").result(10)
            except RequestRejected as error:
                assert error.code == "no_such_user" and number % 3 == 0
            else:
                assert number % 3
        wait_for(child)
        for number in range(10):
            alice.send_message("bob", f"later {number}").result(10)
        alice.close()
        """,
        server.port,
    )
    numbers = [number for number in range(30) if number % 3]
    expected = ["before", *(f"parent {number}" for number in numbers), *(f"later {number}" for number in range(10))]
    assert recorder.contents(len(expected)) == expected
    assert recorder.messages == expected


def test_every_call_in_the_child_ends_at_once(server: JellyServer) -> None:
    """Also the waits, a login, a close and a listener. The state says that nothing more comes."""
    run(
        """
        alice = JellyClient("127.0.0.1", port)
        alice.login("alice", "pw").result(10)

        def check():
            assert alice.state is State.CLOSED
            assert alice.username is alice.token is alice.address is None
            told = []
            future = alice.list_friends()
            future.add_done_callback(lambda future: told.append(future.exception()))
            is_lost(future)
            assert len(told) == 1
            for future in (alice.login("alice", "pw"), alice.resume("alice", 5), alice.register("dora", "pw"),
                           alice.logout(), alice.send_group_message("team", "hello"), alice.history("bob")):
                is_lost(future)
            alice.typing("bob")
            assert alice.wait(10) is True
            assert alice.wait_until_online(10) is False
            alice.close()
            with alice:
                pass

        wait_for(in_child(check))
        assert alice.state is State.ONLINE
        alice.send_message("bob", "hello").result(10)
        alice.close()
        """,
        server.port,
    )


def test_a_future_from_before_the_fork_ends_in_the_child(server: JellyServer) -> None:
    """Nobody knows there what becomes of the request; the parent gets the answer."""
    with Proxy(server.port) as proxy:
        run(
            """
            import concurrent.futures

            gate = threading.Event()

            class Slow(Receiver):
                def on_message(self, event):
                    gate.wait(60)

            silent = socket.create_server(("127.0.0.1", 0))  # accepts, and answers nothing
            stuck = JellyClient(*silent.getsockname())
            login, registration = stuck.login("carol", "pw"), stuck.register("dora", "pw")
            silent.accept()[0], silent.accept()[0]
            alice = JellyClient("127.0.0.1", port)
            alice.login("alice", "pw").result(10)
            sent = [alice.send_message("bob", str(number)) for number in range(1100)]
            heard = []
            sent[-1].add_done_callback(lambda future: heard.append(os.getpid()))

            def check():
                concurrent.futures.wait([*sent, login, registration], timeout=10)
                for future in (*sent, login, registration):
                    if future.exception(10) is not None:
                        assert isinstance(future.exception(), ConnectionLost) and future.exception().sent
                assert os.getpid() not in heard  # the parent hears of it

            wait_for(in_child(check))
            for future in sent:
                future.result(20)
            alice.close()
            assert heard == [os.getpid()]
            stuck.close(0)
            login.exception(), registration.exception()
            """,
            proxy.port,
        )


def test_descriptors_are_closed_in_the_child(server: JellyServer) -> None:
    """Also those of a connection that is just being made: so servers see when the parent closes."""
    run(
        """
        silent = socket.create_server(("127.0.0.1", 0))
        stuck = JellyClient(*silent.getsockname())
        login = stuck.login("carol", "pw")
        peer = silent.accept()[0]
        alice = JellyClient("127.0.0.1", port)
        alice.login("alice", "pw").result(10)

        def sockets():
            found = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    found.append(os.readlink("/proc/self/fd/" + name))
                except FileNotFoundError:
                    pass
            return [each for each in found if each.startswith("socket:")]

        def check():
            assert len(sockets()) == 2, sockets()  # those of the test: `silent` and `peer`

        assert len(sockets()) > 2
        wait_for(in_child(check))
        stuck.close(0)
        login.exception()
        alice.close()
        """,
        server.port,
    )


def test_the_child_may_make_clients_of_its_own(server: JellyServer, new_client: NewClient, recorder: Recorder) -> None:
    """And it may use one that was made before the fork and not used: no two processes share
    requestIds."""
    result(new_client(server.port, recorder).login("bob", "pw"))
    run(
        """
        shared = JellyClient("127.0.0.1", port)

        def send(name):
            shared.login(name, "pw").result(10)
            for number in range(3):
                shared.send_message("bob", f"{name} {number}").result(10)
            shared.close()
            with JellyClient("127.0.0.1", port) as own:
                own.login(name, "pw").result(10)
                own.send_message("bob", f"{name} own").result(10)

        for child in [in_child(lambda: send("carol")), in_child(lambda: send("alice"))]:
            wait_for(child)
        send("alice")
        """,
        server.port,
    )
    contents = [*(f"{name} {what}" for name in ("alice", "carol", "alice") for what in (0, 1, 2, "own"))]
    assert sorted(recorder.contents(12)) == sorted(contents)


def test_a_fork_in_a_callback(server: JellyServer) -> None:
    """The message is not acknowledged by the child, and the parent goes on."""
    run(
        """
        class Forks(Receiver):
            def on_message(self, event):
                wait_for(in_child(lambda: is_lost(event.reply("from the child"))))
                event.reply("from the parent").result(10)
                done.set()

        done = threading.Event()
        bob = JellyClient("127.0.0.1", port, receiver=Forks())
        bob.login("bob", "pw").result(10)
        alice = JellyClient("127.0.0.1", port)
        alice.login("alice", "pw").result(10)
        alice.send_message("bob", "hello").result(10)
        assert done.wait(30)
        alice.close()
        bob.close()
        """,
        server.port,
    )


def test_while_other_threads_use_the_client(server: JellyServer) -> None:
    """They may hold each lock of it at the moment of the fork; the child hangs at none of them."""
    run(
        """
        alice = JellyClient("127.0.0.1", port)
        alice.login("alice", "pw").result(10)
        stop = threading.Event()
        futures = []

        def hammer():
            while not stop.is_set():
                futures.append(alice.send_message("alice", "hello"))
                futures[-1].result(20)

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()

        def check():
            is_lost(alice.send_message("bob", "hello"))
            for future in futures[-5:]:
                future.exception(10)
            alice.close()

        for _ in range(25):
            wait_for(in_child(check))
        sys.setswitchinterval(0.005)
        stop.set()
        for thread in threads:
            thread.join()
        for future in futures:
            future.result(10)
        alice.close()
        """,
        server.port,
    )


def test_a_child_that_ends_says_no_goodbye_for_the_parent(
    start_server: StartServer, certificate: tuple[Path, Path]
) -> None:
    """With TLS, the end of a conversation is a record of its own: the child must not send it."""
    server = start_server(tls_cert=str(certificate[0]), tls_key=str(certificate[1]))
    run(
        """
        alice = JellyClient("localhost", port, tls=True, reconnect=False)
        alice.register("alice", "pw").result(10)
        alice.login("alice", "pw").result(10)
        for _ in range(3):
            child = os.fork()
            if child == 0:
                is_lost(alice.send_message("alice", "hello"))
                sys.exit()  # the whole way out, with the garbage collector
            wait_for(child)
            alice.send_message("alice", "hello").result(10)
        alice.close()
        """,
        server.port,
        SSL_CERT_FILE=str(certificate[0]),
    )
