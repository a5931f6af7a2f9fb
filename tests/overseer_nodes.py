"""The overseer of several nodes: it knows what is committed, what is on the disk, and where each
user is, and says when a node does what it must not.

What one server promises to its clients, it checks as `overseer.py` does.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from overseer import Overseer
from sent import Sent

from jelly.codec import HEADER, Frame, Status, Type
from jelly.requests import MESSAGES


class NodesOverseer(Overseer):
    """What has to be true of several nodes over one database."""

    database: Any
    """The `SharedDatabase`."""

    def begin(self, database: Any) -> None:
        """The tables are as they are before the first node starts."""
        self.database, self.raw = database, database.raw
        self._commit_of: dict[int, int] = {}  # by message
        self._places: dict[str, int] = {}  # at which node a user is online, as of the last commit
        self._incarnations: dict[str, int] = {}
        self._taken_back: set[Sent] = set()  # the database went back behind them: they may come twice, or never
        self.went_back = 0  # how often committed transactions were taken back
        self._begun_anew: dict[object, int] = {}
        self._read_at: defaultdict[object, deque[int]] = defaultdict(deque)  # when it has read what was asked
        # When the node began to write SERVER_ERROR to a message that was not behind another
        # failure, and when it answered so to one that perhaps was.
        self._failed_at: defaultdict[object, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._handed_over: set[tuple[object, Sent]] = set()

    def tables_are_ready(self) -> None:
        """Nodes may start."""
        self._pending.clear()
        self._reload()
        for group, members in self.members.items():
            for user in members:
                self._changes[group, user].append([0, 0, True])

    # --- clients ----------------------------------------------------------------------------------

    def handed_over(self, device: Any, content: str, id: int) -> None:
        sent = self._known(content)
        is_again = (device, sent) in self._handed_over and sent not in self._taken_back
        self.check(not is_again, f"{sent} was handed to {device} twice")
        in_order = id > device.last_id or self.went_back
        self.check(in_order, f"{sent} was handed to {device} after {device.last_id}")
        device.last_id = id
        self._handed_over.add((device, sent))
        self.had.add((device.user, id))
        self.read.add((device.user, sent))

    def device_dies(self, device: Any) -> None:
        """A client loses its memory, so it may take a message for new."""
        self._handed_over = {(each, sent) for each, sent in self._handed_over if each is not device}
        device.last_id = 0

    def arrived(self, user: str, content: str, id: int) -> None:
        self.had.add((user, id))

    # --- what a node reads and says ---------------------------------------------------------------

    def asks(self, connection: object, user: str, frame: Frame) -> None:
        sent = self._by_body.get(frame.body) if frame.type in MESSAGES else None
        if sent is not None:
            sent.read_at = sent.read_at or self.passes()
            sent.read_count += 1
            sent.open_count += 1
        self._asked[connection].append((frame, sent))
        self._read_at[connection].append(self.passes())

    def acknowledges(self, connection: object, user: str, id: int) -> None:
        """What may be taken away is known by what has reached the applications."""

    def answers(self, connection: Any, user: str, frame: bytes) -> None:
        self.passes()
        if connection.is_closed:  # nobody hears it; and what an ended session asks may get no answer
            self.hears_nothing(connection)
            self._may_fail_unheard(connection)
            return
        self.check(self._asked[connection], f"{user} is answered and has not asked")
        asked, sent = self._asked[connection].popleft()
        read_at = self._read_at[connection].popleft()
        type, status = frame[3], frame[4]
        self.check(type == asked.type, f"{user} asked 0x{asked.type:02x} and is answered 0x{type:02x}")
        if sent is not None:
            self._answers_message(sent, status, str(json.loads(frame[HEADER.size :] or b"{}").get("error", "")))
            if sent.request_id is not None:
                self._answers_behind_failure(connection, sent, status, read_at)

    def _answers_behind_failure(self, connection: Any, sent: Sent, status: int, read_at: int) -> None:
        """What was read before an earlier message got SERVER_ERROR gets it, too, and makes no
        others fail by that. What is read while the node writes that answer may be stored or not.
        """
        began, answered = self._failed_at[connection]
        is_behind = status == Status.SUCCESS and sent.read_count == 1 and read_at <= began
        self.check(not is_behind, f"{sent} is stored, and an earlier one failed after it was read")
        if status == Status.SERVER_ERROR:
            self._failed_at[connection] = connection.machine.began_at if read_at > answered else began, self.tick

    def _may_fail_unheard(self, connection: object) -> None:
        """What is behind a failure fails, and what its client sends when it has heard of that is
        stored. If the connection ends right then, the client sends all of it again.
        """
        if connection in self._failed_at:
            for _, sent in self._asked[connection]:
                if sent is not None:
                    sent.is_shaken = True

    def _answers_message(self, sent: Sent, status: int, code: str) -> None:
        sent.open_count -= 1
        sent.is_shaken = sent.is_shaken or status != Status.SUCCESS
        if status == Status.SUCCESS:
            is_stored = sent.id is not None or sent in self._taken_back
            self.check(is_stored, f"{sent} got SUCCESS and is not stored")
            self.check(self._is_durable(sent), f"{sent} got SUCCESS and is not on the disk")
            sent.is_acknowledged = True
        elif status == Status.REQUEST_ERROR:
            self.check(sent.id is None, f"{sent} is stored, and refused with {code}")
            self.check(sent.is_group and code in ("no_such_group", "not_a_member"), f"{sent}: refused with {code}")
            was_member = self._membership(sent.receiver, sent.sender, sent.read_at or 0, self.tick)
            self.check(was_member is not True, f"{sent} is refused with {code}, but its sender is a member")

    def _is_durable(self, sent: Sent) -> bool:
        return sent.id is None or self.database.is_durable(self._commit_of.get(sent.id, 0))

    def notifies(self, connection: object, user: str, notices: Iterable[tuple[int, bytes]], limit: int | None) -> None:
        self.passes()
        for id, frame in notices:
            values = json.loads(frame[HEADER.size :])
            if frame[3] == Type.SYSTEM:
                self._tells(connection, user, values)
                continue
            sent = self._known(values["content"])
            own = id if limit is None else values["id"]
            self.check(own > self._given[connection], f"{user} gets {sent} after {self._given[connection]}")
            self._given[connection] = own
            if sent in self._taken_back:
                continue
            self.check(sent.id == own, f"{user} gets {sent} as {own}")
            self.check(self._is_durable(sent), f"{user} gets {sent}, which is not on the disk")
            is_for_user = own in self.inbox[user] or (user, own) in self.had
            self.check(is_for_user, f"{user} gets {sent}, which is not in the inbox")

    def _answers_friends(self, connection: object, user: str, friends: dict[str, bool]) -> None:
        """The last notices are looked at in the end."""

    def connection_has_ended(self, connection: object) -> None:
        """Nothing: the table of sessions is looked at in the end."""

    def machine_is_gone(self, connection: object) -> None:
        """A node has crashed, with what it was asked on a connection."""
        self._may_fail_unheard(connection)
        self._read_at.pop(connection, None)
        for _, sent in self._asked.pop(connection, ()):
            if sent is not None:
                sent.open_count = 0
                self._may_be_refused(sent)

    def begins_anew(self, machine: Any) -> None:
        """A node believes that all it knows is wrong."""
        dao = machine.server.dao
        is_declared_dead = self._incarnations.get(f"node.{dao.number}") != dao.incarnation
        has_gone_back = self.went_back > self._begun_anew.get(machine, 0)
        self.check(is_declared_dead or has_gone_back or self._misses_events(dao), f"{machine} begins anew without need")
        self._begun_anew[machine] = self.went_back

    def _misses_events(self, dao: Any) -> bool:
        """Whether another node has gone on with numbers above those that the database had lost."""
        [(last,)] = self.raw.execute("SELECT value FROM meta WHERE name = 'event'")
        [(count,)] = self.raw.execute("SELECT COUNT(*) FROM events WHERE n > ?", (dao.event,))
        return self.went_back > 0 and count < last - dao.event

    # --- the database -----------------------------------------------------------------------------

    def commits(self, machine: Any, number: int) -> None:
        """A transaction is about to be committed; what it has written can be read."""
        tick = self.passes()
        dao = machine.server.dao if machine.server is not None else SimpleNamespace(number=0)
        places, incarnations = self._read_places(), self._read_incarnations()
        before, self._last_commit = self._places, set()
        changes, self._pending = self._pending, []
        receivers: dict[int, set[str]] = {}
        if dao.number:
            own = f"node.{dao.number}"
            lives = incarnations.get(own) == dao.incarnation or self._incarnations.get(own) == dao.incarnation
            self.check(lives, f"{machine} writes and was declared dead")
        for what, id, one, two, three in changes:
            if what == "stored":
                self._store(id, self._known(three), number)
                here = {before.get(one), places.get(one)}
                self.check(dao.number in here, f"a session of {one} at {machine} writes {three} and is not the current")
            elif what == "put":
                self.inbox[one].add(id)
                self._by_id[id].receivers.add(one)
                receivers.setdefault(id, set()).add(one)
            elif what == "taken":
                self.inbox[one].discard(id)
                self.check((one, id) in self.had, f"{self._by_id[id]} was taken away before {one} had it")
            elif what == "dropped":
                self._by_id.pop(id, None)
            elif what in ("joined", "left"):
                self._changed_membership(tick, what, id, one, two)
        for id in self._last_commit:
            self._check_receivers_of(self._by_id[id], receivers.get(id, set()), tick)
        if machine.server is not None:
            self._check_ends(machine, {user for user in before if user not in places})
        self.turn_has_ended()
        self._places, self._incarnations = places, incarnations

    def _store(self, id: int, sent: Sent, number: int) -> None:
        self.check(sent.id is None, f"{sent} is stored again as {id}")
        self.check(id > self.last_id, f"{sent} gets the id {id} after {self.last_id}")
        self.last_id = id
        sent.id = id
        self._by_id[id], self._commit_of[id] = sent, number
        self._last_commit.add(id)

    def _check_receivers_of(self, sent: Sent, receivers: set[str], tick: int) -> None:
        """A message has a row for each member, as of this commit."""
        if not sent.is_group:
            self.check(receivers == {sent.receiver}, f"{sent} is to reach {receivers}")
            return
        for user in sorted({user for group, user in self._changes if group == sent.receiver}):
            is_member = self._membership(sent.receiver, user, tick, tick)
            if user == sent.sender:
                self.check(is_member is not False, f"{sent} is stored, and its sender is no member any more")
            else:
                is_right = is_member is None or (user in receivers) == is_member
                self.check(is_right, f"{sent} is to reach {sorted(receivers)}; is {user} a member? {is_member}")

    def _check_ends(self, machine: Any, gone: set[str]) -> None:
        """A node that tells the end of a session has served all that it has read from it; but not
        what is behind a LOGOUT.
        """
        for connection in machine.connections:
            session = connection.session
            logs_out = session in machine.server.node._leaving
            if session.user in gone and connection.lane.waiting and not (session.closing or logs_out):
                place = machine.server.node.registry.on(session.device)
                is_its_end = place == (machine.server.dao.number, session.epoch, session.device.name)
                self.check(not is_its_end, f"{machine} tells that {session.user} is gone, and has not served all")

    def was_taken_back(self, is_lost: Callable[[int], bool], is_excused: bool) -> None:
        """The database is in an older state. `is_excused`: also what was on the disk is gone."""
        tick = self.passes()
        had_lost = False
        for sent in self.sent:
            if sent.id is not None and is_lost(self._commit_of.get(sent.id, 0)):
                self.had = {(user, id) for user, id in self.had if id != sent.id}
                sent.id, had_lost = None, True
                sent.receivers.clear()
                if is_excused:
                    self._taken_back.add(sent)
                    sent.is_shaken = True
        self.went_back += 1
        self.last_id = max((sent.id for sent in self.sent if sent.id is not None), default=0)
        if is_excused:  # what was delivered since then is in the inbox again
            self._given.clear()
        before = {(group, user) for group, members in self.members.items() for user in members}
        self._reload()
        after = {(group, user) for group, members in self.members.items() for user in members}
        for group, user in sorted(before ^ after):
            self._changes[group, user].append([0, tick, (group, user) in after])
        self.had_lost = had_lost

    def _reload(self) -> None:
        """Read what the tables say."""
        run = self.raw.execute
        self.inbox.clear()
        for user, id in run("SELECT receiver, message_id FROM inbox"):
            self.inbox[user].add(id)
        self._by_id = {id: self._by_content[content] for id, content in run("SELECT id, content FROM messages")}
        self.members.clear()
        for group, user, since in run("SELECT group_name, username, since FROM members"):
            self.members[group][user] = since
        self._places, self._incarnations = self._read_places(), self._read_incarnations()

    def _read_places(self) -> dict[str, int]:
        return dict(self.raw.execute("SELECT username, node FROM sessions"))

    def _read_incarnations(self) -> dict[str, int]:
        return dict(self.raw.execute("SELECT name, value FROM meta WHERE name LIKE 'node.%'"))

    # --- the end ----------------------------------------------------------------------------------

    def final_check(self) -> None:
        for sent in self.sent:
            if sent in self._taken_back:
                continue
            self.check(not sent.is_acknowledged or sent.id is not None, f"{sent} is lost")
            for user in sorted(sent.receivers) if sent.is_acknowledged else ():
                has_it = (user, sent) in self.read or (user in self._classic and (user, sent) in self.excused)
                self.check(has_it, f"{sent} is lost on its way to {user}")
        self._check_order()
        self.check_owners()

    def check_nodes(self, machines: Iterable[Any]) -> None:
        """Everything is calm: all nodes know the same, and it is true."""
        rows = {
            (user, device): (node, epoch)
            for user, device, node, epoch in self.raw.execute("SELECT username, device, node, epoch FROM sessions")
        }
        online = {}
        for machine in machines:
            server = machine.server
            for session in server.sessions:
                self.check(session.device not in online, f"{session.device} is online at two nodes")
                online[session.device] = server.dao.number, session.epoch
        self.check(rows == online, f"the table of sessions says {rows}, and online are {online}")
        for machine in machines:
            registry = machine.server.node.registry
            known = {(user, place.device): place[:2] for user in registry for place in registry.of(user)}
            self.check(known == rows, f"{machine} knows {known}, and the table of sessions says {rows}")
            announced = machine.server.presence._announced_online
            users = {user for user, _ in rows}
            self.check(announced == users, f"{machine} has announced {sorted(announced)}; online are {sorted(users)}")
