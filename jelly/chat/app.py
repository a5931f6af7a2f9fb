"""The command `jelly chat`: parse the arguments, log in, then chat or send one message."""

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
from jelly.chat.login import Console, ExitCode, FatalError, LoginDialog
from jelly.chat.model import Conversation, Line, LineKind, Peer
from jelly.chat.plain import PlainInterface, format_line
from jelly.chat.session import JobQueue, Session, UserInterface
from jelly.chat.texts import LANGUAGES, Translator, is_definite_failure, language_of

DEFAULT_SERVER = "jelly://127.0.0.1:20000"

RECONNECT_POLICY = ReconnectPolicy(maximum=10)
"""Reconnect more often than the client library does by default: a person is waiting."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat and return the exit code (see ExitCode)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    logging.getLogger("jelly").addHandler(logging.NullHandler())  # logging must not write over the screen
    options = _parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    translate = Translator(options.lang)
    try:
        return _run(options, translate)
    except FatalError as failure:
        print(f"jelly: {failure}", file=sys.stderr)
        return failure.exit_code
    except (KeyboardInterrupt, EOFError):  # at a question of the login dialog
        print(file=sys.stderr)
        return ExitCode.INTERRUPTED


# --- arguments ------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)  # finds out the language of the second parser
    first.add_argument("--lang", choices=LANGUAGES, default=language_of(environment))
    translate = Translator(first.parse_known_args(arguments)[0].lang)
    parser = argparse.ArgumentParser(
        prog="jelly chat",
        description=translate(texts.ABOUT),
        epilog=translate(texts.ABOUT_EXIT),
        formatter_class=_formatter(translate),
        add_help=False,
    )
    positional = parser.add_argument_group(translate(texts.ARGUMENTS))
    add = parser.add_argument_group(translate(texts.OPTIONS)).add_argument
    server = environment.get("JELLY_SERVER") or DEFAULT_SERVER
    positional.add_argument("name", nargs="?", default="", metavar="NAME", help=translate(texts.ARG_NAME))
    add("--server", default=server, metavar="URL", help=translate(texts.ARG_SERVER))
    add("--tls-ca", default="", metavar="FILE", help=translate(texts.ARG_CA))
    add("--plain", action="store_true", help=translate(texts.ARG_PLAIN))
    add("--send", nargs=2, metavar=("TO", "TEXT"), help=translate(texts.ARG_SEND))
    add("--lang", choices=LANGUAGES, default=language_of(environment), help=translate(texts.ARG_LANG))
    add("-h", "--help", action="help", help=translate(texts.ARG_HELP))
    return parser.parse_args(arguments)


def _formatter(translate: Translator) -> type[argparse.HelpFormatter]:
    """Return a help formatter that translates the word "usage"."""

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
            super().add_usage(usage, actions, groups, translate(texts.USAGE_PREFIX) if prefix is None else prefix)

    return Formatter


def _create_client(options: argparse.Namespace, translate: Translator, **more: Any) -> JellyClient:
    if options.tls_ca:
        more["tls"] = _tls_context(options, translate)
    try:
        return JellyClient.from_url(options.server, **more)
    except ValueError as error:
        raise FatalError(ExitCode.USAGE, sanitize(translate(texts.BAD_SERVER, server=options.server))) from error


def _tls_context(options: argparse.Namespace, translate: Translator) -> ssl.SSLContext:
    if not options.server.startswith("jellys://"):
        raise FatalError(ExitCode.USAGE, translate(texts.CA_WITHOUT_TLS))
    try:
        return ssl.create_default_context(cafile=options.tls_ca)
    except OSError as error:
        is_readable = isinstance(error, ssl.SSLError)
        reason = translate(texts.NO_CERTIFICATE) if is_readable else error.strerror or str(error)
        raise FatalError(
            ExitCode.USAGE, sanitize(translate(texts.BAD_CA, file=options.tls_ca, reason=reason))
        ) from error


# --- one message ----------------------------------------------------------------------------------


class NoAckReceiver(Receiver):
    """Acknowledges no message: --send shows no messages, so the server must keep them.

    The client acknowledges a message when its callback returns. These callbacks return only after
    the connection is closed. A server without acknowledgements counts a message as delivered once
    it is sent: such a message has no id, and is printed.
    """

    def __init__(self) -> None:
        self._closed = threading.Event()

    def on_message(self, event: MessageEvent) -> None:
        self._block_until_closed(Peer(event.sender), event)

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._block_until_closed(Peer(event.group, True), event)

    def _block_until_closed(self, peer: Peer, event: MessageEvent | GroupMessageEvent) -> None:
        if event.id is None:
            line = Line(LineKind.INCOMING, event.written_at, event.content, event.sender)
            print(format_line(Conversation(peer), line, False), flush=True)
        else:
            self._closed.wait()

    def release(self) -> None:
        """Let the callbacks return. Call it when the connection is closed."""
        self._closed.set()


def _send_message(options: argparse.Namespace, translate: Translator, console: Console) -> int:
    peer, text = _parse_message(options, translate)
    receiver = NoAckReceiver()
    client = _create_client(options, translate, receiver=receiver, reconnect=False)
    try:
        dialog = LoginDialog(client, options.server, translate, console)
        dialog.run(options.name, os.environ.get("JELLY_PASSWORD", ""), may_register=False)
        send = client.send_group_message if peer.is_group else client.send_message
        send(peer.name, text).result()
        return ExitCode.SUCCESS
    except RequestError as error:
        sentence, code = _failure_of(error)
        raise FatalError(
            code, sanitize(translate(sentence, name=peer, reason=translate.describe_error(error)))
        ) from error
    finally:
        client.close(timeout=0)
        receiver.release()
        client.close()


def _parse_message(options: argparse.Namespace, translate: Translator) -> tuple[Peer, str]:
    """Return the receiver and the text of --send. A text of - is read from the standard input."""
    to, text = options.send
    peer = Peer.parse(to)
    if not peer.name:
        raise FatalError(ExitCode.USAGE, translate(texts.BAD_TO))
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        text.encode()
    except UnicodeError as error:
        raise FatalError(ExitCode.USAGE, translate(texts.NOT_UTF8)) from error
    if not text.strip():
        raise FatalError(ExitCode.USAGE, translate(texts.BAD_TEXT))
    return peer, text


def _failure_of(error: RequestError) -> tuple[texts.TranslatedText, ExitCode]:
    """Return the sentence and the exit code for a message that was not confirmed."""
    if not is_definite_failure(error):
        return texts.SEND_UNKNOWN, ExitCode.UNKNOWN_OUTCOME
    return texts.SEND_FAILED, ExitCode.NO_CONNECTION if isinstance(error, ConnectionLost) else ExitCode.REJECTED


# --- the chat -------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, translate: Translator) -> int:
    console = Console()
    if options.send:
        return _send_message(options, translate, console)
    client = _create_client(options, translate, reconnect=RECONNECT_POLICY)
    jobs = JobQueue()
    session = Session(client, translate, jobs.post)
    try:
        dialog = LoginDialog(client, options.server, translate, console)
        credentials = dialog.run(options.name, os.environ.get("JELLY_PASSWORD", ""), may_register=True)
        ui = _create_interface(options, translate, session, jobs)
        session.start(*credentials)
        ui.run()
    finally:
        client.close()
    jobs.run_pending()  # answers that came after the user interface ended
    if count := session.model.undelivered_count():
        print(translate(texts.STILL_UNDELIVERED, count=count), file=sys.stderr)
    return ExitCode.SUCCESS


def _create_interface(
    options: argparse.Namespace, translate: Translator, session: Session, jobs: JobQueue
) -> UserInterface:
    """Return the full screen if the terminal and the installation allow it, else the plain mode."""
    can_use_screen = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if can_use_screen and not options.plain:
        if importlib.util.find_spec("prompt_toolkit"):
            from jelly.chat.screen import ScreenInterface

            return ScreenInterface(session, jobs)
        print(translate(texts.PLAIN_HINT))
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    return PlainInterface(session, jobs, sys.stdin, sys.stdout)
