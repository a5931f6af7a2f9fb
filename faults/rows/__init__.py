"""The faults, by what is broken."""

from faults.rows import database, process

ROWS = sorted([*process.ROWS, *database.ROWS], key=lambda row: row.number)
"""All rows, by their numbers."""
