# Each target works alone on a machine that has Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Extra arguments: make test ARGS="tests/unit -k journal"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test prove fuzz chaos power-loss soak bench lint format clean

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml falconq_cluster/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed and $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: $(VENV)/.installed ## A local cluster of three nodes with a small demo; Ctrl-C stops it
	$(BIN)/falconq dev up --demo $(ARGS)

test: $(VENV)/.installed ## Lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ARGS)

prove: $(VENV)/.installed ## The simulation for SECONDS (default an hour), from seed FROM on
	$(BIN)/python -m tests.sim --seeds $(or $(FROM),1)-$$(( $(or $(FROM),1) + 1000000 )) --jobs 2 --seconds $(or $(SECONDS),3600)

fuzz: $(VENV)/.installed ## Requests from the OpenAPI document for SECONDS (default 600) by SEED, into docs/fuzz.md
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1) --write

chaos: $(VENV)/.installed ## Every experiment for SECONDS (default 120) on a local cluster; needs root
	for group in mesh/i mesh/n mesh/p mesh/s mesh/t disk/; do \
	  $(BIN)/python -m chaos run chaos/$$group*.yaml --seconds $(or $(SECONDS),120) \
	    --target "chaos-run/$$(echo $$group | tr -d /)" $(ARGS) || exit 1; done

power-loss: $(VENV)/.installed ## All nodes lose power at once TIMES times (default 100), unsynced data is dropped; needs root
	$(BIN)/python -m chaos run chaos/disk/power-loss.yaml --times $(or $(TIMES),100) --target chaos-run/power-loss $(ARGS)

soak: $(VENV)/.installed ## A mixed load of all features for SECONDS (default 600) on nodes that are killed, into docs/soak.md
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600) --write $(ARGS)

bench: $(VENV)/.installed ## Figures of a local cluster, into docs/performance.md
	$(BIN)/python -m bench.run --write $(ARGS)

lint: $(VENV)/.installed ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## Lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what was made, also the data of the local cluster
	rm -rf $(VENV) .venv-tools build dist falconq-data .hypothesis .mypy_cache .pytest_cache .ruff_cache
