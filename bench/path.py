"""The path of one message through the code: every call on every thread, from socket to socket.

    python -m bench.path

Alice sends Bob a message. Both have modern clients, and the server is warm. It prints each function
of `jelly/` that is called until Bob has the message and Alice her SUCCESS, by thread, in order.
Comprehensions do not count, nor does the standard library.
"""

import contextlib
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from jelly.codec import Decoder, Frame, Type
from jelly.config import Settings
from jelly.requests import encode_request
from jelly.server import JellyServer

PACKAGE = Path(__file__).resolve().parent.parent / "jelly"
WARM_UP = 20
MESSAGES = 9
"""How many messages are traced. The shortest path counts: on others lies work that is due just
then.
"""
INTRODUCTION = """Every call that one message from Alice to Bob makes, in order, by thread and file.
The last line counts the calls, and how often a reader who follows it has to turn to another file."""
TIMEOUT = 10.0
"""Seconds for which a client waits for a frame."""


class Call(NamedTuple):
    """A call of one of the server's functions."""

    thread: str
    file: str
    function: str
    note: str = ""


class Tracer:
    """Notes the calls of the server's functions on all threads that start while it is installed."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.is_on = False
        self._root = f"{PACKAGE}/"

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and self.is_on and code.co_filename.startswith(self._root):
            name = code.co_qualname
            if not name.endswith(("comp>", "genexpr>")):
                file = code.co_filename.removeprefix(self._root)
                note = ""
                if name == "SendQueue.send":
                    note = "notice to Bob" if frame.f_locals["notices"] else "response to Alice"
                self.calls.append(Call(threading.current_thread().name, file, name, note))


class Client:
    """A modern client in nothing but a socket."""

    def __init__(self, port: int, name: str) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self.name = name

    def send(self, type: Type, **values: object) -> None:
        self._sock.sendall(encode_request(type, values))

    def receive(self) -> Frame:
        while not self._frames:
            data = self._sock.recv(65536)
            if not data:
                raise EOFError("the server has closed the connection")
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def log_in(self) -> None:
        self.send(Type.LOGIN, username=self.name, password="password", features=["ack"])
        self.receive()

    def close(self) -> None:
        self._sock.close()


def message_path() -> list[Call]:
    """The calls of one message between warm modern clients, on SQLite."""
    tracer = Tracer()
    before = threading.gettrace()
    threading.settrace(tracer)
    try:
        with _clients() as (server, alice, bob):
            paths = [_send(tracer, server, alice, bob) for _ in range(WARM_UP + MESSAGES)]
    finally:
        threading.settrace(before)
    return min(paths[WARM_UP:], key=len)


@contextlib.contextmanager
def _clients() -> Iterator[tuple[JellyServer, Client, Client]]:
    with tempfile.TemporaryDirectory(prefix="jelly-path-") as directory, contextlib.ExitStack() as stack:
        server = JellyServer(Settings(port=0, password_cost=1, pin="off", database=f"sqlite:///{directory}/jelly.db"))
        stack.callback(server.stop)
        server.start()
        for name in ("alice", "bob"):
            with contextlib.closing(Client(server.port, name)) as client:
                client.send(Type.REGISTER, username=name, password="password")
                client.receive()
        alice, bob = (stack.enter_context(contextlib.closing(Client(server.port, name))) for name in ("alice", "bob"))
        alice.log_in()
        bob.log_in()
        yield server, alice, bob


def _send(tracer: Tracer, server: JellyServer, alice: Client, bob: Client) -> list[Call]:
    tracer.calls.clear()
    tracer.is_on = True
    alice.send(Type.PERSON_MESSAGE, sender="alice", receiver="bob", content="hello", time=1)
    notice = bob.receive()
    alice.receive()
    tracer.is_on = False
    calls = list(tracer.calls)
    while calls and calls[-1].function != "SendQueue.send":
        calls.pop()  # the threads may have gone on before we could look
    bob.send(Type.ACK, id=json.loads(notice.body)["id"])
    done = threading.Event()
    server.store.call_soon(done.set)  # the next message begins when the store thread has nothing to do
    done.wait(TIMEOUT)
    return calls


def file_changes(calls: Sequence[Call]) -> int:
    """How often the path goes from one file to another."""
    return sum(before.file != after.file for before, after in pairwise(calls))


def _describe(call: Call) -> str:
    return f"{call.function} ({call.note})" if call.note else call.function


def main() -> int:
    calls = message_path()
    print(f"{INTRODUCTION}\n")
    for thread, part in groupby(calls, key=lambda call: call.thread):
        print(thread)
        for file, functions in groupby(part, key=lambda call: call.file):
            print(f"    {file:20} {', '.join(map(_describe, functions))}")
    print(f"\n{len(calls)} calls, {file_changes(calls)} changes of file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
