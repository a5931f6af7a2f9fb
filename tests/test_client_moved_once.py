"""Each message arrives once, also when a client goes from one server to another."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client_tools import ACK, NEVER, NewClient, Recorder, Scripts, error, message, notice, result
from harness import ready_database
from wire import PERSON_MESSAGE, wait_until

from client_api import ConnectionLost, JellyClient
from faults.checker import Answer
from faults.load import Load
from faults.mariadb import PrivateMariaDB
from faults.process import Server, free_port, no_limits


def test_what_has_no_response_is_sent_again_at_the_next_server(alice: JellyClient, scripts: Scripts) -> None:
    """In the same order, with the same idempotency keys, and before anything newer. What was
    acknowledged is not sent again, and a request that is no message ends."""
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    sent = [alice.send_message("bob", str(number)) for number in range(4)]
    profile = alice.own_profile()
    values = [peer.receive_request(PERSON_MESSAGE) for _ in range(4)]
    peer.answer(PERSON_MESSAGE)
    result(sent[0])
    peer.close()
    assert error(profile).sent
    peer = second.accept_login()
    assert [peer.receive_request(PERSON_MESSAGE) for _ in range(3)] == values[1:]
    assert alice.wait_until_online(10)
    newer = alice.send_message("bob", "newer")
    for _ in range(3):
        peer.answer(PERSON_MESSAGE)
    assert peer.receive_request(PERSON_MESSAGE)["content"] == "newer"
    peer.answer(PERSON_MESSAGE)
    for future in (*sent, newer):
        result(future)


def test_what_one_server_sent_is_dropped_from_the_other(
    alice: JellyClient, scripts: Scripts, recorder: Recorder
) -> None:
    """Also if the other one, of another version, writes it differently: the id, the sender, the
    receiver, the content and the time count. It is acknowledged there."""
    first, second = scripts.of(alice)
    peer = first.log_in(alice)
    peer.send(message("1", id=1) + message("2", id=2))
    assert recorder.contents(2) == ["1", "2"]
    peer.close()
    again = [
        notice(PERSON_MESSAGE, id=id, time=1_700_000_000_000, content=str(id), receiver="alice", sender="bob", more=1)
        for id in (1, 2)
    ]
    peer = second.accept_login(behind=b"".join(again) + message("3", id=3))
    acknowledged = peer.receive_request(ACK)["id"]
    while acknowledged < 3:
        acknowledged = peer.receive_request(ACK)["id"]
    assert recorder.contents(3) == recorder.messages == ["1", "2", "3"]


def test_a_classic_client(new_client: NewClient, scripts: Scripts, recorder: Recorder) -> None:
    """It goes to the next address, too. Its requests end with the connection, as always."""
    alice = new_client(1, recorder, addresses=scripts.addresses, reconnect=NEVER, features=())
    first, second = scripts.of(alice)
    peer = first.log_in(alice, features=None)
    sent = alice.send_message("bob", "hello")
    assert "requestId" not in peer.receive_request(PERSON_MESSAGE)
    peer.close()
    failure = error(sent)
    assert (type(failure), failure.sent) == (ConnectionLost, True)
    peer = second.accept_login(features=None)
    assert alice.wait_until_online(10)
    sent = alice.send_message("bob", "hello again")
    assert peer.receive_request(PERSON_MESSAGE)["content"] == "hello again"
    peer.answer(PERSON_MESSAGE)
    result(sent)


def move_between_two_servers(directory: Path, end: Callable[[Server], object], rounds: int = 4, **options: Any) -> Load:
    """Run a load, and move it between two servers on one database: one ends, the other one starts.

    Return the load, with everything delivered.
    """
    ports = [free_port(), free_port()]
    addresses = [("127.0.0.1", port) for port in ports]
    arguments = (f"sqlite:///{directory}/jelly.db", "--classic-gap=1", *no_limits())
    server = Server(*arguments, f"--port={ports[0]}")
    try:
        with Load(ports[0], addresses=addresses, connect_timeout=60, **options) as load:
            load.start()
            for number in range(1, rounds + 1):
                assert load.ledger.wait_for_more(Answer.STORED, random.randint(20, 200), 60)
                end(server)
                server.kill()
                server = Server(*arguments, f"--port={ports[number % 2]}")
                in_use = {f"127.0.0.1:{server.port}"}
                wait_until(lambda: {user.client.address for user in load.present} == in_use, 60)  # noqa: B023
            load.finish()
            return load
    finally:
        server.kill()


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
def test_nothing_is_lost_doubled_or_swapped(tmp_path: Path, end: Callable[[Server], object]) -> None:
    """Six users write to each other while they are moved, with kill -9 and with SIGTERM."""
    load = move_between_two_servers(tmp_path, end)
    verdict = load.ledger.verdict()
    assert verdict.acknowledged >= 80
    assert not verdict.defects
    assert load.disconnects >= 4 * len(load.present)


def test_classic_clients_lose_nothing(tmp_path: Path) -> None:
    """Without acknowledgements a message may come twice, as with one server."""
    verdict = move_between_two_servers(tmp_path, Server.kill, features=()).ledger.verdict()
    assert verdict.acknowledged >= 80
    assert verdict.defects.keys() <= {"twice"}


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
def test_between_nodes(mariadb: PrivateMariaDB, end: Callable[[Server], object]) -> None:
    """The same with three nodes of a cluster, where the others go on serving."""
    database, ports = ready_database(mariadb, "jelly_addresses"), [free_port() for _ in range(3)]
    nodes: dict[int, Server] = {}

    def start(port: int) -> None:
        nodes[port] = Server(database, f"--port={port}", "--cluster=none", *no_limits())

    try:
        for port in ports:
            start(port)
        addresses = [("127.0.0.1", port) for port in ports]
        with Load(ports[0], addresses=addresses, connect_timeout=60) as load:
            load.start()
            for port in ports:
                assert load.ledger.wait_for_more(Answer.STORED, random.randint(20, 200), 60)
                end(nodes[port])
                nodes[port].kill()
                load.wait_until_online()
                start(port)
            load.finish()
            verdict = load.ledger.verdict()
    finally:
        for node in nodes.values():
            node.kill()
    assert verdict.acknowledged >= 60
    assert not verdict.defects
    assert load.disconnects >= len(load.present)  # each was on one of them
