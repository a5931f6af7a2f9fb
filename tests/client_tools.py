"""What the tests of the client library share: a receiver that remembers, clients, servers.

- `Recorder` keeps every event, and waits for the events that a test wants;
- `new_client` (a fixture) makes clients, and closes them;
- `ScriptedServer` (the fixture `script`) is a socket on which the test plays the server, frame by
  frame; `Scripts` (`scripts`) are several, for a client that knows all of them;
- `service` (a fixture) is one of the three kinds of servers, each in turn.
"""

import contextlib
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from harness import StartServer
from original import OriginalServer
from wire import (
    HEARTBEAT,
    LOGIN,
    NOTICE,
    PATIENCE,
    PERSON_MESSAGE,
    RECONNECT,
    RESPONSE,
    SUCCESS,
    Reply,
    Wire,
    pack,
    register,
    to_json,
)

from client_api import (
    ConnectionEvent,
    EditEvent,
    GroupMessageEvent,
    JellyClient,
    Login,
    MessageEvent,
    OwnMessageEvent,
    Reason,
    Receiver,
    ReconnectPolicy,
    State,
    SystemEvent,
)
from faults.process import ROOT, clean_environment
from faults.proxy import Proxy
from jelly.client import pipeline

ACK, SYSTEM = 0x24, 0x25
Event = MessageEvent | GroupMessageEvent | OwnMessageEvent | EditEvent | SystemEvent | ConnectionEvent
NewClient = Callable[..., JellyClient]

BEGIN = [(State.OFFLINE, State.CONNECTING, Reason.LOGIN), (State.CONNECTING, State.ONLINE, Reason.LOGGED_IN)]
"""How the changes of a client begin that can log in."""
QUICK = ReconnectPolicy(pause=0.02, maximum=0.1)
"""For tests that are not about pauses."""
CALLBACK_THREAD = "jelly-client-callbacks"


class Recorder(Receiver):
    """Keeps every event, in order, and the names of the threads that delivered them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[str] = set()
        self._came = threading.Condition()  # guards the two above

    def on_message(self, event: MessageEvent) -> None:
        self._keep(event)

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._keep(event)

    def on_edit(self, event: EditEvent) -> None:
        self._keep(event)

    def on_own_message(self, event: OwnMessageEvent) -> None:
        self._keep(event)

    def on_own_edit(self, event: EditEvent) -> None:
        self._keep(event)

    def on_system(self, event: SystemEvent) -> None:
        self._keep(event)

    def on_connection(self, event: ConnectionEvent) -> None:
        self._keep(event)

    def _keep(self, event: Event) -> None:
        with self._came:
            self.events.append(event)
            self.threads.add(threading.current_thread().name)
            self._came.notify_all()

    def wait_for(self, fits: Callable[[Any], bool], count: int = 1) -> list[Any]:
        """Wait until `count` events fit; return these."""
        found: list[Any] = []

        def is_enough() -> bool:
            found[:] = [event for event in self.events if fits(event)]
            return len(found) >= count

        with self._came:
            assert self._came.wait_for(is_enough, PATIENCE), f"only {len(found)} of {count}: {self.events}"
        return found[:count]

    def contents(self, count: int) -> list[str]:
        """Return what the first `count` messages say, as soon as they have arrived."""
        return [event.content for event in self.wait_for(lambda e: isinstance(e, MessageEvent), count)]

    def wait_for_state(self, state: State, reason: Reason | None = None, count: int = 1) -> ConnectionEvent:
        """Wait for `count` changes to a state; return the last one."""

        def fits(event: Event) -> bool:
            return isinstance(event, ConnectionEvent) and event.state is state and reason in (None, event.reason)

        event: ConnectionEvent = self.wait_for(fits, count)[-1]
        return event

    @property
    def messages(self) -> list[str]:
        """What all messages that have arrived say."""
        with self._came:
            return [event.content for event in self.events if isinstance(event, MessageEvent)]

    @property
    def changes(self) -> list[tuple[State, State, Reason]]:
        """All changes of the connection so far."""
        with self._came:
            return [(e.previous, e.state, e.reason) for e in self.events if isinstance(e, ConnectionEvent)]


class Blocked(Recorder):
    """Its first message holds up the callback thread until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def on_message(self, event: MessageEvent) -> None:
        if not self.entered.is_set():
            self.entered.set()
            assert self.go.wait(10)
        super().on_message(event)


@pytest.fixture
def new_client() -> Iterator[NewClient]:
    """Make clients, which reconnect quickly by default, and close them after the test."""
    clients: list[JellyClient] = []

    def new(port: int, receiver: Receiver | None = None, **options: Any) -> JellyClient:
        client = JellyClient("127.0.0.1", port, receiver=receiver, **{"reconnect": QUICK, **options})
        clients.append(client)
        return client

    yield new
    for client in clients:
        client.close(timeout=0.5)
        assert client.state is State.CLOSED


def result(future: Future[Any]) -> Any:
    """Return the result of a future, in time."""
    return future.result(PATIENCE)


def error(future: Future[Any]) -> Any:
    """Return the error of a future, in time."""
    return future.exception(PATIENCE)


def run_program(code: str, *arguments: str, **environment: str) -> str:
    """Run a program in a process of its own; return what it prints. It must not fail, nor say
    anything on standard error.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments],
        capture_output=True, text=True, timeout=90, cwd=ROOT, env={**clean_environment(), **environment}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    return done.stdout


def descriptors(*kinds: str) -> int:
    """Return how many files and sockets this process has open, or how many of some kinds, such as
    `socket:`.

    (A server in this process opens files when it likes: each of its workers has its own connection
    to the database.)
    """
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += str(path.readlink()).startswith(kinds or "")
    return found


# --- a server that the test plays -----------------------------------------------------------------


class Peer(Wire):
    """The server's end of one connection. `receive` returns the next frame of any kind."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.user = ""
        self.token = 0
        self.bytes_sent = 0
        self.notices: list[Reply] = []
        self._waiting = b""

    def receive_request(self, type: int) -> Any:
        """Return what the next request says, which must be of this type; skip heartbeats before
        it."""
        while (frame := self.receive()).type == HEARTBEAT != type:
            pass
        assert (frame.sign, frame.type, frame.status) == (1, type, 0), frame
        return frame.values

    def is_silent(self, seconds: float = 0.15) -> bool:
        """Whether no byte arrives for a while."""
        return self.says_nothing(seconds)

    def answer(self, type: int, status: int = SUCCESS, **values: Any) -> None:
        self.send(response(type, status, **values))

    def notify(self, type: int, **values: Any) -> None:
        self.send(notice(type, **values))

    def say(self, content: str, **values: Any) -> None:
        """Send a message from bob."""
        self.send(message(content, **values))


class ScriptedServer:
    """A listening socket, on which the test plays the server."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._peers: list[Peer] = []

    def accept(self) -> Peer:
        """Return the next connection."""
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        return peer

    def accept_login(self, features: Sequence[str] | None = ("ack",), behind: bytes = b"") -> Peer:
        """Accept the LOGIN or RECONNECT of the next connection; `behind`: more bytes in the same
        write."""
        peer = self.accept()
        frame = peer.receive()
        assert frame.type in (LOGIN, RECONNECT), frame
        values = {"username": frame.values["username"], **({"token": 7} if frame.type == LOGIN else {})}
        if features is not None:
            values["features"] = list(features)
        peer.send(response(frame.type, SUCCESS, **values) + behind)
        return peer

    def refuse(self) -> None:
        """Refuse the LOGIN or RECONNECT of the next connection, and close it."""
        with self.accept() as peer:
            frame = peer.receive()
            peer.answer(frame.type, 0x32, error="invalid_token")

    def log_in(self, client: JellyClient, features: Sequence[str] | None = ("ack",), behind: bytes = b"") -> Peer:
        """Let a client log in as alice."""
        login = client.login("alice", "pw")
        peer = self.accept_login(features, behind)
        assert isinstance(result(login), Login)
        return peer

    def close(self) -> None:
        """Stop listening: connections are refused from now on."""
        self._listener.close()

    def end(self) -> None:
        self.close()
        for peer in self._peers:
            peer.close()


@pytest.fixture
def script() -> Iterator[ScriptedServer]:
    """A server that the test plays."""
    server = ScriptedServer()
    yield server
    server.end()


NEVER = ReconnectPolicy(pause=3600.0, jitter=0.0)
"""A test with this policy hangs if the client makes a pause."""


class Scripts:
    """Servers that the test plays, and a client that knows all of them."""

    def __init__(self, count: int) -> None:
        self._servers = {server.port: server for server in (ScriptedServer() for _ in range(count))}
        self.addresses = [("127.0.0.1", port) for port in self._servers]

    def of(self, client: JellyClient) -> list[ScriptedServer]:
        """The servers in the order in which this client tries them."""
        return [self._servers[int(address.rpartition(":")[2])] for address in client.addresses]

    def end(self) -> None:
        for server in self._servers.values():
            server.end()


@pytest.fixture
def scripts(request: pytest.FixtureRequest) -> Iterator[Scripts]:
    """Two servers that the test plays, or as many as the parameter says."""
    servers = Scripts(getattr(request, "param", 2))
    yield servers
    servers.end()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def alice(new_client: NewClient, scripts: Scripts, recorder: Recorder) -> JellyClient:
    """A client that knows all of these servers, and never makes a pause."""
    return new_client(1, recorder, addresses=scripts.addresses, reconnect=NEVER)


three = pytest.mark.parametrize("scripts", [3], indirect=True)


def has_connection(server: ScriptedServer) -> bool:
    """Whether a connection waits at a server."""
    return bool(select.select([server._listener], [], [], 0)[0])


def name_of(server: ScriptedServer) -> str:
    return f"127.0.0.1:{server.port}"


def response(type: int, status: int = SUCCESS, **values: Any) -> bytes:
    return pack(type, to_json(values) if values else b"", RESPONSE, status)


def notice(type: int, **values: Any) -> bytes:
    return pack(type, to_json(values), NOTICE)


def message(content: str, **values: Any) -> bytes:
    return notice(
        PERSON_MESSAGE,
        **{"sender": "bob", "receiver": "alice", "content": content, "time": 1_700_000_000_000, **values},
    )


# --- the three kinds of servers -------------------------------------------------------------------


class Service:
    """A server to which a client connects through a proxy.

    `features`: what the client must ask for.
    """

    def __init__(self, port: int, proxy: Proxy, features: tuple[str, ...], original: OriginalServer | None) -> None:
        self.is_original = original is not None
        self.server_port = port
        self.port = proxy.port
        self.features = features
        self.proxy = proxy
        self._original = original

    def cut(self) -> None:
        """Break all connections.

        The original breaks them itself. If it learned of a lost connection only after the next
        login, it would take the user for offline, and no message would reach that user any more.
        """
        if self._original is not None:
            self._original.cut_all()
        else:
            self.proxy.cut()


@pytest.fixture(params=["jelly", "jelly-classic", "original"])
def service(
    request: pytest.FixtureRequest, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """Jelly for a modern client and for a classic one, and the stand-in for the original.

    Each has the users alice, bob and carol.
    """
    if request.param == "jelly-classic":  # Jelly's decoder does not need a pause after a heartbeat
        monkeypatch.setattr(pipeline, "CLASSIC_GAP", 0.01)
    with contextlib.ExitStack() as stack:
        original = stack.enter_context(OriginalServer()) if request.param == "original" else None
        port = original.port if original is not None else start_server(classic_gap=1).port
        register(port, "alice", "bob", "carol")
        proxy = stack.enter_context(Proxy(port))
        yield Service(port, proxy, ("ack",) if request.param == "jelly" else (), original)


Join = Callable[..., JellyClient]


@pytest.fixture
def join(service: Service, new_client: NewClient) -> Join:
    """Make clients of the service that are logged in."""

    def join(username: str, receiver: Receiver | None = None, **options: Any) -> JellyClient:
        client = new_client(service.port, receiver, **{"features": service.features, **options})
        result(client.login(username, "pw"))
        return client

    return join
