"""The command `jelly chat`: arguments, the login, then one message, the full screen, or line by line."""

import argparse
import importlib.util
import logging
import os
import ssl
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from client_api import (
    ConnectionLost,
    GroupMessageEvent,
    JellyClient,
    MessageEvent,
    Receiver,
    ReconnectPolicy,
    RequestError,
)
from jelly.chat import texts
from jelly.chat.cells import sanitize
from jelly.chat.login import NO_CONNECTION, NOT_KNOWN, REJECTED, USAGE, Console, FatalError, LoginDialog
from jelly.chat.model import Conversation, Line, LineKind, Peer
from jelly.chat.plain import PlainInterface, printed
from jelly.chat.session import JobQueue, Session
from jelly.chat.texts import LANGUAGES, Translator, is_definite_failure, language_of

DEFAULT_SERVER = "jelly://127.0.0.1:20000"
INTERRUPTED = 130

PATIENT = ReconnectPolicy(maximum=10)
"""Somebody looks at the screen and waits: try more often than a program would."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat; return the exit code (`--help` lists them)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    logging.getLogger("jelly").addHandler(logging.NullHandler())  # or warnings would be written over the screen
    options = _parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    translate = Translator(options.lang)
    try:
        return _run(options, translate)
    except FatalError as failure:
        print(f"jelly: {failure}", file=sys.stderr)
        return failure.exit_code
    except (KeyboardInterrupt, EOFError):  # at a question before the chat begins
        print(file=sys.stderr)
        return INTERRUPTED


# --- arguments ----------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)  # in which language should the second one speak?
    first.add_argument("--lang", choices=LANGUAGES, default=language_of(environment))
    translate = Translator(first.parse_known_args(arguments)[0].lang)
    parser = argparse.ArgumentParser(
        prog="jelly chat",
        description=translate(texts.ABOUT),
        epilog=translate(texts.ABOUT_EXIT),
        formatter_class=_formatter(translate),
        add_help=False,
    )
    about = parser.add_argument_group(translate(texts.ARGUMENTS))
    add = parser.add_argument_group(translate(texts.OPTIONS)).add_argument
    server = environment.get("JELLY_SERVER") or DEFAULT_SERVER
    about.add_argument("name", nargs="?", default="", metavar="NAME", help=translate(texts.ARG_NAME))
    add("--server", default=server, metavar="URL", help=translate(texts.ARG_SERVER))
    add("--tls-ca", default="", metavar="FILE", help=translate(texts.ARG_CA))
    add("--plain", action="store_true", help=translate(texts.ARG_PLAIN))
    add("--send", nargs=2, metavar=("TO", "TEXT"), help=translate(texts.ARG_SEND))
    add("--lang", choices=LANGUAGES, default=language_of(environment), help=translate(texts.ARG_LANG))
    add("-h", "--help", action="help", help=translate(texts.ARG_HELP))
    return parser.parse_args(arguments)


def _formatter(translate: Translator) -> type[argparse.HelpFormatter]:
    """The usual one says "usage:" in English."""

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
            super().add_usage(usage, actions, groups, translate(texts.USAGE_PREFIX) if prefix is None else prefix)

    return Formatter


def _client(options: argparse.Namespace, translate: Translator, **more: Any) -> JellyClient:
    if options.tls_ca:
        more["tls"] = _tls(options, translate)
    try:
        return JellyClient.from_url(options.server, **more)
    except ValueError as error:
        raise FatalError(USAGE, sanitize(translate(texts.BAD_SERVER, server=options.server))) from error


def _tls(options: argparse.Namespace, translate: Translator) -> ssl.SSLContext:
    if not options.server.startswith("jellys://"):
        raise FatalError(USAGE, translate(texts.CA_WITHOUT_TLS))
    try:
        return ssl.create_default_context(cafile=options.tls_ca)
    except OSError as error:
        is_there = isinstance(error, ssl.SSLError)
        reason = translate(texts.NO_CERTIFICATE) if is_there else error.strerror or str(error)
        raise FatalError(USAGE, sanitize(translate(texts.BAD_CA, file=options.tls_ca, reason=reason))) from error


# --- one message --------------------------------------------------------------------------------------------


class Unseen(Receiver):
    """Takes nothing: --send shows no messages, so none may count as delivered.

    A message is acknowledged when its callback has returned; these return after the connection is closed. A server
    that knows no acknowledgements takes them for delivered all the same: those are printed.
    """

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def on_message(self, event: MessageEvent) -> None:
        self._take(Peer(event.sender), event)

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._take(Peer(event.group, True), event)

    def _take(self, peer: Peer, event: MessageEvent | GroupMessageEvent) -> None:
        if event.id is None:
            line = Line(LineKind.INCOMING, event.written_at, event.content, event.sender)
            print(printed(Conversation(peer), line, False), flush=True)
        else:
            self.is_over.wait()


def _send_one(options: argparse.Namespace, translate: Translator, console: Console) -> int:
    peer, text = _what_to_send(options, translate)
    receiver = Unseen()
    client = _client(options, translate, receiver=receiver, reconnect=False)
    try:
        dialog = LoginDialog(client, options.server, translate, console)
        dialog.run(options.name, os.environ.get("JELLY_PASSWORD", ""), may_register=False)
        send = client.send_group_message if peer.is_group else client.send_message
        send(peer.name, text).result()
        return 0
    except RequestError as error:
        sentence, code = _what_happened(error)
        raise FatalError(
            code, sanitize(translate(sentence, name=peer, reason=translate.describe_error(error)))
        ) from error
    finally:
        client.close(timeout=0)
        receiver.is_over.set()
        client.close()


def _what_to_send(options: argparse.Namespace, translate: Translator) -> tuple[Peer, str]:
    to, text = options.send
    peer = Peer.parse(to)
    if not peer.name:
        raise FatalError(USAGE, translate(texts.BAD_TO))
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        text.encode()
    except UnicodeError as error:
        raise FatalError(USAGE, translate(texts.NOT_UTF8)) from error
    if not text.strip():
        raise FatalError(USAGE, translate(texts.BAD_TEXT))
    return peer, text


def _what_happened(error: RequestError) -> tuple[texts.Text, int]:
    if not is_definite_failure(error):
        return texts.SEND_UNKNOWN, NOT_KNOWN
    return texts.SEND_FAILED, NO_CONNECTION if isinstance(error, ConnectionLost) else REJECTED


# --- the chat -----------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, translate: Translator) -> int:
    console = Console()
    if options.send:
        return _send_one(options, translate, console)
    client = _client(options, translate, reconnect=PATIENT)
    jobs = JobQueue()
    session = Session(client, translate, jobs.post)
    try:
        dialog = LoginDialog(client, options.server, translate, console)
        known = dialog.run(options.name, os.environ.get("JELLY_PASSWORD", ""), may_register=True)
        ui = _create_interface(options, translate, session, jobs)
        session.start(*known)
        ui.run()
    finally:
        client.close()
    jobs.run_pending()  # what the last answers said
    if count := session.model.undelivered_count():
        print(translate(texts.STILL_UNDELIVERED, count=count), file=sys.stderr)
    return 0


def _create_interface(options: argparse.Namespace, translate: Translator, session: Session, jobs: JobQueue) -> Any:
    has_screen = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if has_screen and not options.plain:
        if importlib.util.find_spec("prompt_toolkit"):
            from jelly.chat.screen import ScreenInterface

            return ScreenInterface(session, jobs)
        print(translate(texts.PLAIN_HINT))
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    return PlainInterface(session, jobs, sys.stdin, sys.stdout)
