"""Bytes to frames and back. One table serves both directions, in every way in which a stream may be
cut.
"""

import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jelly.codec import DEFAULT_MAX_BODY, HEADER, LOGINS, Decoder, Frame, Sign, Status, Type, encode

ALICE = b'{"username":"alice"}'
HEARTBEAT = bytes.fromhex("abcd01230000000000")
FULL = b"x" * DEFAULT_MAX_BODY

TABLE = [
    pytest.param(b"", [], id="nothing"),
    pytest.param(HEARTBEAT, [Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b"")], id="heartbeat"),
    pytest.param(
        bytes.fromhex("abcd021231000000147b22757365726e616d65223a22616c696365227d"),
        [Frame(Sign.RESPONSE, Type.REGISTER, Status.SUCCESS, ALICE)],
        id="response",
    ),
    pytest.param(
        bytes.fromhex("abcd021b3100000000"),
        [Frame(Sign.RESPONSE, Type.ADD_FRIEND, Status.SUCCESS, b"")],
        id="empty-response",
    ),
    pytest.param(
        bytes.fromhex("abcd03150000000007") + "中文!".encode(),
        [Frame(Sign.NOTICE, Type.PERSON_MESSAGE, 0, "中文!".encode())],
        id="notice-in-utf8",
    ),
    pytest.param(
        bytes.fromhex("abcd00200000000000 abcdffffff00000001ff"),
        [Frame(0, 0x20, 0, b""), Frame(255, 255, 255, b"\xff")],
        id="values-that-no-enumeration-has",
    ),
    pytest.param(
        bytes.fromhex("abcd01110000000009") + HEARTBEAT,
        [Frame(Sign.REQUEST, Type.LOGIN, 0, HEARTBEAT)],
        id="body-that-looks-like-a-frame",
    ),
    pytest.param(
        HEARTBEAT + bytes.fromhex("abcd0112000000000161") + HEARTBEAT,
        [
            Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b""),
            Frame(Sign.REQUEST, Type.REGISTER, 0, b"a"),
            Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b""),
        ],
        id="three-frames",
    ),
]
frames_table = pytest.mark.parametrize(("data", "frames"), TABLE)


def header(length: int, type: int = Type.LOGIN) -> bytes:
    """The header of a request that announces a body of this length."""
    return struct.pack(">HBBBi", 0xABCD, Sign.REQUEST, type, 0, length)


# --- the table, in every way ----------------------------------------------------------------------


@frames_table
def test_frames_encode_to_their_bytes(data: bytes, frames: list[Frame]) -> None:
    """Encoding the frames one after another gives exactly the bytes of the table."""
    assert b"".join(encode(*frame) for frame in frames) == data


@frames_table
def test_fed_whole(data: bytes, frames: list[Frame]) -> None:
    """Everything in one piece gives all frames at once, and nothing waits."""
    decoder = Decoder()
    assert decoder.feed(data) == frames
    assert not decoder.has_incomplete_frame
    assert decoder.error_type is None


@frames_table
def test_fed_byte_by_byte(data: bytes, frames: list[Frame]) -> None:
    """Single bytes give the same frames."""
    decoder = Decoder()
    taken = [frame for i in range(len(data)) for frame in decoder.feed(data[i : i + 1])]
    assert taken == frames
    assert not decoder.has_incomplete_frame
    assert decoder.error_type is None


@frames_table
def test_fed_in_two_pieces_cut_anywhere(data: bytes, frames: list[Frame]) -> None:
    """It does not matter where a stream is cut."""
    for cut in range(len(data) + 1):
        decoder = Decoder()
        first = decoder.feed(data[:cut])
        assert first == frames[: len(first)], f"cut at {cut}"
        assert first + decoder.feed(data[cut:]) == frames, f"cut at {cut}"
        assert not decoder.has_incomplete_frame
        assert decoder.error_type is None


@frames_table
def test_fed_with_more_behind(data: bytes, frames: list[Frame]) -> None:
    """The beginning of another frame behind the frames waits for its end."""
    another = encode(Sign.REQUEST, Type.LOGIN, 0, ALICE)
    for cut in range(1, len(another)):
        decoder = Decoder()
        assert decoder.feed(data + another[:cut]) == frames, f"{cut} bytes behind"
        assert decoder.has_incomplete_frame
        assert decoder.feed(another[cut:]) == [Frame(Sign.REQUEST, Type.LOGIN, 0, ALICE)]
        assert not decoder.has_incomplete_frame


@pytest.mark.parametrize("seed", range(20))
def test_random_frames_survive_random_cuts(seed: int) -> None:
    """What was encoded comes out again, whatever the frames hold and wherever the stream is cut."""
    rng = random.Random(seed)
    frames = [
        Frame(rng.randrange(256), rng.randrange(256), rng.randrange(256), rng.randbytes(rng.choice([0, 1, 9, 300])))
        for _ in range(50)
    ]
    stream = b"".join(encode(*frame) for frame in frames)
    cuts = sorted(rng.choices(range(len(stream) + 1), k=rng.randrange(200)))
    decoder = Decoder()
    taken = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        taken += decoder.feed(stream[start:end])
    assert taken == frames
    assert not decoder.has_incomplete_frame


def test_a_thousand_frames_in_one_read() -> None:
    """A read may hold any number of frames."""
    assert len(Decoder().feed(HEARTBEAT * 1000)) == 1000


# --- a part of a frame ----------------------------------------------------------------------------


def test_a_part_is_known_from_its_first_byte_to_its_last_but_one() -> None:
    """`has_incomplete_frame` is set exactly while a frame has begun and not ended."""
    decoder = Decoder()
    frame = encode(Sign.REQUEST, Type.LOGIN, 0, ALICE)
    seen = [decoder.has_incomplete_frame]
    for i in range(len(frame)):
        decoder.feed(frame[i : i + 1])
        seen.append(decoder.has_incomplete_frame)
    assert seen == [False, *[True] * (len(frame) - 1), False]


def test_feeding_nothing_changes_nothing() -> None:
    """An empty read neither gives a frame nor forgets the part that waits."""
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert not decoder.has_incomplete_frame
    decoder.feed(HEARTBEAT[:5])
    assert decoder.feed(b"") == []
    assert decoder.feed(HEARTBEAT[5:]) == [Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b"")]


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x", FULL[:-1], FULL], ids=["0", "1", "max-1", "max"])
def test_a_body_up_to_the_maximum_is_taken(body: bytes) -> None:
    """Lengths from 0 to the maximum are good."""
    assert Decoder().feed(header(len(body)) + body) == [Frame(Sign.REQUEST, Type.LOGIN, 0, body)]


@pytest.mark.parametrize(
    "length", [DEFAULT_MAX_BODY + 1, 2**31 - 1, -1, -(2**31)], ids=["max+1", "2^31-1", "-1", "-2^31"]
)
def test_a_length_out_of_bounds_breaks_the_stream(length: int) -> None:
    """The header is enough to refuse a length, and the broken frame's type is told."""
    decoder = Decoder()
    assert decoder.feed(header(length, Type.GROUP_MESSAGE)) == []
    assert decoder.error_type == Type.GROUP_MESSAGE
    assert not decoder.has_incomplete_frame


def test_the_maximum_can_be_chosen() -> None:
    """A decoder with a maximum of its own takes that many bytes and not one more."""
    assert Decoder(max_body=3).feed(header(3) + b"abc") == [Frame(Sign.REQUEST, Type.LOGIN, 0, b"abc")]
    decoder = Decoder(max_body=3)
    assert decoder.feed(header(4) + b"abcd") == []
    assert decoder.error_type == Type.LOGIN
    assert len(Decoder(max_body=DEFAULT_MAX_BODY + 1).feed(header(DEFAULT_MAX_BODY + 1) + FULL + b"x")) == 1


def test_a_maximum_of_nothing_takes_empty_bodies() -> None:
    """With a maximum of 0 only frames without a body pass."""
    decoder = Decoder(max_body=0)
    assert len(decoder.feed(HEARTBEAT)) == 1
    assert decoder.feed(header(1)) == []
    assert decoder.error_type == Type.LOGIN


def test_a_broken_type_is_told_as_an_unsigned_byte() -> None:
    """The type of a broken frame can be put into the answer as it came, even if it is 0xFF."""
    decoder = Decoder()
    decoder.feed(header(-1, type=0xFF))
    assert decoder.error_type == 0xFF


# --- before a login -------------------------------------------------------------------------------


@pytest.mark.parametrize("type", sorted(LOGINS))
@pytest.mark.parametrize("piece", [1, 10, 10_000])
def test_a_login_ends_the_limit_of_the_first_bodies(type: Type, piece: int) -> None:
    """Behind a complete login, and not before, a body may have the maximum, in the same read,
    too.
    """
    decoder = Decoder(max_body=200, max_first_body=50)
    whole = Frame(Sign.REQUEST, Type.OWN_PROFILE, 0, b"y" * 200)
    first = [Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b"z" * 50), Frame(Sign.REQUEST, type, 0, b"x" * 50), whole, whole]
    stream = b"".join(encode(*frame) for frame in first)
    assert decoder.awaits_login
    assert [frame for i in range(0, len(stream), piece) for frame in decoder.feed(stream[i : i + piece])] == first
    assert not decoder.awaits_login


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEARTBEAT, id="a-heartbeat"),
        pytest.param(encode(Sign.RESPONSE, Type.LOGIN), id="a-login-that-is-no-request"),
        pytest.param(encode(Sign.REQUEST, Type.OWN_PROFILE), id="another-request"),
    ],
)
def test_before_a_login_the_first_limit_holds(before: bytes) -> None:
    """Whatever else comes does not end it, and the header is enough to refuse a larger body."""
    decoder = Decoder(max_first_body=50)
    assert len(decoder.feed(before + header(51, Type.LOGIN))) == (before != b"")
    assert decoder.error_type == Type.LOGIN


def test_the_first_limit_is_never_above_the_other_one() -> None:
    """An operator's smaller limit holds from the first byte."""
    decoder = Decoder(max_body=10, max_first_body=50)
    decoder.feed(header(11))
    assert decoder.error_type == Type.LOGIN


# --- what a drip costs ----------------------------------------------------------------------------


def test_a_large_body_that_drips() -> None:
    """A byte more costs the same, however many came before it: those are not copied."""
    size = 8_000_000
    decoder = Decoder(max_body=size)
    decoder.feed(header(size) + bytes(size - 1001))
    buffer = decoder._buffer
    for _ in range(1000):
        assert decoder.feed(b"\0") == []
    assert decoder._buffer is buffer
    assert decoder.feed(b"\0" + HEARTBEAT[:3]) == [Frame(Sign.REQUEST, Type.LOGIN, 0, bytes(size))]
    assert decoder.feed(HEARTBEAT[3:]) == [Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b"")]


# --- strangers ------------------------------------------------------------------------------------

STRANGERS = {
    "http": (b"GET / HTTP/1.1\r\nHost: jelly\r\n\r\n", 1),
    "tls-hello": (bytes.fromhex("16030100c8010000c40303"), 1),
    "nul": (b"\x00", 1),
    "little-endian-magic": (b"\xcd\xab\x01\x23\x00\x00\x00\x00\x00", 1),
    "second-byte-wrong": (b"\xab\xcc\x01\x23\x00\x00\x00\x00\x00", 2),
    "one-byte-late": (b"\xab\xab\xcd\x01\x23\x00\x00\x00\x00", 2),
}
"""What they send, and how many bytes of it give them away."""


@pytest.mark.parametrize(("data", "enough"), STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_known_by_its_first_bytes(data: bytes, enough: int) -> None:
    """Wrong magic is found at the first wrong byte, without waiting for a whole header; the type is
    not known.
    """
    decoder = Decoder()
    for i in range(enough):
        assert decoder.error_type is None
        assert decoder.feed(data[i : i + 1]) == []
    assert decoder.error_type == 0
    assert not decoder.has_incomplete_frame


@pytest.mark.parametrize("data", [data for data, _ in STRANGERS.values()], ids=STRANGERS)
def test_a_stranger_behind_good_frames(data: bytes) -> None:
    """The frames before a broken one are still given, whether they come in the same read or before
    it.
    """
    decoder = Decoder()
    assert len(decoder.feed(HEARTBEAT * 2 + data)) == 2
    assert decoder.error_type == 0

    decoder = Decoder()
    assert len(decoder.feed(HEARTBEAT * 2)) == 2
    assert decoder.feed(data) == []
    assert decoder.error_type == 0


def test_frames_before_a_length_out_of_bounds_are_given() -> None:
    """A bad length takes nothing from the frames in front of it."""
    decoder = Decoder()
    assert decoder.feed(HEARTBEAT + header(-1, Type.LOGOUT) + HEARTBEAT) == [
        Frame(Sign.REQUEST, Type.HEARTBEAT, 0, b"")
    ]
    assert decoder.error_type == Type.LOGOUT


def test_a_length_one_less_than_the_body_breaks_the_stream_behind_it() -> None:
    """The byte that was not counted is no magic: the frame comes out short and the stream is
    broken.
    """
    decoder = Decoder()
    assert decoder.feed(header(len(ALICE) - 1) + ALICE) == [Frame(Sign.REQUEST, Type.LOGIN, 0, ALICE[:-1])]
    assert decoder.error_type == 0


@pytest.mark.parametrize("breaker", [b"\x00", header(-1)], ids=["magic", "length"])
def test_a_broken_stream_stays_broken(breaker: bytes) -> None:
    """What follows a broken frame is dropped, good frames too, and the first offence stays on
    record.
    """
    decoder = Decoder()
    decoder.feed(breaker)
    broken = decoder.error_type
    for data in (HEARTBEAT, b"", b"\x00", header(-1, Type.LOGOUT), HEARTBEAT[:4]):
        assert decoder.feed(data) == []
        assert not decoder.has_incomplete_frame
    assert decoder.error_type == broken


def test_ten_megabytes_of_noise() -> None:
    """Noise breaks the stream at once and none of it is kept."""
    noise = random.Random(0).randbytes(10_000_000)
    decoder = Decoder()
    assert [frame for i in range(0, len(noise), 65536) for frame in decoder.feed(noise[i : i + 65536])] == []
    assert decoder.error_type == 0
    assert not decoder.has_incomplete_frame


# --- encode ---------------------------------------------------------------------------------------


def test_a_frame_needs_neither_status_nor_body() -> None:
    """Sign and type are enough: status 0 and no body are the default."""
    assert encode(Sign.REQUEST, Type.HEARTBEAT) == HEARTBEAT
    assert len(HEARTBEAT) == HEADER.size


@pytest.mark.parametrize("value", [-1, 256])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["sign", "type", "status"])
def test_a_value_that_is_no_byte_is_our_mistake(place: int, value: int) -> None:
    """Sign, type and status must fit into a byte: anything else raises instead of sending
    nonsense.
    """
    sign, type, status = (value if i == place else 1 for i in range(3))
    with pytest.raises(struct.error):
        encode(sign, type, status)


# --- any frames, any bytes ------------------------------------------------------------------------

a_byte = st.integers(0, 255)
any_frame = st.builds(Frame, a_byte, a_byte, a_byte, st.binary(max_size=30))
cuts = st.lists(st.integers(0, 300))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """A stream, cut at some places."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(any_frame), cuts)
def test_any_frames_in_any_pieces(frames: list[Frame], cuts: list[int]) -> None:
    """What was encoded comes out as it was, and nothing is left behind it."""
    decoder = Decoder()
    data = b"".join(encode(*frame) for frame in frames)
    assert [frame for piece in pieces(data, cuts) for frame in decoder.feed(piece)] == frames
    assert decoder.error_type is None
    assert not decoder.has_incomplete_frame


@given(st.lists(st.binary(max_size=12) | any_frame.map(lambda frame: encode(*frame)) | st.just(b"\xab\xcd")), cuts)
def test_any_bytes_in_any_pieces(parts: list[bytes], cuts: list[int]) -> None:
    """Whatever comes, however it is cut: the same frames, and the same end."""
    data = b"".join(parts)
    whole, in_pieces = Decoder(max_body=100), Decoder(max_body=100)
    frames = whole.feed(data)
    assert [frame for piece in pieces(data, cuts) for frame in in_pieces.feed(piece)] == frames
    assert (in_pieces.error_type, in_pieces.has_incomplete_frame) == (whole.error_type, whole.has_incomplete_frame)
    assert data.startswith(b"".join(encode(*frame) for frame in frames))
