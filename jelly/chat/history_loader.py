"""Older messages, page by page."""

from collections.abc import Iterable, Iterator

from client_api import ErrorCode, History, PastMessage, RequestError
from jelly.chat import texts
from jelly.chat.controller import Controller
from jelly.chat.model import LOADABLE, Conversation, HistoryState, Line, LineKind, Peer

PAGE = 50
"""How many earlier messages are loaded at a time."""
HISTORY_TEXTS = {
    HistoryState.LOADING: texts.LOADING,
    HistoryState.COMPLETE: texts.NO_EARLIER_MESSAGES,
    HistoryState.TRUNCATED: texts.TRUNCATED,
    HistoryState.UNSUPPORTED: texts.NO_HISTORY,
    HistoryState.FAILED: texts.CANNOT_LOAD_HISTORY,
}
"""What the user reads about older messages. There is nothing to say about MAYBE_MORE."""


class HistoryLoader(Controller):
    """Loads older messages into conversations, and later ones again that were dropped for them."""

    _is_loading_later = False

    def load_history(self, conversation: Conversation, count: int = PAGE, by_command: bool = False) -> None:
        """Load `count` older messages, unless a page is on its way or there are none."""
        if conversation.peer and conversation.history_state in LOADABLE:
            conversation.is_history_requested = True
            self._load_page(conversation, conversation.peer, count, by_command, [])

    def _load_page(
        self, conversation: Conversation, peer: Peer, count: int, by_command: bool, found: list[Line]
    ) -> None:
        """Request one page, and then the next one, until `count` new lines are found."""
        conversation.history_state = HistoryState.LOADING
        before = conversation.history_cursor

        def done(page: History) -> None:
            if conversation.history_cursor != before:  # lines were dropped meanwhile: the page does not fit
                if by_command and conversation.history_state in LOADABLE:
                    self._load_page(conversation, peer, count, by_command, found)
                return
            if conversation.history_state is HistoryState.LOADING:  # it may have become full meanwhile
                conversation.history_state = (
                    HistoryState.MAYBE_MORE if page.more and page.messages else HistoryState.COMPLETE
                )
            past = self._lines_of(peer, reversed(page.messages))
            found[:0] = conversation.add_history(past, count - len(found))
            if conversation.history_state is HistoryState.MAYBE_MORE and (conversation.gap or len(found) < count):
                self._load_page(conversation, peer, count, by_command, found)
            else:
                self.ui.history_added(conversation, found, by_command)

        def failed(error: BaseException) -> None:
            has_no_history = isinstance(error, RequestError) and error.code == ErrorCode.UNKNOWN_TYPE
            conversation.history_state = HistoryState.UNSUPPORTED if has_no_history else HistoryState.FAILED
            conversation.is_history_requested = False
            conversation.history_error = self.translate.describe_error(error)
            if found:
                self.ui.history_added(conversation, found, by_command)
            if by_command and has_no_history:
                self.show_info(self.translate(texts.NO_HISTORY), conversation)
            elif by_command:
                self.show_error(self.translate.describe_failure("/history", error, changes=False), conversation)

        read = self.client.group_history if peer.is_group else self.client.history
        self.request(read(peer.name, before=before, limit=max(count, PAGE)), done, failed)

    def load_later(self, conversation: Conversation) -> None:
        """Load the messages below those that are here, unless they are on their way."""
        peer = conversation.peer
        if peer is None or not conversation.below or self._is_loading_later:
            return
        last = conversation.below[min(PAGE, len(conversation.below)) - 1]
        lines = conversation.lines  # another one if the conversation has returned to its end meanwhile

        def done(page: History) -> None:
            self._is_loading_later = False
            if conversation.lines is lines:
                conversation.add_later(self._lines_of(peer, page.messages), last)

        def failed(error: BaseException) -> None:
            self._is_loading_later = False
            self.show_error(self.translate.describe_failure("/history", error, changes=False), conversation)

        self._is_loading_later = True
        read = self.client.group_history if peer.is_group else self.client.history
        self.request(read(peer.name, before=last + 1, limit=2 * PAGE), done, failed)

    def return_to_end(self, conversation: Conversation) -> None:
        """Show the newest messages again, wherever the user has gone."""
        if conversation.below:
            conversation.return_to_end()
            self.load_history(conversation)

    def _lines_of(self, peer: Peer, messages: Iterable[PastMessage]) -> Iterator[Line]:
        """Return messages as lines, but what is not to be shown."""
        return (self._line_from_history(message) for message in messages if not self.is_hidden(peer, message.sender))

    def _line_from_history(self, message: PastMessage) -> Line:
        is_outgoing = message.sender == self.name
        kind = LineKind.OUTGOING if is_outgoing else LineKind.INCOMING
        at = message.written_at if is_outgoing else self.time_of(message)
        line = Line(kind, at, message.content, message.sender, id=message.id)
        line.sent_at = message.time if is_outgoing else 0
        line.note = "" if message.edited is None else self._note(message.content)
        return line
