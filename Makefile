# `make up` is all that a first look needs; `make help` lists the rest.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup up test test-engine test-e2e test-clients check lock lock-check bench-index bench-restart bench-prefix bench-calibration bench-decisions bench-calibration-cpu bench-compare bench-compare-real bench-overhead bench-routers bench-spread clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PATHS := rhizome router workers cluster loadtest tests
PYTEST := $(BIN)/python -m pytest

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv from the locks (about two minutes; nothing to do later)

$(READY): requirements/torch-cpu-lock.txt requirements/cpu-lock.txt pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" bash tools/setup.sh $(VENV)
	@touch $@

up: setup ## Run the demonstration cluster in the foreground (Ctrl-C ends it)
	@$(BIN)/rhizome up

test: setup ## Fast suite: units, properties, contracts, and integration on real servers
	@$(PYTEST) -q -m "not engine and not e2e and not clients"

test-engine: setup ## Tests that start real vLLM engines
	@$(PYTEST) -q -m engine

test-e2e: setup ## Tests against a whole running cluster
	@$(PYTEST) -q -m e2e

test-clients: setup ## Other projects' clients against the router (installs them when first run)
	@$(PYTEST) -q -m clients

check: setup ## Lint, format, types, import contracts, the tree's own rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST) -q tests/meta

lock: ## Write the lock files in requirements/ anew (see tools/lock.sh)
	@bash tools/lock.sh

lock-check: ## Whether the CUDA lock still resolves; installs nothing
	@bash tools/lock.sh --check

bench-index: setup ## Measure the prefix index
	@$(BIN)/python -m tools.bench_index $(ARGS)

bench-decisions: setup ## Measure what explaining decisions, shadow policies and keys cost
	@$(BIN)/python -m tools.bench_decisions

bench-restart: setup ## Measure how soon a restarted router knows its workers' caches again
	@$(BIN)/python -m tools.bench_restart $(ARGS)

bench-calibration: setup ## Simulated against published and logged timings (docs/calibration.md)
	@$(BIN)/python -m tools.bench_calibration

bench-calibration-cpu: setup ## Simulated against real vLLM on this machine (ten minutes)
	@$(BIN)/python -m tools.bench_calibration --cpu

bench-prefix: setup ## Measure a second turn on the right and on a wrong worker (needs `make up`)
	@$(BIN)/python -m tools.bench_affinity

bench-compare: setup ## Compare Rhizome with other routers on simulated workers (15 minutes)
	@$(BIN)/python -m loadtest.comparison $(ARGS)

bench-compare-real: setup ## The same on three real vLLM workers on the CPU (15 minutes)
	@$(BIN)/python -m loadtest.comparison --engine vllm --block-size 32 --workers 3 --speed 1 --max-model-len 4096 --workload shared-prefixes --duration-s 5 --warmup-s 2 --repeats 3 --name real-vllm $(ARGS)

bench-overhead: setup ## CPU per request and token beside other routers (ten minutes; --help for more)
	@$(BIN)/python -m loadtest.overhead $(ARGS)

bench-routers: setup ## Three routers that tell each other of their load beside one, simulated (ten minutes of CPU)
	@$(BIN)/python -m tools.bench_routers $(ARGS)

bench-spread: setup ## How load and hot prefixes spread over simulated workers (five minutes of CPU)
	@$(BIN)/python -m loadtest.spread $(ARGS)

clean: ## Remove .venv, builds and caches
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(PATHS) -name __pycache__ -type d -prune -exec rm -rf {} +
