"""The JSON of requests: taken apart strictly, and written by the client library."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
from bodies import refusal_of, to_json
from harness import NullTransport
from hypothesis import assume, given
from hypothesis import strategies as st

from jelly import requests
from jelly.codec import LOGINS, Decoder, Frame, Sign, Status, Type
from jelly.dao import Dao
from jelly.delivery import Delivery
from jelly.errors import ErrorCode, Refused
from jelly.group_notices import GroupNotices
from jelly.groups import GroupCache
from jelly.login_guard import LoginGuard
from jelly.messages import refusal
from jelly.notifier import Notifier
from jelly.outcomes import Answer
from jelly.policy import Policy
from jelly.presence import Presence
from jelly.requests import NAMELESS, REQUESTS, Request, parse_request
from jelly.services import Services
from jelly.session_lifecycle import FEATURES
from jelly.sessions import Session, Sessions, Window

# --- requests: one row a type ---------------------------------------------------------------------

SAID = {"sender": "alice", "receiver": "bob", "content": "hello", "time": 1795466503340}
IN_GROUP = {"username": "alice", "groupName": "g1"}

GOOD: list[tuple[Type, dict[str, Any], Request]] = [
    (Type.LOGIN, {"username": "alice", "password": "pw1"}, requests.Login("alice", "pw1")),
    (Type.REGISTER, {"username": "alice", "password": "pw1"}, requests.Register("alice", "pw1")),
    (Type.LOGOUT, {"username": "alice", "token": -(2**63)}, requests.Logout("alice", -(2**63))),
    (Type.RECONNECT, {"username": "alice", "token": 2**63 - 1}, requests.Reconnect("alice", 2**63 - 1)),
    (Type.PERSON_MESSAGE, SAID, requests.PersonMessage("alice", "bob", "hello", 1795466503340)),
    (Type.GROUP_MESSAGE, SAID, requests.GroupMessage("alice", "bob", "hello", 1795466503340)),
    (Type.CREATE_GROUP, IN_GROUP, requests.CreateGroup("alice", "g1")),
    (Type.DISBAND_GROUP, IN_GROUP, requests.DisbandGroup("alice", "g1")),
    (Type.ADD_MEMBER, {**IN_GROUP, "member": "bob"}, requests.AddMember("alice", "g1", "bob")),
    (Type.REMOVE_MEMBER, {**IN_GROUP, "member": "bob"}, requests.RemoveMember("alice", "g1", "bob")),
    (Type.ADD_FRIEND, {"username": "alice", "friend": "bob"}, requests.AddFriend("alice", "bob")),
    (Type.REMOVE_FRIEND, {"username": "alice", "friend": "bob"}, requests.RemoveFriend("alice", "bob")),
    (Type.ALL_FRIENDS, {"username": "alice"}, requests.AllFriends("alice")),
    (Type.UPDATE_PROFILE, {"username": "alice"}, requests.UpdateProfile("alice")),
    (Type.OWN_PROFILE, {"username": "alice"}, requests.OwnProfile("alice")),
    (Type.FRIEND_PROFILE, {"username": "alice", "friend": "bob"}, requests.FriendProfile("alice", "bob")),
    (Type.OWN_GROUPS, {"username": "alice"}, requests.OwnGroups("alice")),
    (Type.ACK, {"id": 2**53}, requests.Ack(2**53)),
    (Type.HISTORY, {"username": "alice"}, requests.History("alice")),
    (
        Type.ANSWER_FRIEND,
        {"username": "alice", "friend": "bob", "accept": True},
        requests.AnswerFriend("alice", "bob", True),
    ),
    (Type.ANSWER_GROUP, {**IN_GROUP, "accept": False}, requests.AnswerGroup("alice", "g1", False)),
    (Type.BLOCK, {"username": "alice", "person": "bob", "blocked": True}, requests.Block("alice", "bob", True)),
    (Type.BLOCKED, {"username": "alice"}, requests.Blocked("alice")),
    (
        Type.SET_ROLE,
        {"username": "alice", "groupName": "team", "member": "bob", "role": "admin"},
        requests.SetRole("alice", "team", "bob", "admin"),
    ),
    (
        Type.INVITE,
        {"username": "alice", "uses": 1, "hours": 2},
        requests.CreateInvite("alice", 1, 2),
    ),
    (Type.JOIN, {"username": "alice", "code": "x"}, requests.Join("alice", "x")),
    (
        Type.DELETE_ACCOUNT,
        {"username": "alice", "password": "x"},
        requests.DeleteAccount("alice", "x"),
    ),
    (Type.LOGINS, {"username": "alice"}, requests.Logins("alice")),
    (Type.END_LOGIN, {"username": "alice", "login": "x"}, requests.EndLogin("alice", "x")),
    (
        Type.REPORT,
        {"username": "alice", "person": "bob", "text": "x"},
        requests.ReportPerson("alice", "bob", "x"),
    ),
    (Type.TYPING, {}, requests.Typing()),
    (Type.READ, {"id": 40}, requests.Read(40)),
    (Type.CONVERSATIONS, {"username": "alice"}, requests.Conversations("alice")),
    (Type.FIND, {"username": "alice", "prefix": "x"}, requests.Find("alice", "x")),
    (Type.EDIT, {"username": "alice", "id": 5, "content": "x"}, requests.Edit("alice", 5, "x")),
    (Type.SEARCH, {"username": "alice", "text": "x"}, requests.SearchMessages("alice", "x")),
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
    if isinstance(values[key], bool):
        wrong = [each for each in wrong if not isinstance(each, bool)] + [1, "true"]
    for value in wrong:
        body = to_json({**values, key: value})
        assert refusal_of(type, body) is ErrorCode.MALFORMED_BODY, body


@pytest.mark.parametrize("type", REQUESTS)
def test_the_actor(type: Type) -> None:
    """The first field is the one who asks: the sender of a message, the `username` of any other
    request. A nameless request has neither.
    """
    fields = REQUESTS[type]._fields
    assert {"sender", "username"}.intersection(fields) == (set() if type in NAMELESS else {fields[0]})


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
    session.user, session.window, session.features = "mallory", Window(), FEATURES  # some requests need one
    refused = set()
    for type, values, _ in GOOD:
        if type not in NAMELESS and type not in LOGINS:
            outcome = services.serve(session, Frame(Sign.REQUEST, type, Status.NONE, to_json(values)))
            assert outcome == Answer(refusal(type, Refused(ErrorCode.NOT_YOURSELF)))
            refused.add(type)
    assert refused == set(REQUESTS) - LOGINS - {Type.ACK, Type.READ, Type.TYPING}


OPTIONAL = [
    (Type.HISTORY, "person", "bob"), (Type.HISTORY, "groupName", "g1"), (Type.HISTORY, "before", 7),
    (Type.READ, "person", "bob"), (Type.READ, "groupName", "g1"), (Type.CONVERSATIONS, "after", "0 bob"),
    (Type.HISTORY, "limit", 7), (Type.TYPING, "person", "bob"), (Type.TYPING, "groupName", "g1"),
    (Type.PERSON_MESSAGE, "requestId", "r1"), (Type.GROUP_MESSAGE, "requestId", "r1"),
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
        assert parsed == requests.PersonMessage("alice", "bob", "hello", 1795466503340, good)
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
        changed: dict[str, Any] = {key: value}
        assert parsed == requests.UpdateProfile("alice")._replace(**changed)


def test_all_fields_of_a_profile() -> None:
    """Every field lands in its place."""
    values: dict[str, Any] = (
        {"username": "alice"} | {key: f"new {key}" for key in PROFILE} | {"showSeen": False, "showRead": True}
    )
    assert parse_request(Type.UPDATE_PROFILE, to_json(values)) == requests.UpdateProfile(**values)


@pytest.mark.parametrize("value", [None, 41, 4.1, True, [], {}], ids=repr)
@pytest.mark.parametrize("key", PROFILE)
def test_a_field_of_a_profile_is_a_string(key: str, value: object) -> None:
    """A field may be left out, but not be null or anything else that is no string."""
    body = to_json({"username": "alice", key: value})
    assert refusal_of(Type.UPDATE_PROFILE, body) is ErrorCode.MALFORMED_BODY


# --- LOGIN and RECONNECT: features make a client modern -------------------------------------------

WITH_FEATURES: list[tuple[Type, dict[str, Any], Callable[..., Request]]] = [
    (Type.LOGIN, {"username": "alice", "password": "pw1"}, partial(requests.Login, "alice", "pw1")),
    (Type.RECONNECT, {"username": "alice", "token": 1}, partial(requests.Reconnect, "alice", 1)),
]
either_login = pytest.mark.parametrize(("type", "values", "request_"), WITH_FEATURES, ids=["LOGIN", "RECONNECT"])


@either_login
@pytest.mark.parametrize("features", [[], ["ack"], ["ack", "ack", "", "中文"], ["x"] * requests.MAX_FEATURES])
def test_features(type: Type, values: dict[str, Any], request_: Callable[..., Request], features: list[str]) -> None:
    """They are taken as they are, whether anybody knows them or not; without them there is None."""
    assert parse_request(type, to_json({**values, "features": features})) == request_(features)
    assert parse_request(type, to_json(values)) == request_(None)


@pytest.mark.parametrize(("type", "values"), [row[:2] for row in WITH_FEATURES], ids=["LOGIN", "RECONNECT"])
@pytest.mark.parametrize(
    "features",
    [None, "ack", {"ack": True}, 1, True, [1], [None], [["ack"]], ["ack", True], ["x"] * (requests.MAX_FEATURES + 1)],
    ids=repr,
)
def test_bad_features(type: Type, values: dict[str, Any], features: object) -> None:
    """Anything but an array of strings is refused, and so are too many of them."""
    assert refusal_of(type, to_json({**values, "features": features})) is ErrorCode.MALFORMED_BODY


# --- any body -------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()))
any_scalar = st.none() | st.booleans() | st.integers() | st.floats() | any_text
any_json = st.recursive(
    any_scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=12
)
a_type = st.sampled_from(sorted(REQUESTS))
good_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
an_integer = st.integers(-(2**63), 2**63 - 1)
GOOD_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("token", "time", "id", "before", "limit", "uses", "hours"), an_integer),
    "showSeen": st.booleans(),
    **dict.fromkeys(("accept", "blocked", "showRead"), st.booleans()),
    "features": st.lists(good_text, max_size=requests.MAX_FEATURES),
    "requestId": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=requests.MAX_REQUEST_ID),
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
    assume(any(value is not None for value in values.values()))  # else the body is empty
    [frame] = Decoder().feed(requests.encode_request(type, values))
    assert frame[:3] == (Sign.REQUEST, type, Status.NONE)
    assert parse_request(type, frame.body) == tuple(values.values())


@given(st.binary() | an_integer.map(lambda id: to_json({"id": id})) | st.from_regex(rb'\{"id": ?-?[0-9]+\}'))
def test_any_acknowledgement(body: bytes) -> None:
    """The short way of reading one comes to the same as the usual one."""
    try:
        expected = parse_request(Type.ACK, body)
    except Refused:
        with pytest.raises(Refused):
            requests.parse_ack(body)
    else:
        assert requests.Ack(requests.parse_ack(body)) == expected
