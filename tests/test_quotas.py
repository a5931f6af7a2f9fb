"""How much may wait for one user, and of one user: who is refused, who is left out, and that what
is kept in memory agrees with the database.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import cast

import pytest
from clock import Clock
from harness import NullTransport

from jelly import quotas
from jelly.codec import HEADER
from jelly.dao import Dao, StoredMessage
from jelly.delivery import Delivery
from jelly.errors import ErrorCode, Refused
from jelly.quotas import Envelope, QuotaLimits, Quotas
from jelly.sessions import Notice, Session, Sessions
from jelly.strict_json import parse_object

FULL = ErrorCode.INBOX_FULL


class Post:
    """Stores messages as the store does, with quotas on a database."""

    def __init__(self, dao: Dao, limits: QuotaLimits) -> None:
        self.dao, self.limits = dao, limits
        self.clock = Clock()
        self.restart()

    def restart(self) -> None:
        """Forget all that is in memory."""
        self.quotas = Quotas(self.limits, self.clock)

    def send(self, sender: str, *receivers: str, content: str = "x", group: str = "") -> list[str] | str:
        """Store a message; those who get a row of it, or the error code."""
        return self.send_many([(sender, receivers, content, group)])[0]

    def send_many(
        self, messages: Sequence[tuple[str, Sequence[str], str, str]], fails: bool = False
    ) -> list[list[str] | str]:
        """Store messages in one transaction, which may fail in the end."""
        batch: list[Envelope] = []
        results: list[list[str] | str] = []
        try:
            with self.dao.connection.transaction():
                self.dao.move_mark(len(messages))
                for sender, receivers, content, group in messages:
                    id = self.dao.allocate_id()
                    message = StoredMessage(id, bool(group), sender, group or receivers[0], content, 0)
                    admitted = self.quotas.admit(self.dao, message, receivers, batch)
                    if isinstance(admitted, Refused):
                        results.append(str(admitted.code))
                    else:
                        batch.append((message, admitted))
                        results.append(list(admitted))
                rows = [(receiver, message.id) for message, admitted in batch for receiver in admitted]
                self.dao.add_messages([message for message, _ in batch], rows)
                if fails:
                    raise InterruptedError
            self.dao.mark = self.dao.new_mark
        except InterruptedError:
            self.quotas.on_failure()
        return results

    def deliver(self, receiver: str, upto: int, fails: bool = False) -> None:
        try:
            with self.dao.connection.transaction():
                self.quotas.remove(self.dao, {receiver: upto})
                self.dao.remove_delivered([(receiver, upto)], keep=True)
                if fails:
                    raise InterruptedError
        except InterruptedError:
            self.quotas.on_failure()

    def deliver_first(self, receiver: str, count: int) -> None:
        self.deliver(receiver, self.ids(receiver)[count - 1])

    def ids(self, receiver: str) -> list[int]:
        """The ids of what waits."""
        return [message.id for message in self.dao.waiting(receiver, 0, 10_000)]

    def run_census(self) -> None:
        """Let the census run from its beginning to its end."""
        self.clock.now += quotas.CENSUS_INTERVAL
        while True:
            with self.dao.connection.transaction():
                self.quotas.run_due(self.dao)
            if self.quotas.due_at == float("inf"):
                return
            self.clock.now = max(self.clock.now, self.quotas.due_at)


def make_friends(dao: Dao, user: str, *friends: str) -> None:
    for friend in friends:
        dao.add_friend(user, friend)


# --- one inbox ------------------------------------------------------------------------------------


def test_one_sender_may_hold_a_tenth(dao: Dao) -> None:
    """And has room again for as much as was delivered, not for more."""
    post = Post(dao, QuotaLimits(inbox_messages=100))
    assert [post.send("ann", "bob") for _ in range(12)] == [["bob"]] * 10 + [FULL] * 2
    assert post.send("cat", "bob") == ["bob"]
    post.deliver_first("bob", 3)
    assert [post.send("ann", "bob") for _ in range(4)] == [["bob"]] * 3 + [FULL]
    post.restart()
    assert post.send("ann", "bob") == FULL
    post.deliver_first("bob", 11)
    assert [post.send("ann", "bob") for _ in range(11)] == [["bob"]] * 10 + [FULL]


def test_bytes_count_too(dao: Dao) -> None:
    """The bytes of the texts in UTF-8. One message always fits."""
    post = Post(dao, QuotaLimits(inbox_bytes=1000))
    assert [post.send("ann", "bob", content="ü" * 25) for _ in range(3)] == [["bob"]] * 2 + [FULL]
    assert [post.send("cat", "bob", content="x" * size) for size in (300, 1)] == [["bob"], FULL]
    make_friends(dao, "bob", "dan", "eva", "fay")
    post.clock.now += quotas.RELATIONS_SECONDS
    assert [post.send(name, "bob", content="x" * 400) for name in ("dan", "eva")] == [["bob"], FULL]
    assert post.send("eva", "bob", content="x" * 200) == ["bob"]
    assert post.send("fay", "bob") == FULL
    assert post.send("dan", "cat", content="x" * 2000) == ["cat"]
    assert post.send("eva", "cat") == FULL


def test_strangers_may_hold_half(dao: Dao) -> None:
    """All of them together; those with a common group, and friends, have the other half."""
    post = Post(dao, QuotaLimits(inbox_messages=40))
    dao.add_group("team", "bob")
    dao.add_member("team", "gus")
    make_friends(dao, "bob", *(f"friend{number}" for number in range(6)))
    make_friends(dao, "ann", "bob")  # which says nothing about whom bob knows
    accepted = [post.send(f"stranger{number}", "bob") for number in range(19)]
    assert accepted == [["bob"]] * 19
    assert [post.send(name, "bob") for name in ("ann", "dan", "ann")] == [["bob"], FULL, FULL]
    assert [post.send("gus", "bob") for _ in range(5)] == [["bob"]] * 4 + [FULL]
    friends = [post.send(f"friend{number % 6}", "bob") for number in range(20)]
    assert friends == [["bob"]] * 16 + [FULL] * 4
    assert len(post.ids("bob")) == 40
    post.deliver_first("bob", 2)
    assert [post.send(name, "bob") for name in ("dan", "eve", "fay")] == [["bob"], ["bob"], FULL]
    post.deliver_first("bob", 1)
    make_friends(dao, "bob", "fay")
    post.clock.now += quotas.RELATIONS_SECONDS
    assert [post.send(name, "bob") for name in ("fay", "friend5")] == [["bob"], FULL]


def test_senders_who_are_not_friends_may_hold_three_quarters(dao: Dao) -> None:
    """Strangers together with those in a common group. So a stranger who adds the receiver to a
    group of strangers, which needs no consent, does not keep friends out.
    """
    post = Post(dao, QuotaLimits(inbox_messages=40))
    make_friends(dao, "bob", *(f"friend{number}" for number in range(5)))
    evil = [f"evil{number}" for number in range(10)]
    accepted = [post.send(name, "bob") for name in evil * 3]
    assert accepted == [["bob"]] * 20 + [FULL] * 10
    dao.add_group("trap", evil[0])
    for name in ("bob", *evil[1:], "friend0"):
        dao.add_member("trap", name)
    post.clock.now += quotas.RELATIONS_SECONDS
    accepted = [post.send(name, "bob") for name in evil * 3]
    assert accepted == [["bob"]] * 10 + [FULL] * 20
    assert [post.send("stranger", "bob"), post.send("evil3", "bob", "evil4", group="trap")] == [FULL, ["evil4"]]
    assert post.send("friend0", "bob", "evil4", group="trap") == ["bob", "evil4"]
    post.restart()
    friends = [post.send(f"friend{number % 5}", "bob") for number in range(10)]
    assert friends == [["bob"]] * 9 + [FULL]
    post.deliver_first("bob", 1)
    assert [post.send(name, "bob") for name in ("evil0", "evil0")] == [["bob"], FULL]
    post.deliver_first("bob", 1)
    make_friends(dao, "bob", "evil3")
    post.clock.now += quotas.RELATIONS_SECONDS
    assert [post.send(name, "bob") for name in ("friend0", "evil1", "evil2")] == [["bob"], FULL, FULL]


def test_three_quarters_of_the_bytes(dao: Dao) -> None:
    """The bytes have the same shares. One message always fits in each."""
    post = Post(dao, QuotaLimits(inbox_bytes=1000))
    dao.add_group("trap", "bob")
    make_friends(dao, "bob", "dan")
    for name in ("ann", "cat", "eva"):
        dao.add_member("trap", name)
    assert [post.send(name, "bob", content="x" * 375) for name in ("ann", "cat")] == [["bob"], ["bob"]]
    assert post.send("eva", "bob") == FULL
    assert [post.send("dan", "bob", content="x" * 250), len(post.ids("bob"))] == [["bob"], 3]
    assert [post.send(name, "gus", content="x" * 900) for name in ("ann", "cat")] == [["gus"], FULL]


def test_one_may_write_to_oneself(dao: Dao) -> None:
    """Nobody is a stranger to oneself."""
    post = Post(dao, QuotaLimits(inbox_messages=10))
    for number in range(5):
        post.send(f"stranger{number}", "bob")
    assert [post.send("bob", "bob"), post.send("ann", "bob")] == [["bob"], FULL]


def test_a_group_is_never_refused(dao: Dao) -> None:
    """A full member is left out; it is remembered from which message on, once for each group."""
    post = Post(dao, QuotaLimits(inbox_messages=20))
    members = ("bob", "cat", "dan")
    for _ in range(2):
        assert post.send("ann", *members, group="team") == [*members]
    assert post.send("ann", *members, group="team") == []
    assert post.send("eva", *members, group="team") == [*members]
    post.deliver_first("cat", 3)
    assert post.send("ann", *members, group="team") == ["cat"]
    assert post.send("ann", *members, group="other") == ["cat"]
    assert set(post.quotas.take_news()) == {*members}
    first = dao.missed("bob")
    assert first.keys() == {"team", "other"}
    assert dao.missed("cat").keys() == {"team"}
    post.restart()
    assert post.send("ann", *members, group="team") == []
    assert dao.missed("bob") == first


class Hearer(NullTransport):
    """Keeps what its client is told to be left out."""

    def __init__(self) -> None:
        self.heard: list[dict[str, int]] = []

    def send(self, responses: object = (), notices: object = ()) -> None:
        for _, frame in cast(Sequence[Notice], notices):
            self.heard.append(parse_object(frame[HEADER.size :])["groups"])


def modern_session(user: str) -> tuple[Session, Hearer]:
    transport = Hearer()
    session = Session(transport, "somewhere")
    session.user, session.is_modern = user, True
    return session, transport


def test_what_was_told_is_news_no_more(dao: Dao) -> None:
    """When a message that was sent after the notice is acknowledged. What was left out meanwhile is
    news again.
    """
    post = Post(dao, QuotaLimits(inbox_messages=20))
    session, transport = modern_session("bob")
    for _ in range(3):
        post.send("ann", "bob", group="team")
    [first] = dao.missed("bob").values()
    session.sent_id = first
    post.quotas.tell_missed(dao, session)
    post.quotas.tell_missed(dao, session)
    assert transport.heard == [{"team": first}]
    assert session.told is not None
    session.told.note_delivered(first)  # of what was sent before
    post.deliver_first("bob", 1)
    assert dao.missed("bob") == {"team": first}
    for _ in range(3):
        post.send("ann", "bob", group="team")
    session.told.note_delivered(first + 1)
    post.deliver("bob", 0)
    [second] = dao.missed("bob").values()
    assert second > first
    assert list(post.quotas.take_news()) == ["bob"]
    post.quotas.tell_missed(dao, session)
    assert transport.heard[1:] == [{"team": second}]
    session.told.note_delivered(second)
    post.deliver("bob", 0)
    assert dao.missed("bob") == {}
    post.deliver("bob", 2**50)
    assert post.send("ann", "bob", group="team") == ["bob"]


def test_what_another_session_was_told_counts_for_it_alone(dao: Dao) -> None:
    """A new session is told everything; a group that comes later is told alone."""
    post = Post(dao, QuotaLimits(inbox_messages=20))
    for _ in range(3):
        post.send("ann", "bob", group="team")
    first = dao.missed("bob")
    (old, _), (session, transport) = modern_session("bob"), modern_session("bob")
    post.quotas.tell_missed(dao, old)
    post.quotas.tell_missed(dao, session)
    assert old.told is not None
    old.told.note_delivered(2**50)
    post.deliver("bob", 0)
    assert dao.missed("bob") == first
    post.send("ann", "bob", group="other")
    post.quotas.tell_missed(dao, session)
    assert transport.heard == [first, {"other": dao.missed("bob")["other"]}]
    assert session.told is not None
    session.told.note_delivered(2**50)
    post.deliver("bob", 0)
    assert dao.missed("bob") == {}


@pytest.mark.parametrize("what", ["leaves out", "delivers"])
def test_what_was_told_and_a_transaction_that_fails(dao: Dao, what: str) -> None:
    """The table is the truth: the user is told again what is in it."""
    post = Post(dao, QuotaLimits(inbox_messages=20))
    session, transport = modern_session("bob")
    for _ in range(3):
        post.send("ann", "bob", group="team")
    first = dao.missed("bob")
    post.quotas.tell_missed(dao, session)
    list(post.quotas.take_news())
    assert session.told is not None
    if what == "leaves out":
        post.send_many([("ann", ["bob"], "x", "team")], fails=True)
    else:
        session.told.note_delivered(2**50)
        post.deliver("bob", 0, fails=True)
    assert list(post.quotas.take_news()) == ["bob"]
    assert dao.missed("bob") == first
    post.quotas.tell_missed(dao, session)
    assert transport.heard == [first, first]


def test_a_session_without_room_is_told_later(dao: Dao) -> None:
    """When its client has taken what waits for it; a classic one never."""
    sessions = Sessions()
    delivery = Delivery(sessions)
    told: list[Session] = []
    session, transport = modern_session("bob")
    sessions.attach(session)
    transport.has_room, session.caught_up = False, True
    delivery.must_tell("bob")
    delivery.feed(dao, lambda _, session: told.append(session))
    assert told == []
    assert not session.caught_up
    assert not delivery.has_work
    transport.has_room = True
    for _ in range(2):
        delivery.wants_more(session)
        delivery.feed(dao, lambda _, session: told.append(session))
        assert told == [session]
        assert session.caught_up
    session.is_modern = False
    for user in ("bob", "nobody"):
        delivery.must_tell(user)
    assert not delivery.has_work


def test_a_batch_counts_what_is_before_it(dao: Dao) -> None:
    """In one transaction as in many; and nothing of one that failed counts."""
    post = Post(dao, QuotaLimits(inbox_messages=50))
    many = [("ann", ["bob"], "x", "")] * 7
    for fails in (True, True, False):
        assert post.send_many(many, fails) == [["bob"]] * 5 + [FULL] * 2
    post.deliver("bob", 2**50, fails=True)
    assert post.send("ann", "bob") == FULL
    post.deliver("bob", 2**50)
    assert post.send("ann", "bob") == ["bob"]


def test_without_limits(dao: Dao) -> None:
    """Nothing is counted, and nobody is asked."""
    post = Post(dao, QuotaLimits())
    assert [post.send("ann", "bob") for _ in range(50)] == [["bob"]] * 50
    assert not post.quotas._inboxes
    assert not post.quotas._sent
    assert post.quotas.due_at == float("inf")


@pytest.mark.parametrize("seed", range(6))
def test_memory_agrees_with_the_database(dao: Dao, seed: int) -> None:
    """Whatever comes, each decision is the one that follows from the rows in the database."""
    rng = random.Random(seed)
    most = rng.choice((10, 20, 40))
    post = Post(dao, QuotaLimits(inbox_messages=most, inbox_bytes=rng.choice((0, 100, 4000))))
    users = [f"u{number}" for number in range(6)]
    dao.add_group("g", "u0")
    for user in users[1:4]:
        dao.add_member("g", user)
    make_friends(dao, "u5", "u0", "u4")
    make_friends(dao, "u0", "u1")
    listed = {("u5", "u0"), ("u5", "u4"), ("u0", "u1")} | {(user, user) for user in users}
    knows = listed | {(a, b) for a in users[:4] for b in users[:4]}

    def expected(rows: list[tuple[str, str, int]], receiver: str, sender: str, size: int) -> bool:
        def is_over(part: list[tuple[str, str, int]], percent: int) -> bool:
            too_many = len(part) + 1 > max(1, most * percent // 100)
            bytes = post.limits.inbox_bytes
            return bool(part) and (
                too_many or (bytes > 0 and sum(z for _, _, z in part) + size > max(1, bytes * percent // 100))
            )

        def is_over_for_others(known: set[tuple[str, str]], percent: int) -> bool:
            others = [row for row in inbox if (receiver, row[1]) not in known]
            return (receiver, sender) not in known and is_over(others, percent)

        inbox = [row for row in rows if row[0] == receiver]
        own = [row for row in inbox if row[1] == sender]
        is_full = is_over(inbox, 100) or is_over(own, 10)
        return not (is_full or is_over_for_others(knows, 50) or is_over_for_others(listed, 75))

    for _ in range(150):
        what = rng.random()
        if what < 0.75:
            rows = [
                (receiver, message.sender, len(message.content.encode()))
                for receiver in users
                for message in dao.waiting(receiver, 0, 1000)
            ]
            wanted: list[list[str] | str] = []
            batch = []
            for _ in range(rng.choice((1, 1, 4))):
                sender, content = rng.choice(users), rng.choice(("x", "ü" * 10, "y" * 90))
                group = "g" if rng.random() < 0.3 else ""
                receivers = [user for user in users[:4] if user != sender] if group else [rng.choice(users)]
                size = len(content.encode())
                fits = [receiver for receiver in receivers if expected(rows, receiver, sender, size)]
                rows += [(receiver, sender, size) for receiver in fits]
                wanted.append(fits if fits or group else FULL)
                batch.append((sender, receivers, content, group))
            assert post.send_many(batch, fails=rng.random() < 0.1) == wanted
        elif what < 0.95:
            receiver = rng.choice(users)
            ids = post.ids(receiver)
            post.deliver(receiver, rng.choice(ids) if ids else 1, fails=rng.random() < 0.1)
        else:
            post.restart()


# --- what one sender has waiting ------------------------------------------------------------------


def test_what_one_user_has_waiting(dao: Dao) -> None:
    """Messages are counted, not receivers; the census finds what was delivered, also after a
    restart.
    """
    post = Post(dao, QuotaLimits(outbox_messages=10))
    assert [post.send("ann", "bob", "cat", "dan", group="g") for _ in range(11)][9:] == [
        ["bob", "cat", "dan"],
        "limit_reached",
    ]
    assert post.send("bob", "ann") == ["ann"]
    for receiver in ("bob", "cat"):
        post.deliver(receiver, 2**50)
    post.run_census()
    assert post.send("ann", "eva") == "limit_reached"  # all wait for dan
    post.deliver_first("dan", 4)
    assert post.send("ann", "eva") == "limit_reached"  # nobody has counted them yet
    post.run_census()
    assert [post.send("ann", "eva") for _ in range(5)] == [["eva"]] * 4 + ["limit_reached"]
    post.restart()
    post.run_census()
    assert post.send("ann", "eva") == "limit_reached"


def test_a_census_in_slices(dao: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent meanwhile counts once; after a failure it begins anew."""
    monkeypatch.setattr(quotas, "CENSUS_SLICE", 3)
    post = Post(dao, QuotaLimits(outbox_messages=1000))
    for number in range(10):
        post.send("ann", "bob", "cat", group="g")
        post.send(f"u{number}", "bob")
    post.restart()
    with dao.connection.transaction():
        post.quotas.run_due(dao)
    post.send("ann", "bob")
    post.quotas.on_failure()
    assert post.quotas.due_at == post.clock.now + quotas.RETRY_DELAY
    post.clock.now += quotas.RETRY_DELAY
    with dao.connection.transaction():
        post.quotas.run_due(dao)
    post.send("ann", "bob")
    post.run_census()
    assert Counter(post.quotas._sent) == Counter({"ann": 12, **{f"u{number}": 1 for number in range(10)}})


def test_a_sender_near_the_limit_causes_a_census(dao: Dao) -> None:
    """At most one a minute; who reads what comes is no reason to refuse the sender."""
    post = Post(dao, QuotaLimits(outbox_messages=10))
    post.run_census()
    for _ in range(9):
        post.send("ann", "bob")
    post.deliver("bob", 2**50)
    assert post.quotas.due_at == float("inf")
    post.send("ann", "bob")
    assert post.quotas.due_at == post.clock.now + quotas.CENSUS_INTERVAL
    post.run_census()
    assert post.quotas._sent == {"ann": 1}


def test_the_memory_is_bounded(dao: Dao, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded first is dropped; it is loaded again when it is needed."""
    monkeypatch.setattr(quotas, "MAX_INBOXES", 5)
    monkeypatch.setattr(quotas, "MAX_PAIRS", 5)
    monkeypatch.setattr(quotas, "MAX_SENDERS", 5)
    post = Post(dao, QuotaLimits(inbox_messages=20, outbox_messages=1000))
    post.run_census()
    for number in range(20):
        for sender in ("ann", "bea", "cat"):
            assert [post.send(sender, f"u{number}") for _ in range(3)] == [[f"u{number}"]] * 2 + [FULL]
        if post.quotas.due_at <= post.clock.now:
            with dao.connection.transaction():
                post.quotas.run_due(dao)
        assert len(post.quotas._inboxes) <= 5
        assert post.quotas._pairs() <= 6
    assert post.send("ann", "u0") == FULL
    for number in range(10):
        post.send(f"u{number}", "bob")
    post.quotas.due_at = 0.0
    with dao.connection.transaction():
        post.quotas.run_due(dao)
    assert len(post.quotas._sent) <= 5


def test_the_log(dao: Dao, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each kind of limit, with the names, and then one a minute."""
    post = Post(dao, QuotaLimits(inbox_messages=20))
    dao.add_group("team", "bob")
    for number in range(10):
        dao.add_member("team", f"mate{number}")
        make_friends(dao, "bob", f"friend{number}")
    for _ in range(3):
        post.send("ann", "bob")  # a tenth
    for number in range(9):
        post.send(f"stranger{number}", "bob")  # half
    for number in range(6):
        post.send(f"mate{number}", "bob")  # three quarters
    for number in range(7):
        post.send(f"friend{number}", "bob", group="team")  # all
    post.send("friend9", "bob")
    texts = [record.getMessage() for record in caplog.records if record.name == "jelly.quotas"]
    assert "ann holds a tenth of the inbox of bob, which is the most" in texts
    assert any(text.startswith("strangers hold half of the inbox of bob") for text in texts)
    assert any(text.startswith("senders who are no friends of bob hold three quarters of the inbox") for text in texts)
    assert any(text.startswith("a message to the group team is left out of the full inbox of bob") for text in texts)
    assert any(text.startswith("the inbox of bob is full: no room for a message of friend") for text in texts)
    assert len(texts) == 5
    post.clock.now += 60
    post.send("ann", "bob")
    assert "more like this since the last line)" in caplog.messages[-1]
