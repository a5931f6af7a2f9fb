"""From version 2 to 3: a clearer name for a row of the table meta."""

from jelly.migrations.step import Step

STATEMENTS: tuple[Step, ...] = ("UPDATE meta SET name = 'indexed' WHERE name = 'filed'",)
