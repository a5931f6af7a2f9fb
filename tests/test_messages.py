"""The JSON of the protocol: requests taken apart strictly, answers built to the byte, names told
good from bad.
"""

import contextlib
import json
import random
import sys
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import FrameType
from typing import Any

import pytest
from harness import NullTransport
from hypothesis import given
from hypothesis import strategies as st

from jelly import messages
from jelly.codec import LOGINS, Decoder, Frame, Sign, Status, Type
from jelly.dao import Dao
from jelly.delivery import Delivery
from jelly.errors import SENTENCES, ErrorCode, Refused
from jelly.group_notices import GroupNotices
from jelly.groups import GroupCache
from jelly.login_guard import LoginGuard
from jelly.messages import (
    MAX_DEPTH,
    MAX_PARTS,
    REQUESTS,
    Request,
    parse_object,
    parse_request,
)
from jelly.names import MAX_NAME, is_valid_name
from jelly.notifier import Notifier
from jelly.outcomes import Answer
from jelly.presence import Presence
from jelly.services import Policy, Services
from jelly.sessions import Session, Sessions, Window


def to_json(values: object) -> bytes:
    """A body as a client may write it."""
    return json.dumps(values).encode()


def refusal_of(type: int, body: bytes) -> ErrorCode:
    """The code with which a body is refused."""
    with pytest.raises(Refused) as caught:
        parse_request(type, body)
    return caught.value.code


def outcome(body: bytes) -> ErrorCode | None:
    """The code with which a body is refused as an object, None if it is taken."""
    try:
        parse_object(body)
    except Refused as refused:
        return refused.code
    return None


# --- requests: one row a type ---------------------------------------------------------------------

SAID = {"sender": "alice", "receiver": "bob", "content": "hello", "time": 1795466503340}
IN_GROUP = {"username": "alice", "groupName": "g1"}

GOOD: list[tuple[Type, dict[str, Any], Request]] = [
    (Type.LOGIN, {"username": "alice", "password": "pw1"}, messages.Login("alice", "pw1")),
    (Type.REGISTER, {"username": "alice", "password": "pw1"}, messages.Register("alice", "pw1")),
    (Type.LOGOUT, {"username": "alice", "token": -(2**63)}, messages.Logout("alice", -(2**63))),
    (Type.RECONNECT, {"username": "alice", "token": 2**63 - 1}, messages.Reconnect("alice", 2**63 - 1)),
    (Type.PERSON_MESSAGE, SAID, messages.PersonMessage("alice", "bob", "hello", 1795466503340)),
    (Type.GROUP_MESSAGE, SAID, messages.GroupMessage("alice", "bob", "hello", 1795466503340)),
    (Type.CREATE_GROUP, IN_GROUP, messages.CreateGroup("alice", "g1")),
    (Type.DISBAND_GROUP, IN_GROUP, messages.DisbandGroup("alice", "g1")),
    (Type.ADD_MEMBER, {**IN_GROUP, "member": "bob"}, messages.AddMember("alice", "g1", "bob")),
    (Type.REMOVE_MEMBER, {**IN_GROUP, "member": "bob"}, messages.RemoveMember("alice", "g1", "bob")),
    (Type.ADD_FRIEND, {"username": "alice", "friend": "bob"}, messages.AddFriend("alice", "bob")),
    (Type.REMOVE_FRIEND, {"username": "alice", "friend": "bob"}, messages.RemoveFriend("alice", "bob")),
    (Type.ALL_FRIENDS, {"username": "alice"}, messages.AllFriends("alice")),
    (Type.UPDATE_PROFILE, {"username": "alice"}, messages.UpdateProfile("alice")),
    (Type.OWN_PROFILE, {"username": "alice"}, messages.OwnProfile("alice")),
    (Type.FRIEND_PROFILE, {"username": "alice", "friend": "bob"}, messages.FriendProfile("alice", "bob")),
    (Type.OWN_GROUPS, {"username": "alice"}, messages.OwnGroups("alice")),
    (Type.ACK, {"id": 2**53}, messages.Ack(2**53)),
    (Type.HISTORY, {"username": "alice"}, messages.History("alice")),
]
PROFILE = ["password", "name", "sex", "age", "phone", "address", "introduction"]

every_request = pytest.mark.parametrize(("type", "values", "request_"), GOOD, ids=[row[0].name for row in GOOD])
every_key = pytest.mark.parametrize(
    ("type", "values", "key"),
    [pytest.param(type, values, key, id=f"{type.name}-{key}") for type, values, _ in GOOD for key in values],
)


def test_the_table_has_every_request() -> None:
    """No request can be added without a row in this file."""
    assert {row[0] for row in GOOD} == set(REQUESTS)


@every_request
def test_a_good_request(type: Type, values: dict[str, Any], request_: Request) -> None:
    """A body with everything in it becomes the request of its type."""
    parsed = parse_request(type, to_json(values))
    assert parsed == request_
    assert parsed.__class__ is request_.__class__


@every_request
def test_unknown_keys_are_ignored(type: Type, values: dict[str, Any], request_: Request) -> None:
    """Keys that a request does not have change nothing, whatever is in them, and the order of keys
    neither.
    """
    more = {"extra": [1, {"a": None}], "": True, **dict(reversed(values.items())), "Username": 7}
    assert parse_request(type, to_json(more)) == request_


@every_key
def test_a_missing_key(type: Type, values: dict[str, Any], key: str) -> None:
    """A request without one of its keys is refused."""
    rest = {name: value for name, value in values.items() if name != key}
    assert refusal_of(type, to_json(rest)) is ErrorCode.MALFORMED_BODY


@every_key
def test_a_value_of_the_wrong_type(type: Type, values: dict[str, Any], key: str) -> None:
    """A value of another JSON type is refused, null too: nothing is converted."""
    wrong: list[object] = [None, True, False, 1.0, [], {}, [values[key]], {"value": values[key]}]
    wrong.append("1" if isinstance(values[key], int) else 1)
    for value in wrong:
        body = to_json({**values, key: value})
        assert refusal_of(type, body) is ErrorCode.MALFORMED_BODY, body


@every_request
def test_the_actor(type: Type, values: dict[str, Any], request_: Request) -> None:
    """The actor is the one who asks: the sender of a message, the `username` of any other request.

    An ACK names no user: it has none.
    """
    key = "sender" if type in messages.MESSAGES else "username"
    assert isinstance(vars(REQUESTS[type])["actor"], property)  # each class says it itself
    assert request_.actor == (None if type is Type.ACK else values[key])


def test_requests_in_the_name_of_another() -> None:
    """Each request whose actor is not the user who logged in is refused, before anything is
    read.
    """

    def reading() -> AbstractContextManager[Dao]:
        raise AssertionError("it reads the database")

    def call_at(due: float, function: object) -> None: ...

    sessions = Sessions()
    notifier = Notifier(sessions, call_at)
    services = Services(
        Policy(password_cost=1),
        sessions,
        Presence(sessions, notifier, call_at),
        GroupNotices(notifier, call_at),
        GroupCache(1, 1),
        Delivery(sessions),
        reading,
        LoginGuard(),
    )
    session = Session(NullTransport(), "127.0.0.1")
    session.user, session.window = "mallory", Window()  # HISTORY needs a client that acknowledges
    refused = set()
    for type, values, request in GOOD:
        if request.actor is not None and type not in LOGINS:
            outcome = services.serve(session, Frame(Sign.REQUEST, type, Status.NONE, to_json(values)))
            assert outcome == Answer(messages.refusal(type, Refused(ErrorCode.NOT_YOURSELF)))
            refused.add(type)
    assert refused == set(REQUESTS) - LOGINS - {Type.ACK}


OPTIONAL = [
    (Type.HISTORY, "person", "bob"), (Type.HISTORY, "groupName", "g1"), (Type.HISTORY, "before", 7),
    (Type.HISTORY, "limit", 7), (Type.PERSON_MESSAGE, "requestId", "r1"), (Type.GROUP_MESSAGE, "requestId", "r1"),
]  # fmt: skip


@pytest.mark.parametrize(("type", "key", "value"), OPTIONAL)
def test_keys_that_may_be_left_out(type: Type, key: str, value: object) -> None:
    """They are taken as they are, and None if they are missing; another type is refused, null
    too.
    """
    values = next(values for each, values, _ in GOOD if each == type)
    assert getattr(parse_request(type, to_json({**values, key: value})), key) == value
    assert getattr(parse_request(type, to_json(values)), key) is None
    wrongs: list[object] = [None, True, 1.0, [], {}, "1" if isinstance(value, int) else 1]
    for wrong in wrongs:
        assert refusal_of(type, to_json({**values, key: wrong})) is ErrorCode.MALFORMED_BODY


def test_the_length_of_a_request_id() -> None:
    """1 to 36 characters, whatever they are."""
    for good in ("x", "x" * 36, "😀" * 36, "\0 "):
        parsed = parse_request(Type.PERSON_MESSAGE, to_json({**SAID, "requestId": good}))
        assert parsed == messages.PersonMessage("alice", "bob", "hello", 1795466503340, good)
    for bad in ("", "x" * 37):
        with pytest.raises(Refused, match="The 'requestId' must have 1 to 36 characters"):
            parse_request(Type.PERSON_MESSAGE, to_json({**SAID, "requestId": bad}))


@pytest.mark.parametrize("type", [0x00, 0x10, 0x20, 0x7F, 0xFF], ids=hex)
def test_an_unknown_type(type: int) -> None:
    """A type that no request has is refused as such, whatever its body is."""
    assert refusal_of(type, b'{"username":"alice"}') is ErrorCode.UNKNOWN_TYPE
    assert refusal_of(type, b"\xff") is ErrorCode.UNKNOWN_TYPE


def test_a_refusal_names_the_key() -> None:
    """The sentence for people says which key is wrong, and what it should be."""
    with pytest.raises(Refused, match="'password', a string"):
        parse_request(Type.LOGIN, b'{"username":"alice"}')
    with pytest.raises(Refused, match="'token', an integer"):
        parse_request(Type.LOGOUT, b'{"username":"alice","token":"1"}')
    with pytest.raises(Refused, match="'token' must fit into 64 bits"):
        parse_request(Type.LOGOUT, b'{"username":"alice","token":9223372036854775808}')


# --- UPDATE_PROFILE: every field may be left out --------------------------------------------------


@pytest.mark.parametrize("key", PROFILE)
def test_one_field_of_a_profile(key: str) -> None:
    """A field that is given is taken, an empty one too; all others stay None."""
    for value in ("x", ""):
        parsed = parse_request(Type.UPDATE_PROFILE, to_json({"username": "alice", key: value}))
        assert parsed == messages.UpdateProfile("alice")._replace(**{key: value})


def test_all_fields_of_a_profile() -> None:
    """Every field lands in its place."""
    values = {"username": "alice"} | {key: f"new {key}" for key in PROFILE}
    assert parse_request(Type.UPDATE_PROFILE, to_json(values)) == messages.UpdateProfile(**values)


@pytest.mark.parametrize("value", [None, 41, 4.1, True, [], {}], ids=repr)
@pytest.mark.parametrize("key", PROFILE)
def test_a_field_of_a_profile_is_a_string(key: str, value: object) -> None:
    """A field may be left out, but not be null or anything else that is no string."""
    body = to_json({"username": "alice", key: value})
    assert refusal_of(Type.UPDATE_PROFILE, body) is ErrorCode.MALFORMED_BODY


# --- LOGIN and RECONNECT: features make a client modern -------------------------------------------

WITH_FEATURES: list[tuple[Type, dict[str, Any], Callable[..., Request]]] = [
    (Type.LOGIN, {"username": "alice", "password": "pw1"}, partial(messages.Login, "alice", "pw1")),
    (Type.RECONNECT, {"username": "alice", "token": 1}, partial(messages.Reconnect, "alice", 1)),
]
either_login = pytest.mark.parametrize(("type", "values", "request_"), WITH_FEATURES, ids=["LOGIN", "RECONNECT"])


@either_login
@pytest.mark.parametrize("features", [[], ["ack"], ["ack", "ack", "", "中文"], ["x"] * messages.MAX_FEATURES])
def test_features(type: Type, values: dict[str, Any], request_: Callable[..., Request], features: list[str]) -> None:
    """They are taken as they are, whether anybody knows them or not; without them there is None."""
    assert parse_request(type, to_json({**values, "features": features})) == request_(features)
    assert parse_request(type, to_json(values)) == request_(None)


@pytest.mark.parametrize(("type", "values"), [row[:2] for row in WITH_FEATURES], ids=["LOGIN", "RECONNECT"])
@pytest.mark.parametrize(
    "features",
    [None, "ack", {"ack": True}, 1, True, [1], [None], [["ack"]], ["ack", True], ["x"] * (messages.MAX_FEATURES + 1)],
    ids=repr,
)
def test_bad_features(type: Type, values: dict[str, Any], features: object) -> None:
    """Anything but an array of strings is refused, and so are too many of them."""
    assert refusal_of(type, to_json({**values, "features": features})) is ErrorCode.MALFORMED_BODY


# --- bad bodies -----------------------------------------------------------------------------------


def alice_with(extra: bytes) -> bytes:
    """A good ALL_FRIENDS body with an unknown key that holds these bytes."""
    return b'{"username":"alice","extra":' + extra + b"}"


def token(value: bytes) -> bytes:
    """A good LOGOUT body, up to its token."""
    return b'{"username":"alice","token":' + value + b"}"


def nested(levels: int) -> bytes:
    """A good ALL_FRIENDS body that is this many levels deep, itself included."""
    return alice_with(b"[" * (levels - 1) + b"]" * (levels - 1))


GOOD_TEXT = '{"username":"alice"}'
BAD_BODIES = {
    # not UTF-8
    "invalid-utf8": b'{"username":"al\xffice"}',
    "lone-continuation-byte": b'{"username":"\x80"}',
    "cut-in-a-character": b'{"username":"\xe4\xb8"}',
    "overlong-slash": b'{"username":"\xc0\xaf"}',
    "overlong-nul": b'{"username":"\xc0\x80"}',
    "overlong-three-bytes": b'{"username":"\xe0\x80\xaf"}',
    "beyond-unicode": b'{"username":"\xf4\x90\x80\x80"}',
    "surrogate-as-bytes": b'{"username":"\xed\xa0\x80"}',
    "surrogate-pair-as-bytes": b'{"username":"\xed\xa0\xbd\xed\xb8\x80"}',
    "utf16": GOOD_TEXT.encode("utf-16"),
    "utf16-le": GOOD_TEXT.encode("utf-16-le"),
    "utf16-be": GOOD_TEXT.encode("utf-16-be"),
    "utf32-le": GOOD_TEXT.encode("utf-32-le"),
    "byte-order-mark": GOOD_TEXT.encode("utf-8-sig"),
    # not one JSON text
    "empty": b"",
    "white-space": b" \t\r\n",
    "nul-byte": b"\x00",
    "trailing-data": b'{"username":"alice"} x',
    "trailing-nul": b'{"username":"alice"}\x00',
    "two-objects": b'{"username":"alice"}{"username":"alice"}',
    "no-break-space-in-front": '\u00a0{"username":"alice"}'.encode(),
    "cut-short": b'{"username":"alice"',
    "trailing-comma": b'{"username":"alice",}',
    "single-quotes": b"{'username':'alice'}",
    "key-without-quotes": b'{username:"alice"}',
    "comment": b'{"username":"alice"/* */}',
    "raw-newline-in-string": b'{"username":"al\nice"}',
    "raw-nul-in-string": b'{"username":"al\x00ice"}',
    "unknown-escape": b'{"username":"\\x41"}',
    "half-an-escape": b'{"username":"\\u12"}',
    "only-commas": b"{}," * (64 * 1024 // 3),
    # no object at the top
    "array": b'[{"username":"alice"}]',
    "string": b'"alice"',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    # too deep
    "arrays-20000-deep": b"[" * 20_000,
    "closed-arrays-20000-deep": b"[" * 20_000 + b"]" * 20_000,
    "objects-20000-deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "unknown-value-20000-deep": nested(20_000),
    "unknown-value-one-too-deep": nested(MAX_DEPTH + 1),
    "deep-behind-a-string": alice_with(b'"]]]]",' + b'"x":' + b"[" * 20_000),
    "deep-behind-an-escaped-quote": b'{"username":"\\"","x":' + b"[" * 20_000,
    # numbers
    "integer-of-5000-digits": token(b"1" * 5000),
    "unknown-integer-of-5000-digits": alice_with(b"1" * 5000),
    "unknown-integer-of-100-digits": alice_with(b"1" * 100),
    "integer-of-60000-digits": alice_with(b"-" + b"9" * 60_000),
    "nan": alice_with(b"NaN"),
    "infinity": alice_with(b"Infinity"),
    "minus-infinity": alice_with(b"-Infinity"),
    "1e999": alice_with(b"1e999"),
    "minus-1e999": alice_with(b"-1e999"),
    "nested-nan": alice_with(b'[{"a":NaN}]'),
    "leading-zero": token(b"01"),
    "plus-sign": token(b"+1"),
    "hexadecimal": token(b"0x1"),
    "arabic-digits": token("\u0661".encode()),
    "true-for-an-integer": token(b"true"),
    "float-for-an-integer": token(b"1.0"),
    "exponent-for-an-integer": token(b"1e3"),
    "string-for-an-integer": token(b'"1"'),
    "null-for-an-integer": token(b"null"),
    "2^63": token(b"9223372036854775808"),
    "minus-2^63-minus-1": token(b"-9223372036854775809"),
    # keys
    "duplicate-key": b'{"username":"alice","username":"bob"}',
    "duplicate-key-same-value": b'{"username":"alice","username":"alice"}',
    "duplicate-key-escaped": b'{"username":"alice","\\u0075sername":"bob"}',
    "duplicate-unknown-key": b'{"username":"alice","x":1,"x":1}',
    "duplicate-nested-key": alice_with(b'[{"a":1,"a":1}]'),
    "no-keys": b"{}",
    # half a surrogate pair encodes to nothing
    "lone-high-surrogate": b'{"username":"\\ud83d"}',
    "lone-low-surrogate": b'{"username":"\\ude00"}',
    "surrogates-in-wrong-order": b'{"username":"\\ude00\\ud83d"}',
    "surrogates-apart": b'{"username":"\\ud83d \\ude00"}',
    "lone-surrogate-in-upper-case": b'{"username":"\\uD83D"}',
    "lone-surrogate-in-key": b'{"username":"alice","\\ud800":1}',
    "lone-surrogate-in-unknown-value": alice_with(b'"\\udfff"'),
    "lone-surrogate-nested": alice_with(b'[1,{"a":["\\ud800"]}]'),
    "lone-surrogate-in-nested-key": alice_with(b'[{"\\ud800":1}]'),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body(body: bytes) -> None:
    """Bodies that are not one strict JSON object of the right values are refused, and never raise
    anything else.
    """
    type = Type.LOGOUT if b'"token"' in body else Type.ALL_FRIENDS
    assert refusal_of(type, body) is ErrorCode.MALFORMED_BODY


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_refused_or_taken(seed: int) -> None:
    """A good body with random bytes changed is taken or refused: no other error comes out."""
    rng = random.Random(seed)
    body = b'{"username":"\\ud83d\\ude00","token":-1e2,"x":[[[{"a":null}]],"\xe4\xb8\xad",NaN]}'
    for _ in range(500):
        noisy = bytearray(body)
        for _ in range(rng.randrange(1, 6)):
            noisy[rng.randrange(len(noisy))] = rng.choice(b'"\\[]{}:,u0d8-.e \x00\xff')
        assert outcome(bytes(noisy)) in (None, ErrorCode.MALFORMED_BODY)


MAX_BODY = 65_536


def fill(item: bytes, before: bytes = b'{"x":[', after: bytes = b'0],"username":"alice"}') -> bytes:
    """A body of 64 KiB with as many of an item as fit in."""
    return before + item * ((MAX_BODY - len(before) - len(after)) // len(item)) + after


SLOW_BODIES = {
    "brackets": b"[" * MAX_BODY,
    "brackets-in-balance": b"[" * (MAX_BODY // 2) + b"]" * (MAX_BODY // 2),
    "closing-brackets": b"{},]" * 16_384,
    "as-deep-as-may-be": fill(b"[" * 14 + b"]" * 14 + b","),
    "lists": fill(b"[],"),
    "objects": fill(b"{},"),
    "integers": fill(b"1,"),
    "long-integers": fill(b"12345678901234567890,"),
    "integers-of-4000-digits": fill(b"9" * 4000 + b","),
    "floats": fill(b"1.5,"),
    "long-floats": fill(b"1234567890.123,"),
    "floats-of-300-digits": fill(b"0." + b"3" * 300 + b","),
    "exponents": fill(b"1e9,"),
    "constants": fill(b"null,"),
    "empty-strings": b"[" * 17 + b'"",' * 21_000,
    "quotes": fill(b'"' * 4),
    "string-without-end": b"[" * 17 + b'"' * 65_519,
    "escaped-quotes-without-end": b"[" * 17 + b'"' + b'\\"' * 32_000,
    "backslashes-without-end": b"[" * 17 + b'"' + b"\\\\" * 32_000,
    "backslashes": b"\\" * MAX_BODY,
    "keys": b"{" + b",".join(b'"%d":[]' % n for n in range(6000)) + b"}",
    "empty-keys": fill(b'"":0,', b"{", b'"":0}'),
    "text-of-brackets": fill(b"[{", b'{"username":"alice","x":"', b'"}'),
    "text-of-commas": fill(b",", b'{"username":"alice","x":"', b'"}'),
    "text-of-escapes": fill(b"\\n", b'{"username":"alice","x":"', b'"}'),
    "text-of-escaped-letters": fill(b"\\u4e2d", b'{"username":"alice","x":"', b'"}'),
    "text-of-escaped-quotes": fill(b'\\"', b'{"username":"alice","x":"', b'"}'),
    "spaces": b" " * (MAX_BODY - 20) + b'{"username":"alice"}',
    "float-of-65000-digits": alice_with(b"0." + b"1" * 65_000),
    "exponent-of-65000-digits": alice_with(b"1e" + b"9" * 65_000),
}
slow_bodies = pytest.mark.parametrize("body", SLOW_BODIES.values(), ids=SLOW_BODIES)


def count_calls(action: Callable[[], object], events: tuple[str, ...] = ("call", "c_call")) -> int:
    """How many functions an action calls. (On a busy machine time says nothing.)"""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in events

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@slow_bodies
def test_no_body_takes_long(body: bytes) -> None:
    """64 KiB made to be slow cost at most one call in Python for each of the parts that may be in a
    body, and a few more.
    """
    assert count_calls(lambda: outcome(body), ("call",)) <= MAX_PARTS + 50


@slow_bodies
def test_looking_at_the_shape_is_a_few_calls(body: bytes) -> None:
    """The look before the parser takes no step in Python for each bracket."""

    def look() -> None:
        with contextlib.suppress(ValueError):
            messages._check_shape(body, MAX_PARTS)

    assert count_calls(look) <= 60


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        pytest.param(b"1,", 1, id="integers"),
        pytest.param(b"[],", 2, id="lists"),
        pytest.param(b'{"y":0,"z":0},', 3, id="objects"),
        pytest.param(b'"a,[{b\\"[,",', 1, id="strings"),
    ],
)
def test_so_many_parts_and_no_more(item: bytes, parts: int) -> None:
    """Commas and opening brackets count, but not those in strings."""
    around = 3  # the two brackets of the outermost object and its array, and the comma behind that
    count = (MAX_PARTS - around) // parts
    good = alice_with(b"[" + item * count + b"0]")
    assert parse_request(Type.ALL_FRIENDS, good) == messages.AllFriends("alice")
    bad = alice_with(b"[" + item * (count + 1) + b"0]")
    assert refusal_of(Type.ALL_FRIENDS, bad) is ErrorCode.MALFORMED_BODY


def depth_of(text: str) -> int:
    """How deep brackets are nested, up to the first character that no JSON has at its place."""
    depth = deepest = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            in_string = True
        elif character == "\\" or (character in "]}" and depth == 0):
            break
        else:
            depth += (character in "[{") - (character in "]}")
            deepest = max(deepest, depth)
    return deepest


PIECES = ['"', "\\", '\\"', "[", "{", "]", "}", ",", "a", '"a":', "[" * 15, "]" * 15, '{"a":' * 15, "}" * 15]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_the_look_at_the_shape_finds_every_depth(text: str) -> None:
    """No text reaches the parser that makes it recurse more than 16 times, and no JSON of a smaller
    depth is refused.
    """
    try:
        messages._check_shape(text.encode(), MAX_PARTS)
    except ValueError:
        with contextlib.suppress(ValueError):
            json.loads(text)
            assert depth_of(text) > MAX_DEPTH
    else:
        assert depth_of(text) <= MAX_DEPTH


# --- what looks bad and is good -------------------------------------------------------------------

CONTENTS = {
    "empty": (b'""', ""),
    "emoji": ('"😀"'.encode(), "😀"),
    "escaped-surrogate-pair": (b'"\\ud83d\\ude00"', "😀"),
    "escaped-surrogate-pair-in-upper-case": (b'"\\uD83D\\uDE00"', "😀"),
    "escaped-backslash-before-u": (b'"\\\\ud83d"', "\\ud83d"),
    "20000-brackets": (b'"' + b"[{" * 10_000 + b'"', "[{" * 10_000),
    "brackets-behind-an-escaped-quote": (b'"\\"' + b"[" * 1000 + b'"', '"' + "[" * 1000),
    "brackets-behind-a-backslash": (b'"' + b"[" * 1000 + b'\\\\"', "[" * 1000 + "\\"),
    "escaped-nul": (b'"a\\u0000b"', "a\0b"),
    "escaped-newline": (b'"a\\nb"', "a\nb"),
    "html-as-java-escapes-it": (b'"\\u003ca href\\u003d\\u0027x\\u0027\\u003e\\u0026"', "<a href='x'>&"),
    "line-separator": ('"\u2028"'.encode(), "\u2028"),
    "noncharacter": ('"\uffff"'.encode(), "\uffff"),
    "byte-order-mark-inside": ('"\ufeff"'.encode(), "\ufeff"),
}


@pytest.mark.parametrize(("quoted", "content"), CONTENTS.values(), ids=CONTENTS)
def test_any_text_may_be_said(quoted: bytes, content: str) -> None:
    """The content of a message may be any text, however it is escaped, and comes out as it was
    meant.
    """
    body = b'{"sender":"alice","receiver":"bob","content":' + quoted + b',"time":0}'
    assert parse_request(Type.PERSON_MESSAGE, body) == messages.PersonMessage("alice", "bob", content, 0)


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, -1, 0, 1, 2**53 + 1])
def test_an_integer_of_64_bits(value: int) -> None:
    """Every signed 64-bit integer is taken exactly."""
    assert parse_request(Type.LOGOUT, token(b"%d" % value)) == messages.Logout("alice", value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(nested(2), id="shallow"),
        pytest.param(nested(MAX_DEPTH), id="as-deep-as-may-be"),
        pytest.param(alice_with(b"[" + b",".join([b"[]"] * 1000) + b"]"), id="1000-lists-side-by-side"),
        pytest.param(alice_with(b'{"a":{"username":[1.5,-2e3,null,true,"\\u00e9"]}}'), id="mixed"),
        pytest.param(alice_with(b"1e-999"), id="tiny-float"),
        pytest.param(b' \t\r\n{ "username" :\n"alice" } \r\n', id="white-space-around"),
        pytest.param(b'{"\\u0075sername":"\\u0061lice"}', id="escaped-letters"),
    ],
)
def test_a_body_written_in_another_way(body: bytes) -> None:
    """White space, escapes and unknown values of any kind and small depth do no harm."""
    assert parse_request(Type.ALL_FRIENDS, body) == messages.AllFriends("alice")


# --- responses and notices ------------------------------------------------------------------------

GOLDEN_RESPONSES = [
    (Type.REGISTER, {"username": "alice"}, "abcd021231000000147b22757365726e616d65223a22616c696365227d"),
    (
        Type.LOGIN,
        {"username": "alice", "token": -3586641577187029946},
        "abcd021131000000317b22757365726e616d65223a22616c696365222c22746f6b656e223a2d33353836363431353737313837303239"
        "3934367d",
    ),
    (
        Type.ALL_FRIENDS,
        {"username": "alice", "friends": {"bob": False}},
        "abcd021d310000002c7b22757365726e616d65223a22616c696365222c22667269656e6473223a7b22626f62223a66616c73657d7d",
    ),
    (
        Type.OWN_GROUPS,
        {"username": "alice", "groups": {"g1": ["alice"]}},
        "abcd0222310000002e7b22757365726e616d65223a22616c696365222c2267726f757073223a7b226731223a5b22616c696365225d7d"
        "7d",
    ),
    (Type.ADD_FRIEND, None, "abcd021b3100000000"),
]


@pytest.mark.parametrize(("type", "values", "golden"), GOLDEN_RESPONSES, ids=[row[0].name for row in GOLDEN_RESPONSES])
def test_a_response_to_the_byte(type: Type, values: dict[str, Any] | None, golden: str) -> None:
    """Responses are the bytes that clients have always got: compact, keys in order, nothing for
    nothing.
    """
    assert messages.response(type, values).hex() == golden


def body_of(data: bytes) -> bytes:
    """The body of the one frame in these bytes."""
    [frame] = Decoder().feed(data)
    return frame.body


def test_a_response_keeps_the_order_of_its_keys() -> None:
    """Keys stand as they were given, not sorted."""
    assert body_of(messages.response(Type.OWN_PROFILE, {"b": "1", "a": "2"})) == b'{"b":"1","a":"2"}'


def test_a_response_leaves_out_what_is_not_there() -> None:
    """Values that are None are left out; empty, false and zero ones are not."""
    values: dict[str, Any] = {"username": "alice", "name": None, "sex": "", "friends": {}, "online": False, "n": 0}
    assert body_of(messages.response(Type.OWN_PROFILE, values)) == (
        b'{"username":"alice","sex":"","friends":{},"online":false,"n":0}'
    )


def test_an_object_without_values_is_not_nothing() -> None:
    """Only None gives an empty body; no values give an empty object."""
    assert body_of(messages.response(Type.OWN_PROFILE, None)) == b""
    assert body_of(messages.response(Type.OWN_PROFILE, {})) == b"{}"


def test_a_response_writes_other_alphabets_as_they_are() -> None:
    """Characters outside of ASCII are UTF-8 and not escapes."""
    assert body_of(messages.response(Type.REGISTER, {"username": "böb中😀"})) == '{"username":"böb中😀"}'.encode()


def test_an_error_has_a_code_and_a_sentence() -> None:
    """A failure carries the code, then the code's own sentence."""
    data = messages.error_response(Type.LOGIN, Status.SERVER_BUSY, ErrorCode.BUSY)
    assert Decoder().feed(data) == [
        Frame(
            Sign.RESPONSE,
            Type.LOGIN,
            Status.SERVER_BUSY,
            b'{"error":"busy","message":"The server is busy: nothing was done, try again later."}',
        )
    ]


def test_an_error_with_a_sentence_of_its_own() -> None:
    """A more exact sentence replaces the one of the code."""
    data = messages.error_response(0, Status.REQUEST_ERROR, ErrorCode.TOO_LONG, 'Too long: "ö".')
    assert body_of(data) == '{"error":"too_long","message":"Too long: \\"ö\\"."}'.encode()


def test_a_refusal_answers_with_what_was_raised() -> None:
    """A refused request is answered REQUEST_ERROR with the code and the sentence of the error."""
    data = messages.refusal(Type.ADD_FRIEND, Refused(ErrorCode.NO_SUCH_USER, "Who is carol?"))
    body = b'{"error":"no_such_user","message":"Who is carol?"}'
    assert Decoder().feed(data) == [Frame(Sign.RESPONSE, Type.ADD_FRIEND, Status.REQUEST_ERROR, body)]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_sentence(code: ErrorCode) -> None:
    """Whatever the code, a person can read what went wrong."""
    answer = json.loads(body_of(messages.refusal(Type.LOGIN, Refused(code))))
    assert answer == {"error": code.value, "message": SENTENCES[code]}


def test_a_notice_to_the_byte() -> None:
    """Notices are the bytes that clients have always got."""
    assert messages.notice(Type.PERSON_MESSAGE, "alice", "bob", "hello-bob", 1795466503340).hex() == (
        "abcd0315000000004e7b2273656e646572223a22616c696365222c227265636569766572223a22626f62222c22636f6e74656e74223a"
        "2268656c6c6f2d626f62222c2274696d65223a313739353436363530333334307d"
    )
    assert messages.notice(Type.GROUP_MESSAGE, "alice", "g1", "hello-group", 1795466514788).hex() == (
        "abcd0316000000004f7b2273656e646572223a22616c696365222c227265636569766572223a226731222c22636f6e74656e74223a22"
        "68656c6c6f2d67726f7570222c2274696d65223a313739353436363531343738387d"
    )


@pytest.mark.parametrize(
    "text", ["", '"', "\\", "\0\x01\x1f\x7f", "a\r\n\tb", "中文😀", "\u2028", "[{", "{0}%s"], ids=ascii
)
def test_a_notice_brings_any_text(text: str) -> None:
    """Names and contents arrive as they were sent, whatever is in them."""
    body = body_of(messages.notice(Type.GROUP_MESSAGE, text, text, text, -(2**63)))
    assert json.loads(body) == {"sender": text, "receiver": text, "content": text, "time": -(2**63)}
    assert list(json.loads(body)) == ["sender", "receiver", "content", "time"]


def test_a_notice_writes_other_alphabets_as_they_are() -> None:
    """Characters outside of ASCII are UTF-8 and not escapes."""
    body = body_of(messages.notice(Type.PERSON_MESSAGE, "böb", "中文", "😀", 1))
    assert body == '{"sender":"böb","receiver":"中文","content":"😀","time":1}'.encode()


@pytest.mark.parametrize("id", [1, 2**53 - 1])
def test_a_notice_with_an_id(id: int) -> None:
    """It is the same notice, with the id as the last key of its body and the length that this
    makes.
    """
    plain = messages.notice(Type.GROUP_MESSAGE, "alice", "g1", 'a "}', 1)
    [frame] = Decoder().feed(messages.notice(Type.GROUP_MESSAGE, "alice", "g1", 'a "}', 1, id))
    assert frame[:3] == (Sign.NOTICE, Type.GROUP_MESSAGE, Status.NONE)
    assert frame.body == body_of(plain)[:-1] + f',"id":{id}}}'.encode()


def test_an_acknowledgement_in_its_usual_form_and_in_others() -> None:
    """The short cut for the usual form and the parser for all others say the same."""
    for body in (b'{"id":1}', b'{ "id" : 1 }', b'{"more":[],"id":1}', b'{"id":1}\n'):
        assert messages.parse_ack(body) == 1
    assert messages.parse_ack(b'{"id":0}') == 0
    assert messages.parse_ack(b'{"id":-7}') == -7
    assert messages.parse_ack(b'{"id":%d}' % (2**63 - 1)) == 2**63 - 1
    for body in (b'{"id":01}', b'{"id":1.0}', b'{"id":"1"}', b'{"id":%d}' % 2**63, b'{"id":1}}', b'{"id":}', b""):
        with pytest.raises(Refused):
            messages.parse_ack(body)


def test_a_system_notice() -> None:
    """The event stands first, then its values in their order, compactly."""
    data = messages.system(messages.Event.GROUP_CHANGED, group="böb", members=("alice", "bob"))
    body = '{"event":"group_changed","group":"böb","members":["alice","bob"]}'.encode()
    assert Decoder().feed(data) == [Frame(Sign.NOTICE, Type.SYSTEM, Status.NONE, body)]


# --- names ----------------------------------------------------------------------------------------

FULL_WIDTH_BOB = "\uff42\uff4f\uff42"
VALID_NAMES = {
    "bob": "bob",
    "capital": "Bob",
    "umlaut": "böb",
    "chinese": "中文",
    "full-width": FULL_WIDTH_BOB,
    "emoji": "😀",
    "one-character": "b",
    "32-characters": "b" * 32,
    "32-emoji": "😀" * 32,
    "digits": "42",
    "punctuation": "o'neil-\"%_;\\<&>",
    "arabic": "سلام",
    "mark-behind-its-letter": "कि",
}
INVALID_NAMES = {
    "empty": "",
    "33-characters": "b" * 33,
    "space-behind": "bob ",
    "space-in-front": " bob",
    "space-inside": "bo b",
    "only-a-space": " ",
    "no-break-space": "bob\u00a0",
    "ideographic-space": "bob\u3000",
    "line-separator": "bob\u2028",
    "zero-width-space": "bob\u200b",
    "zero-width-joiner": "bo\u200db",
    "byte-order-mark": "\ufeffbob",
    "soft-hyphen": "bo\u00adb",
    "right-to-left-override": "\u202ebob",
    "nul": "bob\0",
    "newline": "bob\n",
    "tab": "bob\t",
    "delete": "bob\x7f",
    "c1-control": "bob\x85",
    "decomposed": "bo\u0308b",
    "leading-combining-mark": "\u0308bob",
    "leading-mark-that-composes-with-nothing": "\u20ddbob",
    "only-combining-marks": "\u0336\u0336",
    "lone-surrogate": "bob\ud800",
}


@pytest.mark.parametrize("name", VALID_NAMES.values(), ids=VALID_NAMES)
def test_a_valid_name(name: str) -> None:
    """Names in any alphabet are valid, of up to 32 characters."""
    assert is_valid_name(name)


@pytest.mark.parametrize("name", INVALID_NAMES.values(), ids=INVALID_NAMES)
def test_an_invalid_name(name: str) -> None:
    """A name that could be taken for another one, or spoils what a client prints, is invalid."""
    assert not is_valid_name(name)


def test_names_that_differ_are_different_people() -> None:
    """A name is taken as it is: case, accents and width tell people apart."""
    names = ["bob", "Bob", "böb", FULL_WIDTH_BOB]
    parsed = {parse_request(Type.ALL_FRIENDS, to_json({"username": name})) for name in names}
    assert parsed == {messages.AllFriends(name) for name in names}


# --- any body, any name ---------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()))
any_scalar = st.none() | st.booleans() | st.integers() | st.floats() | any_text
any_json = st.recursive(
    any_scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=12
)
a_type = st.sampled_from(sorted(REQUESTS))
good_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
an_integer = st.integers(-(2**63), 2**63 - 1)
GOOD_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("token", "time", "id", "before", "limit"), an_integer),
    "features": st.lists(good_text, max_size=messages.MAX_FEATURES),
    "requestId": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=messages.MAX_REQUEST_ID),
}


def taken_or_refused(type: int, body: bytes) -> Request | ErrorCode:
    """The request in a body, or the code with which it is refused. Any other exception is let
    through.
    """
    try:
        return parse_request(type, body)
    except Refused as refused:
        return refused.code


@given(a_type, st.binary() | any_json.map(to_json))
def test_any_body(type: int, body: bytes) -> None:
    """It becomes a request, or is refused; there is no third thing."""
    result = taken_or_refused(type, body)
    assert result is ErrorCode.MALFORMED_BODY or result.__class__ is REQUESTS[type]


@given(st.data(), a_type)
def test_any_values_of_the_right_keys(data: st.DataObject, type: int) -> None:
    """The same, where every key is there: what is taken has just the values that were sent."""
    keys = REQUESTS[type]._fields
    values = {key: data.draw(any_json | GOOD_VALUES.get(key, good_text)) for key in keys}
    result = taken_or_refused(type, to_json(values))
    assert result in (ErrorCode.MALFORMED_BODY, tuple(values.values()))


@given(st.data(), a_type)
def test_any_request_comes_back(data: st.DataObject, type: int) -> None:
    """What the client library writes is what the server reads, whichever of the optional keys are
    there.
    """
    cls = REQUESTS[type]
    values = {key: data.draw(GOOD_VALUES.get(key, good_text)) for key in cls._fields}
    for key in cls._field_defaults:
        if data.draw(st.booleans()):
            values[key] = None
    [frame] = Decoder().feed(messages.encode_request(type, values))
    assert frame[:3] == (Sign.REQUEST, type, Status.NONE)
    assert parse_request(type, frame.body) == tuple(values.values())


@given(st.binary() | an_integer.map(lambda id: to_json({"id": id})) | st.from_regex(rb'\{"id": ?-?[0-9]+\}'))
def test_any_acknowledgement(body: bytes) -> None:
    """The short way of reading one comes to the same as the usual one."""
    try:
        expected = parse_request(Type.ACK, body)
    except Refused:
        with pytest.raises(Refused):
            messages.parse_ack(body)
    else:
        assert messages.Ack(messages.parse_ack(body)) == expected


likely_name = st.text(st.characters(categories=["L", "N", "M", "P", "S"]), max_size=MAX_NAME + 2)


@given(any_text | likely_name | likely_name.map(lambda text: unicodedata.normalize("NFC", text)))
def test_any_name(name: str) -> None:
    """A valid one survives what may happen to it on its way: UTF-8, JSON, normal form C, and a
    program that strips.
    """
    if is_valid_name(name):
        assert 1 <= len(name) <= MAX_NAME
        assert name.encode().decode() == json.loads(json.dumps(name)) == name
        assert unicodedata.normalize("NFC", name) == name.strip() == name
        assert name.split() == [name]
        assert not unicodedata.combining(name[0])


@given(
    likely_name, st.sampled_from(" \t\n\0\u200b\u202e\u2066\ufeff\u3164\u2028\ufe0f\ud800"), st.integers(0, MAX_NAME)
)
def test_nothing_invisible_in_any_name(name: str, invisible: str, place: int) -> None:
    """Wherever it stands: two names that look the same would be two users."""
    assert not is_valid_name(name[:place] + invisible + name[place:])
