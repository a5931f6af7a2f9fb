"""How a server becomes a node: the parts of the package, put together for `server.py`."""

import secrets
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol

from jelly.cluster.bus import open_bus
from jelly.cluster.node import Node, Parts
from jelly.cluster.node_dao import DatabaseTime, NodeDao, cluster_id
from jelly.config import Settings
from jelly.database import DatabaseConnection
from jelly.engines import open_engine
from jelly.group_notices import Change, RoleChange
from jelly.group_service import GroupChange
from jelly.read_pointers import OwnRead
from jelly.receipts import ReadNotice
from jelly.roles import GroupRoles, Role
from jelly.services import Services
from jelly.session_lifecycle import PASSWORD_CHANGED
from jelly.sessions import Session
from jelly.store import Store
from jelly.trusted_clock import TrustedClock
from jelly.version import __version__

CLAIM_SECONDS = 20.0
"""Seconds to wait for the claim of the database: other nodes may be registering."""


def load_packages(settings: Settings) -> None:
    """Load what a node imports, before forks of this process become nodes. Raises ConfigError."""
    open_engine(settings.database)
    open_bus(settings.cluster, "", lambda _: None, lambda _: None)


def open_dao(connection: DatabaseConnection, is_trusted: bool) -> tuple[NodeDao, TrustedClock]:
    """Return the Dao of a node's store, and a clock that follows the database's time."""
    database_time = DatabaseTime(time.time, time.monotonic)
    clock = TrustedClock(is_trusted, wall=database_time.now)
    return NodeDao(connection, clock, database_time), clock


class NodeServer(Protocol):
    """What a node needs of its server."""

    services: Services
    store: Store

    @property
    def connections(self) -> Sized:
        """The connections of clients."""

    def close_connections(self) -> None:
        """Close all connections."""

    def give_up(self, reason: str) -> None:
        """Have this server stopped: it cannot go on."""


class _Changes:
    """Does here what other nodes have decided."""

    def __init__(self, server: NodeServer) -> None:
        self._services = server.services
        self.node_is_isolated = server.close_connections
        self.cannot_go_on = server.give_up

    def session_moved(self, session: Session) -> None:
        self._services.lifecycle.session_moved(session)

    def group_changed(self, name: str, before: Sequence[str], now: Sequence[str], change: Sequence[Any]) -> None:
        what = Change(str(change[0]), str(change[1]), bool(change[2])) if change else None
        admins = tuple(map(str, change[3])) if len(change) > 3 else ()  # a node without roles tells of none
        self._services.groups.group_changed(name, GroupChange(before, GroupRoles(tuple(now), admins), what))

    def role_changed(self, name: str, members: Sequence[str], change: Sequence[str], admins: Sequence[str]) -> None:
        user, member, role = change
        now = GroupRoles(tuple(members), admins)
        self._services.groups.group_changed(name, GroupChange(members, now, RoleChange(user, member, Role(role))))

    def contact_changed(self, what: str, *values: object) -> None:
        self._services.contact_notices.changed(what, *values)

    def receipts_wanted(self, user: str, is_wanted: bool) -> None:
        self._services.receipts.note_wish(user, is_wanted)

    def receipts_switched(self, user: str, are_sent: bool) -> None:
        self._services.receipts.switched(user, are_sent)

    def devices_changed(self, user: str, kept: Sequence[str]) -> None:
        self._services.devices.changed(user, kept)

    def was_read(self, notices: Sequence[Sequence[Any]]) -> None:
        self._services.receipts.tell_read([ReadNotice(*notice) for notice in notices])

    def was_read_on_device(self, own: Sequence[Sequence[Any]]) -> None:
        self._services.receipts.tell_own([OwnRead(*each) for each in own])

    def password_changed(self, user: str) -> None:
        self._services.lifecycle.end_sessions(user, PASSWORD_CHANGED)

    def sessions_ended(self, user: str, reason: str, login: str) -> None:
        self._services.own_account.ended(user, reason, login)


def make_node(
    settings: Settings,
    dao: NodeDao,
    parts: Parts,
    server: "NodeServer",
    clock: Callable[[], float] = time.monotonic,
) -> Node:
    """Make the node of a server; `register` makes it known. Raises ConfigError, StoreError."""
    connection, store = dao.connection, server.store
    with connection.claimed(CLAIM_SECONDS), connection.transaction():
        id = cluster_id(dao, secrets.randbits(48))
    identity = settings.node_address, __version__, settings.node_timeout
    node = Node(dao, parts, _Changes(server), store.wake, store.session_ended, identity, clock)
    typing, receipts = server.services.typing, server.services.receipts

    def take_note(data: bytes) -> None:
        if not receipts.take_note(data):
            typing.take_note(data)

    node.bus = open_bus(settings.cluster, f"{id:012x}", node.on_hint, node.on_bus, take_note)
    node.count_connections = lambda: len(server.connections)
    store.node = server.services.lifecycle.node = typing.nodes = receipts.nodes = node
    return node
