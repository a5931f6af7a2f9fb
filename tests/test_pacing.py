"""The pacing of classic clients, without sockets or a clock: which frame goes next, and when."""

from jelly.pacing import ClassicPacing
from jelly.sessions import Notice, Response

GAP = 0.1
START = 1000.0


class Client:
    """What waits for one classic client, and what it was sent."""

    def __init__(self) -> None:
        self.pacing = ClassicPacing(GAP)
        self.responses: list[Response] = []
        self.notices: list[Notice] = []
        self.now = START

    def asks(self, name: str, at: float | None = None) -> None:
        """A request comes in, now or before; its response waits."""
        self.responses.append(Response(name.encode(), self.now if at is None else at))

    def is_told(self, *names: str) -> None:
        self.notices += [Notice(1, name.encode()) for name in names]

    def next(self, has_unread: bool = False, write_takes: float = 0.0) -> tuple[str, float]:
        """Write the next frame as soon as it is due: which one, and how many seconds it waited."""
        due = max(self.now, self.pacing.next_due(self.responses, self.notices))
        waited, self.now = due - self.now, due
        is_notice = self.pacing.is_notices_turn(bool(self.responses), bool(self.notices))
        frame = (self.notices if is_notice else self.responses).pop(0).frame
        self.pacing.begin_frame(self.now, not is_notice, has_unread)
        self.now += write_takes
        self.pacing.end_frame(self.now)
        return frame.decode(), round(waited, 6)


def test_the_first_frame_goes_at_once() -> None:
    """Nothing stands before it, so nothing can be read together with it."""
    for of_kind in (Client.asks, Client.is_told):
        client = Client()
        of_kind(client, "first")
        assert client.next() == ("first", 0)


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
    client.asks("three")
    assert client.next() == ("three", 0)


def test_a_response_after_a_notice_keeps_the_gap_and_goes_before_other_notices() -> None:
    """Responses do not wait for a long queue of messages."""
    client = Client()
    client.is_told("n1", "n2")
    client.next()
    client.now += 0.001
    client.asks("answer")
    assert client.next() == ("answer", 0.099)
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
