"""Who sent what, what was answered, who was handed what: the checker behind every claim that nothing is lost.

Senders note each message and its answer, receivers each message that their application was handed. `verdict` compares
the two. A message is what an application sent once, however often its client had to repeat it on the line.
"""

import enum
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field, fields

Key = tuple[str, int]
"""A message: its sender, and the sender's own number for it."""


class Answer(enum.Enum):
    """What the sender's application was told."""

    STORED = "SUCCESS"
    REFUSED = "a definite no: refused, busy, or never sent"
    FAILED = "SERVER_ERROR: it may be stored or not"
    UNKNOWN = "nothing: it may be stored or not"


@dataclass(slots=True)
class Sending:
    """One message. Times are monotonic seconds, `answered_at` is infinite without an answer."""

    conversation: str
    receivers: Collection[str]
    sent_at: float
    answer: Answer = Answer.UNKNOWN
    answered_at: float = float("inf")


@dataclass
class Verdict:
    """What a comparison found.

    `lost` counts a message once for each receiver who is without it. Everything from `lost` on is to be 0.
    """

    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    never_sent: int = 0
    refused_but_arrived: int = 0

    @property
    def defects(self) -> dict[str, int]:
        """What should not be, and how often it was."""
        found = {each.name: getattr(self, each.name) for each in fields(self)[3:]}
        return {name: count for name, count in found.items() if count}

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass
class Ledger:
    """The messages of all senders. Any thread may write."""

    sendings: dict[Key, Sending] = field(default_factory=dict)
    deliveries: dict[str, list[Key]] = field(default_factory=dict)
    """What each receiver's application was handed, in order."""
    counts: dict[Answer, int] = field(default_factory=lambda: dict.fromkeys(Answer, 0))
    """How many messages have which answer until now."""
    _changed: threading.Condition = field(default_factory=threading.Condition)  # guards all of the above

    def sent(self, key: Key, conversation: str, receivers: Collection[str]) -> None:
        """Note that a message is about to be sent."""
        with self._changed:
            self.sendings[key] = Sending(conversation, receivers, time.monotonic())
            self.counts[Answer.UNKNOWN] += 1

    def answered(self, key: Key, answer: Answer) -> None:
        """Note a message's answer."""
        with self._changed:
            sending = self.sendings[key]
            sending.answer = answer
            if answer is not Answer.UNKNOWN:
                sending.answered_at = time.monotonic()
            self.counts[Answer.UNKNOWN] -= 1
            self.counts[answer] += 1
            self._changed.notify_all()

    def delivered(self, receiver: str, key: Key) -> None:
        """Note what a receiver's application was handed."""
        with self._changed:
            self.deliveries.setdefault(receiver, []).append(key)

    def wait_for_more(self, answer: Answer, more: int, seconds: float) -> bool:
        """Wait until so many more messages have an answer, at most some seconds; return whether they have."""
        with self._changed:
            enough = self.counts[answer] + more
            return self._changed.wait_for(lambda: self.counts[answer] >= enough, seconds)

    def slowest_answer(self, since: float = float("-inf")) -> float:
        """Seconds between a message that was sent after a monotonic time and its answer, at most."""
        with self._changed:
            answered = [s for s in self.sendings.values() if s.sent_at >= since and s.answered_at < float("inf")]
            return max((sending.answered_at - sending.sent_at for sending in answered), default=0.0)

    def stored_between(self, start: float, end: float) -> int:
        """How many messages were sent and acknowledged between two monotonic times."""
        with self._changed:
            return sum(
                s.answer is Answer.STORED and s.sent_at >= start and s.answered_at <= end
                for s in self.sendings.values()
            )

    def verdict(self) -> Verdict:
        """Compare, once everything has arrived that is going to."""
        with self._changed:
            verdict = Verdict(
                acknowledged=self.counts[Answer.STORED],
                unknown=self.counts[Answer.UNKNOWN] + self.counts[Answer.FAILED],
                refused=self.counts[Answer.REFUSED],
            )
            seen = {receiver: set(keys) for receiver, keys in self.deliveries.items()}
            for key, sending in self.sendings.items():
                arrived = sum(key in seen.get(receiver, ()) for receiver in sending.receivers)
                if sending.answer is Answer.STORED:
                    verdict.lost += len(sending.receivers) - arrived
                elif sending.answer is Answer.REFUSED:
                    verdict.refused_but_arrived += arrived
            for receiver, keys in self.deliveries.items():
                verdict.twice += len(keys) - len(seen[receiver])
                self._judge_order(receiver, keys, verdict)
            return verdict

    def _judge_order(self, receiver: str, keys: list[Key], verdict: Verdict) -> None:
        """Within each conversation, a sender's messages come in the order in which they were sent."""
        newest: dict[tuple[str, str], int] = {}
        for key in dict.fromkeys(keys):  # what came twice is counted as that
            sender, number = key
            sending = self.sendings.get(key)
            if sending is None or receiver not in sending.receivers:
                verdict.never_sent += 1
                continue
            conversation = sender, sending.conversation
            verdict.out_of_order += number < newest.get(conversation, -1)
            newest[conversation] = max(number, newest.get(conversation, -1))
