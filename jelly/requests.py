"""The requests of clients: one class for each, and how their bodies become them.

Bodies come from strangers, so every value must have the right type, and fit. Unknown keys are
ignored. The services (`services.py`) decide what a request *means*, and who may send it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jelly.codec import Sign, Status, Type, encode
from jelly.errors import ErrorCode, Refused
from jelly.strict_json import parse_object, to_json

MAX_PASSWORD = 128
"""At most this many characters are in a password."""
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
MAX_FEATURES = 32
"""At most this many features are in a login."""
MAX_REQUEST_ID = 36
"""At most this many characters are in a requestId; a UUID has 36."""

PROFILE_LIMITS = {"name": 64, "sex": 16, "age": 16, "phone": 32, "address": 256, "introduction": 1024}
"""The fields of a profile in the protocol's order, each with its largest number of characters."""

# One class for each request. The fields have the names of the protocol. A field with a default is
# optional. The first field is the actor, the user in whose name the client asks (but see NAMELESS).
#
# `requestId` is an idempotency key: the sender's own name for a message. The server stores a
# message once, however often a client sends it with the same key (see `indexing.py`).


class Login(NamedTuple):
    username: str
    password: str
    features: list[str] | None = None
    device: str | None = None


class Register(NamedTuple):
    username: str
    password: str
    invite: str | None = None


class Logout(NamedTuple):
    username: str
    token: int


class Reconnect(NamedTuple):
    username: str
    token: int
    features: list[str] | None = None
    device: str | None = None


class PersonMessage(NamedTuple):
    sender: str
    receiver: str
    content: str
    time: int
    requestId: str | None = None


class GroupMessage(NamedTuple):
    sender: str
    receiver: str
    content: str
    time: int
    requestId: str | None = None


class CreateGroup(NamedTuple):
    username: str
    groupName: str


class DisbandGroup(NamedTuple):
    username: str
    groupName: str


class AddMember(NamedTuple):
    username: str
    groupName: str
    member: str


class RemoveMember(NamedTuple):
    username: str
    groupName: str
    member: str


class AddFriend(NamedTuple):
    username: str
    friend: str


class AnswerFriend(NamedTuple):
    username: str
    friend: str
    accept: bool


class AnswerGroup(NamedTuple):
    username: str
    groupName: str
    accept: bool


class Block(NamedTuple):
    username: str
    person: str
    blocked: bool


class Blocked(NamedTuple):
    username: str


class RemoveFriend(NamedTuple):
    username: str
    friend: str


class AllFriends(NamedTuple):
    username: str
    after: str | None = None


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


class OwnProfile(NamedTuple):
    username: str


class FriendProfile(NamedTuple):
    username: str
    friend: str


class OwnGroups(NamedTuple):
    username: str
    after: str | None = None


class Ack(NamedTuple):
    id: int


class History(NamedTuple):
    username: str
    person: str | None = None
    groupName: str | None = None
    before: int | None = None
    limit: int | None = None


class ReportPerson(NamedTuple):
    username: str
    person: str
    text: str
    id: int | None = None


class Read(NamedTuple):
    id: int
    person: str | None = None
    groupName: str | None = None


class Conversations(NamedTuple):
    username: str
    after: str | None = None


class CreateInvite(NamedTuple):
    username: str
    uses: int
    hours: int
    groupName: str | None = None


class Join(NamedTuple):
    username: str
    code: str


class DeleteAccount(NamedTuple):
    username: str
    password: str


class Logins(NamedTuple):
    username: str


class EndLogin(NamedTuple):
    username: str
    login: str


class Find(NamedTuple):
    username: str
    prefix: str


class Edit(NamedTuple):
    username: str
    id: int
    content: str
    requestId: str | None = None


class SearchMessages(NamedTuple):
    username: str
    text: str
    person: str | None = None
    groupName: str | None = None
    before: int | None = None
    limit: int | None = None


class SetRole(NamedTuple):
    username: str
    groupName: str
    member: str
    role: str


class Typing(NamedTuple):
    person: str | None = None
    groupName: str | None = None


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
NAMELESS = frozenset({Type.ACK, Type.READ, Type.TYPING})
"""Requests that have no actor: they do not say who asks."""

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
    return encode(Sign.REQUEST, type, Status.NONE, to_json(present).encode() if present else b"")
