"""From version 2 to 3: the commit mark, a clearer name for a row, and known addresses."""

from jelly.migrations.step import Step, add_to_meta

STATEMENTS: tuple[Step, ...] = (
    "UPDATE meta SET name = 'indexed' WHERE name = 'filed'",
    add_to_meta("mark", 0),
    "CREATE TABLE IF NOT EXISTS known_addresses (username VARCHAR(32) NOT NULL, network VARCHAR(64) NOT NULL, "
    "used BIGINT NOT NULL, PRIMARY KEY (username, network))",
    "CREATE INDEX known_addresses_by_use ON known_addresses (used)",
)
