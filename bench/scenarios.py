"""The scenarios: what is done to the server.

Each is a function that runs in the generator process.
"""

import contextlib
import itertools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from bench.clients import (
    Connection,
    EventLoop,
    Receiver,
    Sender,
    call,
    log_in_all,
    login,
    open_all,
    register_all,
    request,
    token_of,
)
from bench.meter import Meter, Usage
from bench.verify import Channel, DeliveryChecker
from jelly.codec import Type

DRAIN = 30.0
"""At most this many seconds until all messages have arrived after the last one is sent."""
WARM_UP = 0.2
"""The fraction of the measured time for which a scenario runs before the measurement."""
GROUP = "team"
CONCURRENT_LOGINS = 16
"""How many logins run at the same time."""
SPARE_FILES = 100
LOCAL, CROSSING, MIXED = "local", "crossing", "mixed"
"""Where the receiver of a message is, if there are several nodes: at the sender's node, at the next
one, or half of the receivers here and half there."""


@dataclass
class Measurement:
    """A measurement: the number of operations, their latency and their cost."""

    name: str
    count: int = 0
    delays: list[float] = field(default_factory=list)
    """Latencies in seconds, from which the percentiles below are computed."""
    p50: float = 0.0
    p99: float = 0.0
    usage: Usage | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all fields; of the latencies only the percentiles."""
        delays = sorted(self.delays)
        self.p50, self.p99 = (_percentile(delays, part) for part in (0.5, 0.99))
        return {**asdict(self), "delays": []}


def _percentile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0.0


class NotRun(Exception):
    """A scenario cannot run on this machine; the sentence says why."""


@dataclass
class Context:
    """The context in which a scenario runs: a server or several, and an event loop with clients."""

    loop: EventLoop
    ports: Sequence[int]
    meter: Meter
    seconds: float
    problems: list[str]
    placement: str = LOCAL
    _sockets: list[Connection] = field(default_factory=list)

    def users(self, prefix: str, count: int) -> list[str]:
        """Register accounts and return their names."""
        names = [f"{prefix}{number}" for number in range(count)]
        register_all(self.loop, self.ports, names)
        return names

    def log_in(self, names: Sequence[str], ports: Sequence[int] = ()) -> list[Connection]:
        """Log in as each user, at the ports in turns (by default: at all servers).

        The connections stay open until the end of the scenario.
        """
        opened = log_in_all(self.loop, ports or self.ports, names)
        self._sockets += opened
        return opened

    def receiver_ports(self, count: int) -> list[int]:
        """Return where the receiver of each of `count` senders logs in, as the placement says."""
        servers = len(self.ports)
        steps = {LOCAL: [0], CROSSING: [1], MIXED: [0] * servers + [1] * servers}[self.placement]
        return [self.ports[(place + steps[place % len(steps)]) % servers] for place in range(count)]

    def keep(self, opened: Sequence[Connection]) -> None:
        """Close these connections at the end of the scenario."""
        self._sockets += opened

    def close(self) -> None:
        for connection in self._sockets:
            connection.socket.close()
        self.loop.close()

    def measure(
        self, name: str, senders: Sequence[Sender], receivers: Sequence[Receiver], under_way: int
    ) -> Measurement:
        """Let senders send for some time, and count what arrives at the receivers meanwhile.

        It takes longer if a receiver has got nothing by then, so that each server had something
        to do.
        """
        for sender in senders:
            sender.send(under_way)
        self.loop.run_for(self.seconds * WARM_UP)
        for receiver in receivers:
            receiver.delays.clear()
        self.meter.start()
        self.loop.run_for(self.seconds)
        self.loop.run(lambda: all(receiver.delays for receiver in receivers), DRAIN)
        usage = self.meter.stop()
        delays = [delay for receiver in receivers for delay in receiver.delays]
        for sender in senders:
            sender.stop()
        busy = sum(sender.busy for sender in senders)
        return Measurement(name, len(delays), delays, usage=usage, note=f"{busy} times SERVER_BUSY" if busy else "")

    def drain(self, senders: Sequence[Sender], checkers: Sequence[DeliveryChecker]) -> None:
        """Wait until all messages are answered and have arrived, and check that none is missing."""
        if not self.loop.run(lambda: all(s.is_idle for s in senders), DRAIN):
            self.problems.append("unanswered: requests got no answer")
        self.loop.run(lambda: all(checker.is_complete for checker in checkers), DRAIN)
        self.loop.run_for(0)  # a duplicate may arrive last
        for checker in checkers:
            checker.finish()


def pairs(context: Context, count: int, under_way: int) -> Iterator[Measurement]:
    """`count` users each send to one other user, with `under_way` unanswered messages."""
    names, partners = context.users("from", count), context.users("to", count)
    channels = [Channel(*pair) for pair in zip(names, partners, strict=True)]
    checkers = [DeliveryChecker(channel, context.problems) for channel in channels]
    opened = context.log_in(partners, context.receiver_ports(count))
    receivers = [Receiver(context.loop, o, checker) for o, checker in zip(opened, checkers, strict=True)]
    senders = [Sender(context.loop, o, [channel]) for o, channel in zip(context.log_in(names), channels, strict=True)]
    title = f"{count} pair{'s' if count > 1 else ''}, {under_way} under way"
    yield context.measure(title, senders, receivers, under_way)
    context.drain(senders, checkers)


def group(context: Context, size: int, under_way: int) -> Iterator[Measurement]:
    """One member sends to a group in which all members are online."""
    creator, *members = context.users("member", size)
    [connection] = context.log_in([creator])
    call(connection.socket, request(Type.CREATE_GROUP, username=creator, groupName=GROUP))
    for member in members:
        call(connection.socket, request(Type.ADD_MEMBER, username=creator, groupName=GROUP, member=member))
    channel = Channel(creator, GROUP, Type.GROUP_MESSAGE)
    checkers = [DeliveryChecker(channel, context.problems) for _ in members]
    receivers = [
        Receiver(context.loop, o, checker) for o, checker in zip(context.log_in(members), checkers, strict=True)
    ]
    sender = Sender(context.loop, connection, [channel])
    yield context.measure(f"group of {size}, {under_way} under way", [sender], receivers, under_way)
    context.drain([sender], checkers)


def offline(context: Context, users: int, messages: int) -> Iterator[Measurement]:
    """Ten users send `messages` messages to each offline user; then those log in."""
    receivers = context.users("away", users)
    names = context.users("from", min(10, users))
    channels = [Channel(names[number % len(names)], receiver) for number, receiver in enumerate(receivers)]
    senders = []
    for number, connection in enumerate(context.log_in(names)):
        own = channels[number :: len(names)]
        senders.append(Sender(context.loop, connection, own, limit=len(own) * messages))
    context.meter.start()
    for sender in senders:
        sender.send(16)
    if not context.loop.run(lambda: all(sender.is_idle for sender in senders), DRAIN + users * messages / 500):
        context.problems.append("unanswered: requests got no answer")
    usage = context.meter.stop()
    total = users * messages
    answers = [delay for sender in senders for delay in sender.answer_times]
    title = f"{total:,} messages for {users} user{'s' if users > 1 else ''} away"
    yield Measurement(f"{title}: stored", total, answers, usage=usage, note="latency: until SUCCESS")
    checkers = [DeliveryChecker(channel, context.problems) for channel in channels]
    context.meter.start()
    started = time.monotonic()
    logged_in = context.log_in(receivers, context.receiver_ports(len(names)))
    readers = [Receiver(context.loop, o, i, since=started) for o, i in zip(logged_in, checkers, strict=True)]
    context.loop.run(lambda: all(checker.is_complete for checker in checkers), DRAIN + total / 500)
    usage = context.meter.stop()
    delays = [delay for reader in readers for delay in reader.delays]
    yield Measurement(f"{title}: delivered", len(delays), delays, usage=usage, note="latency: from the first login")
    context.drain(senders, checkers)


def logins(context: Context, cost: int, users: int) -> Iterator[Measurement]:
    """Users log in with their passwords, 16 at a time."""
    names = context.users("user", users)
    context.meter.start()
    end = time.monotonic() + context.seconds
    frames = itertools.takewhile(lambda _: time.monotonic() < end, map(login, itertools.cycle(names)))
    opened = open_all(context.loop, context.ports, frames, min(CONCURRENT_LOGINS, users))
    usage = context.meter.stop()
    context.keep(opened)
    note = f"scrypt at cost {cost}; latency: until the answer"
    yield Measurement(
        f"logins with password (cost {cost})", len(opened), [o.seconds for o in opened], usage=usage, note=note
    )


def reconnects(context: Context, count: int) -> Iterator[Measurement]:
    """All connections are cut at once, and all users reconnect with their tokens at once."""
    need_files(count)
    names = context.users("user", count)
    logged_in = log_in_all(context.loop, context.ports, names)
    frames = [
        request(Type.RECONNECT, username=name, token=token_of(connection), features=["ack"])
        for name, connection in zip(names, logged_in, strict=True)
    ]
    context.meter.start()
    for connection in logged_in:
        connection.socket.close()
    opened = open_all(context.loop, context.ports, frames, count)
    usage = context.meter.stop()
    context.keep(opened)
    note = f"all back after {usage.seconds:.2f} s; latency: until the answer"
    yield Measurement(f"{count} reconnects at once", count, [o.seconds for o in opened], usage=usage, note=note)


def idle(context: Context, count: int) -> Iterator[Measurement]:
    """Connections that only send a heartbeat every five seconds."""
    need_files(count)
    before = context.meter.memory()
    opened = context.log_in(context.users("user", count))
    heartbeat = request(Type.HEARTBEAT)
    context.loop.run_for(context.seconds * WARM_UP)  # what the logins leave to do
    context.meter.start()
    sent = 0
    started = time.monotonic()
    while (passed := time.monotonic() - started) < context.seconds:
        while sent < passed * count / 5:
            opened[sent % count].socket.sendall(heartbeat)
            sent += 1
        context.loop.run_for(0.001)
    usage = context.meter.stop()
    context.log_in(["user0"])  # check that the server still works
    each = (usage.memory - before) / count / 1024
    busy = (usage.user + usage.system) / usage.seconds
    yield Measurement(
        f"{count} idle connections", sent, usage=usage, note=f"heartbeats; {each:.0f} KiB each, {busy:.1%} of a core"
    )


def need_files(count: int) -> None:
    """Raise NotRun if this process may not open `count` connections."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + SPARE_FILES:
        raise NotRun(f"only {soft:,} open files are allowed here")


def raise_file_limit() -> None:
    """Raise the limit of open files of this process and its children to the allowed maximum."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


KINDS: dict[str, Callable[..., Iterator[Measurement]]] = {
    function.__name__: function for function in (pairs, group, offline, logins, reconnects, idle)
}
PARAMETERS = {
    "pairs": ("COUNT", "UNDER_WAY"), "group": ("SIZE", "UNDER_WAY"), "offline": ("USERS", "MESSAGES"),
    "logins": ("COST", "USERS"), "reconnects": ("COUNT",), "idle": ("COUNT",),
}  # fmt: skip


class Scenario(NamedTuple):
    """A kind of scenario with its numbers. Its name is like `pairs-50-16`."""

    kind: str
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:
        return "-".join([self.kind, *map(str, self.numbers)])

    @property
    def server_arguments(self) -> list[str]:
        """Additional arguments of the server."""
        return [f"--password-cost={self.numbers[0]}"] if self.kind == "logins" else []

    def run(self, context: Context) -> Iterator[Measurement]:
        """Run the scenario in the generator process."""
        return KINDS[self.kind](context, *self.numbers)


def parse(name: str) -> Scenario:
    """Return the scenario with this name. Raises ValueError."""
    kind, *texts = name.split("-")
    if kind not in KINDS:
        raise ValueError(f"there is no scenario {kind!r}, only {', '.join(KINDS)}")
    wanted = PARAMETERS[kind]
    if len(texts) != len(wanted) or not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise ValueError(f"{name!r} must be {'-'.join([kind, *wanted])}, with numbers above 0")
    return Scenario(kind, tuple(map(int, texts)))


STANDARD = tuple(
    map(
        parse,
        [
            "pairs-1-1", "pairs-10-1", "pairs-50-1", "pairs-200-1",
            "pairs-1-16", "pairs-10-16", "pairs-50-16", "pairs-200-16",
            "group-50-1", "group-500-1", "offline-100-200",
            "logins-1-200", "logins-14-16", "reconnects-1000", "idle-1000", "idle-5000",
        ],
    )
)  # fmt: skip
GROWTH = tuple(
    map(
        parse,
        [
            *(f"pairs-{count}-1" for count in (1, 10, 50, 100, 200, 400)),
            *(f"group-{size}-1" for size in (2, 10, 50, 100, 250, 500)),
            *(f"offline-1-{messages}" for messages in (1_000, 10_000, 100_000)),
        ],
    )
)
"""Shows how the cost of a message grows with connections, group members and waiting messages."""
PROFILED = (parse("pairs-50-16"),)
QUICK = tuple(
    map(
        parse, ["pairs-10-1", "pairs-10-16", "group-50-1", "offline-20-50", "logins-1-20", "reconnects-100", "idle-100"]
    )
)
