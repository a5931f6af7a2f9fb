"""Fifty clients in one process write to each other, while twenty of them lose their connections
again and again."""

import threading
from collections import Counter
from concurrent.futures import Future, wait
from random import Random
from typing import Any

import pytest
from client_tools import Recorder, result
from harness import StartServer
from wire import register, wait_until

from client_api import JellyClient, ReconnectPolicy, State
from faults.proxy import Proxy

CLIENTS, UNSTEADY, ROUNDS, PER_ROUND, DRIVERS = 50, 20, 12, 3, 5
POLICY = ReconnectPolicy(pause=0.01, maximum=0.05)


class Crowd:
    """The clients, and what became of everything that they sent."""

    def __init__(self, steady_port: int, proxy: Proxy) -> None:
        self.names = [f"u{number}" for number in range(CLIENTS)]
        self.recorders = {name: Recorder() for name in self.names}
        self.clients = {
            name: JellyClient(
                "127.0.0.1",
                proxy.port if number < UNSTEADY else steady_port,
                receiver=self.recorders[name],
                reconnect=POLICY,
            )
            for number, name in enumerate(self.names)
        }
        self.sent: list[tuple[str, str, Future[Any]]] = []  # receiver, content, future
        self.called: Counter[str] = Counter()  # how often each content's listener was called
        self._proxy = proxy

    def log_in(self) -> None:
        for login in [client.login(name, "pw") for name, client in self.clients.items()]:
            result(login)

    def write(self, first: int, seed: int) -> None:
        """Let every fifth client write to random others, and sometimes break a random
        connection."""
        random = Random(seed)
        for round in range(ROUNDS):
            futures = []
            for sender in self.names[first::DRIVERS]:
                for number in range(PER_ROUND):
                    if random.random() < 0.06:
                        self._proxy.cut(random.randrange(UNSTEADY))
                    receiver = random.choice(self.names)
                    futures.append(self._send(sender, receiver, f"{sender} {round} {number}"))
            wait(futures, 30)

    def _send(self, sender: str, receiver: str, content: str) -> Future[Any]:
        future = self.clients[sender].send_message(receiver, content)
        self.sent.append((receiver, content, future))
        future.add_done_callback(lambda _: self.called.update([content]))
        return future

    def due(self) -> dict[str, set[str]]:
        """Return what each client must have received: everything that the server acknowledged."""
        due: dict[str, set[str]] = {name: set() for name in self.names}
        for receiver, content, future in self.sent:
            if future.exception(0) is None:
                due[receiver].add(content)
        return due


@pytest.mark.parametrize("seed", [0, 100])
def test_many_clients_that_lose_their_connections_again_and_again(start_server: StartServer, seed: int) -> None:
    """Every future ends, each listener is called once, everything acknowledged arrives once, no
    thread is left."""
    port = start_server().port
    with Proxy(port) as proxy:
        crowd = Crowd(port, proxy)
        register(port, *crowd.names)
        crowd.log_in()
        drivers = [threading.Thread(target=crowd.write, args=[number, seed + number]) for number in range(DRIVERS)]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        assert all(future.done() for _, _, future in crowd.sent)
        due = crowd.due()
        wait_until(lambda: all(due[name] <= set(crowd.recorders[name].messages) for name in crowd.names))
        wait_until(lambda: all(client.state is State.ONLINE for client in crowd.clients.values()))
        for client in crowd.clients.values():
            client.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jelly-client")]
    assert crowd.called == Counter(content for _, content, _ in crowd.sent)
    check(crowd, sum(map(len, due.values())))


def check(crowd: Crowd, acknowledged: int) -> None:
    """Connections were lost, and no message was: what was sent meanwhile waited; nothing was
    duplicated or invented."""
    assert [future.exception(0) for _, _, future in crowd.sent if future.exception(0)] == []
    assert acknowledged == len(crowd.sent)
    assert any(
        [state for _, state, _ in recorder.changes].count(State.ONLINE) > 1 for recorder in crowd.recorders.values()
    )
    sent_to = {name: {content for to, content, _ in crowd.sent if to == name} for name in crowd.names}
    for name, recorder in crowd.recorders.items():
        assert set(recorder.messages) <= sent_to[name]
        assert len(recorder.messages) == len(set(recorder.messages))
        reconnected = [state for _, state, _ in recorder.changes].count(State.ONLINE) > 1
        assert not reconnected or crowd.names.index(name) < UNSTEADY
