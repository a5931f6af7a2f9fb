"""What a command is, and what commands have in common."""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from jelly.chat.model import Conversation, Peer
from jelly.chat.session import Session

CompletionFunction = Callable[[Session, str], Iterable[str]]


class UsageError(Exception):
    """A command was used with wrong arguments."""


@dataclass(frozen=True)
class Command:
    """One command: the function that runs it, and the one that completes its arguments."""

    run: Callable[[Session, str], None]
    complete: CompletionFunction = lambda *_: ()
    """Gets the text after the command, and returns what that text may become."""


def split_word(text: str) -> tuple[str, str]:
    """Return the first word, and the text after it."""
    word, *rest = re.split(r"\s+", text, maxsplit=1)
    return word, rest[0].rstrip() if rest else ""


def required(text: str) -> str:
    """Return a text that must be there. Raises UsageError if it is empty."""
    if not text:
        raise UsageError
    return text


def person_name(text: str) -> str:
    """Return the name of a person, written as in /to. Raises UsageError."""
    peer = Peer.parse(required(text))
    if peer.is_group or not peer.name:
        raise UsageError
    return peer.name


def request(
    session: Session,
    what: str,
    future: "Future[Any]",
    done: Callable[[Any, Conversation], None],
    changes: bool = True,
) -> None:
    """Send a request. Its answer appears in the conversation in which the command was typed.

    `changes`: whether the request would change something.
    """
    where = session.model.current

    def failed(error: BaseException) -> None:
        session.show_error(session.translate.describe_failure(what, error, changes), where)

    session.request(future, lambda result: done(result, where), failed)
