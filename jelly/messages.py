"""What the server says: its responses, the notices of messages, and those of events."""

import math
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from json.encoder import encode_basestring as quote
from typing import Any

from jelly.codec import Sign, Status, Type, encode
from jelly.errors import SENTENCES, ErrorCode, Refused
from jelly.strict_json import to_json


def response(type: int, values: Mapping[str, Any] | None = None) -> bytes:
    """Return a SUCCESS frame. Without `values` the body is empty. A value of None is left out."""
    if values is None:
        return encode(Sign.RESPONSE, type, Status.SUCCESS)
    body = to_json({key: value for key, value in values.items() if value is not None})
    return encode(Sign.RESPONSE, type, Status.SUCCESS, body.encode())


SUCCESS: dict[int, bytes] = {type: response(type) for type in Type}
"""For each type, the SUCCESS frame with an empty body."""


def error_response(type: int, status: Status, code: ErrorCode, sentence: str = "", **values: int) -> bytes:
    """Return a frame that says what went wrong: `code` for programs, `sentence` for people.

    Without a sentence, the one of the code is used.
    """
    body = to_json({"error": code, "message": sentence or SENTENCES[code], **values})
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
    GAP = "gap"
    OWN_READ = "own_read"


def system(event: Event, **values: Any) -> bytes:
    """Return the SYSTEM notice of an event, for modern clients. The values keep their order."""
    return encode(Sign.NOTICE, Type.SYSTEM, Status.NONE, to_json({"event": event, **values}).encode())
