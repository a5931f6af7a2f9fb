PYTHON ?= python3
VENV   := .venv

.PHONY: test check clean

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[mysql,test]'
	touch $@

clean:
	rm -rf $(VENV)
