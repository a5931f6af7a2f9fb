"""The lease: by it the nodes know which of them live.

Each node renews its own, in a transaction once a second, by the database's clock. It removes a node
whose lease has run out. From then on that one can write nothing.
"""

import logging
import math
from collections.abc import Callable, Sequence

from jelly.cluster.node_dao import SERVING, Neighbour, NodeDao

log = logging.getLogger("jelly.cluster")

LEASE_INTERVAL = 1.0
"""Seconds from one renewal of the lease to the next."""
STALL = 2.0
"""Seconds since this node has renewed its own lease after which it gives the others time to renew
theirs: what has kept it from that (a database that was away, or a node that froze with the sequence
lock) has kept them, too."""
ISOLATION_DELAY = 2.0
"""Seconds for which others must have reached the database, and this node not, until it sends its
clients to them. (A database that comes back does not come back to all at the same moment.)"""


class Lease:
    """A node's lease, and what the node does about those of others. It belongs to the thread that
    has the store's turn; any thread may ask, and note a hint.
    """

    def __init__(self, dao: NodeDao, seconds: float, clock: Callable[[], float]) -> None:
        """`seconds`: how long it lasts."""
        self._dao = dao
        self._clock = clock
        self.seconds = seconds
        self.renewed_at = clock()
        """When it was renewed last."""
        self.due_at = clock()
        """When it must be renewed next."""
        self.is_isolated = False
        """Whether the others reach the database, and this node does not."""
        self._judges_at = clock() + seconds  # until then no other node is declared dead
        # When the first hint came after a renewal was due: others reach the database.
        self._heard_at = -math.inf

    @property
    def is_held(self) -> bool:
        """Whether it has not run out: the others cannot have declared this node dead yet."""
        return self._clock() < self.renewed_at + self.seconds

    @property
    def is_due(self) -> bool:
        return self._clock() >= self.due_at

    def renew_soon(self) -> None:
        """Renew it in the next transaction."""
        self.due_at = self._clock()

    def note_hint(self) -> None:
        """Another node has committed something."""
        if self._heard_at <= self.renewed_at + LEASE_INTERVAL:
            self._heard_at = self._clock()

    def renew(self, can_hint: bool, unheard: Sequence[int], connections: int) -> None:
        """Renew it with the transaction that is open. After the commit call `renewed`."""
        now = self._clock()
        if now > self.renewed_at + STALL:
            self._judges_at = now + self.seconds
        self._dao.renew_lease(can_hint, unheard, connections)

    def remove_dead(self, nodes: Sequence[Neighbour]) -> None:
        """Remove the other nodes whose lease has run out."""
        dao, judges = self._dao, self._clock() >= self._judges_at
        for node in nodes:
            if node.id != dao.number and node.is_dead(dao.head.now) and judges:
                if node.state == SERVING:
                    log.warning("node %d at %s was silent for too long, and is removed", node.id, node.address)
                else:
                    log.info("node %d is gone", node.id)
                dao.remove_node(node.id)

    def renewed(self) -> None:
        """The transaction that has renewed it, or has begun it, is committed."""
        self.is_isolated = False
        self.renewed_at = self._clock()
        self.due_at = self.renewed_at + LEASE_INTERVAL

    def retry(self, at: float) -> None:
        """A transaction has failed: do not renew it before a time."""
        self.due_at = max(self.due_at, at)

    def becomes_isolated(self) -> bool:
        """A transaction has failed: return whether this node is isolated from now on. Soon the
        others take it for dead, and its clients should go to them.
        """
        others_work = self.renewed_at + LEASE_INTERVAL < self._heard_at <= self._clock() - ISOLATION_DELAY
        if not others_work or self.is_held or self.is_isolated:
            return False
        self.is_isolated = True
        log.error("this node has not reached the database for %g seconds, and serves nobody", self.seconds)
        return True
