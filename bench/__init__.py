"""The benchmark: how many messages a second, how late, and what each costs the server.

    python -m bench --help

`scenarios.py` says what is done to the server, `generator.py` is the process that does it, with the clients in
`clients.py`; `verify.py` checks every message; `meter.py` reads what it cost; `runs.py` starts servers and generators;
`table.py` prints. `compare.py`, `soak.py` and `profile.py` (with `named.py`) answer which of two versions is faster,
whether memory grows, and where the time goes. docs/performance.md says how to read the numbers.
"""
