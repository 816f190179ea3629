# Two commands: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2
ARGS   ?=

.PHONY: help run test lint type bench bench-gpu report clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

run: $(READY) ## the default run: a winning ticket on handwritten digits; more with ARGS="levels=10"
	$(BIN)/python -m lth.run $(ARGS)

test: lint type ## everything that CI checks: ruff, mypy, pytest
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(READY) ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## the benchmarks (DATA=a folder with MNIST for all of them); JSON in benchmarks/results/
	$(BIN)/python -m benchmarks.cohort --json benchmarks/results/cohort.json
	$(BIN)/python -m benchmarks.level --json benchmarks/results/level.json $(if $(DATA),--data $(DATA))
	$(if $(DATA),$(BIN)/python -m benchmarks.experiment --json benchmarks/results/experiment.json --data $(DATA))

bench-gpu: $(READY) ## network-updates per second on a GPU
	$(BIN)/python -m benchmarks.gpu --json benchmarks/results/gpu.json

report: $(READY) ## the report of every run in results/
	$(BIN)/python -m analysis.report results $(ARGS)

clean: ## remove the environment and caches; results stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
