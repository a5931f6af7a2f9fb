"""Values in the JSON of a server: what an answer needs is read, or an error raised."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY, LAST_DAY = -62_135_510_400_000, 253_402_128_000_000
"""0001-01-02 and 9999-12-30 in milliseconds since 1970: one day inside the limits of `datetime`, so
that both exist in every time zone."""


def text(value: object) -> str:
    """Return a string. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError("a string is missing")
    return value


def number(values: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number; None if there is none."""
    found = values.get(key)
    return found if isinstance(found, int) else None


def nothing(_values: Mapping[str, Any]) -> None:
    """For responses in which there is nothing to read."""


def local_time(ms: int) -> datetime:
    """Return a time in milliseconds since 1970 in the local time zone."""
    return (EPOCH + timedelta(milliseconds=min(max(ms, FIRST_DAY), LAST_DAY))).astimezone()


class Timed:
    """Anything with a time in milliseconds."""

    time: int

    @property
    def written_at(self) -> datetime:
        """The `time` as a `datetime` in the local time zone.

        A number outside the calendar gives the first or the last date.
        """
        return local_time(self.time)
