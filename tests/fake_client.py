"""A client without a network, for tests of what is built on it: the test answers its requests."""

from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

from client_api import (
    ConnectionEvent,
    Conversation,
    FriendRequestEvent,
    GroupMessageEvent,
    InvitationEvent,
    JellyClient,
    MessageEvent,
    Reason,
    Receiver,
    RequestRejected,
    Sent,
    State,
    SystemEvent,
)
from jelly.chat.job_queue import JobQueue
from jelly.chat.session import Session
from jelly.chat.translator import Translator
from jelly.chat.user_interface import UserInterface

NOW = datetime(2025, 11, 24, 14, 3, tzinfo=UTC)
MS = int(NOW.timestamp() * 1000)


class FakeClient:
    """Records each call as (name, arguments). `answer` and `refuse` end the oldest open call."""

    def __init__(self) -> None:
        self.state = State.ONLINE
        self.receiver = Receiver()
        self.addresses: tuple[str, ...] = ("127.0.0.1:20000",)
        self.address: str | None = "127.0.0.1:20000"
        self.calls: list[tuple[Any, ...]] = []
        self.people_blocked: tuple[str, ...] = ()
        self.listed: tuple[Conversation, ...] = ()
        self.request_ids: list[str] = []
        self.marked: list[tuple[str, int]] = []
        self._open: list[tuple[str, Future[Any]]] = []

    def blocked(self) -> Future[Any]:
        """Answered at once, because each login asks for it."""
        future: Future[Any] = Future()
        future.set_result(self.people_blocked)
        return future

    def conversations(self) -> Future[Any]:
        """Answered at once, because each login asks for it."""
        future: Future[Any] = Future()
        future.set_result(self.listed)
        return future

    def mark_read(self, person: str, id: int) -> bool:
        self.marked.append((person, id))
        return self.state is State.ONLINE

    def mark_group_read(self, group: str, id: int) -> bool:
        self.marked.append((f"#{group}", id))
        return self.state is State.ONLINE

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Future[Any]:
            if key := named.pop("request_id", None):
                self.request_ids.append(key)
            self.calls.append((name, *arguments, *([named] if named else [])))
            future: Future[Any] = Future()
            self._open.append((name, future))
            return future

        return call

    def answer(self, result: Any = None) -> None:
        """End the oldest open call with a result; a message is stored at the fixed time."""
        name, future = self._open.pop(0)
        future.set_result(Sent("", MS) if name.startswith("send_") else result)

    def refuse(self, error: Exception | str) -> None:
        """End the oldest open call with an error, or with the rejection that has this code."""
        _, future = self._open.pop(0)
        future.set_exception(RequestRejected(error) if isinstance(error, str) else error)


class FakeInterface(UserInterface):
    """A user interface that gives prepared answers to questions for passwords."""

    has_shortcuts = True

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.answers: list[str] = []
        """What is answered to questions; yes if there is nothing."""
        self.questions: list[str] = []
        self.has_exited = False

    def ask_password(self, prompt: str, on_answer: Any) -> None:
        on_answer(self.secrets.pop(0))

    def ask(self, prompt: str, on_answer: Any) -> None:
        self.questions.append(prompt)
        on_answer(self.answers.pop(0) if self.answers else "y")

    def exit(self) -> None:
        self.has_exited = True


class Chat:
    """A session as alice on a fake client. Callbacks of the client run at once."""

    def __init__(self, language: str = "en") -> None:
        self.client = FakeClient()
        jobs = JobQueue()
        jobs.set_wakeup(jobs.run_pending)
        client: Any = self.client
        self.session = Session(client, Translator(language), jobs.post, now=lambda: NOW)
        self.ui = self.session.ui = FakeInterface()
        self.model = self.session.model
        self.session.name, self.session.state = "alice", State.ONLINE

    @property
    def typed_client(self) -> JellyClient:
        return self.session.client

    def said(self, where: Any = None) -> list[str]:
        """Return the texts in a conversation, by default in the one that is shown."""
        return [line.text for line in (where or self.model.current).lines]

    def receive(self, sender: str, content: str, group: str = "", time: int = MS, id: int | None = None) -> None:
        if group:
            self.client.receiver.on_group_message(
                GroupMessageEvent(self.typed_client, sender, content, time, id, group=group)
            )
        else:
            self.client.receiver.on_message(MessageEvent(self.typed_client, sender, content, time, id))

    def friend_request(self, friend: str) -> None:
        self.client.receiver.on_friend_request(FriendRequestEvent(self.typed_client, friend))

    def invitation(self, group: str, user: str) -> None:
        self.client.receiver.on_invitation(InvitationEvent(self.typed_client, group, user))

    def system(self, event: str, **values: Any) -> None:
        self.client.receiver.on_system(SystemEvent(self.typed_client, event, **values))

    def connection(self, state: State, reason: Reason, address: str = "") -> None:
        previous, self.client.state = self.client.state, state
        event = ConnectionEvent(self.typed_client, previous, state, reason, address=address)
        self.client.receiver.on_connection(event)
