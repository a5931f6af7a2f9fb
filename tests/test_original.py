"""The stand-in for the original server does what the recordings show, byte by byte, but for what
`LEFT_OUT` says.
"""

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from original import OriginalServer
from replay import CONVERSATIONS, FILES, Replay, describe, recorded_reply
from wire import (
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    GROUP_MESSAGE,
    HEARTBEAT,
    LOGIN,
    LOGOUT,
    NOTICE,
    OWN_PROFILE,
    PERSON_MESSAGE,
    RECONNECT,
    REQUEST_ERROR,
    RESPONSE,
    SUCCESS,
    UPDATE_PROFILE,
    Reply,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

LENIENT = "Gson reads much that is not JSON; no client of ours writes it"
LEFT_OUT = {
    "concurrent_add_friend_lost_updates": "which six of ten friends are kept is chance",
    "pipelined_requests_order": "which answers change places is chance: see test_overtaking",
    "login_many_offline_notices": "one of the four messages is not among those that the file takes as given",
    "json_lenient_unquoted_and_single_quotes_on_show_self": LENIENT,
    "json_lenient_comment_and_equals_on_show_self": LENIENT,
    "json_lenient_semicolon_separator_on_show_self": LENIENT,
    "json_lenient_xssi_prefix_on_show_self": LENIENT,
}
"""Conversations that are not replayed, and why."""
LONG = 60.0
"""Seconds that no test waits for."""

# --- the recordings -------------------------------------------------------------------------------


class OriginalReplay(Replay):
    """Conversations with the stand-in.

    Each piece is sent when it has taken the one before: so they come in reads of their own, as in
    the recordings.
    """

    own = "-"

    def __init__(self, server: OriginalServer) -> None:
        super().__init__(server.port)
        self._server = server

    def has_left(self, address: tuple[str, int]) -> bool:
        return all(c.has_ended for c in tuple(self._server.connections) if c.address == address)

    def fence_for(self, wire: Wire) -> tuple[bytes, str]:
        return pack(0x7F), self.heard(Reply(RESPONSE, 0x01, REQUEST_ERROR, b""))

    def expected(self, mark: str, what: str, code: str = "") -> str:
        return what if what == "closed" else self.heard(recorded_reply(what))

    def heard(self, reply: Reply) -> str:
        """The bytes, unless a token or the order of a map is in them."""
        is_fixed = not reply.values.keys() & {"token", "friends", "groups"}
        return f"{describe(reply)} {reply.body!r}" if is_fixed else describe(reply)

    def log_in(self, user: str) -> Wire:
        """With a heartbeat, so that its end will be noticed: who is not part of the recording was
        never online.
        """
        wire = super().log_in(user)
        self._wait_until_read(wire)
        wire.heartbeat()
        self._wait_until_read(wire)
        return wire

    def is_deaf(self, wire: Wire) -> bool:
        stalled = {c.address for c in self._server.connections if c.is_stalled}
        is_deaf = wire.socket.getsockname() in stalled
        assert not is_deaf or not select.select([wire.socket], [], [], 0)[0]
        return is_deaf

    def _act(self, name: str, what: str, *rest: str) -> None:
        if what == "opens":
            self._close(self._wires.pop(name, None))  # only Jelly has closed it
        super()._act(name, what, *rest)

    def _send(self, name: str, data: bytes) -> None:
        super()._send(name, data)
        wire = self._wires[name]
        if wire is not None:
            self._wait_until_read(wire)

    def _wait_until_read(self, wire: Wire) -> None:
        wait_until(lambda: has_read_all(self._server, wire))


def has_read_all(server: OriginalServer, *wires: Wire) -> bool:
    """Whether the server has read all that was sent, or has closed, and has done what it does about
    it.
    """

    def of(wire: Wire) -> bool:
        mine = [c for c in tuple(server.connections) if c.address == wire.socket.getsockname()]
        return bool(mine) and (mine[-1].has_ended or mine[-1].bytes_read >= wire.bytes_sent)

    return all(map(of, wires))


@pytest.mark.parametrize("name", FILES)
def test_replay(name: str) -> None:
    """The stand-in answers each recorded conversation as the original did, with the same bytes."""
    file = FILES[name]
    settings = file.get("settings", {})
    silence = settings.get("heartbeat_interval", 6.0) * settings.get("heartbeat_misses", 5)
    with OriginalServer(silence=silence) as server, contextlib.closing(OriginalReplay(server)) as replay:
        replay.prepare(file.get("given", {}))
        for conversation in file["conversations"]:
            if conversation["name"] not in LEFT_OUT:
                replay.run(conversation)


def test_what_is_left_out_is_there() -> None:
    """No reason is given for a conversation that does not exist."""
    assert set(LEFT_OUT) < {conversation["name"] for conversation in CONVERSATIONS}


# --- what else clients can rely on, or stumble over -----------------------------------------------


@pytest.fixture
def server() -> Iterator[OriginalServer]:
    """A stand-in with three users."""
    with OriginalServer() as server:
        register(server.port, "alice", "bob", "carol")
        yield server


def online(server: OriginalServer, *users: str) -> Iterator[Wire]:
    """Connections that have sent their first heartbeat: when they end, their users will be
    offline.
    """
    for user in users:
        wire = logged_in(server.port, user)
        wait_until(lambda wire=wire: has_read_all(server, wire))
        wire.heartbeat()
        wait_until(lambda wire=wire: has_read_all(server, wire))
        yield wire


def stored_for_bob(server: OriginalServer) -> None:
    """Store a group's message for bob, then a person's."""
    with logged_in(server.port, "alice") as alice:
        alice.ok(CREATE_GROUP, groupName="g")
        alice.ok(ADD_MEMBER, groupName="g", member="bob")
        alice.message("g", "to all", GROUP_MESSAGE, time=1999)
        alice.message("bob", "<b>", time=2999)


def test_two_frames_within_the_read_delay(server: OriginalServer) -> None:
    """Two frames that come in one read make a connection deaf for ever, and only this one."""
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        wait_until(lambda: has_read_all(server, alice, bob))
        server.read_delay = LONG
        alice.send_request(OWN_PROFILE)
        alice.send_request(OWN_PROFILE)
        server.read_delay = 0.0
        wait_until(lambda: has_read_all(server, alice))
        assert server.stalled == 1
        alice.heartbeat()
        wait_until(lambda: has_read_all(server, alice))
        assert bob.ok(OWN_PROFILE) == {"username": "bob"}
        assert [frame.type for frame in server.connections_of("alice")[0].frames] == [LOGIN]
        assert not select.select([alice.socket], [], [], 0)[0]


def test_overtaking(server: OriginalServer) -> None:
    """Of two requests under way the second one may be answered first; a single one is answered a
    little later.
    """
    with logged_in(server.port, "alice") as alice:
        wait_until(lambda: has_read_all(server, alice))
        server.overtaking = LONG
        alice.send_request(OWN_PROFILE)
        wait_until(lambda: has_read_all(server, alice))
        alice.send_request(ALL_FRIENDS)
        assert [alice.receive().type for _ in range(2)] == [ALL_FRIENDS, OWN_PROFILE]
        server.overtaking = 0.01
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}


def test_coalesced_login(server: OriginalServer) -> None:
    """The answer, what persons sent and what groups sent may arrive in one piece: escaped, and
    without milliseconds.
    """
    stored_for_bob(server)
    server.coalesce = True
    with Wire(server.port) as bob:
        bob.send_request(LOGIN, username="bob", password="pw")
        at_once = bob.socket.recv(65536)
        token = server_token(at_once)
        assert at_once == (
            pack(LOGIN, to_json({"username": "bob", "token": token}), RESPONSE, SUCCESS)
            + pack(
                PERSON_MESSAGE,
                rb'{"sender":"alice","receiver":"bob","content":"\u003cb\u003e","time":2000}',
                NOTICE,
            )
            + pack(GROUP_MESSAGE, b'{"sender":"alice","receiver":"g","content":"to all","time":1000}', NOTICE)
        )


def server_token(login_answer: bytes) -> int:
    """The token in the bytes of a login's answer."""
    return int(login_answer.split(b'"token":')[1].split(b"}")[0])


def test_stored_messages_come_once(server: OriginalServer) -> None:
    """What was sent at a login is deleted, whether or not the client could read it."""
    stored_for_bob(server)
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(2) == ["<b>", "to all"]
    with logged_in(server.port, "bob") as bob:
        assert bob.ok(OWN_PROFILE) == {"username": "bob"}
        assert not bob.notices


def test_features_are_not_known(server: OriginalServer) -> None:
    """Keys that it does not know are ignored; an acknowledgement is answered with 0x01 for its
    type.
    """
    with Wire(server.port) as alice:
        values: dict[str, Any] = {"username": "alice", "password": "pw", "features": ["ack"]}
        assert alice.ok(LOGIN, **values).keys() == {"username", "token"}
        assert alice.call(0x24, id=1) == Reply(RESPONSE, 0x01, REQUEST_ERROR, b"")


def test_heartbeats_keep_a_connection(server: OriginalServer) -> None:
    """Heartbeats are not answered, and keep a connection open; a silent one is closed."""
    server.silence = 0.6
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        connection = server.connections_of("alice")[0]
        while not server.connections_of("bob")[0].has_ended:
            sent = alice.bytes_sent
            alice.heartbeat()
            wait_until(lambda sent=sent: connection.bytes_read > sent)
        assert bob.is_closed_by_server()
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}
        assert {frame.type for frame in connection.frames[1:-1]} == {HEARTBEAT}


def test_cut(server: OriginalServer) -> None:
    """A cut resets a user's connections; after a heartbeat the user is offline, and comes back with
    the token.
    """
    alice, bob = online(server, "alice", "bob")
    with alice, bob:
        server.cut("bob")
        with pytest.raises(ConnectionResetError):
            bob.receive()
        alice.message("bob", "kept")
        with Wire(server.port) as again:
            assert again.reconnect("bob", bob.token).values == {"username": "bob"}
            assert again.contents(1) == ["kept"]
        server.cut_all()
        with pytest.raises(ConnectionResetError):
            alice.receive()


def test_cut_before_the_first_heartbeat(server: OriginalServer) -> None:
    """Before its first heartbeat a user stays online after the cut: what is sent then is lost and
    not answered.
    """
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        server.cut("bob")
        alice.send_message("bob", "lost")
        wait_until(lambda: has_read_all(server, alice))
        assert alice.call(OWN_PROFILE).type == OWN_PROFILE
        with Wire(server.port) as again:
            again.reconnect("bob", bob.token)
            assert again.call(OWN_PROFILE).type == OWN_PROFILE
            assert not again.notices


def test_unreachable(server: OriginalServer) -> None:
    """While it does not listen it refuses connections, and serves those that it has."""
    with logged_in(server.port, "alice") as alice:
        server.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            Wire(server.port)
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}
        server.listen_again()
        with Wire(server.port) as again:
            assert again.reconnect("alice", alice.token).status == SUCCESS


def test_end_while_unreachable() -> None:
    """It ends with connections open, and when it does not listen."""
    with OriginalServer() as server:
        register(server.port, "alice")
        alice = logged_in(server.port, "alice")
        server.stop_listening()
        server.stop_listening()
    with alice:
        assert alice.is_closed_by_server()
    assert all(connection.has_ended for connection in server.connections)


def test_token_after_logout(server: OriginalServer) -> None:
    """A token opens connections until the logout; then a RECONNECT is refused and closed."""
    with logged_in(server.port, "alice") as alice, Wire(server.port) as second, Wire(server.port) as third:
        assert second.reconnect("alice", alice.token).status == SUCCESS
        alice.send_request(LOGOUT, token=alice.token)
        assert alice.is_closed_by_server()
        assert second.ok(OWN_PROFILE) == {"username": "alice"}
        assert third.call(RECONNECT, username="alice", token=alice.token).status == REQUEST_ERROR
        assert third.is_closed_by_server()


def test_half_a_close_is_a_close(server: OriginalServer) -> None:
    """The connection of a client that shuts down only its sending half is closed."""
    with logged_in(server.port, "alice") as alice:
        alice.ok(UPDATE_PROFILE, name="Alice")
        alice.socket.shutdown(socket.SHUT_WR)
        assert alice.is_closed_by_server()
