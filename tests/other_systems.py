"""Tries the library and the plain chat on another system than Linux: `python other_systems.py`.

It runs on Windows and macOS, and needs nothing but Python and an installed Jelly. With
`--without-posix` it does as if this was no POSIX system, and so does the `jelly` that it starts.
The server is the stand-in for the original one. Where Jelly's own server runs, that is tried, too;
elsewhere, what it says.
"""

import os
import queue
import subprocess
import sys
import threading

from no_posix import PRETEND
from original import OriginalServer
from wire import register

from jelly import ConnectionEvent, JellyClient, MessageEvent, Receiver, ReconnectPolicy, State, cli
from jelly.errors import StartError
from jelly.system import NEEDS_POSIX, check_system
from jelly.testing import local_server

RUN = "--run"
"""The arguments behind it are those of `jelly`, which runs instead."""
PATIENCE = 60.0


class Heard(Receiver):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.messages = queue.Queue[str]()

    def on_message(self, event: MessageEvent) -> None:
        self.messages.put(event.content)


class Echo(Receiver):
    """Sends back what arrives."""

    def on_message(self, event: MessageEvent) -> None:
        event.reply(f"{event.content} to you")


def runs_server() -> bool:
    """Whether Jelly's server can run on this system."""
    try:
        check_system()
    except StartError:
        return False
    return True


def talk(url: str, password: str) -> None:
    """Alice writes to bob, who answers."""
    heard = Heard()
    with JellyClient.from_url(url, receiver=Echo()) as bob, JellyClient.from_url(url, receiver=heard) as alice:
        bob.login("bob", password).result(PATIENCE)
        alice.login("alice", password).result(PATIENCE)
        for number in range(20):
            alice.send_message("bob", f"hello {number}").result(PATIENCE)
        got = {heard.messages.get(timeout=PATIENCE) for _ in range(20)}
        assert got == {f"hello {number} to you" for number in range(20)}, got


def reconnect(server: OriginalServer, url: str) -> None:
    """A client whose connection is lost is online again by itself."""
    lost, back = threading.Event(), threading.Event()

    class Watcher(Receiver):
        def on_connection(self, event: ConnectionEvent) -> None:
            if event.state is State.RECONNECTING:
                lost.set()
            elif event.state is State.ONLINE and lost.is_set():
                back.set()

    quick = ReconnectPolicy(pause=0.05, maximum=0.2)
    with JellyClient.from_url(url, receiver=Watcher(), reconnect=quick) as alice:
        alice.login("alice", "pw").result(PATIENCE)
        server.cut_all()
        assert back.wait(PATIENCE)
        alice.own_profile().result(PATIENCE)


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run `jelly` on the same system."""
    program = [sys.executable, __file__, *({PRETEND} & set(sys.argv)), RUN, *arguments]
    environment = {**os.environ, "JELLY_PASSWORD": "pw", "PYTHONUTF8": "1"}
    return subprocess.run(
        program, input=text, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def chat(url: str) -> None:
    """The chat sends one message, and another one in a conversation, line by line."""
    heard = Heard()
    with JellyClient.from_url(url, receiver=heard) as bob:
        bob.login("bob", "pw").result(PATIENCE)
        done = run("chat", "alice", "--server", url, "--send", "bob", "at once")
        assert done.returncode == 0, done
        done = run("chat", "alice", "--server", url, "--plain", text="/to bob\nline by line\n/quit\n")
        assert done.returncode == 0, done
        got = [heard.messages.get(timeout=PATIENCE) for _ in range(2)]
        assert got == ["at once", "line by line"], got


def say_what_the_server_needs() -> None:
    """One sentence, whatever is to be done with the server's files; help is there all the same."""
    assert NEEDS_POSIX.count("\n") == 0
    for arguments in ([], ["--demo"], ["user", "list"], ["backup", "copy.db"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"jelly: {NEEDS_POSIX}\n"), done
    for arguments in (["--help"], ["--version"], ["chat", "--help"]):
        assert run(*arguments).returncode == 0
    said = ""
    try:
        with local_server():
            pass
    except StartError as error:
        said = str(error)
    assert said == NEEDS_POSIX


def main() -> None:
    with OriginalServer() as server:
        url = f"jelly://127.0.0.1:{server.port}"
        register(server.port, "alice", "bob")
        talk(url, "pw")
        reconnect(server, url)
        chat(url)
    if runs_server():
        with local_server("alice", "bob") as own:
            talk(own, "secret1")
    else:
        say_what_the_server_needs()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("jelly")]
    assert not left, left
    print("The library and the chat work here;", "the server, too." if runs_server() else "the server says why not.")


if __name__ == "__main__":
    if RUN in sys.argv:
        sys.exit(cli.main(sys.argv[sys.argv.index(RUN) + 1 :]))
    main()
