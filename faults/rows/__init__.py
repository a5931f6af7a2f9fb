"""The faults, grouped by what they break."""

from faults.rows import clock, connections, database, disk, logins, network, process

ROWS = sorted(
    [*process.ROWS, *disk.ROWS, *database.ROWS, *connections.ROWS, *network.ROWS, *clock.ROWS, *logins.ROWS],
    key=lambda row: row.number,
)
"""All rows, ordered by number."""
