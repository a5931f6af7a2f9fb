"""MySQL's max_allowed_packet: what fits, what is refused at the start, and what becomes of the
others when one message cannot be stored.
"""

import logging
from collections.abc import Callable, Iterator

import pytest
from harness import NullTransport, StartServer, lane_of
from schemas import reopen
from wire import GROUP_MESSAGE, PERSON_MESSAGE, SERVER_ERROR, SUCCESS, Reply, Wire, logged_in, register, wait_until

from faults.mariadb import PrivateMariaDB
from jelly import fair_queue
from jelly.dao import StoredMessage
from jelly.engine import RowsRefused
from jelly.errors import StartError
from jelly.fair_queue import FairQueue, Job
from jelly.outcomes import NewMessage
from jelly.server import JellyServer
from jelly.sessions import Session

MIB = 2**20
HARD = "'\"\\\n\0😀"
"""Characters that need an escape in SQL, or four bytes."""


def set_packet(mariadb: PrivateMariaDB, size: int) -> None:
    """Set the limit for new connections."""
    mariadb.sql(f"SET GLOBAL max_allowed_packet = {size}")


@pytest.fixture
def small_packets(mariadb: PrivateMariaDB) -> Iterator[PrivateMariaDB]:
    """The server with the smallest limit that any version has by default."""
    mariadb.start()
    [[usual]] = mariadb.sql("SELECT @@GLOBAL.max_allowed_packet")
    set_packet(mariadb, MIB)
    yield mariadb
    set_packet(mariadb, int(usual))


def hard_text(size: int) -> str:
    """A text of so many bytes that is twice as large in SQL, or nearly."""
    return (HARD * size).encode()[:size].decode(errors="ignore")


# --- statements -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 10_000, 64_000, 600_000, MIB - 3000])
def test_a_batch_of_any_messages_is_stored(small_packets: PrivateMariaDB, size: int) -> None:
    """The largest batch of the store goes in, in as many statements as it needs."""
    content = hard_text(size)
    count = max(1, fair_queue.BATCH_BYTES // len(content.encode()))
    new = NewMessage(PERSON_MESSAGE, "alice", "bob", content, 0, None)
    queue = FairQueue()
    session = Session(NullTransport(), "")
    queue.add(Job(session, [new], [0.0], len(content.encode()), print) for _ in range(count + 10))
    messages = [
        StoredMessage(id, False, "alice", "bob", content, -(2**63), "r" * 36, 2**63 - 1)
        for id in range(1, len(queue.take()) + 1)
    ]
    for dao in reopen(small_packets.fresh_database("packets")):
        with dao.connection.transaction():
            dao.add_messages(messages, [("bob", message.id) for message in messages])
        found = dao.waiting("bob", 0, len(messages) + 1)
        assert found == [message._replace(request_id=None, digest=None) for message in messages]


def test_a_message_that_is_too_large_leaves_the_connection_open(small_packets: PrivateMariaDB) -> None:
    """It is not even sent: the server would close the connection, and all that is not committed
    would be gone.
    """
    messages = [StoredMessage(id, False, "alice", "bob", "x" * (MIB + id), 0) for id in (1, 2)]
    small = StoredMessage(3, False, "alice", "bob", "small", 0)
    for dao in reopen(small_packets.fresh_database("packets")):
        with dao.connection.transaction():
            dao.add_user("bob", "hash")
            with pytest.raises(RowsRefused, match="do not fit into max_allowed_packet, 1,048,576") as caught:
                dao.add_messages([messages[0], small, messages[1]], [])
        assert caught.value.rows == messages
        assert dao.has_user("bob")


# --- the start ------------------------------------------------------------------------------------


def test_bodies_that_cannot_be_stored(small_packets: PrivateMariaDB, start_server: StartServer) -> None:
    """The server does not start with a --max-body that the database cannot store, and says in one
    sentence which one it can.
    """
    url = small_packets.fresh_database("packets")
    with pytest.raises(StartError) as caught:
        start_server(database=url, max_body=MIB)
    sentence = str(caught.value)
    assert sentence == (
        f"Messages cannot be stored: with --max-body 1048576, max_allowed_packet of mysql://127.0.0.1:"
        f"{small_packets.port}/packets must be at least 1050624, and it is 1048576: raise it, "
        "or start with --max-body 1046528."
    )
    port = start_server(database=url, max_body=1046528).port
    register(port, "alice", "bob")
    frame = len(b'{"sender":"alice","receiver":"bob","content":"","time":1}')
    contents = ["x" * (1046528 - frame), "😀" * ((1046528 - frame) // 4)]
    with logged_in(port, "alice") as alice:
        for content in contents:
            alice.message("bob", content)
    with logged_in(port, "bob") as bob:
        assert bob.contents(2) == contents


def test_packets_that_are_too_small_for_anything(mariadb: PrivateMariaDB, start_server: StartServer) -> None:
    """No --max-body helps then, so the sentence names none."""
    url = mariadb.fresh_database("packets")
    [[usual]] = mariadb.sql("SELECT @@GLOBAL.max_allowed_packet")
    set_packet(mariadb, 32 * 1024)
    try:
        with pytest.raises(StartError, match=r"must be at least 65536, and it is 32768: raise it\.$"):
            start_server(database=url, max_body=1024)
    finally:
        set_packet(mariadb, int(usual))


# --- one message that cannot be stored ------------------------------------------------------------


def lower_the_limit(server: JellyServer, mariadb: PrivateMariaDB) -> None:
    """The operator lowers the limit, and the connection that writes is lost."""
    set_packet(mariadb, MIB)
    mariadb.sql(f"KILL {server.store._dao.connection._raw.connection_id}")


def shorten_the_column(_: JellyServer, mariadb: PrivateMariaDB) -> None:
    """The database itself refuses a large text."""
    mariadb.sql("ALTER TABLE packets.messages MODIFY content VARCHAR(1000) NOT NULL")


def in_one_batch(server: JellyServer, *sent: tuple[Wire, str]) -> list[Reply]:
    """The answers to messages for bob that the store writes together."""
    with server.store._turn:
        for number, (wire, content) in enumerate(sent, 1):
            wire.send_message("bob", content)
            wait_until(lambda wanted=number: len(server.store._jobs) == wanted)
    return [wire.receive_response() for wire, _ in sent]


@pytest.mark.parametrize("fault", [lower_the_limit, shorten_the_column])
def test_the_rest_of_the_batch_is_stored(
    small_packets: PrivateMariaDB,
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[JellyServer, PrivateMariaDB], None],
) -> None:
    """Of messages in one transaction, those that cannot be stored get SERVER_ERROR, and the others
    SUCCESS; in the log it is one line, without what they say.
    """
    set_packet(small_packets, 16 * MIB)
    server = start_server(database=small_packets.fresh_database("packets"), max_body=2 * MIB, classic_gap=0)
    register(server.port, "alice", "bob", "carol", "dave")
    large = "secret" * (MIB // 5)
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "carol") as carol:
        with logged_in(server.port, "dave") as dave:
            alice.message("bob", "before")
            fault(server, small_packets)
            for number in range(2):
                replies = in_one_batch(server, (alice, f"a{number}"), (carol, large), (dave, f"d{number}"))
                assert [reply.status for reply in replies] == [SUCCESS, SERVER_ERROR, SUCCESS]
        carol.message("bob", "after")
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(6) == ["before", "a0", "d0", "a1", "d1", "after"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [warning for warning in warnings if "the database failed" in warning] == []
    [warning] = [warning for warning in warnings if "carol" in warning]
    assert "cannot be stored" in warning
    assert "secret" not in warning


def test_messages_to_groups_and_with_request_ids(small_packets: PrivateMariaDB, start_server: StartServer) -> None:
    """A large message in one job with another one of its sender: each has its own answer, in order,
    and a repeat of it is not taken for stored.
    """
    set_packet(small_packets, 16 * MIB)
    server = start_server(database=small_packets.fresh_database("packets"), max_body=2 * MIB, classic_gap=0)
    register(server.port, "alice", "bob")
    large = "x" * (MIB + 1)
    with logged_in(server.port, "alice") as alice:
        alice.ok(0x17, groupName="team")
        alice.ok(0x19, groupName="team", member="bob")
        lower_the_limit(server, small_packets)
        lane = lane_of(server, "alice")
        for attempt in range(2):
            wait_until(lambda: not lane.busy.locked())
            with server.store._turn:
                for number, content in enumerate(["one", "two", large]):
                    alice.send_message("team", content, GROUP_MESSAGE, requestId=f"{number}")
                    wait_until(lambda wanted=number: lane.busy.locked() and len(lane.waiting) == wanted)
            statuses = [alice.receive_response().status for _ in range(3)]
            assert statuses == [SUCCESS, SUCCESS, SERVER_ERROR], attempt
    with logged_in(server.port, "bob") as bob:
        assert bob.contents(2) == ["one", "two"]
        assert bob.says_nothing()
