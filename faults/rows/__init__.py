"""The faults, grouped by what they break."""

from faults.rows import clock, connections, database, disk, lists, logins, network, process

ROWS = sorted(
    [
        *process.ROWS,
        *disk.ROWS,
        *database.ROWS,
        *connections.ROWS,
        *network.ROWS,
        *clock.ROWS,
        *logins.ROWS,
        *lists.ROWS,
    ],
    key=lambda row: row.number,
)
"""All rows, ordered by number."""
