"""Commands about groups: /group with its subcommands, /invite and /join."""

import re
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from typing import Any

from client_api import Group, Invite
from jelly.chat import texts
from jelly.chat.command import UsageError, person_name, request, required, split_word
from jelly.chat.language import is_yes
from jelly.chat.model import Conversation, Peer
from jelly.chat.people_commands import friends
from jelly.chat.session import Session

Members = tuple[str, ...]
MAX_USES, MAX_HOURS = 100, 720
"""What a server takes for a code: docs/protocol.md."""


def group(session: Session, rest: str) -> None:
    word, rest = split_word(rest)
    if word.lower() not in GROUP_COMMANDS:
        raise UsageError
    GROUP_COMMANDS[word.lower()](session, rest)


def split_group(session: Session, rest: str) -> tuple[str, str]:
    """Return the name of a group, and the text after it. The # is optional."""
    for name in sorted(session.model.groups, key=len, reverse=True):
        for written in (f"#{name}", name):
            if rest == written or rest.startswith(f"{written} "):
                return name, rest[len(written) :].strip()
    word, more = split_word(rest)
    return word.removeprefix("#"), more


def _current_group(session: Session) -> str:
    """Return the group of the current conversation. Raises UsageError if there is none."""
    peer = session.model.current.peer
    if peer is None or not peer.is_group:
        raise UsageError
    return peer.name


def _group_or_current(session: Session, rest: str) -> str:
    """Return the group that is named, or else the group of the current conversation."""
    return required(rest.removeprefix("#")) if rest else _current_group(session)


def _group_and_member(session: Session, rest: str) -> tuple[str, str]:
    """Return a group and a member. Without a group: the group of the current conversation."""
    group, member = split_group(session, required(rest))
    if not member:
        group, member = _current_group(session), rest
    return group, person_name(member)


def _group_create(session: Session, rest: str) -> None:
    name = required(rest.removeprefix("#"))

    def done(_: None, where: Conversation) -> None:
        session.model.groups.setdefault(name, (session.name,))
        session.show_info(session.translate(texts.GROUP_CREATED, group=Peer(name, True)), where)

    request(session, f"/group create {rest}", session.client.create_group(name), done)


def _group_disband(session: Session, rest: str) -> None:
    name = _group_or_current(session, rest)
    peer, where = Peer(name, True), session.model.current
    text = session.translate(texts.GROUP_DISBANDED, group=peer)

    def answered(answer: str) -> None:
        if is_yes(answer):
            _change_group(session, "disband", name, session.client.disband_group(name), text, lambda _: ())
        else:
            session.show_info(session.translate(texts.NOTHING_CHANGED), where)

    count = len(session.model.groups.get(name, ()))
    question = texts.ASK_DISBAND_COUNT if count else texts.ASK_DISBAND
    session.ui.ask(session.translate(question, group=peer, count=count), answered)


def _group_leave(session: Session, rest: str) -> None:
    name = _group_or_current(session, rest)
    text = session.translate(texts.GROUP_LEFT, group=Peer(name, True))
    _change_group(session, "leave", name, session.client.leave_group(name), text, lambda _: ())


def _group_add(session: Session, rest: str) -> None:
    group, member = _group_and_member(session, rest)
    text = session.translate(texts.MEMBER_ADDED, name=Peer(member), group=Peer(group, True))

    def with_member(members: Members) -> Members:
        return members if member in members else (*(members or (session.name,)), member)

    _change_group(session, "add", group, session.client.add_member(group, member), text, with_member, member)


def _group_remove(session: Session, rest: str) -> None:
    group, member = _group_and_member(session, rest)
    text = session.translate(texts.MEMBER_REMOVED, name=Peer(member), group=Peer(group, True))

    def without(members: Members) -> Members:
        return tuple(name for name in members if name != member)

    _change_group(session, "remove", group, session.client.remove_member(group, member), text, without, member)


def _change_group(
    session: Session,
    word: str,
    group: str,
    future: "Future[Any]",
    text: str,
    change: Callable[[Members], Members],
    member: str = "",
) -> None:
    """Request a change of a group, and say when it is done.

    Say nothing if a notice of the server has already said it in the same conversation.
    """
    peer, before = Peer(group, True), session.model.groups.get(group)

    def done(is_done: bool | None, where: Conversation) -> None:
        if is_done is False:
            invited = session.translate(texts.MEMBER_INVITED, name=Peer(member), group=peer)
            session.show_info(invited, where)
            return
        members = session.model.groups.pop(group, None)
        if after := change(members or ()):
            session.model.groups[group] = after
        if where.peer != peer or members == before:
            session.show_info(text, where)

    what = f"/group {word} {peer} {Peer(member) if member else ''}".rstrip()
    request(session, what, future, done)


def _group_role(session: Session, rest: str, role: str) -> None:
    """Give a member a role. Say when it is done, unless a notice has said it in the group."""
    group, member = _group_and_member(session, rest)
    peer, before = Peer(group, True), session.model.role_changes[group]

    def done(_: None, where: Conversation) -> None:
        if where.peer != peer or session.model.role_changes[group] == before:
            session.show_info(session.translate(texts.ROLES_GIVEN[role], name=Peer(member), group=peer), where)

    request(session, f"/group {role} {peer} {Peer(member)}", session.client.set_role(group, member, role), done)


def _group_list(session: Session, rest: str) -> None:
    def done(groups: dict[str, Group], where: Conversation) -> None:
        session.model.groups = {name: group.members for name, group in groups.items()}
        lines = [
            session.translate(texts.GROUP_LINE, group=Peer(name, True), names=_members(session, group))
            for name, group in sorted(groups.items())
        ]
        session.show_info("\n".join(lines) or session.translate(texts.NO_GROUPS), where)

    request(session, "/group list", session.client.list_groups(), done, changes=False)


def who(session: Session, rest: str) -> None:
    """Show the members of this group, and who of them is online; elsewhere, the friends."""
    peer = session.model.current.peer
    if peer is None or not peer.is_group:
        return friends(session, rest)

    def done(groups: dict[str, Group], where: Conversation) -> None:
        group = groups.get(peer.name)
        if group is None:
            session.show_info(session.translate(texts.YOU_ARE_OUT, group=peer), where)
            return
        online = [str(Peer(name)) for name in group.members if session.model.friends.get(name)]
        lines = [session.translate(texts.GROUP_LINE, group=peer, names=_members(session, group))]
        if online:
            lines.append(session.translate(texts.FRIENDS_ONLINE, names=session.translate.join_names(online)))
        session.show_info("\n".join(lines), where)

    request(session, "/who", session.client.list_groups(), done, changes=False)
    return None


def _members(session: Session, group: Group) -> str:
    def shown(name: str) -> str:
        if name == group.owner:
            return session.translate(texts.OWNER, name=Peer(name))
        return session.translate(texts.ADMIN, name=Peer(name)) if name in group.admins else str(Peer(name))

    return session.translate.join_names([shown(name) for name in group.members])


def invite(session: Session, rest: str) -> None:
    """Make a code for the group of this conversation; on the first screen, for an account."""
    peer = session.model.current.peer
    words = rest.split()
    if (
        (peer is not None and not peer.is_group)
        or len(words) > 2
        or not all(re.fullmatch("[0-9]{1,3}", w) for w in words)
    ):
        raise UsageError
    uses, hours = (int(word) for word in [*words, *["1", "24"][len(words) :]])
    if not (1 <= uses <= MAX_USES and 1 <= hours <= MAX_HOURS):
        return session.show_error(session.translate(texts.INVITE_LIMITS, uses=MAX_USES, hours=MAX_HOURS))

    def done(invite: Invite, where: Conversation) -> None:
        until = datetime.fromtimestamp(invite.expires / 1000)
        text = texts.INVITE_TO_REGISTER if peer is None else texts.INVITE_TO_GROUP
        said = session.translate(text, code=invite.code, group=peer, uses=uses, until=f"{until:%Y-%m-%d %H:%M}")
        session.show_info(said, where)

    request(session, "/invite", session.client.invite(peer and peer.name, uses=uses, hours=hours), done)
    return None


def join(session: Session, rest: str) -> None:
    def done(group: str, where: Conversation) -> None:
        session.show_info(session.translate(texts.GROUP_ENTERED, group=Peer(group, True)), where)
        session.refresh()

    request(session, "/join", session.client.join(required(rest)), done)


def complete_group(session: Session, rest: str) -> list[str]:
    """Complete the subcommand of /group, then the group, then the member."""
    word, _, more = rest.partition(" ")
    if word.lower() not in GROUP_COMMANDS or rest == word:
        return [f"{each} " for each in GROUP_COMMANDS]
    more = more.lstrip()
    written = [str(Peer(name, True)) for name in session.model.groups]
    if word in ("add", "remove", *texts.ROLES_GIVEN):
        group, _ = split_group(session, more)
        members = session.model.groups.get(group, ())
        outside = [name for name in session.model.known_people() if name not in members]
        people = outside if word == "add" else members[1:]
        prefix = f"{word} {Peer(group, True)} "
        return [f"{prefix}{Peer(name)}" for name in people] if " " in more else [f"{word} {each} " for each in written]
    return [f"{word} {each}" for each in written] if word in ("disband", "leave") else []


GROUP_COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "create": _group_create,
    "disband": _group_disband,
    "add": _group_add,
    "remove": _group_remove,
    "admin": partial(_group_role, role="admin"),
    "member": partial(_group_role, role="member"),
    "owner": partial(_group_role, role="owner"),
    "leave": _group_leave,
    "list": _group_list,
}
