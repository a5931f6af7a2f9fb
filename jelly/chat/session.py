"""The controller between the client and the model: sends requests, and records what comes back.

The client calls back on a thread of its own. Everything here runs on the thread of the user
interface. The `JobQueue` connects the two: each callback of the client becomes a job in it. Nothing
here blocks.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import TypeVar

from client_api import (
    ConnectionEvent,
    ConnectionLost,
    EditEvent,
    ErrorCode,
    FriendRequestEvent,
    Group,
    GroupMessageEvent,
    History,
    InvitationEvent,
    JellyClient,
    MessageEvent,
    PastMessage,
    Reason,
    Receiver,
    RequestError,
    Sent,
    State,
    SystemEvent,
)
from client_api import Conversation as ListedConversation
from jelly.chat import start_texts, texts
from jelly.chat.language import TranslatedText
from jelly.chat.model import LOADABLE, Conversation, DeliveryStatus, HistoryState, Line, LineKind, Model, Peer
from jelly.chat.translator import Translator, can_resend_help, is_definite_failure

T = TypeVar("T")

Job = Callable[[], None]

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
TYPING_WINDOW = timedelta(seconds=6)
"""How long it is shown that somebody is typing, after a notice of it."""
MAX_LISTED = 50
"""At most this many conversations are shown of those that the server lists: the newest."""
BACKLOG_WINDOW = timedelta(seconds=60)
"""How long after a login messages from before it are counted in "while you were away"."""


class JobQueue:
    """A FIFO queue of calls that the thread of the user interface runs. Any thread may `post`."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._wakeup: Job | None = None

    def post(self, job: Job) -> None:
        """Queue a job, and wake the user interface. Before `set_wakeup`, the job waits."""
        with self._lock:
            self._jobs.append(job)
            wakeup = self._wakeup
        if wakeup:
            wakeup()

    def set_wakeup(self, wakeup: Job | None) -> None:
        """Set the function that makes the user interface call `run_pending`. None: it has ended."""
        with self._lock:
            self._wakeup = wakeup

    def run_pending(self) -> None:
        """Run all queued jobs."""
        while self._jobs:
            self._jobs.popleft()()


class UserInterface:
    """What a session calls on the user interface.

    The full screen and the plain mode implement it.
    """

    has_shortcuts = False
    """Whether keyboard shortcuts switch between conversations: true of the full screen only."""

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

    def typing_changed(self) -> None:
        """Show who is typing, for TYPING_WINDOW."""

    def exit(self) -> None:
        """End the chat."""


class EventForwarder(Receiver):
    """Forwards the client's events from the client's thread to the session's."""

    def __init__(self, session: "Session") -> None:
        self._session = session

    def on_message(self, event: MessageEvent) -> None:
        self._session.post(lambda: self._session.on_message(Peer(event.sender), event))

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._session.post(lambda: self._session.on_message(Peer(event.group, True), event))

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        self._session.post(lambda: self._session.on_friend_request(event))

    def on_edit(self, event: EditEvent) -> None:
        self._session.post(lambda: self._session.on_edit(event))

    def on_invitation(self, event: InvitationEvent) -> None:
        self._session.post(lambda: self._session.on_invitation(event))

    def on_system(self, event: SystemEvent) -> None:
        self._session.post(lambda: self._session.on_system(event))

    def on_connection(self, event: ConnectionEvent) -> None:
        self._session.post(lambda: self._session.on_connection(event))


class Session:
    """The chat of one user. `post` queues a job for the thread on which everything here runs."""

    def __init__(
        self,
        client: JellyClient,
        translate: Translator,
        post: Callable[[Job], None],
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self.client, self.translate, self.post, self.now = client, translate, post, now
        self.model = Model()
        self.ui = UserInterface()
        self.name = ""
        self.state, self.reason, self.since = State.OFFLINE, Reason.LOGIN, now()
        self.pending_requests = 0
        """How many requests have no answer yet."""
        self.search_goes_on: tuple[Peer | None, str, int | None] | None = None
        """The last /search if it has more to find: where, for which text, and before which id."""
        self._waiting: list[tuple[Conversation, Line]] = []  # lines that are sent when there is a connection again
        self._password = ""
        self._logged_in_at = now()
        self._backlog_counts: Counter[Peer] = Counter()
        self._backlog_line: Line | None = None
        client.receiver = EventForwarder(self)

    def start(self, name: str, password: str) -> None:
        """Start the chat after the login: greet, and show who is online.

        The password is kept in memory for /connect.
        """
        self.name, self._password = name, password
        self._logged_in_at = self.now()
        self.show_info(self.translate(texts.WELCOME, name=name))
        self.refresh(self._show_online_friends)

    # --- lines ------------------------------------------------------------------------------------

    def show_info(self, text: str, where: Conversation | None = None, kind: LineKind = LineKind.INFO) -> Line:
        """Show a text of the chat in a conversation, by default in the current one."""
        conversation = where or self.model.current
        line = conversation.add(Line(kind, self.now(), text))
        self.ui.line_added(conversation, line)
        return line

    def show_error(self, text: str, where: Conversation | None = None) -> None:
        """Show an error in a conversation, by default in the current one."""
        self.show_info(text, where, LineKind.ERROR)

    def open(self, peer: Peer) -> None:
        """Make the conversation with a peer the current one."""
        self.open_conversation(self.model[peer])

    def open_conversation(self, conversation: Conversation) -> None:
        """Make a conversation the current one, and tell the server that it was read."""
        self.model.open(conversation)
        self._mark_read(conversation)

    def _mark_read(self, conversation: Conversation) -> None:
        """Tell the server that what is known of a conversation was read."""
        peer, newest = conversation.peer, conversation.newest_id
        if peer is None or newest <= conversation.read_id:
            return
        mark = self.client.mark_group_read if peer.is_group else self.client.mark_read
        if mark(peer.name, newest):
            conversation.read_id = newest

    # --- requests ---------------------------------------------------------------------------------

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

    def send(self, conversation: Conversation, text: str) -> None:
        """Send a message.

        Its line appears at once, and is marked until the server has stored it.
        """
        line = conversation.add(Line(LineKind.OUTGOING, self.now(), text, self.name, DeliveryStatus.PENDING))
        self.ui.line_added(conversation, line)
        self._transmit(conversation, line)

    def resend(self, conversation: Conversation) -> int:
        """Send the undelivered messages of a conversation again, in order; return how many."""
        lines = conversation.undelivered()
        for line in lines:
            line.at, line.status, line.reason = self.now(), DeliveryStatus.PENDING, ""
            conversation.move_to_end(line)
            self._transmit(conversation, line)
        return len(lines)

    @property
    def has_waiting_lines(self) -> bool:
        """Whether lines wait for the connection."""
        return bool(self._waiting)

    def _transmit(self, conversation: Conversation, line: Line) -> None:
        """Send a line; without a connection that comes back by itself, as soon as it is back."""
        # Behind lines that wait already, so that all keep their order.
        if self._waiting or self.client.state in (State.RECONNECTING, State.CONNECTING):
            self._wait_for_connection(conversation, line)
        else:
            self._send_now(conversation, line)

    def _wait_for_connection(self, conversation: Conversation, line: Line) -> None:
        if not self._waiting:
            self.show_info(self.translate(texts.SENT_LATER), conversation)
        self._waiting.append((conversation, line))

    def _send_waiting_lines(self) -> None:
        waiting, self._waiting = self._waiting, []
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
        self.ui.line_undelivered(conversation, line)

    def _send_now(self, conversation: Conversation, line: Line, is_again: bool = False) -> None:
        assert conversation.peer
        name, is_group = conversation.peer
        send = self.client.send_group_message if is_group else self.client.send_message

        def stored(sent: Sent) -> None:
            line.status, line.sent_at, line.id = DeliveryStatus.NONE, sent.time, sent.id or line.id

        def failed(error: BaseException) -> None:
            if line.id is not None:
                return  # the history had the message meanwhile, so it is stored
            if not (isinstance(error, ConnectionLost) and not error.sent):
                self._fail(conversation, line, error)
            # The connection was lost when the user pressed Enter; by now the chat has heard of it.
            elif self.state is State.RECONNECTING:
                self._wait_for_connection(conversation, line)
            elif self.state is State.ONLINE and not is_again:  # it is back already
                self._send_now(conversation, line, is_again=True)
            else:
                self._fail(conversation, line, error)

        self.request(send(name, line.text), stored, failed)

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

    def _note(self, text: str) -> str:
        """Say of an edited message what was done to it."""
        return self.translate(texts.EDITED if text else texts.RECALLED)

    def is_typing(self, text: str) -> None:
        """Tell the other end of the current conversation that the user is writing this text."""
        peer = self.model.current.peer
        if peer is None or not text.strip() or (text.startswith("/") and not text.startswith("//")):
            return  # nothing that would be sent
        (self.client.group_typing if peer.is_group else self.client.typing)(peer.name)

    def who_is_typing(self) -> list[str]:
        """Return the names of those who are typing in the current conversation."""
        now = self.now()
        typing = self.model.current.typing
        for name in [name for name, until in typing.items() if until <= now]:
            del typing[name]
        return [str(Peer(name)) for name in typing]

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

        def done(page: History) -> None:
            if conversation.history_state is HistoryState.LOADING:  # it may have become full meanwhile
                conversation.history_state = (
                    HistoryState.MAYBE_MORE if page.more and page.messages else HistoryState.COMPLETE
                )
            past = (
                self._line_from_history(message)
                for message in reversed(page.messages)
                if not (peer.is_group and message.sender in self.model.blocked)
            )
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
        self.request(read(peer.name, before=conversation.history_cursor, limit=max(count, PAGE)), done, failed)

    def _line_from_history(self, message: PastMessage) -> Line:
        is_outgoing = message.sender == self.name
        kind = LineKind.OUTGOING if is_outgoing else LineKind.INCOMING
        line = Line(kind, message.written_at, message.content, message.sender, id=message.id)
        line.sent_at = message.time if is_outgoing else 0
        line.note = "" if message.edited is None else self._note(message.content)
        return line

    def refresh(self, on_friends: Callable[[], None] = lambda: None) -> None:
        """Fetch the friend list and the groups; call `on_friends` when the friend list is there."""
        self.request(self.client.list_groups(), self._set_groups, lambda _: None)
        self.request(self.client.blocked(), self._set_blocked, lambda _: None)
        self.request(self.client.conversations(), self._set_conversations, lambda _: None)
        self.request(self.client.list_friends(), lambda friends: self._set_friends(friends, on_friends), lambda _: None)

    def _set_conversations(self, found: Sequence[ListedConversation]) -> None:
        """Take over the list of the server, and what is unread in it. Newer messages are here."""
        for each in found[:MAX_LISTED]:
            conversation = self.model[Peer(each.name, each.is_group)]
            later = conversation.received_after(each.last.id) if self.ui.has_shortcuts else 0  # plain: printed
            conversation.unread = each.unread + later
            conversation.newest_id = max(conversation.newest_id, each.last.id)
            conversation.read_id = each.read
        if self.model.current.peer is not None:
            self.open_conversation(self.model.current)

    def _set_groups(self, groups: dict[str, Group]) -> None:
        self.model.groups = {name: group.members for name, group in groups.items()}

    def _set_blocked(self, people: tuple[str, ...]) -> None:
        self.model.blocked = set(people)

    def _set_friends(self, friends: dict[str, bool], on_friends: Callable[[], None]) -> None:
        self.model.friends = friends
        on_friends()

    def _show_online_friends(self) -> None:
        friends = self.model.friends
        online = sorted(name for name, is_online in friends.items() if is_online)
        if online:
            self.show_info(self.translate(texts.ONLINE_NOW, names=self.translate.join_names(online)), self.model.home)
        else:
            self.show_info(self.translate(texts.NOBODY_ONLINE if friends else texts.NO_FRIENDS), self.model.home)

    # --- reconnecting -----------------------------------------------------------------------------

    def connect(self) -> None:
        """Log in again with the remembered password. Ask for it if the server refused it."""
        if self.client.state is State.OFFLINE and not self._password:
            self.ui.ask_password(
                self.translate(start_texts.ASK_PASSWORD, name=Peer(self.name)), self._connect_with_password
            )
        elif self.client.state is State.OFFLINE:
            self.request(
                self.client.login(self.name, self._password), lambda _: self._logged_in_again(), self._login_failed
            )
        else:
            is_online = self.client.state is State.ONLINE
            self.show_info(self.translate(texts.ALREADY_CONNECTED if is_online else texts.ALREADY_TRYING))

    def _logged_in_again(self) -> None:
        for conversation in self.model:
            conversation.restart_history()
        self._back_online(self.translate(texts.CONNECTED))
        if self.ui.has_shortcuts:  # the plain mode loads it with /history only
            self.load_history(self.model.current)

    def _login_failed(self, error: BaseException) -> None:
        if isinstance(error, ConnectionLost):
            reason = self.translate(start_texts.UNREACHABLE)
        else:
            reason = self.translate.describe_error(error)
        self.show_error(self.translate(texts.CANNOT_CONNECT_NOW, reason=reason))
        if isinstance(error, RequestError) and error.likely_code == ErrorCode.WRONG_CREDENTIALS:
            # The next /connect asks. A question now would take the keys while the user is typing.
            self._password = ""
            self.show_info(self.translate(texts.PASSWORD_NEEDED))

    def _connect_with_password(self, password: str) -> None:
        self._password = password
        if password:
            self.connect()

    def _back_online(self, text: str) -> None:
        self._logged_in_at, self._backlog_line = self.now(), None
        self._backlog_counts.clear()
        self.show_info(text)
        self._send_waiting_lines()
        self.refresh()
        self._show_worth_resending(DeliveryStatus.FAILED, texts.SOME_NOT_DELIVERED)
        self._show_worth_resending(DeliveryStatus.UNKNOWN, texts.SOME_PERHAPS_DELIVERED)

    def _show_worth_resending(self, status: DeliveryStatus, text: TranslatedText) -> None:
        """Say how many messages of which conversations have a mark, and could be sent again."""
        counts = [
            self.translate(texts.COUNT_TO, count=count, name=conversation.peer)
            for conversation in self.model
            if (count := sum(line.status is status for line in conversation.worth_resending()))
        ]
        if counts:
            self.show_info(self.translate(text, counts=self.translate(texts.LIST_SEPARATOR).join(counts)))

    def change_password(self, old: str, password: str, where: Conversation) -> None:
        """Change the user's password from the old one to this one."""

        def done(_: None) -> None:
            self._password = password
            self.show_info(self.translate(texts.PASSWORD_CHANGED), where)

        def failed(error: BaseException) -> None:
            is_wrong = isinstance(error, RequestError) and error.code == ErrorCode.WRONG_CREDENTIALS
            if is_wrong:
                self.show_error(self.translate(texts.OLD_PASSWORD_WRONG), where)
            else:
                self.show_error(self.translate.describe_failure("/passwd", error), where)

        self.request(self.client.update_profile(password=password, old_password=old), done, failed)

    def logout(self) -> None:
        """Log out, and then end the chat even if the request fails."""
        self.request(self.client.logout(), lambda _: self.ui.exit(), lambda _: self.ui.exit())

    def connection_status(self) -> str:
        """Return the state of the connection, for the status bar."""
        since = self.since.strftime("%H:%M")
        match self.state, self.reason:
            case State.ONLINE, _:
                return self.translate(texts.BAR_CONNECTED)
            case State.CONNECTING, _:
                return self.translate(texts.BAR_CONNECTING)
            case State.RECONNECTING, _:
                return self.translate(texts.BAR_RECONNECTING, since=since)
            case _, Reason.TAKEN_OVER:
                return self.translate(texts.BAR_TAKEN_OVER)
            case _, Reason.ENDED:
                return self.translate(texts.BAR_ENDED)
            case _, Reason.PASSWORD_CHANGED:
                return self.translate(texts.BAR_PASSWORD_CHANGED)
        return self.translate(texts.BAR_OFFLINE, since=since)

    # --- events -----------------------------------------------------------------------------------

    def on_message(self, peer: Peer, event: MessageEvent | GroupMessageEvent) -> None:
        """Show a message that has arrived."""
        if peer.is_group and event.sender in self.model.blocked:
            return
        is_new = peer not in self.model.conversations
        conversation = self.model[peer]
        line = Line(LineKind.INCOMING, event.written_at, event.content, event.sender, id=event.id)
        conversation.typing.pop(event.sender, None)
        if not self.model.add_received(conversation, line):
            return
        self.ui.line_added(conversation, line)
        conversation.newest_id = max(conversation.newest_id, event.id or 0)
        if conversation is self.model.current or not self.ui.has_shortcuts:
            self._mark_read(conversation)
        if not self.ui.has_shortcuts:
            return  # the plain mode has printed the message: there is no conversation to switch to
        if self._is_backlog(event.time):
            if conversation is not self.model.current:
                self._count_backlog(peer)
        elif is_new:
            number = list(self.model).index(conversation)
            self.show_info(self.translate(texts.WRITES_FIRST, name=peer, number=number), self.model.home)

    def on_edit(self, event: EditEvent) -> None:
        """Show the new text of a message, if the message is here."""
        peer = Peer(event.sender) if event.group is None else Peer(event.group, True)
        conversation = self.model.conversations.get(peer)
        line = conversation.message(event.replaces) if conversation else None
        if conversation and line and (line.kind, line.sender) == (LineKind.INCOMING, event.sender):
            self._show_edit(conversation, line, event.content)

    def _is_backlog(self, time: int) -> bool:
        is_fresh = self.now() - self._logged_in_at < BACKLOG_WINDOW
        return is_fresh and time < self._logged_in_at.timestamp() * 1000

    def _count_backlog(self, peer: Peer) -> None:
        """Count a message that arrived while the user was away. One line shows all counts."""
        self._backlog_counts[peer] += 1
        counts = [
            self.translate(texts.COUNT_IN if peer.is_group else texts.COUNT_FROM, count=count, name=peer)
            for peer, count in self._backlog_counts.items()
        ]
        text = self.translate(texts.WHILE_AWAY, counts=self.translate(texts.LIST_SEPARATOR).join(counts))
        if self._backlog_line:
            self._backlog_line.text = text
        else:
            self._backlog_line = self.show_info(text)

    def on_connection(self, event: ConnectionEvent) -> None:
        """Note that the connection has changed, and tell the user."""
        if self.state is State.ONLINE:
            self.since = self.now()
        self.state, self.reason = event.state, event.reason
        match event.state, event.reason:
            case State.RECONNECTING, _:
                if self._has_other_addresses():
                    self.show_info(self.translate(texts.GOING_TO_ANOTHER, address=event.address))
            case State.ONLINE, Reason.RECONNECTED:
                text = texts.CONNECTED_AGAIN_AT if self._has_other_addresses() else texts.CONNECTED_AGAIN
                since = self.since.strftime("%H:%M")
                self._back_online(self.translate(text, address=event.address, since=since))
            case State.OFFLINE, Reason.TAKEN_OVER:
                self.show_error(self.translate(texts.TAKEN_OVER, name=self.name))
            case State.OFFLINE, Reason.ENDED:
                self.show_error(self.translate(texts.ENDED_ELSEWHERE, name=self.name))
            case State.OFFLINE, Reason.PASSWORD_CHANGED:
                self._password = ""  # /connect asks for the new one
                self.show_error(self.translate(texts.PASSWORD_CHANGED_ELSEWHERE, name=self.name))
            case State.OFFLINE, Reason.TOKEN_REFUSED:
                self.connect()  # only once: a failed login has another reason
            case State.OFFLINE, Reason.CONNECTION_LOST | Reason.GAVE_UP:
                self.show_error(self.translate(texts.CONNECTION_CLOSED))
        is_logging_in = event.reason is Reason.TOKEN_REFUSED and bool(self._password)
        if event.state in (State.OFFLINE, State.CLOSED) and not is_logging_in:
            self._give_up_waiting_lines()

    def _has_other_addresses(self) -> bool:
        return len(self.client.addresses) > 1

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        """Show that somebody asks to have the user on the friend list."""
        self.model.requests[event.friend] = None
        self.show_info(self.translate(texts.FRIEND_REQUEST, name=Peer(event.friend)))

    def on_invitation(self, event: InvitationEvent) -> None:
        """Show that somebody asks the user to become a member of a group."""
        self.model.invitations[event.group] = None
        group = Peer(event.group, True)
        self.show_info(self.translate(texts.INVITATION, name=Peer(event.user), group=group))

    def on_system(self, event: SystemEvent) -> None:
        """Show an event of the server. (The original server sends none.)"""
        match event.event:
            case "presence":
                self._presence(event.friend, event.online)
            case "friend_answer":
                text = texts.REQUEST_ACCEPTED if event.accepted else texts.REQUEST_DECLINED
                self.show_info(self.translate(text, name=Peer(event.friend)))
            case "group_changed":
                changes = event.values.get("changes", ())
                self._group_changed(event.group, event.members, changes)
                self._show_role_changes(Peer(event.group, True), changes)
            case "group_disbanded":
                self.model.groups.pop(event.group, None)
                peer = Peer(event.group, True)
                self._show_info_in(peer, self.translate(texts.GROUP_ENDED, group=peer))
            case "inbox_full":
                for group in event.groups:
                    peer = Peer(group, True)
                    self.show_info(self.translate(texts.GROUP_MISSED, group=peer), self.model[peer])
            case "typing":
                self._typing(Peer(event.group, True) if event.group else Peer(event.user), event.user)
            case "shutdown":
                self.show_info(self.translate(texts.SERVER_STOPS))

    def _typing(self, peer: Peer, user: str) -> None:
        if peer in self.model.conversations:  # a notice opens no conversation
            self.model[peer].typing[user] = self.now() + TYPING_WINDOW
            self.ui.typing_changed()

    def _presence(self, friend: str, online: bool) -> None:
        if self.model.friends.get(friend) == online:
            return
        self.model.friends[friend] = online
        peer = Peer(friend)
        self._show_info_in(peer, self.translate(texts.CAME_ONLINE if online else texts.WENT_OFFLINE, name=peer))

    def _group_changed(self, group: str, members: tuple[str, ...], changes: Iterable[Mapping[str, str]]) -> None:
        peer, before = Peer(group, True), self.model.groups.pop(group, None)
        others = self._changed_by_others(changes)
        if self.name not in members:
            text = texts.YOU_WERE_REMOVED if self.name in others else texts.YOU_ARE_OUT
            return self._show_info_in(peer, self.translate(text, group=peer, user=Peer(others.get(self.name, ""))))
        self.model.groups[group] = members
        if before is None:  # the user was added: open a conversation, so that this is seen
            names = self._join_people(name for name in members if name != self.name)
            line = self.show_info(self.translate(texts.YOU_ARE_IN, group=peer, names=names), self.model[peer])
            if self.ui.has_shortcuts:  # the plain mode has printed it
                self.model.count_unread(self.model[peer], line)
            return None
        self._show_member_changes(peer, texts.JOINED, texts.ADDED, set(members) - set(before), others)
        self._show_member_changes(peer, texts.LEFT, texts.REMOVED, set(before) - set(members), others)
        return None

    def _changed_by_others(self, changes: Iterable[Mapping[str, str]]) -> dict[str, str]:
        """Return who has added or removed whom last, except what members and this user did
        themselves.
        """
        found = {change.get("added") or change.get("removed", ""): change.get("user", "") for change in changes}
        return {member: user for member, user in found.items() if user not in ("", member, self.name)}

    def _show_member_changes(
        self, peer: Peer, text: TranslatedText, text_by: TranslatedText, names: Iterable[str], others: Mapping[str, str]
    ) -> None:
        """Show the names, by who has added or removed them. `text_by`: if that was another."""
        by_user: dict[str, list[str]] = {}
        for name in sorted(names):
            by_user.setdefault(others.get(name, ""), []).append(name)
        for user, shown in sorted(by_user.items()):
            people = self._join_people(shown)
            self._show_info_in(peer, self.translate(text_by if user else text, user=Peer(user), names=people))

    def _show_role_changes(self, peer: Peer, changes: Iterable[Mapping[str, str]]) -> None:
        for change in changes:
            if text := texts.ROLE_CHANGES.get(change.get("role", "")):
                self.model.role_changes[peer.name] += 1
                user, member = Peer(change.get("user", "")), Peer(change.get("member", ""))
                self._show_info_in(peer, self.translate(text, user=user, name=member))

    def _join_people(self, names: Iterable[str]) -> str:
        return self.translate.join_names([str(Peer(name)) for name in names])

    def _show_info_in(self, peer: Peer, text: str) -> None:
        if peer in self.model.conversations:
            self.show_info(text, self.model[peer])
