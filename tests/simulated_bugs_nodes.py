"""Bugs that are put into the real code of nodes, and must be found by `simulation_nodes.py`."""

from worlds import Change

from jelly.cluster.events import Events
from jelly.cluster.node import Node
from jelly.cluster.node_dao import NodeDao
from jelly.cluster.registry import Registry
from jelly.delivery import Delivery
from jelly.store import Store

# What is wrong; then where, what is there, and what is put in its place.
BUGS: dict[str, list[Change]] = {
    "no sequence lock": [(NodeDao, "take_lock", "self.connection.for_update", "''")],
    "takes the sequence lock without a look": [(NodeDao, "move_mark", "if moved < 2:", "if not moved:")],
    "forgets that it has moved its mark": [(NodeDao, "_look_and_move", "if has_moved_mark and", "if False and")],
    "pushes what can be read": [
        (Node, "catch_up", "if event > dao.event:", "event, id = dao.look_for_news()\n        if event > dao.event:")
    ],
    "takes the event of a poll for one on the disk": [
        (
            Node,
            "must_write",
            "return has_news",
            "self.on_hint(Hint(last_for, event))\n    return False",
        )
    ],
    "pages go beyond the horizon": [(Delivery, "feed", "limit, self.horizon, ", "limit, MAX_ID, ")],
    "pushes before the commit": [
        (
            Store,
            "_write",
            "node.finish(batch.messages)",
            "node.finish(batch.messages), [self._delivery.push(*e) for e in batch.messages], self._delivery.flush()",
        )
    ],
    "a node that was declared dead writes": [
        (NodeDao, "_look_and_move", "if head.incarnation != self.incarnation:", "if False:")
    ],
    "a session that was taken over writes": [
        (Node, "begin", "self.registry.on(session.device) != _place_of(session, dao.number)", "False")
    ],
    "a session that has ended writes": [
        (Node, "begin", "self.registry.on(session.device) != _place_of(session, dao.number)", "session.epoch < 0")
    ],
    "does not hear of takeovers": [(Events, "_apply", 'if event.kind == "in":', "if False:")],
    "does not learn requestIds at a login": [
        (Node, "enter", "dao.unindexed_requests_of(user, dao.head.indexed)", "()")
    ],
    "doubt is failure": [
        (Store, "step", "jobs = []", "jobs = batch.jobs"),
        (Store, "step", "self._begin_doubt(batch, error)", "self._fail(batch, error)"),
        (NodeDao, "_look_and_move", "self.mark not in (0, head.mark) or ", ""),
    ],
    "doubt is success": [
        (Store, "step", "jobs = []", "jobs = batch.jobs"),
        (Store, "step", "self._begin_doubt(batch, error)", "self._answer(batch)"),
        (NodeDao, "_look_and_move", "self.mark not in (0, head.mark) or ", ""),
    ],
    "does not notice that the database has gone back": [
        (
            NodeDao,
            "_look_and_move",
            "self.mark not in (0, head.mark) or head.next_id <= self.horizon or head.event < self.event",
            "False",
        )
    ],
    "pushes its own messages first": [
        (Node, "committed", "has_tail = turn.head.last_for > dao.horizon", "has_tail = False"),
    ],
    "looks twice who is here": [
        (Node, "committed", "self._push_tail(turn.last_id)", "self._push_tail(turn.head.next_id - 1)\n    has_tail = 0")
    ],
    "keeps the end of a session to itself": [
        (Node, "_session_was_served", "self._ended[user, epoch] = None", "pass"),
        (Node, "_tick", "if self._sessions.on(Device(user, place.device)) is None:", "if False:"),
    ],
    "tells the end of a session before what was read from it": [
        (
            Node,
            "session_ended",
            "session.when_served(partial(self._session_was_served, user, epoch))",
            "self._session_was_served(user, epoch)",
        )
    ],
    "an old session ends the one that has taken over": [
        (Node, "begin", "if any((place.node, place.epoch) == (dao.number, epoch) for", "if True or any(place for"),
        (NodeDao, "end_session", "AND epoch = ?", "AND epoch >= ?"),
        (Registry, "leave", "if place.epoch != epoch", "if False"),
    ],
    "keeps the sessions of a dead node": [
        (
            NodeDao,
            "remove_node",
            'f"DELETE FROM sessions WHERE node = {id}"',
            'f"DELETE FROM sessions WHERE node = {-id}"',
        )
    ],
    "remembers the sessions of a dead node": [
        (Events, "_apply_to_registry", "gone = self._registry.remove_node", "gone = [] and self._registry.remove_node")
    ],
    "does not hear of changes of groups": [(Events, "_apply", 'elif event.kind == "group":', "elif False:")],
    "does not tell for whom it has written": [(NodeDao, "finish", 'self._unwritten[f"for.{node}"] = id', "pass")],
    "all nodes have one mark": [
        (NodeDao, "take_lock", "int(rows[0][2])])", "int(rows[0][2])])._replace(mark=counts[0])")
    ],
    "what was missed is not read again": [(Node, "_push_tail", "self._delivery.all_fall_behind()", "pass")],
    "presence does not hear of other nodes": [(Events, "_apply", "self.refresh(changed)", "pass")],
}


FOUND_IN: dict[str, int] = {
    "looks twice who is here": 82,
    "takes the sequence lock without a look": 13,
    "pushes what can be read": 761,
    "takes the event of a poll for one on the disk": 417,
    "pages go beyond the horizon": 4,
    "pushes before the commit": 10,
    "a node that was declared dead writes": 59,
    "a session that was taken over writes": 5,
    "a session that has ended writes": 5,
    "does not hear of takeovers": 16,
    "does not learn requestIds at a login": 19,
    "doubt is failure": 53,
    "doubt is success": 1,
    "does not notice that the database has gone back": 6,
    "keeps the sessions of a dead node": 1,
    "remembers the sessions of a dead node": 1,
    "does not hear of changes of groups": 271,
    "all nodes have one mark": 5,
    "what was missed is not read again": 19,
    "presence does not hear of other nodes": 4,
    "forgets that it has moved its mark": 3,
}
"""A world in which a bug is found, if it is not the first one. It is played first, to save time.
When the code changes, a bug may be found elsewhere: `find_bugs.py --nodes` says where.
"""
