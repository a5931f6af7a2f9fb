"""Between the client and the model: what is sent, what arrives, what became of it.

The client calls back on a thread of its own; everything here runs on one thread, that of the user interface. Between
the two stands the `Mailbox`: whatever comes from the client becomes a job in it. Nothing here waits for an answer.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import TypeVar

from client_api import (
    ConnectionEvent,
    ConnectionLost,
    ErrorCode,
    Group,
    GroupMessageEvent,
    History,
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
from jelly.chat import texts
from jelly.chat.model import CAN_BE_READ, Conversation, Kind, Line, Mark, Model, Older, Peer
from jelly.chat.texts import Text, Words, is_known

T = TypeVar("T")

Job = Callable[[], None]

PAGE = 50
"""So many earlier messages are read back at a time."""
ABOVE = {
    Older.LOADING: texts.LOADING,
    Older.NOTHING: texts.BEGINNING,
    Older.NOT_KEPT: texts.NOT_KEPT,
    Older.UNAVAILABLE: texts.NO_HISTORY,
    Older.FAILED: texts.CANNOT_READ_BACK,
}
"""What there is to say about older lines, but for Older.PERHAPS."""
BACKLOG_TIME = timedelta(seconds=60)
"""For so long after a login, messages from before it count as what came while one was away."""


class Mailbox:
    """Jobs for the thread of the user interface, in order. `post` may be called on any thread."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._wake: Job | None = None

    def post(self, job: Job) -> None:
        """Have a job done soon; before `attach`, as soon as there is somebody to do it."""
        with self._lock:
            self._jobs.append(job)
            wake = self._wake
        if wake:
            wake()

    def attach(self, wake: Job | None) -> None:
        """Say how to wake the user interface, so that it calls `run`; None: it has ended, leave it alone."""
        with self._lock:
            self._wake = wake

    def run(self) -> None:
        """Do what is there."""
        while self._jobs:
            self._jobs.popleft()()


class Front:
    """What a session needs of the user interface. Each mode has its own."""

    has_keys = False
    """Whether there are keys to go to a conversation."""

    def line_added(self, conversation: Conversation, line: Line) -> None:
        """There is a new line."""

    def line_marked(self, conversation: Conversation, line: Line) -> None:
        """It is known what became of a message of ours, and it is nothing good."""

    def history_added(self, conversation: Conversation, lines: list[Line], was_asked: bool) -> None:
        """There are new lines above the others, oldest first; `was_asked`: by a command."""

    def ask_secret(self, label: str, then: Callable[[str], None]) -> None:
        """Ask for a password without showing it; `then` gets it. Whoever gives up is asked no more."""

    def leave(self) -> None:
        """End the chat."""


class Events(Receiver):
    """Takes what arrives from the client's thread to the session's."""

    def __init__(self, session: "Session") -> None:
        self._session = session

    def on_message(self, event: MessageEvent) -> None:
        self._session.post(lambda: self._session.message(Peer(event.sender), event))

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._session.post(lambda: self._session.message(Peer(event.group, True), event))

    def on_system(self, event: SystemEvent) -> None:
        self._session.post(lambda: self._session.system(event))

    def on_connection(self, event: ConnectionEvent) -> None:
        self._session.post(lambda: self._session.connection(event))


class Session:
    """One person's chat. `post` hands jobs to the thread on which everything here runs."""

    def __init__(
        self,
        client: JellyClient,
        words: Words,
        post: Callable[[Job], None],
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self.client, self.words, self.post, self.now = client, words, post, now
        self.model = Model()
        self.front = Front()
        self.name = ""
        self.state, self.reason, self.since = State.OFFLINE, Reason.LOGIN, now()
        self.pending = 0
        """Requests whose answers have not come yet."""
        self._password = ""
        self._logged_in_at = now()
        self._away: Counter[Peer] = Counter()
        self._away_line: Line | None = None
        client.receiver = Events(self)

    def begin(self, name: str, password: str) -> None:
        """The first words, right after the login. The password is kept in memory for /connect."""
        self.name, self._password = name, password
        self._logged_in_at = self.now()
        self.note(self.words(texts.WELCOME, name=name))
        self.refresh(self._say_who_is_online)

    # --- lines --------------------------------------------------------------------------------------------

    def note(self, text: str, where: Conversation | None = None, kind: Kind = Kind.NOTE) -> Line:
        """The chat says something, in a conversation or else in the one that is shown."""
        conversation = where or self.model.current
        line = conversation.add(Line(kind, self.now(), text))
        self.front.line_added(conversation, line)
        return line

    def fail(self, text: str, where: Conversation | None = None) -> None:
        """The chat says what went wrong."""
        self.note(text, where, Kind.ERROR)

    def show(self, peer: Peer) -> None:
        """Turn to somebody."""
        self.model.show(self.model[peer])

    # --- requests -----------------------------------------------------------------------------------------

    def request(self, future: "Future[T]", done: Callable[[T], None], failed: Callable[[BaseException], None]) -> None:
        """Have one of two functions called when a request has ended."""

        def settle() -> None:
            self.pending -= 1
            if error := future.exception():
                failed(error)
            else:
                done(future.result())

        self.pending += 1
        future.add_done_callback(lambda _: self.post(settle))

    def send(self, conversation: Conversation, text: str) -> None:
        """Write to a conversation; the line is there at once, and marked until the message is stored."""
        line = conversation.add(Line(Kind.OURS, self.now(), text, self.name, Mark.PENDING))
        self.front.line_added(conversation, line)
        self._transmit(conversation, line)

    def resend(self, conversation: Conversation) -> int:
        """Send again what is marked, in its order; return how many there were."""
        lines = conversation.undelivered()
        for line in lines:
            line.at, line.mark, line.reason = self.now(), Mark.PENDING, ""
            conversation.move_to_end(line)
            self._transmit(conversation, line)
        return len(lines)

    def _transmit(self, conversation: Conversation, line: Line) -> None:
        assert conversation.peer
        name, is_group = conversation.peer
        send = self.client.send_group_message if is_group else self.client.send_message

        def stored(sent: Sent) -> None:
            line.mark, line.sent_at = Mark.NONE, sent.time

        def failed(error: BaseException) -> None:
            if line.id is not None:
                return  # it was read back meanwhile, so it is stored
            known = is_known(error)
            line.mark = Mark.FAILED if known else Mark.UNKNOWN
            text = texts.NOT_DELIVERED if known else texts.PERHAPS_DELIVERED
            line.reason = self.words(text, reason=self.words.error(error))
            self.front.line_marked(conversation, line)

        self.request(send(name, line.text), stored, failed)

    def read_back(self, conversation: Conversation, count: int = PAGE, was_asked: bool = False) -> None:
        """Read so many older messages of a conversation; nothing if that is under way, or there are none."""
        if conversation.peer and conversation.older in CAN_BE_READ:
            conversation.was_read_back = True
            self._read_page(conversation, conversation.peer, count, was_asked, [])

    def _read_page(
        self, conversation: Conversation, peer: Peer, count: int, was_asked: bool, found: list[Line]
    ) -> None:
        """Ask for one page, and for the next one until `count` lines are found that were not here already."""
        conversation.older = Older.LOADING

        def done(page: History) -> None:
            if conversation.older is Older.LOADING:  # else it is full by now
                conversation.older = Older.PERHAPS if page.more and page.messages else Older.NOTHING
            past = (self._past(message) for message in reversed(page.messages))
            found[:0] = conversation.add_older(past, count - len(found))
            if conversation.older is Older.PERHAPS and (conversation.hole or len(found) < count):
                self._read_page(conversation, peer, count, was_asked, found)
            else:
                self.front.history_added(conversation, found, was_asked)

        def failed(error: BaseException) -> None:
            is_unknown = isinstance(error, RequestError) and error.code == ErrorCode.UNKNOWN_TYPE
            conversation.older, conversation.was_read_back = Older.UNAVAILABLE if is_unknown else Older.FAILED, False
            conversation.why_failed = self.words.error(error)
            if found:
                self.front.history_added(conversation, found, was_asked)
            if was_asked and is_unknown:
                self.note(self.words(texts.NO_HISTORY), conversation)
            elif was_asked:
                self.fail(self.words.failed("/history", error), conversation)

        read = self.client.group_history if peer.is_group else self.client.history
        self.request(read(peer.name, before=conversation.before, limit=max(count, PAGE)), done, failed)

    def _past(self, message: PastMessage) -> Line:
        is_ours = message.sender == self.name
        line = Line(Kind.OURS if is_ours else Kind.THEIRS, message.written_at, message.content, message.sender)
        line.id, line.sent_at = message.id, message.time if is_ours else 0
        return line

    def refresh(self, then: Callable[[], None] = lambda: None) -> None:
        """Learn who is on the list and which groups there are."""
        self.request(self.client.list_groups(), self._take_groups, lambda _: None)
        self.request(self.client.list_friends(), lambda friends: self._take_friends(friends, then), lambda _: None)

    def _take_groups(self, groups: dict[str, Group]) -> None:
        self.model.groups = {name: group.members for name, group in groups.items()}

    def _take_friends(self, friends: dict[str, bool], then: Callable[[], None]) -> None:
        self.model.friends = friends
        then()

    def _say_who_is_online(self) -> None:
        friends = self.model.friends
        online = sorted(name for name, is_online in friends.items() if is_online)
        if online:
            self.note(self.words(texts.ONLINE_NOW, names=self.words.names(online)), self.model.home)
        else:
            self.note(self.words(texts.NOBODY_ONLINE if friends else texts.NO_FRIENDS), self.model.home)

    # --- coming back --------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Log in again, with the password that is remembered."""
        if self.client.state is State.OFFLINE and not self._password:
            self.front.ask_secret(self.words(texts.ASK_PASSWORD, name=Peer(self.name)), self._connect_with)
        elif self.client.state is State.OFFLINE:
            self.request(self.client.login(self.name, self._password), lambda _: self._is_back(), self._is_not_back)
        else:
            is_online = self.client.state is State.ONLINE
            self.note(self.words(texts.ALREADY_CONNECTED if is_online else texts.ALREADY_TRYING))

    def _is_back(self) -> None:
        for conversation in self.model:
            conversation.read_anew()
        self._came_back(self.words(texts.CONNECTED))
        if self.front.has_keys:  # else it is read when it is asked for
            self.read_back(self.model.current)

    def _is_not_back(self, error: BaseException) -> None:
        reason = self.words(texts.UNREACHABLE) if isinstance(error, ConnectionLost) else self.words.error(error)
        self.fail(self.words(texts.CANNOT_CONNECT_NOW, reason=reason))
        if isinstance(error, RequestError) and error.code == ErrorCode.WRONG_CREDENTIALS:
            # The next /connect asks. To ask now would take the keys from whoever is typing something else.
            self._password = ""
            self.note(self.words(texts.PASSWORD_NEEDED))

    def _connect_with(self, password: str) -> None:
        self._password = password
        if password:
            self.connect()

    def _came_back(self, text: str) -> None:
        self._logged_in_at, self._away_line = self.now(), None
        self._away.clear()
        self.note(text)
        self.refresh()
        if marked := [each for each in self.model if each.undelivered()]:
            counts = self.words(texts.LIST_SEPARATOR).join(
                self.words(texts.TO_SOMEBODY, count=len(each.undelivered()), name=each.peer) for each in marked
            )
            self.note(self.words(texts.SOME_UNDELIVERED, counts=counts))

    def change_password(self, password: str, where: Conversation) -> None:
        """Give oneself a new password."""

        def done(_: None) -> None:
            self._password = password
            self.note(self.words(texts.PASSWORD_CHANGED), where)

        def failed(error: BaseException) -> None:
            self.fail(self.words.failed("/passwd", error), where)

        self.request(self.client.update_profile(password=password), done, failed)

    def logout(self) -> None:
        """End the session, and the chat, however it turns out."""
        self.request(self.client.logout(), lambda _: self.front.leave(), lambda _: self.front.leave())

    def standing(self) -> str:
        """How things stand with the server, for the status bar."""
        since = self.since.strftime("%H:%M")
        match self.state, self.reason:
            case State.ONLINE, _:
                return self.words(texts.BAR_CONNECTED)
            case State.CONNECTING, _:
                return self.words(texts.BAR_CONNECTING)
            case State.RECONNECTING, _:
                return self.words(texts.BAR_RECONNECTING, since=since)
            case _, Reason.TAKEN_OVER:
                return self.words(texts.BAR_TAKEN_OVER)
        return self.words(texts.BAR_OFFLINE, since=since)

    # --- what arrives -------------------------------------------------------------------------------------

    def message(self, peer: Peer, event: MessageEvent | GroupMessageEvent) -> None:
        """Somebody wrote."""
        is_new = peer not in self.model.conversations
        conversation = self.model[peer]
        line = Line(Kind.THEIRS, event.written_at, event.content, event.sender, id=event.id)
        if not self.model.received(conversation, line):
            return
        self.front.line_added(conversation, line)
        if not self.front.has_keys:
            return  # it was printed itself; there is nothing to lead to
        if self._is_from_before(event.time):
            if conversation is not self.model.current:
                self._count_away(peer)
        elif is_new:
            number = list(self.model).index(conversation)
            self.note(self.words(texts.WRITES_FIRST, name=peer, number=number), self.model.home)

    def _is_from_before(self, time: int) -> bool:
        is_fresh = self.now() - self._logged_in_at < BACKLOG_TIME
        return is_fresh and time < self._logged_in_at.timestamp() * 1000

    def _count_away(self, peer: Peer) -> None:
        """One line for all that came while one was away; it grows while they come in."""
        self._away[peer] += 1
        counts = [
            self.words(texts.IN_GROUP if peer.is_group else texts.FROM_PERSON, count=count, name=peer)
            for peer, count in self._away.items()
        ]
        text = self.words(texts.WHILE_AWAY, counts=self.words(texts.LIST_SEPARATOR).join(counts))
        if self._away_line:
            self._away_line.text = text
        else:
            self._away_line = self.note(text)

    def connection(self, event: ConnectionEvent) -> None:
        """The connection has changed."""
        if self.state is State.ONLINE:
            self.since = self.now()
        self.state, self.reason = event.state, event.reason
        match event.state, event.reason:
            case State.ONLINE, Reason.RECONNECTED:
                self._came_back(self.words(texts.CONNECTED_AGAIN, since=self.since.strftime("%H:%M")))
            case State.OFFLINE, Reason.TAKEN_OVER:
                self.fail(self.words(texts.TAKEN_OVER, name=self.name))
            case State.OFFLINE, Reason.TOKEN_REFUSED:
                self.connect()  # once: a login that fails ends with another reason
            case State.OFFLINE, Reason.CONNECTION_LOST | Reason.GAVE_UP:
                self.fail(self.words(texts.LINE_ENDED))

    def system(self, event: SystemEvent) -> None:
        """The server says something of its own accord; the original one never does."""
        match event.event:
            case "presence":
                self._presence(event.friend, event.online)
            case "group_changed":
                self._group_changed(event.group, event.members)
            case "group_disbanded":
                self.model.groups.pop(event.group, None)
                peer = Peer(event.group, True)
                self._note_if_talking(peer, self.words(texts.GROUP_ENDED, group=peer))
            case "shutdown":
                self.note(self.words(texts.SERVER_STOPS))

    def _presence(self, friend: str, online: bool) -> None:
        if self.model.friends.get(friend) == online:
            return
        self.model.friends[friend] = online
        peer = Peer(friend)
        self._note_if_talking(peer, self.words(texts.CAME_ONLINE if online else texts.WENT_OFFLINE, name=peer))

    def _group_changed(self, group: str, members: tuple[str, ...]) -> None:
        peer, before = Peer(group, True), self.model.groups.pop(group, None)
        if self.name not in members:
            return self._note_if_talking(peer, self.words(texts.YOU_ARE_OUT, group=peer))
        self.model.groups[group] = members
        if before is None:  # one has been taken in: a conversation begins, so that one sees it
            names = self._names_of(name for name in members if name != self.name)
            line = self.note(self.words(texts.YOU_ARE_IN, group=peer, names=names), self.model[peer])
            if self.front.has_keys:  # else it was printed
                self.model.count(self.model[peer], line)
            return None
        self._note_about_some(peer, texts.JOINED, set(members) - set(before))
        self._note_about_some(peer, texts.LEFT, set(before) - set(members))
        return None

    def _note_about_some(self, peer: Peer, text: Text, names: Iterable[str]) -> None:
        if shown := self._names_of(sorted(names)):
            self._note_if_talking(peer, self.words(text, names=shown))

    def _names_of(self, names: Iterable[str]) -> str:
        return self.words.names([str(Peer(name)) for name in names])

    def _note_if_talking(self, peer: Peer, text: str) -> None:
        if peer in self.model.conversations:
            self.note(text, self.model[peer])
