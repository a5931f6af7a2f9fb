"""The server's logic in simulated worlds: none of them violates a promise, and bugs that we put in
are found.
"""

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated import Disk
from simulation import first_failure, first_failure_on_all_cores, simulate

from jelly.client.acks import AckTracker
from jelly.connection import Connection
from jelly.dao import Dao
from jelly.delivery import Delivery
from jelly.doubt import Doubt
from jelly.fair_queue import FairQueue
from jelly.groups import GroupCache
from jelly.indexing import DeferredIndexing
from jelly.presence import Presence
from jelly.quotas import Quotas
from jelly.services import Services
from jelly.sessions import Sessions, Window
from jelly.store import Store

SEEDS = 300
FEW_SEEDS = 2000
"""At most this many worlds until each bug is found."""
PROGRAM = Path(__file__).parent / "simulation.py"


def test_no_world_violates_a_promise() -> None:
    """A failure names the seed, and how to play that world again."""
    failure = first_failure_on_all_cores(SEEDS)
    assert failure is None, failure[1]


def test_a_seed_gives_the_same_world_again() -> None:
    """Step by step, in this process and in others, whatever order their sets have."""
    traces = [
        subprocess.run(
            [sys.executable, str(PROGRAM), "--seed", "12", "--trace"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=PROGRAM.parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    lines: list[str] = []
    disk = Disk()
    assert simulate(11, disk) == ""  # a world leaves nothing to the next one
    assert simulate(12, disk, lines.append) == ""
    disk.raw.close()
    assert len(lines) > 20
    assert traces == ["\n".join([*lines, "Nothing was violated.\n"])] * 2


# What is wrong; then where, what is there, and what is put in its place.
BUGS: dict[str, list[tuple[type, str, str, str]]] = {
    "answers before the commit": [
        (Store, "_write", "messages], inbox)", "messages], inbox)\n        self._answer(batch)"),
        (Store, "step", "self._answer(batch)", "pass"),
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
    "writes while a commit is in doubt": [(Store, "_write", "if self._doubt is not None:", "if False:")],
    "keeps to itself what is found late": [(Store, "_look", "self._complete_late(batch)", "pass")],
    "uses ids again": [(Dao, "move_mark", "(new, old)", "(old + 1, old)")],
    "a change of presence that waits is forgotten": [
        (Presence, "_tell_late", "if is_online != (user in self._announced_online):", "if False:"),
    ],
    "tells a friend's state again": [
        (Presence, "_tell_late", "if is_online != (user in self._announced_online):", "if True:"),
    ],
    "forgets who was told early": [(Presence, "tell_before", "told_early.update(to_tell)", "pass")],
    "a list of friends does not wait for its turn": [
        (Services, "_gather_friends", "if not session.is_modern:", "if True:"),
    ],
    "a session begins as if it had everything": [
        (Delivery, "begin", "session.caught_up = False", "session.caught_up = True"),
    ],
    "a page skips one": [
        (Delivery, "feed", "session.sent_id = notices[-1].id", "session.sent_id = notices[-1].id + 1")
    ],
    "caught up too early": [(Delivery, "feed", "len(waiting) < limit", "len(waiting) <= limit")],
    "pushes to those who are behind": [(Delivery, "push", "if not session.caught_up:", "if False:")],
    "never falls behind": [(Delivery, "flush", "if not session.has_room:", "if False:")],
    "gives what it has an acknowledgement for": [(Store, "_gather", " or any(job.is_write for job in jobs)", "")],
    "forgets acknowledgements when it fails": [(Store, "_forget", "self.delivered(user, upto)", "pass")],
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
    "forgets requestIds when it indexes": [(DeferredIndexing, "_index_batch", "[0] <= last", "")],
    "stores a repeat in the same batch": [(Store, "_accept", "known[new.sender, new.request_id] = digest", "pass")],
    "does not compare what a requestId is for": [
        (Store, "_accept", "None if stored == digest else", "None and"),
    ],
    "keeps old members": [(GroupCache, "set_members", "group.members = members", "pass")],
    "keeps members in doubt": [(GroupCache, "forget_all", "self._groups.clear()", "pass")],
    "shows what is still to be delivered": [
        (Dao, "history_page", "query.before, reader, query.sent_id", "query.before, '', query.sent_id"),
    ],
    "shows what is not indexed to nobody": [(Dao, "history_page", "(unindexed + rows)", "rows")],
    "keeps a session whose connection has ended": [
        (Services, "_attach_session", "if session.transport.is_closed:", "if False:")
    ],
    "a classic session that is taken over keeps its token": [
        (Services, "_take_over", "if is_classic and token_hash", "if False and token_hash"),
    ],
    "a classic session loses the token with which it comes back": [
        (Services, "_take_over", "is_classic and token_hash != newcomer.token_hash", "is_classic"),
    ],
    "two logins in one transaction do not see each other": [
        (Services, "_take_over", "if before is not None and before.is_pending:", "if before is None and before:"),
    ],
    "a logout counts for what was written after it": [
        (Connection, "_read", "send_queue.read_bytes - count", "send_queue.read_bytes"),
    ],
    "the end of a stream counts for what was written after it": [
        (Connection, "_handle_end_of_stream", "send_queue.read_bytes", "send_queue.read_bytes + 1"),
    ],
    "an old connection throws out its successor": [(Sessions, "detach", "is not session", "is None")],
    "an inbox has no end": [(Quotas, "_check_inbox", "bytes > self._bytes) and inbox.count", "bytes < 0)")],
    "one sender may fill an inbox": [(Quotas, "_check_inbox", "if own is not None and", "if False and")],
    "strangers may fill an inbox": [(Quotas, "_check_inbox", "if all_count and", "if False and")],
    "everybody is a stranger": [(Dao, "acquaintances", "return {name", "return {receiver} or {name")],
    "a group message is refused because of a member": [(Quotas, "admit", "if not message.is_group:", "if True:")],
    "does not subtract what is delivered": [(Quotas, "remove", "inbox.count -= count", "pass")],
    "takes every inbox for empty that gets smaller": [(Quotas, "remove", "upto >= inbox.last_id", "upto > 0")],
    "counts what has failed": [(Quotas, "on_failure", "self._inboxes.clear()", "pass")],
    "forgets what waits at a restart": [(Quotas, "_load", "*totals.get(name, ())", "")],
    "does not count the messages before in a batch": [
        (Quotas, "_load_senders", "if receiver in receivers:", "if False:")
    ],
    "the client acknowledges what it has not handed over": [
        (AckTracker, "delivered", "self._delivered = id", "self._delivered = self._received"),
    ],
    "the client takes repeats for new": [(AckTracker, "is_new", "self._recent.get(id) == fingerprint", "False")],
}


@pytest.mark.parametrize("changes", BUGS.values(), ids=BUGS)
def test_a_bug_is_found(changes: list[tuple[type, str, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: each of these, put into the real code, violates something in one of
    the first worlds.
    """
    for owner, name, there, instead in changes:
        monkeypatch.setattr(owner, name, changed(getattr(owner, name), there, instead))
    failure = first_failure(range(FEW_SEEDS))
    assert failure is not None
    assert failure[1].endswith(f"python tests/simulation.py --seed {failure[0]} --trace")


SOURCES: dict[Callable[..., Any], str] = {}
"""The source of methods that were changed, for those that are changed twice."""


def changed(method: Callable[..., Any], there: str, instead: str) -> Callable[..., Any]:
    """A method with something else in its source."""
    source = SOURCES.get(method) or textwrap.dedent(inspect.getsource(method))
    assert there in source, f"{method.__qualname__} has changed: put the bug somewhere else"
    source = source.replace(there, instead)
    names: dict[str, Any] = {}
    exec(source, method.__globals__, names)
    new: Callable[..., Any] = names[method.__name__]
    SOURCES[new] = source
    return new
