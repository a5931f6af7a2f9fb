"""The controller between the client and the model: sends requests, and records what comes back.

The client calls back on a thread of its own. Everything here runs on the thread of the user
interface. The `JobQueue` connects the two: each callback of the client becomes a job in it. Nothing
here blocks.

What the user writes is in `outbox.py`, older messages are in `history_loader.py`, and the notices
of the server in `server_events.py`.
"""

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
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
    InvitationEvent,
    JellyClient,
    MessageEvent,
    OwnMessageEvent,
    Reason,
    Receiver,
    RequestError,
    State,
    SystemEvent,
)
from client_api import Conversation as ListedConversation
from jelly.chat import start_texts, texts
from jelly.chat.history_loader import PAGE, HistoryLoader
from jelly.chat.job_queue import Job
from jelly.chat.model import Conversation, HistoryState, Line, LineKind, Peer
from jelly.chat.normal_form import forms_of, nfc
from jelly.chat.notify_command import NotifyCommand
from jelly.chat.outbox import Outbox
from jelly.chat.server_events import ServerEvents
from jelly.chat.translator import Translator

T = TypeVar("T")

MAX_LISTED = 50
"""At most this many conversations are shown of those that the server lists: the newest."""
TIME_TO_CLOSE = 5.0
"""At most this many seconds the end of the full screen waits for answers. (The plain mode has
waited for them.)"""
BACKLOG_WINDOW = timedelta(seconds=60)
"""How long after a login messages from before it are counted in "while you were away"."""


class EventForwarder(Receiver):
    """Forwards the client's events from the client's thread to the session's.

    The client acknowledges a message when its callback returns. Where a message counts as received
    only when it was shown, the callback waits for that. If it cannot be shown, it waits until the
    connection is closed, so that the server keeps the message.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._condition = threading.Condition()
        self._is_released = False

    def release(self) -> None:
        """Let the callbacks return. Call it when the connection is closed."""
        with self._condition:
            self._is_released = True
            self._condition.notify_all()

    def _show(self, job: Job) -> None:
        is_shown = False

        def show() -> None:
            nonlocal is_shown
            job()
            with self._condition:
                is_shown = True
                self._condition.notify_all()

        self._session.post(show)
        if self._session.ui.acknowledges_when_shown:
            with self._condition:
                self._condition.wait_for(lambda: is_shown or self._is_released)

    def on_message(self, event: MessageEvent) -> None:
        self._show(lambda: self._session.on_message(Peer(event.sender), event))

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._show(lambda: self._session.on_message(Peer(event.group, True), event))

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        self._session.post(lambda: self._session.on_friend_request(event))

    def on_edit(self, event: EditEvent) -> None:
        self._show(lambda: self._session.on_edit(event))

    def on_own_message(self, event: OwnMessageEvent) -> None:
        self._show(lambda: self._session.on_own_message(event))

    def on_own_edit(self, event: EditEvent) -> None:
        self._show(lambda: self._session.on_own_edit(event))

    def on_invitation(self, event: InvitationEvent) -> None:
        self._session.post(lambda: self._session.on_invitation(event))

    def on_system(self, event: SystemEvent) -> None:
        self._session.post(lambda: self._session.on_system(event))

    def on_connection(self, event: ConnectionEvent) -> None:
        self._session.post(lambda: self._session.on_connection(event))


class Session(Outbox, HistoryLoader, ServerEvents):
    """The chat of one user. `post` queues a job for the thread on which everything here runs."""

    def __init__(
        self,
        client: JellyClient,
        translate: Translator,
        post: Callable[[Job], None],
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        super().__init__(client, translate, post, now)
        self._password = ""
        self._logged_in_at = now()
        self._backlog_counts: Counter[Peer] = Counter()
        self._backlog_line: Line | None = None
        self._gap_since: int | None = None
        self.has_highlight = True
        """Whether messages with the name of the user stand out."""
        self.notify_command: NotifyCommand | None = None
        self._has_told_unread = False
        self.account_is_deleted = False
        """Whether the user has been told that the account is deleted."""
        self._forwarder = EventForwarder(self)
        client.receiver = self._forwarder

    def start(self, name: str, password: str) -> None:
        """Start the chat after the login: greet, and show who is online.

        The password is kept in memory for /connect.
        """
        self.name, self._password = name, password
        self._logged_in_at = self.now()
        self.show_info(self.translate(texts.WELCOME, name=name))
        self.show_kept()
        self.refresh(self._show_online_friends)

    def close(self) -> None:
        """End the connection, when the user interface has ended. What it has not shown, and was to
        show, is not acknowledged: it comes again.
        """
        self.client.close(timeout=0 if self.ui.acknowledges_when_shown else TIME_TO_CLOSE)
        self._forwarder.release()
        self.client.close()
        self.end_log()

    # --- conversations ----------------------------------------------------------------------------

    def open(self, peer: Peer) -> None:
        """Make the conversation with a peer the current one."""
        self.open_conversation(self.model[peer])

    def open_conversation(self, conversation: Conversation) -> None:
        """Make a conversation the current one. The plain mode prints what is unread in it."""
        unread = conversation.unread
        self.model.open(conversation)
        if unread and not self.ui.has_shortcuts:
            self.load_history(conversation, min(unread, PAGE), by_command=True)

    def was_shown(self, conversation: Conversation, id: int) -> None:
        """Tell the server that a conversation was read up to this message, which was shown."""
        peer = conversation.peer
        if peer is None or id <= conversation.read_id:
            return
        mark = self.client.mark_group_read if peer.is_group else self.client.mark_read
        if mark(peer.name, id):
            conversation.read_id = id

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

    def refresh(self, on_friends: Callable[[], None] = lambda: None) -> None:
        """Fetch the friend list and the groups; call `on_friends` when the friend list is there."""
        self.request(self.client.list_groups(), self._set_groups, lambda _: None)
        self.request(self.client.blocked(), self._set_blocked, lambda _: None)
        self.request(self.client.conversations(), self._set_conversations, lambda _: None)
        self.request(self.client.list_friends(), lambda friends: self._set_friends(friends, on_friends), lambda _: None)

    def _set_conversations(self, found: Sequence[ListedConversation]) -> None:
        """Take over the list of the server, and what is unread in it. Newer messages are here."""
        for each in found[:MAX_LISTED]:
            peer = Peer(each.name, each.is_group)
            if each.last.id <= self.model.closed.get(peer, 0) or (
                not each.is_group and self.is_hidden(peer, each.name)
            ):
                continue
            conversation = self.model[peer]
            known = max(each.last.id, each.read)  # what this device is still to get may be read on another one
            if self.ui.has_shortcuts:
                conversation.unread = each.unread + conversation.received_after(known)
            else:  # what has come here was printed
                printed = conversation.received_after(each.read) - conversation.received_after(known)
                conversation.unread = max(0, each.unread - printed)
            conversation.newest_id = max(conversation.newest_id, each.last.id)
            conversation.read_id = max(conversation.read_id, each.read)
        if self.model.current.peer is not None:
            self.open_conversation(self.model.current)
        if not self.ui.has_shortcuts and not self._has_told_unread:
            self._tell_unread()

    def _tell_unread(self) -> None:
        """Say once what is unread: the plain mode has no status bar."""
        self._has_told_unread = True
        counts = [
            self.translate(
                texts.COUNT_IN if each.peer.is_group else texts.COUNT_FROM, count=each.unread, name=each.peer
            )
            for each in self.model
            if each.peer and each.unread
        ]
        if counts:
            self.show_info(self.translate(texts.UNREAD, counts=self.translate(texts.LIST_SEPARATOR).join(counts)))

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
            self.try_password(
                self._password,
                lambda form: self.client.login(self.name, form),
                lambda _: self._logged_in_again(),
                self._login_failed,
            )
        else:
            is_online = self.client.state is State.ONLINE
            self.show_info(self.translate(texts.ALREADY_CONNECTED if is_online else texts.ALREADY_TRYING))

    def try_password(
        self,
        password: str,
        ask: "Callable[[str], Future[T]]",
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Make a request that needs a password the user has typed: in its normal form; if that is
        refused, as it was typed.
        """
        form, *others = forms_of(password)

        def refused(error: BaseException) -> None:
            if others and isinstance(error, RequestError) and error.likely_code == ErrorCode.WRONG_CREDENTIALS:
                self.request(ask(others[0]), done, failed)
            else:
                failed(error)

        self.request(ask(form), done, refused)

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
        self.show_worth_resending()

    def change_password(self, old: str, password: str, where: Conversation) -> None:
        """Change the user's password from the old one to this one."""
        password = nfc(password)

        def done(_: None) -> None:
            self._password = password
            self.show_info(self.translate(texts.PASSWORD_CHANGED), where)

        def failed(error: BaseException) -> None:
            is_wrong = isinstance(error, RequestError) and error.code == ErrorCode.WRONG_CREDENTIALS
            if is_wrong:
                self.show_error(self.translate(texts.OLD_PASSWORD_WRONG), where)
            else:
                self.show_error(self.translate.describe_failure("/passwd", error), where)

        def ask(form: str) -> "Future[None]":
            return self.client.update_profile(password=password, old_password=form)

        self.try_password(old, ask, done, failed)

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
        if self.is_hidden(peer, event.sender):
            return
        is_new = peer not in self.model.conversations
        conversation = self.model[peer]
        line = Line(LineKind.INCOMING, self.time_of(event), event.content, event.sender, id=event.id)
        line.is_mention = self.has_highlight and peer.is_group and mentions(event.content, self.name)
        conversation.typing.pop(event.sender, None)
        unread = conversation.unread
        if not self.model.add_received(conversation, line):
            return
        if not self.ui.has_shortcuts:
            conversation.unread = unread  # this one is printed
        self.line_added(conversation, line)
        conversation.newest_id = max(conversation.newest_id, event.id or 0)
        self._call_user(peer, conversation, line, event.time)
        if not self.ui.has_shortcuts:
            return  # the plain mode has printed the message: there is no conversation to switch to
        if self._is_backlog(event.time):
            if conversation is not self.model.current and (event.id is None or event.id > conversation.read_id):
                self._count_backlog(peer)
        elif is_new:
            number = list(self.model).index(conversation)
            key = f"Alt-{number}" if number < 10 else f"Alt-j {number}"
            self.show_info(self.translate(texts.WRITES_FIRST, name=peer, key=key), self.model.home)

    def _call_user(self, peer: Peer, conversation: Conversation, line: Line, time: int) -> None:
        """Ring, and run the command of --notify, for a message to the user that is not in sight."""
        is_in_sight = conversation is self.model.current and self.ui.has_shortcuts
        if is_in_sight or (peer.is_group and not line.is_mention) or self._is_backlog(time):
            return
        self.ui.ring()
        if self.notify_command is None:
            return
        try:
            self.notify_command.run(peer, line, max(1, self.model.unread))
        except OSError as error:
            self.notify_command = None
            self.show_error(self.translate(texts.CANNOT_NOTIFY, reason=f"{error.strerror}: {error.filename}"))

    def on_edit(self, event: EditEvent) -> None:
        """Show the new text of a message, if the message is here."""
        peer = Peer(event.sender) if event.group is None else Peer(event.group, True)
        conversation = self.model.conversations.get(peer)
        line = conversation.message(event.replaces) if conversation else None
        if conversation and line and (line.kind, line.sender) == (LineKind.INCOMING, event.sender):
            self._show_edit(conversation, line, event.content)

    def on_own_message(self, event: OwnMessageEvent) -> None:
        """Show a message that the user has written on another device."""
        conversation = self.model[_peer_of(event)]
        line = Line(LineKind.OUTGOING, event.written_at, event.content, self.name, id=event.id, sent_at=event.time)
        if self.model.add_own(conversation, line):
            conversation.newest_id = max(conversation.newest_id, event.id or 0)
            self.line_added(conversation, line)

    def on_own_edit(self, event: EditEvent) -> None:
        """Show what the user has changed on another device, if the message is here."""
        conversation = self.model.conversations.get(_peer_of(event))
        line = conversation.message(event.replaces) if conversation else None
        if conversation and line and line.kind is LineKind.OUTGOING:
            self._show_edit(conversation, line, event.content)

    def on_own_read(self, event: SystemEvent) -> None:
        """Note what the user has read on another device."""
        peer = Peer(event.group, True) if event.group else Peer(event.user)
        conversation = self.model.conversations.get(peer)
        if conversation and event.id is not None and not self.model.was_read(conversation, event.id):
            self.request(self.client.conversations(), self._set_conversations, lambda _: None)

    def on_gap(self, since: int | None) -> None:
        """This device may have missed messages from an id on: read them from the history. (It is
        told again with each login, until a message has come.)
        """
        for conversation in self.model:
            if conversation.history_state is not HistoryState.LOADING:
                conversation.restart_history()
        if since != self._gap_since:
            self._gap_since = since
            self.show_info(self.translate(texts.GAP))
        if self.ui.has_shortcuts:  # what is not open now is loaded when it is opened
            self.load_history(self.model.current)

    def on_system(self, event: SystemEvent) -> None:
        match event.event:
            case "own_read":
                self.on_own_read(event)
            case "gap":
                self.on_gap(event.since)
            case "logged_out" if event.values.get("reason") == "account_deleted":
                if not self.account_is_deleted:
                    self.account_is_deleted = True
                    self.show_error(self.translate(texts.DELETED_ELSEWHERE, name=self.name))
            case _:
                super().on_system(event)

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
            case State.OFFLINE, Reason.ENDED if not self.account_is_deleted:
                self.show_error(self.translate(texts.ENDED_ELSEWHERE, name=self.name))
            case State.OFFLINE, Reason.PASSWORD_CHANGED:
                self._password = ""  # /connect asks for the new one
                self.show_error(self.translate(texts.PASSWORD_CHANGED_ELSEWHERE, name=self.name))
            case State.OFFLINE, Reason.TOKEN_REFUSED:
                self.connect()  # only once: a failed login has another reason
            case State.OFFLINE, Reason.CONNECTION_LOST | Reason.GAVE_UP:
                self.show_error(self.translate(texts.CONNECTION_CLOSED))
        if event.state is State.CLOSED:
            self._give_up_waiting_lines()

    def _has_other_addresses(self) -> bool:
        return len(self.client.addresses) > 1


def _peer_of(event: OwnMessageEvent | EditEvent) -> Peer:
    """To whom the user has written."""
    return Peer(event.receiver) if event.group is None else Peer(event.group, True)


def mentions(text: str, name: str) -> bool:
    """Return whether a text has a name, as a word of its own. (Chinese words stand together.)"""
    return bool(name) and bool(re.search(f"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text, re.IGNORECASE))
