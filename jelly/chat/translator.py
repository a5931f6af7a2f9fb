"""Sentences in the language of the user, and what an error means to that user."""

from jelly.chat.error_texts import (
    CONNECTION_LOST,
    ERRORS,
    FAILED,
    NO_ANSWER,
    NO_USE_TO_RESEND,
    NOT_CONNECTED,
    PERHAPS_DONE,
    PROBABLY,
    REFUSED,
    SERVER_BUSY,
    SERVER_FAILED,
)
from jelly.chat.language import LANGUAGES, TranslatedText
from jelly.errors import ConnectionLost, ErrorCode, RequestError, RequestTimeout, ServerBusy, ServerFailed


def is_definite_failure(error: BaseException) -> bool:
    """Return True if the request certainly changed nothing, False if its outcome is unknown."""
    if isinstance(error, ConnectionLost):
        return not error.sent
    return not isinstance(error, RequestTimeout | ServerFailed) or _is_original_refusal(error)


def can_resend_help(error: BaseException) -> bool:
    """Return whether the same message may be accepted later."""
    return not (isinstance(error, RequestError) and error.likely_code in NO_USE_TO_RESEND)


def _is_original_refusal(error: BaseException) -> bool:
    """Return whether this is an answer of the original server that means one thing only.

    Also where it says SERVER_ERROR, it has done nothing.
    """
    return isinstance(error, RequestError) and not error.code and bool(error.likely_code)


class Translator:
    """Call it with a TranslatedText and its values to get a sentence in one language."""

    def __init__(self, language: str) -> None:
        self._language_index = LANGUAGES.index(language)

    def __call__(self, text: TranslatedText, **values: object) -> str:
        return text[self._language_index].format(**values)

    def join_names(self, names: list[str]) -> str:
        """Return a list of names, separated as the language does it."""
        return ("、" if self._language_index else ", ").join(names)

    def describe_error(self, error: BaseException) -> str:
        """Return what went wrong, for the user."""
        if isinstance(error, ConnectionLost):
            return self(CONNECTION_LOST if error.sent else NOT_CONNECTED)
        if isinstance(error, RequestError) and error.likely_code in ERRORS:
            reason = self(ERRORS[ErrorCode(error.likely_code)])
            return reason if error.code else self(PROBABLY, reason=reason)
        for kind, text in ((ServerBusy, SERVER_BUSY), (RequestTimeout, NO_ANSWER), (ServerFailed, SERVER_FAILED)):
            if isinstance(error, kind):
                return self(text)
        # The original server gives no reason. A later server may give reasons with unknown codes.
        return str(error) if isinstance(error, RequestError) and error.code else self(REFUSED)

    def describe_failure(self, what: str, error: BaseException, changes: bool = True) -> str:
        """Return which command failed and why, or that its outcome is unknown.

        `changes`: whether the command would change something. Otherwise it has no outcome.
        """
        is_definite = is_definite_failure(error) or not changes
        return self(FAILED if is_definite else PERHAPS_DONE, what=what, reason=self.describe_error(error))
