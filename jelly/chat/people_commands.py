"""Commands about other people: friends, requests, blocks, finding and reporting."""

from client_api import FriendRequests
from jelly.chat import texts
from jelly.chat.command import UsageError, person_name, request, required, split_word
from jelly.chat.language import TranslatedText
from jelly.chat.model import Conversation, LineKind, Peer
from jelly.chat.session import Session


def friends(session: Session, rest: str) -> None:
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

    request(session, "/friends", session.client.list_friends(), done, changes=False)


def add(session: Session, rest: str) -> None:
    name = person_name(rest)

    def done(is_friend: bool, where: Conversation) -> None:
        session.model.requests.pop(name, None)  # to add is to accept
        text = texts.ADDED_FRIEND if is_friend else texts.ASKED_FRIEND
        session.show_info(session.translate(text, name=Peer(name)), where)
        session.refresh()

    request(session, f"/add {rest}", session.client.add_friend(name), done)


def accept(session: Session, rest: str) -> None:
    _answer_request(session, "accept", rest, texts.YOU_ACCEPTED)


def decline(session: Session, rest: str) -> None:
    _answer_request(session, "decline", rest, texts.YOU_DECLINED)


def _answer_request(session: Session, word: str, rest: str, text: TranslatedText) -> None:
    peer = Peer.parse(required(rest))
    if peer.is_group:
        return _answer_invitation(session, word, peer)
    name = person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.requests.pop(name, None)
        session.show_info(session.translate(text, name=Peer(name)), where)

    request(session, f"/{word} {rest}", session.client.answer_friend(name, accept=word == "accept"), done)
    return None


def _answer_invitation(session: Session, word: str, group: Peer) -> None:
    if not group.name:
        raise UsageError

    def done(_: None, where: Conversation) -> None:
        session.model.invitations.pop(group.name, None)
        if word == "decline":  # else a notice says it
            session.show_info(session.translate(texts.INVITATION_DECLINED, group=group), where)

    request(session, f"/{word} {group}", session.client.answer_group(group.name, accept=word == "accept"), done)


def block(session: Session, rest: str) -> None:
    """Block a person; without a name, list those who are blocked."""
    if not rest:
        return _list_blocked(session)
    name = person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.blocked.add(name)
        session.show_info(session.translate(texts.YOU_BLOCKED, name=Peer(name)), where)

    request(session, f"/block {rest}", session.client.block(name), done)
    return None


def _list_blocked(session: Session) -> None:
    def done(people: tuple[str, ...], where: Conversation) -> None:
        session.model.blocked = set(people)
        names = session.translate.join_names([str(Peer(name)) for name in people])
        session.show_info(session.translate(texts.BLOCKED if people else texts.NOBODY_BLOCKED, names=names), where)

    request(session, "/block", session.client.blocked(), done, changes=False)


def unblock(session: Session, rest: str) -> None:
    name = person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.blocked.discard(name)
        session.show_info(session.translate(texts.YOU_UNBLOCKED, name=Peer(name)), where)

    request(session, f"/unblock {rest}", session.client.unblock(name), done)


def ignore(session: Session, rest: str) -> None:
    """Show nothing of a person any more, here; the other way round if it comes again."""
    ignored = session.kept.ignored
    if not rest:
        names = session.translate.join_names(sorted(str(Peer(name)) for name in ignored))
        text = texts.WHO_IS_IGNORED if ignored else texts.NOBODY_IGNORED
        session.show_info(session.translate(text, names=names))
        return
    name = person_name(rest)
    ignored.symmetric_difference_update({name})
    session.keep()
    text = texts.IGNORED if name in ignored else texts.NOT_IGNORED
    session.show_info(session.translate(text, name=Peer(name)))


def remove(session: Session, rest: str) -> None:
    name = person_name(rest)

    def done(_: None, where: Conversation) -> None:
        session.model.friends.pop(name, None)
        session.show_info(session.translate(texts.REMOVED_FRIEND, name=Peer(name)), where)

    request(session, f"/remove {rest}", session.client.remove_friend(name), done)


def find(session: Session, rest: str) -> None:
    prefix = person_name(rest)

    def done(names: tuple[str, ...], where: Conversation) -> None:
        shown = session.translate.join_names([str(Peer(name)) for name in names])
        text = session.translate(texts.FOUND_USERS, names=shown) if names else session.translate(texts.FOUND_NOBODY)
        session.show_info(text, where)

    request(session, f"/find {rest}", session.client.find_users(prefix), done, changes=False)


def report(session: Session, rest: str) -> None:
    """Report a person, with what that person has written last in this conversation."""
    word, text = split_word(rest)
    name = person_name(word)
    lines = session.model.current.lines
    ids = [line.id for line in lines if line.kind is LineKind.INCOMING and line.sender == name and line.id is not None]
    id = ids[-1] if ids else None

    def done(_: None, where: Conversation) -> None:
        said = texts.REPORTED if id is None else texts.REPORTED_WITH_MESSAGE
        session.show_info(session.translate(said, name=Peer(name)), where)

    request(session, f"/report {word}", session.client.report(name, required(text), message_id=id), done)
