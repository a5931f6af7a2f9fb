PYTHON ?= python3
VENV   := .venv

# On every core; a worker that has nothing left to do takes tests from the others.
PYTEST := -m pytest -n auto --dist worksteal

# What counts allocations means nothing where it is traced. The bugs that are put into the simulation run no more of
# the code than its worlds without them, and tracing makes them ten times slower.
TRACED := -m 'not allocations' --deselect tests/test_simulation.py::test_a_bug_is_found

.PHONY: test test-mysql check lint coverage clean

test: $(VENV)/installed
	$(VENV)/bin/python $(PYTEST)

# The tests that need MariaDB, on MySQL: the server that JELLY_MYSQLD names, or one from Debian's unstable, which is
# fetched into ~/.cache/jelly once. (Its folder has `mysqldump`, too.)
test-mysql: $(VENV)/installed
	mysqld="$${JELLY_MYSQLD:-$$($(VENV)/bin/python -m faults.mysql)}" && \
	PATH="$$(dirname "$$mysqld"):$$PATH" JELLY_MYSQLD="$$mysqld" $(VENV)/bin/python $(PYTEST) -m mariadb

check: lint coverage

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

coverage: $(VENV)/installed
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run $(PYTEST) $(TRACED)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage json --quiet
	$(VENV)/bin/python tests/coverage_gate.py coverage.json

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[mysql,test]'
	touch $@

clean:
	rm -rf $(VENV) .coverage coverage.json
