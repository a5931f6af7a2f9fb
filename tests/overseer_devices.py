"""What an overseer knows of the devices of users that have a name.

Triggers say when a device begins, and when it is dropped. What each of them must get since then, it
keeps itself: so neither a cursor of the server nor its inbox says what is right.
"""

from typing import TYPE_CHECKING, Any

from sent import Sent

from jelly.quotas import QuotaLimits

if TYPE_CHECKING:
    from overseer_picture import Picture

DAY = 86400.0

Change = tuple[str, int, str, str, str]
Reader = tuple[str, str]
"""A user, and the name of a device."""


class Devices:
    """What each device must get, and what it must be told."""

    def __init__(self, overseer: "Picture") -> None:
        self._overseer = overseer
        self.limits = QuotaLimits()
        """Of what may wait for the slower devices of a user."""
        self.kept_days, self.most = 30.0, 8
        """After how many days away one is dropped, and how many of a user are kept."""
        # For each device that has begun, and was not dropped: what it must get, or has got.
        self._owed: dict[Reader, dict[int, Sent]] = {}
        self._begun_at: dict[Reader, int] = {}  # the last id that it need not get
        self._cursors: dict[Reader, int] = {}  # as of the last commit
        self._since: dict[object, int] = {}  # the cursor with which a connection began
        self._missed: dict[Reader, dict[int, Sent]] = {}  # what went or came while it was dropped
        self._must_tell: dict[Reader, dict[int, Sent]] = {}  # of those that came back, and do not know it yet
        self._told_gap: set[object] = set()  # connections
        self._logins: dict[Reader, object] = {}  # the connection that asked to log in last
        # Of the commit that is looked at now.
        self._now_begun: set[Reader] = set()
        self._now_dropped: set[Reader] = set()
        self.had: set[tuple[Reader, int]] = set()
        """What has reached the application on a device."""

    def of(self, user: str) -> list[Reader]:
        """The devices of a user for which everything is kept."""
        return [reader for reader in self._owed if reader[0] == user]

    # --- what is committed ------------------------------------------------------------------------

    def begin(self, changes: list[Change]) -> None:
        """A transaction is on the disk, with these changes."""
        self._now_begun.clear()
        self._now_dropped.clear()
        for what, id, user, name, how in changes:
            if what != "device" or not name:
                continue
            reader = user, name
            if how in ("new", "back"):
                self._begins(reader, id)
            elif how == "moved":
                self._cursors[reader] = id
            elif how == "dropped":
                self._is_dropped(reader, id)
            else:
                self._owed.pop(reader, None)
                self._missed.pop(reader, None)

    def _begins(self, reader: Reader, begun_at: int) -> None:
        overseer, user = self._overseer, reader[0]
        others = self.of(user)
        self._owed[reader] = {}
        self._begun_at[reader] = self._cursors[reader] = begun_at
        self._now_begun.add(reader)
        if others:
            overseer.check(begun_at >= overseer.last_id, f"{reader} begins at {begun_at}, before {overseer.last_id}")
        else:  # the first one: it gets what waits
            for id in overseer.inbox[user]:
                sent = overseer.by_id(id)
                assert sent is not None
                self._owed[reader][id] = sent
        if reader in self._missed:
            self._must_tell[reader] = self._missed.pop(reader)
        else:
            self._must_tell.pop(reader, None)

    def _is_dropped(self, reader: Reader, seen: int) -> None:
        """Why may it be? Too many are kept, it was away for long, or too much waits for it. `seen`:
        when it is noted to have been online last, in milliseconds.
        """
        overseer, user = self._overseer, reader[0]
        owed = self._owed.pop(reader)
        waits = [sent for id, sent in owed.items() if id in overseer.inbox[user]]
        size = sum(len(sent.content) for sent in waits)
        most, most_bytes = self.limits.inbox_messages, self.limits.inbox_bytes
        is_slow = bool((most and len(waits) > most) or (most_bytes and size > most_bytes))
        away = overseer.now() - seen / 1000
        is_gone = away >= self.kept_days * DAY and not overseer.is_online(reader)
        is_one_too_many = len(self.of(user)) >= self.most
        why = f"{len(waits)} messages wait ({size} bytes), and it was away for {away:.0f} s"
        overseer.check(is_slow or is_gone or is_one_too_many, f"{reader} is dropped: {why}")
        overseer.check(self.of(user), f"{reader} is dropped, the only one")
        missed = {id: sent for id, sent in owed.items() if (reader, id) not in self.had}
        self._missed[reader] = missed | self._must_tell.pop(reader, {})
        self._now_dropped.add(reader)

    def put(self, user: str, sent: Sent, id: int) -> None:
        """A message is in the inbox of a user."""
        for reader in self.of(user):
            if not self._has_written(reader, sent) and self._is_behind(reader, id):
                self._owed[reader][id] = sent
        for reader, missed in self._missed.items():
            if reader[0] == user and not self._has_written(reader, sent):
                missed[id] = sent

    def _is_behind(self, reader: Reader, id: int) -> bool:
        """Whether a message was stored after a device has begun."""
        return reader not in self._now_begun or id > self._begun_at[reader]

    def _has_written(self, reader: Reader, sent: Sent) -> bool:
        """Whether a device does not get a message, because it was written there."""
        is_to_self = not sent.is_group and sent.receiver == sent.sender
        return not is_to_self and reader == sent.device.reader

    def check_copy(self, sent: Sent, receivers: set[str]) -> None:
        """What a user writes is in the own inbox if there is another device to get it."""
        user, check = sent.sender, self._overseer.check
        others = [reader for reader in self.of(user) if reader != sent.device.reader]
        must = any(self._is_behind(reader, sent.id or 0) for reader in others)
        may = others or self.has_dropped(user)
        if user in receivers:
            check(may, f"{sent} is to reach its sender, who has no other device")
        else:
            is_older = sent.original is not None and self._overseer.edits.last_edit(sent.original) != sent.id
            check(is_older or not must, f"{sent} is not to reach the other devices of its sender: {others}")

    def has_dropped(self, user: str) -> bool:
        """Whether the last commit has dropped a device of a user: then its logins end."""
        return any(reader[0] == user for reader in self._now_dropped)

    def have(self, user: str, id: int) -> bool:
        """Whether all devices of a user have a message that must get it."""
        return all((reader, id) in self.had for reader in self.of(user) if id in self._owed[reader])

    # --- what is said -----------------------------------------------------------------------------

    def asks_to_log_in(self, connection: Any) -> None:
        self._logins[connection.device.reader] = connection

    def has_logged_in(self, connection: Any) -> None:
        reader = connection.device.reader
        self._since[connection] = self._cursors.get(reader, 0)

    def notifies(self, connection: Any, sent: Sent, id: int) -> None:
        """The server sends a message to a device."""
        reader, check = connection.device.reader, self._overseer.check
        if reader not in self._owed:
            return
        check(id in self._owed[reader], f"{reader} gets {sent} as {id}, which is not for it")
        is_told = reader not in self._must_tell or connection in self._told_gap
        check(is_told, f"{reader} was dropped, and gets {sent} before it is told")

    def tells_gap(self, connection: Any, since: int) -> None:
        reader, check = connection.device.reader, self._overseer.check
        check(reader[1], f"{reader}, which has no name, is told of a gap")
        self._told_gap.add(connection)
        for id, sent in self._must_tell.get(reader, {}).items():
            is_told = since <= id or self._overseer.edits.may_be_missed(sent)
            check(is_told, f"{reader} is told of a gap from {since} on, and has missed {id}")

    def acknowledges(self, connection: Any) -> None:
        """The server has read the acknowledgement of a message: so its client has the notice of the
        gap, too.
        """
        if connection in self._told_gap:
            self._must_tell.pop(connection.device.reader, None)

    def is_to_come(self, connection: Any, id: int, given: int) -> bool:
        """Whether a connection is still going to get what is in the inbox. `given`: it has got all
        up to this id.
        """
        owed = self._owed.get(connection.device.reader)
        return id > max(given, self._since.get(connection, 0)) and (owed is None or id in owed)

    def is_out_of_date(self, connection: Any) -> bool:
        """Whether the device of a connection was dropped in the meantime."""
        reader: Reader = connection.device.reader
        return bool(reader[1]) and (reader not in self._owed or reader in self._must_tell)

    def was_taken_over(self, connection: Any) -> None:
        """A client was told that another one took over: one on the same device."""
        reader = connection.device.reader
        is_right = reader not in self._owed or self._logins.get(reader) is not connection
        self._overseer.check(is_right, f"{reader} was taken over, and nobody has come there since")

    def handed_over(self, device: Any, id: int) -> None:
        self.had.add((device.reader, id))

    def that_see(self, user: str, original: int, edit: int) -> list[Reader]:
        """The devices of a user that must see the last text of a message, by its id and that of its
        last edit. A user who names none is one.
        """
        readers = self.of(user)
        return (
            [reader for reader in readers if {original, edit} & self._owed[reader].keys()] if readers else [(user, "")]
        )

    # --- the end ----------------------------------------------------------------------------------

    def final_check(self) -> None:
        """Everything has come to rest: each device has got what it must."""
        for reader, owed in self._owed.items():
            for id, sent in owed.items():
                may_be_missed = self._overseer.edits.may_be_missed(sent)
                self._overseer.check(
                    may_be_missed or (reader, id) in self.had, f"{sent} is lost on its way to {reader}"
                )
