"""The part of an overseer that sees what is in the database: triggers tell it."""

from collections import defaultdict
from collections.abc import Iterable

from overseer_picture import Picture
from sent import Sent

from jelly.quotas import QuotaLimits

DAY = 86400.0
REPEAT_DAYS = 7
"""Days for which the protocol promises to remember a requestId."""

# Temporary triggers: they live in the connection, not in the schema.
TRIGGERS = """
CREATE TEMP TRIGGER sim1 AFTER INSERT ON main.messages WHEN new.replaces IS NULL
    BEGIN SELECT saw('stored', new.id, new.sender, new.receiver, new.content); END;
CREATE TEMP TRIGGER sim20 AFTER UPDATE OF content ON main.messages
    BEGIN SELECT saw('text', new.id, new.content, new.edited, ''); END;
CREATE TEMP TRIGGER sim21 AFTER INSERT ON main.messages WHEN new.replaces IS NOT NULL
    BEGIN SELECT saw('edit', new.id, new.sender, new.receiver, new.replaces); END;
CREATE TEMP TRIGGER sim2 AFTER DELETE ON main.messages BEGIN SELECT saw('dropped', old.id, '', '', ''); END;
CREATE TEMP TRIGGER sim3 AFTER INSERT ON main.inbox
    BEGIN SELECT saw('put', new.message_id, new.receiver, '', ''); END;
CREATE TEMP TRIGGER sim4 AFTER DELETE ON main.inbox
    BEGIN SELECT saw('taken', old.message_id, old.receiver, '', ''); END;
CREATE TEMP TRIGGER sim5 AFTER INSERT ON main.members
    BEGIN SELECT saw('joined', new.since, new.group_name, new.username, ''); END;
CREATE TEMP TRIGGER sim6 AFTER DELETE ON main.members
    BEGIN SELECT saw('left', 0, old.group_name, old.username, ''); END;
CREATE TEMP TRIGGER sim7 AFTER UPDATE ON main.members
    BEGIN SELECT saw('role', 0, new.group_name, new.username, ''); END;
CREATE TEMP TRIGGER sim8 AFTER DELETE ON main.tokens WHEN old.expires = 1 << 60
    BEGIN SELECT saw('revoked', 0, old.username, '', ''); END;
CREATE TEMP TRIGGER sim9 AFTER DELETE ON main.missed
    BEGIN SELECT saw('known', old.since, old.username, old.group_name, ''); END;
CREATE TEMP TRIGGER sim10 AFTER INSERT ON main.friends
    BEGIN SELECT saw('listed', new.standing, new.username, new.friend, ''); END;
CREATE TEMP TRIGGER sim11 AFTER UPDATE ON main.friends
    BEGIN SELECT saw('answered', new.standing, new.username, new.friend, ''); END;
CREATE TEMP TRIGGER sim12 AFTER DELETE ON main.friends
    BEGIN SELECT saw('unlisted', 0, old.username, old.friend, ''); END;
CREATE TEMP TRIGGER sim13 AFTER UPDATE OF can_be_asked ON main.users
    BEGIN SELECT saw('can be asked', new.can_be_asked, new.username, '', ''); END;
CREATE TEMP TRIGGER sim14 AFTER INSERT ON main.blocks
    BEGIN SELECT saw('blocked', 0, new.username, new.person, ''); END;
CREATE TEMP TRIGGER sim15 AFTER DELETE ON main.blocks
    BEGIN SELECT saw('unblocked', 0, old.username, old.person, ''); END;
CREATE TEMP TRIGGER sim17 AFTER INSERT ON main.read_pointers WHEN new.message_id > 0
    BEGIN SELECT saw('read', new.message_id, new.username, new.partner, CAST(new.is_group AS TEXT)); END;
CREATE TEMP TRIGGER sim18 AFTER UPDATE ON main.read_pointers
    BEGIN SELECT saw('read', new.message_id, new.username, new.partner, CAST(new.is_group AS TEXT)); END;
CREATE TEMP TRIGGER sim19 AFTER DELETE ON main.read_pointers
    BEGIN SELECT saw('unread', 0, old.username, old.partner, CAST(old.is_group AS TEXT)); END;
CREATE TEMP TRIGGER sim22 AFTER INSERT ON main.devices
    BEGIN SELECT saw('device', new.delivered, new.username, new.device, 'new'); END;
CREATE TEMP TRIGGER sim23 AFTER UPDATE ON main.devices WHEN old.dropped <> new.dropped
    BEGIN SELECT saw('device', iif(new.dropped, new.seen, new.delivered), new.username, new.device,
        iif(new.dropped, 'dropped', 'back')); END;
CREATE TEMP TRIGGER sim24 AFTER UPDATE ON main.devices WHEN old.dropped = new.dropped AND old.delivered <> new.delivered
    BEGIN SELECT saw('device', new.delivered, new.username, new.device, 'moved'); END;
CREATE TEMP TRIGGER sim25 AFTER DELETE ON main.devices
    BEGIN SELECT saw('device', 0, old.username, old.device, 'gone'); END;
"""
ABOUT_BLOCKS = ("blocked", "unblocked")
ABOUT_FRIENDS = ("listed", "answered", "unlisted", "can be asked")
ACCEPTED = 1
"""The standing in the table `friends` of somebody who has accepted."""


class DatabaseOverseer(Picture):
    """What has to be true of what is committed."""

    def saw(self, what: str, id: int, one: str, two: str, three: str) -> None:
        """A trigger was fired."""
        self._pending.append((what, id, one, two, three))

    def rolled_back(self) -> None:
        self._pending.clear()

    def committed(self) -> None:
        """A transaction is on the disk."""
        tick = self.passes()
        self._in_doubt = set()  # what was committed before is certain now
        changes, self._pending = self._pending, []
        self.edits.begin(changes)
        self.devices.begin(changes)
        self._last_commit = set()
        self._changed_blocks = {(one, two) for what, _, one, two, _ in changes if what in ABOUT_BLOCKS}
        receivers: defaultdict[int, set[str]] = defaultdict(set)
        for what, id, one, two, three in changes:
            if what in ("stored", "text", "edit"):
                self._wrote(what, id, one, two, three)
            elif what == "dropped":
                self._dropped(id)
            elif what == "taken":
                self.inbox[one].discard(id)
                self._was_taken(one, id)
            elif what == "known":
                self.check((one, two, id) in self._heard, f"{one} was not told what was left out of {two} from {id} on")
            elif what == "revoked":
                is_right = one in self._rivals or self.devices.has_dropped(one)
                self.check(is_right, f"{one}, whom no other client takes over, has lost a token")
            elif what == "put":
                self.inbox[one].add(id)
                self._by_id[id].receivers.add(one)
                receivers[id].add(one)
                self.devices.put(one, self._by_id[id], id)
            elif what in ("read", "unread"):
                self._moved_pointer(what, id, (one, two, three == "1"))
            else:
                self._changed_people(tick, what, id, one, two)
        if any(what in ("joined", "left", "role") for what, *_ in changes):
            self.check_owners()
        # (Copies for the other devices of a sender do not count.)
        rows = sum(len(users - {self._by_id[id].sender}) for id, users in receivers.items())
        self.check(rows <= self._batch_rows, f"a transaction has {rows} rows of inboxes")
        for id in self._last_commit:
            if id in self._by_id:
                self._check_receivers(self._by_id[id], receivers[id], tick)

    def _was_taken(self, user: str, id: int) -> None:
        """A message has left an inbox: whoever was to get it must have it."""
        sent = self._by_id[id]
        has_it = self.devices.have(user, id) if self.devices.of(user) else (user, id) in self.had
        self.check(has_it or self.edits.may_go(user, sent), f"{sent} was taken away before {user} had it")

    def _wrote(self, what: str, id: int, one: str, two: str, three: str) -> None:
        """A message or an edit was stored, or a message has got another text."""
        if what == "stored":
            self._stored(id, self._known(three), one, two)
        elif what == "text":
            self.edits.changed(self._by_id[id], one, int(two))
        else:
            self._stored(id, self.edits.stored(id, int(three)), one, two)

    def _moved_pointer(self, what: str, id: int, key: tuple[str, str, bool]) -> None:
        """A user has read a conversation up to a message, or all of it is gone."""
        before = self._pointers.pop(key, 0) if what in ("read", "unread") else 0
        if what != "read":
            return
        self._pointers[key] = id
        user, partner, is_group = key
        self.check(id > before, f"the pointer of {user} goes back to {id} from {before}")
        self.check(id in self._by_id, f"{user} has read {id}, which is not there")
        sent = self._by_id[id]
        ends = {sent.receiver} if is_group else {sent.sender, sent.receiver}
        is_of_it = sent.is_group == is_group and ends == ({partner} if is_group else {user, partner})
        self.check(is_of_it, f"{user} has read {sent} in the conversation with {partner}")
        was_sent = id not in self.inbox[user] or (user, id) in self._sent_to or sent.sender == user
        self.check(was_sent, f"{user} has read {sent}, and was not sent it")
        self.check(not is_group or self.members[partner].get(user, id) <= id, f"{user} may not read {sent}")

    def _stored(self, id: int, sent: Sent, sender: str, receiver: str) -> None:
        self.check((sender, receiver) == (sent.sender, sent.receiver), f"{sent} is stored as {sender} to {receiver}")
        self.check(sent.id is None or self._is_forgotten(sent), f"{sent} is stored again as {id}")
        self.check(id > self.last_id, f"{sent} gets the id {id} after {self.last_id}")
        self.check(not sent.is_refused, f"{sent} is stored and was refused")
        is_blocked = (receiver, sender) in self._blocks - self._changed_blocks
        self.check(sent.is_group or not is_blocked, f"{sent} is stored, and its receiver has blocked its sender")
        if sent.request_id is not None:
            key = (sent.sender, sent.request_id)
            first = self._keys.get(key)
            self.check(
                first is None or first is sent or first.id is None or self._is_forgotten(first),
                f"{sent} is stored with the id of {first}",
            )
            self._keys[key] = sent
        for user, since in self.members[receiver].items() if sent.is_group else ():
            joined_now = self._changes[receiver, user][-1][0] == self.tick
            self.check(since <= id or joined_now, f"{user}, a member of {receiver} since {since}, may not read {id}")
        self.last_id = id
        sent.is_shaken = sent.is_shaken or sent.id is not None  # it came again after a week: a new one
        sent.was_refused = False  # only an earlier copy was
        sent.id, sent.stored_at, sent.is_there = id, self._wall(), True
        self._by_id[id] = sent
        self._last_commit.add(id)

    def _dropped(self, id: int) -> None:
        sent = self._by_id.pop(id)
        sent.is_there = False
        waits = [user for user, ids in self.inbox.items() if id in ids or self.edits.last_edit(sent) in ids]
        self.check(not waits, f"{sent} is dropped while {waits} wait for it")
        age = self._wall() - sent.stored_at
        self.check(age >= self._history_days * DAY, f"{sent} is dropped after {age / DAY:.2f} days")

    def _check_receivers(self, sent: Sent, receivers: set[str], tick: int) -> None:
        if sent.is_group or sent.receiver != sent.sender:
            self.devices.check_copy(sent, receivers)
            receivers = receivers - {sent.sender}
        if sent.original is not None:
            self.edits.check_receivers(sent, receivers)
            return
        for user in receivers:
            is_full = self._is_full(user, sent, sent.id or 0, surely=True)
            self.check(not is_full, f"{sent} is put into the full inbox of {user}")
        if not sent.is_group:
            self.check(receivers == {sent.receiver}, f"{sent} is to reach {receivers}")
            return
        for user in {user for group, user in self._changes if group == sent.receiver} - {sent.sender}:
            member = self._membership(sent.receiver, user, sent.read_at or 0, tick)
            is_right = member is None or (user in receivers) == member
            is_right = is_right or (member is True and self._is_full(user, sent, sent.id or 0, surely=False))
            self.check(is_right, f"{sent} is to reach {receivers}; is {user} a member? {member}")

    def _is_full(self, user: str, sent: Sent, before: int, surely: bool) -> bool:
        """Whether an inbox had no room for a message, when it held messages with ids before this.

        The server may know of changes in groups a little later: so sometimes it is not sure.
        """
        rows = [(self._by_id[id].sender, self._by_id[id].content) for id in self.inbox[user] if id < before]
        own = [row for row in rows if row[0] == sent.sender]
        strangers = [row for row in rows if self._is_stranger(user, row[0], surely)]
        is_stranger = self._is_stranger(user, sent.sender, surely)
        others = [row for row in rows if not self._is_listed(user, row[0])]
        return (
            self._is_over(rows, 1, sent)
            or self._is_over(own, 10, sent)
            or (is_stranger and self._is_over(strangers, 2, sent))
            or (not self._is_listed(user, sent.sender) and self._is_over(others, 4 / 3, sent))
        )

    def _is_over(self, rows: list[tuple[str, str]], share: float, sent: Sent) -> bool:
        """Whether with one message more the rows exceed a part of the quotas. One always fits."""
        most, most_bytes = self._quotas.inbox_messages, self._quotas.inbox_bytes
        count, bytes = len(rows) + 1, sum(len(content) for _, content in rows) + len(sent.content)
        is_over = (most > 0 and count > most / share) or (most_bytes > 0 and bytes > max(1, most_bytes / share))
        return bool(rows) and is_over

    def _is_stranger(self, user: str, sender: str, surely: bool) -> bool:
        return not (self._is_listed(user, sender) or (surely and (user, sender) in self._met))

    def _is_listed(self, user: str, sender: str) -> bool:
        return user == sender or (user, sender) in self.friends

    def _changed_people(self, tick: int, what: str, id: int, one: str, two: str) -> None:
        """A list of friends, a group or a role in it has changed."""
        if what in ABOUT_FRIENDS:
            self._changed_friends(what, id, one, two)
        elif what in ABOUT_BLOCKS:
            (self._blocks.add if what == "blocked" else self._blocks.discard)((one, two))
            self._ever_blocked |= self._blocks
        elif what not in ("role", "device"):
            self._changed_membership(tick, what, id, one, two)

    def have_accepted(self, entries: Iterable[tuple[str, str]]) -> None:
        """These entries of lists of friends are there at the beginning."""
        self._accepted.update(entries)
        self._ever_accepted |= self._accepted

    def _changed_friends(self, what: str, standing: int, user: str, friend: str) -> None:
        """Somebody was put on a list of friends, has answered, or was removed; or can be asked from
        now on, or not.
        """
        entry = (user, friend)
        if what == "can be asked":
            (self._can_be_asked.add if standing else self._can_be_asked.discard)(user)
            return
        if what == "unlisted":
            self.friends.discard(entry)
            self._accepted.discard(entry)
            for reader, (connection, _) in self._online.items():  # also one that has not asked for it
                if reader[0] == user:
                    self._told[connection].pop(friend, None)
            return
        if what == "listed":
            self.check((friend, user) not in self._blocks, f"{user}, who is blocked, adds {friend}")
            must_ask = friend in self._can_be_asked and user != friend and (friend, user) not in self.friends
            self.check(must_ask != (standing == ACCEPTED), f"{user} adds {friend}: asked first? {must_ask}")
        elif standing == ACCEPTED:
            self.check(entry in self._consents, f"{friend} has never accepted the request of {user}")
        self.friends.add(entry)
        if standing == ACCEPTED:
            self._accepted.add(entry)
            self._ever_accepted.add(entry)

    def _changed_membership(self, tick: int, what: str, since: int, group: str, user: str) -> None:
        change = [tick, tick, what == "joined"]
        self._changes[group, user].append(change)
        self._open_changes.append(change)
        if what == "joined":
            self.check(since > self.last_id, f"{user} may read what {group} had before: from {since} on")
            # Whoever founds the group, or has anybody as a friend, perhaps need not be asked.
            must_ask = user in self._can_be_asked and not any(owner == user for owner, _ in self.friends)
            is_asked = (group, user) in self._group_consents or not self.members[group]
            self.check(is_asked or not must_ask, f"{user} is put into {group} without being asked")
            for other in self.members[group]:
                self._met |= {(user, other), (other, user)}
            self.members[group][user] = since
        else:
            del self.members[group][user]

    def turn_has_ended(self) -> None:
        """The store's turn is over: what it changed is known to all that is served from now on."""
        tick = self.passes()
        for change in self._open_changes:
            change[1] = tick
        self._open_changes.clear()

    def _membership(self, group: str, user: str, start: int, end: int) -> bool | None:
        """Whether a user was a member between two ticks; None if that changed, or was about to."""
        is_member = False
        for begin, until, member in self._changes[group, user]:
            if begin <= end and (until >= start or [begin, until, member] in self._open_changes):
                return None
            if until < start:
                is_member = bool(member)
        return is_member

    def commit_is_doubted(self, sync_fails: bool) -> None:
        """The server is told that the last commit failed, and it did not.

        `sync_fails`: although it can be read, it need not be on the disk.
        """
        self._in_doubt = set(self._last_commit)
        for id in self._last_commit if sync_fails else ():
            self._by_id[id].is_unsynced = True

    def hears_nothing(self, connection: object) -> None:
        """What the server answers from now on reaches nobody, and is not noted here."""
        for _, sent in self._asked[connection]:
            if sent is not None:
                self._may_be_refused(sent)

    def _may_be_refused(self, sent: Sent) -> None:
        """A message was perhaps refused, or turned away, without anybody hearing of it."""
        may_be = (
            sent.is_group
            or sent.original is not None
            or self._may_be_busy
            or self._has_blocks
            or self._quotas != QuotaLimits()
        )
        sent.is_shaken = sent.is_shaken or may_be

    def crashed(self) -> None:
        """The server is gone, with all that it knew."""
        self.rolled_back()
        self.edits.crashed()
        self._in_doubt.clear()
        for asked in self._asked.values():
            for _, sent in asked:
                if sent is not None:
                    sent.open_count = 0
                    sent.is_unsynced = False
                    self._may_be_refused(sent)
        self._asked.clear()
        self._online.clear()
        self._settled.clear()
        self.turn_has_ended()

    def _is_forgotten(self, sent: Sent) -> bool:
        return sent.id is None or self._wall() - sent.stored_at > REPEAT_DAYS * DAY

    def owner_of(self, group: str) -> str:
        """Return the owner of a group; nobody if there is no such group."""
        found = self.raw.execute("SELECT username FROM members WHERE group_name = ? AND position = 0", (group,))
        return str((found.fetchone() or [""])[0])

    def check_owners(self) -> None:
        """Each group has one owner, who is its first member, and no admin."""
        run = self.raw.execute
        for group, owner in run("SELECT name, creator FROM chat_groups").fetchall():
            found = run("SELECT username, role FROM members WHERE group_name = ? AND position < 1", (group,)).fetchall()
            self.check(found == [(owner, 0)], f"{owner} owns {group}, and the first members are {found}")
