"""The queue and the workers: order, the bound, and what happens when a worker blocks."""

import threading
from pathlib import Path
from queue import Full

import pytest
from harness import NullTransport, StartServer, lane_of, occupy_the_store, stuck_store
from wire import (
    ADD_FRIEND,
    ALL_FRIENDS,
    LOGIN,
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
from jelly.queue_dispatch import LANE_LIMIT, Lane, PendingRequest, RequestQueue
from jelly.server import JellyServer
from jelly.sessions import Session


def lane() -> Lane:
    return Lane(Session(NullTransport(), ""))


FRAME = Frame(1, 0x1F, 0, b"")


def put(queue: RequestQueue, lane: Lane, count: int, received_at: float = 0.0, frame: Frame = FRAME) -> None:
    """What a reader does with the requests of one read."""
    lane.incoming = [PendingRequest(frame, received_at)] * count
    queue.put(lane)


def errors(lane: Lane) -> list[ErrorCode | None]:
    return [request.error for request in lane.waiting]


def test_the_bound_counts_requests_in_all_lanes() -> None:
    """A request beyond the bound stays in its lane, as an error in its place; taking requests makes
    room.
    """
    queue, one, two = RequestQueue(3), lane(), lane()
    put(queue, one, 2)
    put(queue, two, 2)
    assert errors(two) == [None, ErrorCode.BUSY]
    assert len(queue.take_requests(one, 1)) == 1
    put(queue, two, 2)
    assert errors(two) == [None, ErrorCode.BUSY, None, ErrorCode.BUSY]


def test_a_part_is_kept_for_those_who_ask_for_little() -> None:
    """Clients that flood the server do not take the room of those who wait for their answers."""
    queue, others = RequestQueue(1000), [lane() for _ in range(200)]
    for flooding in [lane() for _ in range(5)]:
        put(queue, flooding, 400)
        put(queue, flooding, 400)
    for other in others:
        put(queue, other, 1)
        assert errors(other) == [None]


def test_a_lane_with_nothing_but_refusals_is_full() -> None:
    """`put` raises queue.Full then; a request that came meanwhile is for a worker, with the
    refusals before it.
    """
    queue, one, two = RequestQueue(1), lane(), lane()
    put(queue, one, 2)
    assert errors(one) == [None, ErrorCode.BUSY]
    with pytest.raises(Full):
        put(queue, two, 2)
    assert two.busy.locked()  # the caller's, until it has answered them
    assert [request.error for request in queue.take_refused(two)] == [ErrorCode.BUSY] * 2
    assert two.waiting == []
    put(queue, two, 1)
    two.busy.release()
    with pytest.raises(Full):
        queue.put(two)
    assert queue.get_many(16) == [one]


def test_only_refusals_in_front_are_taken() -> None:
    """A request that arrives while refusals are answered stays in the lane, to be served."""
    queue, one, two = RequestQueue(1), lane(), lane()
    put(queue, one, 1)
    with pytest.raises(Full):
        put(queue, two, 1)
    queue.take_requests(one, 1)
    put(queue, two, 1)
    assert errors(two) == [ErrorCode.BUSY, None]
    assert len(queue.take_refused(two)) == 1
    assert errors(two) == [None]


def test_what_is_refused_keeps_no_body() -> None:
    """However many large requests a client writes to a server that is busy: nobody will look at
    them.
    """
    queue, one = RequestQueue(1), lane()
    put(queue, one, 3, frame=Frame(1, 0x15, 0, b"x" * 1000))
    assert [len(request.frame.body) for request in one.waiting] == [1000, 0, 0]


def test_an_error_needs_no_room() -> None:
    """A malformed frame is answered as such even when the queue is full, and takes nobody's
    place.
    """
    queue, one = RequestQueue(1), lane()
    error = PendingRequest(FRAME, 0.0, ErrorCode.MALFORMED_FRAME)
    one.incoming = [error, PendingRequest(FRAME, 0.0), error, PendingRequest(FRAME, 0.0), error]
    queue.put(one)
    malformed = ErrorCode.MALFORMED_FRAME
    assert errors(one) == [malformed, None, malformed, ErrorCode.BUSY, malformed]


def test_returned_requests_stand_in_front() -> None:
    """Requests that were taken and not served come before those that came meanwhile, and count
    again.
    """
    queue, one = RequestQueue(3), lane()
    put(queue, one, 2, received_at=1.0)
    requests = queue.take_requests(one, 2)
    put(queue, one, 1, received_at=2.0)
    queue.return_requests(one, requests)
    assert [request.received_at for request in one.waiting] == [1.0, 1.0, 2.0]
    put(queue, one, 1, received_at=3.0)
    assert one.waiting[-1] == PendingRequest(FRAME, 3.0, ErrorCode.BUSY)


def test_a_lane_stands_in_the_queue_once() -> None:
    """However often something is put into it, until the thread that serves it releases it."""
    queue, one = RequestQueue(100), lane()
    for _ in range(3):
        put(queue, one, 1)
    assert queue.get_many(16) == [one]
    queue.take_requests(one, 16)
    put(queue, one, 1)
    queue.put_back(one)
    assert queue.get_many(16) == [one]


def test_one_worker_at_a_time_until_it_blocks() -> None:
    """The lanes that a blocked worker has not served go to the next one, before those that came
    later.
    """
    queue, lanes = RequestQueue(100), [lane() for _ in range(4)]
    for each in lanes[:3]:
        put(queue, each, 1)
    mine = list(reversed(queue.get_many(16)))
    assert mine.pop() is lanes[0]
    put(queue, lanes[3], 1)
    queue.enter_blocking(mine)
    assert mine == []
    assert queue.get_many(16) == lanes[1:]
    queue.exit_blocking()
    queue.close()
    assert queue.get_many(16, was_running=True) == []


def test_one_worker_is_woken_at_a_time() -> None:
    """Lanes that come while a worker is on its way to the queue, or at work, wake no other; all are
    served.
    """
    queue, taken = RequestQueue(100), []
    one_is_at_work, may_go_on = threading.Event(), threading.Event()

    def work() -> None:
        was_running = False
        while lanes := queue.get_many(2, was_running):
            was_running = True
            taken.append((threading.current_thread(), lanes))
            one_is_at_work.set()
            may_go_on.wait()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(queue.not_empty._waiters) == 4)  # type: ignore[attr-defined]
    with queue.mutex:  # as if no woken worker had come to it yet
        for each in (lane(), lane(), lane()):
            each.waiting.append(PendingRequest(FRAME, 0.0))
            queue._schedule(each)
        assert len(queue.not_empty._waiters) == 3  # type: ignore[attr-defined]
    one_is_at_work.wait()
    for _ in range(4):
        put(queue, lane(), 1)
    assert len(queue.not_empty._waiters) == 3  # type: ignore[attr-defined]
    may_go_on.set()
    wait_until(lambda: sum(len(lanes) for _, lanes in taken) == 7)
    assert len({worker for worker, _ in taken}) == 1
    queue.close()
    for worker in workers:
        worker.join()


def test_answers_keep_their_order_under_many_workers(start_server: StartServer) -> None:
    """Many workers, many clients, requests of every kind written without waiting: answers come in
    order.
    """
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


@pytest.fixture
def narrow(start_server: StartServer) -> JellyServer:
    """A server in which two requests may wait."""
    server = start_server(queue_size=2, classic_gap=0)
    register(server.port, "alice", "bob", "carol")
    return server


def test_busy(narrow: JellyServer, tmp_path: Path) -> None:
    """When the queue is full, SERVER_BUSY comes at once, and nothing was done; later it works
    again.
    """
    with logged_in(narrow.port, "alice") as alice, logged_in(narrow.port, "bob") as bob:
        with stuck_store(tmp_path / "jelly.db"):
            occupy_the_store(narrow, alice, "carol")
            alice.send_message("carol", "waits")
            alice.send_message("carol", "waits, too")
            alice.send_message("carol", "refused")
            wait_until(lambda: len(lane_of(narrow, "alice").waiting) == 3)
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
            wait_until(lambda: len(lane_of(narrow, "alice").waiting) == 2)
            with Wire(narrow.port) as wire:
                assert wire.login("bob").status == SERVER_BUSY
                assert wire.is_closed_by_server()
            with Wire(narrow.port) as wire:  # what it sent behind that is ignored
                wire.send(pack(LOGIN) * 3)
                assert wire.receive().status == SERVER_BUSY
                with pytest.raises(EOFError):
                    wire.receive()
        assert [alice.receive().status for _ in range(3)] == [SUCCESS] * 3


def test_a_full_lane_stops_its_reader(start_server: StartServer, tmp_path: Path) -> None:
    """A client that writes more than its lane holds is made to wait by TCP, others are not; all is
    answered.
    """
    server = start_server(queue_size=100_000, classic_gap=0)
    register(server.port, "alice", "bob")
    with logged_in(server.port, "alice") as alice, logged_in(server.port, "bob") as bob:
        with stuck_store(tmp_path / "jelly.db"):
            body = to_json({"sender": "alice", "receiver": "bob", "content": "x" * 1000, "time": 1})
            message = pack(PERSON_MESSAGE, body)
            writer = threading.Thread(target=lambda: alice.send(3000 * message))
            writer.start()
            wait_until(lambda: len(lane_of(server, "alice").waiting) >= LANE_LIMIT)
            assert bob.ok(OWN_PROFILE) == {"username": "bob"}
            assert len(lane_of(server, "alice").waiting) < LANE_LIMIT + 50
        assert [alice.receive().status for _ in range(3000)] == [SUCCESS] * 3000
        writer.join()
        assert len(bob.contents(3000)) == 3000


def test_a_client_that_does_not_take_its_answers(start_server: StartServer) -> None:
    """Long answers that nobody reads are not made: requests wait, and all are answered when the
    client reads.
    """
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
        wait_until(lambda: connection.send_queue.stalled_since is not None)
        wait_until(lambda: connection.send_queue.is_full)
        assert connection.send_queue._responses_size < 500_000
        assert [len(alice.receive().values["friends"]) for _ in range(250)] == [300] * 250
        alice.ok(OWN_PROFILE)
