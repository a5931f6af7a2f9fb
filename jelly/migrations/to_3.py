"""From version 2 to 3: a row for the commit mark, and a clearer name for another row."""

from jelly.migrations.step import Step, add_to_meta

STATEMENTS: tuple[Step, ...] = (
    "UPDATE meta SET name = 'indexed' WHERE name = 'filed'",
    add_to_meta("mark", 0),
)
