"""The queue and the workers: order, the bound, and what happens when a worker blocks."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import StartServer
from test_sessions import NoOutlet
from wire import (
    ADD_FRIEND,
    ALL_FRIENDS,
    OWN_PROFILE,
    PERSON_MESSAGE,
    SERVER_BUSY,
    SUCCESS,
    UPDATE_PROFILE,
    Wire,
    logged_in,
    pack,
    register,
    to_json,
    wait_until,
)

from jelly.codec import Frame
from jelly.errors import ErrorCode
from jelly.queue_dispatch import LANE_LIMIT, Item, Lane, RequestQueue
from jelly.server import JellyServer
from jelly.sessions import Session


def lane() -> Lane:
    return Lane(Session(NoOutlet(), ""))


FRAME = Frame(1, 0x1F, 0, b"")


def test_the_bound_counts_requests_in_all_lanes() -> None:
    """What does not fit is in its lane all the same, as an error in its place; taking requests makes room."""
    queue, one, two = RequestQueue(3), lane(), lane()
    queue.put_requests(one, [FRAME] * 2, 0.0)
    queue.put_requests(two, [FRAME] * 2, 0.0)
    assert [item.error for item in two.items] == [None, ErrorCode.BUSY]
    assert len(queue.drain(one, 1)) == 1
    queue.put_requests(two, [FRAME] * 2, 0.0)
    assert [item.error for item in two.items] == [None, ErrorCode.BUSY, None, ErrorCode.BUSY]


def test_refusals_are_handed_back_only_if_there_is_nothing_else() -> None:
    """A request that came meanwhile is a worker's business, and so are the refusals before it then."""
    queue, one, two = RequestQueue(1), lane(), lane()
    assert queue.put_requests(one, [FRAME] * 2, 0.0) == []
    assert len(one.items) == 2
    refused = queue.put_requests(two, [FRAME] * 2, 0.0)
    assert [item.error for item in refused] == [ErrorCode.BUSY] * 2
    assert two.items == []
    assert two.busy.locked()  # the caller's, until it has answered them
    assert queue.put_requests(two, [FRAME], 0.0) == []
    two.busy.release()
    assert len(queue.put_lane(two)) == 1
    assert queue.take(16) == [one]


def test_what_is_refused_keeps_no_body() -> None:
    """However many large requests a client writes to a server that is busy: nobody will look at them."""
    queue, one = RequestQueue(1), lane()
    queue.put_requests(one, [Frame(1, 0x15, 0, b"x" * 1000)] * 3, 0.0)
    assert [len(item.frame.body) for item in one.items] == [1000, 0, 0]


def test_put_back_stands_in_front() -> None:
    """Requests that were taken and not served come before those that came meanwhile, and count again."""
    queue, one = RequestQueue(3), lane()
    queue.put_requests(one, [FRAME] * 2, 1.0)
    items = queue.drain(one, 2)
    queue.put_requests(one, [FRAME], 2.0)
    queue.put_back(one, items)
    assert [item.asked_at for item in one.items] == [1.0, 1.0, 2.0]
    queue.put_requests(one, [FRAME], 3.0)
    assert one.items[-1] == Item(FRAME, 3.0, ErrorCode.BUSY)


def test_a_lane_stands_in_the_queue_once() -> None:
    """However often something is put into it, until whoever serves it has closed it."""
    queue, one = RequestQueue(100), lane()
    for _ in range(3):
        queue.put_requests(one, [FRAME], 0.0)
    assert queue.take(16) == [one]
    queue.drain(one, 16)
    queue.put_requests(one, [FRAME], 0.0)
    queue.put_again(one)
    assert queue.take(16) == [one]


def test_one_worker_at_a_time_until_it_blocks() -> None:
    """The lanes that a blocked worker has not served go to the next one, before those that came later."""
    queue, lanes = RequestQueue(100), [lane() for _ in range(4)]
    for each in lanes[:3]:
        queue.put_requests(each, [FRAME], 0.0)
    mine = list(reversed(queue.take(16)))
    assert mine.pop() is lanes[0]
    queue.put_requests(lanes[3], [FRAME], 0.0)
    queue.leave(mine)
    assert mine == []
    assert queue.take(16) == lanes[1:]
    queue.come_back()
    queue.close()
    assert queue.take(16, is_running=True) == []


def test_one_worker_is_woken_at_a_time() -> None:
    """Lanes that come while a worker is on its way to the queue, or at work, wake no other; all are served."""
    queue, taken = RequestQueue(100), []
    one_is_at_work, may_go_on = threading.Event(), threading.Event()

    def work() -> None:
        is_running = False
        while lanes := queue.take(2, is_running):
            is_running = True
            taken.append((threading.current_thread(), lanes))
            one_is_at_work.set()
            may_go_on.wait()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(queue.not_empty._waiters) == 4)  # type: ignore[attr-defined]
    with queue.mutex:  # as if nobody who is woken had come to it yet
        for each in (lane(), lane(), lane()):
            each.items.append(Item(FRAME, 0.0))
            queue._open(each)
        assert len(queue.not_empty._waiters) == 3  # type: ignore[attr-defined]
    one_is_at_work.wait()
    for _ in range(4):
        queue.put_requests(lane(), [FRAME], 0.0)
    assert len(queue.not_empty._waiters) == 3  # type: ignore[attr-defined]
    may_go_on.set()
    wait_until(lambda: sum(len(lanes) for _, lanes in taken) == 7)
    assert len({worker for worker, _ in taken}) == 1
    queue.close()
    for worker in workers:
        worker.join()


def test_answers_keep_their_order_under_many_workers(start_server: StartServer) -> None:
    """Many workers, many clients, requests of every kind written without waiting: answers come in order."""
    port = start_server(workers=16, queue_size=10_000, classic_gap=0).port
    names = [f"user{number}" for number in range(12)]
    register(port, *names)
    wires = [logged_in(port, name) for name in names]
    wanted: list[int] = []
    for round in range(30):
        for wire in wires:
            wire.send_message(names[round % 12], f"{wire.user} {round}")
            wire.send_request(UPDATE_PROFILE, age=str(round))
            wire.send_request(OWN_PROFILE)
            wire.send_request(ADD_FRIEND, friend="nobody")
            wire.send_request(ALL_FRIENDS)
        wanted += [PERSON_MESSAGE, UPDATE_PROFILE, OWN_PROFILE, ADD_FRIEND, ALL_FRIENDS]
    for wire in wires:
        answers = [wire.receive_response() for _ in wanted]
        assert [answer.type for answer in answers] == wanted
        assert [answer.values["age"] for answer in answers[2::5]] == [str(round) for round in range(30)]
    for wire in wires:
        wire.close()


def test_two_hundred_clients_as_fast_as_they_are_answered(start_server: StartServer) -> None:
    """Each gets all its answers in order, under one lane each and four workers."""
    port = start_server(queue_size=200).port
    names = [f"user{number}" for number in range(200)]
    register(port, *names)
    wires = [logged_in(port, name) for name in names]
    for round in range(5):
        for wire in wires:
            wire.send_request(UPDATE_PROFILE, age=str(round))
        for wire in wires:
            assert wire.receive().status == SUCCESS
            wire.send_request(OWN_PROFILE)
        for wire in wires:
            assert wire.receive().values["age"] == str(round)
    for wire in wires:
        wire.close()


@contextlib.contextmanager
def stuck_store(path: Path) -> Iterator[None]:
    """Have somebody else hold the database, so that the store thread waits for it."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
def narrow(start_server: StartServer) -> JellyServer:
    """A server in which two requests may wait."""
    server = start_server(queue_size=2, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    return server


def test_busy(narrow: JellyServer, tmp_path: Path) -> None:
    """When the queue is full, SERVER_BUSY comes at once, and nothing was done; later it works again."""
    with logged_in(narrow.port, "alice") as alice, logged_in(narrow.port, "bob") as bob:
        with stuck_store(tmp_path / "jelly.db"):
            occupy_the_store(narrow, alice, "carol")
            alice.send_message("carol", "waits")
            alice.send_message("carol", "waits, too")
            alice.send_message("carol", "refused")
            wait_until(lambda: len(lane_of(narrow, "alice").items) == 3)
            refused = bob.call(PERSON_MESSAGE, receiver="carol", content="refused at once", time=1)
            assert (refused.status, refused.error) == (SERVER_BUSY, "busy")
            bob.heartbeat()
        assert [alice.receive().status for _ in range(4)] == [SUCCESS, SUCCESS, SUCCESS, SERVER_BUSY]
        bob.message("carol", "later")
    with logged_in(narrow.port, "carol") as carol:
        assert carol.contents(4) == ["taken", "waits", "waits, too", "later"]


def test_a_login_when_the_server_is_busy(narrow: JellyServer, tmp_path: Path) -> None:
    """It is told so, and closed, as after any login that failed."""
    with logged_in(narrow.port, "alice") as alice:
        with stuck_store(tmp_path / "jelly.db"):
            occupy_the_store(narrow, alice, "carol")
            alice.send_message("carol", "waits")
            alice.send_message("carol", "waits")
            wait_until(lambda: len(lane_of(narrow, "alice").items) == 2)
            with Wire(narrow.port) as wire:
                assert wire.login("bob").status == SERVER_BUSY
                assert wire.is_closed_by_server()
        assert [alice.receive().status for _ in range(3)] == [SUCCESS] * 3


def test_a_full_lane_stops_its_reader(start_server: StartServer, tmp_path: Path) -> None:
    """A client that writes more than its lane holds is made to wait by TCP, others are not; all is answered."""
    server = start_server(queue_size=100_000, classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        with stuck_store(tmp_path / "jelly.db"):
            body = to_json({"sender": "alice", "receiver": "bob", "content": "x" * 1000, "time": 1})
            message = pack(PERSON_MESSAGE, body)
            writer = threading.Thread(target=lambda: alice.send(3000 * message))
            writer.start()
            wait_until(lambda: len(lane_of(server, "alice").items) >= LANE_LIMIT)
            assert bob.ok(OWN_PROFILE) == {"username": "bob"}
            assert len(lane_of(server, "alice").items) < LANE_LIMIT + 50
        assert [alice.receive().status for _ in range(3000)] == [SUCCESS] * 3000
        writer.join()
        assert len(bob.contents(3000)) == 3000


def occupy_the_store(server: JellyServer, alice: Wire, receiver: str) -> None:
    """Have alice send a message that the store thread, which is stuck, takes and cannot answer."""
    lane = lane_of(server, "alice")
    wait_until(lambda: not lane.busy.locked())  # the login was answered, but its lane may not be open again yet
    alice.send_message(receiver, "taken")
    wait_until(lambda: lane.busy.locked() and not lane.items)


def lane_of(server: JellyServer, user: str) -> Lane:
    """The lane of somebody's connection."""
    [lane] = [c.lane for c in tuple(server.connections) if c.session.user == user]
    return lane


def test_a_client_that_does_not_take_its_answers(start_server: StartServer) -> None:
    """Long answers that nobody reads are not made: requests wait, and all are answered when the client reads."""
    server = start_server(classic_gap=0)
    friends = [f"{'界' * 28}{number}" for number in range(300)]
    with server._reading() as dao:
        register(server.port, "alice")
        dao.connection.insert(
            ("INSERT INTO friends (username, friend) VALUES (?, ?)", [("alice", name) for name in friends])
        )
    with logged_in(server.port, "alice") as alice:
        for _ in range(250):
            alice.send_request(ALL_FRIENDS)
        [connection] = [c for c in tuple(server.connections) if c.session.user == "alice"]
        wait_until(lambda: connection.outbox.stalled_since is not None)
        wait_until(lambda: connection.outbox.is_full)
        assert connection.outbox._responses_size < 500_000
        assert [len(alice.receive().values["friends"]) for _ in range(250)] == [300] * 250
        alice.ok(OWN_PROFILE)
