"""The JSON of the protocol: parse the bodies of requests, and write responses and notices.

Bodies come from strangers, so they are parsed strictly: UTF-8 first, one object, no duplicate keys,
no NaN, no huge numbers, no deep nesting, no lone surrogates, every value of the right type. Unknown
keys are ignored. The services (`services.py`) decide what a request *means*, and who may send it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple, NoReturn

from jelly.codec import Sign, Status, Type, encode
from jelly.errors import SENTENCES, ErrorCode, Refused

MAX_PASSWORD = 128
"""At most this many characters are in a password."""
MAX_DEPTH = 16
"""At most this many arrays and objects are nested, the outermost object included."""
MAX_PARTS = 8192
"""At most this many commas and opening brackets are in a body, outside of strings. Each number and
each object costs a call in Python."""
MAX_INTEGER_DIGITS = 20
"""At most this many characters are in an integer. (One of 64 bits has 19 digits and a sign.)"""
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
MAX_FEATURES = 32
"""At most this many features are in a login."""
MAX_REQUEST_ID = 36
"""At most this many characters are in a requestId; a UUID has 36."""

PROFILE_LIMITS = {"name": 64, "sex": 16, "age": 16, "phone": 32, "address": 256, "introduction": 1024}
"""The fields of a profile in the protocol's order, each with its largest number of characters."""


# --- requests ---------------------------------------------------------------------------------
# One class for each request. The fields have the names of the protocol. A field with a default is
# optional. `actor` is the user in whose name the client asks: it must be the user who has logged
# in. It is None if the body names no such user.
#
# `requestId` is an idempotency key: the sender's own name for a message. The server stores a
# message once, however often a client sends it with the same key (see `indexing.py`).


class Login(NamedTuple):
    username: str
    password: str
    features: list[str] | None = None

    @property
    def actor(self) -> str:
        return self.username


class Register(NamedTuple):
    username: str
    password: str
    invite: str | None = None

    @property
    def actor(self) -> str:
        return self.username


class Logout(NamedTuple):
    username: str
    token: int

    @property
    def actor(self) -> str:
        return self.username


class Reconnect(NamedTuple):
    username: str
    token: int
    features: list[str] | None = None

    @property
    def actor(self) -> str:
        return self.username


class PersonMessage(NamedTuple):
    sender: str
    receiver: str
    content: str
    time: int
    requestId: str | None = None

    @property
    def actor(self) -> str:
        return self.sender


class GroupMessage(NamedTuple):
    sender: str
    receiver: str
    content: str
    time: int
    requestId: str | None = None

    @property
    def actor(self) -> str:
        return self.sender


class CreateGroup(NamedTuple):
    username: str
    groupName: str

    @property
    def actor(self) -> str:
        return self.username


class DisbandGroup(NamedTuple):
    username: str
    groupName: str

    @property
    def actor(self) -> str:
        return self.username


class AddMember(NamedTuple):
    username: str
    groupName: str
    member: str

    @property
    def actor(self) -> str:
        return self.username


class RemoveMember(NamedTuple):
    username: str
    groupName: str
    member: str

    @property
    def actor(self) -> str:
        return self.username


class AddFriend(NamedTuple):
    username: str
    friend: str

    @property
    def actor(self) -> str:
        return self.username


class AnswerFriend(NamedTuple):
    username: str
    friend: str
    accept: bool

    @property
    def actor(self) -> str:
        return self.username


class AnswerGroup(NamedTuple):
    username: str
    groupName: str
    accept: bool

    @property
    def actor(self) -> str:
        return self.username


class Block(NamedTuple):
    username: str
    person: str
    blocked: bool

    @property
    def actor(self) -> str:
        return self.username


class Blocked(NamedTuple):
    username: str

    @property
    def actor(self) -> str:
        return self.username


class RemoveFriend(NamedTuple):
    username: str
    friend: str

    @property
    def actor(self) -> str:
        return self.username


class AllFriends(NamedTuple):
    username: str
    after: str | None = None

    @property
    def actor(self) -> str:
        return self.username


class UpdateProfile(NamedTuple):
    username: str
    password: str | None = None
    oldPassword: str | None = None
    name: str | None = None
    sex: str | None = None
    age: str | None = None
    phone: str | None = None
    address: str | None = None
    introduction: str | None = None
    showSeen: bool | None = None
    showRead: bool | None = None

    @property
    def actor(self) -> str:
        return self.username


class OwnProfile(NamedTuple):
    username: str

    @property
    def actor(self) -> str:
        return self.username


class FriendProfile(NamedTuple):
    username: str
    friend: str

    @property
    def actor(self) -> str:
        return self.username


class OwnGroups(NamedTuple):
    username: str
    after: str | None = None

    @property
    def actor(self) -> str:
        return self.username


class Ack(NamedTuple):
    id: int

    @property
    def actor(self) -> None:
        return None


class History(NamedTuple):
    username: str
    person: str | None = None
    groupName: str | None = None
    before: int | None = None
    limit: int | None = None

    @property
    def actor(self) -> str:
        return self.username


class ReportPerson(NamedTuple):
    username: str
    person: str
    text: str
    id: int | None = None

    @property
    def actor(self) -> str:
        return self.username


class Read(NamedTuple):
    id: int
    person: str | None = None
    groupName: str | None = None

    @property
    def actor(self) -> None:
        return None


class Conversations(NamedTuple):
    username: str
    after: str | None = None

    @property
    def actor(self) -> str:
        return self.username


class CreateInvite(NamedTuple):
    username: str
    uses: int
    hours: int
    groupName: str | None = None

    @property
    def actor(self) -> str:
        return self.username


class Join(NamedTuple):
    username: str
    code: str

    @property
    def actor(self) -> str:
        return self.username


class DeleteAccount(NamedTuple):
    username: str
    password: str

    @property
    def actor(self) -> str:
        return self.username


class Logins(NamedTuple):
    username: str

    @property
    def actor(self) -> str:
        return self.username


class EndLogin(NamedTuple):
    username: str
    login: str

    @property
    def actor(self) -> str:
        return self.username


class Find(NamedTuple):
    username: str
    prefix: str

    @property
    def actor(self) -> str:
        return self.username


class Edit(NamedTuple):
    username: str
    id: int
    content: str
    requestId: str | None = None

    @property
    def actor(self) -> str:
        return self.username


class SearchMessages(NamedTuple):
    username: str
    text: str
    person: str | None = None
    groupName: str | None = None
    before: int | None = None
    limit: int | None = None

    @property
    def actor(self) -> str:
        return self.username


class SetRole(NamedTuple):
    username: str
    groupName: str
    member: str
    role: str

    @property
    def actor(self) -> str:
        return self.username


class Typing(NamedTuple):
    person: str | None = None
    groupName: str | None = None

    @property
    def actor(self) -> None:
        return None


Request = (
    Login | Register | Logout | Reconnect | PersonMessage | GroupMessage | CreateGroup | DisbandGroup
    | AddMember | RemoveMember | AddFriend | RemoveFriend | AllFriends | UpdateProfile | OwnProfile
    | FriendProfile | OwnGroups | Ack | History | AnswerFriend | AnswerGroup | Block | Blocked
    | SearchMessages | SetRole | Find | Typing | ReportPerson | Edit | Read | Conversations
    | CreateInvite | Join | DeleteAccount | Logins | EndLogin
)  # fmt: skip

REQUESTS: dict[int, type[Request]] = {
    Type.LOGIN: Login,
    Type.REGISTER: Register,
    Type.LOGOUT: Logout,
    Type.RECONNECT: Reconnect,
    Type.PERSON_MESSAGE: PersonMessage,
    Type.GROUP_MESSAGE: GroupMessage,
    Type.CREATE_GROUP: CreateGroup,
    Type.DISBAND_GROUP: DisbandGroup,
    Type.ADD_MEMBER: AddMember,
    Type.REMOVE_MEMBER: RemoveMember,
    Type.ADD_FRIEND: AddFriend,
    Type.REMOVE_FRIEND: RemoveFriend,
    Type.ALL_FRIENDS: AllFriends,
    Type.UPDATE_PROFILE: UpdateProfile,
    Type.OWN_PROFILE: OwnProfile,
    Type.FRIEND_PROFILE: FriendProfile,
    Type.OWN_GROUPS: OwnGroups,
    Type.ACK: Ack,
    Type.HISTORY: History,
    Type.ANSWER_FRIEND: AnswerFriend,
    Type.ANSWER_GROUP: AnswerGroup,
    Type.BLOCK: Block,
    Type.BLOCKED: Blocked,
    Type.INVITE: CreateInvite,
    Type.JOIN: Join,
    Type.DELETE_ACCOUNT: DeleteAccount,
    Type.LOGINS: Logins,
    Type.END_LOGIN: EndLogin,
    Type.REPORT: ReportPerson,
    Type.READ: Read,
    Type.CONVERSATIONS: Conversations,
    Type.FIND: Find,
    Type.SEARCH: SearchMessages,
    Type.SET_ROLE: SetRole,
    Type.TYPING: Typing,
    Type.EDIT: Edit,
}

MESSAGES = frozenset({Type.PERSON_MESSAGE, Type.GROUP_MESSAGE, Type.EDIT})
"""The requests that send a message to other users. (An edit is one, too.)"""
UNANSWERED = frozenset({Type.LOGOUT, Type.READ, Type.TYPING})
"""Requests whose clients wait for no response, not even SERVER_BUSY. (If they are wrong, they get
one all the same.) A LOGOUT that fails closes the connection, as any other."""

_FIELD_TYPES: dict[str, type] = {  # all other fields are strings
    "uses": int, "hours": int,
    "token": int, "time": int, "id": int, "features": list, "before": int, "limit": int, "showSeen": bool,
    "accept": bool, "blocked": bool, "showRead": bool,
}  # fmt: skip
_TYPE_NAMES: dict[type, str] = {str: "a string", int: "an integer", list: "an array of strings", bool: "true or false"}


def parse_request(type: int, body: bytes) -> Request:
    """Parse the body of a request. Raises Refused: `unknown_type` or `malformed_body`."""
    cls = REQUESTS.get(type)
    if cls is None:
        raise Refused(ErrorCode.UNKNOWN_TYPE)
    values = parse_object(body)
    arguments: list[Any] = []
    for name, wanted, optional, check in _FIELDS[type]:
        value = values.get(name)
        if value.__class__ is not wanted:  # not isinstance, which accepts True as an int
            if not (optional and name not in values):
                raise Refused(ErrorCode.MALFORMED_BODY, f"The body must have {name!r}, {_TYPE_NAMES[wanted]}.")
        elif isinstance(value, int) and not MIN_INT64 <= value <= MAX_INT64:
            raise Refused(ErrorCode.MALFORMED_BODY, f"The integer {name!r} must fit into 64 bits.")
        elif check is not None:
            check(name, value)
        arguments.append(value)
    return cls(*arguments)


def _check_strings(name: str, values: list[Any]) -> None:
    if not all(value.__class__ is str for value in values):
        raise Refused(ErrorCode.MALFORMED_BODY, f"The body must have {name!r}, {_TYPE_NAMES[list]}.")
    if len(values) > MAX_FEATURES:
        raise Refused(ErrorCode.MALFORMED_BODY, f"The array {name!r} may have at most {MAX_FEATURES} elements.")


def _check_request_id(name: str, value: str) -> None:
    if not 1 <= len(value) <= MAX_REQUEST_ID:
        raise Refused(ErrorCode.MALFORMED_BODY, f"The {name!r} must have 1 to {MAX_REQUEST_ID} characters.")


_Check = Callable[[str, Any], None]
_CHECKS: dict[str, _Check] = {"features": _check_strings, "requestId": _check_request_id}
# For each request, its fields as (name, JSON type, optional, further check): computed once, because
# computing them for every frame would take longer.
_FIELDS: dict[int, tuple[tuple[str, type, bool, _Check | None], ...]] = {
    type: tuple(
        (
            name,
            _FIELD_TYPES.get(name, str),
            name in cls._field_defaults,
            _CHECKS.get(name),
        )
        for name in cls._fields
    )
    for type, cls in REQUESTS.items()
}


def parse_ack(body: bytes) -> int:
    """Parse the id in the body of an ACK. Raises Refused: `malformed_body`.

    Modern clients send an ACK for each message, and nearly all of them look the same. So a regular
    expression parses these, in a sixth of the time that the JSON parser takes.
    """
    match = _COMPACT_ACK(body)
    if match is not None:
        return int(match[1])
    request = parse_request(Type.ACK, body)
    assert isinstance(request, Ack)
    return request.id


_COMPACT_ACK = re.compile(rb'\{"id":([1-9][0-9]{0,17})\}').fullmatch


def encode_request(type: int, values: Mapping[str, Any]) -> bytes:
    """Return the frame of a request. Values that are None are left out.

    Raises UnicodeEncodeError for a lone surrogate.
    """
    present = {key: value for key, value in values.items() if value is not None}
    return encode(Sign.REQUEST, type, Status.NONE, _encode(present).encode() if present else b"")


# --- strict JSON ------------------------------------------------------------------------------


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
            _encode(value).encode()  # raises ValueError for half of a surrogate pair
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


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


# --- responses and notices --------------------------------------------------------------------


def response(type: int, values: Mapping[str, Any] | None = None) -> bytes:
    """Return a SUCCESS frame. Without `values` the body is empty. A value of None is left out."""
    if values is None:
        return encode(Sign.RESPONSE, type, Status.SUCCESS)
    body = _encode({key: value for key, value in values.items() if value is not None})
    return encode(Sign.RESPONSE, type, Status.SUCCESS, body.encode())


SUCCESS: dict[int, bytes] = {type: response(type) for type in Type}
"""For each type, the SUCCESS frame with an empty body."""


def error_response(type: int, status: Status, code: ErrorCode, sentence: str = "", **values: int) -> bytes:
    """Return a frame that says what went wrong: `code` for programs, `sentence` for people.

    Without a sentence, the one of the code is used.
    """
    body = _encode({"error": code, "message": sentence or SENTENCES[code], **values})
    return encode(Sign.RESPONSE, type, status, body.encode())


def refusal(type: int, error: Refused, is_modern: bool = False) -> bytes:
    """Return the REQUEST_ERROR frame for a request that was refused.

    A modern client is told when to send the request again, if that is known.
    """
    values = {}
    if is_modern and error.retry_after is not None:
        values["retryAfter"] = max(1, math.ceil(error.retry_after * 1000))
    return error_response(type, Status.REQUEST_ERROR, error.code, str(error), **values)


class NoticeForm(IntEnum):
    """The keys that the notice of a message has for a client."""

    CLASSIC = 0
    WITH_ID = 1
    """For the feature `ack`: `id`, too."""
    WITH_TIME = 2
    """For the feature `ids`: `id`, and `stored` if the id says when that was."""


def stored_response(type: int, id: int, stored: int | None) -> bytes:
    """Return the SUCCESS frame for a message, for the feature `ids`."""
    return response(type, {"id": id, "stored": stored})


def notice(
    type: int,
    sender: str,
    receiver: str,
    content: str,
    time: int,
    id: int | None = None,
    stored: int | None = None,
    replaces: int | None = None,
) -> bytes:
    """Return the frame that brings a message to a receiver. A value of None is left out.

    The body is built from these values only, in the protocol's order: other keys of the sender's
    request must not reach the receiver. (Quoting the strings takes a third of the time of encoding
    a dict.)
    """
    end = "" if id is None else f',"id":{id}'
    if stored is not None:
        end += f',"stored":{stored}'
    if replaces is not None:
        end += f',"replaces":{replaces}'
    body = f'{{"sender":{quote(sender)},"receiver":{quote(receiver)},"content":{quote(content)},"time":{time}{end}}}'
    return encode(Sign.NOTICE, type, Status.NONE, body.encode())


def history_entry(
    sender: str, receiver: str, content: str, time: int, id: int, stored: int | None, edited: int | None = None
) -> dict[str, Any]:
    """Return a message of a page of history: the keys of a notice, in their order; and for an
    edited one the id of its last edit.
    """
    values: dict[str, Any] = {"sender": sender, "receiver": receiver, "content": content, "time": time, "id": id}
    if stored is not None:
        values["stored"] = stored
    if edited is not None:
        values["edited"] = edited
    return values


class Event(StrEnum):
    """The values of the key `event` in a SYSTEM notice. Part of the protocol: never rename one."""

    TAKEN_OVER = "taken_over"
    PASSWORD_CHANGED = "password_changed"
    SHUTDOWN = "shutdown"
    PRESENCE = "presence"
    FRIEND_REQUEST = "friend_request"
    FRIEND_ANSWER = "friend_answer"
    GROUP_INVITATION = "group_invitation"
    GROUP_CHANGED = "group_changed"
    GROUP_DISBANDED = "group_disbanded"
    INBOX_FULL = "inbox_full"
    TYPING = "typing"
    READ = "read"
    DELIVERED = "delivered"
    LOGGED_OUT = "logged_out"


def system(event: Event, **values: Any) -> bytes:
    """Return the SYSTEM notice of an event, for modern clients. The values keep their order."""
    return encode(Sign.NOTICE, Type.SYSTEM, Status.NONE, _encode({"event": event, **values}).encode())
