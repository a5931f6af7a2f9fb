"""The fault harness: it breaks the server, its database, its disk, its line and its clock, and counts what comes out.

    python -m faults --help

`checker.py` compares what was sent with what arrived; `load.py` has the users who write to each other; `server.py`
starts the server with a defect, for the controls; `rows/` holds the faults; `__main__.py` prints the table.
docs/guarantees.md says how it works and what it found.
"""
