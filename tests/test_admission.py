"""Who gets a place, and who must go: connections that never log in keep nobody out."""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import NullTransport, StartServer
from hypothesis import given
from hypothesis import strategies as st
from wire import LOGIN, LOGOUT, OWN_PROFILE, REGISTER, Wire, logged_in, pack, register, to_json, wait_until

from jelly import passwords
from jelly import send_queue as send_queues
from jelly.admission import MAX_NETWORKS_TO_LOG, Connections, Crowd, Limits, RefusalLog, _Place
from jelly.connection import Connection
from jelly.server import JellyServer
from jelly.sessions import Response, Session
from jelly.watchdog import LAST_ANSWERS_TIMEOUT, LOGIN_TIMEOUT, TYPING_TIMEOUT

# --- without a server -----------------------------------------------------------------------------


class Guest:
    """A connection as the admission sees it. `close` notes it; the test ends it."""

    def __init__(self, opened_at: float = 0.0) -> None:
        self.request: Any = object()
        self.session = Session(NullTransport(), "")
        self.opened_at = opened_at
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class World:
    """Connections and the users who are logged in, with a log whose minutes the test ends."""

    def __init__(self, places: int = 8, per_network: int = 1000) -> None:
        self.users: set[str] = set()
        self.minutes: list[Callable[[], None]] = []
        refusals = RefusalLog(lambda _, function: self.minutes.append(function))
        self.connections: Connections[Guest] = Connections(self.users, Limits(places, per_network), refusals)
        self.guests: list[Guest] = []

    def comes(self, network: str) -> Guest | None:
        """A client connects; None if it is turned away."""
        guest = Guest(len(self.guests))
        if not self.connections.admit(guest.request, network, network):
            return None
        self.connections.add(guest)
        self.guests.append(guest)
        return guest

    def get_in(self, network: str) -> Guest:
        guest = self.comes(network)
        assert guest is not None
        return guest

    def logs_in(self, network: str) -> Guest:
        """A client connects, and logs in."""
        guest = self.get_in(network)
        self.connections.login_was_read(guest)
        guest.session.user = f"user{len(self.users)}"
        self.users.add(guest.session.user)
        return guest

    def end_closed(self) -> None:
        """The readers of those that were closed notice it."""
        for guest in self.guests:
            if guest.is_closed:
                self.connections.discard(guest)


def test_the_oldest_goes() -> None:
    """Guests have three quarters of the places; then the oldest of them makes room."""
    world = World(places=8)
    first, second, *others = [world.get_in("here") for _ in range(6)]
    assert not first.is_closed
    world.get_in("here")
    assert first.is_closed
    world.get_in("here")
    assert second.is_closed
    assert not any(guest.is_closed for guest in others)


def test_the_network_with_most_loses_one() -> None:
    """However old the connection is of one who has few."""
    world = World(places=8)
    typing = world.get_in("home")
    crowd = [world.get_in("crowd") for _ in range(20)]
    assert not typing.is_closed
    assert [guest.is_closed for guest in crowd] == [True] * 15 + [False] * 5


def test_those_who_have_asked_to_log_in_stay() -> None:
    """As long as there is somebody else who can go."""
    world = World(places=8)
    asking = [world.get_in("here") for _ in range(5)]
    for guest in asking:
        world.connections.login_was_read(guest)
    idle = world.get_in("elsewhere")
    world.get_in("here")
    assert idle.is_closed
    assert not any(guest.is_closed for guest in asking)


def test_when_all_have_asked() -> None:
    """A network takes the place of one that has more; it does not push out its own."""
    world = World(places=8)
    asking = [world.get_in("many") for _ in range(6)]
    for guest in asking:
        world.connections.login_was_read(guest)
    assert world.comes("many") is None
    assert world.comes("few") is not None
    assert [guest.is_closed for guest in asking] == [True] + [False] * 5


def test_users_are_no_guests() -> None:
    """They leave the places for guests to others, and are never closed for them."""
    world = World(places=8)
    users = [world.logs_in("here") for _ in range(6)]
    guests = [world.get_in("here") for _ in range(2)]
    assert world.comes("here") is not None
    assert guests[0].is_closed
    world.end_closed()
    users += [world.logs_in("here") for _ in range(2)]
    assert len(world.users) == 8
    world.end_closed()
    assert world.comes("here") is None
    assert not any(user.is_closed for user in users)


def test_after_a_logout() -> None:
    """A connection that is owed nothing any more is a guest like others."""
    world = World(places=4)
    user = world.logs_in("here")
    world.users.clear()
    world.connections.is_done_with(user)
    for _ in range(3):
        world.get_in("here")
    assert user.is_closed


def test_a_login_that_fails_or_succeeds_late() -> None:
    """Nothing that a reader says about a connection that was closed or has ended counts."""
    world = World(places=4)
    gone = world.get_in("here")
    for _ in range(3):
        world.get_in("here")
    assert gone.is_closed
    world.connections.login_was_read(gone)
    world.connections.is_done_with(gone)
    world.connections.discard(gone)
    world.connections.discard(gone)
    world.connections.login_was_read(gone)
    assert world.connections.places_taken == 3
    assert not list(world.connections._asking)


def test_those_beyond_half() -> None:
    """They go from the network that has most, the oldest first, until fewer than half of the places
    for guests are taken.
    """
    world = World(places=16)
    home, *crowd = [world.get_in("home"), *(world.get_in("crowd") for _ in range(8))]
    assert world.connections.beyond_half(reversed([home, *crowd])) == crowd[:4]
    assert world.connections.beyond_half([home]) == [home]
    for guest in crowd[:4]:
        world.connections.discard(guest)
    assert world.connections.beyond_half([home, *crowd[4:]]) == []


def test_what_is_left() -> None:
    """Nothing, when all have gone: neither places nor networks nor counts."""
    world = World(places=8, per_network=5)
    for number in range(200):
        world.comes(f"network{number % 7}")
        if number % 3:
            world.connections.login_was_read(world.guests[-1])
        world.end_closed()
    for guest in world.guests:
        world.connections.discard(guest)
    connections = world.connections
    assert (connections.places_taken, len(connections), connections._guests, connections._leaving) == (0, 0, 0, 0)
    assert not connections._per_network
    for crowd in (connections._idle, connections._asking):
        assert (list(crowd), crowd._places, crowd._networks) == ([], {}, [])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=60))
def test_the_oldest_of_the_network_that_has_most(steps: list[tuple[bool, int]]) -> None:
    """Found as by looking at all of them, whoever comes and goes."""
    crowd: Crowd[Guest] = Crowd()
    there: list[_Place[Guest]] = []
    for comes, number in steps:
        if comes:
            there.append(_Place(str(number)))
            crowd.add(there[-1])
        elif number < len(there):
            crowd.remove(there.pop(number))
        counts = {network: crowd.count(network) for network in map(str, range(5))}
        assert counts == {network: sum(place.network == network for place in there) for network in counts}
        oldest = crowd.oldest()
        if oldest is None:
            assert not there
        else:
            assert counts[str(oldest.network)] == max(counts.values())
            assert oldest is next(place for place in there if place.network == oldest.network)


# --- the log --------------------------------------------------------------------------------------


def test_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first that is turned away is told at once, the others once a minute: why, how many, from
    where mostly.
    """
    world = World(per_network=1)
    world.get_in("203.0.113.7")
    world.get_in("203.0.113.8")
    for _ in range(20):
        assert world.comes("203.0.113.7") is None
    assert world.comes("203.0.113.8") is None
    assert caplog.messages == [
        "turned away a connection from 203.0.113.7, because one address may have at most 1 (--max-per-address)"
    ]
    caplog.clear()
    [end_minute] = world.minutes
    end_minute()
    assert caplog.messages == [
        "turned away 20 connections since the last such line, 19 of them from 203.0.113.7, "
        "because one address may have at most 1 (--max-per-address)"
    ]
    caplog.clear()
    world.minutes.pop()()
    assert caplog.messages == []
    assert len(world.minutes) == 1
    assert world.comes("203.0.113.7") is None
    assert len(caplog.messages) == 1


def test_a_new_reason_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """It does not wait for the end of a minute that another one began."""
    world = World(places=4, per_network=2)
    for _ in range(3):
        world.comes("a")
    world.get_in("b")
    world.get_in("c")
    world.comes("a")
    assert caplog.messages == [
        "turned away a connection from a, because one address may have at most 2 (--max-per-address)",
        "turned away a connection from a, because those who are not logged in may have at most 3 of 4 places "
        "(--max-connections)",
    ]
    assert len(world.minutes) == 1
    caplog.clear()
    world.comes("b")
    world.minutes[0]()
    assert caplog.messages == [
        "turned away 2 connections since the last such line, 1 of them from a: 1 because one address may have at most "
        "2 (--max-per-address); 1 because those who are not logged in may have at most 3 of 4 places "
        "(--max-connections)"
    ]


def test_how_many_networks_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A limited number; the one that most come from is among them."""
    refusals = RefusalLog(lambda *_: None)
    refusals.note("", "first")
    for number in range(3 * MAX_NETWORKS_TO_LOG):
        refusals.note("", "most")
        refusals.note("", str(number))
    assert len(refusals._networks) == MAX_NETWORKS_TO_LOG
    refusals._end_minute()
    assert f"{3 * MAX_NETWORKS_TO_LOG:,} of them from most" in caplog.messages[-1]


# --- a real server --------------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[Callable[[JellyServer, int], list[Wire]]]:
    """Opens connections that send a heartbeat and do not log in."""
    with contextlib.ExitStack() as stack:

        def open_all(server: JellyServer, count: int) -> list[Wire]:
            before = len(server.connections)
            wires = [stack.enter_context(Wire(server.port)) for _ in range(count)]
            for wire in wires:
                wire.heartbeat()
            wait_until(lambda: len(server.connections) == before + count)
            wait_until(lambda: all(connection.has_received_data for connection in server.connections))
            return wires

        yield open_all


def only(server: JellyServer) -> Connection:
    wait_until(lambda: len(server.connections) == 1)
    [connection] = server.connections
    return connection


def closes_between(server: JellyServer, connection: Connection, begin: float, seconds: float) -> bool:
    """Whether the watchdog closes a connection at a time, and not half a second before. (It has
    just sent something.)
    """
    for at in (begin + seconds - 0.5, begin + seconds):
        if connection.send_queue.is_closed:
            return False
        connection.last_read_at = at
        server.watchdog.check(at)
    return connection.send_queue.is_closed


def test_strangers_keep_nobody_out(start_server: StartServer, crowd: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Connections that send heartbeats take three quarters of the places, and a user gets in, from
    their address, too; the log tells it in one line.
    """
    server = start_server(max_connections=40)
    register(server.port, "alice", "bob")
    wait_until(lambda: not server.connections)
    strangers = crowd(server, 30)
    with logged_in(server.port, "alice"), logged_in(server.port, "bob") as bob:
        bob.message("alice", "here")
        assert strangers[0].is_closed_by_server()
        assert strangers[1].says_nothing()
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "from 127.0.0.1" in line
    assert "at most 30 of 40 places (--max-connections)" in line


def test_connections_from_one_address(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """One address may not take all of them."""
    server = start_server(max_per_address=2)
    wires = [Wire(server.port) for _ in range(2)]
    wait_until(lambda: len(server.connections) == 2)
    with Wire(server.port) as surplus, Wire(server.port, source="127.0.0.2") as other:
        assert surplus.is_closed_by_server()
        assert other.login("nobody").error == "wrong_credentials"
    assert "from 127.0.0.1, because one address may have at most 2 (--max-per-address)" in caplog.text
    for wire in wires:
        wire.close()
    wait_until(lambda: not server.connections)
    with Wire(server.port) as wire:
        wire.wait_until_served()


def test_the_default_for_one_address(start_server: StartServer) -> None:
    """It is a thousand."""
    assert start_server().settings.max_per_address == 1000


def test_addresses_of_one_ipv6_network(start_server: StartServer) -> None:
    """They count as one: a customer has all of them."""
    server = start_server(max_per_address=2)
    addresses = "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"
    assert [server.verify_request(address, (address, 1, 0, 0)) for address in addresses] == [True, True, False, True]


def test_thirty_seconds_until_the_login(start_server: StartServer) -> None:
    """A client that sends something else than heartbeats has as long, however often it sends it."""
    server = start_server()
    with Wire(server.port) as wire:
        wire.send(pack(0x77))
        assert wire.receive().error == "unknown_type"
        connection = only(server)
        assert closes_between(server, connection, connection.opened_at, LOGIN_TIMEOUT)


def test_a_login_that_never_is_whole(start_server: StartServer) -> None:
    """Its beginning is not enough."""
    server = start_server()
    login = pack(LOGIN, to_json({"username": "alice", "password": "pw"}))
    with Wire(server.port) as wire:
        wire.send(pack(0x77) + login[:-1])
        assert wire.receive().error == "unknown_type"
        connection = only(server)
        connection.incomplete_since = None  # as if it had begun only now
        assert closes_between(server, connection, connection.opened_at, LOGIN_TIMEOUT)


def test_while_the_user_types(start_server: StartServer) -> None:
    """A client that sends nothing but heartbeats has five minutes."""
    server = start_server()
    with Wire(server.port) as wire:
        wire.heartbeat()
        connection = only(server)
        wait_until(lambda: connection.has_received_data)
        assert closes_between(server, connection, connection.opened_at, TYPING_TIMEOUT)


def test_while_many_type(start_server: StartServer, crowd: Any) -> None:
    """After thirty seconds the oldest go, so that fewer than half of the places for guests are
    taken.
    """
    server = start_server(max_connections=16)
    crowd(server, 8)
    connections = sorted(server.connections, key=lambda connection: connection.opened_at)
    for at in (LOGIN_TIMEOUT - 0.5, LOGIN_TIMEOUT + 1):
        assert not any(connection.send_queue.is_closed for connection in connections)
        for connection in connections:
            connection.last_read_at = connections[-1].opened_at + at
        server.watchdog.check(connections[-1].opened_at + at)
    assert [connection.send_queue.is_closed for connection in connections] == [True] * 3 + [False] * 5


def test_an_answer_may_take_longer(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that was read whole has no deadline but silence."""
    server = start_server()
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    may_hash, verify = threading.Event(), passwords.verify_password
    monkeypatch.setattr(passwords, "verify_password", lambda *values: may_hash.wait(20) and verify(*values))
    with Wire(server.port) as alice:
        alice.send_request(LOGIN, username="alice", password="pw")
        connection = only(server)
        wait_until(lambda: not connection.awaits_login)
        connection.last_read_at = connection.opened_at + TYPING_TIMEOUT
        server.watchdog.check(connection.opened_at + TYPING_TIMEOUT)
        assert not connection.send_queue.is_closed
        may_hash.set()
        assert alice.receive().type == LOGIN
        connection.last_read_at = connection.opened_at + 86400
        server.watchdog.check(connection.opened_at + 86400)
        assert not connection.send_queue.is_closed
        alice.user = "alice"
        alice.ok(OWN_PROFILE)


@pytest.mark.parametrize("request_type", [REGISTER, LOGIN, OWN_PROFILE], ids=["register", "login", "other"])
def test_one_that_was_answered_gives_way(start_server: StartServer, crowd: Any, request_type: int) -> None:
    """A client that does not close after the last answer makes room for others."""
    server = start_server(max_connections=4)
    with Wire(server.port) as wire:
        wire.call(request_type, username="alice", password="pw")
        connection = only(server)
        wait_until(lambda: connection.send_queue.finished_at is not None)
        crowd(server, 2)
        with Wire(server.port):
            wait_until(lambda: connection.send_queue.is_closed)


def test_a_logout_gives_its_place_away(start_server: StartServer, crowd: Any) -> None:
    """After it the connection is one on which nobody is logged in."""
    server = start_server(max_connections=4)
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        crowd(server, 2)
        alice.send_request(LOGOUT, token=alice.token)
        wait_until(lambda: connection.send_queue.finishing)
        with Wire(server.port):
            wait_until(lambda: connection.send_queue.is_closed)


def test_answers_that_are_never_taken(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a logout a client has a minute to read what waits for it, even if it takes a byte now
    and then.
    """
    server = start_server()
    register(server.port, "alice")
    wait_until(lambda: not server.connections)
    monkeypatch.setattr(send_queues, "HIGH_MARK", 20_000_000)  # what waits holds no request back
    with logged_in(server.port, "alice") as alice:
        connection = only(server)
        send_queue = connection.send_queue
        send_queue.send([Response(b"x" * 10_000_000, 0.0)])
        alice.send_request(LOGOUT, token=alice.token)
        wait_until(lambda: send_queue.finishing)
        since = send_queue.finishing_since or 0.0
        for at in (LAST_ANSWERS_TIMEOUT - 1, LAST_ANSWERS_TIMEOUT):
            assert not send_queue.is_closed
            connection.last_read_at = send_queue.stalled_since = since + at
            server.watchdog.check(since + at)
        assert send_queue.is_closed


def test_places_of_connections_that_come_and_go(start_server: StartServer) -> None:
    """Each is given back, also by those that are turned away or for which there is no thread."""
    server = start_server(max_connections=6, max_per_address=4)
    for _ in range(5):
        wires = [Wire(server.port) for _ in range(6)]
        for wire in wires:
            wire.close()
    wait_until(lambda: server.connections.places_taken == 0)
    assert not server.connections._per_network

    def is_turned_away(sock: socket.socket) -> bool:
        return bool(select.select([sock], [], [], 0)[0])

    def gets_a_place() -> bool:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            wait_until(lambda: is_turned_away(sock) or server.connections.places_taken == 1)
            return not is_turned_away(sock)

    wait_until(gets_a_place)  # those that were closed before may not all have been accepted yet
