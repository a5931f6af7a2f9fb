"""The fault harness: breaks the server, its database, disk, network and clock; counts the damage.

    python -m faults --help

checker.py   compares the messages that were sent with those that arrived
load.py      the users who write to each other
server.py    starts the server with a defect, for the controls
rows/        the faults
__main__.py  runs the faults and prints the table

docs/guarantees.md says how it works and what it has found.
"""
