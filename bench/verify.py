"""Check that each message arrives once, in order, unchanged, and at the right receiver."""

from collections.abc import Sequence

from jelly.codec import Sign, Type, encode

DIGITS = 8
"""How many digits the number has with which each message begins."""
TEXT = " the quick brown fox jumps over it"
ID = b',"id":'


class Channel:
    """The messages 0, 1, 2, ... of one sender to one receiver or group."""

    def __init__(self, sender: str, receiver: str, type: int = Type.PERSON_MESSAGE) -> None:
        self.type = type
        self.sent: list[bytes] = []
        """The body of each message without its closing brace.

        The body of the notice begins like this.
        """
        self.times: list[float] = []
        """When each message was sent (monotonic)."""
        self.refused: set[int] = set()
        """The messages that were refused, and so must not arrive."""
        self.start = f'{{"sender":"{sender}","receiver":"{receiver}","content":"'.encode()
        self._end = f'{TEXT}","time":1700000000000'.encode()
        length = len(self.start) + DIGITS + len(self._end) + 1
        self._header = encode(Sign.REQUEST, type, 0, bytes(length))[:-length]

    def next_frame(self, now: float) -> bytes:
        """Return the frame of the next message, and record it as sent now."""
        body = b"%b%08d%b" % (self.start, len(self.sent), self._end)
        self.sent.append(body)
        self.times.append(now)
        return b"%b%b}" % (self._header, body)


class DeliveryChecker:
    """Checks the messages of a channel at one receiver.

    `problems` gets a sentence for each error.
    """

    def __init__(self, channel: Channel, problems: list[str]) -> None:
        self.channel = channel
        self.last_id = b""
        """The id of the newest message, as digits."""
        self.received = 0
        self._next = 0
        self._skipped: set[int] = set()
        self._problems = problems

    @property
    def is_complete(self) -> bool:
        """Whether all messages that were not refused have arrived."""
        return self.received + len(self.channel.refused) >= len(self.channel.sent)

    def check(self, body: bytes) -> int | None:
        """Check the body of a notice; return the number of the message.

        Return None if the message is not from this channel, or is damaged or a duplicate.
        """
        start, _, end = body.rpartition(ID)
        number = self._next
        sent = self.channel.sent
        if number < len(sent) and start == sent[number] and end[-1:] == b"}" and end[:-1].isdigit():
            self._next = number + 1
            self.received += 1
            self.last_id = end[:-1]
            return number
        return self._check_unexpected(body)

    def _check_unexpected(self, body: bytes) -> int | None:
        """Check a message that is not the next one in order."""
        start, _, end = body.rpartition(ID)
        if not start.startswith(self.channel.start):
            self._problems.append(f"misrouted: {body!r}")
            return None
        digits = start[len(self.channel.start) :][:DIGITS]
        number = int(digits) if digits.isdigit() else -1
        if not 0 <= number < len(self.channel.sent) or start != self.channel.sent[number] or not end[:-1].isdigit():
            self._problems.append(f"damaged: {body!r}")
            return None
        self.last_id = end[:-1]
        if number in self._skipped:
            self._skipped.discard(number)
            self._problems.append(f"out of order: {body!r}")
        elif number < self._next:
            self._problems.append(f"doubled: {body!r}")
            return None
        else:
            self._skipped.update(range(self._next, number))  # refused, lost or late: `finish` will tell
            self._next = number + 1
        self.received += 1
        return number

    def finish(self) -> None:
        """Note the missing messages, and the refused ones that arrived. Call it at the end."""
        refused = self.channel.refused
        missing = self._skipped | set(range(self._next, len(self.channel.sent)))
        self._problems += [f"lost: {self.channel.sent[number]!r}" for number in sorted(missing - refused)]
        came = sorted(number for number in refused if number < self._next and number not in self._skipped)
        self._problems += [f"refused, but it arrived: {self.channel.sent[number]!r}" for number in came]


def summary(problems: Sequence[str]) -> str:
    """Return how many problems of each kind there are, as one line; empty if there are none."""
    kinds = [problem.partition(":")[0] for problem in problems]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{counts} (the first: {problems[0]})" if problems else ""
