"""Bodies of requests, and how the server refuses them."""

import json

import pytest

from jelly.errors import ErrorCode, Refused
from jelly.requests import parse_request


def to_json(values: object) -> bytes:
    """A body as a client may write it."""
    return json.dumps(values).encode()


def refusal_of(type: int, body: bytes) -> ErrorCode:
    """The code with which a body is refused."""
    with pytest.raises(Refused) as caught:
        parse_request(type, body)
    return caught.value.code
