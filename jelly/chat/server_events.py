"""What the server tells: requests and invitations, who came and went, how groups changed."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from client_api import FriendRequestEvent, InvitationEvent, SystemEvent
from jelly.chat import texts
from jelly.chat.controller import Controller
from jelly.chat.language import TranslatedText
from jelly.chat.model import Peer

TYPING_WINDOW = timedelta(seconds=6)
"""How long it is shown that somebody is typing, after a notice of it."""


class ServerEvents(Controller):
    """Shows the events of the server."""

    def on_friend_request(self, event: FriendRequestEvent) -> None:
        """Show that somebody asks to have the user on the friend list."""
        self.model.requests[event.friend] = None
        self.show_info(self.translate(texts.FRIEND_REQUEST, name=Peer(event.friend)))

    def on_invitation(self, event: InvitationEvent) -> None:
        """Show that somebody asks the user to become a member of a group."""
        self.model.invitations[event.group] = None
        group = Peer(event.group, True)
        self.show_info(self.translate(texts.INVITATION, name=Peer(event.user), group=group))

    def on_system(self, event: SystemEvent) -> None:
        """Show an event of the server. (The original server sends none.)"""
        match event.event:
            case "presence":
                self._presence(event.friend, event.online)
            case "friend_answer":
                text = texts.REQUEST_ACCEPTED if event.accepted else texts.REQUEST_DECLINED
                self.show_info(self.translate(text, name=Peer(event.friend)))
            case "group_changed":
                changes = event.values.get("changes", ())
                self._group_changed(event.group, event.members, changes)
                self._show_role_changes(Peer(event.group, True), changes)
            case "group_disbanded":
                self.model.groups.pop(event.group, None)
                peer = Peer(event.group, True)
                self._show_info_in(peer, self.translate(texts.GROUP_ENDED, group=peer))
            case "inbox_full":
                for group in event.groups:
                    peer = Peer(group, True)
                    self.show_info(self.translate(texts.GROUP_MISSED, group=peer), self.model[peer])
            case "typing":
                self._typing(Peer(event.group, True) if event.group else Peer(event.user), event.user)
            case "shutdown":
                self.show_info(self.translate(texts.SERVER_STOPS))

    def _typing(self, peer: Peer, user: str) -> None:
        if peer in self.model.conversations and user not in self.kept.ignored:  # a notice opens no conversation
            self.model[peer].typing[user] = self.now() + TYPING_WINDOW
            self.ui.typing_changed()

    def _presence(self, friend: str, online: bool) -> None:
        if self.model.friends.get(friend) == online:
            return
        self.model.friends[friend] = online
        peer = Peer(friend)
        conversation = self.model.conversations.get(peer)
        if conversation is None or friend in self.kept.ignored:
            return
        last = conversation.lines[-1] if conversation.lines else None
        if last and last.came is (not online) and self.ui.has_shortcuts:
            conversation.remove(last)  # nothing was said in between, so it does not matter
            return
        text = texts.CAME_ONLINE if online else texts.WENT_OFFLINE
        self.show_info(self.translate(text, name=peer), conversation).came = online

    def _group_changed(self, group: str, members: tuple[str, ...], changes: Iterable[Mapping[str, str]]) -> None:
        peer, before = Peer(group, True), self.model.groups.pop(group, None)
        others = self._changed_by_others(changes)
        if self.name not in members:
            text = texts.YOU_WERE_REMOVED if self.name in others else texts.YOU_ARE_OUT
            return self._show_info_in(peer, self.translate(text, group=peer, user=Peer(others.get(self.name, ""))))
        self.model.groups[group] = members
        if before is None:  # the user was added: open a conversation, so that this is seen
            names = self._join_people(name for name in members if name != self.name)
            line = self.show_info(self.translate(texts.YOU_ARE_IN, group=peer, names=names), self.model[peer])
            if self.ui.has_shortcuts:  # the plain mode has printed it
                self.model.count_unread(self.model[peer], line)
            return None
        self._show_member_changes(peer, texts.JOINED, texts.ADDED, set(members) - set(before), others)
        self._show_member_changes(peer, texts.LEFT, texts.REMOVED, set(before) - set(members), others)
        return None

    def _changed_by_others(self, changes: Iterable[Mapping[str, str]]) -> dict[str, str]:
        """Return who has added or removed whom last, except what members and this user did
        themselves.
        """
        found = {change.get("added") or change.get("removed", ""): change.get("user", "") for change in changes}
        return {member: user for member, user in found.items() if user not in ("", member, self.name)}

    def _show_member_changes(
        self, peer: Peer, text: TranslatedText, text_by: TranslatedText, names: Iterable[str], others: Mapping[str, str]
    ) -> None:
        """Show the names, by who has added or removed them. `text_by`: if that was another."""
        by_user: dict[str, list[str]] = {}
        for name in sorted(names):
            by_user.setdefault(others.get(name, ""), []).append(name)
        for user, shown in sorted(by_user.items()):
            people = self._join_people(shown)
            self._show_info_in(peer, self.translate(text_by if user else text, user=Peer(user), names=people))

    def _show_role_changes(self, peer: Peer, changes: Iterable[Mapping[str, str]]) -> None:
        for change in changes:
            if text := texts.ROLE_CHANGES.get(change.get("role", "")):
                self.model.role_changes[peer.name] += 1
                user, member = Peer(change.get("user", "")), Peer(change.get("member", ""))
                self._show_info_in(peer, self.translate(text, user=user, name=member))

    def _join_people(self, names: Iterable[str]) -> str:
        return self.translate.join_names([str(Peer(name)) for name in names])
