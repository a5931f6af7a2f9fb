"""What all parts of a session need: its client and its model, lines to show, requests to send."""

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import TypeVar

from client_api import GroupMessageEvent, JellyClient, MessageEvent, PastMessage, Reason, State
from jelly.chat import texts
from jelly.chat.job_queue import Job
from jelly.chat.kept import KeptTexts
from jelly.chat.log_file import LogFile
from jelly.chat.model import Conversation, Line, LineKind, Model, Peer
from jelly.chat.translator import Translator
from jelly.chat.user_interface import UserInterface
from jelly.client.values import local_time

T = TypeVar("T")

WRONG_CLOCK = 2 * 60 * 1000
"""More than so many milliseconds before or after it was stored nobody has written a message."""


class Controller:
    """Between the client and the model. Everything here runs on the thread of the user interface.

    `post` queues a job for that thread.
    """

    def __init__(
        self, client: JellyClient, translate: Translator, post: Callable[[Job], None], now: Callable[[], datetime]
    ) -> None:
        self.client, self.translate, self.post, self.now = client, translate, post, now
        self.model = Model()
        self.ui = UserInterface()
        self.name = ""
        self.state, self.reason, self.since = State.OFFLINE, Reason.LOGIN, now()
        self.kept = KeptTexts()
        self.log_file: LogFile | None = None
        self.pending_requests = 0
        """How many requests have no answer yet."""
        self.search_goes_on: tuple[Peer | None, str, int | None] | None = None
        """The last /search if it has more to find: where, for which text, and before which id."""

    def show_info(self, text: str, where: Conversation | None = None, kind: LineKind = LineKind.INFO) -> Line:
        """Show a text of the chat in a conversation, by default in the current one."""
        conversation = where or self.model.current
        line = conversation.add(Line(kind, self.now(), text))
        self.line_added(conversation, line)
        return line

    def line_added(self, conversation: Conversation, line: Line) -> None:
        """Have a new line shown, and written to the file of /log."""
        self.ui.line_added(conversation, line)
        if self.log_file is None:
            return
        try:
            self.log_file.write(conversation, line)
        except OSError as error:
            path = self.log_file.path
            self.end_log()  # before this is shown
            self.show_error(self.translate(texts.CANNOT_LOG, file=path, reason=error.strerror or str(error)))

    def time_of(self, message: "MessageEvent | GroupMessageEvent | PastMessage") -> datetime:
        """Return when a message was written; when it arrived, if the sender's clock is wrong."""
        if message.stored is None:
            return min(message.written_at, self.now())
        is_right = abs(message.time - message.stored) <= WRONG_CLOCK
        return message.written_at if is_right else local_time(message.stored)

    def is_hidden(self, peer: Peer, sender: str) -> bool:
        """Return whether what somebody writes in a conversation is not shown."""
        return sender in self.kept.ignored or (peer.is_group and sender in self.model.blocked)

    def end_log(self) -> None:
        """Write nothing more to the file of /log."""
        if self.log_file:
            self.log_file.close()
            self.log_file = None

    def show_error(self, text: str, where: Conversation | None = None) -> None:
        """Show an error in a conversation, by default in the current one."""
        self.show_info(text, where, LineKind.ERROR)

    def _show_info_in(self, peer: Peer, text: str) -> None:
        if peer in self.model.conversations:
            self.show_info(text, self.model[peer])

    def _note(self, text: str) -> str:
        """Say of an edited message what was done to it."""
        return self.translate(texts.EDITED if text else texts.RECALLED)

    def request(self, future: "Future[T]", done: Callable[[T], None], failed: Callable[[BaseException], None]) -> None:
        """When a request ends, call `done` with its result or `failed` with its error."""

        def on_done() -> None:
            self.pending_requests -= 1
            if error := future.exception():
                failed(error)
            else:
                done(future.result())

        self.pending_requests += 1
        future.add_done_callback(lambda _: self.post(on_done))
