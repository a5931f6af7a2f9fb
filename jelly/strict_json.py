"""The JSON of bodies: written without white space, and parsed strictly.

Bodies come from strangers: UTF-8 first, one object, no duplicate keys, no NaN, no huge numbers, no
deep nesting, no lone surrogates.
"""

import json
import math
from typing import Any, NoReturn

from jelly.errors import ErrorCode, Refused

MAX_DEPTH = 16
"""At most this many arrays and objects are nested, the outermost object included."""
MAX_PARTS = 8192
"""At most this many commas and opening brackets are in a body, outside of strings. Each number and
each object costs a call in Python."""
MAX_INTEGER_DIGITS = 20
"""At most this many characters are in an integer. (One of 64 bits has 19 digits and a sign.)"""

to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Write a value. (Half of a surrogate pair fails only where the text becomes bytes.)"""


def parse_object(body: bytes, max_parts: int | None = MAX_PARTS) -> dict[str, Any]:
    """Parse the JSON object in a body. Raises Refused: `malformed_body` for anything else.

    `max_parts` is None for a response: its list of groups may be long.
    """
    try:
        text = body.decode()  # refuses overlong forms and surrogates
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH or len(body) > MAX_PARTS:
            _check_shape(body, len(body) if max_parts is None else max_parts)
        if text.startswith("{") and text.endswith("}"):
            # `decode` would look for white space on both sides, which is a quarter of its time.
            value, end = _decoder.raw_decode(text)
            if end != len(text):
                raise ValueError("text after the object")
        else:
            value = _decoder.decode(text)
        if b"\\u" in body:
            to_json(value).encode()  # raises ValueError for half of a surrogate pair
    except ValueError as error:
        raise Refused(ErrorCode.MALFORMED_BODY) from error
    if value.__class__ is not dict:
        raise Refused(ErrorCode.MALFORMED_BODY)
    return value


def _check_shape(body: bytes, max_parts: int) -> None:
    """Raise ValueError for deep nesting or too many parts before the parser sees them.

    The parser recurses, so 20,000 brackets would end in a RecursionError. Methods of
    bytes do all the work, because a step in Python for each bracket would take longer than the
    parser. What is not JSON may pass, but only if it is shallow up to the place at which the parser
    gives up.
    """
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * (max_parts + 1):  # a part has at most a key and a value
        raise ValueError("too many strings")
    outside = b"".join(body.split(b'"')[::2])  # no quote is escaped any more
    brackets = outside.translate(_SQUARE, _NO_BRACKETS)
    opening = brackets.count(b"[")
    if opening + outside.count(b",") > max_parts:
        raise ValueError("too many parts")
    if 2 * opening != len(brackets):
        raise ValueError("a bracket without its other half")
    for _ in range(MAX_DEPTH):  # each round takes the innermost brackets away
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ValueError("nested too deeply")


_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate key")
    return values


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError("huge integer")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_reject_duplicates,
    parse_int=_parse_integer,
    parse_float=_parse_float,
    parse_constant=_reject_constant,
)
