"""The slash commands: one table that says what each command does and how it is completed.

Names and texts with spaces need no quotes: the last argument extends to the end of the line.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from client_api import ErrorCode, FriendRequests, Group, History, Invite, OwnLogin, PastMessage, Profile, RequestError
from jelly.chat import error_texts, help_texts, texts
from jelly.chat.cells import sanitize
from jelly.chat.language import TranslatedText
from jelly.chat.model import LOADABLE, Conversation, LineKind, Peer
from jelly.chat.session import HISTORY_TEXTS, PAGE, Session

CompletionFunction = Callable[[Session, str], Iterable[str]]
Members = tuple[str, ...]

MAX_PAGE = 100
SEARCH_PAGE = 20
"""How many messages /search shows at a time."""
MAX_SEARCHES = 20
"""How often /search goes on by itself when the server has found nothing so far."""


class UsageError(Exception):
    """A command was used with wrong arguments."""


@dataclass(frozen=True)
class Command:
    """One command: the function that runs it, and the one that completes its arguments."""

    run: Callable[[Session, str], None]
    complete: CompletionFunction = lambda *_: ()
    """Gets the text after the command, and returns what that text may become."""


def submit(session: Session, typed: str) -> bool:
    """Run a command, or send a text to the current conversation.

    Return False for a text without a receiver: the user interface should keep it.
    """
    # A text that cannot be encoded (half a pasted character, say) cannot be sent either.
    text = typed.encode("utf-8", "replace").decode().strip("\n")
    if not text.strip():
        return True
    if text.startswith("/") and not text.startswith("//"):
        _run_command(session, text[1:])
    elif session.model.current.peer:
        session.send(session.model.current, text[1:] if text.startswith("//") else text)
    else:
        session.show_error(session.translate(texts.NO_RECEIVER))
        return False
    return True


def _run_command(session: Session, text: str) -> None:
    word, rest = _split_word(text)
    name = word.lower()
    if command := COMMANDS.get(name):
        try:
            if rest and help_texts.HELP[name].arguments == help_texts.NOTHING:
                raise UsageError
            command.run(session, rest)
        except UsageError:
            session.show_error(session.translate(texts.USAGE, usage=_usage(session, name, rest)))
    elif close := difflib.get_close_matches(name, COMMANDS, n=1):
        session.show_error(session.translate(texts.DID_YOU_MEAN, name=word, close=close[0]))
    else:
        session.show_error(session.translate(texts.UNKNOWN_COMMAND, name=word))


def _split_word(text: str) -> tuple[str, str]:
    """Return the first word, and the text after it."""
    word, *rest = re.split(r"\s+", text, maxsplit=1)
    return word, rest[0].rstrip() if rest else ""


def _usage(session: Session, name: str, rest: str = "") -> str:
    """Return how a command is used. With subcommands, like /group: how that subcommand is used."""
    help, meant = help_texts.HELP[name], f"/{name} {_split_word(rest)[0].lower()} "
    for line in session.translate(help.details).split("\n"):
        if line.startswith(meant):
            return line
    return f"/{name} {session.translate(help.arguments)}".rstrip()


def _required(text: str) -> str:
    if not text:
        raise UsageError
    return text


def _request(
    session: Session,
    what: str,
    future: "Future[Any]",
    done: Callable[[Any, Conversation], None],
    changes: bool = True,
) -> None:
    """Send a request. Its answer appears in the conversation in which the command was typed.

    `changes`: whether the request would change something.
    """
    where = session.model.current

    def failed(error: BaseException) -> None:
        session.show_error(session.translate.describe_failure(what, error, changes), where)

    session.request(future, lambda result: done(result, where), failed)


# --- conversations --------------------------------------------------------------------------------


def _to(session: Session, rest: str) -> None:
    if not rest:
        return _list_conversations(session)
    peer, text = _peer_and_text(session, rest)
    if not peer.name:
        raise UsageError
    session.open(peer)
    if text:
        session.send(session.model.current, text)
    return None


def _peer_and_text(session: Session, rest: str) -> tuple[Peer, str]:
    """Split the arguments of /to. A known name may have spaces (other servers allow them)."""
    if rest in set(_peer_names(session, "")):
        return Peer.parse(rest), ""
    name, text = _split_word(rest)
    return Peer.parse(name), text


def _list_conversations(session: Session) -> None:
    shown = [
        f"{number} {conversation.title}" + (f" ({conversation.unread})" if conversation.unread else "")
        for number, conversation in enumerate(session.model)
        if conversation.peer
    ]
    session.show_info("\n".join(shown) or session.translate(texts.NO_CONVERSATIONS))


def _resend(session: Session, rest: str) -> None:
    if not session.resend(session.model.current):
        session.show_info(session.translate(texts.NOTHING_TO_RESEND))


def _history(session: Session, rest: str) -> None:
    conversation = session.model.current
    if conversation.peer is None:
        return session.show_error(session.translate(texts.NO_RECEIVER))
    if rest and not (re.fullmatch(r"[0-9]{1,3}", rest) and 1 <= int(rest) <= MAX_PAGE):
        raise UsageError
    if conversation.history_state in LOADABLE:
        session.load_history(conversation, int(rest) if rest else PAGE, by_command=True)
    else:
        session.show_info(session.translate(HISTORY_TEXTS[conversation.history_state]))
    return None


def _edit(session: Session, rest: str) -> None:
    """Change the last message that the user has written here."""
    _change_last(session, _required(rest))


def _recall(session: Session, rest: str) -> None:
    _change_last(session, "")


def _change_last(session: Session, text: str) -> None:
    conversation = session.model.current
    if line := conversation.last_own_message():
        session.edit(conversation, line, text)
    else:
        session.show_error(session.translate(texts.NOTHING_TO_EDIT))


def _search(session: Session, rest: str) -> None:
    """Show the messages of this conversation (on the first screen: of all) that have a text."""
    text, where = _required(rest), session.model.current
    peer = where.peer
    scope: dict[str, Any] = {} if peer is None else {"group" if peer.is_group else "person": peer.name}

    def ask(before: int | None, left: int) -> None:
        future = session.client.search(text, **scope, before=before, limit=SEARCH_PAGE)
        session.request(future, lambda page: done(page, left), failed)

    def done(page: History, left: int) -> None:
        if page.more and not page.messages and left:
            return ask(page.before, left - 1)
        session.search_goes_on = (peer, text, page.before) if page.more else None
        lines = [_found_line(session, message, is_everywhere=peer is None) for message in page.messages]
        if not lines:
            lines = [session.translate(texts.FOUND_NOTHING, wanted=text)]
        if page.more:
            lines.append(session.translate(texts.SEARCH_AGAIN, wanted=text))
        session.show_info("\n".join(lines), where)
        return None

    def failed(error: BaseException) -> None:
        session.show_error(session.translate.describe_failure(f"/search {text}", error, changes=False), where)

    last = session.search_goes_on
    ask(last[2] if last and last[:2] == (peer, text) else None, MAX_SEARCHES)


def _found_line(session: Session, message: PastMessage, is_everywhere: bool) -> str:
    sender = str(Peer(message.sender))
    if is_everywhere:
        receiver = Peer(message.receiver, message.group is not None)
        sender = session.translate(texts.FROM_TO, sender=sender, receiver=receiver)
    when = message.written_at.strftime("%Y-%m-%d %H:%M")
    return session.translate(texts.FOUND_LINE, when=when, sender=sender, content=message.content)


# --- friends and profiles -------------------------------------------------------------------------


def _friends(session: Session, rest: str) -> None:
    def done(friends: dict[str, bool], where: Conversation) -> None:
        session.model.friends = friends
        none = FriendRequests((), ())  # an older server knows no requests
        future = session.client.friend_requests()
        session.request(future, lambda found: show(friends, found, where), lambda _: show(friends, none, where))

    def show(friends: dict[str, bool], found: FriendRequests, where: Conversation) -> None:
        session.model.requests = dict.fromkeys(reversed(found.received))
        accepted = friends.keys() - found.pending
        lines = [
            session.translate(text, names=session.translate.join_names(sorted(str(Peer(name)) for name in names)))
            for text, names in (
                (texts.FRIENDS_ONLINE, [name for name in accepted if friends[name]]),
                (texts.FRIENDS_OFFLINE, [name for name in accepted if not friends[name]]),
                (texts.FRIENDS_ASKED, found.pending),
                (texts.FRIENDS_ASKING, found.received),
            )
            if names
        ]
        session.show_info("\n".join(lines) or session.translate(texts.NO_FRIENDS), where)

    _request(session, "/friends", session.client.list_friends(), done, changes=False)


def _person_name(text: str) -> str:
    """Return the name of a person, written as in /to. Raises UsageError."""
    peer = Peer.parse(_required(text))
    if peer.is_group or not peer.name:
        raise UsageError
    return peer.name


def _add(session: Session, rest: str) -> None:
    name = _person_name(rest)

    def done(is_friend: bool, where: Conversation) -> None:
        session.model.requests.pop(name, None)  # to add is to accept
        text = texts.ADDED_FRIEND if is_friend else texts.ASKED_FRIEND
        session.show_info(session.translate(text, name=Peer(name)), where)
        session.refresh()

    _request(session, f"/add {rest}", session.client.add_friend(name), done)


def _accept(session: Session, rest: str) -> None:
    _answer_request(session, "accept", rest, texts.YOU_ACCEPTED)


def _decline(session: Session, rest: str) -> None:
    _answer_request(session, "decline", rest, texts.YOU_DECLINED)


def _answer_request(session: Session, word: str, rest: str, text: TranslatedText) -> None:
    peer = Peer.parse(_required(rest))
    if peer.is_group:
        return _answer_invitation(session, word, peer)
    name = _person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.requests.pop(name, None)
        session.show_info(session.translate(text, name=Peer(name)), where)

    _request(session, f"/{word} {rest}", session.client.answer_friend(name, accept=word == "accept"), done)
    return None


def _answer_invitation(session: Session, word: str, group: Peer) -> None:
    if not group.name:
        raise UsageError

    def done(_: None, where: Conversation) -> None:
        session.model.invitations.pop(group.name, None)
        if word == "decline":  # else a notice says it
            session.show_info(session.translate(texts.INVITATION_DECLINED, group=group), where)

    _request(session, f"/{word} {group}", session.client.answer_group(group.name, accept=word == "accept"), done)


def _block(session: Session, rest: str) -> None:
    """Block a person; without a name, list those who are blocked."""
    if not rest:
        return _list_blocked(session)
    name = _person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.blocked.add(name)
        session.show_info(session.translate(texts.YOU_BLOCKED, name=Peer(name)), where)

    _request(session, f"/block {rest}", session.client.block(name), done)
    return None


def _list_blocked(session: Session) -> None:
    def done(people: tuple[str, ...], where: Conversation) -> None:
        session.model.blocked = set(people)
        names = session.translate.join_names([str(Peer(name)) for name in people])
        session.show_info(session.translate(texts.BLOCKED if people else texts.NOBODY_BLOCKED, names=names), where)

    _request(session, "/block", session.client.blocked(), done, changes=False)


def _unblock(session: Session, rest: str) -> None:
    name = _person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.blocked.discard(name)
        session.show_info(session.translate(texts.YOU_UNBLOCKED, name=Peer(name)), where)

    _request(session, f"/unblock {rest}", session.client.unblock(name), done)


def _remove(session: Session, rest: str) -> None:
    name = _person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.friends.pop(name, None)
        session.show_info(session.translate(texts.REMOVED_FRIEND, name=Peer(name)), where)

    _request(session, f"/remove {rest}", session.client.remove_friend(name), done)


def _find(session: Session, rest: str) -> None:
    prefix = _person_name(rest)

    def done(names: tuple[str, ...], where: Conversation) -> None:
        shown = session.translate.join_names([str(Peer(name)) for name in names])
        text = session.translate(texts.FOUND_USERS, names=shown) if names else session.translate(texts.FOUND_NOBODY)
        session.show_info(text, where)

    _request(session, f"/find {rest}", session.client.find_users(prefix), done, changes=False)


def _report(session: Session, rest: str) -> None:
    """Report a person, with what that person has written last in this conversation."""
    word, text = _split_word(rest)
    name = _person_name(word)
    lines = session.model.current.lines
    ids = [line.id for line in lines if line.kind is LineKind.INCOMING and line.sender == name and line.id is not None]
    id = ids[-1] if ids else None

    def done(_: None, where: Conversation) -> None:
        said = texts.REPORTED if id is None else texts.REPORTED_WITH_MESSAGE
        session.show_info(session.translate(said, name=Peer(name)), where)

    _request(session, f"/report {word}", session.client.report(name, _required(text), message_id=id), done)


def _profile(session: Session, rest: str) -> None:
    def done(profile: Profile, where: Conversation) -> None:
        lines = _profile_lines(session, profile)
        title = session.translate(texts.PROFILE_OF, name=Peer(session.name))
        session.show_info("\n".join([title, *lines]) if lines else session.translate(texts.OWN_PROFILE_EMPTY), where)

    _request(session, "/profile", session.client.own_profile(), done, changes=False)


def _whois(session: Session, rest: str) -> None:
    name = _person_name(rest)
    where = session.model.current

    def done(profile: Profile) -> None:
        lines = _profile_lines(session, profile)
        if profile.seen_at is not None:
            lines.append(session.translate(texts.SEEN_AT, time=profile.seen_at.strftime("%Y-%m-%d %H:%M")))
        lines = lines or [session.translate(texts.PROFILE_EMPTY)]
        session.show_info("\n".join([session.translate(texts.PROFILE_OF, name=Peer(name)), *lines]), where)

    def failed(error: BaseException) -> None:
        is_stranger = isinstance(error, RequestError) and error.likely_code == ErrorCode.NOT_FRIENDS
        needs = session.translate(texts.WHOIS_NEEDS_FRIEND, name=rest)
        what = f"/whois {rest}"
        text = (
            session.translate(error_texts.FAILED, what=what, reason=needs)
            if is_stranger
            else session.translate.describe_failure(what, error, changes=False)
        )
        session.show_error(text, where)

    session.request(session.client.friend_profile(name), done, failed)


def _profile_lines(session: Session, profile: Profile) -> list[str]:
    lines = []
    for field, label in texts.FIELDS.items():
        if value := getattr(profile, field):
            lines.append(session.translate(texts.PROFILE_LINE, field=session.translate(label), value=value))
    return lines


def _set(session: Session, rest: str) -> None:
    field, value = _split_word(rest)
    if not field or (field in texts.FIELDS and not value):
        raise UsageError
    if field not in texts.FIELDS:
        return session.show_error(session.translate(texts.NO_SUCH_FIELD, fields=", ".join(texts.FIELDS)))

    changed: dict[str, Any] = {field: value}

    def done(_: None, where: Conversation) -> None:
        shown = session.translate(texts.FIELDS[field])
        session.show_info(session.translate(texts.FIELD_SET, field=shown, value=value), where)

    _request(session, f"/set {field}", session.client.update_profile(**changed), done)
    return None


def _seen(session: Session, rest: str) -> None:
    if rest.lower() not in ("on", "off"):
        raise UsageError
    is_on = rest.lower() == "on"

    def done(_: None, where: Conversation) -> None:
        session.show_info(session.translate(texts.SEEN_ON if is_on else texts.SEEN_OFF), where)

    _request(session, f"/seen {rest}", session.client.update_profile(show_seen=is_on), done)


def _receipts(session: Session, rest: str) -> None:
    if rest.lower() not in ("on", "off"):
        raise UsageError
    is_on = rest.lower() == "on"

    def done(_: None, where: Conversation) -> None:
        session.show_info(session.translate(texts.RECEIPTS_ON if is_on else texts.RECEIPTS_OFF), where)

    _request(session, f"/receipts {rest}", session.client.update_profile(show_read=is_on), done)


def _passwd(session: Session, rest: str) -> None:
    where = session.model.current

    def ask(question: TranslatedText, then: Callable[[str], None]) -> None:
        def answered(password: str) -> None:
            if password:
                then(password)
            else:
                session.show_info(session.translate(texts.PASSWORD_EMPTY), where)

        session.ui.ask_password(session.translate(question), answered)

    def ask_new(old: str) -> None:
        ask(texts.NEW_PASSWORD, lambda new: ask_again(old, new))

    def ask_again(old: str, new: str) -> None:
        session.ui.ask_password(session.translate(texts.ONCE_MORE), lambda again: change(old, new, again))

    def change(old: str, new: str, again: str) -> None:
        if new == again:
            session.change_password(old, new, where)
        else:
            session.show_error(session.translate(texts.PASSWORDS_DIFFER), where)

    ask(texts.OLD_PASSWORD, ask_new)


def _invite(session: Session, rest: str) -> None:
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

    def done(invite: Invite, where: Conversation) -> None:
        until = datetime.fromtimestamp(invite.expires / 1000)
        text = texts.INVITE_TO_REGISTER if peer is None else texts.INVITE_TO_GROUP
        said = session.translate(text, code=invite.code, group=peer, uses=uses, until=f"{until:%Y-%m-%d %H:%M}")
        session.show_info(said, where)

    _request(session, "/invite", session.client.invite(peer and peer.name, uses=uses, hours=hours), done)


def _join(session: Session, rest: str) -> None:
    def done(group: str, where: Conversation) -> None:
        session.show_info(session.translate(texts.GROUP_ENTERED, group=Peer(group, True)), where)
        session.refresh()

    _request(session, "/join", session.client.join(_required(rest)), done)


# --- one's own account ---------------------------------------------------------------------------


def _account(session: Session, rest: str) -> None:
    word, rest = _split_word(rest) if rest else ("logins", "")
    if word.lower() == "logins" and not rest:
        _list_logins(session)
    elif word.lower() == "end":
        _end_login(session, _required(rest))
    elif word.lower() == "delete" and not rest:
        _delete_account(session)
    else:
        raise UsageError


def _list_logins(session: Session) -> None:
    def done(logins: tuple[OwnLogin, ...], where: Conversation) -> None:
        session.show_info("\n".join(_login_line(session, login) for login in logins), where)

    _request(session, "/account", session.client.logins(), done, changes=False)


def _login_line(session: Session, login: OwnLogin) -> str:
    when = "?" if login.created is None else f"{datetime.fromtimestamp(login.created / 1000):%Y-%m-%d %H:%M}"
    text = texts.LOGIN_HERE if login.is_current else texts.LOGIN_LINE
    return session.translate(text, login=login.id, when=when, network=login.network or "?")


def _end_login(session: Session, login: str) -> None:
    def done(_: None, where: Conversation) -> None:
        session.show_info(session.translate(texts.LOGIN_ENDED, login=login), where)

    _request(session, f"/account end {login}", session.client.end_login(login), done)


def _delete_account(session: Session) -> None:
    where = session.model.current

    def answered(password: str) -> None:
        if not password:
            session.show_info(session.translate(texts.PASSWORD_EMPTY), where)
            return
        _request(session, "/account delete", session.client.delete_account(password), done)

    def done(_: None, where: Conversation) -> None:
        session.show_info(session.translate(texts.ACCOUNT_DELETED, name=Peer(session.name)), where)

    session.ui.ask_password(session.translate(texts.DELETE_PASSWORD, name=Peer(session.name)), answered)


# --- groups ---------------------------------------------------------------------------------------


def _group(session: Session, rest: str) -> None:
    word, rest = _split_word(rest)
    if word.lower() not in GROUP_COMMANDS:
        raise UsageError
    GROUP_COMMANDS[word.lower()](session, rest)


def _split_group(session: Session, rest: str) -> tuple[str, str]:
    """Return the name of a group, and the text after it. The # is optional."""
    for name in sorted(session.model.groups, key=len, reverse=True):
        for written in (f"#{name}", name):
            if rest == written or rest.startswith(f"{written} "):
                return name, rest[len(written) :].strip()
    word, more = _split_word(rest)
    return word.removeprefix("#"), more


def _current_group(session: Session) -> str:
    """Return the group of the current conversation. Raises UsageError if there is none."""
    peer = session.model.current.peer
    if peer is None or not peer.is_group:
        raise UsageError
    return peer.name


def _group_or_current(session: Session, rest: str) -> str:
    """Return the group that is named, or else the group of the current conversation."""
    return _required(rest.removeprefix("#")) if rest else _current_group(session)


def _group_and_member(session: Session, rest: str) -> tuple[str, str]:
    """Return a group and a member. Without a group: the group of the current conversation."""
    group, member = _split_group(session, _required(rest))
    if not member:
        group, member = _current_group(session), rest
    return group, _person_name(member)


def _group_create(session: Session, rest: str) -> None:
    name = _required(rest.removeprefix("#"))

    def done(_: None, where: Conversation) -> None:
        session.model.groups.setdefault(name, (session.name,))
        session.show_info(session.translate(texts.GROUP_CREATED, group=Peer(name, True)), where)

    _request(session, f"/group create {rest}", session.client.create_group(name), done)


def _group_disband(session: Session, rest: str) -> None:
    name = _group_or_current(session, rest)
    text = session.translate(texts.GROUP_DISBANDED, group=Peer(name, True))
    _change_group(session, "disband", name, session.client.disband_group(name), text, lambda _: ())


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
    _request(session, what, future, done)


def _group_role(session: Session, rest: str, role: str) -> None:
    """Give a member a role. Say when it is done, unless a notice has said it in the group."""
    group, member = _group_and_member(session, rest)
    peer, before = Peer(group, True), session.model.role_changes[group]

    def done(_: None, where: Conversation) -> None:
        if where.peer != peer or session.model.role_changes[group] == before:
            session.show_info(session.translate(texts.ROLES_GIVEN[role], name=Peer(member), group=peer), where)

    _request(session, f"/group {role} {peer} {Peer(member)}", session.client.set_role(group, member, role), done)


def _group_list(session: Session, rest: str) -> None:
    def done(groups: dict[str, Group], where: Conversation) -> None:
        session.model.groups = {name: group.members for name, group in groups.items()}
        lines = [
            session.translate(texts.GROUP_LINE, group=Peer(name, True), names=_members(session, group))
            for name, group in sorted(groups.items())
        ]
        session.show_info("\n".join(lines) or session.translate(texts.NO_GROUPS), where)

    _request(session, "/group list", session.client.list_groups(), done, changes=False)


def _members(session: Session, group: Group) -> str:
    def shown(name: str) -> str:
        if name == group.owner:
            return session.translate(texts.OWNER, name=Peer(name))
        return session.translate(texts.ADMIN, name=Peer(name)) if name in group.admins else str(Peer(name))

    return session.translate.join_names([shown(name) for name in group.members])


# --- the rest -------------------------------------------------------------------------------------


def _connect(session: Session, rest: str) -> None:
    session.connect()


def _logout(session: Session, rest: str) -> None:
    session.logout()


def _quit(session: Session, rest: str) -> None:
    session.ui.exit()


def _help(session: Session, rest: str) -> None:
    name = rest.removeprefix("/").lower()
    if not name:
        return _help_about_all(session)
    if name not in help_texts.HELP:
        return session.show_error(session.translate(texts.UNKNOWN_COMMAND, name=name))
    help = help_texts.HELP[name]
    parts = [f"{_usage(session, name)}", session.translate(help.summary), session.translate(help.details)]
    session.show_info("\n".join(part for part in parts if part))
    return None


def _help_about_all(session: Session) -> None:
    # No arguments and no details: the list must fit on a small screen.
    lines = [
        f"{'/' + name:<10}{session.translate(help.summary)}"
        for name, help in help_texts.HELP.items()
        if name not in help_texts.RARE
    ]
    rare = session.translate.join_names([f"/{name}" for name in help_texts.RARE])
    lines.append(session.translate(help_texts.MORE_COMMANDS, names=rare))
    keys = help_texts.HELP_KEYS if session.ui.has_shortcuts else help_texts.HELP_PLAIN
    session.show_info("\n".join([*lines, session.translate(keys)]))


# --- completion -----------------------------------------------------------------------------------


def complete(session: Session, typed: str) -> tuple[int, list[str]]:
    """Return the candidates for the last word of `typed`, and the index where that word begins.

    Leave out names that `sanitize` would change: users cannot type them, and the menu must not show
    them raw.
    """
    if not typed.startswith("/") or typed.startswith("//"):
        start = max(typed.rfind(" "), typed.rfind("\n")) + 1
        word = typed[start:]
        return start, _with_prefix(word, _names_in_conversation(session)) if word else []
    name, space, rest = typed[1:].partition(" ")
    if not space:
        return 1, [f"{each} " for each in _with_prefix(name, COMMANDS)]
    command = COMMANDS.get(name.lower())
    rest = rest.lstrip()
    return len(typed) - len(rest), _with_prefix(rest, command.complete(session, rest)) if command else []


def _with_prefix(prefix: str, candidates: Iterable[str]) -> list[str]:
    shown = dict.fromkeys(each for each in candidates if sanitize(each) == each)
    return sorted(each for each in shown if each.lower().startswith(prefix.lower()))


def _names_in_conversation(session: Session) -> list[str]:
    peer = session.model.current.peer
    names = session.model.groups.get(peer.name, ()) if peer and peer.is_group else ()
    return [str(Peer(name)) for name in (*names, *session.model.known_people())]


def _peer_names(session: Session, rest: str) -> list[str]:
    talking = [str(peer) for peer in session.model.conversations]
    groups = [str(Peer(name, True)) for name in session.model.groups]
    return [*talking, *groups, *(str(Peer(name)) for name in session.model.known_people())]


def _friend_names(session: Session, rest: str) -> list[str]:
    return [str(Peer(name)) for name in session.model.friends]


def _asking_names(session: Session, rest: str) -> list[str]:
    groups = [str(Peer(name, True)) for name in session.model.invitations]
    return [*groups, *(str(Peer(name)) for name in session.model.requests)]


def _known_names(session: Session, rest: str) -> list[str]:
    return [str(Peer(name)) for name in session.model.known_people()]


def _people_without_friends(session: Session, rest: str) -> list[str]:
    known = {session.name, *session.model.friends}
    return [str(Peer(name)) for name in session.model.known_people() if name not in known]


def _complete_group(session: Session, rest: str) -> list[str]:
    """Complete the subcommand of /group, then the group, then the member."""
    word, _, more = rest.partition(" ")
    if word.lower() not in GROUP_COMMANDS or rest == word:
        return [f"{each} " for each in GROUP_COMMANDS]
    more = more.lstrip()
    written = [str(Peer(name, True)) for name in session.model.groups]
    if word in ("add", "remove", *texts.ROLES_GIVEN):
        group, _ = _split_group(session, more)
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

COMMANDS: dict[str, Command] = {
    "to": Command(_to, _peer_names),
    "friends": Command(_friends),
    "add": Command(_add, _people_without_friends),
    "accept": Command(_accept, _asking_names),
    "decline": Command(_decline, _asking_names),
    "block": Command(_block, _known_names),
    "unblock": Command(_unblock, lambda session, _: [str(Peer(name)) for name in session.model.blocked]),
    "remove": Command(_remove, _friend_names),
    "group": Command(_group, _complete_group),
    "find": Command(_find),
    "report": Command(_report, _peer_names),
    "invite": Command(_invite),
    "join": Command(_join),
    "profile": Command(_profile),
    "set": Command(_set, lambda *_: [f"{field} " for field in texts.FIELDS]),
    "whois": Command(_whois, _friend_names),
    "seen": Command(_seen, lambda *_: ["on", "off"]),
    "receipts": Command(_receipts, lambda *_: ["on", "off"]),
    "passwd": Command(_passwd),
    "account": Command(_account, lambda *_: ["logins", "end ", "delete"]),
    "resend": Command(_resend),
    "history": Command(_history),
    "edit": Command(_edit),
    "recall": Command(_recall),
    "search": Command(_search),
    "connect": Command(_connect),
    "logout": Command(_logout),
    "quit": Command(_quit),
    "help": Command(_help, lambda *_: COMMANDS),
}
