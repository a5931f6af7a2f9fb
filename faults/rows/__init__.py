"""The faults, grouped by what they break."""

import itertools

from faults.rows import (
    clock,
    connections,
    database,
    disk,
    lists,
    logins,
    network,
    node_database,
    node_hints,
    node_users,
    nodes,
    process,
)

GROUPS = (
    process,
    disk,
    database,
    connections,
    lists,
    network,
    clock,
    logins,
    nodes,
    node_users,
    node_hints,
    node_database,
)
ROWS = sorted(
    itertools.chain.from_iterable(group.ROWS for group in GROUPS),
    key=lambda row: row.number,
)
"""All rows, ordered by number."""
