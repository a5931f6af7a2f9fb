"""Before the chat begins: the name, the password, and registering whoever is unknown.

The server gives the same answer to an unknown name and to a wrong password. So after it comes the offer to register:
if the name turns out to be taken, it was the password.
"""

import getpass
import os
import ssl
import sys

from client_api import ConnectionLost, ErrorCode, JellyClient, RequestError, RequestRejected
from jelly.chat import texts
from jelly.chat.cells import sanitize
from jelly.chat.texts import Text, Translator

REJECTED, USAGE, NO_CONNECTION, LOGIN_REFUSED, NOT_KNOWN = 1, 2, 3, 4, 5
"""Exit codes; 0 is success."""

MAX_TRIES = 3
"""Wrong passwords, until the program gives up."""


WRONG = (ErrorCode.WRONG_CREDENTIALS, "")
TAKEN = (ErrorCode.USERNAME_TAKEN, "")
"""How a wrong password or an unknown name is refused, and a name that exists. The original server gives no code."""


class FatalError(Exception):
    """The program ends, with one sentence and this exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = code


class Console:
    """Asks somebody who sits there, if somebody does."""

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty()

    def can_ask_password(self) -> bool:
        """Whether a password can be asked for without showing it: also when the input is a pipe."""
        if self.is_interactive:
            return True
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True

    def ask_password(self, prompt: str) -> str:
        """What is typed, without showing it. Raises EOFError."""
        return getpass.getpass(prompt)

    def ask(self, prompt: str) -> str:
        """What is typed. Raises EOFError."""
        return input(prompt)

    def show(self, text: str) -> None:
        """Tell something."""
        print(text, flush=True)


class LoginDialog:
    """Logs one person in. Raises FatalError where that cannot be."""

    def __init__(self, client: JellyClient, server: str, translate: Translator, console: Console) -> None:
        self._client, self._server, self._translate, self._console = client, server, translate, console

    def run(self, name: str, password: str, may_register: bool) -> tuple[str, str]:
        """Log in; ask for what is not known. Returns the name and the password that were right."""
        name = name or self._ask_name()
        error: RequestError
        for _ in range(MAX_TRIES):
            is_typed = not password
            attempt = password or self._ask_password(name)
            try:
                self._log_in(name, attempt)
                return name, attempt
            except RequestRejected as refusal:
                error = refusal
            if error.code not in WRONG or not (may_register and self._console.is_interactive):
                break
            is_new = self._wants_to_register(name) and self._register(name, attempt, is_typed)
            password = attempt if is_new else ""  # so the next turn logs in, or asks again
        raise FatalError(
            LOGIN_REFUSED, self._text(texts.LOGIN_REFUSED, name=name, reason=self._translate.describe_error(error))
        )

    def _text(self, text: Text, **values: object) -> str:
        return sanitize(self._translate(text, **values))

    def _ask_name(self) -> str:
        name = self._console.ask(self._translate(texts.ASK_NAME)).strip() if self._console.is_interactive else ""
        if not name:
            raise FatalError(USAGE, self._text(texts.NEED_NAME))
        return name

    def _ask_password(self, name: str) -> str:
        if not self._console.can_ask_password():
            raise FatalError(USAGE, self._text(texts.NEED_PASSWORD))
        attempt = ""
        while not attempt:
            attempt = self._console.ask_password(self._text(texts.ASK_PASSWORD, name=name))
        return attempt

    def _log_in(self, name: str, password: str) -> None:
        """Raises RequestRejected if the server says no."""
        try:
            self._client.login(name, password).result()
        except RequestRejected:
            raise
        except RequestError as error:
            raise self._no_connection(error) from error

    def _no_connection(self, error: RequestError) -> FatalError:
        sentence = self._text(texts.CANNOT_CONNECT, server=self._server, reason=self._why(error))
        if isinstance(error.__cause__, ConnectionRefusedError):
            sentence += self._translate(texts.IS_IT_RUNNING)
        return FatalError(NO_CONNECTION, sentence)

    def _why(self, error: RequestError) -> str:
        """Why there is no connection; the system's own words where it has some."""
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._translate(texts.NOT_TRUSTED, reason=cause.verify_message.rstrip("."))
        if isinstance(cause, ssl.SSLError):
            return self._translate(texts.NO_TLS)
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(error, ConnectionLost):
            return self._translate(texts.CLOSED_AT_ONCE if error.sent else texts.UNREACHABLE)
        return self._translate.describe_error(error)

    def _wants_to_register(self, name: str) -> bool:
        # Not shown: whoever mistyped a password is quick to type it again here.
        answer = self._console.ask_password(self._text(texts.ASK_REGISTER, name=name))
        return answer.strip().lower() in ("y", "yes", "是", "好")

    def _register(self, name: str, password: str, is_typed: bool) -> bool:
        """Register; whether it was done. If it was not, it has been said why, and the password is asked for again."""
        if is_typed and self._console.ask_password(self._translate(texts.ONCE_MORE)) != password:
            self._console.show(self._text(texts.DIFFERENT))
            return False
        try:
            self._client.register(name, password).result()
        except RequestRejected as error:
            if error.code in TAKEN:
                self._console.show(self._text(texts.PASSWORD_WAS_WRONG, name=name))
                return False
            reason = self._translate.describe_error(error)
            raise FatalError(LOGIN_REFUSED, self._text(texts.CANNOT_REGISTER, name=name, reason=reason)) from error
        except RequestError as error:
            raise self._no_connection(error) from error
        self._console.show(self._text(texts.REGISTERED, name=name))
        return True
