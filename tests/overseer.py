"""The overseer of a simulation: it sees everything that happens, and says when something must not.

It learns what is in the database from triggers, what the server says from the transports, and what
reaches an application from the devices. From that it keeps its own, simple picture of what has to
be true, which shares no code with the server, and raises `Violation` where the two differ.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from overseer_database import DatabaseOverseer
from overseer_picture import Page
from sent import Sent

from jelly.codec import HEADER, Frame, Status, Type
from jelly.requests import MESSAGES
from jelly.trusted_clock import stored_at


class Overseer(DatabaseOverseer):
    """What has to be true of what clients and the server say to each other."""

    # --- clients ----------------------------------------------------------------------------------

    def writes(self, sent: Sent) -> None:
        """A client is about to write a new message."""
        self.sent.append(sent)
        self._by_content[sent.content] = sent
        if sent.original is not None:
            self.edits.writes(sent)
        self._by_body[sent.body] = sent

    def handed_over(self, device: Any, content: str, id: int) -> None:
        """A message has reached an application that acknowledges."""
        sent = self.edits.handed_over(device.reader, content, id)
        self.check(id not in device.log, f"{sent} was handed to {device} twice")
        self.check(not device.log or id > device.last_id, f"{sent} was handed to {device} after {device.last_id}")
        device.log.add(id)
        device.last_id = id
        self.had.add((device.user, id))
        self.read.add((device.user, sent))
        self.devices.handed_over(device, id)

    def was_told(self, user: str, left_out: dict[str, int]) -> None:
        """A notice of what was left out of an inbox has reached a client that acknowledges."""
        self._heard |= {(user, group, since) for group, since in left_out.items()}

    def arrived(self, user: str, content: str, id: int) -> None:
        """A message has reached the machine of a classic client."""
        sent = self.edits.meant(self._known(content))
        self.check(sent.id is not None, f"{sent} reached {user} and is not stored")
        self.had.add((user, id))

    def was_read(self, user: str, content: str) -> None:
        """A classic client has read a message."""
        self.read.add((user, self.edits.meant(self._known(content))))

    def device_dies(self, device: Any) -> None:
        """A client loses its memory."""

    def died_unread(self, user: str, content: str, has_spoken: bool) -> None:
        """A classic client has ended before it read a message that its machine had.

        Only if it has sent something in between, the server may take the message for delivered.
        """
        sent = self.edits.meant(self._known(content))
        if has_spoken:
            self.excused.add((user, sent))

    def logs_out(self, user: str) -> None:
        """A client has asked to log out, and its user may log in again before the server knows."""
        self._rivals.add(user)

    # --- what the server reads --------------------------------------------------------------------

    def asks(self, connection: Any, user: str, frame: Frame) -> None:
        """The server has read a request."""
        if frame.type in (Type.LOGIN, Type.RECONNECT):
            self._begins_after[connection] = self._settled[connection.device.reader]
            self.devices.asks_to_log_in(connection)
        self._notes_consent(user, frame)
        sent = self._by_body.get(frame.body) if frame.type in MESSAGES else None
        if sent is not None:
            sent.read_at = sent.read_at or self.passes()
            if sent.id not in self._in_doubt:
                sent.is_unsynced = False  # a repeat, whose first copy nobody waits for any more
            sent.read_count += 1
            sent.open_count += 1
        self._asked[connection].append((frame, sent))

    def _notes_consent(self, user: str, frame: Frame) -> None:
        """The server has read a request: perhaps somebody accepts, or adds back."""
        if frame.type in (Type.ADD_FRIEND, Type.ANSWER_FRIEND):
            values = json.loads(frame.body)
            if values.get("accept", True):
                self._consents.add((values["friend"], user))
        if frame.type == Type.ANSWER_GROUP and json.loads(frame.body)["accept"]:
            self._group_consents.add((json.loads(frame.body)["groupName"], user))

    def reads_history(self, connection: object, user: str, asked: dict[str, Any]) -> None:
        """The server reads a page of history now, and answers later."""
        group = asked.get("groupName")
        if group is not None and user not in self.members[group]:
            self._page_read[connection] = "not_a_member" if self.members[group] else "no_such_group"
            return
        # What is being sent at this very moment may be in the page or not.
        givens = {self._given[connection], self._giving[connection]} if self._history_days else set()
        pages = [self._page(connection, user, asked, given) for given in sorted(givens)] or [([], False)]
        self._page_read[connection] = [] if self.devices.is_out_of_date(connection) else pages

    def acknowledges(self, connection: Any, user: str, id: int) -> None:
        """The server has read an ACK."""
        unacknowledged = self._unacknowledged[connection]
        if id in unacknowledged:
            reader = connection.device.reader
            self._settled[reader] = max(id, self._settled[reader])
            self.devices.acknowledges(connection)
            del unacknowledged[: bisect_right(unacknowledged, id)]

    def connection_has_ended(self, connection: object) -> None:
        """The server has noticed that."""
        self._ended.add(connection)
        for reader, (current, _) in list(self._online.items()):
            if current is connection:
                del self._online[reader]

    # --- the server's mouth -----------------------------------------------------------------------

    def answers(self, connection: Any, user: str, frame: bytes) -> None:
        """The server sends a response."""
        self.passes()
        self.check(self._asked[connection], f"{user} is answered and has not asked")
        asked, sent = self._asked[connection].popleft()
        self._answered[connection] += 1
        type, status = frame[3], frame[4]
        self.check(type == asked.type, f"{user} asked 0x{asked.type:02x} and is answered 0x{type:02x}")
        self.check(not self.raw.in_transaction, f"{user} is answered before the commit")
        if sent is not None:
            values = json.loads(frame[HEADER.size :] or b"{}")
            self._answers_message(sent, status, str(values.get("error", "")))
            if status == Status.SUCCESS:
                self._tells_id(user, sent, values)
            self._check_behind_failure(connection, sent, status)
        elif type in (Type.LOGIN, Type.RECONNECT) and status == Status.SUCCESS:
            came_with = json.loads(asked.body) if type == Type.RECONNECT else json.loads(frame[HEADER.size :])
            self._answers_login(connection, user, came_with["token"])
        elif type == Type.ALL_FRIENDS and status == Status.SUCCESS:
            self._answers_friends(connection, user, json.loads(frame[HEADER.size :])["friends"])
        elif type in (Type.ADD_FRIEND, Type.REMOVE_FRIEND):
            self._answers_change_of_friends(connection, user, asked, json.loads(frame[HEADER.size :] or b"{}"))
        elif type == Type.HISTORY:
            self._answers_history(connection, user, asked.body.decode(), status, json.loads(frame[HEADER.size :]))

    def _answers_change_of_friends(self, connection: object, user: str, asked: Frame, answer: dict[str, Any]) -> None:
        """What was told before of that friend counts no more, also where the user has come back."""
        friend = json.loads(asked.body)["friend"]
        if asked.type == Type.REMOVE_FRIEND or answer.get("pending"):
            self._told[connection].pop(friend, None)
            for reader, (current, _) in self._online.items():
                if reader[0] == user:
                    self._told[current].pop(friend, None)
        if answer.get("pending"):
            self._told[connection][friend] = False

    def _answers_login(self, connection: Any, user: str, token: int) -> None:
        self.check(token not in self._revoked, f"{user} came with a token that was lost by a takeover")
        reader = connection.device.reader
        _, old = self._online.get(reader, (None, token))
        if old != token and user in self._classic:
            self._revoked.add(old)
        self._online.pop(reader, None)
        self.devices.has_logged_in(connection)
        if connection not in self._ended:
            self._online[reader] = connection, token

    def _answers_message(self, sent: Sent, status: int, code: str) -> None:
        sent.open_count -= 1
        sent.was_refused = False
        is_unsynced, sent.is_unsynced = sent.is_unsynced, False  # a repeat finds it stored
        sent.is_shaken = sent.is_shaken or status != Status.SUCCESS
        if status == Status.SUCCESS:
            self.check(sent.id is not None, f"{sent} got SUCCESS and is not stored")
            self.check(sent.id not in self._in_doubt, f"{sent} got SUCCESS and is in doubt")
            self.check(not is_unsynced, f"{sent} got SUCCESS, although its sync has failed")
            self.check(sent.other is None or self._is_forgotten(sent.other), f"{sent} takes the id of {sent.other}")
            sent.is_acknowledged = True
        elif status == Status.REQUEST_ERROR:
            self.check(self._is_forgotten(sent), f"{sent} is stored, and refused with {code}")
            sent.was_refused = True
            if self.edits.may_be_refused(sent, code):
                pass
            elif code == "request_id_reused":
                holder = self._keys.get((sent.sender, sent.request_id or ""), sent)
                self.check(holder is not sent, f"{sent} is new, and refused with {code}")
            elif code == "inbox_full":
                may_be = not sent.is_group and self._is_full(sent.receiver, sent, 2**53, surely=False)
                self.check(may_be, f"{sent} is refused with {code}")
            elif code == "not_accepted":
                was_blocked = (sent.receiver, sent.sender) in self._ever_blocked  # a long job is answered later
                self.check(was_blocked, f"{sent} is refused, and its sender was never blocked")
            else:
                self.check(sent.is_group and code in ("no_such_group", "not_a_member"), f"{sent}: refused with {code}")
                was_member = self._membership(sent.receiver, sent.sender, sent.read_at or 0, self.tick)
                self.check(was_member is not True, f"{sent} is refused with {code}, but its sender is a member")
        elif status == Status.SERVER_BUSY and sent.read_count == 1:
            self.check(sent.id is None, f"{sent} is stored, and got SERVER_BUSY at the first time")

    def _tells_id(self, user: str, sent: Sent, told: dict[str, Any]) -> None:
        """A modern client is told which id its message has; a repeat is told the same."""
        expected = {} if user in self._classic else {"id": sent.id, "stored": stored_at(sent.id or 0)}
        is_known = not self._is_forgotten(sent)  # else this is a copy, which has an id of its own
        self.check(told == expected or not is_known, f"{user} is told {told} of {sent}, which has the id {sent.id}")

    def _check_behind_failure(self, connection: object, sent: Sent, status: int) -> None:
        """What the server has read before it answers SERVER_ERROR to an earlier message is not
        stored either, unless it is written again.

        What fails for that reason makes no others fail; but it may fail for a reason of its own,
        and then it does.
        """
        if sent.request_id is None:
            return
        surely, perhaps = self._behind_failure[connection]
        number = self._answered[connection]
        is_stored = status == Status.SUCCESS and sent.read_count == 1
        is_behind = number <= surely
        self.check(not (is_stored and is_behind), f"{sent} is stored, and an earlier one failed after it was read")
        if status == Status.SERVER_ERROR:
            has_read = number + len(self._asked[connection])
            self._behind_failure[connection] = surely if number <= perhaps else has_read, has_read

    def is_about_to_notify(self, connection: object, upto: int) -> None:
        """The server is about to send notices, after some responses: the last one has this id."""
        self._giving[connection] = max(upto, self._giving[connection])

    def notifies(self, connection: Any, user: str, notices: Iterable[tuple[int, bytes]], limit: int | None) -> None:
        """The server sends notices of messages. `limit`: how many may be unacknowledged."""
        self.passes()
        count = 0
        for id, frame in notices:
            if frame[3] == Type.SYSTEM:
                self._tells(connection, user, json.loads(frame[HEADER.size :]))
                continue
            count += 1
            values = json.loads(frame[HEADER.size :])
            own = id if limit is None else values["id"]
            sent = self.edits.notifies(connection, user, own, values) or self._known(values["content"])
            self.check(not self.raw.in_transaction, f"{user} gets {sent} before the commit")
            self.check(own in self.inbox[user], f"{user} gets {sent} as {own}, which is not in the inbox")
            self.devices.notifies(connection, sent, own)
            is_timed = limit is None or values["stored"] == stored_at(own)
            self.check(is_timed, f"{user} gets {sent} with another time of storing than its id says")
            self.check(self._by_id[own] is sent, f"{user} gets {sent} as {own}")
            self.check(own not in self._in_doubt, f"{user} gets {sent}, which is in doubt")
            is_refused = sent.is_refused and not self._is_forgotten(sent)  # after a week, a copy may be
            self.check(not is_refused, f"{user} gets {sent}, which was refused")
            is_same = (values["sender"], values["receiver"], frame[3] == Type.GROUP_MESSAGE) == (
                sent.sender, sent.receiver, sent.is_group,
            )  # fmt: skip
            self.check(is_same, f"{user} gets {sent} as {values}")
            self.check(own > self._begins_after[connection], f"{user} gets {sent}, which it has acknowledged")
            self.check(own > self._given[connection], f"{user} gets {sent} after {self._given[connection]}")
            self._given[connection] = own
            self._sent_to.add((user, own))
            self._unacknowledged[connection].append(own)
        if limit is not None and count:
            most = limit + count
            now = len(self._unacknowledged[connection])
            self.check(now <= most, f"{user} has not acknowledged {now}, the limit is {limit}")

    def _tells(self, connection: object, user: str, event: dict[str, Any]) -> None:
        """The server sends a SYSTEM notice."""
        if event["event"] == "presence":
            told, friend, online = self._told[connection], event["friend"], event["online"]
            self.check(told.get(friend) != online, f"{user} is told again that {friend} is online: {online}")
            self.check((user, friend) in self._ever_accepted, f"{user} is told of {friend}, who has not accepted")
            if (user, friend) in self.friends:  # else another session has removed that friend meanwhile
                told[friend] = online
        elif event["event"] == "group_changed":
            self._told_of_group[connection][event["group"]] = event["members"], event.get("roles")
        elif event["event"] == "group_disbanded":
            self._told_of_group[connection].pop(event["group"], None)
        elif event["event"] == "gap":
            self.devices.tells_gap(connection, event["since"])

    def may_have_missed(self, connection: object) -> None:
        """A notice was perhaps dropped, because a client is slow."""
        self._told[connection].clear()
        self._told_of_group[connection].clear()

    def _answers_friends(self, connection: Any, user: str, friends: dict[str, bool]) -> None:
        """Somebody gets a list of friends: a modern client a list that agrees with the notices."""
        for friend, online in friends.items():
            is_accepted = (user, friend) in self._ever_accepted
            self.check(is_accepted or not online, f"{user} sees that {friend} is online, who has not accepted")
        if user in self._classic or self._online.get(connection.device.reader, (None, 0))[0] is not connection:
            return  # the connection has ended, or was taken over: it gets no notices any more
        for friend, online in friends.items():
            if (user, friend) not in self._accepted or (friend, user) in self._blocks:
                self.check(not online, f"{user} sees that {friend} is online, who is hidden")
            told = self._told[connection].get(friend, online)
            self.check(told == online, f"{user} was told that {friend} is online: {told}, and the list says {online}")
            self._told[connection][friend] = online

    @property
    def open_requests(self) -> list[tuple[str, str]]:
        """Who has asked whom, and the other one has not accepted, in order."""
        return sorted(self.friends - self._accepted)

    def check_presence(self, connection: object, user: str, is_online: Callable[[str], bool]) -> None:
        """Everything has come to rest: the last notice is right."""
        for friend, online in self._told[connection].items():
            if (user, friend) in self._accepted:
                is_shown = is_online(friend) and (friend, user) not in self._blocks
                self.check(online == is_shown, f"the last notice about {friend} says online: {online}")

    def check_ends(self) -> None:
        """Everything has come to rest: the database knows when each session ended."""
        for user, seen in self.ends_seen.items():
            [(noted,)] = self.raw.execute("SELECT seen FROM users WHERE username = ?", (user,))
            self.check(noted >= seen, f"{user} was online until {seen}, and {noted} is noted")

    def check_groups(self, connection: object, user: str) -> None:
        """Everything has come to rest: the last notice about each group is right, as long as its
        receiver is a member.
        """
        for group, (members, roles) in self._told_of_group[connection].items():
            now = self.raw.execute(
                "SELECT username, role FROM members WHERE group_name = ? ORDER BY position", (group,)
            ).fetchall()
            if user in members and user in self.members[group]:
                self.check(members == [name for name, _ in now], f"{user} was told that {group} has {members}: {now}")
                its_roles = {name: "admin" if role else "owner" for name, role in now if role or name == members[0]}
                self.check(roles in (None, its_roles), f"{user} was told that {group} has {roles}: {now}")

    def _answers_history(self, connection: object, user: str, asked: str, status: int, answer: dict[str, Any]) -> None:
        if status in (Status.SERVER_BUSY, Status.SERVER_ERROR):
            return
        expected = self._page_read.pop(connection)
        if not expected:
            return
        if isinstance(expected, str):
            self.check(answer.get("error") == expected, f"{user} may not read {asked}: {answer}")
            return
        self.check(status == Status.SUCCESS, f"{user} is refused a page: {answer}")
        got = [(message["id"], message["content"]) for message in answer["messages"]], answer["more"]
        self.check(got in expected, f"{user} asks {asked} and gets {got} instead of {expected[-1]}")

    def _page(self, connection: object, user: str, asked: dict[str, Any], given: int) -> Page:
        """The page that somebody has to get who was sent everything up to an id."""
        group, person = asked.get("groupName"), asked.get("person")
        before = asked.get("before", 2**53)
        since = self.members[group][user] if group is not None else 0
        page: list[tuple[int, str]] = []
        size = 0
        for id in sorted(self._by_id, reverse=True):
            sent = self._by_id[id]
            belongs = (
                sent.receiver == group
                if group is not None
                else {(sent.sender, sent.receiver)} & {(user, person), (person, user)}
            )
            if sent.is_group != (group is not None) or not belongs or not since <= id < before:
                continue
            if id in self.inbox[user] and self.devices.is_to_come(connection, id, given):
                continue
            if sent.original is not None:
                continue
            text = self.edits.text_of(sent)
            size += len(text)
            if len(page) == asked.get("limit", 50) or (page and size > self._page_characters):
                return page[::-1], True
            page.append((id, text))
        return page[::-1], False

    # --- the end ----------------------------------------------------------------------------------

    def final_check(self) -> None:
        """Everything has come to rest: what was promised has happened."""
        for sent in self.sent:
            self.check(not sent.is_acknowledged or sent.id is not None, f"{sent} is lost")
            for user in sent.receivers if sent.is_acknowledged and not self.edits.may_be_missed(sent) else ():
                if self.devices.of(user):
                    continue  # they are looked at below: none of them need have all
                has_it = (user, sent) in self.read or (user in self._classic and (user, sent) in self.excused)
                self.check(has_it, f"{sent} is lost on its way to {user}")
        for user, sent in self.read:
            self.check(user in sent.receivers, f"{user} has {sent}, which is not for it")
        self._check_order()
        self.edits.final_check()
        self.devices.final_check()

    def _check_order(self) -> None:
        """What one device wrote one after the other is stored in that order, unless it was told to
        try again.
        """
        last: dict[Any, Sent] = {}
        for sent in self.sent:
            if sent.id is None or sent.is_shaken or sent.other is not None:
                continue
            before = last.get(sent.device)
            self.check(
                before is None or (before.id or 0) < sent.id, f"{sent} has overtaken {before}, which was written before"
            )
            last[sent.device] = sent
