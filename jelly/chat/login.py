"""Before the chat begins: ask for the name and the password, and offer to register a new name.

The server gives the same answer to an unknown name and to a wrong password. The offer to register
tells them apart: if the server refuses because the name is taken, the password was wrong.
"""

import getpass
import os
import ssl
import sys
from enum import IntEnum
from itertools import product

from client_api import ConnectionLost, ErrorCode, JellyClient, RateLimited, RequestError, RequestRejected
from jelly.chat import start_texts, texts
from jelly.chat.cells import sanitize
from jelly.chat.language import TranslatedText, is_yes
from jelly.chat.normal_form import forms_of, nfc
from jelly.chat.output import write_line
from jelly.chat.translator import Translator
from jelly.client.certificates import CertificateProblem, problem_of

MAX_ATTEMPTS = 3
"""At most this many wrong passwords; then the program ends."""

WRONG_CREDENTIALS = (ErrorCode.WRONG_CREDENTIALS, "")
NAME_TAKEN = (ErrorCode.USERNAME_TAKEN, "")
"""The error codes of these refusals. The original server sends no code."""


class ExitCode(IntEnum):
    """How the program ends. `jelly chat --help` and docs/chat.md explain each code."""

    SUCCESS = 0
    REJECTED = 1
    USAGE = 2
    NO_CONNECTION = 3
    LOGIN_REFUSED = 4
    UNKNOWN_OUTCOME = 5
    NO_OUTPUT = 6
    INTERRUPTED = 130


class FatalError(Exception):
    """Ends the program: prints one sentence and exits with a code."""

    def __init__(self, exit_code: ExitCode, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Console:
    """Asks questions on the terminal, before the user interface starts."""

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty()

    def can_ask_password(self) -> bool:
        """Return whether a terminal can ask for a password, even if the input is a pipe."""
        if self.is_interactive:
            return True
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
        except OSError:
            return False
        return True

    def ask_password(self, prompt: str) -> str:
        """Return what the user types, without showing it. Raises EOFError."""
        return getpass.getpass(prompt)

    def ask(self, prompt: str) -> str:
        """Return what the user types. Raises EOFError."""
        return input(prompt)

    def show(self, text: str) -> None:
        """Print a text. Raises OutputError."""
        write_line(text)


class LoginDialog:
    """Logs one user in, or raises FatalError."""

    def __init__(
        self, client: JellyClient, server: str, translate: Translator, console: Console, trusted_file: str = ""
    ) -> None:
        """`trusted_file`: the file of --tls-ca."""
        self._client, self._server, self._translate, self._console = client, server, translate, console
        self._trusted_file = trusted_file

    def run(self, name: str, password: str, may_register: bool) -> tuple[str, str]:
        """Log in and return the name and the password. Ask for whatever is empty.

        With `may_register`, offer to register a name that the server does not know.
        """
        name = name or self._ask_name()
        error: RequestError
        for _ in range(MAX_ATTEMPTS):
            is_typed = not password
            attempt = password or self._ask_password(name)
            try:
                return self._log_in_in_any_form(name, attempt)
            except (RequestRejected, RateLimited) as refusal:
                error = refusal
            if error.code not in WRONG_CREDENTIALS or not (may_register and self._console.is_interactive):
                break
            name = nfc(name)
            is_registered = self._wants_to_register(name) and self._register(name, attempt, is_typed)
            password = attempt if is_registered else ""  # the next round logs in, or asks again
        raise FatalError(
            ExitCode.LOGIN_REFUSED,
            self._text(start_texts.LOGIN_REFUSED, name=name, reason=self._translate.describe_error(error)),
        )

    def _text(self, text: TranslatedText, **values: object) -> str:
        return sanitize(self._translate(text, **values))

    def _ask_name(self) -> str:
        name = self._console.ask(self._translate(start_texts.ASK_NAME)).strip() if self._console.is_interactive else ""
        if not name:
            raise FatalError(ExitCode.USAGE, self._text(start_texts.NEED_NAME))
        return name

    def _ask_password(self, name: str) -> str:
        if not self._console.can_ask_password():
            raise FatalError(ExitCode.USAGE, self._text(start_texts.NEED_PASSWORD))
        password = ""
        while not password:
            password = self._console.ask_password(self._text(start_texts.ASK_PASSWORD, name=name))
        return password

    def _log_in_in_any_form(self, name: str, password: str) -> tuple[str, str]:
        """Log in, in the normal form, else as it was typed. Return the name and the password.

        Raises as `_log_in`.
        """
        *others, last = product(forms_of(name), forms_of(password))
        for form in others:
            try:
                self._log_in(*form)
                return form
            except (RequestRejected, RateLimited) as refusal:
                if refusal.code not in WRONG_CREDENTIALS:
                    raise
        self._log_in(*last)
        return last

    def _log_in(self, name: str, password: str) -> None:
        """Log in.

        Raises RequestRejected or RateLimited if the server refuses, FatalError if anything else
        fails.
        """
        try:
            first = self._client.addresses[0]
            self._client.login(name, password).result()
        except (RequestRejected, RateLimited):
            raise
        except RequestError as error:
            raise self._connection_error(error) from error
        in_use = self._client.address
        if self._console.is_interactive and in_use not in (None, first):
            self._console.show(self._text(start_texts.OTHER_ADDRESS, address=first, other=in_use))

    def _connection_error(self, error: RequestError) -> FatalError:
        sentence = self._text(start_texts.CANNOT_CONNECT, server=self._server, reason=self._reason(error))
        if isinstance(error.__cause__, ConnectionRefusedError):
            sentence += self._translate(start_texts.IS_IT_RUNNING)
        return FatalError(ExitCode.NO_CONNECTION, sentence)

    def _reason(self, error: RequestError) -> str:
        """Return why there is no connection: the operating system's own message if there is one."""
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._certificate_problem(cause)
        if isinstance(cause, ssl.SSLError):
            return self._translate(start_texts.NO_TLS)
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(error, ConnectionLost):
            return self._translate(start_texts.CLOSED_BY_SERVER if error.sent else start_texts.UNREACHABLE)
        return self._translate.describe_error(error)

    def _certificate_problem(self, error: ssl.SSLCertVerificationError) -> str:
        problem = problem_of(error)
        if problem is CertificateProblem.UNKNOWN_AUTHORITY and self._trusted_file:
            return self._translate(start_texts.CERTIFICATE_NOT_IN_FILE, file=self._trusted_file)
        return self._translate(start_texts.CERTIFICATE_PROBLEMS[problem], reason=error.verify_message.rstrip("."))

    def _wants_to_register(self, name: str) -> bool:
        # The answer is not shown: users who mistyped their password tend to type it again here.
        answer = self._console.ask_password(self._text(start_texts.ASK_REGISTER, name=name))
        return is_yes(answer)

    def _register(self, name: str, password: str, is_typed: bool, invite: str | None = None) -> bool:
        """Register the name. Return whether it is registered. `invite`: the code of an invitation.

        If not, the reason has been shown, and the user has to type the password again.
        """
        if is_typed and self._console.ask_password(self._translate(texts.ONCE_MORE)) != password:
            self._console.show(self._text(start_texts.PASSWORDS_DIFFER_TRY_AGAIN))
            return False
        try:
            self._client.register(name, nfc(password), invite=invite).result()
        except (RequestRejected, RateLimited) as error:
            if error.code in NAME_TAKEN:
                self._console.show(self._text(start_texts.PASSWORD_WAS_WRONG, name=name))
                return False
            sentence = self._text(start_texts.CANNOT_REGISTER, name=name, reason=self._translate.describe_error(error))
            is_wrong_code = error.code == ErrorCode.INVALID_INVITE and bool(invite)
            if is_wrong_code:  # perhaps mistyped: asked again, until nothing is typed
                self._console.show(sentence)
            if is_wrong_code or (error.code == ErrorCode.INVITE_NEEDED and invite is None):
                code = self._console.ask(self._translate(texts.ASK_INVITE)).strip()
                return self._register(name, password, is_typed=False, invite=code)
            raise FatalError(ExitCode.LOGIN_REFUSED, sentence) from error
        except RequestError as error:
            raise self._connection_error(error) from error
        self._console.show(self._text(start_texts.REGISTERED, name=name))
        return True
