"""Bad input over real sockets: each kind gets the answer of the protocol's page, and the server
lives on.

One server serves all rows of the tables.
"""

import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from strangers import (
    ASK,
    CONTENT,
    MALFORMED_FRAME,
    MAX_BODY,
    MAX_FIRST_BODY,
    ME,
    PASSWORD,
    UNKNOWN_TYPE,
    WHOLE,
    alice_at,
    assert_ended,
    assert_goes_on,
    assert_refused,
    header,
    no_secret_in_the_log,
    port_of_all_rows,
    server_of_all_rows,
)
from wire import (
    ACK,
    ADD_FRIEND,
    ADD_MEMBER,
    ALL_FRIENDS,
    CREATE_GROUP,
    DISBAND_GROUP,
    FRIEND_PROFILE,
    GROUP_MESSAGE,
    HEARTBEAT,
    LOGIN,
    LOGOUT,
    NOTICE,
    OWN_GROUPS,
    OWN_PROFILE,
    PERSON_MESSAGE,
    RECONNECT,
    REGISTER,
    REMOVE_FRIEND,
    REMOVE_MEMBER,
    RESPONSE,
    SUCCESS,
    SYSTEM,
    UPDATE_PROFILE,
    Wire,
    pack,
    to_json,
)  # fmt: skip

server = pytest.fixture(scope="module")(server_of_all_rows)
port = pytest.fixture(port_of_all_rows)
nothing_private_in_the_log = pytest.fixture(autouse=True)(no_secret_in_the_log)

STAYS, CLOSES = True, False


def client_hello() -> bytes:
    """The first bytes of a client that expects TLS."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="jelly").do_handshake()
    return outgoing.read()


FRAMES: dict[str, tuple[bytes, str, int, bool]] = {
    # what: (bytes, error, type of the answer, does the connection stay)
    "magic 0000": (header(0, magic=0), MALFORMED_FRAME, 0, CLOSES),
    "magic abce": (header(0, magic=0xABCE), MALFORMED_FRAME, 0, CLOSES),
    "magic cdab": (header(0, magic=0xCDAB), MALFORMED_FRAME, 0, CLOSES),
    "two wrong bytes": (b"\xab\xce", MALFORMED_FRAME, 0, CLOSES),
    "one wrong byte": (b"\xac", MALFORMED_FRAME, 0, CLOSES),
    "GET / HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", MALFORMED_FRAME, 0, CLOSES),
    "TLS hello": (client_hello(), MALFORMED_FRAME, 0, CLOSES),
    "SSH hello": (b"SSH-2.0-OpenSSH_9.2\r\n", MALFORMED_FRAME, 0, CLOSES),
    "a body without a frame": (ME, MALFORMED_FRAME, 0, CLOSES),
    "length -1": (header(-1), MALFORMED_FRAME, OWN_PROFILE, CLOSES),
    "length -2^31": (header(-(2**31), LOGIN), MALFORMED_FRAME, LOGIN, CLOSES),
    "length maximum + 1": (header(MAX_BODY + 1), MALFORMED_FRAME, OWN_PROFILE, CLOSES),
    "length maximum + 1, and the body": (pack(REGISTER, b" " * (MAX_BODY + 1)), MALFORMED_FRAME, REGISTER, CLOSES),
    "length 2^31 - 1": (header(2**31 - 1, HEARTBEAT), MALFORMED_FRAME, HEARTBEAT, CLOSES),
    "length 2^31 - 1, unknown type": (header(2**31 - 1, 0xFF), MALFORMED_FRAME, 0xFF, CLOSES),
    "sign 0": (pack(OWN_PROFILE, ME, sign=0), MALFORMED_FRAME, OWN_PROFILE, STAYS),
    "sign of a response": (pack(OWN_PROFILE, ME, RESPONSE, SUCCESS), MALFORMED_FRAME, OWN_PROFILE, STAYS),
    "sign of a notice": (pack(PERSON_MESSAGE, ME, NOTICE), MALFORMED_FRAME, PERSON_MESSAGE, STAYS),
    "sign 4": (pack(LOGIN, ME, sign=4), MALFORMED_FRAME, LOGIN, STAYS),
    "sign -128": (pack(OWN_PROFILE, ME, sign=0x80), MALFORMED_FRAME, OWN_PROFILE, STAYS),
    "sign -1": (pack(OWN_PROFILE, ME, sign=0xFF), MALFORMED_FRAME, OWN_PROFILE, STAYS),
    "a heartbeat as a response": (pack(HEARTBEAT, sign=RESPONSE), MALFORMED_FRAME, HEARTBEAT, STAYS),
    "an ACK as a notice": (pack(ACK, b'{"id":1}', sign=NOTICE), MALFORMED_FRAME, ACK, STAYS),
    "a SYSTEM notice from a client": (pack(SYSTEM, b'{"event":"shutdown"}', NOTICE), MALFORMED_FRAME, SYSTEM, STAYS),
    "a SYSTEM request": (pack(SYSTEM, b'{"event":"shutdown"}'), UNKNOWN_TYPE, SYSTEM, STAYS),
    "sign 2, unknown type": (pack(0x7F, sign=RESPONSE), MALFORMED_FRAME, 0x7F, STAYS),
    "type 0": (pack(0), UNKNOWN_TYPE, 0, STAYS),
    "type 0x10": (pack(0x10, ME), UNKNOWN_TYPE, 0x10, STAYS),
    "type 0x20": (pack(0x20, ME), UNKNOWN_TYPE, 0x20, STAYS),
    "type 127": (pack(0x7F, b"\xff"), UNKNOWN_TYPE, 0x7F, STAYS),
    "type -128": (pack(0x80, ME), UNKNOWN_TYPE, 0x80, STAYS),
    "type -1, the largest first body": (pack(0xFF, b"x" * MAX_FIRST_BODY), UNKNOWN_TYPE, 0xFF, STAYS),
}

frames = pytest.mark.parametrize(
    ("data", "error", "type", "stays"), [pytest.param(*row, id=what) for what, row in FRAMES.items()]
)


@frames
def test_a_bad_frame_after_login(port: int, data: bytes, error: str, type: int, stays: bool) -> None:
    """Any doubt about where a frame begins ends the connection after one answer; other frames are
    only refused.
    """
    with alice_at(port) as alice:
        alice.send(data)
        assert_refused(alice.receive(), type, error)
        (assert_goes_on if stays else assert_ended)(alice)


@frames
def test_a_bad_frame_before_login(port: int, data: bytes, error: str, type: int, stays: bool) -> None:
    """Before a login bad frames get the same answers, and one that is only refused leaves the login
    possible.
    """
    with Wire(port) as wire:
        wire.send(data)
        assert_refused(wire.receive(), type, error)
        (assert_goes_on if stays else assert_ended)(wire)


@pytest.mark.parametrize("wrong", [-1, 1], ids=["one too small", "one too large"])
def test_a_length_that_does_not_fit_its_body(port: int, wrong: int) -> None:
    """The body that such a length cuts out is refused, and what stands where a header should stand
    ends it.
    """
    with alice_at(port) as alice:
        alice.send(header(len(ME) + wrong) + ME + ASK)
        assert_refused(alice.receive(), OWN_PROFILE, "malformed_body")
        assert_refused(alice.receive(), 0, MALFORMED_FRAME)
        assert_ended(alice)


def test_nothing_is_served_after_the_stream_broke(port: int) -> None:
    """Sound frames behind a broken one are part of what cannot be trusted; those before it are
    served.
    """
    with alice_at(port) as alice:
        alice.send(ASK + header(-1) + pack(UPDATE_PROFILE, b'{"username":"alice","age":"99"}'))
        assert alice.receive().status == SUCCESS
        assert_refused(alice.receive(), OWN_PROFILE, MALFORMED_FRAME)
        assert_ended(alice)
    with alice_at(port) as alice:
        assert "age" not in alice.ok(OWN_PROFILE)


@pytest.mark.parametrize("type", [LOGIN, REGISTER, RECONNECT, HEARTBEAT, OWN_PROFILE, 0xFF])
def test_a_large_body_before_login(port: int, type: int) -> None:
    """The header is enough to refuse it, whatever the type is; nothing of the body is waited
    for.
    """
    with Wire(port) as wire:
        wire.send(header(MAX_FIRST_BODY + 1, type))
        assert_refused(wire.receive(), type, MALFORMED_FRAME)
        assert_ended(wire)


def test_a_body_that_is_too_long(port: int) -> None:
    """The sentence says how long it is and may be. Other malformed frames have another one."""
    for before, frame, sentence in (
        (b"", header(MAX_FIRST_BODY + 1), "has 4,097 bytes, and it may have 4,096 here"),
        (pack(LOGIN, WHOLE), header(MAX_BODY + 1), "has 65,537 bytes, and it may have 65,536 here"),
        (b"", header(-1), "not a frame that a client may send"),
    ):
        with Wire(port) as wire:
            wire.send(before)
            if before:
                assert wire.receive().type == LOGIN
            wire.send(frame)
            assert sentence in str(wire.receive().values)


def test_a_large_body_right_behind_the_login(port: int) -> None:
    """A client may pipeline: behind a LOGIN every body that is allowed is taken."""
    with Wire(port) as wire:
        wire.send(pack(LOGIN, WHOLE.center(MAX_FIRST_BODY)) + pack(0xFF, b"x" * MAX_BODY) + ASK)
        assert wire.receive().status == SUCCESS
        assert_refused(wire.receive(), 0xFF, UNKNOWN_TYPE)
        assert wire.receive() == (RESPONSE, OWN_PROFILE, SUCCESS, ME)


def test_the_status_of_a_request_is_not_looked_at(port: int) -> None:
    """A request may carry any status: the server does not look at it."""
    with alice_at(port) as alice:
        for status in (1, SUCCESS, 0x80, 0xFF):
            alice.send(pack(OWN_PROFILE, ME, status=status))
            assert alice.receive() == (RESPONSE, OWN_PROFILE, SUCCESS, ME)


def test_a_body_of_exactly_the_maximum(port: int) -> None:
    """A body may have the maximum of bytes, here with white space around its object."""
    with alice_at(port) as alice:
        alice.send(pack(OWN_PROFILE, ME.center(MAX_BODY)))
        assert alice.receive() == (RESPONSE, OWN_PROFILE, SUCCESS, ME)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff", b"[" * MAX_FIRST_BODY], ids=["empty", "object", "bytes", "brackets"]
)
def test_heartbeats_are_never_answered(port: int, body: bytes) -> None:
    """A heartbeat is not answered, whatever is in its body: the next answer is the next
    request's.
    """
    with Wire(port) as wire:
        wire.send(pack(HEARTBEAT, body))
        assert_goes_on(wire)
        wire.send(pack(HEARTBEAT, body))
        assert_goes_on(wire)


def with_x(value: bytes) -> bytes:
    """A body for LOGIN and OWN_PROFILE alike, sound but for the value of a key that nobody
    knows.
    """
    return WHOLE[:-1] + b',"x":' + value + b"}"


BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \t\r\n",
    "NUL": b"\0",
    "byte ff": with_x(b'"\xff"'),
    "lone continuation byte": with_x(b'"\x80"'),
    "UTF-8 cut short": with_x(b'"\xe4\xbd"'),
    "overlong NUL": with_x(b'"\xc0\x80"'),
    "overlong slash": with_x(b'"\xe0\x80\xaf"'),
    "surrogate as bytes": with_x(b'"\xed\xa0\x80"'),
    "surrogate pair as bytes (CESU-8)": with_x(b'"\xed\xa0\xbd\xed\xb8\x80"'),
    "beyond U+10FFFF": with_x(b'"\xf4\x90\x80\x80"'),
    "Latin-1": with_x('"é"'.encode("latin-1")),
    "UTF-16 with a mark": WHOLE.decode().encode("utf-16"),
    "UTF-16, little end first": WHOLE.decode().encode("utf-16-le"),
    "UTF-16, big end first": WHOLE.decode().encode("utf-16-be"),
    "UTF-32": WHOLE.decode().encode("utf-32"),
    "byte-order mark": b"\xef\xbb\xbf" + WHOLE,
    "trailing object": WHOLE + WHOLE,
    "trailing comma": WHOLE + b",",
    "trailing letter": WHOLE + b"x",
    "trailing NUL": WHOLE + b"\0",
    "cut short": WHOLE[:-1],
    "array at the top": b"[" + WHOLE + b"]",
    "string at the top": b'"alice"',
    "number at the top": b"7",
    "true at the top": b"true",
    "null at the top": b"null",
    "depth of 17": with_x(b"[" * 16 + b"]" * 16),
    "20,000 arrays": with_x(b"[" * 20_000 + b"]" * 20_000),
    "10,000 objects": with_x(b'{"x":' * 10_000 + b"0" + b"}" * 10_000),
    "20,000 arrays that do not end": b"[" * 20_000,
    "64 KiB of opening brackets": b"[" * MAX_BODY,
    "64 KiB of {},": (b"{}," * MAX_BODY)[:MAX_BODY],
    "64 KiB of quotes": b'"' * MAX_BODY,
    "integer of 5000 digits": with_x(b"9" * 5000),
    "negative integer of 5000 digits": with_x(b"-" + b"9" * 5000),
    "integer of 21 digits": with_x(b"1" * 21),
    "NaN": with_x(b"NaN"),
    "Infinity": with_x(b"Infinity"),
    "-Infinity": with_x(b"-Infinity"),
    "1e999": with_x(b"1e999"),
    "-1e999": with_x(b"-1e999"),
    "leading zero": with_x(b"01"),
    "plus sign": with_x(b"+1"),
    "number without an end": with_x(b"1."),
    "number without a beginning": with_x(b".5"),
    "hexadecimal": with_x(b"0x10"),
    "Arabic digits": with_x("١٢".encode()),
    "duplicate key": b'{"username":"alice",' + WHOLE[1:],
    "duplicate key, once escaped": b'{"\\u0075sername":"alice",' + WHOLE[1:],
    "duplicate unknown key": with_x(b'1,"x":1'),
    "duplicate key inside": with_x(b'{"y":1,"y":2}'),
    "lone high surrogate": with_x(b'"\\ud83d"'),
    "lone low surrogate": with_x(b'"\\ude00"'),
    "surrogates the wrong way round": with_x(b'"\\ude00\\ud83d"'),
    "lone surrogate in a key": with_x(b'1,"\\ud800":1'),
    "lone surrogate inside": with_x(b'[{"y":["\\udfff"]}]'),
    "raw newline in a string": with_x(b'"\n"'),
    "raw NUL in a string": with_x(b'"\0"'),
    "unknown escape": with_x(b'"\\x41"'),
    "escape cut short": with_x(b'"\\u12"'),
    "string that does not end": with_x(b'"y'),
    "single quotes": WHOLE.replace(b'"', b"'"),
    "key without quotes": with_x(b"1,y:1"),
    "comma before the end": with_x(b"1,"),
    "comment": with_x(b"1/* */"),
    "True": with_x(b"True"),
    "form, not JSON": b"username=alice&password=" + PASSWORD.encode(),
}

bodies = pytest.mark.parametrize("body", [pytest.param(body, id=what) for what, body in BODIES.items()])


@bodies
def test_a_bad_body_after_login(port: int, body: bytes) -> None:
    """A whole frame with a bad body is refused, and the connection stays."""
    with alice_at(port) as alice:
        alice.send(pack(OWN_PROFILE, body))
        assert_refused(alice.receive(), OWN_PROFILE, "malformed_body")
        assert_goes_on(alice)


@bodies
def test_a_bad_body_before_login(port: int, body: bytes) -> None:
    """A connection on which nobody has logged in has one chance: a bad body ends it. (A large one
    is not even read.)
    """
    with Wire(port) as wire:
        wire.send(pack(LOGIN, body))
        assert_refused(wire.receive(), LOGIN, "malformed_body" if len(body) <= MAX_FIRST_BODY else MALFORMED_FRAME)
        assert_ended(wire)


GOOD: dict[str, bytes] = {
    "white space": b" \r\n\t" + WHOLE + b"\n",
    "depth of 16": with_x(b"[" * 15 + b"]" * 15),
    "brackets in a string": with_x(b'"' + b"[{" * 1000 + b'"'),
    "many brackets side by side": with_x(b"[" + b"[]," * 1000 + b"{}]"),
    "integer of 20 digits": with_x(b"1" * 20),
    "largest double": with_x(b"1.7976931348623157e308"),
    "1e-999": with_x(b"1e-999"),
    "null": with_x(b"null"),
    "empty key": with_x(b'1,"":1'),
    "escaped surrogate pair": with_x(b'"\\ud83d\\ude00"'),
    "noncharacter": with_x('"\uffff"'.encode()),
    "escaped NUL": with_x(b'"\\u0000"'),
    "escaped name": WHOLE.replace(b"alice", b"\\u0061lice"),
    "SQL in a key": with_x(b'1,"\'; DROP TABLE users; --":1'),
}


@pytest.mark.parametrize("body", [pytest.param(body, id=what) for what, body in GOOD.items()])
def test_what_is_strange_but_sound(port: int, body: bytes) -> None:
    """The control of the tables above: unknown keys and unusual JSON are no fault."""
    with Wire(port) as wire:
        wire.send(pack(LOGIN, body))
        assert wire.receive().status == SUCCESS
        wire.send(pack(OWN_PROFILE, body))
        assert wire.receive() == (RESPONSE, OWN_PROFILE, SUCCESS, ME)


# --- keys and values ------------------------------------------------------------------------------


TEXT_MESSAGE = {"sender": "alice", "receiver": "bob", "content": CONTENT, "time": 1}

IN_GROUP = {"username": "alice", "groupName": "team"}

REQUESTS: dict[str, tuple[int, dict[str, Any]]] = {
    "LOGIN": (LOGIN, {"username": "alice", "password": PASSWORD}),
    "REGISTER": (REGISTER, {"username": "dave", "password": PASSWORD}),
    "RECONNECT": (RECONNECT, {"username": "alice", "token": 1}),
    "LOGOUT": (LOGOUT, {"username": "alice", "token": 1}),
    "PERSON_MESSAGE": (PERSON_MESSAGE, TEXT_MESSAGE),
    "GROUP_MESSAGE": (GROUP_MESSAGE, TEXT_MESSAGE),
    "CREATE_GROUP": (CREATE_GROUP, IN_GROUP),
    "DISBAND_GROUP": (DISBAND_GROUP, IN_GROUP),
    "ADD_MEMBER": (ADD_MEMBER, {**IN_GROUP, "member": "bob"}),
    "REMOVE_MEMBER": (REMOVE_MEMBER, {**IN_GROUP, "member": "bob"}),
    "ADD_FRIEND": (ADD_FRIEND, {"username": "alice", "friend": "bob"}),
    "REMOVE_FRIEND": (REMOVE_FRIEND, {"username": "alice", "friend": "bob"}),
    "ALL_FRIENDS": (ALL_FRIENDS, {"username": "alice"}),
    "UPDATE_PROFILE": (UPDATE_PROFILE, {"username": "alice"}),
    "OWN_PROFILE": (OWN_PROFILE, {"username": "alice"}),
    "FRIEND_PROFILE": (FRIEND_PROFILE, {"username": "alice", "friend": "bob"}),
    "OWN_GROUPS": (OWN_GROUPS, {"username": "alice"}),
}

NO_STRINGS = ["null", "true", "0", "1.0", "[]", "{}", '["alice"]']

NO_INTEGERS = ["null", "true", "1.0", "1e3", '"1"', "[]", "{}", str(2**63), str(-(2**63) - 1)]


def spoilt(values: dict[str, Any]) -> Iterator[bytes]:
    """Bodies of a request in which one key is missing, or has a value of the wrong type."""
    for key, value in values.items():
        rest = {other: values[other] for other in values if other != key}
        yield to_json(rest)
        for wrong in NO_INTEGERS if isinstance(value, int) else NO_STRINGS:
            yield to_json({**rest, key: 0})[:-2] + wrong.encode() + b"}"


@pytest.mark.parametrize("name", [name for name in REQUESTS if name not in ("LOGIN", "REGISTER", "RECONNECT")])
def test_keys_that_are_missing_or_of_the_wrong_type(port: int, name: str) -> None:
    """After the login each such body is refused, and the connection stays."""
    type, values = REQUESTS[name]
    with alice_at(port) as alice:
        for body in spoilt(values):
            alice.send(pack(type, body))
            assert_refused(alice.receive(), type, "malformed_body")
        assert_goes_on(alice)


@pytest.mark.parametrize("name", ["LOGIN", "REGISTER", "RECONNECT"])
def test_keys_that_are_missing_or_of_the_wrong_type_before_login(port: int, name: str) -> None:
    """Before the login each such body ends its connection."""
    type, values = REQUESTS[name]
    for body in spoilt(values):
        with Wire(port) as wire:
            wire.send(pack(type, body))
            assert_refused(wire.receive(), type, "malformed_body")
            assert_ended(wire)


@pytest.mark.parametrize("field", ["password", "name", "sex", "age", "phone", "address", "introduction"])
def test_a_field_of_the_profile_that_is_no_string(port: int, field: str) -> None:
    """What may be left out may still not be null or a number."""
    with alice_at(port) as alice:
        values: list[Any] = [None, 30, True, [], {}]
        for value in values:
            assert alice.refused(UPDATE_PROFILE, **{field: value}) == "malformed_body"
        assert alice.ok(OWN_PROFILE) == {"username": "alice"}


@pytest.mark.parametrize("token", [0, -1, 1, 2**63 - 1, -(2**63)])
def test_tokens_at_the_edges(port: int, token: int) -> None:
    """Every signed integer of 64 bits is a well-formed token, and a wrong one."""
    with Wire(port) as wire:
        assert_refused(wire.reconnect("alice", token), RECONNECT, "invalid_token")
        assert_ended(wire)


@pytest.mark.parametrize("time", [0, -1, 2**63 - 1, -(2**63)])
def test_times_at_the_edges(port: int, time: int) -> None:
    """The time of a message is the sender's business, and arrives as it was sent."""
    with alice_at(port) as alice:
        alice.message("alice", CONTENT, time=time)
        assert alice.receive_notice().values["time"] == time


@pytest.mark.parametrize("character", ["\0", "\x01", "\n", "\x1b", "\x7f", "\x85", "\u2028", "\u200b"], ids=ascii)
def test_control_characters_in_names(port: int, character: str) -> None:
    """No new name has one, and no old one is found by it."""
    name = f"bo{character}b"
    with Wire(port) as wire:
        assert wire.refused(REGISTER, username=name, password=PASSWORD) == "invalid_username"
        assert_ended(wire)
    with alice_at(port) as alice:
        assert alice.refused(CREATE_GROUP, groupName=name) == "invalid_group_name"
        assert alice.refused(PERSON_MESSAGE, receiver=name, content=CONTENT, time=1) == "no_such_user"
        assert alice.refused(GROUP_MESSAGE, receiver=name, content=CONTENT, time=1) == "no_such_group"
        assert alice.refused(ADD_FRIEND, friend=name) == "no_such_user"


def test_control_characters_in_a_message(port: int) -> None:
    """Content is the users' own business: every character arrives."""
    content = "".join(map(chr, range(0xA0))) + "\u2028\u200b\ufeff\uffff\U0010ffff"
    with alice_at(port) as alice:
        alice.message("alice", content)
        assert alice.contents(1) == [content]


# --- the log --------------------------------------------------------------------------------------


def test_the_log_tells_nothing_of_what_was_sent(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Refused or served: neither passwords nor tokens nor messages are in the log, and no
    traceback.
    """
    with alice_at(port) as alice, Wire(port) as wire:
        alice.message("bob", CONTENT)
        alice.send(pack(PERSON_MESSAGE, to_json(TEXT_MESSAGE)[:-1]))
        alice.receive_response()
        alice.refused(PERSON_MESSAGE, receiver="nobody", content=CONTENT, time=1)
        wire.call(LOGIN, username="alice", password=PASSWORD, token=alice.token, x=json.loads("[" * 20 + "]" * 20))
        secrets = [PASSWORD, CONTENT, str(alice.token)]
    assert not any(secret in caplog.text for secret in [*secrets, "Traceback"])
