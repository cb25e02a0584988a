# Needs Python 3.11 or 3.12 and make; everything else goes into .venv beside this file.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-live test test-fast prove lint check notebooks lock audit down clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)
UV ?= uv
PIP_AUDIT ?= pip-audit
BANDIT ?= bandit
VENV := .venv
BIN := $(VENV)/bin
# A virtual environment contains its own path, so the stamp names it: a moved or copied checkout is set up again.
STAMP := $(VENV)/.set-up-$(shell printf %s "$(CURDIR)" | cksum | cut -d' ' -f1)
DEMO_HOME ?= data/demo
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

help:  ## Say what each target does
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(STAMP)  ## Make .venv and install the locked packages and the project into it

$(STAMP): requirements-dev.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or 3.12 with venv is needed and none was found on PATH: install it (on Debian: python3.11 and python3-venv), or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@[ -e $@ ] || rm -rf $(VENV)
	@[ -d $(VENV) ] || { echo "Setting up $(VENV): a few minutes the first time"; "$(PYTHON)" -m venv $(VENV); }
	$(PIP) install --quiet --require-hashes --requirement requirements-dev.lock
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup  ## From nothing to a scored race, on a simulated season, under DEMO_HOME (default data/demo)
	VELO_HOME="$(DEMO_HOME)" $(BIN)/velo demo

demo-live: setup  ## The same on a new store, then a race day at 30 times the pace, at the desk
	VELO_HOME="$(DEMO_HOME)-live" $(BIN)/velo demo --live

down: setup  ## Stop what the demo started
	VELO_HOME="$(DEMO_HOME)" $(BIN)/velo down

PYTEST = $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Nearly half of a test's time is waiting: for a process, a server, a browser, a clock. Two more workers than cores use it.
TWO_MORE = $$($(BIN)/python -c 'import os; print(2 + (os.cpu_count() or 1))')

test: setup  ## Run every test but the long proofs, on as many as four workers
	$(PYTEST) --numprocesses $(TWO_MORE)

test-fast: setup  ## Run the unit tests and the quick integration tests: a minute and a half
	$(PYTEST) -m "not slow" tests/unit tests/integration

# The proofs of one file take most of the time, so they are spread over the workers.
prove: setup  ## Run the long proofs: a kill at each visible write of each command
	$(PYTEST) --numprocesses $(TWO_MORE) --dist load -m prove

lint: setup  ## ruff, mypy --strict and the import contracts
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

check: lint test  ## What guards a change: lint, then test

notebooks: setup  ## Run the notebooks and write their pages in docs/notebooks again
	@for notebook in docs/notebooks/*.ipynb; do place=$$(mktemp -d) \
	&& (cd "$$place" && "$(CURDIR)/$(BIN)/python" "$(CURDIR)/docs/notebooks/run.py" "$(CURDIR)/$$notebook" > page.md) \
	&& mv "$$place/page.md" "$${notebook%.ipynb}.md" && rm -rf "$$place" || exit 1; done

lock:  ## Resolve the lock files again (needs uv); add UPGRADE=1 to take newer versions
	@command -v "$(UV)" >/dev/null || { echo "make lock needs uv: pip install uv, or say make lock UV=/path/to/uv" >&2; exit 2; }
	$(UV) pip compile $(LOCK_OPTIONS) --output-file requirements.lock pyproject.toml
	$(UV) pip compile $(LOCK_OPTIONS) --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml

LOCK_OPTIONS = --quiet $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock"

audit:  ## Look up the locked packages among known advisories, and the code for known mistakes (needs pip-audit and bandit)
	@for tool in "$(PIP_AUDIT)" "$(BANDIT)"; do command -v "$$tool" >/dev/null \
	|| { echo "make audit needs $$tool: pip install pip-audit bandit, or say make audit PIP_AUDIT=/path BANDIT=/path" >&2; exit 2; }; done
	"$(BANDIT)" --quiet --configfile pyproject.toml --recursive $(PACKAGES)
	"$(PIP_AUDIT)" --strict --disable-pip --require-hashes --requirement requirements.lock

PACKAGES = velo feature_repo streams training serving benchmarks docs/examples

clean:  ## Remove .venv and caches; data stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
