"""The clients of a simulated world."""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sent import Sent

from jelly.client.acks import AckTracker
from jelly.codec import HEADER, Frame, Sign, Status, Type, encode
from jelly.passwords import hash_password, hash_token
from jelly.requests import MESSAGES, encode_request
from jelly.strict_json import parse_object

if TYPE_CHECKING:
    from simulated import Wire

FOREVER = 1 << 60
"""When the first tokens of the devices expire: never."""
PASSWORD = "pw"
PASSWORD_HASH = hash_password(PASSWORD, 1)


class Device:
    """One client of one user: the real AckTracker, and around it what a client does, as the
    protocol advises.
    """

    def __init__(self, world: Any, user: str, name: str, is_modern: bool, token: int, window: int) -> None:
        self._world = world
        self.user, self.name, self.is_modern, self.window = user, name, is_modern, window
        self.knows_edits = False
        self.device = ""  # the device that all clients of its user name; empty: none
        self._token: int | None = token
        self.wire: Wire | None = None
        self.is_online = False
        self.has_pointers = False  # whether its server knows how far users have read
        self.is_deaf = False
        self.was_taken_over = False
        self.reads_on = True  # not any more after it has logged out
        self.starts()

    def __repr__(self) -> str:
        return self.name

    @property
    def reader(self) -> tuple[str, str]:
        """Who takes over from each other: all clients of this user on this device."""
        return self.user, self.device

    @property
    def token_hash(self) -> str:
        assert self._token is not None
        return hash_token(self._token)

    def starts(self) -> None:
        """The program begins, with an empty memory."""
        self.acks = AckTracker()
        self.log: set[int] = set()
        self.last_id = 0
        self.callbacks: deque[tuple[int, str]] = deque()
        self.kernel: deque[str] = deque()  # a classic client's: what its machine has, and it has not read
        self._spoken_after = 0  # how many of these had come when it sent something last
        self._outgoing: list[Sent] = []  # not answered yet, in the order in which to write them
        self._asked: deque[tuple[int, Sent | None]] = deque()  # written on this connection and not answered

    @property
    def is_idle(self) -> bool:
        return not (self._outgoing or self._asked or self.callbacks or self.kernel)

    def connects(self, wire: "Wire") -> None:
        self.wire = wire
        self.was_taken_over = self.is_deaf = False
        self.reads_on = True
        values: dict[str, Any] = {"username": self.user}
        if self._token is None:  # it was refused: the user types the password
            values["password"] = PASSWORD
        else:
            values["token"] = self._token
        if self.is_modern:
            more = ["contacts", "block"] * self._world.has_contacts + ["edit"] * self.knows_edits
            more += ["read"] * self._world.has_readers
            values["features"] = ["ack", "ids", "roles", *more, *["devices"] * bool(self.device)]
        if self.device:
            values["device"] = self.device
        self._asks(Type.LOGIN if self._token is None else Type.RECONNECT, values)

    def writes(self, sent: Sent) -> None:
        """The application sends a message."""
        self._outgoing.append(sent)
        self.pump()

    def asks(self, type: Type, values: dict[str, Any]) -> None:
        """The application asks for something else."""
        if self.is_online:
            self._asks(type, {"username": self.user, **values})

    def has_read(self, id: int, where: dict[str, str]) -> None:
        """The user has read a conversation up to a message."""
        if self.is_online and self.has_pointers and self.wire is not None:
            self._world.say("{} has read {} up to {}", self, where, id)
            self.wire.to_server += encode_request(Type.READ, {"id": id, **where})

    def logs_out(self) -> None:
        """The user has seen everything, and ends the session."""
        while self.kernel:
            self.hands_over()
        self.asks(Type.LOGOUT, {"token": self._token})
        if self.wire is not None:
            # If these come before the server reads that, they look as if the client had had them.
            self._spoken_after = sum(id > 0 for id, _ in self.wire.to_client)
        self.is_online, self._token, self.reads_on = False, None, False

    def closes(self) -> None:
        """The program has read everything, and closes in good order; what it has asked is not
        answered any more.
        """
        assert self.wire is not None
        while self.kernel:
            self.hands_over()
        self.wire.ends()
        self.is_cut(reads_on=True)

    def _asks(self, type: Type, values: dict[str, Any]) -> None:
        assert self.wire is not None
        self._spoken_after = len(self.kernel)
        self._world.say("{} asks 0x{:02x} {}", self, type, values)
        self._asked.append((type, None))
        self.wire.to_server += encode_request(type, values)

    def pump(self) -> None:
        """Write the outgoing messages, in their order."""
        if not self.is_online or self.wire is None:
            return
        under_way = [sent for _, sent in self._asked]
        for sent in self._outgoing:
            if len(self._asked) >= self.window:
                return
            if sent not in under_way:
                self._puts_on(self.wire, sent)

    def _puts_on(self, wire: "Wire", sent: Sent) -> None:
        self._world.say("{} writes {}", self, sent)
        type = Type.GROUP_MESSAGE if sent.is_group else Type.PERSON_MESSAGE
        if sent.original is not None:
            type = Type.EDIT
        self._asked.append((type, sent))
        self._spoken_after = len(self.kernel)
        wire.to_server += encode(Sign.REQUEST, type, 0, sent.body)

    def repeats(self) -> None:
        """Write again what has no answer yet."""
        unanswered = [sent for _, sent in self._asked if sent is not None and sent.request_id is not None]
        if unanswered and self.wire is not None:
            self._puts_on(self.wire, unanswered[0])

    def heartbeat(self) -> None:
        if self.is_online and self.wire is not None:
            self._spoken_after = len(self.kernel)
            self.wire.to_server += encode_request(Type.HEARTBEAT, {})

    def takes(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Something has come."""
        for id, data in frames:
            _, sign, type, status, _ = HEADER.unpack_from(data)
            frame = Frame(sign, type, status, data[HEADER.size :])
            if frame.sign == Sign.RESPONSE:
                self._settles(frame)
            else:
                self._notes(frame, id)
        self.acknowledges(self.acks.ack_duplicates())
        self.pump()

    def _settles(self, frame: Frame) -> None:
        type, sent = self._asked.popleft()
        assert type == frame.type
        if type in (Type.LOGIN, Type.RECONNECT):
            self.is_online = frame.status == Status.SUCCESS
            if self.is_online:
                self.acks.connected()
                values = parse_object(frame.body)
                self._token = values.get("token", self._token)
                self.has_pointers = "read" in values.get("features", ())
            elif frame.status == Status.REQUEST_ERROR:
                self._token = None
        elif type == Type.LOGOUT:  # it has failed
            self.is_online = self.reads_on = True
        elif sent in self._outgoing and (
            sent.request_id is None or frame.status in (Status.SUCCESS, Status.REQUEST_ERROR)
        ):
            self._outgoing.remove(sent)

    def _notes(self, frame: Frame, id: int) -> None:
        values = parse_object(frame.body)
        if frame.type == Type.SYSTEM:
            self.was_taken_over = self.was_taken_over or values["event"] == "taken_over"
            if values["event"] == "taken_over":
                self._world.overseer.devices.was_taken_over(self.wire)
            if values["event"] == "inbox_full" and self.is_modern:
                self._world.overseer.was_told(self.user, values["groups"])
        elif not self.is_modern:
            self._world.overseer.arrived(self.user, values["content"], id)
            self.kernel.append(values["content"])
        elif frame.type in MESSAGES and self.acks.is_new(values["id"], hash(frame.body)):
            self.callbacks.append((values["id"], values["content"]))

    def hands_over(self) -> None:
        """The application gets the next message."""
        if self.kernel:
            self._world.overseer.was_read(self.user, self.kernel.popleft())
            self._spoken_after = max(0, self._spoken_after - 1)
        if self.callbacks:
            id, content = self.callbacks.popleft()
            self._world.say("{} hands over {} {}", self, id, content)
            self._world.overseer.handed_over(self, content, id)
            self.acknowledges(self.acks.delivered(id, self._world.clock()))

    def acknowledges(self, upto: int | None) -> None:
        if upto is not None and self.wire is not None and self.is_online:
            self._world.say("{} acknowledges {}", self, upto)
            self.wire.to_server += encode_request(Type.ACK, {"id": upto})

    def is_cut(self, reads_on: bool) -> None:
        """The connection has ended. What its machine has, a classic client reads, or not."""
        self.wire, self.is_online = None, False
        self._asked.clear()
        for sent in [sent for sent in self._outgoing if sent.request_id is None]:
            sent.is_shaken = True  # nobody knows what becomes of it
            self._outgoing.remove(sent)
        while self.kernel:
            if reads_on:
                self.hands_over()
            else:
                self._world.overseer.died_unread(self.user, self.kernel.popleft(), self._spoken_after > 0)
                self._spoken_after = max(0, self._spoken_after - 1)

    def dies(self) -> None:
        """The program ends, with all that it knew."""
        for sent in self._outgoing:
            sent.is_shaken = True
        self.is_cut(reads_on=False)
        self.starts()
