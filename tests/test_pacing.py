"""The pacing of classic clients, without sockets or a clock: which frame goes next, and when."""

from jelly.pacing import FIRST_ANSWER_GAPS, LONG_GAPS, SLOW_NOTICES, ClassicPacing
from jelly.sessions import Notice, Response

GAP = 0.1
START = 1000.0


class Client:
    """What waits for one classic client, and what it was sent."""

    def __init__(self, is_new: bool = False) -> None:
        """Unless it `is_new`, it has had its first notices long ago."""
        self.pacing = ClassicPacing(GAP)
        for _ in range(0 if is_new else SLOW_NOTICES):
            self.pacing.begin_frame(START - 100, b"", is_response=False)
            self.pacing.end_frame(START - 100)
        self.responses: list[Response] = []
        self.notices: list[Notice] = []
        self.now = START

    def asks(self, name: str, at: float | None = None, type: str = "") -> None:
        """A request comes in, now or before; its response waits. Without a type it counts as
        answered before.
        """
        frame = f"...{type}{name}" if type else name
        assert type or len(name) < 4  # see TYPE: the fourth byte
        self.responses.append(Response(frame.encode(), self.now if at is None else at))

    def is_told(self, *names: str) -> None:
        self.notices += [Notice(1, name.encode()) for name in names]

    def next(self, has_unread: bool = False, write_takes: float = 0.0) -> tuple[str, float]:
        """Write the next frame as soon as it is due: which one, and how many seconds it waited."""
        is_notice, due = self.pacing.choose(self.responses, self.notices, self.now)
        due = max(self.now, due)
        waited, self.now = due - self.now, due
        frame = (self.notices if is_notice else self.responses).pop(0).frame
        self.pacing.begin_frame(self.now, frame, not is_notice, has_unread)
        self.now += write_takes
        self.pacing.end_frame(self.now)
        return frame.decode().lstrip("."), round(waited, 6)


def test_the_first_frame_goes_at_once() -> None:
    """Nothing stands before it, so nothing can be read together with it."""
    for of_kind in (Client.asks, Client.is_told):
        client = Client(is_new=True)
        of_kind(client, "1st")
        assert client.next() == ("1st", 0)


def test_notices_keep_the_gap() -> None:
    """Each goes a gap after the one before."""
    client = Client()
    client.is_told("one", "two", "three")
    assert [client.next() for _ in range(3)] == [("one", 0), ("two", GAP), ("three", GAP)]


def test_the_gap_counts_from_the_end_of_a_frame() -> None:
    """A long frame, which the socket does not take in one piece, may end late."""
    client = Client()
    client.is_told("long", "next")
    client.next(write_takes=5.0)
    client.now -= 4.95  # it is asked before, too
    assert client.next() == ("next", 5.05)


def test_a_gap_that_has_passed_already() -> None:
    """Who has not been sent anything for a while is sent the next frame at once."""
    client = Client()
    client.is_told("one", "two")
    client.next()
    client.now += GAP
    assert client.next() == ("two", 0)


def test_a_client_that_waits_for_its_answers_is_served_at_full_speed() -> None:
    """Its request came in after the last response was written, so it has read that one."""
    client = Client()
    for number in range(5):
        client.now += 0.001
        client.asks(str(number))
        assert client.next() == (str(number), 0)


def test_a_request_may_come_in_before_the_writer_has_looked_at_the_clock() -> None:
    """The client can ask again as soon as the frame is in the socket: its beginning counts."""
    client = Client()
    client.asks("one")
    client.next(write_takes=0.002)
    client.asks("two", at=client.now - 0.001)
    assert client.next() == ("two", 0)


def test_a_response_to_an_earlier_request_keeps_the_gap() -> None:
    """A client that wrote two requests at once may be in the middle of anything."""
    client = Client()
    client.asks("one")
    client.asks("two")
    assert [client.next(), client.next()] == [("one", 0), ("two", GAP)]


def test_a_request_that_was_unread_keeps_the_gap() -> None:
    """It did not wait for the response that was written then. The request after it did."""
    client = Client()
    client.asks("one")
    client.next(has_unread=True)
    client.now += 0.001
    client.asks("two")
    assert client.next() == ("two", 0.099)
    client.now += 0.001
    client.asks("3rd")
    assert client.next() == ("3rd", 0)


def test_a_response_after_a_notice_keeps_the_gap_and_goes_before_other_notices() -> None:
    """Responses do not wait for a long queue of messages."""
    client = Client()
    client.is_told("n1", "n2")
    client.next()
    client.now += 0.001
    client.asks("a0")
    assert client.next() == ("a0", 0.099)
    assert client.next() == ("n2", GAP)


def test_responses_and_notices_take_turns() -> None:
    """A client that asks again as soon as it is answered gets one message for each answer."""
    client = Client()
    client.asks("a0")
    client.next()
    client.is_told("n1", "n2")
    frames = []
    for number in (1, 2):
        client.now += 0.001
        client.asks(f"a{number}")
        frames += [client.next()[0], client.next()[0]]
    assert frames == ["n1", "a1", "n2", "a2"]


def test_a_response_keeps_the_gap_while_a_notice_waits() -> None:
    """Then the notice is next, and it keeps the gap."""
    client = Client()
    client.asks("a0")
    client.next()
    client.now += 0.001
    client.asks("a1")
    client.is_told("n1")
    assert client.next() == ("n1", 0.099)


HOLD = FIRST_ANSWER_GAPS * GAP


def test_the_first_answer_of_each_type_is_held() -> None:
    """Until a moment after its request came in. Later ones of its type go at once."""
    client = Client()
    for type, waits in (("L", HOLD), ("L", 0), ("P", HOLD), ("L", 0), ("P", 0)):
        client.now += 0.001
        client.asks("!", type=type)
        assert client.next() == (f"{type}!", waits)


def test_an_answer_that_took_long_is_not_held() -> None:
    """The time counts from when the request came in."""
    client = Client()
    client.asks("!", at=START - HOLD / 2, type="L")
    assert client.next() == ("L!", HOLD / 2)
    client.asks("!", at=START - 1, type="P")
    assert client.next()[1] == GAP  # only the gap: the request came before the answer before


def test_answers_behind_one_that_is_held_keep_their_order() -> None:
    """They have to wait for it, and then, as always, for the gap: they were not asked for after
    it.
    """
    client = Client()
    client.asks("!", type="L")
    client.next()
    client.now += 0.001
    client.asks("1", type="P")
    client.asks("2", type="L")
    assert [client.next(), client.next()] == [("P1", HOLD), ("L2", GAP)]


def test_no_message_goes_before_an_answer_that_is_held() -> None:
    """What waits for a user follows the answer to the login."""
    client = Client()
    client.asks("!", type="L")
    client.is_told("n1")
    assert [client.next(), client.next()] == [("L!", HOLD), ("n1", GAP)]


def test_a_message_does_not_wait_for_an_answer_that_is_held() -> None:
    """If it is its turn."""
    client = Client()
    client.asks("a0")
    client.next()
    client.now += GAP
    client.asks("!", type="P")
    client.is_told("n1")
    assert [client.next(), client.next()] == [("n1", 0), ("P!", GAP)]


LONG = LONG_GAPS * GAP


def logged_in() -> Client:
    """A client that has just had the answer to its login."""
    client = Client(is_new=True)
    client.asks("in")
    assert client.next() == ("in", 0)
    return client


def test_the_first_three_of_several_notices_have_a_long_gap() -> None:
    """The client may be slow with each of them; after that with none."""
    client = logged_in()
    client.is_told("n1", "n2", "n3", "n4", "n5")
    assert [client.next()[1] for _ in range(5)] == [LONG, LONG, LONG, GAP, GAP]


def test_what_follows_a_single_notice_waits() -> None:
    """Until the long gap is over; what comes later has waited already."""
    client = logged_in()
    client.is_told("n1")
    assert client.next() == ("n1", GAP)
    client.now += GAP
    client.is_told("n2")
    assert client.next() == ("n2", round(LONG - GAP, 6))
    client.now += LONG
    client.is_told("n3")
    assert client.next() == ("n3", 0)
    client.is_told("n4")
    assert client.next() == ("n4", GAP)


def test_a_second_notice_before_the_first_is_written() -> None:
    """Then several wait."""
    client = logged_in()
    client.is_told("n1")
    assert client.pacing.choose((), client.notices, client.now)[1] == START + GAP
    client.is_told("n2")
    assert client.next() == ("n1", LONG)


def test_answers_do_not_wait_for_a_long_gap() -> None:
    """A client that asks all the time is answered at once, and gets its notices all the same."""
    client = logged_in()
    client.is_told("n1", "n2", "n3", "n4")
    frames: list[tuple[str, float]] = []
    while client.notices:
        if not client.responses:
            client.now += GAP / 4
            client.asks("a")
        frames.append(client.next())
    waits = [wait for name, wait in frames if name == "a" and wait]
    assert waits == [GAP] * 3  # only behind a notice
    assert client.now - START <= 3 * (LONG + GAP) + 2 * GAP
    assert len(frames) > 80


def test_a_long_frame_counts_from_its_end() -> None:
    """A first notice that the socket takes slowly."""
    client = logged_in()
    client.is_told("n1", "n2")
    client.next(write_takes=5.0)
    assert client.next() == ("n2", LONG)


def test_a_handshake_is_no_notice() -> None:
    """TLS writes something before all frames."""
    client = Client(is_new=True)
    client.pacing.end_frame(START)
    client.is_told("n1")
    assert client.next() == ("n1", GAP)
