"""Commands about conversations: open one, older messages, edits, searching."""

import re
from pathlib import Path
from typing import Any

from client_api import ErrorCode, History, PastMessage, RequestError
from jelly.chat import texts
from jelly.chat.command import UsageError, required, split_word
from jelly.chat.history_loader import HISTORY_TEXTS, PAGE
from jelly.chat.log_file import LogFile
from jelly.chat.model import LOADABLE, DeliveryStatus, LineKind, Peer
from jelly.chat.session import Session

MAX_PAGE = 100
SEARCH_PAGE = 20
"""How many messages /search shows at a time."""
MAX_SEARCHES = 20
"""How often /search goes on by itself when the server has found nothing so far."""


def to(session: Session, rest: str) -> None:
    if not rest:
        return _list_conversations(session)
    peer, text = _peer_and_text(session, rest)
    if not peer.name:
        raise UsageError
    session.open(peer)
    if text:
        session.send(session.model.current, text)
    return None


def _peer_and_text(session: Session, rest: str) -> tuple[Peer, str]:
    """Split the arguments of /to. A known name may have spaces (other servers allow them)."""
    if rest in set(peer_names(session, "")):
        return Peer.parse(rest), ""
    name, text = split_word(rest)
    return Peer.parse(name), text


def _list_conversations(session: Session) -> None:
    shown = [
        f"{number} {conversation.title}" + (f" ({conversation.unread})" if conversation.unread else "")
        for number, conversation in enumerate(session.model)
        if conversation.peer
    ]
    session.show_info("\n".join(shown) or session.translate(texts.NO_CONVERSATIONS))


def peer_names(session: Session, rest: str) -> list[str]:
    talking = [str(peer) for peer in session.model.conversations]
    groups = [str(Peer(name, True)) for name in session.model.groups]
    return [*talking, *groups, *(str(Peer(name)) for name in session.model.known_people())]


def resend(session: Session, rest: str) -> None:
    if not session.resend(session.model.current):
        session.show_info(session.translate(texts.NOTHING_TO_RESEND))


def discard(session: Session, rest: str) -> None:
    count = session.discard(session.model.current)
    session.show_info(session.translate(texts.DISCARDED if count else texts.NOTHING_TO_DISCARD, count=count))


def close(session: Session, rest: str) -> None:
    conversation = session.model.current
    if conversation.peer is None:
        return session.show_error(session.translate(texts.NO_RECEIVER))
    if any(line.status is not DeliveryStatus.NONE for line in conversation.lines):
        return session.show_error(session.translate(texts.NOT_CLOSED))
    session.model.close(conversation)
    return None


def clear(session: Session, rest: str) -> None:
    session.model.current.clear()


def log(session: Session, rest: str) -> None:
    """Write what is shown to a file; without a file, end that."""
    before = session.log_file
    session.end_log()
    if not rest:
        text = texts.LOGGING_ENDED if before else texts.NOT_LOGGING
        session.show_info(session.translate(text, file=before and before.path))
        return
    try:
        path = Path(rest).expanduser()
        log_file = LogFile(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        session.show_error(session.translate(texts.CANNOT_LOG, file=rest, reason=reason))
        return
    session.show_info(session.translate(texts.LOGGING, file=path))
    session.log_file = log_file


def history(session: Session, rest: str) -> None:
    conversation = session.model.current
    if conversation.peer is None:
        return session.show_error(session.translate(texts.NO_RECEIVER))
    if rest and not (re.fullmatch(r"[0-9]{1,3}", rest) and 1 <= int(rest) <= MAX_PAGE):
        raise UsageError
    if conversation.history_state in LOADABLE:
        session.load_history(conversation, int(rest) if rest else PAGE, by_command=True)
    else:
        session.show_info(session.translate(HISTORY_TEXTS[conversation.history_state]))
    return None


def edit(session: Session, rest: str) -> None:
    """Change the last message that the user has written here."""
    _change_last(session, required(rest))


def recall(session: Session, rest: str) -> None:
    _change_last(session, "")


def _change_last(session: Session, text: str) -> None:
    conversation = session.model.current
    if line := conversation.last_own_message():
        session.edit(conversation, line, text)
    else:
        session.show_error(session.translate(texts.NOTHING_TO_EDIT))


def search(session: Session, rest: str) -> None:
    """Show the messages of this conversation (on the first screen: of all) that have a text."""
    _Search(session, required(rest)).run()


class _Search:
    """One /search. A server that cannot search has its pages read here, one after the other."""

    def __init__(self, session: Session, text: str) -> None:
        self._session, self._text, self._where = session, text, session.model.current
        self._peer = self._where.peer

    def run(self) -> None:
        last = self._session.search_goes_on
        self._ask(last[2] if last and last[:2] == (self._peer, self._text) else None, MAX_SEARCHES)

    def _ask(self, before: int | None, left: int) -> None:
        """Ask the server, and at most `left` times more while it has found nothing."""
        peer, session = self._peer, self._session
        scope: dict[str, Any] = {} if peer is None else {"group" if peer.is_group else "person": peer.name}

        def done(page: History) -> None:
            if page.more and not page.messages and left:
                self._ask(page.before, left - 1)
            else:
                self._show(page.messages, page.before if page.more else None)

        def failed(error: BaseException) -> None:
            if peer and _is_unknown(error):
                self._read(peer, before, (), left)
            else:
                self._failed(error)

        future = session.client.search(self._text, **scope, before=before, limit=SEARCH_PAGE)
        session.request(future, done, failed)

    def _read(self, peer: Peer, before: int | None, found: tuple[PastMessage, ...], left: int) -> None:
        """Read a page, and at most `left` more until there is enough."""
        session, wanted = self._session, self._text.casefold()

        def done(page: History) -> None:
            messages = *(each for each in page.messages if wanted in each.content.casefold()), *found
            if page.more and len(messages) < SEARCH_PAGE and left:
                self._read(peer, page.before, messages, left - 1)
            else:
                self._show(messages, page.before if page.more else None)

        def failed(error: BaseException) -> None:
            if _is_unknown(error):  # there is no history either
                self._show(self._loaded(wanted), None)
            else:
                self._failed(error)

        read = session.client.group_history if peer.is_group else session.client.history
        session.request(read(peer.name, before=before, limit=MAX_PAGE), done, failed)

    def _loaded(self, wanted: str) -> tuple[PastMessage, ...]:
        """Return the messages here that have the text."""
        return tuple(
            PastMessage(line.sender, "", line.text, int(line.at.timestamp() * 1000), line.id or 0)
            for line in self._where.lines
            if line.kind in (LineKind.INCOMING, LineKind.OUTGOING) and wanted in line.text.casefold()
        )

    def _show(self, messages: tuple[PastMessage, ...], before: int | None) -> None:
        session, peer = self._session, self._peer
        session.search_goes_on = None if before is None else (peer, self._text, before)
        lines = [_found_line(session, message, is_everywhere=peer is None) for message in messages]
        if not lines:
            lines = [session.translate(texts.FOUND_NOTHING, wanted=self._text)]
        if before is not None:
            lines.append(session.translate(texts.SEARCH_AGAIN, wanted=self._text))
        session.show_info("\n".join(lines), self._where)

    def _failed(self, error: BaseException) -> None:
        what = f"/search {self._text}"
        self._session.show_error(self._session.translate.describe_failure(what, error, changes=False), self._where)


def _is_unknown(error: BaseException) -> bool:
    return isinstance(error, RequestError) and error.likely_code == ErrorCode.UNKNOWN_TYPE


def _found_line(session: Session, message: PastMessage, is_everywhere: bool) -> str:
    sender = str(Peer(message.sender))
    if is_everywhere:
        receiver = Peer(message.receiver, message.group is not None)
        sender = session.translate(texts.FROM_TO, sender=sender, receiver=receiver)
    when = message.written_at.strftime("%Y-%m-%d %H:%M")
    return session.translate(texts.FOUND_LINE, when=when, sender=sender, content=message.content)
