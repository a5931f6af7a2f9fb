"""What the chat wants of a user interface."""

from collections.abc import Callable

from jelly.chat.model import Conversation, Line


class UserInterface:
    """What a session calls on the user interface.

    The full screen and the plain mode implement it.
    """

    has_shortcuts = False
    """Whether keyboard shortcuts switch between conversations: true of the full screen only."""

    acknowledges_when_shown = True
    """Whether a message counts as received only when it was shown. Otherwise it does when it is in
    memory, and unread."""

    def run(self) -> None:
        """Show the chat until the user leaves."""

    def line_added(self, conversation: Conversation, line: Line) -> None:
        """Show a new line."""

    def line_edited(self, conversation: Conversation, line: Line) -> None:
        """Show that a message has another text now."""

    def line_undelivered(self, conversation: Conversation, line: Line) -> None:
        """Show that an outgoing message failed, or that its outcome is unknown."""

    def history_added(self, conversation: Conversation, lines: list[Line], by_command: bool) -> None:
        """Show older lines, oldest first. `by_command`: the user asked for them with /history."""

    def ask_password(self, prompt: str, on_answer: Callable[[str], None]) -> None:
        """Ask for a password without showing it, and call `on_answer` with it.

        If the user cancels, `on_answer` gets an empty string or is not called.
        """

    def ask(self, prompt: str, on_answer: Callable[[str], None]) -> None:
        """Ask a question, and call `on_answer` with the answer.

        If the user cancels, `on_answer` gets an empty string or is not called.
        """

    def ring(self) -> None:
        """Call the user: a message has come that is not on the screen."""

    def typing_changed(self) -> None:
        """Show who is typing, for TYPING_WINDOW."""

    def exit(self) -> None:
        """End the chat."""
