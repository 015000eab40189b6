# `make demo` sets everything up and runs the whole pipeline; `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BENCHMARKS := confusion scan_and_pack input_pipeline training_step data_bound_training loop_overhead \
  openmp_spin crf label_audit

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-long lint format bench bench-evaluation bench-serving bench-gpu clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(BIN)/.installed ## Create .venv and install the pinned dependencies

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
	  { echo "segops needs Python 3.11.4 or later; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing the pinned dependencies into .venv (about 7 GB, mostly torch's CUDA libraries)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## Run validation, augmentation, training, evaluation and the gate on the sample
	@test -d data/voc || dvc pull --quiet --remote sample data/voc.dvc
	@segops run

test: install ## Run the tests, but for the slow ones
	@$(BIN)/python -m pytest -m "not slow and not long" $(PYTEST_ARGS)

test-slow: install ## Run the tests that take longest
	@$(BIN)/python -m pytest -m "slow and not long" $(PYTEST_ARGS)

test-long: install ## Run the tests that CI leaves out; PYTEST_ARGS names a family's file
	@$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

lint: install ## Check style, types and the import contracts
	@ruff check . && ruff format --check . && mypy && lint-imports

format: install ## Format the code
	@ruff check --fix . ; ruff format .

bench: install ## Run the benchmarks that need no GPU
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-evaluation: install ## Measure the whole evaluation against prediction alone (15 minutes)
	@$(BIN)/python -m benchmarks.evaluation

bench-serving: install ## Measure segops serve beside MLflow's server; needs a champion (20 minutes)
	@$(BIN)/python -m benchmarks.serving

bench-gpu: install ## Measure all that a GPU has to show, in a few minutes
	@$(BIN)/python -m benchmarks.gpu --json bench-gpu.json

clean: ## Remove outputs and caches; keeps .venv, data, mlflow.db, mlartifacts and the ledger
	@rm -rf .segops code models metrics plots reports data/packed data/facts.parquet data/verdict.json \
	  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src flows tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
