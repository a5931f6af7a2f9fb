"""Bodies that are refused, those that only look bad, and what each of them costs."""

import contextlib
import json
import random
import sys
from collections.abc import Callable
from types import FrameType

import pytest
from bodies import refusal_of
from hypothesis import given
from hypothesis import strategies as st

from jelly import requests, strict_json
from jelly.codec import Type
from jelly.errors import ErrorCode, Refused
from jelly.requests import parse_request
from jelly.strict_json import MAX_DEPTH, MAX_PARTS, parse_object


def outcome(body: bytes) -> ErrorCode | None:
    """The code with which a body is refused as an object, None if it is taken."""
    try:
        parse_object(body)
    except Refused as refused:
        return refused.code
    return None


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
            strict_json._check_shape(body, MAX_PARTS)

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
    assert parse_request(Type.ALL_FRIENDS, good) == requests.AllFriends("alice")
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
        strict_json._check_shape(text.encode(), MAX_PARTS)
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
    assert parse_request(Type.PERSON_MESSAGE, body) == requests.PersonMessage("alice", "bob", content, 0)


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, -1, 0, 1, 2**53 + 1])
def test_an_integer_of_64_bits(value: int) -> None:
    """Every signed 64-bit integer is taken exactly."""
    assert parse_request(Type.LOGOUT, token(b"%d" % value)) == requests.Logout("alice", value)


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
    assert parse_request(Type.ALL_FRIENDS, body) == requests.AllFriends("alice")
