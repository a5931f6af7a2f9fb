"""Events: what the nodes tell each other, and what a node does about it.

Logins, ends of sessions and changes of groups are numbered in the order of commits, as the messages
are. A node applies those of the others before it decides anything in a transaction, and its own
ones after its commit. So what it decides is right as of the last commit of any node.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from jelly.cluster.node_dao import Event, NodeDao
from jelly.cluster.registry import Place, Registry
from jelly.dao import LeaseLost
from jelly.errors import log_failure
from jelly.login_guard import LoginGuard
from jelly.presence import Presence
from jelly.sessions import Device, Session, Sessions

log = logging.getLogger("jelly.cluster")


class Changes(Protocol):
    """What a node has done here that others have decided."""

    def session_moved(self, session: Session) -> None:
        """A user who was online here has logged in at another node."""

    def group_changed(self, name: str, before: Sequence[str], now: Sequence[str], change: Sequence[Any]) -> None:
        """The members of a group are others. `change`: user, member, whether added, and the admins;
        or empty.
        """

    def role_changed(self, name: str, members: Sequence[str], change: Sequence[str], admins: Sequence[str]) -> None:
        """A member of a group has another role. `change`: user, member, role."""

    def contact_changed(self, what: str, *values: object) -> None:
        """A user has asked another one, or has answered (`contact_notices.py`)."""

    def receipts_wanted(self, user: str, is_wanted: bool) -> None:
        """A user who is online elsewhere wants to know of receipts, or not."""

    def receipts_switched(self, user: str, are_sent: bool) -> None:
        """A user, who may be online here, too, has turned receipts on or off."""

    def devices_changed(self, user: str, kept: Sequence[str]) -> None:
        """These are the devices of a user now (`devices.py`)."""

    def was_read(self, notices: Sequence[Sequence[Any]]) -> None:
        """What users of another node have read. Each: reader, group, id, and whom to tell."""

    def was_read_on_device(self, own: Sequence[Sequence[Any]]) -> None:
        """What users have read on a device at another node. Each: the values of an `OwnRead`."""

    def password_changed(self, user: str) -> None:
        """The operator has given a user a new password."""

    def sessions_ended(self, user: str, reason: str, login: str) -> None:
        """Sessions of a user have been ended: all, or only that of a login."""

    def node_is_isolated(self) -> None:
        """This node cannot reach the database: close the connections."""

    def cannot_go_on(self, reason: str) -> None:
        """This node must stop."""


class Events:
    """Applies events. It belongs to the thread that has the store's turn."""

    def __init__(
        self,
        dao: NodeDao,
        registry: Registry,
        sessions: Sessions,
        presence: Presence,
        guard: LoginGuard,
        changes: Changes,
    ) -> None:
        self._dao = dao
        self._registry = registry
        self._sessions = sessions
        self._presence = presence
        self._guard = guard
        self._changes = changes
        self._moved: set[Device] = set()
        self._left: set[str] = set()

    def take_moved(self) -> set[Device]:
        """The devices that have logged in at other nodes since this was asked last."""
        moved, self._moved = self._moved, set()
        return moved

    def take_left(self) -> set[str]:
        """The users who were at other nodes, and are not any more since this was asked last."""
        left, self._left = self._left, set()
        return left

    def apply(self, upto: int) -> None:
        """Apply the events up to a number that are not applied yet. Raises LeaseLost or
        StoreError.
        """
        events = self._dao.events_until(upto)
        if events is None:
            log.warning("this node has missed more than the others have kept for it, and starts over")
            raise LeaseLost
        for event in events:
            try:
                self._apply(event)
            except Exception as error:  # noqa: BLE001 - a bug with one event; the others must be known
                log_failure(log, error)
        self._dao.event = upto

    def apply_own(self, events: Iterable[Event]) -> None:
        """Apply the events of a transaction of this node, which is committed."""
        for event in events:
            changed = self._apply_to_registry(event)
            if event.kind != "in":  # of a login, presence hears when the session is attached
                self.refresh(changed)

    def refresh(self, users: Iterable[str]) -> None:
        """Have presence look whether users have come or gone."""
        for user in users:
            self._presence.refresh(user)

    def _apply(self, event: Event) -> None:
        """Do what another node has told."""
        changed = self._apply_to_registry(event)
        if event.node == self._dao.number:
            return
        if event.kind == "in":
            user, wants_receipts, device = event.values
            if wants_receipts or len(self._registry.of(str(user), ())) == 1:  # another device may want them
                self._changes.receipts_wanted(str(user), bool(wants_receipts))
            self._device_moved(Device(str(user), str(device)), event.number)
        elif event.kind == "group":
            name, before, now, change = event.values
            self._changes.group_changed(str(name), before, now, change)  # type: ignore[arg-type]
        elif event.kind == "role":
            self._changes.role_changed(*event.values)  # type: ignore[arg-type]
        elif event.kind == "contact":
            self._changes.contact_changed(*event.values)  # type: ignore[arg-type]
        elif event.kind == "password":
            self._changes.password_changed(str(event.values[0]))
        elif event.kind == "ended":
            user, reason, login = map(str, event.values)
            self._changes.sessions_ended(user, reason, login)
        elif event.kind == "failures":
            for user, network, is_known in event.values[0]:  # type: ignore[attr-defined]
                self._guard.note_failure(user, network, is_known)
        else:
            self._apply_news(event.kind, event.values)
        self.refresh(changed)

    def _apply_news(self, kind: str, values: Sequence[Any]) -> None:
        """Do what another node has told that changes nothing here."""
        if kind == "receipts":
            self._changes.receipts_switched(str(values[0]), bool(values[1]))
        elif kind == "devices":
            self._changes.devices_changed(str(values[0]), values[1])
        elif kind == "read":
            self._changes.was_read(values[0])
        elif kind == "own_read":
            self._changes.was_read_on_device(values[0])
        elif kind == "down":
            log.info("node %s is gone", values[0])
        elif kind == "up":
            log.info("node %s has come", values[0])

    def _device_moved(self, device: Device, number: int) -> None:
        """A user has logged in at another node, by the event of this number."""
        self._moved.add(device)
        session = self._sessions.on(device)
        if session is not None and session.epoch < number:
            session.epoch = -1
            self._changes.session_moved(session)

    def _apply_to_registry(self, event: Event) -> Iterable[str]:
        """Return the users who may have come or gone."""
        kind, values = event.kind, event.values
        if kind in ("in", "out") and self._is_elsewhere(str(values[0])):
            self._left.add(str(values[0]))
        if kind == "in":
            user = str(values[0])
            self._registry.enter(user, Place(event.node, event.number, str(values[2])))
            return (user,)
        if kind == "out":
            user = str(values[0])
            self._registry.leave(user, int(values[1]))  # type: ignore[call-overload]
            return (user,)
        if kind == "down":
            gone = self._registry.remove_node(int(values[0]))  # type: ignore[call-overload]
            self._left.update(gone)
            return gone
        return ()

    def _is_elsewhere(self, user: str) -> bool:
        return any(place.node != self._dao.number for place in self._registry.of(user, ()))
