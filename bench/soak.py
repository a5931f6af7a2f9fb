"""Does memory grow? Operations of every kind for a long time, on one server, with its memory read at every tenth."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.clients import Opening, call, frames_of, login, open_all, register_all, request, token_of
from jelly.codec import Sign, Status, Type

if TYPE_CHECKING:
    from bench.scenarios import Field

STEPS = 10
CREW = 20
"""Users at a time; each makes room for a new one, with a new name, now and then."""
WARM = 2
"""From this tenth on memory is to stay where it is."""
GROWTH, SLACK = 1.05, 4 << 20
"""So much more it may be in the end: a factor, and bytes."""


def is_flat(memory: list[int]) -> bool:
    """Whether the memory at the end of each tenth stays the same once the server is warm."""
    return memory[-1] <= memory[min(WARM, len(memory) - 1)] * GROWTH + SLACK


class Crew:
    """Users who do one thing after the other, drawn from a seed."""

    def __init__(self, at: "Field", seed: int = 1) -> None:
        self._at = at
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._users: list[tuple[str, Opening]] = []
        self._kinds = (
            [self.write] * 10
            + [self.look] * 4
            + [self.change_profile, self.befriend, self.gather, self.come_back, self.log_in_again, self.replace]
        )
        self.operations = 0

    def start(self) -> None:
        names = [self._new_name() for _ in range(CREW)]
        register_all(self._at.loop, self._at.port, names)
        self._users = list(zip(names, self._at.log_in(names), strict=True))

    def do_something(self) -> None:
        self._random.choice(self._kinds)()

    def close(self) -> None:
        for _, opening in self._users:
            opening.socket.close()

    def write(self) -> None:
        """A message to somebody, who acknowledges it."""
        (sender, mine), (receiver, theirs) = self._two()
        text = f"{self.operations} " + "x" * self._random.randrange(200)
        self._call(mine, Type.PERSON_MESSAGE, sender=sender, receiver=receiver, content=text, time=1,
                   requestId=f"{self.operations}")  # fmt: skip
        self._acknowledge(theirs, text)

    def look(self) -> None:
        """One of the lists, a profile, or what was said."""
        (name, mine), (other, _) = self._two()
        type, more = self._random.choice(
            [(Type.ALL_FRIENDS, {}), (Type.OWN_GROUPS, {}), (Type.OWN_PROFILE, {}), (Type.HISTORY, {"person": other})]
        )
        self._call(mine, type, username=name, **more)

    def change_profile(self) -> None:
        (name, mine), _ = self._two()
        self._call(mine, Type.UPDATE_PROFILE, username=name, name=f"{name} {self.operations}", age="30")

    def befriend(self) -> None:
        """Become a friend, and no more."""
        (name, mine), (friend, _) = self._two()
        for type in (Type.ADD_FRIEND, Type.REMOVE_FRIEND):
            self._call(mine, type, username=name, friend=friend)

    def gather(self) -> None:
        """A group from beginning to end, with a message in it."""
        (name, mine), (member, theirs) = self._two()
        group = f"g{next(self._numbers)}"
        text = f"{self.operations} to all"
        self._call(mine, Type.CREATE_GROUP, username=name, groupName=group)
        self._call(mine, Type.ADD_MEMBER, username=name, groupName=group, member=member)
        self._call(mine, Type.GROUP_MESSAGE, sender=name, receiver=group, content=text, time=1)
        self._acknowledge(theirs, text)
        self._call(mine, Type.REMOVE_MEMBER, username=name, groupName=group, member=member)
        self._call(mine, Type.DISBAND_GROUP, username=name, groupName=group)

    def come_back(self) -> None:
        """A cut, and a reconnect with the token of a login before it."""
        place = self._random.randrange(CREW)
        name, old = self._users[place]
        frame = login(name)
        [again] = open_all(self._at.loop, self._at.port, [frame])
        old.socket.close()
        frame = request(Type.RECONNECT, username=name, token=token_of(again), features=["ack"])
        [back] = open_all(self._at.loop, self._at.port, [frame])
        again.socket.close()
        self._users[place] = name, back
        self.operations += 2

    def log_in_again(self) -> None:
        """A login, and a logout that ends in good order; then the next login."""
        place = self._random.randrange(CREW)
        name, old = self._users[place]
        [opening] = open_all(self._at.loop, self._at.port, [login(name)])
        old.socket.close()
        opening.socket.sendall(request(Type.LOGOUT, username=name, token=token_of(opening)))
        while opening.socket.recv(1 << 16):
            pass
        opening.socket.close()
        [last] = open_all(self._at.loop, self._at.port, [login(name)])
        self._users[place] = name, last
        self.operations += 3

    def replace(self) -> None:
        """Somebody leaves for good, and a new user comes."""
        place = self._random.randrange(CREW)
        self._users[place][1].socket.close()
        name = self._new_name()
        register_all(self._at.loop, self._at.port, [name])
        [opening] = open_all(self._at.loop, self._at.port, [login(name)])
        self._users[place] = name, opening
        self.operations += 2

    def _new_name(self) -> str:
        return f"user{next(self._numbers)}"

    def _two(self) -> tuple[tuple[str, Opening], tuple[str, Opening]]:
        first, second = self._random.sample(self._users, 2)
        return first, second

    def _call(self, opening: Opening, type: int, **values: Any) -> None:
        call(opening.socket, request(type, **values))
        self.operations += 1

    def _acknowledge(self, opening: Opening, text: str) -> None:
        """Wait for the notice of a message, and acknowledge it."""
        for frame in frames_of(opening.socket):
            if frame.sign == Sign.NOTICE and frame.type in (Type.PERSON_MESSAGE, Type.GROUP_MESSAGE):
                notice = json.loads(frame.body)
                if notice["content"] != text:
                    raise RuntimeError(f"{text!r} was sent, {notice['content']!r} arrived")
                opening.socket.sendall(request(Type.ACK, id=notice["id"]))
                return
            assert frame.status in (Status.NONE, Status.SUCCESS)


def soak(at: "Field", operations: int) -> Iterator[tuple[int, int]]:
    """Do so many operations; after each tenth, how many were done, and the server's memory in bytes."""
    crew = Crew(at)
    crew.start()
    try:
        for step in range(1, STEPS + 1):
            while crew.operations < operations * step / STEPS:
                crew.do_something()
            yield crew.operations, at.meter.memory()
    finally:
        crew.close()
