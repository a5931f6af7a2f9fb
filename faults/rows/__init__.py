"""The faults, grouped by what they break."""

from faults.rows import clock, database, disk, line, network, process

ROWS = sorted(
    [*process.ROWS, *disk.ROWS, *database.ROWS, *line.ROWS, *network.ROWS, *clock.ROWS], key=lambda row: row.number
)
"""All rows, ordered by number."""
