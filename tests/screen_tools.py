"""Chats in terminals, for the tests of the full screen: the functions of their fixtures."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from harness import StartServer
from terminal import Terminal
from wire import register

Open = Callable[..., Terminal]


def port_without_pauses(start_server: StartServer) -> int:
    """The port of a server without pauses between frames: these clients need none."""
    return start_server(classic_gap=0).port


def opener_of_chats(port: int) -> Iterator[Open]:
    """A function that opens a chat in a terminal for a registered user with the password pw."""
    with ExitStack() as stack:

        def open_one(name: str, *arguments: str, port: int = port, **options: str | int) -> Terminal:
            terminal = stack.enter_context(
                Terminal(name, *arguments, port=port, **{"JELLY_PASSWORD": "pw", **options})  # type: ignore[arg-type]
            )
            terminal.wait_for(f" {name} │")
            return terminal

        yield open_one


@contextmanager
def two(port: int, open_chat: Open) -> Iterator[tuple[Terminal, Terminal]]:
    """Open chats for alice and bob, each in the conversation with the other."""
    register(port, "alice", "bob")
    alice, bob = open_chat("alice"), open_chat("bob")
    alice.enter("/to bob")
    bob.enter("/to alice")
    alice.wait_for("bob>")
    bob.wait_for("alice>")
    yield alice, bob
