"""Commands about one's own account, and profiles."""

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from client_api import ErrorCode, OwnLogin, Profile, RequestError
from jelly.chat import error_texts, texts
from jelly.chat.command import UsageError, person_name, request, required, split_word
from jelly.chat.language import TranslatedText
from jelly.chat.model import Conversation, Peer
from jelly.chat.session import Session


def profile(session: Session, rest: str) -> None:
    def done(profile: Profile, where: Conversation) -> None:
        lines = _profile_lines(session, profile)
        title = session.translate(texts.PROFILE_OF, name=Peer(session.name))
        session.show_info("\n".join([title, *lines]) if lines else session.translate(texts.OWN_PROFILE_EMPTY), where)

    request(session, "/profile", session.client.own_profile(), done, changes=False)


def whois(session: Session, rest: str) -> None:
    name = person_name(rest)
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


def set_field(session: Session, rest: str) -> None:
    field, value = split_word(rest)
    field = next((each for each, label in texts.FIELDS.items() if field in label), field)
    if not field:
        raise UsageError
    if field not in texts.FIELDS:
        return session.show_error(session.translate(texts.NO_SUCH_FIELD, fields=", ".join(texts.FIELDS)))

    changed: dict[str, Any] = {field: value}

    def done(_: None, where: Conversation) -> None:
        shown = session.translate(texts.FIELDS[field])
        text = texts.FIELD_SET if value else texts.FIELD_EMPTIED
        session.show_info(session.translate(text, field=shown, value=value), where)

    request(session, f"/set {field}", session.client.update_profile(**changed), done)
    return None


def seen(session: Session, rest: str) -> None:
    _switch(
        session, "/seen", rest, (texts.SEEN_OFF, texts.SEEN_ON), lambda on: session.client.update_profile(show_seen=on)
    )


def receipts(session: Session, rest: str) -> None:
    told = texts.RECEIPTS_OFF, texts.RECEIPTS_ON
    _switch(session, "/receipts", rest, told, lambda on: session.client.update_profile(show_read=on))


def _switch(
    session: Session,
    command: str,
    rest: str,
    told: tuple[TranslatedText, TranslatedText],
    change: Callable[[bool], Future[None]],
) -> None:
    """Turn something off or on. `told`: what is said then."""
    if rest.lower() not in ("on", "off"):
        raise UsageError
    is_on = rest.lower() == "on"

    def done(_: None, where: Conversation) -> None:
        session.show_info(session.translate(told[is_on]), where)

    request(session, f"{command} {rest}", change(is_on), done)


def passwd(session: Session, rest: str) -> None:
    where = session.model.current

    def ask(question: TranslatedText, then: Callable[[str], None]) -> None:
        def answered(password: str) -> None:
            if password:
                then(password)
            else:
                session.show_info(session.translate(texts.NOTHING_CHANGED), where)

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


def account(session: Session, rest: str) -> None:
    word, rest = split_word(rest) if rest else ("logins", "")
    if word.lower() == "logins" and not rest:
        _list_logins(session)
    elif word.lower() == "end":
        _end_login(session, required(rest))
    elif word.lower() == "delete" and not rest:
        _delete_account(session)
    else:
        raise UsageError


def _list_logins(session: Session) -> None:
    def done(logins: tuple[OwnLogin, ...], where: Conversation) -> None:
        session.show_info("\n".join(_login_line(session, login) for login in logins), where)

    request(session, "/account", session.client.logins(), done, changes=False)


def _login_line(session: Session, login: OwnLogin) -> str:
    when = "?" if login.created is None else f"{datetime.fromtimestamp(login.created / 1000):%Y-%m-%d %H:%M}"
    text = texts.LOGIN_HERE if login.is_current else texts.LOGIN_LINE
    network = login.network or "?"
    if login.device:
        network = session.translate(texts.LOGIN_DEVICE, network=network, device=login.device)
    return session.translate(text, login=login.id, when=when, network=network)


def _end_login(session: Session, login: str) -> None:
    what, where = f"/account end {login}", session.model.current

    def done(_: None) -> None:
        session.show_info(session.translate(texts.LOGIN_ENDED, login=login), where)

    def failed(error: BaseException) -> None:
        # The code is that of a token that is not valid, but the user's own session goes on.
        is_unknown = isinstance(error, RequestError) and error.code == ErrorCode.INVALID_TOKEN
        text = (
            session.translate(error_texts.FAILED, what=what, reason=session.translate(texts.NO_SUCH_LOGIN))
            if is_unknown
            else session.translate.describe_failure(what, error, changes=True)
        )
        session.show_error(text, where)

    session.request(session.client.end_login(login), done, failed)


def _delete_account(session: Session) -> None:
    where = session.model.current

    def answered(password: str) -> None:
        if not password:
            session.show_info(session.translate(texts.NOTHING_CHANGED), where)
            return
        session.try_password(password, session.client.delete_account, done, failed)

    def failed(error: BaseException) -> None:
        session.show_error(session.translate.describe_failure("/account delete", error), where)

    def done(_: None) -> None:
        session.account_is_deleted = True
        session.show_info(session.translate(texts.ACCOUNT_DELETED, name=Peer(session.name)), where)

    session.ui.ask_password(session.translate(texts.DELETE_PASSWORD, name=Peer(session.name)), answered)
