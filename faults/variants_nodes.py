"""The patches for nodes of a cluster: defects that rows 21 to 30 must find, and seams.

See `server.py`, which applies them.
"""

import os
import random
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from jelly import mysql_engine
from jelly.cluster import node as node_module
from jelly.cluster.bus import Hint, RedisBus
from jelly.cluster.events import Events
from jelly.cluster.lease import Lease
from jelly.cluster.node import Node
from jelly.cluster.node_dao import Event, Head, NodeDao
from jelly.dao import DatabaseWentBack
from jelly.fair_queue import Job
from jelly.mysql_engine import MysqlEngine
from jelly.quotas import Envelope

# mypy: disable-error-code="method-assign,assignment"

DROPPED, DOUBLED, SWAPPED = 0.3, 0.2, 0.2
"""The shares of hints that `unreliable-hints` drops, doubles, and swaps with the next one."""


# --- defects --------------------------------------------------------------------------------------


def never_polls() -> None:
    """A node without a bus waits for its next commit to see what others have stored."""
    node_module.POLL_INTERVAL = node_module.BUSY_POLL_INTERVAL = 3600.0
    Node.on_bus = lambda *_: None


def hints_are_the_source() -> None:
    """A node takes what others have stored from hints only, and does not look behind them."""
    push_tail, committed = Node._push_tail, Node.committed

    def commit_without_looking(self: Node) -> bool:
        Node._push_tail = lambda *_: None
        try:
            committed(self)
        finally:
            Node._push_tail = push_tail
        return False

    Node.committed = commit_without_looking


def forgets_requests() -> None:
    """A node does not know which requestIds a user has used at another node."""
    NodeDao.unindexed_requests_of = lambda *_: []


def no_fence() -> None:
    """A node that was declared dead goes on as if nothing had happened."""
    take_lock = NodeDao.take_lock

    def take_any_lock(self: NodeDao) -> Head:
        head = take_lock(self)
        if self.number:
            self.head = head = head._replace(incarnation=self.incarnation)
        return head

    NodeDao.take_lock = take_any_lock


def serves_isolated() -> None:
    """A node that cannot reach the database keeps its clients."""
    Lease.is_held = True


def keeps_the_lock() -> None:
    """The database does not take the sequence lock away from a node that has frozen."""
    MysqlEngine._set_timeouts = lambda self, raw: self.execute(raw, f"SET SESSION {mysql_engine.LOCK_TIMEOUT}", ())


def pushes_what_is_visible() -> None:
    """A node pushes what it can read, although it need not be on the disk."""
    must_write = Node.must_write

    def look_and_push(self: Node, is_writing: bool) -> bool:
        event, last_for = self._dao.look_for_news()
        if event <= self._dao.event and last_for > self._dao.horizon:
            self._push_tail(last_for)
            self._delivery.flush()
            self._dao.horizon = self._delivery.horizon = last_for
        return must_write(self, is_writing)

    Node.must_write = look_and_push


def ignores_the_past() -> None:
    """A node does not notice that the database has gone back to an older state."""
    move_mark = NodeDao.move_mark

    def move_any_mark(self: NodeDao, count: int) -> None:
        horizon, event = self.horizon, self.event
        self.mark = self.horizon = self.event = 0
        try:
            move_mark(self, count)
        except DatabaseWentBack:
            raise AssertionError from None
        finally:
            self.horizon, self.event = horizon, event

    NodeDao.move_mark = move_any_mark


def ignores_takeovers() -> None:
    """A session goes on although its user has logged in at another node."""
    apply = Events._apply

    def apply_others(self: Events, event: Event) -> None:
        if event.kind == "in":
            self._apply_to_registry(event)
        else:
            apply(self, event)

    Events._apply = apply_others


def ignores_changes_of_groups() -> None:
    """A node keeps the members of a group that it has in memory, whatever others change."""
    apply = Events._apply

    def apply_others(self: Events, event: Event) -> None:
        if event.kind != "group":
            apply(self, event)

    Events._apply = apply_others


def offline_at_once() -> None:
    """A node that stops takes its users offline before they can come back elsewhere."""
    leave = NodeDao.leave

    def leave_alone(self: NodeDao) -> None:
        self.remove_node(self.number)
        self.finish({})
        leave(self)

    NodeDao.leave = leave_alone


# --- seams ----------------------------------------------------------------------------------------


def freezes_with_lock() -> None:
    """Not a defect: SIGUSR1 has the server stop (SIGSTOP) when it takes the sequence lock next."""
    begin, is_armed = Node.begin, [False]

    def arm(_number: int, _frame: FrameType | None) -> None:
        is_armed[0] = True

    def begin_and_freeze(self: Node, jobs: Sequence[Job]) -> None:
        if is_armed[0]:
            is_armed[0] = False
            os.kill(os.getpid(), signal.SIGSTOP)
        begin(self, jobs)

    Node.begin = begin_and_freeze
    signal.signal(signal.SIGUSR1, arm)


def dies_unanswered() -> None:
    """Not a defect: SIGUSR1 has the server die when it has next committed messages: before it
    pushes and answers.
    """
    committed, is_armed = Node.committed, [False]

    def arm(_number: int, _frame: FrameType | None) -> None:
        is_armed[0] = True

    def finish(self: Node, messages: Sequence[Envelope]) -> None:
        has_messages[0] = bool(messages)
        real_finish(self, messages)

    def die(self: Node) -> bool:
        if is_armed[0] and has_messages[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return committed(self)

    real_finish, has_messages = Node.finish, [False]
    Node.finish, Node.committed = finish, die
    signal.signal(signal.SIGUSR1, arm)


def unreliable_hints() -> None:
    """Not a defect: hints between nodes are dropped, doubled or swapped."""
    init = RedisBus.__init__

    def init_unreliable(self: RedisBus, url: str, cluster_id: str, on_hint: Callable[[Hint], None], *more: Any) -> None:
        held: list[Hint] = []

        def on_some(hint: Hint) -> None:
            chance = random.random()
            if chance < DROPPED:
                return
            if chance < DROPPED + SWAPPED and not held:
                held.append(hint)
                return
            for each in (hint, *held, *([hint] if chance > 1 - DOUBLED else [])):
                on_hint(each)
            held.clear()

        init(self, url, cluster_id, on_some, *more)

    RedisBus.__init__ = init_unreliable


VARIANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        never_polls, hints_are_the_source, forgets_requests, no_fence, serves_isolated, keeps_the_lock,
        pushes_what_is_visible,
        ignores_the_past, ignores_takeovers, ignores_changes_of_groups, offline_at_once, freezes_with_lock,
        dies_unanswered, unreliable_hints,
    )
}  # fmt: skip
