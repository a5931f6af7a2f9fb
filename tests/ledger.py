"""Who sent what, what was answered, who got what: the checker behind every claim that nothing is lost.

A sender notes each message with its answer, a receiver each message that it gets. `verdict` compares the two.
"""

import threading
from dataclasses import dataclass, field

from wire import SERVER_ERROR, SUCCESS, Reply, Wire


@dataclass
class Verdict:
    """What a comparison found; everything but `acknowledged` and `unknown` is to be 0."""

    acknowledged: int = 0
    unknown: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    invented: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.twice or self.out_of_order or self.invented)


@dataclass
class Ledger:
    """The messages of all senders, by (sender, number). Threads may write at the same time."""

    answers: dict[tuple[str, int], int | None] = field(default_factory=dict)
    deliveries: list[tuple[str, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, wire: Wire, receiver: str, number: int) -> Reply | None:
        """Send a message and note its answer; None if the line broke, and nobody knows."""
        key = (wire.user, number)
        with self._lock:
            self.answers[key] = None
        try:
            wire.send_message(receiver, f"{wire.user} {number}")
            reply = wire.receive_response()
        except (OSError, EOFError):
            return None
        with self._lock:
            self.answers[key] = reply.status
        return reply

    def delivered(self, content: str) -> None:
        """Note what a receiver got."""
        sender, number = content.split()
        with self._lock:
            self.deliveries.append((sender, int(number)))

    def verdict(self) -> Verdict:
        """Compare. A message whose answer is not known, or was SERVER_ERROR, may have arrived or not."""
        verdict = Verdict()
        seen = set(self.deliveries)
        for key, status in self.answers.items():
            verdict.acknowledged += status == SUCCESS
            verdict.unknown += status in (None, SERVER_ERROR)
            verdict.lost += status == SUCCESS and key not in seen
        verdict.twice = len(self.deliveries) - len(seen)
        verdict.invented = len(seen - self.answers.keys())
        newest: dict[str, int] = {}
        for sender, number in dict.fromkeys(self.deliveries):
            verdict.out_of_order += number < newest.get(sender, -1)
            newest[sender] = number
        return verdict


def collect(ledger: Ledger, port: int, user: str) -> None:
    """Log in and note everything that waits, up to a mark that is sent behind it."""
    with Wire(port) as wire:
        assert wire.login(user).status == SUCCESS
        wire.message(user, "the-mark -1")
        while (content := wire.receive_notice().values["content"]) != "the-mark -1":
            ledger.delivered(content)
