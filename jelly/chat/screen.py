"""The full-screen user interface, on prompt_toolkit: a conversation, a status bar, the input.

Everything here runs on the thread of the event loop, and nothing here blocks: calls from the
client's thread come through the JobQueue. Arriving messages therefore never disturb what the user
is typing.
"""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    UIContent,
    UIControl,
    VSplit,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import BeforeInput, ConditionalProcessor, PasswordProcessor
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Attrs, Style

from jelly.chat import rows, texts
from jelly.chat.cells import sanitize
from jelly.chat.commands import complete, submit
from jelly.chat.history_loader import PAGE
from jelly.chat.job_queue import JobQueue
from jelly.chat.model import MAX_LINES, Conversation
from jelly.chat.server_events import TYPING_WINDOW
from jelly.chat.session import Session
from jelly.chat.settings import Settings
from jelly.chat.start_texts import NO_SUCH_ACTION, NO_SUCH_KEY
from jelly.chat.user_interface import UserInterface

MAX_INPUT_ROWS = 5
WIDE, SIDEBAR = 100, 24
"""From so many columns on there is a list at the side, and how many it takes."""
FAR = 10**9
"""More rows than there are."""
WHEEL_ROWS = 3
"""How many rows one step of the wheel scrolls."""
DIM = "dim" if "dim" in Attrs._fields else "ansibrightblack"  # prompt_toolkit has "dim" since 3.0.52

STYLE = {
    "dim": DIM,
    "me": "bold",
    "error": "ansired",
    "mention": "ansired bold reverse",
    "bar": "reverse",
    "bar-off": "reverse ansired bold",
    "bar-here": "reverse bold",
    "bar-unread": "reverse bold",
    "prompt": "bold",
    # No yellow: it is unreadable on a light background.
    "name0": "ansigreen",
    "name1": "ansicyan",
    "name2": "ansimagenta",
    "name3": "ansibrightblue",
    "name4": "ansibrightmagenta",
}


class UnknownKey(Exception):
    """There is no such key, or no such action."""


def _sequence_of(key: str) -> list[str]:
    """Return a key of the settings, like alt-n, as prompt_toolkit writes it."""
    modifier, _, rest = key.lower().partition("-")
    if modifier == "alt":
        return ["escape", *_sequence_of(rest)]
    return [f"c-{rest}" if modifier == "ctrl" else key.lower()]


def _common_prefix(texts: list[str]) -> str:
    same = takewhile(lambda chars: len(set(chars)) == 1, zip(*texts, strict=False))
    return "".join(chars[0] for chars in same)


def _join(text: str, more: str) -> str:
    """Return two texts, each of which may be empty, as one."""
    return "\n".join(each for each in (text, more) if each)


class CommandCompleter(Completer):
    """Offers the candidates of commands.complete in a menu."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        typed = document.text_before_cursor
        start, offered = complete(self._session, typed)
        for text in offered:
            yield Completion(text, start_position=start - len(typed), display=text.split()[-1])


class ConversationControl(UIControl):
    """Shows the rows of the current conversation, with scrolling."""

    def __init__(self, session: Session, on_wheel: Callable[[int], None]) -> None:
        """`on_wheel` is called with the number of rows to scroll up."""
        self._session, self._on_wheel = session, on_wheel
        self.offset = 0
        """How many rows are below the last visible one."""
        self.height = 1
        self._width = 80

    def create_content(self, width: int, height: int) -> UIContent:
        self._width, self.height = width, height
        shown = self._visible_rows()
        padded: list[StyleAndTextTuples] = [[] for _ in range(height - len(shown))]
        padded.extend([*row] for row in shown)
        return UIContent(get_line=lambda number: padded[number], line_count=len(padded), show_cursor=False)

    def _visible_rows(self) -> list[rows.Row]:
        session = self._session
        today, new = session.now().date(), session.translate(texts.NEW)
        shown, self.offset = rows.visible_rows(
            session.model.current, self._width, self.height, self.offset, today, new, rows.history_status(session)
        )
        return shown

    def mouse_handler(self, mouse_event: MouseEvent) -> None:
        if mouse_event.event_type is MouseEventType.SCROLL_UP:
            self._on_wheel(WHEEL_ROWS)
        elif mouse_event.event_type is MouseEventType.SCROLL_DOWN:
            self._on_wheel(-WHEEL_ROWS)

    def newest_shown(self) -> int:
        """Return the id of the newest message that is visible; 0 if none is."""
        session = self._session
        return rows.newest_shown(session.model.current, self._width, self.height, self.offset, session.now().date())

    def scroll(self, count: int) -> bool:
        """Scroll up by `count` rows (down if negative).

        Return whether that goes beyond the oldest line.
        """
        self.offset = wanted = max(0, self.offset + count)
        return len(self._visible_rows()) < self.height or self.offset < wanted

    def place(self) -> rows.Place | None:
        """Return which row is the last visible one; None if it is the last one that there is."""
        conversation = self._session.model.current
        if not self.offset and not conversation.below:
            return None
        return rows.place_at(conversation, self._width, self.offset, self._session.now().date())

    def return_to(self, place: rows.Place) -> None:
        """Keep the same rows visible after lines were added or dropped."""
        conversation, today = self._session.model.current, self._session.now().date()
        offset = rows.offset_of(conversation, self._width, place, today)
        if offset is not None:
            self.offset = offset


class ScreenInterface(UserInterface):
    """The chat on the full screen of the terminal."""

    has_shortcuts = True
    acknowledges_when_shown = False  # the server knows what was read, and lists the rest again

    def __init__(self, session: Session, jobs: JobQueue, settings: Settings) -> None:
        """Raises UnknownKey if there is no such key or action as in the settings."""
        self._session, self._jobs, self._settings = session, jobs, settings
        self._conversation = session.model.current
        self._view = ConversationControl(session, self._scroll)
        self._question: tuple[str, Callable[[str], None]] | None = None
        self._is_secret = False
        """Whether the answer to the question is not shown."""
        self._input = Buffer(
            completer=CommandCompleter(session),
            multiline=True,
            on_text_insert=lambda buffer: session.is_typing(buffer.text),
        )
        self._answer = Buffer(multiline=False)
        self._recall: WeakKeyDictionary[Conversation, InMemoryHistory] = WeakKeyDictionary()
        self._is_exiting = False
        self._title = ""
        self._goes_up = False
        """Whether older lines were asked for by a command, to be shown."""
        session.ui = self
        self._app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=Style.from_dict(STYLE),
            color_depth=None if settings.colours and not os.environ.get("NO_COLOR") else ColorDepth.DEPTH_1_BIT,
            full_screen=True,
            mouse_support=settings.mouse,
            after_render=lambda _: self._rendered(),
        )
        self._app.ttimeoutlen = 0.1  # Escape alone has no meaning here: do not wait long for the rest of a sequence

    def run(self) -> None:
        """Show the chat until the user leaves."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):  # restore the terminal, then exit
            loop.add_signal_handler(number, self.exit)

        def wakeup() -> None:
            loop.call_soon_threadsafe(self._run_jobs)

        self._jobs.set_wakeup(wakeup)
        try:
            home = self._session.model.home
            typed, home.draft = home.draft, ""
            self._show_input(typed)
            await self._app.run_async(pre_run=self._run_jobs)
        except EOFError:
            pass  # the terminal was closed
        finally:
            self._jobs.set_wakeup(None)
            if self._title:
                self._app.output.clear_title()
                self._app.output.flush()
            self._conversation.draft = _join(self._conversation.draft, self._input.text)

    def _run_jobs(self) -> None:
        place, conversation = self._view.place(), self._conversation
        self._goes_up = False
        self._jobs.run_pending()
        if self._goes_up:
            self._view.scroll(FAR)
        elif place and self._session.model.current is conversation:
            self._view.return_to(place)
        self._sync_with_model()
        self._app.invalidate()

    # --- called by the session --------------------------------------------------------------------

    def history_added(self, conversation: Conversation, lines: list[Any], by_command: bool) -> None:  # noqa: ARG002
        if by_command and conversation is self._conversation:
            self._goes_up = True

    def ring(self) -> None:
        if self._settings.bell:
            self._app.output.bell()

    def _rendered(self) -> None:
        """What is on the screen now was read; the title says what was not."""
        session = self._session
        session.was_shown(session.model.current, self._view.newest_shown())
        unread = session.model.unread
        title = f"({unread}) {sanitize(session.name)}" if unread else sanitize(session.name)
        if self._settings.title and title != self._title:
            self._title = title
            self._app.output.set_title(f"{title} - Jelly")
            self._app.output.flush()

    def typing_changed(self) -> None:
        asyncio.get_running_loop().call_later(TYPING_WINDOW.total_seconds() + 0.1, self._app.invalidate)

    def ask_password(self, prompt: str, on_answer: Callable[[str], None]) -> None:
        self._open_question(prompt, on_answer, is_secret=True)

    def ask(self, prompt: str, on_answer: Callable[[str], None]) -> None:
        self._open_question(prompt, on_answer, is_secret=False)

    def _open_question(self, prompt: str, on_answer: Callable[[str], None], is_secret: bool) -> None:
        self._question, self._is_secret = (sanitize(prompt), on_answer), is_secret
        self._answer.reset()
        self._app.layout.focus(self._answer)

    def exit(self) -> None:
        if not self._is_exiting:
            self._is_exiting = True
            self._app.exit()

    # --- the layout -------------------------------------------------------------------------------

    def _layout(self) -> Layout:
        is_question_open = Condition(lambda: self._question is not None)
        bar = FormattedTextControl(lambda: [*rows.status_bar(self._session, self._columns(), self._view.offset)])
        root = HSplit(
            [
                VSplit([Window(self._view, height=Dimension(min=0)), self._sidebar()]),
                Window(bar, height=1, style="class:bar"),
                ConditionalContainer(self._input_window(), ~is_question_open),
                ConditionalContainer(self._question_window(), is_question_open),
            ]
        )
        menu = Float(CompletionsMenu(max_height=8, extra_filter=~is_done), xcursor=True, ycursor=True)
        return Layout(FloatContainer(root, [menu]), focused_element=self._input)

    def _sidebar(self) -> ConditionalContainer:
        def text() -> StyleAndTextTuples:
            return [part for row in rows.sidebar(self._session, SIDEBAR) for part in (*row, ("", "\n"))]

        is_wide = Condition(lambda: self._settings.sidebar and self._columns() >= WIDE)
        return ConditionalContainer(Window(FormattedTextControl(text), width=SIDEBAR), is_wide)

    def _columns(self) -> int:
        return self._app.output.get_size().columns

    def _input_window(self) -> Window:
        before = BeforeInput(lambda: rows.prompt(self._session, self._columns()), "class:prompt")
        control = BufferControl(self._input, input_processors=[before])
        height = Dimension(min=1, max=MAX_INPUT_ROWS)
        return Window(control, height=height, wrap_lines=True, dont_extend_height=True)

    def _question_window(self) -> Window:
        before = BeforeInput(lambda: self._question[0] if self._question else "", "class:prompt")
        hidden = ConditionalProcessor(PasswordProcessor(), Condition(lambda: self._is_secret))
        return Window(BufferControl(self._answer, input_processors=[hidden, before]), height=1)

    # --- the keys ---------------------------------------------------------------------------------

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        def bind(action: Callable[[], None], *sequence: str) -> None:
            @keys.add(*sequence)
            def _(_event: KeyPressEvent) -> None:
                action()
                self._sync_with_model()

        bind(self._submit, "enter")
        bind(self._input.complete_previous, "s-tab")
        actions: dict[str, tuple[Callable[[], None], *tuple[str, ...]]] = {
            "new-line": (lambda: self._input.insert_text("\n"), "escape", "enter"),
            "complete": (self._complete, "tab"),
            "clear": (self._clear, "c-c"),
            "exit": (self._delete_or_exit, "c-d"),
            "suspend": (self._suspend, "c-z"),
            "redraw": (lambda: self._app.renderer.clear(), "c-l"),
            "page-up": (lambda: self._scroll(self._page()), "pageup"),
            "page-down": (lambda: self._scroll(-self._page()), "pagedown"),
            "top": (lambda: self._scroll(FAR), "c-home"),
            "end": (lambda: self._scroll(-FAR), "c-end"),
            "next-unread": (self._open_next_unread, "escape", "a"),
            "previous": (lambda: self._open(self._session.model.neighbour(-1)), "escape", "left"),
            "next": (lambda: self._open(self._session.model.neighbour(1)), "escape", "right"),
            "number": (self._ask_number, "escape", "j"),
        }
        for action, *sequence in actions.values():
            bind(action, *sequence)
        for name, key in self._settings.keys.items():
            if name not in actions:
                raise UnknownKey(self._session.translate(NO_SUCH_ACTION, name=name, actions=", ".join(actions)))
            try:
                bind(actions[name][0], *_sequence_of(key))
            except ValueError as error:
                raise UnknownKey(self._session.translate(NO_SUCH_KEY, key=key)) from error
        for number in range(10):
            bind(lambda number=number: self._open_conversation_by_number(number), "escape", str(number))  # type: ignore[misc]
        return keys

    def _page(self) -> int:
        return max(1, self._view.height - 2)

    def _scroll(self, count: int) -> None:
        """Scroll by `count` rows.

        At the oldest line, load older ones; the visible rows stay where they are. If so many are
        loaded that later ones were dropped, load these on the way back.
        """
        if count == -FAR:
            self._session.return_to_end(self._conversation)
        elif count < 0 and self._view.offset < 2 * self._view.height:
            self._session.load_later(self._conversation)
        if self._view.scroll(count) and count > 0:
            self._session.load_history(self._conversation)
            self._view.scroll(1)  # show the row with the history status

    def _submit(self) -> None:
        if self._question:
            _, on_answer = self._question
            answer = self._answer.text
            self._close_question()
            on_answer(answer)
            return
        text = self._input.text
        self._input.append_to_history()
        self._input.reset()
        self._view.offset = 0
        self._session.return_to_end(self._conversation)
        if not submit(self._session, text):
            # Not in the input, where the /to that the user types next would be joined to it.
            self._conversation.draft = _join(self._conversation.draft, text)
            self._session.show_info(self._session.translate(texts.TEXT_STAYS))

    def _close_question(self) -> None:
        self._question = None
        self._answer.reset()
        self._app.layout.focus(self._input)

    def _complete(self) -> None:
        """Complete like a shell: insert what all candidates have in common, else open the menu."""
        buffer = self._input
        if self._question:
            return None
        if buffer.complete_state:
            return buffer.complete_next()
        typed = buffer.document.text_before_cursor
        start, offered = complete(self._session, typed)
        completed = offered[0] if len(offered) == 1 else _common_prefix(offered)
        if len(offered) == 1 or len(completed) > len(typed) - start:
            buffer.delete_before_cursor(len(typed) - start)
            buffer.insert_text(completed)
        elif offered:
            buffer.start_completion()
        return None

    def _clear(self) -> None:
        """Ctrl-C: clear the input. It never ends the chat: it is easily pressed once too often."""
        lines = self._conversation.lines
        hint = self._session.translate(texts.HOW_TO_LEAVE)
        if self._question:
            self._close_question()
        elif self._input.text:
            self._input.append_to_history()
            self._input.reset()
        elif not (lines and lines[-1].text == hint):
            self._view.offset = 0
            self._session.show_info(hint)

    def _suspend(self) -> None:
        """Ctrl-Z: stop, until the shell continues the chat."""
        if hasattr(signal, "SIGTSTP"):
            self._app.suspend_to_background()

    def _delete_or_exit(self) -> None:
        """Ctrl-D: delete a character; if there is none, exit."""
        buffer = self._answer if self._question else self._input
        if buffer.text:
            buffer.delete()
        elif self._question:
            self._close_question()
        else:
            self.exit()

    # --- switching between conversations ----------------------------------------------------------

    def _open_next_unread(self) -> None:
        self._open(self._session.model.next_unread())

    def _open_conversation_by_number(self, number: int) -> None:
        self._open(self._session.model.by_number(number))

    def _ask_number(self) -> None:
        """Alt-j: the way to the conversations that no digit reaches."""

        def answered(answer: str) -> None:
            if re.fullmatch("[0-9]{1,4}", answer.strip()):
                self._open_conversation_by_number(int(answer))

        self.ask(self._session.translate(texts.ASK_NUMBER), answered)

    def _open(self, conversation: Conversation | None) -> None:
        if conversation:
            self._session.open_conversation(conversation)

    def _show_input(self, typed: str) -> None:
        """Put a text into the input, which recalls what was entered in the current conversation."""
        self._input.history = self._recall.setdefault(self._conversation, InMemoryHistory())
        self._input.reset(Document(typed))

    def _sync_with_model(self) -> None:
        """Show the model's current conversation.

        What the user has typed stays with its conversation as a draft. A text typed on the first
        screen belongs to no conversation, so it moves along into one that has no draft.
        """
        current, left = self._session.model.current, self._conversation
        if current is not left:
            typed = _join(left.draft, self._input.text)
            if left.peer or current.draft:
                left.draft, typed, current.draft = typed, current.draft, ""
            else:
                left.draft = ""
            self._conversation = current
            self._show_input(typed)
            self._view.offset = 0
            self._session.keep()
            has_room = len(current.lines) < MAX_LINES - PAGE  # else older lines would take that of the newest
            if not current.is_history_requested and (has_room or current.gap):
                self._session.load_history(current)
