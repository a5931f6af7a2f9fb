"""The checker: compares the messages that were sent with those that arrived.

Senders note each message and its answer. Receivers note each message that reached their
application. `Ledger.verdict` compares the two. A message that a client repeats on the network
counts once.
"""

import enum
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field, fields

Key = tuple[str, int]
"""Identifies a message: its sender, and the sender's own number for it."""


class Answer(enum.Enum):
    """The answer that the sender's application got."""

    STORED = "SUCCESS"
    REFUSED = "certainly not stored: refused, busy, or never sent"
    FAILED = "SERVER_ERROR: perhaps stored"
    UNKNOWN = "no answer: perhaps stored"


@dataclass(slots=True)
class SentMessage:
    """A message that was sent. Times are monotonic seconds; `answered_at` is infinite at first."""

    conversation: str
    receivers: Collection[str]
    sent_at: float
    answer: Answer = Answer.UNKNOWN
    answered_at: float = float("inf")


@dataclass
class Verdict:
    """The result of a comparison: numbers of messages.

    `lost` counts a message once for each receiver who did not get it. All numbers from `lost` on
    must be 0.
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
        """The numbers that must be 0 and are not."""
        found = {each.name: getattr(self, each.name) for each in fields(self)[3:]}
        return {name: count for name, count in found.items() if count}

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass
class Ledger:
    """The messages of all senders and receivers. Thread-safe."""

    sent_messages: dict[Key, SentMessage] = field(default_factory=dict)
    deliveries: dict[str, list[Key]] = field(default_factory=dict)
    """The messages that each receiver's application got, in order."""
    counts: dict[Answer, int] = field(default_factory=lambda: dict.fromkeys(Answer, 0))
    """How many messages have each answer so far."""
    arrivals: list[tuple[str, float, float]] = field(default_factory=list)
    """For each message that reached an application: the receiver, when it was sent, and when it
    arrived, in monotonic seconds.
    """
    _changed: threading.Condition = field(default_factory=threading.Condition)  # guards all fields above

    def sent(self, key: Key, conversation: str, receivers: Collection[str], wanted_at: float | None = None) -> None:
        """Note that a message is about to be sent. `wanted_at`: when its sender wanted to, if that
        was earlier.
        """
        with self._changed:
            sent_at = time.monotonic() if wanted_at is None else wanted_at
            self.sent_messages[key] = SentMessage(conversation, receivers, sent_at)
            self.counts[Answer.UNKNOWN] += 1

    def answered(self, key: Key, answer: Answer) -> None:
        """Note the answer to a message."""
        with self._changed:
            message = self.sent_messages[key]
            message.answer = answer
            if answer is not Answer.UNKNOWN:
                message.answered_at = time.monotonic()
            self.counts[Answer.UNKNOWN] -= 1
            self.counts[answer] += 1
            self._changed.notify_all()

    def delivered(self, receiver: str, key: Key) -> None:
        """Note that a message reached the application of a receiver."""
        with self._changed:
            self.deliveries.setdefault(receiver, []).append(key)
            if (message := self.sent_messages.get(key)) is not None:
                self.arrivals.append((receiver, message.sent_at, time.monotonic()))

    def wait_for_more(self, answer: Answer, more: int, seconds: float) -> bool:
        """Wait at most `seconds` until `more` messages got this answer; return whether they did."""
        with self._changed:
            enough = self.counts[answer] + more
            return self._changed.wait_for(lambda: self.counts[answer] >= enough, seconds)

    def wait_for_failures(self, more: int, seconds: float, enough: int = 500) -> bool:
        """Wait at most `seconds` until `more` messages failed; return whether they did.

        Give up early if the server goes on storing: if it answers `enough` messages with SUCCESS.
        That must be more than can be under way when the fault begins.
        """
        with self._changed:
            failed, stored = self.counts[Answer.FAILED] + more, self.counts[Answer.STORED] + enough
            self._changed.wait_for(
                lambda: self.counts[Answer.FAILED] >= failed or self.counts[Answer.STORED] >= stored, seconds
            )
            return self.counts[Answer.FAILED] >= failed

    def slowest_answer(self, since: float = float("-inf")) -> float:
        """Return the longest answer time, in seconds, of messages sent after a monotonic time."""
        with self._changed:
            answered = [s for s in self.sent_messages.values() if s.sent_at >= since and s.answered_at < float("inf")]
            return max((message.answered_at - message.sent_at for message in answered), default=0.0)

    def latencies(self, sender: str, since: float) -> list[float]:
        """Return the answer times of a sender's messages sent after a monotonic time, in seconds.

        A message without an answer counts with the time until now.
        """
        now = time.monotonic()
        with self._changed:
            return [
                min(each.answered_at, now) - each.sent_at
                for key, each in self.sent_messages.items()
                if key[0] == sender and each.sent_at >= since
            ]

    def delays(self, receivers: Collection[str], since: float, until: float = float("inf")) -> list[float]:
        """Return how long messages took to these receivers that were sent between two monotonic
        times: sorted, in seconds.
        """
        with self._changed:
            return sorted(
                at - sent_at
                for receiver, sent_at, at in self.arrivals
                if receiver in receivers and since <= sent_at < until
            )

    def stored_between(self, start: float, end: float) -> int:
        """Return how many messages were sent and acknowledged between two monotonic times."""
        with self._changed:
            return sum(
                s.answer is Answer.STORED and s.sent_at >= start and s.answered_at <= end
                for s in self.sent_messages.values()
            )

    def verdict(self) -> Verdict:
        """Compare. Call it when no more messages can arrive."""
        with self._changed:
            verdict = Verdict(
                acknowledged=self.counts[Answer.STORED],
                unknown=self.counts[Answer.UNKNOWN] + self.counts[Answer.FAILED],
                refused=self.counts[Answer.REFUSED],
            )
            seen = {receiver: set(keys) for receiver, keys in self.deliveries.items()}
            for key, message in self.sent_messages.items():
                arrived = sum(key in seen.get(receiver, ()) for receiver in message.receivers)
                if message.answer is Answer.STORED:
                    verdict.lost += len(message.receivers) - arrived
                elif message.answer is Answer.REFUSED:
                    verdict.refused_but_arrived += arrived
            for receiver, keys in self.deliveries.items():
                verdict.twice += len(keys) - len(seen[receiver])
                self._judge_order(receiver, keys, verdict)
            return verdict

    def _judge_order(self, receiver: str, keys: list[Key], verdict: Verdict) -> None:
        """Check that each sender's messages arrived in order within each conversation."""
        newest: dict[tuple[str, str], int] = {}
        for key in dict.fromkeys(keys):  # duplicates are counted already
            sender, number = key
            message = self.sent_messages.get(key)
            if message is None or receiver not in message.receivers:
                verdict.never_sent += 1
                continue
            conversation = sender, message.conversation
            verdict.out_of_order += number < newest.get(conversation, -1)
            newest[conversation] = max(number, newest.get(conversation, -1))
