"""What a client had sent before it heard that an earlier message had failed: it fails, too.

If the client loses its connection before it hears of that, it sends all of it again, in order.
"""

from typing import Any

import pytest
from harness import StartServer, lane_of
from wire import PERSON_MESSAGE, SERVER_ERROR, SUCCESS, Wire, logged_in, pack, register, to_json, wait_until

from jelly.codec import Frame
from jelly.dao import Dao
from jelly.errors import StoreError
from jelly.queue_dispatch import LANE_LIMIT, REQUESTS_AT_ONCE
from jelly.server import JellyServer
from jelly.sessions import Session

COUNT = REQUESTS_AT_ONCE + 36


def send(client: Wire, count: int = COUNT) -> None:
    for number in range(count):
        client.send_message("bob", str(number), requestId=f"r{number}")


def statuses(client: Wire, count: int = COUNT) -> list[int]:
    return [client.receive_response().status for _ in range(count)]


@pytest.fixture
def server(start_server: StartServer) -> JellyServer:
    made = start_server(classic_gap=0)
    register(made.port, "alice", "bob")
    return made


@pytest.fixture
def fails_once(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first transaction with messages waits until the server has read all, and fails."""
    add_messages = Dao.add_messages
    failed: list[bool] = []

    def fail_once(dao: Dao, messages: Any, inbox: Any) -> None:
        if not failed:
            failed.append(True)
            lane = lane_of(server, "alice")
            wait_until(lambda: len(lane.waiting) == COUNT - len(messages))
            raise StoreError("away")
        add_messages(dao, messages, inbox)

    monkeypatch.setattr(Dao, "add_messages", fail_once)


@pytest.mark.usefixtures("fails_once")
def test_what_was_sent_without_knowing(server: JellyServer) -> None:
    """None of it is stored, so it is in order when the client sends all of it again."""
    assert COUNT < LANE_LIMIT
    with logged_in(server.port, "alice", features=["ack"]) as alice, logged_in(server.port, "bob") as bob:
        send(alice)
        assert set(statuses(alice)) == {SERVER_ERROR}
        send(alice)  # at once: what is sent with that knowledge is not held up
        assert set(statuses(alice)) == {SUCCESS}
        assert bob.contents(COUNT) == [str(number) for number in range(COUNT)]


@pytest.mark.usefixtures("fails_once")
def test_a_client_that_closes_without_reading(server: JellyServer) -> None:
    """It closes its half while its messages fail, and sends them again on its next connection."""
    with logged_in(server.port, "bob") as bob:
        with logged_in(server.port, "alice", features=["ack"]) as alice:
            send(alice)
        wait_until(lambda: all(connection.session.user != "alice" for connection in tuple(server.connections)))
        with logged_in(server.port, "alice", features=["ack"]) as alice:
            send(alice)
            assert set(statuses(alice)) == {SUCCESS}
        assert bob.contents(COUNT) == [str(number) for number in range(COUNT)]


@pytest.mark.parametrize("has_id", [True, False], ids=["the next job", "the same job"])
def test_a_client_that_goes_on_and_does_not_hear_all(server: JellyServer, has_id: bool) -> None:
    """It has heard of the first failure, and sent a new message, when its connection breaks: before
    it has heard that others have failed, too. The new one must not overtake these.
    """
    with logged_in(server.port, "bob") as bob:
        with logged_in(server.port, "alice", features=["ack"]) as alice:
            lane = lane_of(server, "alice")
            more: dict[str, Any] = {"requestId": "first"} if has_id else {}
            with server.store._turn:
                alice.send_message("bob", "first", **more)
                wait_until(lambda: bool(server.store._jobs))  # the others wait in the lane
                send(alice, 5)
                wait_until(lambda: len(lane.waiting) == 5)
                lane.session.failed_upto = lane.session.received_at
                alice.send_message("bob", "new", requestId="new")
                wait_until(lambda: len(lane.waiting) == 6)
                alice.reset()
                wait_until(lambda: lane.session.transport.is_closed)
        wait_until(lambda: not (lane.waiting or lane.busy.locked()))
        with logged_in(server.port, "alice", features=["ack"]) as alice:
            send(alice, 5)
            alice.send_message("bob", "new", requestId="new")
            assert set(statuses(alice, 6)) == {SUCCESS}
        stored = [] if has_id else ["first"]
        assert bob.contents(len(stored) + 6) == [*stored, "0", "1", "2", "3", "4", "new"]


@pytest.mark.usefixtures("fails_once")
def test_messages_without_a_request_id(server: JellyServer) -> None:
    """Their client does not send them again, so they are stored as soon as that is possible."""
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        for number in range(COUNT):
            alice.send_message("bob", str(number))
        answers = statuses(alice)
        failed = answers.count(SERVER_ERROR)
        assert answers == [SERVER_ERROR] * failed + [SUCCESS] * (COUNT - failed)
        assert failed <= REQUESTS_AT_ONCE
        assert bob.contents(COUNT - failed) == [str(number) for number in range(failed, COUNT)]


def test_a_message_that_fails_before_the_store(server: JellyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its service cannot read from the database, which then works again."""
    serve = server.services.serve
    failed: list[bool] = []

    def fail_once(session: Session, frame: Frame) -> Any:
        if b"r1" in frame.body and not failed:
            failed.append(True)
            raise StoreError("away")
        return serve(session, frame)

    def frame(content: str, **more: Any) -> bytes:
        values = {"sender": "alice", "receiver": "bob", "content": content, "time": 1, **more}
        return pack(PERSON_MESSAGE, to_json(values))

    monkeypatch.setattr(server.services, "serve", fail_once)
    with logged_in(server.port, "alice", features=["ack"]) as alice, logged_in(server.port, "bob") as bob:
        r0, r1, r2 = (frame(name, requestId=name) for name in ("r0", "r1", "r2"))
        alice.send(r0 + r1 + r2 + frame("without"))
        assert statuses(alice, 4) == [SUCCESS, SERVER_ERROR, SERVER_ERROR, SUCCESS]
        alice.send(r1 + r2)
        assert statuses(alice, 2) == [SUCCESS, SUCCESS]
        assert bob.contents(4) == ["r0", "without", "r1", "r2"]
