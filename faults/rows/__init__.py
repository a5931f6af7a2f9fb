"""The faults, by what is broken."""

from faults.rows import database, disk, process

ROWS = sorted([*process.ROWS, *database.ROWS, *disk.ROWS], key=lambda row: row.number)
"""All rows, by their numbers."""
