"""Responses and notices, built to the byte."""

import json
from typing import Any

import pytest

from jelly import messages, requests
from jelly.codec import Decoder, Frame, Sign, Status, Type
from jelly.errors import SENTENCES, ErrorCode, Refused

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
        assert requests.parse_ack(body) == 1
    assert requests.parse_ack(b'{"id":0}') == 0
    assert requests.parse_ack(b'{"id":-7}') == -7
    assert requests.parse_ack(b'{"id":%d}' % (2**63 - 1)) == 2**63 - 1
    for body in (b'{"id":01}', b'{"id":1.0}', b'{"id":"1"}', b'{"id":%d}' % 2**63, b'{"id":1}}', b'{"id":}', b""):
        with pytest.raises(Refused):
            requests.parse_ack(body)


def test_a_system_notice() -> None:
    """The event stands first, then its values in their order, compactly."""
    data = messages.system(messages.Event.GROUP_CHANGED, group="böb", members=("alice", "bob"))
    body = '{"event":"group_changed","group":"böb","members":["alice","bob"]}'.encode()
    assert Decoder().feed(data) == [Frame(Sign.NOTICE, Type.SYSTEM, Status.NONE, body)]
