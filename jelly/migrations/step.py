"""What a migration consists of."""

from collections.abc import Callable

from jelly.database import DatabaseConnection

Step = str | Callable[[DatabaseConnection], None]
"""A statement, or a function for what SQL cannot say. It must be repeatable."""


def add_to_meta(name: str, value: int) -> str:
    """Return the statement that adds a row to the table meta, unless it is there."""
    return (
        f"INSERT INTO meta (name, value) SELECT '{name}', {value} FROM meta WHERE name = 'schema_version' "
        f"AND NOT EXISTS (SELECT 1 FROM meta AS row_of WHERE row_of.name = '{name}')"
    )
