"""Reports: REPORT, with which a user tells the operator about another one.

Nobody but the operator sees a report (`jelly reports`, in `reports_command.py`).
"""

from jelly import report_dao
from jelly.codec import Type
from jelly.dao import Dao
from jelly.errors import ErrorCode, Refused
from jelly.messages import SUCCESS
from jelly.names import is_valid_name
from jelly.outcomes import Answer, Outcome, Write
from jelly.report_dao import Report
from jelly.requests import ReportPerson
from jelly.sessions import Session
from jelly.trusted_clock import TrustedClock

MAX_REPORT = 1000
"""At most this many characters are in the text of a report."""
MAX_REPORTED_CONTENT = 4000
"""At most this many characters of a reported message are kept for the operator."""
REPORTS_A_DAY = 10
"""At most this many reports one user makes in 24 hours."""
MAX_REPORTS = 10_000
"""At most this many reports are stored."""
DAY_MS = 86_400_000


class ReportService:
    """The request that tells the operator something."""

    def __init__(self, clock: TrustedClock) -> None:
        self._clock = clock

    def report(self, session: Session, request: ReportPerson) -> Outcome:
        """Store a report about a user, and about one message if the request names one."""
        username, person, text, id = request
        if not text.strip():
            raise Refused(ErrorCode.MALFORMED_BODY, "The 'text' must say something.")
        if len(text) > MAX_REPORT:
            raise Refused(ErrorCode.TOO_LONG, f"The 'text' may have at most {MAX_REPORT} characters.")

        def in_transaction(dao: Dao) -> None:
            now = int(self._clock.latest() * 1000)
            if not is_valid_name(person) or not dao.has_user(person):
                raise Refused(ErrorCode.NO_SUCH_USER)
            message = None if id is None else report_dao.message_to(dao, username, person, id)
            if id is not None and message is None:
                raise Refused(ErrorCode.NO_SUCH_MESSAGE, "You have no such message of this user.")
            if report_dao.count_since(dao, username, now - DAY_MS) >= REPORTS_A_DAY:
                raise Refused(ErrorCode.LIMIT_REACHED, f"You have made {REPORTS_A_DAY} reports today: wait a day.")
            report = Report(0, username, person, text, None, None, None, None, now)
            if message is not None:
                content = message.content[:MAX_REPORTED_CONTENT]
                report = report._replace(
                    message_id=message.id, receiver=message.receiver, is_group=message.is_group, content=content
                )
            report_dao.add(dao, report, MAX_REPORTS)

        return Write(Type.REPORT, in_transaction, lambda _: Answer(SUCCESS[Type.REPORT]))
