"""What the user writes: it is sent, sent later, sent again, or edited."""

import secrets
from collections.abc import Callable
from datetime import datetime

from client_api import ConnectionLost, ErrorCode, JellyClient, RequestError, Sent, State
from jelly.chat import texts
from jelly.chat.controller import Controller
from jelly.chat.job_queue import Job
from jelly.chat.kept import KeptMessage
from jelly.chat.model import Conversation, DeliveryStatus, Line, LineKind, Peer
from jelly.chat.translator import Translator, can_resend_help, is_definite_failure


class Outbox(Controller):
    """Sends messages, and says of each line what became of it.

    What is not confirmed is kept in a file, and shown at the next start.
    """

    def __init__(
        self, client: JellyClient, translate: Translator, post: Callable[[Job], None], now: Callable[[], datetime]
    ) -> None:
        super().__init__(client, translate, post, now)
        self._waiting: list[tuple[Conversation, Line]] = []  # lines that are sent when there is a connection again
        self._unconfirmed: dict[Line, Conversation] = {}  # in the order in which they were written

    def send(self, conversation: Conversation, text: str) -> None:
        """Send a message.

        Its line appears at once, and is marked until the server has stored it.
        """
        line = conversation.add(Line(LineKind.OUTGOING, self.now(), text, self.name, DeliveryStatus.PENDING))
        line.request_id = secrets.token_urlsafe(12)
        self._unconfirmed[line] = conversation
        self.line_added(conversation, line)
        self._transmit(conversation, line)

    def keep(self) -> bool:
        """Keep what is not confirmed, and the drafts. Return whether it is safe."""
        for line in [line for line in self._unconfirmed if line.status is DeliveryStatus.NONE]:
            del self._unconfirmed[line]
        drafts = {str(conversation.peer or ""): conversation.draft for conversation in self.model if conversation.draft}
        return self.kept.save(drafts, self._kept_messages())

    def _kept_messages(self) -> list[KeptMessage]:
        waiting = {line for _, line in self._waiting}
        return [
            KeptMessage(
                str(conversation.peer),
                line.text,
                line.at.timestamp(),
                line.request_id,
                line.status is not DeliveryStatus.FAILED and line not in waiting,
            )
            for line, conversation in self._unconfirmed.items()
        ]

    def show_kept(self) -> None:
        """Show what the last chat has left."""
        drafts, messages = self.kept.load()
        for to, text in drafts.items():
            (self.model[Peer.parse(to)] if to else self.model.home).draft = text
        for message in messages:
            conversation = self.model[Peer.parse(message.to)]
            at = datetime.fromtimestamp(message.time).astimezone()
            status = DeliveryStatus.UNKNOWN if message.perhaps else DeliveryStatus.FAILED
            line = Line(LineKind.OUTGOING, at, message.text, self.name, status, request_id=message.requestId)
            line.reason = self.translate(texts.KEPT_PERHAPS if message.perhaps else texts.KEPT)
            self._unconfirmed[conversation.add(line)] = conversation
            self.ui.line_undelivered(conversation, line)
        self.show_worth_resending()

    def show_worth_resending(self) -> None:
        """Say how many messages to whom are not confirmed, and could be sent again."""
        for status, text in (
            (DeliveryStatus.FAILED, texts.SOME_NOT_DELIVERED),
            (DeliveryStatus.UNKNOWN, texts.SOME_PERHAPS_DELIVERED),
        ):
            if counts := self.counts_of(status, only_worth_resending=True):
                self.show_info(self.translate(text, counts=counts))

    def counts_of(self, status: DeliveryStatus, only_worth_resending: bool = False) -> str:
        """Return how many messages to whom have a mark; empty if there are none."""
        counts = [
            self.translate(texts.COUNT_TO, count=count, name=conversation.peer)
            for conversation in self.model
            if (
                count := sum(
                    line.status is status and (line.can_resend_help or not only_worth_resending)
                    for line in conversation.undelivered()
                )
            )
        ]
        return self.translate(texts.LIST_SEPARATOR).join(counts)

    def resend(self, conversation: Conversation) -> int:
        """Send the undelivered messages of a conversation again, in order; return how many."""
        lines = conversation.undelivered()
        for line in lines:
            line.at, line.status, line.reason = self.now(), DeliveryStatus.PENDING, ""
            conversation.move_to_end(line)
            self._unconfirmed[line] = conversation
            self._transmit(conversation, line)
        return len(lines)

    @property
    def has_waiting_lines(self) -> bool:
        """Whether lines wait for a connection that comes back by itself."""
        return bool(self._waiting) and self.state not in (State.OFFLINE, State.CLOSED)

    def discard(self, conversation: Conversation) -> int:
        """Remove the messages of a conversation that failed or wait; return how many."""
        waiting = [line for where, line in self._waiting if where is conversation]
        lines = [*conversation.undelivered(), *waiting]
        self._waiting = [(where, line) for where, line in self._waiting if where is not conversation]
        for line in lines:
            conversation.remove(line)
            self._unconfirmed.pop(line, None)
        self.keep()
        return len(lines)

    def _transmit(self, conversation: Conversation, line: Line) -> None:
        """Send a line; without a connection, as soon as it is back."""
        # Behind lines that wait already, so that all keep their order.
        if self._waiting or self.client.state is not State.ONLINE:
            self._wait_for_connection(conversation, line)
        else:
            self.keep()
            self._send_now(conversation, line)

    def _wait_for_connection(self, conversation: Conversation, line: Line) -> None:
        if not self._waiting:
            is_away = self.client.state is State.OFFLINE
            self.show_info(self.translate(texts.SENT_AFTER_CONNECT if is_away else texts.SENT_LATER), conversation)
        self._waiting.append((conversation, line))
        self.keep()

    def _send_waiting_lines(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.keep()
        for conversation, line in waiting:
            self._send_now(conversation, line)

    def _give_up_waiting_lines(self) -> None:
        waiting, self._waiting = self._waiting, []
        for conversation, line in waiting:
            self._fail(conversation, line, ConnectionLost("", sent=False))

    def _fail(self, conversation: Conversation, line: Line, error: BaseException) -> None:
        """Mark a line that was not sent, was refused, or whose outcome is unknown."""
        is_definite = is_definite_failure(error)
        line.status = DeliveryStatus.FAILED if is_definite else DeliveryStatus.UNKNOWN
        line.can_resend_help = can_resend_help(error)
        text = texts.NOT_DELIVERED if is_definite else texts.PERHAPS_DELIVERED
        if is_definite and not line.can_resend_help:
            text = texts.REFUSED_MESSAGE
        line.reason = self.translate(text, reason=self.translate.describe_error(error))
        if isinstance(error, RequestError) and error.code == ErrorCode.REQUEST_ID_REUSED:
            line.request_id = secrets.token_urlsafe(12)
        self.keep()
        self.ui.line_undelivered(conversation, line)

    def _send_now(self, conversation: Conversation, line: Line, is_again: bool = False) -> None:
        assert conversation.peer
        name, is_group = conversation.peer
        send = self.client.send_group_message if is_group else self.client.send_message

        def stored(sent: Sent) -> None:
            line.status, line.sent_at, line.id = DeliveryStatus.NONE, sent.time, sent.id or line.id
            self.keep()

        def failed(error: BaseException) -> None:
            if line.id is not None:
                return  # the history had the message meanwhile, so it is stored
            if not (isinstance(error, ConnectionLost) and not error.sent):
                self._fail(conversation, line, error)
            # The connection was lost when the user pressed Enter; by now the chat has heard of it.
            elif self.state in (State.RECONNECTING, State.CONNECTING, State.OFFLINE):
                self._wait_for_connection(conversation, line)
            elif self.state is State.ONLINE and not is_again:  # it is back already
                self._send_now(conversation, line, is_again=True)
            else:
                self._fail(conversation, line, error)

        self.request(send(name, line.text, request_id=line.request_id), stored, failed)

    def edit(self, conversation: Conversation, line: Line, text: str) -> None:
        """Change the text of a message that the server has; without a text, recall it."""
        assert line.id is not None
        command = "/edit" if text else "/recall"

        def failed(error: BaseException) -> None:
            self.show_error(self.translate.describe_failure(command, error), conversation)

        self.request(self.client.edit(line.id, text), lambda _: self._show_edit(conversation, line, text), failed)

    def _show_edit(self, conversation: Conversation, line: Line, text: str) -> None:
        conversation.edit(line, text, self._note(text))
        self.ui.line_edited(conversation, line)
