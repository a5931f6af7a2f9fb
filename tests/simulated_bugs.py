"""Bugs that are put into the real code, and must be found by the worlds of `simulation.py`."""

from worlds import Change

from jelly import contacts_dao
from jelly.blocks import Blocks
from jelly.client.acks import AckTracker
from jelly.connection import Connection
from jelly.contact_notices import ContactNotices
from jelly.dao import Dao
from jelly.delivery import Delivery
from jelly.devices import Devices
from jelly.doubt import Doubt
from jelly.edits import Edits
from jelly.fair_queue import FairQueue
from jelly.friend_service import FriendService
from jelly.group_notices import GroupNotices
from jelly.group_service import GroupService
from jelly.groups import GroupCache
from jelly.indexing import DeferredIndexing
from jelly.last_seen import LastSeen
from jelly.presence import Presence
from jelly.quotas import Quotas
from jelly.read_pointers import ReadPointers
from jelly.session_lifecycle import SessionLifecycle
from jelly.sessions import Sessions, Told, Window
from jelly.store import Store

# What is wrong; then where, what is there, and what is put in its place.
BUGS: dict[str, list[Change]] = {
    "the first device of a user begins with what comes": [
        (Devices, "_beginning", "(row.delivered for row in rows if not row.name), 0)", "(), dao.peek_id() - 1)"),
    ],
    "copies what the user of one device writes": [
        (Store, "_with_own_copy", "if not self._devices.has_others(self._dao, session) or", "if"),
    ],
    "what waits goes when the fastest device has it": [
        (Devices, "_move", "> min(before.values()):", "> 0:"),
        (Devices, "_move", "removable.upto[user] = min(", "removable.upto[user] = max("),
    ],
    "a later device begins with what waits": [(Devices, "_beginning", "return dao.peek_id() - 1", "return 0")],
    "a device misses what is written in the transaction of its login": [
        (Devices, "has_others", "if kept is None and session", "if session"),
    ],
    "a session does not learn that its user has another device": [
        (Devices, "changed", "session.has_others = _has_others(kept, session)", "pass"),
    ],
    "what a device writes is pushed to itself": [(Delivery, "_is_for", 'not in ("", message.device)', '!= ""')],
    "a page brings a device what it has written": [(Dao, "waiting", "OR m.device <> ?", "OR m.device <> ? OR 1")],
    "takes over from any device": [
        (Sessions, "attach", "self.on(Device(session.user, session.device.name))", "self.get(session.user)"),
    ],
    "drops a device because it writes much": [(Devices, "_too_slow", "fastest, name)", "fastest)")],
    "tells of no gap": [(Store, "_tell_missed", "if session.gap is not None:", "if False:")],
    "forgets the gap when a dropped device comes back": [
        (Devices, "enter", "(own.delivered, own.gap)", "(own.delivered, 0)"),
    ],
    "tells of a gap that begins too late": [(Devices, "_drop", "which.gap or which.delivered + 1", "2**53")],
    "keeps the copies for a device that is dropped": [(Devices, "_check", "removable.alone.extend(", "list(")],
    "shows who is online of those who were removed meanwhile": [
        (FriendService, "_shown_to_modern", "(is_told(name, user) or name in state.still_friends)", "True"),
    ],
    "answers before the commit": [
        (Store, "_write", "messages], inbox)", "messages], inbox)\n        self._answer(batch)"),
        (Store, "step", "self._answer(batch)", "pass"),
    ],
    "believes what a client says that was read": [
        (ReadPointers, "note", "Reading(id, session.sent_id,", "Reading(id, id,"),
    ],
    "writes a job whole": [
        (
            FairQueue,
            "_take_in_turns",
            "_share(user.jobs[0], rows, size, must_take=not taken)",
            "len(user.jobs[0].entries), 1, 1",
        ),
    ],
    "opens a lane after a part of its job": [(FairQueue, "_take_from", "_not_done", "job.done")],
    "takes the last messages of a job first": [
        (FairQueue, "_take_from", "job.entries[:count]\n", "job.entries[-count:]\n"),
        (FairQueue, "_take_from", "del job.entries[:count]", "del job.entries[-count:]"),
    ],
    "the rest of a job overtakes what is in doubt": [(Store, "_begin_doubt", "if rest :=", "if False and")],
    "stores what is behind a failure": [(Store, "_accept", "if is_behind_failure and", "if False and")],
    "a failed batch fails nothing behind it": [
        (Store, "_answer_failed", "isinstance(entry, NewMessage) and entry.request_id is not None", "False"),
    ],
    "forgets the rest of a job": [
        (FairQueue, "_take_from", "if is_all:\n        user.jobs", "if True:\n        user.jobs"),
    ],
    "doubt is failure": [
        (Store, "step", "jobs = []", "jobs = batch.jobs"),
        (Store, "step", "self._begin_doubt(batch, error)", "self._fail(batch, error)"),
        (Dao, "move_mark", "self.mark or self.read_mark()", "self.read_mark()"),
    ],
    "doubt is failure, and the mark tells of it": [
        (Store, "step", "jobs = []", "jobs = batch.jobs"),
        (Store, "step", "self._begin_doubt(batch, error)", "self._fail(batch, error)"),
    ],
    "doubt is success": [
        (Store, "step", "jobs = []", "jobs = batch.jobs"),
        (Store, "step", "self._begin_doubt(batch, error)", "self._answer(batch)"),
        (Dao, "move_mark", "self.mark or self.read_mark()", "self.read_mark()"),
    ],
    "believes what can be read": [
        (Doubt, "look", "with dao.connection.transaction():", "if True:"),
        (Doubt, "look", "dao.move_mark(0)", "dao.new_mark = dao.mark"),
    ],
    "forgets what it has found when the look is in doubt, too": [
        (Doubt, "look", "self._is_committed[dao.new_mark] = is_committed", "pass"),
    ],
    "SUCCESS after a sync that failed": [
        (Doubt, "look", "if dao.connection.lost_syncs == self._lost_syncs", "if True"),
    ],
    "delivers what is in doubt": [(Store, "_feed", "if self._doubt is not None:", "if False:")],
    "writes while a commit is in doubt": [(Store, "_must_write", "if self._doubt is not None:", "if False:")],
    "keeps to itself what is found late": [(Store, "_look", "self._complete_late(batch)", "pass")],
    "uses ids again": [(Dao, "move_mark", "(self.new_mark, old)", "(old + 1, old)")],
    "a change of presence that waits is forgotten": [
        (Presence, "_tell_late", "if is_online != (user in self._announced_online):", "if False:"),
    ],
    "an owner leaves without another one": [
        (GroupService, "remove_member", "if member == username == group.owner:", "if False:"),
    ],
    "writes no ends of sessions": [(LastSeen, "write", "note(dao, user, seen)", "pass")],
    "keeps the ends of sessions that it has written": [(LastSeen, "committed", "del self.pending[user]", "pass")],
    "tells of no admins": [(GroupNotices, "_tell_users", "roles_in(members, admins)", "roles_in(members, ())")],
    "a role is told with the others before it": [
        (GroupNotices, "changed", "untold.add(now, change)\n        return", "return"),
    ],
    "tells a friend's state again": [
        (Presence, "_tell_late", "if is_online != (user in self._announced_online):", "if True:"),
    ],
    "forgets who was told early": [(Presence, "tell_before", "told_early.update(to_tell)", "pass")],
    "a list of friends does not wait for its turn": [
        (FriendService, "_gather_friends", "if not session.is_modern:", "if True:"),
    ],
    "adds who can be asked without asking": [(contacts_dao, "must_ask", "return found.can_be_asked or", "return")],
    "a list shows who is online before they accept": [
        (FriendService, "_shown_to_modern", "name not in state.hidden", "True"),
        (FriendService, "_shown_to_modern", "(is_told(name, user) or name in state.still_friends)", "True"),
    ],
    "notices tell who is online before they accept": [
        (
            FriendService,
            "add_friend",
            "self._notices.asked(username, friend)",
            "self._presence.add_friend(username, friend)",
        ),
    ],
    "a login watches those who have not accepted": [
        (contacts_dao, "accepted_friends", "standing = ?", "standing < 9 + ?"),
    ],
    "who has accepted is not watched": [(ContactNotices, "answered", "if is_shown:", "if False:")],
    "a no is a yes": [(FriendService, "_answer", "if accepted else Standing.DECLINED", "")],
    "puts into a group without asking": [
        (GroupService, "add_member", "contacts_dao.must_ask(found, self._policy.group_invitations)", "False"),
    ],
    "who is blocked may write": [(Store, "_accept", "if new.receiver in self.blocks.blockers and", "if False and")],
    "forgets blocks at a restart": [(Blocks, "load", "FROM blocks", "FROM blocks WHERE 1 = 0")],
    "who is blocked may ask": [(FriendService, "add_friend", "if found.has_blocked:", "if False:")],
    "a list shows who is online to who is blocked": [
        (contacts_dao, "hidden", " OR {BLOCKED}", ""),
        (FriendService, "_shown_to_modern", "(is_told(name, user) or name in state.still_friends)", "True"),
    ],
    "who has blocked is still watched": [
        (ContactNotices, "blocked", "self._presence.friend_hidden(person, user)", "pass"),
    ],
    "a session begins as if it had everything": [
        (Delivery, "begin", "session.caught_up = False", "session.caught_up = True"),
    ],
    "a page skips one": [
        (Delivery, "feed", "session.sent_id = waiting[count - 1].id", "session.sent_id = waiting[count - 1].id + 1")
    ],
    "caught up too early": [(Delivery, "feed", "len(waiting) < limit", "len(waiting) <= limit")],
    "pushes to those who are behind": [(Delivery, "push", "if not session.caught_up:", "if False:")],
    "never falls behind": [(Delivery, "flush", "if not session.has_room:", "if False:")],
    "gives what it has an acknowledgement for": [(Store, "_gather", " or any(job.is_write for job in jobs)", "")],
    "forgets acknowledgements when it fails": [(Store, "_forget", "self._delivered[device] = max", "max")],
    "deletes one too many": [(Dao, "remove_delivered", "message_id <= ?", "message_id - 1 <= ?")],
    "drops what somebody waits for": [(Dao, "remove_old_messages", " AND {DELIVERED_TO_ALL}", "")],
    "takes an acknowledgement of anything": [
        (
            Window,
            "acknowledge",
            "if position == len(self._sent) or self._sent[position][0] != upto:\n            return False",
            "position = min(position, len(self._sent) - 1)",
        ),
    ],
    "knows no limit": [(Window, "add", "self.has_room = False", "pass")],
    "forgets requestIds at a restart": [(Dao, "unindexed_requests", "return self", "return [] and self")],
    "forgets requestIds that are indexed": [(Dao, "indexed_requests", "return found", "return {}")],
    "forgets requestIds when it indexes": [(DeferredIndexing, "_forget_indexed", "[0] <= self._indexed_id", "")],
    "stores a repeat in the same batch": [
        (Store, "_accept", "known[new.sender, new.request_id] = message.id, digest", "pass")
    ],
    "tells a repeat a new id": [
        (Store, "_accept", "return id if", "return self._dao.allocate_id() if"),
    ],
    "does not compare what a requestId is for": [
        (Store, "_accept", "id if stored_digest == digest else", "id or"),
    ],
    "keeps old members": [(GroupCache, "set_members", "group.members = members", "pass")],
    "keeps members in doubt": [(GroupCache, "forget_all", "self._groups.clear()", "pass")],
    "shows what is still to be delivered": [
        (Dao, "history_page", "query.before, reader, query.sent_id", "query.before, '', query.sent_id"),
    ],
    "shows what is not indexed to nobody": [(Dao, "history_page", "(unindexed + rows)", "rows")],
    "keeps a session whose connection has ended": [
        (SessionLifecycle, "attach", "if session.transport.is_closed:", "if False:")
    ],
    "a classic session that is taken over keeps its token": [
        (SessionLifecycle, "take_over", "if is_classic and token_hash", "if False and token_hash"),
    ],
    "a classic session loses the token with which it comes back": [
        (SessionLifecycle, "take_over", "is_classic and token_hash != newcomer.token_hash", "is_classic"),
    ],
    "two logins in one transaction do not see each other": [
        (
            SessionLifecycle,
            "take_over",
            "if before is not None and before.is_pending:",
            "if before is None and before:",
        ),
    ],
    "a logout counts for what was written after it": [
        (Connection, "_read", "send_queue.read_bytes - count", "send_queue.read_bytes"),
    ],
    "the end of a stream counts for what was written after it": [
        (Connection, "_handle_end_of_stream", "send_queue.read_bytes", "send_queue.read_bytes + 1"),
    ],
    "an old connection throws out its successor": [
        (Sessions, "detach", "if session not in before:", "if not before:"),
        (Sessions, "detach", "each is not session", "each.device.name != session.device.name"),
    ],
    "an inbox has no end": [(Quotas, "_check_inbox", "bytes > self._bytes) and inbox.count", "bytes < 0)")],
    "one sender may fill an inbox": [(Quotas, "_check_inbox", "if own is not None and", "if False and")],
    "strangers may fill an inbox": [(Quotas, "_check_inbox", "and strangers_count\n", "and False\n")],
    "senders who are no friends may fill an inbox": [(Quotas, "_check_inbox", "and unlisted_count\n", "and False\n")],
    "everybody is a stranger": [(Dao, "acquaintances", "return {name", "return {receiver}, set() or {name")],
    "group mates are friends": [(Quotas, "_load_relations", "_Relation.GROUP_MATE", "_Relation.FRIEND")],
    "friends are group mates": [(Quotas, "_load_relations", "_Relation.FRIEND", "_Relation.GROUP_MATE")],
    "a group message is refused because of a member": [(Quotas, "admit", "if not message.is_group:", "if True:")],
    "does not subtract what is delivered": [(Quotas, "remove", "inbox.count -= count", "pass")],
    "takes every inbox for empty that gets smaller": [(Quotas, "remove", "upto >= inbox.last_id", "upto > 0")],
    "counts what has failed": [(Quotas, "on_failure", "self._inboxes.clear()", "pass")],
    "forgets what waits at a restart": [(Quotas, "_load", "*totals.get(name, ())", "")],
    "does not count the messages before in a batch": [
        (Quotas, "_load_senders", "if receiver in receivers and ", "if False and ")
    ],
    "takes any acknowledgement for one of a notice": [(Told, "note_delivered", "upto > self.sent_id", "True")],
    "replaces a text that was sent": [(Delivery, "was_sent", "return id <= ", "return False and id <= ")],
    "forgets at a restart that a text may have been sent": [
        (Delivery, "may_have_sent", "self._unknown_upto = max(upto, self._unknown_upto)", "pass")
    ],
    "replaces no text": [(Delivery, "was_sent", "return id <= ", "return True or id <= ")],
    "an edit comes beside the new text": [(Edits, "accept", "if receiver not in unsent]\n", "]\n")],
    "a page brings edits to those who do not know them": [(Delivery, "_page", "and not knows_edits", "and False")],
    "pushes edits to those who do not know them": [
        (Delivery, "_is_for", 'if message.replaces is not None and "edit" not in session.features', "if False")
    ],
    "keeps the row of an edit that is passed over": [
        (Edits, "remove_passed_over", "self._indexing.remove_delivered(dao, rows, alone=True)", "pass")
    ],
    "sends what was recalled": [(Edits, "accept", "edits_dao.take_out(dao, [original.id])", "pass")],
    "a message can be edited for ever": [(Edits, "accept", "> LONGEST_AGO", "> LONGEST_AGO * 1000")],
    "drops a message whose edit waits": [
        (
            Dao,
            "remove_old_messages",
            " AND {DELIVERED_TO_ALL}",
            " AND NOT EXISTS (SELECT 1 FROM inbox WHERE message_id = messages.id)",
        ),
    ],
    "the client acknowledges what it has not handed over": [
        (AckTracker, "delivered", "self._delivered = id", "self._delivered = self._received"),
    ],
    "the client takes repeats for new": [(AckTracker, "is_new", "self._recent.get(id) == fingerprint", "False")],
}


FOUND_IN = {
    "what waits goes when the fastest device has it": 15,
    "a later device begins with what waits": 38,
    "a device misses what is written in the transaction of its login": 31,
    "a session does not learn that its user has another device": 10,
    "what a device writes is pushed to itself": 5,
    "a page brings a device what it has written": 15,
    "takes over from any device": 15,
    "drops a device because it writes much": 149,
    "tells of no gap": 84,
    "forgets the gap when a dropped device comes back": 84,
    "tells of a gap that begins too late": 78,
    "keeps the copies for a device that is dropped": 78,
    "shows who is online of those who were removed meanwhile": 536,
    "copies what the user of one device writes": 9,
    "replaces a text that was sent": 71,
    "forgets at a restart that a text may have been sent": 643,
    "replaces no text": 9,
    "an edit comes beside the new text": 9,
    "a page brings edits to those who do not know them": 565,
    "pushes edits to those who do not know them": 9,
    "keeps the row of an edit that is passed over": 9,
    "sends what was recalled": 27,
    "a message can be edited for ever": 287,
    "drops a message whose edit waits": 829,
    "answers before the commit": 3,
    "believes what a client says that was read": 542,
    "writes a job whole": 11,
    "opens a lane after a part of its job": 1,
    "takes the last messages of a job first": 1,
    "the rest of a job overtakes what is in doubt": 269,
    "stores what is behind a failure": 41,
    "a failed batch fails nothing behind it": 137,
    "forgets the rest of a job": 11,
    "doubt is failure": 25,
    "doubt is failure, and the mark tells of it": 1,
    "doubt is success": 1,
    "believes what can be read": 9,
    "forgets what it has found when the look is in doubt, too": 9,
    "SUCCESS after a sync that failed": 27,
    "delivers what is in doubt": 254,
    "writes while a commit is in doubt": 8,
    "keeps to itself what is found late": 353,
    "uses ids again": 2,
    "a change of presence that waits is forgotten": 12,
    "tells a friend's state again": 333,
    "forgets who was told early": 288,
    "a list of friends does not wait for its turn": 41,
    "adds who can be asked without asking": 56,
    "a list shows who is online before they accept": 536,
    "notices tell who is online before they accept": 100,
    "a login watches those who have not accepted": 758,
    "who has accepted is not watched": 662,
    "a no is a yes": 100,
    "puts into a group without asking": 43,
    "who is blocked may write": 48,
    "forgets blocks at a restart": 503,
    "who is blocked may ask": 100,
    "a list shows who is online to who is blocked": 772,
    "who has blocked is still watched": 772,
    "a session begins as if it had everything": 34,
    "a page skips one": 6,
    "caught up too early": 6,
    "pushes to those who are behind": 11,
    "never falls behind": 11,
    "gives what it has an acknowledgement for": 3,
    "forgets acknowledgements when it fails": 200,
    "deletes one too many": 12,
    "drops what somebody waits for": 1,
    "takes an acknowledgement of anything": 419,
    "an owner leaves without another one": 9,
    "writes no ends of sessions": 5,
    "keeps the ends of sessions that it has written": 5,
    "tells of no admins": 1286,
    "a role is told with the others before it": 288,
    "knows no limit": 11,
    "forgets requestIds at a restart": 254,
    "forgets requestIds that are indexed": 2,
    "forgets requestIds when it indexes": 720,
    "stores a repeat in the same batch": 137,
    "does not compare what a requestId is for": 2,
    "keeps old members": 107,
    "keeps members in doubt": 186,
    "shows what is still to be delivered": 254,
    "shows what is not indexed to nobody": 169,
    "keeps a session whose connection has ended": 13,
    "a classic session that is taken over keeps its token": 9,
    "a classic session loses the token with which it comes back": 117,
    "two logins in one transaction do not see each other": 124,
    "a logout counts for what was written after it": 392,
    "the end of a stream counts for what was written after it": 269,
    "an old connection throws out its successor": 1,
    "an inbox has no end": 94,
    "one sender may fill an inbox": 36,
    "strangers may fill an inbox": 51,
    "senders who are no friends may fill an inbox": 142,
    "everybody is a stranger": 2,
    "group mates are friends": 142,
    "friends are group mates": 142,
    "a group message is refused because of a member": 0,
    "does not subtract what is delivered": 313,
    "takes every inbox for empty that gets smaller": 408,
    "counts what has failed": 137,
    "forgets what waits at a restart": 93,
    "does not count the messages before in a batch": 0,
    "takes any acknowledgement for one of a notice": 114,
    "the client acknowledges what it has not handed over": 396,
    "the client takes repeats for new": 34,
    "tells a repeat a new id": 9,
}
"""A world in which a bug is found, if it is not the first one: among the first ones, that which
takes the least time. It is played first, because all before it would take most of the time of these
tests. When the code changes, a bug may be found elsewhere: then the number here only costs time,
and `find_bugs.py` says another one.
"""
