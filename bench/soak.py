"""The soak test: run operations of every kind on one server for a long time; watch its memory."""

import itertools
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.clients import PASSWORD, Connection, EventLoop, call, frames_of, login, open_all, request, token_of
from bench.meter import Meter
from jelly.codec import Sign, Status, Type

STEPS = 10
THREADS, USERS_PER_THREAD = 4, 5
"""How many threads there are, and how many users each has. New users replace some over time."""
WARM_UP_STEPS = 2
"""The memory must not grow after this tenth of the operations."""
GROWTH, SLACK = 1.05, 4 << 20
"""At most this much may the memory grow: a factor, plus bytes."""


def is_flat(memory: list[int]) -> bool:
    """Return whether the memory, measured after each tenth, stays the same after the warm-up."""
    return memory[-1] <= memory[min(WARM_UP_STEPS, len(memory) - 1)] * GROWTH + SLACK


class VirtualUsers:
    """Users who run random operations, one after the other.

    The number is the seed. Not thread-safe.
    """

    def __init__(self, number: int, port: int) -> None:
        self._loop = EventLoop()
        self._port = port
        self._number = number
        self._random = random.Random(number)
        self._numbers = itertools.count()
        self._users: list[tuple[str, Connection]] = []
        self._choices = (
            [self.send_message] * 10
            + [self.query] * 4
            + [
                self.change_profile,
                self.add_and_remove_friend,
                self.use_group,
                self.reconnect,
                self.log_out_and_in,
                self.replace_user,
            ]
        )
        self.operation_count = 0

    def start(self) -> None:
        """Register and log in the first users."""
        self._users = [self._new_user() for _ in range(USERS_PER_THREAD)]

    def work(self, operations: float) -> None:
        """Run operations until their total number reaches `operations`."""
        while self.operation_count < operations:
            self._random.choice(self._choices)()

    def close(self) -> None:
        for _, connection in self._users:
            connection.socket.close()
        self._loop.close()

    def send_message(self) -> None:
        """Send a message to another user, who acknowledges it."""
        (sender, own_connection), (receiver, other_connection) = self._choose_two()
        text = f"{self.operation_count} " + "x" * self._random.randrange(200)
        self._call(own_connection, Type.PERSON_MESSAGE, sender=sender, receiver=receiver, content=text, time=1,
                   requestId=f"{self.operation_count}")  # fmt: skip
        self._acknowledge(other_connection, text)

    def query(self) -> None:
        """Request a list, a profile or the history."""
        (name, own_connection), (other, _) = self._choose_two()
        type, more = self._random.choice(
            [(Type.ALL_FRIENDS, {}), (Type.OWN_GROUPS, {}), (Type.OWN_PROFILE, {}), (Type.HISTORY, {"person": other})]
        )
        self._call(own_connection, type, username=name, **more)

    def change_profile(self) -> None:
        (name, own_connection), _ = self._choose_two()
        self._call(own_connection, Type.UPDATE_PROFILE, username=name, name=f"{name} {self.operation_count}", age="30")

    def add_and_remove_friend(self) -> None:
        """Add a friend, and remove the friend again."""
        (name, own_connection), (friend, _) = self._choose_two()
        for type in (Type.ADD_FRIEND, Type.REMOVE_FRIEND):
            self._call(own_connection, type, username=name, friend=friend)

    def use_group(self) -> None:
        """Create a group, send a message to it, and disband it."""
        (name, own_connection), (member, other_connection) = self._choose_two()
        group = f"group{self._number}-{next(self._numbers)}"
        text = f"{self.operation_count} to all"
        self._call(own_connection, Type.CREATE_GROUP, username=name, groupName=group)
        self._call(own_connection, Type.ADD_MEMBER, username=name, groupName=group, member=member)
        self._call(own_connection, Type.GROUP_MESSAGE, sender=name, receiver=group, content=text, time=1)
        self._acknowledge(other_connection, text)
        self._call(own_connection, Type.REMOVE_MEMBER, username=name, groupName=group, member=member)
        self._call(own_connection, Type.DISBAND_GROUP, username=name, groupName=group)

    def reconnect(self) -> None:
        """Log in, lose the connection, and reconnect with the token."""
        place, name = self._disconnect()
        again = self._open(login(name))
        back = self._open(request(Type.RECONNECT, username=name, token=token_of(again), features=["ack"]))
        again.socket.close()
        self._users[place] = name, back

    def log_out_and_in(self) -> None:
        """Log in, log out, and log in again."""
        place, name = self._disconnect()
        connection = self._open(login(name))
        connection.socket.sendall(request(Type.LOGOUT, username=name, token=token_of(connection)))
        while connection.socket.recv(1 << 16):
            pass
        connection.socket.close()
        self.operation_count += 1
        self._users[place] = name, self._open(login(name))

    def replace_user(self) -> None:
        """Replace a user by a new one."""
        place, _ = self._disconnect()
        self._users[place] = self._new_user()

    def _disconnect(self) -> tuple[int, str]:
        """Cut the connection of a random user; return the user's index and name."""
        place = self._random.randrange(USERS_PER_THREAD)
        name, connection = self._users[place]
        connection.socket.close()
        return place, name

    def _new_user(self) -> tuple[str, Connection]:
        name = f"user{self._number}-{next(self._numbers)}"
        self._open(request(Type.REGISTER, username=name, password=PASSWORD)).socket.close()
        return name, self._open(login(name))

    def _open(self, frame: bytes) -> Connection:
        self.operation_count += 1
        [connection] = open_all(self._loop, [self._port], [frame])
        return connection

    def _choose_two(self) -> tuple[tuple[str, Connection], tuple[str, Connection]]:
        first, second = self._random.sample(self._users, 2)
        return first, second

    def _call(self, connection: Connection, type: int, **values: Any) -> None:
        call(connection.socket, request(type, **values))
        self.operation_count += 1

    def _acknowledge(self, connection: Connection, text: str) -> None:
        """Wait for the notice of a message, and acknowledge it."""
        for frame in frames_of(connection.socket):
            if frame.sign == Sign.NOTICE and frame.type in (Type.PERSON_MESSAGE, Type.GROUP_MESSAGE):
                notice = json.loads(frame.body)
                if notice["content"] != text:
                    raise RuntimeError(f"{text!r} was sent, {notice['content']!r} arrived")
                connection.socket.sendall(request(Type.ACK, id=notice["id"]))
                return
            assert frame.status in (Status.NONE, Status.SUCCESS)


def soak(port: int, meter: Meter, operations: int) -> Iterator[tuple[int, int]]:
    """Run `operations` operations. After each tenth, yield their number and the memory in bytes."""
    user_groups = [VirtualUsers(number, port) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(VirtualUsers.start, user_groups))
        for step in range(1, STEPS + 1):
            list(
                pool.map(
                    lambda users, share: users.work(share), user_groups, [operations * step / STEPS / THREADS] * THREADS
                )
            )
            yield sum(users.operation_count for users in user_groups), meter.memory()
    for users in user_groups:
        users.close()
