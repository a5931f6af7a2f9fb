"""The command `jelly reports`: what users have told the operator about each other."""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime

from jelly import report_dao
from jelly.accounts import Action, OperatorCommand
from jelly.dao import Dao
from jelly.database import DatabaseConnection
from jelly.errors import StartError
from jelly.export import printable_json
from jelly.report_dao import Report
from jelly.user_command import OTHER_TABLES, command_about, has_our_version, have_done, opened

REPORTS_AT_ONCE = 100
"""How many reports are read at a time."""


def add_reports_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `jelly reports` needs to a parser."""
    parser.add_argument(
        "action", nargs="?", choices=("list", "close"), default="list", help="list (the default) or close"
    )
    parser.add_argument("number", nargs="?", type=int, metavar="NUMBER", help="close: the report that is dealt with")
    parser.add_argument("--json", action="store_true", help="list: print a JSON array instead of text")


def run_reports_command(action: str, number: int | None, as_json: bool, url: str) -> None:
    """Do what `jelly reports` was asked for. Raises StartError: one sentence that says why not."""
    if (action == "close") != (number is not None):
        raise StartError("Write jelly reports, or jelly reports close NUMBER.")
    with command_about(url):
        if number is None:
            _list(url, as_json)
        else:
            _close(url, number)


def _close(url: str, number: int) -> None:
    with opened(url) as connection:
        if not any(report.id == number for report in _reports(connection)):
            raise StartError(f"There is no report {number}: jelly reports lists them.")
    have_done(url, OperatorCommand(Action.CLOSE_REPORT, str(number), ""))
    print(f"report {number} is closed")


def _list(url: str, as_json: bool) -> None:
    with opened(url) as connection:
        if as_json:
            print(printable_json([report._asdict() for report in _reports(connection)]))
            return
        count = 0
        for report in _reports(connection):
            count += 1
            for line in _lines(report):
                print(line)
        print(f"{count or 'no'} report{'' if count == 1 else 's'}")


def _reports(connection: DatabaseConnection) -> Iterator[Report]:
    if not has_our_version(connection):
        raise StartError(OTHER_TABLES)
    dao, last = Dao(connection), 0
    while page := report_dao.some(dao, last, REPORTS_AT_ONCE):
        yield from page
        last = page[-1].id


def _lines(report: Report) -> Iterator[str]:
    when = datetime.fromtimestamp(report.time / 1000, UTC)
    yield f"{report.id}  {when:%Y-%m-%d %H:%M} UTC  {_shown(report.reporter)} about {_shown(report.person)}"
    yield f"    says: {_shown(report.text)}"
    if report.content is not None:
        where = f"the group {report.receiver}" if report.is_group else report.receiver
        yield f"    message {report.message_id} to {_shown(str(where))}: {_shown(report.content)}"


def _shown(text: str) -> str:
    """A text of strangers without characters that could do something to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
