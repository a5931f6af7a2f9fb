"""The page of the protocol is true: its examples are real frames, and its tables are the code's."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jelly import codec, messages, requests, strict_json
from jelly.block_service import MAX_BLOCKED
from jelly.codec import Decoder, Frame, Sign, Status, Type
from jelly.config import Settings
from jelly.errors import ErrorCode
from jelly.friend_service import MAX_ASKED_A_DAY, MAX_PENDING, MAX_REQUESTS
from jelly.group_notices import MAX_CHANGES
from jelly.group_service import MAX_INVITATIONS, MAX_INVITED_A_DAY
from jelly.message_service import DEFAULT_PAGE, MAX_PAGE
from jelly.messages import Event
from jelly.names import MAX_NAME
from jelly.own_account_service import DELETED, DISABLED
from jelly.quotas import FRIENDS_SHARE, SENDERS_SHARE, STRANGERS_SHARE
from jelly.rate import HOLD_SECONDS
from jelly.retention import IDEMPOTENCY_DAYS
from jelly.services import CHANGE_BURST
from jelly.sessions import MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED_BYTES

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCKS = [
    (kind, text.splitlines()) for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
EXAMPLES = [line for kind, lines in BLOCKS if kind == "frame" for line in lines]

FIELDS_OF_A_MESSAGE = ["sender", "receiver", "content", "time"]
KEYS_OF_AN_EVENT = {
    Event.TAKEN_OVER: [], Event.PASSWORD_CHANGED: [], Event.SHUTDOWN: [], Event.PRESENCE: ["friend", "online"],
    Event.FRIEND_REQUEST: ["friend"], Event.FRIEND_ANSWER: ["friend", "accepted"],
    Event.GROUP_INVITATION: ["group", "user"],
    Event.GROUP_CHANGED: ["group", "members", "changes"], Event.GROUP_DISBANDED: ["group"],
    Event.INBOX_FULL: ["groups"], Event.TYPING: ["user", "group"],
    Event.READ: ["user", "group", "id"], Event.DELIVERED: ["user", "id"],
    Event.LOGGED_OUT: ["reason"], Event.GAP: ["since"], Event.OWN_READ: ["user", "group", "id"],
}  # fmt: skip
OPTIONAL_KEYS = {("typing", "group"), ("read", "group"), ("own_read", "user"), ("own_read", "group")}


def to_bytes(line: str) -> bytes:
    """The bytes of one line of a `frame` block: the header in hex, a bar, the body as text."""
    header, body = re.fullmatch(r"(abcd(?: [0-9a-f]{2}){3} [0-9a-f]{8}) \|(?: (.+))?", line).groups("")  # type: ignore[union-attr]
    return bytes.fromhex(header) + body.encode()


def to_frame(line: str) -> Frame:
    """The one frame that a line of a `frame` block shows."""
    (frame,) = Decoder().feed(to_bytes(line))
    return frame


def examples(sign: Sign) -> list[Any]:
    """The examples of one kind, as parameters of a test."""
    return [pytest.param(line, id=line[:11]) for line in EXAMPLES if line[5:7] == f"{sign:02x}"]


def cells(row: str) -> list[str]:
    """The cells of one row of a table."""
    return [cell.strip() for cell in row.strip("|\n").split(" | ")]


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = PAGE.split(f"# {heading}\n")[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert rows is not None
    return [cells(row) for row in rows[0].splitlines()[2:]]


def names(text: str) -> list[str]:
    """The words of a text that stand in backticks."""
    return re.findall(r"`(\w+)`", text)


def numbered(rows: Iterable[list[str]]) -> dict[str, int]:
    """Rows of number and name, as an enumeration's members."""
    return {names(name)[0]: int(number, 16) for number, name, *_ in rows}


# --- the examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_is_exactly_one_frame(line: str) -> None:
    """The length in the header of an example is the number of bytes of its body."""
    decoder = Decoder()
    data = to_bytes(line)
    (frame,) = decoder.feed(data)
    assert codec.encode(*frame) == data
    assert decoder.error_type is None
    assert not decoder.has_incomplete_frame


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_has_known_numbers(line: str) -> None:
    """Sign, type and status of an example are those of the code, and only a response has a
    status.
    """
    frame = to_frame(line)
    assert frame.sign in set(Sign)
    assert frame.type in set(Type) or (frame.type == 0 and b"malformed_frame" in frame.body)
    assert frame.status in set(Status)
    assert (frame.status != Status.NONE) == (frame.sign == Sign.RESPONSE)


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_body_is_compact_json(line: str) -> None:
    """The body of an example is empty, or one JSON object without a space too many."""
    body = to_frame(line).body.decode()
    if body:
        values = json.loads(body)
        assert isinstance(values, dict)
        assert json.dumps(values, ensure_ascii=False, separators=(",", ":")) == body


@pytest.mark.parametrize("line", examples(Sign.REQUEST))
def test_the_server_understands_every_request(line: str) -> None:
    """A request on the page is parsed without complaint, and has no key that the server would
    ignore.
    """
    frame = to_frame(line)
    if frame.type == Type.HEARTBEAT:
        assert frame.body == b""
        return
    request = requests.parse_request(frame.type, frame.body)
    given = {key: value for key, value in request._asdict().items() if value is not None}
    assert given == json.loads(frame.body)


@pytest.mark.parametrize("line", examples(Sign.RESPONSE))
def test_the_server_writes_every_response_like_that(line: str) -> None:
    """A response on the page is, byte for byte, what the code makes of its values."""
    frame = to_frame(line)
    values = json.loads(frame.body or b"{}")
    if frame.status == Status.SUCCESS:
        expected = messages.response(frame.type, values or None)
    else:
        code, sentence = ErrorCode(values.pop("error")), values.pop("message")
        expected = messages.error_response(frame.type, Status(frame.status), code, sentence, **values)
    assert to_bytes(line) == expected


@pytest.mark.parametrize("line", examples(Sign.NOTICE))
def test_the_server_writes_every_notice_like_that(line: str) -> None:
    """A notice on the page is, byte for byte, what the code makes of its values."""
    frame = to_frame(line)
    values = json.loads(frame.body)
    if frame.type == Type.SYSTEM:
        event = values["event"]
        keys = [key for key in KEYS_OF_AN_EVENT[event] if key in values or (event, key) not in OPTIONAL_KEYS]
        more = [key for key in ("roles",) if key in values]  # what only some clients get
        assert list(values) == ["event", *keys, *more]
        assert to_bytes(line) == messages.system(**values)
        return
    assert list(values) == [*FIELDS_OF_A_MESSAGE, *[key for key in ("id", "stored", "replaces") if key in values]]
    assert to_bytes(line) == messages.notice(frame.type, **values)


def test_a_stream_may_be_cut_anywhere() -> None:
    """The reads of the example, fed one by one, give the frames of the block that follows."""
    kinds = [kind for kind, _ in BLOCKS]
    position = kinds.index("stream")
    reads, lines = BLOCKS[position][1], BLOCKS[position + 1][1]
    decoder = Decoder()
    given = [decoder.feed(bytes.fromhex(read)) for read in reads]
    assert [len(frames) for frames in given] == [0, 1, 1]
    assert [frame for frames in given for frame in frames] == [to_frame(line) for line in lines]


def test_broken_frames_are_answered_with_the_type_that_is_known() -> None:
    """The bytes of a `error_type` example break the stream, and the answer below them has the type
    that did it.
    """
    broken = [position for position, (kind, _) in enumerate(BLOCKS) if kind == "broken"]
    assert len(broken) == 2
    for position in broken:
        decoder = Decoder()
        assert decoder.feed(bytes.fromhex("".join(BLOCKS[position][1]))) == []
        answer = to_frame(BLOCKS[position + 1][1][0])
        assert answer.type == decoder.error_type
        assert json.loads(answer.body)["error"] == ErrorCode.MALFORMED_FRAME


def test_the_page_shows_what_it_should() -> None:
    """There is an example of each kind of frame, of a negative token, and no kind of block that is
    not tested.
    """
    frames = [to_frame(line) for line in EXAMPLES]
    shown = {(frame.sign, frame.type) for frame in frames}
    for type in (Type.REGISTER, Type.LOGIN, Type.RECONNECT, Type.PERSON_MESSAGE):
        assert {(Sign.REQUEST, type), (Sign.RESPONSE, type)} <= shown
    assert {(Sign.NOTICE, Type.PERSON_MESSAGE), (Sign.REQUEST, Type.HEARTBEAT), (Sign.REQUEST, Type.ACK)} <= shown
    assert {json.loads(frame.body)["event"] for frame in frames if frame.type == Type.SYSTEM} == set(Event)
    assert {Status.SUCCESS, Status.REQUEST_ERROR, Status.SERVER_BUSY} <= {frame.status for frame in frames}
    assert any(b'"token":-' in frame.body for frame in frames)
    assert {kind for kind, _ in BLOCKS} == {"frame", "stream", "broken"}


# --- the tables -----------------------------------------------------------------------------------


def test_the_page_has_every_sign_type_and_status() -> None:
    """The tables of signs, types and statuses hold the members of the enumerations, all of them and
    no others.
    """
    signs = [row for row in map(cells, PAGE.splitlines()) if len(row) == 3 and re.fullmatch(r"0x0\d", row[0])]
    assert numbered(signs) == {sign.name: sign for sign in Sign}
    assert numbered(table("Types")) == {type.name: type for type in Type}
    assert numbered(table("Statuses")) == {status.name: status for status in Status if status != Status.NONE}


def test_the_page_has_every_error_code() -> None:
    """The table of error codes holds all of them and no others, each once, with its meaning."""
    rows = table("Error codes")
    assert [names(code) for code, _ in rows] == [[code] for code in ErrorCode]
    assert all(meaning for _, meaning in rows)


def test_the_page_has_every_key_of_every_request() -> None:
    """The table of types lists the keys of each request in the order of the code."""
    listed = {int(number, 16): tuple(names(keys)) for number, _, keys, _ in table("Types")}
    assert listed.pop(Type.HEARTBEAT) == listed.pop(Type.SYSTEM) == ()
    assert listed == {type: cls._fields for type, cls in requests.REQUESTS.items()}


def test_the_page_has_every_event() -> None:
    """The table of SYSTEM notices lists all events, each with its keys."""
    listed = {names(event)[0]: names(keys) for event, keys, _ in table("SYSTEM notices")}
    assert listed == {event.value: keys for event, keys in KEYS_OF_AN_EVENT.items()}


def test_the_page_has_every_limit() -> None:
    """The numbers on the page are those of the code: characters of names, passwords and profiles,
    bytes, depth.
    """
    rows = {value: limit for value, limit, _ in table("Names and limits")}
    upto = {names(value)[0]: int(limit[6:]) for value, limit in rows.items() if limit.startswith("up to ")}
    assert upto == requests.PROFILE_LIMITS
    assert rows["name of a user"] == rows["name of a group"] == f"1 to {MAX_NAME}"
    assert rows["`password`"] == f"1 to {requests.MAX_PASSWORD}"
    text = " ".join(PAGE.split())
    assert f"up to {codec.DEFAULT_MAX_BODY} bytes" in text
    assert f"more than {strict_json.MAX_DEPTH} deep" in text
    assert f"more than {strict_json.MAX_INTEGER_DIGITS} characters" in text
    assert f"at most {requests.MAX_FEATURES} of them" in text
    assert f"1 to {requests.MAX_REQUEST_ID} characters" in text
    assert f"1 or more, {DEFAULT_PAGE} if it is left out. You never get more than {MAX_PAGE}" in text
    assert (IDEMPOTENCY_DAYS, Settings().history_days) == (7, 30)  # a week, as the page says
    assert "a `requestId` for a week" in text
    assert (HOLD_SECONDS, Settings().message_rate, Settings().message_burst) == (10, 50, 1000)
    assert (Settings().change_rate, CHANGE_BURST, MAX_CHANGES) == (20, 1000, 100)
    assert "may send 50 messages a second, and 1000 at once after a pause" in text
    assert "until ten seconds have passed" in text
    assert (Settings().inbox_messages, Settings().inbox_bytes) == (200_000, 256 * 1024 * 1024)
    assert "keeps at most 200,000 messages and 256 MiB" in text
    assert (SENDERS_SHARE, STRANGERS_SHARE, FRIENDS_SHARE) == (10, 2, 4)
    assert "one sender may hold a tenth of it. Strangers may hold half of it" in text
    assert "members of common groups may hold three quarters of it together" in text
    assert (MAX_ASKED_A_DAY, MAX_PENDING, MAX_REQUESTS) == (20, 100, 100)
    assert f"A user blocks at most {MAX_BLOCKED} people" in text
    assert (MAX_INVITED_A_DAY, MAX_INVITATIONS) == (100, 100)
    assert "may invite 100 users in a day of UTC" in text
    assert "20 requests in a day of UTC, and at most 100 users on a list may have not accepted" in text
    assert "have no answer, at most 100, the newest first" in text
    assert Settings().outbox_messages == 200_000
    assert "200,000 messages of one user may wait" in text
    assert "keeps messages for 30 days" in text
    assert f"more than {MAX_UNACKNOWLEDGED} messages, or more than {MAX_UNACKNOWLEDGED_BYTES} bytes" in text


def test_the_page_names_nothing_that_the_code_does_not_have() -> None:
    """Every name in capitals and every code on the page exists."""
    known = {member.name for enumeration in (Sign, Type, Status) for member in enumeration}
    assert set(re.findall(r"\b[A-Z][A-Z_]{4,}\b", PAGE)) <= known
    assert set(re.findall(r"\b[a-z]+_[a-z_]+\b", PAGE)) <= {*ErrorCode, *Event, DELETED, DISABLED}
    numbers = {int(number, 16) for number in re.findall(r"\b0x([1-3][0-9a-f])\b", PAGE)}
    assert numbers <= {*Type, *Status, 0x20}  # which is said to be unused


def test_every_link_leads_somewhere() -> None:
    """The links within the page are to headings that it has."""
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
    assert len(anchors) == len(headings)
