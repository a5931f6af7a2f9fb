"""The command `jelly chat`: parse the arguments, log in, then chat or send one message."""

import argparse
import importlib.util
import logging
import os
import ssl
import sys
import threading
from collections.abc import Sequence
from typing import Any

from client_api import (
    FEATURES,
    ConnectionLost,
    EditEvent,
    GroupMessageEvent,
    JellyClient,
    MessageEvent,
    OwnMessageEvent,
    Receiver,
    ReconnectPolicy,
    RequestError,
)
from jelly.chat import start_texts
from jelly.chat.arguments import parse
from jelly.chat.cells import sanitize
from jelly.chat.job_queue import JobQueue
from jelly.chat.kept import kept_texts_of
from jelly.chat.language import TranslatedText, language_of
from jelly.chat.login import Console, ExitCode, FatalError, LoginDialog
from jelly.chat.model import Conversation, DeliveryStatus, Line, LineKind, Peer
from jelly.chat.normal_form import nfc
from jelly.chat.notify_command import NotifyCommand
from jelly.chat.output import OutputError, drop_output, flush_output, write_line
from jelly.chat.plain import PlainInterface, format_line
from jelly.chat.session import Session
from jelly.chat.settings import path_of_settings
from jelly.chat.translator import Translator, is_definite_failure
from jelly.chat.user_interface import UserInterface

RECONNECT_POLICY = ReconnectPolicy(maximum=10)
"""Reconnect more often than the client library does by default: a person is waiting."""

ONE_ROUND = ReconnectPolicy(attempts=1)
"""With several addresses, --send tries each of them once when its connection is lost."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat and return the exit code (see ExitCode)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    logging.getLogger("jelly").addHandler(logging.NullHandler())  # logging must not write over the screen
    translate = Translator(language_of(os.environ))
    try:
        try:
            options = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
            translate = Translator(options.lang)
            return _run(options, translate)
        finally:
            flush_output()
    except FatalError as failure:
        print(f"jelly: {failure}", file=sys.stderr)
        return failure.exit_code
    except OutputError as error:
        drop_output()
        print(f"jelly: {translate(start_texts.OUTPUT_FAILED, reason=error.reason)}", file=sys.stderr)
        return ExitCode.NO_OUTPUT
    except (KeyboardInterrupt, EOFError):  # at a question of the login dialog
        print(file=sys.stderr)
        return ExitCode.INTERRUPTED


# --- the client -----------------------------------------------------------------------------------


def _create_client(options: argparse.Namespace, translate: Translator, **more: Any) -> JellyClient:
    more["device"] = options.device or None
    if options.tls_ca:
        more["tls"] = _tls_context(options, translate)
    try:
        return JellyClient.from_url(options.server, **more)
    except ValueError as error:
        raise FatalError(ExitCode.USAGE, sanitize(translate(start_texts.BAD_SERVER, server=options.server))) from error


def _tls_context(options: argparse.Namespace, translate: Translator) -> ssl.SSLContext:
    if not options.server.startswith("jellys://"):
        raise FatalError(ExitCode.USAGE, translate(start_texts.CA_WITHOUT_TLS))
    try:
        return ssl.create_default_context(cafile=options.tls_ca)
    except OSError as error:
        is_readable = isinstance(error, ssl.SSLError)
        reason = translate(start_texts.NO_CERTIFICATE) if is_readable else error.strerror or str(error)
        raise FatalError(
            ExitCode.USAGE, sanitize(translate(start_texts.BAD_CA, file=options.tls_ca, reason=reason))
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
        self.output_error: OutputError | None = None

    def on_message(self, event: MessageEvent) -> None:
        self._block_until_closed(Peer(event.sender), event)

    def on_group_message(self, event: GroupMessageEvent) -> None:
        self._block_until_closed(Peer(event.group, True), event)

    def on_own_message(self, event: OwnMessageEvent) -> None:  # noqa: ARG002 - the interface's signature
        self._closed.wait()

    def on_edit(self, event: EditEvent) -> None:  # noqa: ARG002
        self._closed.wait()

    def on_own_edit(self, event: EditEvent) -> None:  # noqa: ARG002
        self._closed.wait()

    def _block_until_closed(self, peer: Peer, event: MessageEvent | GroupMessageEvent) -> None:
        if event.id is None:
            line = Line(LineKind.INCOMING, event.written_at, event.content, event.sender)
            try:
                write_line(format_line(Conversation(peer), line, False))
            except OutputError as error:
                self.output_error = error
        else:
            self._closed.wait()

    def release(self) -> None:
        """Let the callbacks return. Call it when the connection is closed."""
        self._closed.set()


def _send_message(options: argparse.Namespace, translate: Translator, console: Console) -> int:
    peer, text = _parse_message(options, translate)
    receiver = NoAckReceiver()
    policy = ONE_ROUND if "," in options.server else False
    client = _create_client(options, translate, receiver=receiver, reconnect=policy)
    try:
        dialog = LoginDialog(client, options.server, translate, console, options.tls_ca)
        dialog.run(options.name, os.environ.get("JELLY_PASSWORD", ""), may_register=False)
        send = client.send_group_message if peer.is_group else client.send_message
        try:
            send(peer.name, text).result()
        except ConnectionLost as error:  # it was lost just before, and the client goes to another address
            if error.sent or not client.wait_until_online():
                raise
            send(peer.name, text).result()
        if receiver.output_error:
            raise receiver.output_error
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
    peer = Peer.parse(nfc(to))
    if not peer.name:
        raise FatalError(ExitCode.USAGE, translate(start_texts.BAD_TO))
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        text.encode()
    except UnicodeError as error:
        raise FatalError(ExitCode.USAGE, translate(start_texts.NOT_UTF8)) from error
    if not text.strip():
        raise FatalError(ExitCode.USAGE, translate(start_texts.BAD_TEXT))
    return peer, text


def _failure_of(error: RequestError) -> tuple[TranslatedText, ExitCode]:
    """Return the sentence and the exit code for a message that was not delivered, or perhaps."""
    if not is_definite_failure(error):
        return start_texts.SEND_UNKNOWN, ExitCode.UNKNOWN_OUTCOME
    return start_texts.SEND_FAILED, ExitCode.NO_CONNECTION if isinstance(error, ConnectionLost) else ExitCode.REJECTED


# --- the chat -------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, translate: Translator) -> int:
    console = Console()
    if options.send:
        return _send_message(options, translate, console)
    client = _create_client(options, translate, reconnect=RECONNECT_POLICY, features=(*FEATURES, "typing"))
    jobs = JobQueue()
    session = Session(client, translate, jobs.post)
    try:
        dialog = LoginDialog(client, options.server, translate, console, options.tls_ca)
        credentials = dialog.run(options.name, os.environ.get("JELLY_PASSWORD", ""), may_register=True)
        session.has_highlight = options.settings.highlight
        session.notify_command = _notify_command(options, translate)
        session.kept = kept_texts_of(os.environ, client.addresses, credentials[0], options.device)
        ui = _create_interface(options, translate, session, jobs)
        session.start(*credentials)
        ui.run()
    finally:
        session.close()
        session.ui = UserInterface()  # nothing is shown any more
        jobs.run_pending()  # answers that came after the user interface ended
        for sentence in _what_is_left(session, translate):
            print(sanitize(sentence), file=sys.stderr)
    return ExitCode.SUCCESS


def _notify_command(options: argparse.Namespace, translate: Translator) -> NotifyCommand | None:
    try:
        return NotifyCommand(options.notify, options.notify_content) if options.notify else None
    except ValueError as error:
        raise FatalError(ExitCode.USAGE, sanitize(translate(start_texts.BAD_NOTIFY, reason=error))) from error


def _what_is_left(session: Session, translate: Translator) -> list[str]:
    """Keep what is not confirmed, and return what to say about it."""
    if not session.kept.is_used:
        return []  # there was no login
    is_kept = session.keep()
    undelivered = {
        DeliveryStatus.FAILED: start_texts.STILL_NOT_DELIVERED,
        DeliveryStatus.UNKNOWN: start_texts.STILL_PERHAPS_DELIVERED,
    }
    sentences = [
        translate(text, counts=counts) for status, text in undelivered.items() if (counts := session.counts_of(status))
    ]
    reason = session.kept.error
    if sentences:
        sentences.append(translate(start_texts.TEXTS_KEPT if is_kept else start_texts.TEXTS_NOT_KEPT, reason=reason))
    elif not is_kept and any(conversation.draft for conversation in session.model):
        sentences.append(translate(start_texts.DRAFTS_NOT_KEPT, reason=reason))
    return sentences


def _create_interface(
    options: argparse.Namespace, translate: Translator, session: Session, jobs: JobQueue
) -> UserInterface:
    """Return the full screen if the terminal and the installation allow it, else the plain mode."""
    can_use_screen = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if can_use_screen and not options.plain:
        if importlib.util.find_spec("prompt_toolkit"):
            from jelly.chat.screen import ScreenInterface, UnknownKey

            try:
                return ScreenInterface(session, jobs, options.settings)
            except UnknownKey as error:
                sentence = translate(start_texts.BAD_SETTINGS, file=path_of_settings(os.environ), reason=error)
                raise FatalError(ExitCode.USAGE, sanitize(sentence)) from error
        write_line(translate(start_texts.PLAIN_HINT))
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    return PlainInterface(session, jobs, sys.stdin, sys.stdout)
