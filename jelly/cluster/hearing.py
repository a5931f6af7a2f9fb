"""Whether the hints of the other nodes arrive: all nodes must use the same Redis server.

Two nodes whose `--cluster` names different servers both have a bus that works, and still neither
hears the other. The names do not tell: `redis://127.0.0.1` on two machines is two servers, and one
server has several names. So each node *greets* the others through the bus whenever it has renewed
its lease. The table of nodes shows the renewal; if the greeting does not come, there is no common
bus.
"""

import logging
from collections.abc import Collection, Sequence

from jelly.cluster.bus import NO_BUS, Bus
from jelly.cluster.node_dao import Neighbour

log = logging.getLogger("jelly.cluster")

UNHEARD_RENEWALS = 7
"""After this many renewals of another node's lease without a greeting, that node counts as one on
another bus. These take longer than a node needs to notice that its Redis hangs, and to write that
into the table: a Redis that hangs for all is not another one."""


class Hearing:
    """Which other nodes have no bus in common with this one. One thread may use it."""

    def __init__(self) -> None:
        self.unheard: Sequence[int] = ()
        """The numbers of these nodes."""
        self.are_all_heard = False
        """Whether each other node tells this one when there is something for it."""
        self._renewals: dict[int, tuple[int, int]] = {}  # by incarnation: the last one, and how many without a greeting
        self._apart: set[int] = set()  # the incarnations of these nodes

    def look(self, others: Sequence[Neighbour], bus: Bus) -> None:
        """Compare what the table of nodes says with what came through the bus since the last call.

        `others`: the other nodes that serve. Logs a line when a node turns out to be on another
        bus, and one when all share a bus again.
        """
        heard = bus.take_heard()
        apart = {node.incarnation for node in others if self._is_apart(node, bus, heard)}
        for node in others:
            if node.incarnation in apart - self._apart:
                log.warning(
                    "node %d at %s and this node do not hear each other: its bus is %s, and the bus of this node is "
                    "%s. Messages between them come a little later, because this node polls the database. Start all "
                    "nodes with the same server of Redis in --cluster",
                    node.id, node.address, node.bus, bus.name,
                )  # fmt: skip
        if self._apart and not apart:
            log.info("all nodes share the bus of this node again: %s", bus.name)
        self._apart = apart
        self._renewals = {node.incarnation: self._renewals[node.incarnation] for node in others}
        self.unheard = [node.id for node in others if node.incarnation in apart]
        self.are_all_heard = not apart and all(node.hints for node in others)

    def _is_apart(self, node: Neighbour, bus: Bus, heard: Collection[str]) -> bool:
        renewed, count = self._renewals.get(node.incarnation, (node.renewed, 0))
        was_apart = node.incarnation in self._apart
        if NO_BUS in (node.bus, bus.name):
            count, is_apart = 0, node.bus != bus.name
        elif node.sender in heard:
            count, is_apart = 0, False
        elif not bus.is_up or not node.hints:  # its own log says so, and nothing can be learned meanwhile
            count, is_apart = 0, was_apart
        else:
            count += node.renewed != renewed
            is_apart = was_apart or count >= UNHEARD_RENEWALS
        self._renewals[node.incarnation] = node.renewed, count
        return is_apart
