# The two commands of the README are `make demo` and `make test`; each installs what it needs first.
SYSTEM_PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PYTHON := $(VENV)/bin/python
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2
PYTEST := $(PYTHON) -m pytest -q --numprocesses $(WORKERS) --dist worksteal

.PHONY: demo test slow check fix lint types imports docs bench train-demo clean

demo: $(VENV)/.base
	$(VENV)/bin/steerkit demo

test: $(VENV)/.test
	$(PYTEST)

slow: $(VENV)/.test
	$(PYTEST) -m slow

check: lint types imports test

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy

imports: $(VENV)/.dev
	$(VENV)/bin/lint-imports

fix: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.test
	$(PYTHON) -m benchmarks

train-demo: $(VENV)/.base
	$(PYTHON) -m steerkit.demo.training --seed 0 --out demo-model

clean:
	rm -rf $(VENV) .venv-peers steerkit-demo docs/_build docs/notebooks docs/reference/generated

$(PYTHON):
	$(SYSTEM_PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(PYTHON)
	@echo "Installing steerkit into $(VENV) (once, about two minutes) ..."
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.%: pyproject.toml constraints.txt | $(PYTHON)
	@echo "Installing steerkit[$*] into $(VENV) (once, about two minutes) ..."
	@$(INSTALL) --editable '.[$*]'
	@touch $@ $(VENV)/.base
