"""Messages from one person to another: online, while away, in order, and once."""

import pytest
from harness import StartServer
from wire import PERSON_MESSAGE, SERVER_ERROR, Wire, logged_in, register


@pytest.fixture
def users(start_server: StartServer, database_url: str) -> int:
    """The port of a server with alice and bob, on each kind of database."""
    port = start_server(database=database_url, classic_gap=1).port
    register(port, "alice", "bob")
    return port


def test_a_message_to_somebody_online(users: int) -> None:
    """It arrives as a notice with the same four values, and its sender gets a SUCCESS with an empty
    body.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.send_message("bob", "<&'=> 你好 😀", time=1795466514788)
        assert alice.receive() == (2, PERSON_MESSAGE, 0x31, b"")
        notice = bob.receive_notice()
        assert notice[:3] == (3, PERSON_MESSAGE, 0)
        assert notice.body.decode() == (
            """{"sender":"alice","receiver":"bob","content":"<&'=> 你好 😀","time":1795466514788}"""
        )


def test_a_message_to_somebody_offline(users: int) -> None:
    """It waits, and comes after the response to the next login, as it was sent, to the
    millisecond.
    """
    with logged_in(users, "alice") as alice:
        alice.message("bob", "<&'=> 你好 😀", time=1795466514788)
    with Wire(users) as bob:
        assert bob.login("bob").values.keys() == {"username", "token"}
        assert bob.receive().values == {
            "sender": "alice", "receiver": "bob", "content": "<&'=> 你好 😀", "time": 1795466514788,
        }  # fmt: skip


def test_messages_wait_over_a_restart(start_server: StartServer, database_url: str) -> None:
    """What was answered with SUCCESS is there when the server was stopped and started again."""
    server = start_server(database=database_url)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice:
        for number in range(5):
            alice.message("bob", f"m{number}")
    server.stop()
    port = start_server(database=database_url).port
    with logged_in(port, "bob") as bob:
        assert bob.contents(5) == [f"m{number}" for number in range(5)]


def test_a_message_to_oneself(users: int) -> None:
    """One may write to oneself; notice and response both come."""
    with logged_in(users, "alice") as alice:
        alice.message("alice", "note")
        assert alice.contents(1) == ["note"]


def test_an_empty_message_with_a_strange_time(users: int) -> None:
    """Content may be empty, and the time is the client's business."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.message("bob", "", time=-(2**63))
        assert bob.receive_notice().values["time"] == -(2**63)


def test_unknown_receivers(users: int) -> None:
    """There is a message only to users who exist, and nothing reaches those with a similar name."""
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        for receiver in ("nobody", "Bob", "bob ", " bob", "böb", "", "b\u200bob", "x" * 10_000):
            assert alice.refused(PERSON_MESSAGE, receiver=receiver, content="x", time=1) == "no_such_user"
        alice.message("bob", "last")
        assert bob.contents(1) == ["last"]


def test_extra_keys_stay_behind(users: int) -> None:
    """A notice has the protocol's keys in the protocol's order, whatever the sender put into its
    request.
    """
    with logged_in(users, "alice") as alice, logged_in(users, "bob") as bob:
        alice.send_request(PERSON_MESSAGE, time=5, zzz=1, content="x", receiver="bob", sender="alice")
        assert alice.receive_response().body == b""
        assert bob.receive_notice().body == b'{"sender":"alice","receiver":"bob","content":"x","time":5}'


def test_the_largest_message(start_server: StartServer, database_url: str) -> None:
    """A message that fills the largest body arrives, live and stored; one more byte ends the
    connection.
    """
    port = start_server(database=database_url, max_body=65536).port
    register(port, "alice", "bob")
    frame = '{"sender":"alice","receiver":"bob","content":"","time":1}'
    content = "x" * (65536 - len(frame))
    with logged_in(port, "alice") as alice:
        alice.message("bob", content)
        with logged_in(port, "bob") as bob:
            alice.message("bob", content)
            assert bob.contents(2) == [content, content]
        alice.send_message("bob", content + "x")
        assert alice.receive_response().error == "malformed_frame"


def test_two_senders_keep_their_own_order(users: int) -> None:
    """What one sender sends to one receiver arrives in that order, whatever others do meanwhile."""
    register(users, "carol")
    with logged_in(users, "alice") as alice, logged_in(users, "carol") as carol:
        for number in range(30):
            alice.send_message("bob", f"a{number}")
            carol.send_message("bob", f"c{number}")
        for _ in range(30):
            assert alice.receive().status == carol.receive().status == 0x31 != SERVER_ERROR
    with logged_in(users, "bob") as bob:
        contents = bob.contents(60)
    assert [c for c in contents if c[0] == "a"] == [f"a{number}" for number in range(30)]
    assert [c for c in contents if c[0] == "c"] == [f"c{number}" for number in range(30)]
