"""The plain user interface: reads lines and prints whole lines, without a terminal.

The main thread reads; the client's thread prints what arrives. Each holds the condition's lock
while it uses the session, because a session may run on one thread at a time only.
"""

import getpass
import threading
from collections.abc import Callable
from datetime import date
from typing import TextIO

from jelly.chat import texts
from jelly.chat.cells import sanitize, sanitize_lines, truncate
from jelly.chat.commands import submit
from jelly.chat.job_queue import JobQueue
from jelly.chat.line_input import LineInput
from jelly.chat.model import Conversation, DeliveryStatus, HistoryState, Line, LineKind
from jelly.chat.output import OutputError, write_line
from jelly.chat.session import Session
from jelly.chat.user_interface import UserInterface

TIME_TO_LEAVE = 5.0
"""At most this many seconds Ctrl-C waits for answers."""


def format_line(conversation: Conversation, line: Line, with_title: bool, sender: str = "") -> str:
    """Return a line as it is printed: time, group, sender, text. Further rows are indented.

    `with_title`: begin a text of the chat with the name of its conversation. `sender`: what to
    print instead of the sender of the line.
    """
    first, *others = sanitize_lines(line.shown)
    if line.kind in (LineKind.OUTGOING, LineKind.INCOMING):
        where = f"{conversation.title} " if conversation.peer and conversation.peer.is_group else ""
        first = f"{line.at:%H:%M} {where}{sanitize(sender or line.sender)}: {first}"
    else:
        where = f"{conversation.title}: " if with_title and conversation.peer else ""
        first = f"{'--' if line.kind is LineKind.INFO else '!!'} {where}{first}"
    return "\n".join([first, *(f"   {row}" for row in others)])


class PlainInterface(UserInterface):
    """The chat line by line.

    When the output cannot be written, everything ends: what was to be shown stays unacknowledged.
    """

    def __init__(self, session: Session, jobs: JobQueue, input_stream: TextIO, output_stream: TextIO) -> None:
        self._session, self._jobs, self._output = session, jobs, output_stream
        self._input = LineInput(input_stream)
        self._output_error: OutputError | None = None
        self._condition = threading.Condition(threading.RLock())
        self._is_exiting = False
        self._day = session.now().date()
        session.ui = self

    def run(self) -> None:
        """Read until the end of the input or /quit, then wait for all answers.

        At the end of the input, also wait until lines that wait for the connection are sent.
        Raises OutputError.
        """
        try:
            with self._input:
                self._jobs.set_wakeup(self._run_jobs)
                self._run_jobs()
                while not self._is_exiting and (typed := self._input.readline()):
                    self._submit(typed)
                self._wait_for_answers(sends_all=not self._is_exiting)
        except KeyboardInterrupt:
            self._print("")
            self._wait_for_answers(timeout=TIME_TO_LEAVE)
        finally:
            self._jobs.set_wakeup(None)

    def _submit(self, typed: str) -> None:
        """Run one line and wait for its answer, so that the output of a script keeps its order."""
        with self._condition:
            before = self._session.model.current
            submit(self._session, typed)
            current = self._session.model.current
            if current is not before:
                self._print(f"-- {self._session.translate(texts.CONVERSATION_WITH, name=current.title)}")
        self._wait_for_answers()

    def _wait_for_answers(self, sends_all: bool = False, timeout: float | None = None) -> None:
        session = self._session
        with self._condition:
            self._condition.wait_for(
                lambda: (
                    self._output_error or not (session.pending_requests or (sends_all and session.has_waiting_lines))
                ),
                timeout,
            )
            if self._output_error:
                raise self._output_error

    def _run_jobs(self) -> None:
        """Show what has come. That the output fails is then a matter of the thread that reads."""
        with self._condition:
            try:
                if self._output_error is None:
                    self._jobs.run_pending()
            except OutputError:
                self._input.end_wait()
            finally:
                self._condition.notify_all()

    def _print(self, text: str) -> None:
        try:
            write_line(text, self._output)
        except OutputError as error:
            self._output_error = error
            raise

    # --- called by the session --------------------------------------------------------------------

    def line_added(self, conversation: Conversation, line: Line) -> None:
        """Print a line. What the user has typed is on the terminal already."""
        if line.status is DeliveryStatus.PENDING:
            return
        self._print_date_separator(line.at.date())
        self._print(self._format(conversation, line))
        if not conversation.unread:  # else older messages were not printed
            self._session.was_shown(conversation, line.id or 0)

    def _format(self, conversation: Conversation, line: Line) -> str:
        """Return a line as it is printed outside its conversation."""
        sender, peer = line.sender, conversation.peer
        if line.kind is LineKind.OUTGOING and peer and not peer.is_group:  # written on another device
            sender = self._session.translate(texts.FROM_TO, sender=sender, receiver=peer)
        return format_line(conversation, line, conversation is not self._session.model.current, sender)

    def line_edited(self, conversation: Conversation, line: Line) -> None:
        """Print the message again, as it is now."""
        is_current = conversation is self._session.model.current
        self._print(format_line(conversation, line, False) if is_current else self._format(conversation, line))

    def _print_date_separator(self, day: date) -> None:
        if day != self._day:
            self._day = day
            self._print(f"── {day.isoformat()} ──")

    def history_added(self, conversation: Conversation, lines: list[Line], by_command: bool) -> None:  # noqa: ARG002
        """Print older lines between two rules, with dates: newer lines are printed above them."""
        translate = self._session.translate
        if not lines:
            is_more = conversation.history_state is HistoryState.TRUNCATED
            return self._print(f"-- {translate(texts.TRUNCATED if is_more else texts.NO_EARLIER_MESSAGES)}")
        self._print(f"── {translate(texts.HISTORY_BEGIN, name=conversation.title)} ──")
        for line in lines:
            self._print(f"{line.at:%Y-%m-%d} {format_line(conversation, line, with_title=False)}")
        self._print(f"── {translate(texts.HISTORY_END)} ──")
        if not conversation.unread:
            self._session.was_shown(conversation, conversation.newest_line_id)
        return None

    def line_undelivered(self, conversation: Conversation, line: Line) -> None:
        text = truncate(sanitize_lines(line.text)[0], 40)
        self._print(f"{line.status.value} {conversation.title} < {text}\n   {sanitize(line.reason)}")

    def ask_password(self, prompt: str, on_answer: Callable[[str], None]) -> None:
        if self._input.isatty():
            try:
                password = getpass.getpass(sanitize(prompt))
            except (EOFError, KeyboardInterrupt):  # this cancels the question, not the chat
                self._print("")
                password = ""
            on_answer(password)
        else:
            on_answer(self._input.readline().rstrip("\n"))

    def ask(self, prompt: str, on_answer: Callable[[str], None]) -> None:
        self._print(sanitize(prompt))
        on_answer(self._input.readline().strip())

    def exit(self) -> None:
        self._is_exiting = True
