"""The slash commands: one table that says what each command does and how it is completed.

Names and texts with spaces need no quotes: the last argument extends to the end of the line.
"""

import difflib
from collections.abc import Iterable

from jelly.chat import account_commands, conversation_commands, group_commands, help_texts, people_commands, texts
from jelly.chat.cells import sanitize
from jelly.chat.command import Command, UsageError, split_word
from jelly.chat.model import Peer
from jelly.chat.normal_form import nfc
from jelly.chat.session import Session


def submit(session: Session, typed: str) -> bool:
    """Run a command, or send a text to the current conversation.

    Return False for a text without a receiver: the user interface should keep it.
    """
    # A text that cannot be encoded (half a pasted character, say) cannot be sent either.
    text = typed.encode("utf-8", "replace").decode().strip("\n")
    if not text.strip():
        return True
    if text.startswith("/") and not text.startswith("//"):
        _run_command(session, _with_names_in_normal_form(session, text[1:]))
    elif session.model.current.peer:
        session.send(session.model.current, text[1:] if text.startswith("//") else text)
    else:
        session.show_error(session.translate(texts.NO_RECEIVER))
        return False
    return True


def _with_names_in_normal_form(session: Session, text: str) -> str:
    """Return a command in the form in which new names are. Old ones may be written as they are."""
    names = (*session.model.known_people(), *session.model.groups, *(peer.name for peer in session.model.conversations))
    return text if any(name != nfc(name) and name in text for name in names) else nfc(text)


def _run_command(session: Session, text: str) -> None:
    word, rest = split_word(text)
    name = word.lower()
    if name in ALIASES:
        name, *more = ALIASES[name].split()
        rest = " ".join([*more, rest]).rstrip()
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


def _usage(session: Session, name: str, rest: str = "") -> str:
    """Return how a command is used. With subcommands, like /group: how that subcommand is used."""
    help, meant = help_texts.HELP[name], f"/{name} {split_word(rest)[0].lower()} "
    for line in session.translate(help.details).split("\n"):
        if line.startswith(meant):
            return line
    return f"/{name} {session.translate(help.arguments)}".rstrip()


# --- commands about the chat itself ---------------------------------------------------------------


def _connect(session: Session, rest: str) -> None:
    session.connect()


def _logout(session: Session, rest: str) -> None:
    session.logout()


def _quit(session: Session, rest: str) -> None:
    session.ui.exit()


def _help(session: Session, rest: str) -> None:
    name = rest.removeprefix("/").lower()
    name = ALIASES.get(name, name).split(" ")[0]
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
    command = COMMANDS.get(ALIASES.get(name.lower(), name.lower()))
    rest = rest.lstrip()
    return len(typed) - len(rest), _with_prefix(rest, command.complete(session, rest)) if command else []


def _with_prefix(prefix: str, candidates: Iterable[str]) -> list[str]:
    shown = dict.fromkeys(each for each in candidates if sanitize(each) == each)
    return sorted(each for each in shown if each.lower().startswith(prefix.lower()))


def _names_in_conversation(session: Session) -> list[str]:
    peer = session.model.current.peer
    names = session.model.groups.get(peer.name, ()) if peer and peer.is_group else ()
    return [str(Peer(name)) for name in (*names, *session.model.known_people())]


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


ALIASES = {
    "msg": "to",
    "query": "to",
    "w": "to",
    "part": "group leave",
    "leave": "group leave",
    "names": "who",
    "q": "quit",
    "exit": "quit",
}
"""What other chats call these commands."""

COMMANDS: dict[str, Command] = {
    "to": Command(conversation_commands.to, conversation_commands.peer_names),
    "friends": Command(people_commands.friends),
    "add": Command(people_commands.add, _people_without_friends),
    "accept": Command(people_commands.accept, _asking_names),
    "decline": Command(people_commands.decline, _asking_names),
    "block": Command(people_commands.block, _known_names),
    "ignore": Command(people_commands.ignore, _known_names),
    "unblock": Command(people_commands.unblock, lambda session, _: [str(Peer(name)) for name in session.model.blocked]),
    "remove": Command(people_commands.remove, _friend_names),
    "group": Command(group_commands.group, group_commands.complete_group),
    "who": Command(group_commands.who),
    "find": Command(people_commands.find),
    "report": Command(people_commands.report, conversation_commands.peer_names),
    "invite": Command(group_commands.invite),
    "join": Command(group_commands.join),
    "profile": Command(account_commands.profile),
    "set": Command(account_commands.set_field, lambda *_: [f"{field} " for field in texts.FIELDS]),
    "whois": Command(account_commands.whois, _friend_names),
    "seen": Command(account_commands.seen, lambda *_: ["on", "off"]),
    "receipts": Command(account_commands.receipts, lambda *_: ["on", "off"]),
    "passwd": Command(account_commands.passwd),
    "account": Command(account_commands.account, lambda *_: ["logins", "end ", "delete"]),
    "resend": Command(conversation_commands.resend),
    "discard": Command(conversation_commands.discard),
    "history": Command(conversation_commands.history),
    "edit": Command(conversation_commands.edit),
    "recall": Command(conversation_commands.recall),
    "search": Command(conversation_commands.search),
    "close": Command(conversation_commands.close),
    "clear": Command(conversation_commands.clear),
    "log": Command(conversation_commands.log),
    "connect": Command(_connect),
    "logout": Command(_logout),
    "quit": Command(_quit),
    "help": Command(_help, lambda *_: COMMANDS),
}
